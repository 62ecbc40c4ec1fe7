"""What an experiment is planned for: slices of Cloud TPU, or the devices that are here."""

from __future__ import annotations

import math
import os
import time
from dataclasses import dataclass
from typing import Any

from gpt_jax.chips import Chip, Slice, find_slice, peak_flops, slices
from gpt_jax.config import require

LOCAL = "local"


@dataclass(frozen=True)
class Target:
    """So many slices of so many chips."""

    name: str
    chip: Chip
    topology: str
    """Chips along each dimension of a slice."""
    slices: int = 1

    @property
    def slice_chips(self) -> int:
        return math.prod(int(size) for size in self.topology.split("x"))

    @property
    def chips(self) -> int:
        return self.slices * self.slice_chips

    @property
    def is_local(self) -> bool:
        return self.chip.generation == LOCAL

    def described(self) -> str:
        """For the top of a table."""
        if self.is_local:
            return f"{self.chips} x {self.chip.device_kinds[0]}"
        many = f"{self.slices} slices of " if self.slices > 1 else ""
        chips = f"{self.chips:,} chips" if self.chips > 1 else "1 chip"
        return f"{many}{self.name}: {chips}, topology {self.topology}"


def find_target(name: str, num_slices: int = 1) -> Target:
    """`num_slices` slices of a name as `chips.find_slice` takes it, or the devices of "local".

    Raises InputError for a slice that does not exist, or for several of "local".
    """
    require(num_slices >= 1, f"there must be a slice at least, and --slices is {num_slices}.")
    if name == LOCAL:
        require(num_slices == 1, "the devices that are here are no slices: leave out --slices.")
        return local_target()
    part = find_slice(name)
    return of_slice(part, num_slices)


def of_slice(part: Slice, num_slices: int = 1) -> Target:
    return Target(part.name, part.chip, part.topology, num_slices)


def smaller_and_larger(target: Target) -> list[Target]:
    """As many slices of every size that the chip comes in, smallest first."""
    if target.is_local:
        return [target]
    return [of_slice(part, target.slices) for part in slices(target.chip.generation)]


def local_target() -> Target:
    """The devices of this process, their rates measured where no table has them."""
    import jax

    device, count = jax.devices()[0], jax.device_count()
    stats: dict[str, Any] = device.memory_stats() or {}
    memory = stats.get("bytes_limit") or _host_memory() // count
    # All fake devices of a CPU share what the host has.
    share = count if device.platform == "cpu" else 1
    flops, bandwidth = _measured()
    chip = Chip(
        generation=LOCAL,
        device_kinds=(device.device_kind,),
        peak_flops=peak_flops(device.device_kind, "bfloat16") or flops / share,
        hbm_bytes=memory,
        hbm_bandwidth=bandwidth / share,
        ici_link=bandwidth / share / 4,
        dcn=bandwidth / share / 4,
        host_link=bandwidth / share / 4,
        watts=0.0,
        clock=0.0,
        cores=1,
        topologies=(str(count),),
    )
    return Target(LOCAL, chip, str(count))


def _host_memory() -> int:
    """What is free now, in bytes."""
    # macOS tells only what is built in.
    free = "SC_AVPHYS_PAGES" if "SC_AVPHYS_PAGES" in os.sysconf_names else "SC_PHYS_PAGES"
    return os.sysconf(free) * os.sysconf("SC_PAGE_SIZE")


def _measured(size: int = 1024, turns: int = 5) -> tuple[float, float]:
    """(FLOP/s of a square matrix product, bytes/s of adding a number), float32, the best of some.

    Of one device: where it is a part of a CPU, it has all of the CPU's cores while it is alone.
    """
    import jax
    import jax.numpy as jnp

    def best(function: Any, x: Any) -> float:
        run = jax.jit(function)
        run(x).block_until_ready()
        seconds = []
        for _ in range(turns):
            start = time.perf_counter()
            run(x).block_until_ready()
            seconds.append(time.perf_counter() - start)
        return min(seconds)

    square, line = jnp.ones((size, size)), jnp.ones(16 * size * size)
    flops = 2 * size**3 / best(lambda x: x @ x, square)
    return flops, 2 * line.nbytes / best(lambda x: x + 1, line)
