"""What a compiled program says of itself: its collectives, and the compiler's count of cycles.

Read from XLA's text of the optimised module. An instruction counts as often as the loops that it
stands in turn: a scanned layer stands there once.
"""

from __future__ import annotations

import math
import re
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

OPERATIONS = ("all-gather", "all-reduce", "reduce-scatter", "collective-permute", "all-to-all")
_BYTES = {"pred": 1, "s8": 1, "u8": 1, "bf16": 2, "f16": 2, "s16": 2, "u16": 2}
_BYTES |= {"f32": 4, "s32": 4, "u32": 4, "f64": 8, "s64": 8, "u64": 8}
# Between slices a collective is the send and receive of what one device has of it.
_COLLECTIVE = re.compile(
    rf"= (.*?) (?:({'|'.join(OPERATIONS)})(?:-start)?\(|send\(.*_xla_megascale_transfer_type="
    r"\"(\w+)\")"
)
_HEAD = re.compile(r"^(ENTRY )?%?([\w.\-]+) \(.*\{\s*$")
_CALLED = re.compile(
    r"(?:calls|to_apply|condition|body|called_computations|branch_computations)="
    r"(\{[^}]*\}|%[\w.\-]+)"
)


@dataclass(frozen=True)
class Collective:
    """One collective of a program, as one device sees it."""

    operation: str
    """One of OPERATIONS; an all-reduce of which each device keeps its part is a reduce-scatter."""
    axes: tuple[str, ...]
    """Mesh axes along which its devices differ, in the mesh's order."""
    shapes: tuple[tuple[int, ...], ...]
    """Of what it gives."""
    wire_bytes: float
    """That one device sends at each turn, by the ring algorithm."""
    times: int
    """Turns in one step."""
    hidden: bool
    """It is begun, and waited for later: other work runs beside it."""


def collectives(text: str, mesh: Mapping[str, int], dynamic_trips: int = 1) -> list[Collective]:
    """Every collective of the module `text`, in its order.

    Args:
      text: of an optimised HLO module, for all devices of a mesh.
      mesh: devices along each of its axes, in the order in which the program numbers them.
      dynamic_trips: turns of a loop whose number is not in the program (our micro-batches).
    """
    bodies = _computations(text)
    times = _multiplicities(bodies, dynamic_trips)
    found: dict[object, Collective] = {}
    for name, lines in bodies.items():
        beside = any("AsyncCollective" in line for line in lines)
        for line in lines:
            match = _COLLECTIVE.search(line)
            if match is None or not times[name]:
                continue
            one = _collective(line, match, name, mesh, times[name], beside)
            # A collective that is under way beside others is written once for each of them. Those
            # that the compiler has joined may share a channel, and differ in shapes.
            channel = re.search(r"channel_id=(\d+)", line)
            key = (channel[1], one.operation, one.shapes) if channel else (name, line)
            if key not in found or found[key].times < one.times:
                found[key] = one
    return list(found.values())


def program_facts(text: str, mesh: Mapping[str, int], dynamic_trips: int) -> dict[str, Any]:
    """What `gpt-jax plan` keeps of a program, ready for JSON: sums of collectives, and cycles."""
    sums: dict[tuple[str, tuple[str, ...], bool], list[float]] = {}
    for one in collectives(text, mesh, dynamic_trips):
        entry = sums.setdefault((one.operation, one.axes, one.hidden), [0, 0.0])
        entry[0] += one.times
        entry[1] += one.wire_bytes * one.times
    found = [
        {
            "operation": operation,
            "axes": list(axes),
            "hidden": hidden,
            "times": times,
            "wire_bytes": sent,
        }
        for (operation, axes, hidden), (times, sent) in sums.items()
        if axes
    ]
    products, others = cycles(text, dynamic_trips)
    return {"collectives": found, "product_cycles": products, "other_cycles": others}


def memory_bytes(report: str) -> int:
    """Bytes of a device's memory by the compiler's own report, beside the buffers it assigned."""
    found = re.search(r"Memory Space: default.*?\nTotal bytes: (\d+)", report, re.DOTALL)
    assert found is not None, report[:300]
    return int(found[1])


def cycles(text: str, dynamic_trips: int = 1) -> tuple[int, int]:
    """The compiler's estimates for one step, of matrix products and of all other work.

    It has none for kernels and collectives. Those of large products are 2 to 14 % over the ideal;
    those of elementwise work are two and a half to four times too high.
    """
    bodies = _computations(text)
    times = _multiplicities(bodies, dynamic_trips)
    pattern = re.compile(r'"estimated_cycles":"(\d+)"')
    fused = {called for lines in bodies.values() for line in lines for called in _fusions(line)}
    product = re.compile(r" (?:convolution|dot)\(")

    def multiplies(line: str) -> bool:
        return bool(product.search(line)) or any(
            multiplies(inner) for called in _fusions(line) for inner in bodies.get(called, [])
        )

    sums = {True: 0, False: 0}
    for name, lines in bodies.items():
        for line in lines if name not in fused else []:
            if match := pattern.search(line):
                sums[multiplies(line)] += times[name] * int(match[1])
    return sums[True], sums[False]


def _fusions(line: str) -> list[str]:
    return re.findall(r" fusion\(.*calls=%?([\w.\-]+)", line)


def _computations(text: str) -> dict[str, list[str]]:
    """The instructions of each computation by its name; "" is another name for the entry's."""
    bodies: dict[str, list[str]] = {}
    lines: list[str] | None = None
    for line in text.splitlines():
        head = _HEAD.match(line)
        if head:
            lines = bodies.setdefault(head[2], [])
            if head[1]:
                bodies[""] = [f"calls=%{head[2]}"]
        elif line.rstrip() == "}":
            lines = None
        elif lines is not None:
            lines.append(line)
    return bodies


def _multiplicities(bodies: dict[str, list[str]], dynamic_trips: int) -> dict[str, int]:
    """How often each computation runs in one call of the entry."""
    callers: dict[str, list[tuple[str, int]]] = defaultdict(list)
    for name, lines in bodies.items():
        for line in lines:
            loop = re.search(r"condition=%?([\w.\-]+), body=%?([\w.\-]+)", line)
            turns = _trips(line, bodies.get(loop[1], []), dynamic_trips) if loop else 1
            for called in _CALLED.findall(line):
                for callee in re.findall(r"%([\w.\-]+)", called):
                    callers[callee].append((name, turns))
    times: dict[str, int] = {"": 1}

    def count(name: str) -> int:
        if name not in times:
            times[name] = sum(count(caller) * turns for caller, turns in callers[name])
        return times[name]

    return {name: count(name) for name in bodies}


def _trips(line: str, condition: list[str], dynamic_trips: int) -> int:
    known = re.search(r'known_trip_count"?:\{"?n"?:"?(\d+)', line)
    if known:
        return int(known[1])
    constants = [int(n) for line in condition for n in re.findall(r" constant\((\d+)\)", line)]
    return max(constants) if constants else dynamic_trips


def _collective(
    line: str,
    match: re.Match[str],
    computation: str,
    mesh: Mapping[str, int],
    times: int,
    beside: bool,
) -> Collective:
    arrays = re.findall(r"\b(\w+)\[([\d,]*)\]", match[1])
    if between_slices := match[3]:
        arrays = arrays[:1]  # the others are of the transfer itself
    elif "-start(" in match[0] and match[1].startswith("("):
        # What goes in, what comes out, and for a permute two numbers of the transfer.
        if match[2] == "collective-permute":
            arrays = arrays[1:2]
        elif match[2] != "all-reduce":
            arrays = arrays[len(arrays) // 2 :]
    shapes = tuple(tuple(_numbers(dims)) for _, dims in arrays)
    size = sum(
        _BYTES.get(kind, 4) * math.prod(dims)
        for (kind, _), dims in zip(arrays, shapes, strict=True)
    )
    groups = device_groups(line, math.prod(mesh.values()))
    if between_slices:
        slices = mesh["slice"]
        groups = np.arange(math.prod(mesh.values())).reshape(slices, -1).T.tolist()
    ring = max(len(group) for group in groups)
    share = (ring - 1) / ring
    operation = match[2] or between_slices.lower().replace("_", "-")
    if operation == "all-reduce" and "all-reduce-scatter" in computation:
        operation, wire = "reduce-scatter", size * share
    else:
        wire = {
            "all-gather": size * share,
            "all-reduce": 2 * size * share,
            "reduce-scatter": size * (ring - 1),
            "collective-permute": size,
            "all-to-all": size * share,
        }.get(operation, size)
    crossed = set().union(*(crossed_axes(group, mesh) for group in groups))
    axes = tuple(axis for axis in mesh if axis in crossed)
    hidden = beside or "-start(" in match[0] or between_slices is not None
    return Collective(operation, axes, shapes, wire, times, hidden)


def crossed_axes(group: list[int], mesh: Mapping[str, int]) -> set[str]:
    """The mesh axes along which the devices of a group differ."""
    places = np.array(np.unravel_index(group, list(mesh.values())))
    return {axis for axis, place in zip(mesh, places, strict=True) if len(set(place)) > 1}


def device_groups(line: str, devices: int) -> list[list[int]]:
    """The groups of devices of a collective, by their places in the mesh: XLA has four ways."""
    if pairs := re.search(r"source_target_pairs=\{(.*?)\}\}", line):
        return [[int(n) for n in pair] for pair in re.findall(r"(\d+),(\d+)", pairs[1])]
    if listed := re.search(r"replica_groups=\{(\{.*?\})\}", line):
        return [_numbers(group) for group in re.findall(r"\{([\d,]+)\}", listed[1])]
    mesh = r"replica_groups=mesh\[(.*?)\](?:, device_ids=\(\[(.*?)\](?:T\((.*?)\))?\))? \{(.*?)\}"
    if named := re.search(mesh, line):
        sizes = {name: int(size) for name, size in re.findall(r"'(\w+)'=(\d+)", named[1])}
        along = re.findall(r"'(\w+)'", named[4])
        order = _turned(named[2] or str(devices), named[3]).reshape(list(sizes.values()))
        last = [list(sizes).index(name) for name in along]
        first = [axis for axis in range(len(sizes)) if axis not in last]
        size = math.prod(sizes[name] for name in along)
        return order.transpose(first + last).reshape(-1, size).tolist()
    tiled = re.search(r"replica_groups=\[([\d,]+)\]<=\[([\d,]+)\](?:T\(([\d,]+)\))?", line)
    if tiled is None:  # of all devices
        return [list(range(devices))]
    return _turned(tiled[2], tiled[3]).reshape(_numbers(tiled[1])).tolist()


def _numbers(text: str) -> list[int]:
    return [int(n) for n in text.split(",") if n]


def _turned(shape: str, axes: str | None) -> np.ndarray:
    """All devices in an order that XLA states as a shape and its transposition."""
    sizes = _numbers(shape)
    devices = np.arange(math.prod(sizes)).reshape(sizes)
    return devices.transpose(_numbers(axes)) if axes else devices
