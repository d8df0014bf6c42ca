"""Rules from names to layouts; the mesh; several devices draw the same pixels."""

import jax
import pytest
from helpers.processes import finish, start_worker
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
