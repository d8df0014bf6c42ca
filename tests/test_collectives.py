"""Training steps exchange gradients and statistics between devices, never examples."""

import json
import os
import subprocess

import pytest
from helpers import hlo
from helpers.processes import ROOT, start_worker

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
    program = """
  %a.1 = f32[8,3]{1,0} all-reduce(%x), to_apply=%add
  %b = (bf16[4]{0}, /*index=1*/f32[]) all-reduce(%y, %z), to_apply=%add
  ROOT %c = u8[16]{0} all-gather(%all-reduce), dimensions={0}
  %d = f32[2]{0} add(%a, %b)
"""
    assert hlo.collectives(program) == {
        "all-reduce": (2, 8 * 3 * 4 + 4 * 2 + 4),
        "all-gather": (1, 16),
    }
