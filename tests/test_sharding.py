"""Rules from names to layouts; the mesh; several devices draw the same pixels."""

import jax
import pytest
from helpers.processes import finish, start_worker
from jax._src import distributed
from jax.sharding import AbstractMesh
from jax.sharding import PartitionSpec as P

from picjax import sharding
from picjax.cli import UserError

FOUR_WAY = AbstractMesh((2, 4), ("data", "fsdp"))


@pytest.mark.parametrize(
    ("shape", "expected"),
    [
        ((3, 3, 128, 256), P(None, None, None, "fsdp")),
        ((512, 130), P("fsdp")),
        ((1026, 512), P(None, "fsdp")),  # the longest axis does not divide
        ((127, 333), P()),  # none does
        ((64,), P()),  # small: whole
    ],
)
def test_the_longest_axis_that_divides_is_split(shape, expected):
    assert sharding.split_largest(shape, FOUR_WAY) == expected


def test_the_first_rule_that_matches_a_name_applies():
    mesh = sharding.make_mesh()
    leaf = jax.ShapeDtypeStruct((8, 2), "float32")
    tree = {"params": {"w": leaf}, "other": leaf}
    rules = ((r"^params/w$", sharding.replicate), (r"^other", sharding.replicate))
    shardings = sharding.state_shardings(mesh, tree, rules)
    assert shardings["params"]["w"].spec == P()
    with pytest.raises(ValueError, match="no sharding rule matches other"):
        sharding.state_shardings(mesh, tree, rules[:1])


def test_mesh_must_cover_the_devices():
    count = jax.device_count()
    assert sharding.make_mesh().size == count
    with pytest.raises(UserError, match=f"does not cover the {count} devices"):
        sharding.make_mesh(data=3, fsdp=5)


def test_half_set_cluster_variables_are_refused(monkeypatch):
    monkeypatch.setenv("JAX_COORDINATOR_ADDRESS", "localhost:1")
    monkeypatch.delenv("JAX_NUM_PROCESSES", raising=False)
    with pytest.raises(UserError, match="set all three, or none"):
        sharding.join_cluster()


SLURM = {
    "SLURM_JOB_ID": "7",
    "SLURM_STEP_NODELIST": "n[1-2]",
    "SLURM_STEP_NUM_NODES": "2",
    "SLURM_STEP_NUM_TASKS": "2",
    "SLURM_NTASKS": "2",
    "SLURM_PROCID": "1",
    "SLURM_LOCALID": "1",
}
ONE_NODE = SLURM | {"SLURM_STEP_NUM_NODES": "1"}
BY_HAND = {
    "JAX_COORDINATOR_ADDRESS": "localhost:1",
    "JAX_NUM_PROCESSES": "2",
    "JAX_PROCESS_ID": "1",
}


@pytest.mark.parametrize(
    ("env", "visible"),
    [
        (SLURM, "all"),
        (SLURM | BY_HAND, "all"),
        (SLURM | {"JAX_LOCAL_DEVICE_IDS": "2,3"}, "2,3"),
        (ONE_NODE, "1"),  # a task per GPU
        (ONE_NODE | {"SLURM_GPUS_PER_TASK": "4"}, "all"),  # bound by Slurm
        (BY_HAND, "all"),
    ],
)
def test_a_task_uses_every_gpu_that_is_its_own(env, visible, monkeypatch):
    """What JAX sets before it connects to the other processes."""
    for name, value in env.items():
        monkeypatch.setenv(name, value)
    found = {"jax_cuda_visible_devices": "all"}
    client = "jax._src.distributed._jax"

    def connect(*_, **__):
        raise ConnectionError

    monkeypatch.setattr("jax._src.distributed.config.update", found.__setitem__)
    monkeypatch.setattr(f"{client}.get_distributed_runtime_client", connect)
    monkeypatch.setattr(jax.distributed, "initialize", distributed.State().initialize)
    with pytest.raises(ConnectionError):
        sharding.join_cluster()
    assert found["jax_cuda_visible_devices"] == visible


def test_batches_must_split_evenly():
    mesh = sharding.make_mesh()
    assert sharding.local_batch_size(mesh, 4 * mesh.size) == 4 * mesh.size
    with pytest.raises(UserError, match="config.batch_size 0 does not split"):
        sharding.local_batch_size(mesh, 0)


def test_eight_devices_draw_the_pixels_of_one():
    """PixelCNN++'s completions, whose loops run over the pixels of all images."""
    finish(start_worker("complete_on_eight"))


def test_eight_devices_share_the_completions_of_one_image():
    finish(start_worker("share_completions"))
