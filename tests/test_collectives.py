"""Training steps exchange gradients and statistics between devices, never examples."""

import json
import os
import subprocess

import pytest
from helpers.processes import ROOT, start_worker

from picjax import hlo

# Method, axis `fsdp` and settings: as few layers as a method can have.
STEPS = {
    "picmm": "picmm:1:model.output_scale=1",
    "picnet": "picnet:1:model.output_scale=1,model.encoder_depth=0,"
    "model.discriminator=patch",
    "inade": "inade:1:model.scales=1,model.patch_layers=2",
    "pix2pix": "pix2pix:1:",
    "painter": "painter:1:",
    "pixelcnn": "pixelcnn:1:",
}
FSDP = "pix2pix:2:"


@pytest.fixture(scope="module")
def counted():
    """Step -> ({kind: [count, bytes]}, bytes of parameters), of one process."""
    env = {"PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'tests'}"}
    process = start_worker(
        "count_collectives", *STEPS.values(), FSDP, env=env, stdout=subprocess.PIPE
    )
    out, error = process.communicate()
    assert process.returncode == 0, error
    return json.loads(out)


@pytest.mark.parametrize("name", STEPS)
def test_steps_sum_gradients_over_devices_and_exchange_nothing_else(name, counted):
    found, params = counted[STEPS[name]]
    assert found.keys() == {"all-reduce"}
    # Every gradient once (a few of pixelcnn's parameters have none); batch statistics and
    # metrics are small.
    assert 0.9 * params <= found["all-reduce"][1] < 2 * params


def test_with_fsdp_steps_gather_parameters_and_exchange_the_smallest_maps_only(counted):
    """XLA's choice where a layer's maps of the whole batch are smaller than its kernel:
    it moves the maps, and no device has to sum the kernel's gradient with others.
    """
    found, params = counted[FSDP]
    assert found.keys() <= {"all-reduce", "all-gather", "all-to-all"}
    assert found["all-reduce"][1] < 2 * params
    assert 0.5 * params < found["all-gather"][1] < 2 * params
    assert found.get("all-to-all", [0, 0])[1] < 0.01 * params


def test_collectives_are_read_from_a_program():
    program = """HloModule jit_step, is_scheduled=true, num_partitions=4, x=1
  %a.1 = f32[8,3]{1,0} all-reduce(%x), replica_groups={{0,1},{2,3}}, to_apply=%add
  %b = (bf16[4]{0}, /*index=1*/f32[]) all-reduce(%y, %z), to_apply=%add
  ROOT %c = u8[16]{0} all-gather(%all-reduce), replica_groups=[2,2]<=[4], dimensions={0}
  %d = f32[2]{0} add(%a, %b)
  %e = f32[2]{0:T(128)} reduce-scatter(%d), replica_groups={}, to_apply=%add
"""
    assert hlo.collectives(program) == {
        "all-reduce": (2, 96 + 12, 96 * 2 * 1 / 2 + 12 * 2 * 3 / 4),
        "all-gather": (1, 16, 16 / 2),
        "reduce-scatter": (1, 8, 8 * 3),
    }


def test_asynchronous_collectives_count_once_and_by_their_results():
    program = """HloModule jit_step, num_partitions=2
  %s = (f32[2,3]{1,0}, f32[4,3]{1,0:T(8,128)S(1)}) all-gather-start(%x), dimensions={0}
  %g = f32[4,3]{1,0} all-gather-done(%s)
  %p = (f32[5]{0}, f32[5]{0}, u32[], u32[]) collective-permute-start(%g), channel_id=1
  %q = f32[5]{0} collective-permute-done(%p)
  %r = (f32[7]{0}, f32[1]{0}) all-reduce-start(%q, %q), to_apply=%add
"""
    assert hlo.collectives(program) == {
        "all-reduce": (1, 32, 32.0),
        "all-gather": (1, 48, 24.0),
        "collective-permute": (1, 20, 20.0),
    }


def test_collectives_of_tpus_are_read():
    """Meshes instead of lists of devices, reduce-scatter as a fusion, and a collective
    whose parts overlap with several fusions.
    """
    program = """HloModule jit_step, num_partitions=16

%all-reduce-scatter.1 (input: f32[4,64]) -> f32[4,16] {
  %all-reduce.1 = f32[4,64]{1,0} all-reduce(%input), channel_id=7, replica_groups={{0,1,2,3},{4,5,6,7},{8,9,10,11},{12,13,14,15}}, to_apply=%add
}

%fused.1 (param_0: bf16[4]) -> (bf16[4], bf16[16], /*index=5*/u32[]) {
  %g.1 = bf16[16]{0} all-gather(%param_0), channel_id=8, replica_groups=mesh['a'=1,'b'=4,'c'=4], device_ids=([4,4]T(1,0)) {'b'}, dimensions={0}
}

%fused.2 (param_0: bf16[4]) -> bf16[16] {
  %g.2 = bf16[16]{0} all-gather(%param_0), channel_id=8, replica_groups=mesh['a'=1,'b'=4,'c'=4], device_ids=([4,4]T(1,0)) {'b'}, dimensions={0}
}

ENTRY %main.1_spmd (param: f32[8]) -> f32[8] {
  %r = f32[8]{0} all-reduce(%param), channel_id=9, replica_groups=mesh['a'=8,'b'=2] {'a':(1)4,'b'}, to_apply=%add
}
"""
    assert hlo.collectives(program) == {
        "all-reduce": (1, 32, 32 * 2 * 7 / 8),
        "all-gather": (1, 32, 32 * 3 / 4),
        "reduce-scatter": (1, 256, 256 * 3),
    }


def test_traffic_is_that_of_the_main_memory_with_padding():
    program = """HloModule jit_step, num_partitions=2

%fused (param_0: f32[9,130]) -> f32[9,130] {
  %p = f32[9,130]{1,0:T(8,128)} parameter(0)
  ROOT %n = f32[9,130]{1,0:T(8,128)} negate(%p)
}

%condition (c: (s32[], f32[3])) -> pred[] {
  %limit = s32[]{:T(128)} constant(40)
  ROOT %lt = pred[]{:T(512)} compare(%i, %limit), direction=LT
}

%body (b: (s32[], f32[3])) -> (s32[], f32[3]) {
  %x = f32[3]{0} parameter(0)
  ROOT %y = f32[3]{0} add(%x, %x)
}

%left (l: f32[2]) -> f32[2] {
  %l = f32[2]{0} parameter(0)
  ROOT %copy.1 = f32[2]{0} copy(%l)
}

%right (r: f32[2]) -> f32[2] {
  %r = f32[2]{0} parameter(0)
  ROOT %copy.2 = f32[2]{0} copy(%r)
}

ENTRY %main (a: f32[9,130], big: f32[100]) -> f32[9,130] {
  %a = f32[9,130]{1,0:T(8,128)} parameter(0)
  %big = f32[100]{0} parameter(1)
  %chip = f32[9,130]{1,0:T(8,128)S(1)} fusion(%a), kind=kLoop, calls=%fused
  %again = f32[9,130]{1,0:T(8,128)S(1)} fusion(%chip), kind=kLoop, calls=%fused
  %s = ((f32[100]{0}), f32[10]{0:S(1)}, s32[]{:S(2)}) slice-start(%big), slice={[0:10]}
  %t = f32[10]{0:S(1)} slice-done(%s)
  %w = (s32[], f32[3]{0}) while(%tuple), condition=%condition, body=%body
  %c = f32[2]{0} conditional(%i, %u, %v), branch_computations={%left, %right}
  %d = (f32[5]{0}, f32[5]{0:S(1)}, u32[]{:S(2)}) copy-start(%chip)
  ROOT %e = f32[5]{0} copy-done(%d)
}
"""
    padded = 16 * 256 * 4
    loop, branches = 40 * 3 * 3 * 4, 2 * 2 * 2 * 4
    sliced, copied = 10 * 4, 5 * 4
    assert hlo.memory_traffic(program) == padded + sliced + loop + branches + copied
