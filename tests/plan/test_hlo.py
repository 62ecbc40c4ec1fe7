"""Collectives and cycles read from XLA's text, against lines written out and sums done by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from gpt_jax.plan import hlo

MESH = {"data": 2, "fsdp": 4}

MODULE = """HloModule step

%fused_gather (param: bf16[8]) -> bf16[32] {
  %product = bf16[8]{0} convolution(%param, %param), window={size=1x16}
  %start = bf16[32]{0} custom-call(%param), custom_call_target="AsyncCollectiveStart"
  %all-gather.1 = bf16[32]{0:T(8,128)(2,1)} all-gather(%param), channel_id=1, \
replica_groups=mesh['axis_0'=4,'axis_1'=2], device_ids=([2,4]T(1,0)) {'axis_0'}, dimensions={0}
}

%all-reduce-scatter.2 (input: bf16[32]) -> bf16[8] {
  %all-reduce.3 = bf16[32]{0} all-reduce(%input), channel_id=2, \
replica_groups={{0,1,2,3},{4,5,6,7}}, to_apply=%add
}

%layer (state: (s32[], bf16[8])) -> (s32[], bf16[8]) {
  %start = bf16[32]{0} fusion(%state), kind=kCustom, calls=%fused_gather, \
backend_config={"estimated_cycles":"100"}
  %kernel = bf16[32]{0} custom-call(%state), custom_call_target="x", metadata={op_name="
}}, metadata={op_name="a kernel whose text breaks the line"}
  %done = bf16[32]{0} fusion(%state), kind=kCustom, calls=%fused_gather.clone
  %scatter = bf16[8]{0} fusion(%done), kind=kCustom, calls=%all-reduce-scatter.2
}

%fused_gather.clone (param: bf16[8]) -> bf16[32] {
  %all-gather.4 = bf16[32]{0} all-gather(%param), channel_id=1, replica_groups=[2,4]<=[8]
}

%condition (state: (s32[], bf16[8])) -> pred[] {
  %limit = s32[]{:T(128)} constant(12)
}

%of_micro_batches (state: (s32[], s32[])) -> pred[] {
  %less = pred[] compare(%i, %n), direction=LT
}

%micro_batch (state: (s32[], s32[])) -> (s32[], s32[]) {
  %layers = (s32[], bf16[8]) while(%init), condition=%condition, body=%layer
  %sums = (f32[4]{0}, f32[]) all-reduce(%a, %b), channel_id=5, \
replica_groups={{0,4},{1,5},{2,6},{3,7}}
}

ENTRY %main (batch: s32[4]) -> f32[] {
  %batches = (s32[], s32[]) while(%start), condition=%of_micro_batches, body=%micro_batch
  %update = f32[] fusion(%batches), kind=kLoop, calls=%x, backend_config={"estimated_cycles":"7"}
}
"""


def test_a_collective_counts_as_often_as_its_loops_turn():
    """Of 3 micro-batches and 12 layers; what is under way beside others is written twice."""
    found = hlo.collectives(MODULE, MESH, dynamic_trips=3)
    assert [(one.operation, one.axes, one.times, one.hidden) for one in found] == [
        ("all-gather", ("fsdp",), 36, True),
        ("reduce-scatter", ("fsdp",), 36, False),
        ("all-reduce", ("data",), 3, False),
    ]
    gather, scatter, reduce = (one.wire_bytes for one in found)
    # A ring of 4 passes on 3 of 4 parts of 64 bytes; a sum of 2 goes there and back.
    assert (gather, scatter, reduce) == (48, 48, 2 * (16 + 4) / 2)
    assert found[2].shapes == ((4,), ())


@pytest.mark.parametrize(
    ("line", "wire"),
    [
        ("(f32[128], f32[256]) all-gather-start(%x), replica_groups={{0,1}}", 512),
        ("(f32[256], f32[128]) reduce-scatter-start(%x), replica_groups={{0,1}}", 512),
        (
            "(f32[512], f32[512], u32[], u32[]) collective-permute-start(%x), "
            "source_target_pairs={{0,1},{1,0}}",
            2048,
        ),
        ("f32[128] all-reduce-start(%x), replica_groups={{0,1}}", 512),
        ("(f32[64], f32[64]) all-reduce-start(%x, %y), replica_groups={{0,1}}", 512),
    ],
)
def test_what_is_begun_and_ended_later_counts_once(line, wire):
    """XLA's pairs name what goes in and what comes out; only one of them crosses."""
    text = f"ENTRY %main (x: f32[128]) -> f32[128] {{\n  %s = {line}, channel_id=1\n}}\n"
    (one,) = hlo.collectives(text, {"data": 2})
    assert (one.wire_bytes, one.hidden) == (wire, True)


def test_what_goes_from_slice_to_slice_is_a_send():
    """XLA's text for two slices of four: a device's part of 512 bytes, there and back by halves."""
    text = """ENTRY %main (x: f32[1,1,128]) -> f32[1,1,128] {
  %send.1 = (f32[1,1,128]{2,1,0}, u32[], token[]) send(%x, %after-all.1), channel_id=5, \
is_host_transfer=true, frontend_attributes={_xla_host_transfer_rendezvous="all-reduce.46_0",\
_xla_megascale_target="{1,2}x{0:3}",_xla_megascale_transfer_type="ALL_REDUCE"}
  %recv.1 = (f32[1,1,128]{2,1,0}, u32[], token[]) recv(%after-all.1), channel_id=4
}
"""
    (one,) = hlo.collectives(text, {"slice": 2, "data": 4})
    assert (one.operation, one.axes, one.shapes) == ("all-reduce", ("slice",), ((1, 1, 128),))
    assert (one.wire_bytes, one.times) == (512, 1)


def test_cycles_count_as_often_too():
    assert hlo.cycles(MODULE, dynamic_trips=3) == (36 * 100, 7)


def test_facts_are_sums_by_operation_and_axes():
    facts = hlo.program_facts(MODULE, MESH, 3)
    assert (facts["product_cycles"], facts["other_cycles"]) == (3600, 7)
    assert facts["collectives"][0] == {
        "operation": "all-gather",
        "axes": ["fsdp"],
        "hidden": True,
        "times": 36,
        "wire_bytes": 36 * 48,
    }


@pytest.mark.parametrize(
    ("line", "groups"),
    [
        ("source_target_pairs={{0,1},{1,0}}", [[0, 1], [1, 0]]),
        ("replica_groups={{0,1},{2,3}}, x={}", [[0, 1], [2, 3]]),
        ("replica_groups=[2,2]<=[4]", [[0, 1], [2, 3]]),
        ("replica_groups=[2,2]<=[2,2]T(1,0)", [[0, 2], [1, 3]]),
        ("replica_groups=mesh['a'=2,'b'=2] {'a'}", [[0, 2], [1, 3]]),
        ("replica_groups=mesh['a'=2,'b'=2], device_ids=([2,2]T(1,0)) {'a'}", [[0, 1], [2, 3]]),
        ("replica_groups={}", [[0, 1, 2, 3]]),
    ],
)
def test_groups_of_devices_in_each_way_of_writing_them(line, groups):
    assert hlo.device_groups(line, 4) == groups


def test_crossed_axes_are_those_along_which_places_differ():
    assert hlo.crossed_axes([0, 1, 2, 3], MESH) == {"fsdp"}
    assert hlo.crossed_axes([1, 5], MESH) == {"data"}
    assert hlo.crossed_axes([0, 5], MESH) == {"data", "fsdp"}


def test_a_program_of_eight_devices():
    """A gather that we ask for: 8 x 16 float32, split over fsdp, within a scan of 5."""
    types = (AxisType.Auto,) * 2
    mesh = jax.make_mesh(tuple(MESH.values()), tuple(MESH), types, devices=jax.devices())
    split = NamedSharding(mesh, PartitionSpec("fsdp"))

    def turn(x, _):
        whole = jax.lax.with_sharding_constraint(jnp.sin(x), NamedSharding(mesh, PartitionSpec()))
        return jax.lax.with_sharding_constraint(jnp.cos(whole @ whole.T) @ whole, split), None

    run = jax.jit(lambda x: jax.lax.scan(turn, x, None, length=5)[0], out_shardings=split)
    shape = jax.ShapeDtypeStruct((8, 16), np.float32, sharding=split)
    found = hlo.collectives(run.lower(shape).compile().as_text(), MESH)
    gathers = [one for one in found if one.operation == "all-gather"]
    assert {one.axes for one in found} == {("fsdp",)}
    assert [(one.times, one.wire_bytes) for one in gathers] == [(5, 8 * 16 * 4 * 3 / 4)]


def test_the_compiler_s_memory_report():
    report = "Memory Space: vmem (color=1)\nTotal bytes: 5 (5B)\n"
    report = f"Memory Space: default (color=0)\nTotal bytes: 9140980736 (8.51GiB)\n  x\n{report}"
    assert hlo.memory_bytes(report) == 9140980736
