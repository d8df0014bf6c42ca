"""Rules from names to layouts; the mesh."""

import os
import subprocess
import sys
from pathlib import Path

import jax
import pytest
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


def test_rules_are_found_by_name():
    mesh = sharding.make_mesh()
    tree = {
        "params": {"w": jax.ShapeDtypeStruct((8,), "float32")},
        "other": tree_leaf(),
    }
    rules = ((r"^params/w$", sharding.replicate), (r"^other", sharding.replicate))
    found = sharding.state_shardings(mesh, tree, rules)
    assert found["params"]["w"].spec == P()
    with pytest.raises(ValueError, match="no sharding rule matches other"):
        sharding.state_shardings(mesh, tree, rules[:1])


def tree_leaf():
    return jax.ShapeDtypeStruct((2, 2), "float32")


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


COMPLETE = """
import jax
jax.config.update("jax_platforms", "cpu")
jax.config.update("jax_num_cpu_devices", 8)
import numpy as np
from configs.pixelcnn import get_config
from picjax import checkpoints, sharding, systems
from picjax.systems import pixelcnn
config = get_config("tiny")
rng = np.random.default_rng(0)
shapes = checkpoints.abstract_state(config).params
params = jax.tree.map(lambda x: 0.3 * rng.standard_normal(x.shape, "float32"), shapes)
batch = {
    "image": ((2 * rng.integers(0, 256, (8, 8, 8, 3)) - 255) / 255).astype("float32"),
    "mask": np.ones((8, 8, 8, 1), "float32"),
}
for i in range(8):
    batch["mask"][i, i // 2 + 1 :, i:] = 0
complete = jax.jit(systems.make(config).complete, static_argnums=3)
mesh = sharding.make_mesh()
alone = jax.sharding.SingleDeviceSharding(jax.devices()[0])
found = []
layouts = (alone, alone), (sharding.replicated(mesh), sharding.batch_sharding(mesh))
for whole, split in layouts:
    variables = jax.device_put({"params": params, "stats": {}}, whole)
    images = complete(variables, jax.device_put(batch, split), jax.random.key(0), 2)
    found.append((len(images.sharding.device_set), np.asarray(images)))
(one, expected), (many, images) = found
assert (one, many) == (1, 8), (one, many)
np.testing.assert_array_equal(images, expected)
assert (images[:, 0] != images[:, 1]).any((1, 2, 3)).all()

net, turns = pixelcnn.network(config.model), ("upright", "half_turn")
turned = jax.jit(lambda batch, index: pixelcnn.turned(net, turns, batch, index).image)
images = turned(jax.device_put(batch, split), np.arange(8) % 2)
np.testing.assert_array_equal(images[1::2], batch["image"][1::2, ::-1, ::-1])
# Else every device would train on all images.
assert images.sharding.is_equivalent_to(split, 4), images.sharding
"""


def test_eight_devices_draw_the_pixels_of_one():
    """PixelCNN++'s completions, whose loops run over the pixels of all images."""
    root = str(Path(__file__).parents[1])
    subprocess.run(
        [sys.executable, "-c", COMPLETE],
        check=True,
        env=os.environ | {"PYTHONPATH": root},
    )


SHARE = """
import jax
jax.config.update("jax_platforms", "cpu")
jax.config.update("jax_num_cpu_devices", 8)
import numpy as np
from configs.painter import get_config
from picjax import checkpoints, sharding, systems
from picjax.model import Model
from picjax.draw import make_draw, visible
from picjax.system import draw_many
with jax.set_mesh(sharding.make_mesh()):
    def draw(i):
        return jax.lax.axis_index(("data", "fsdp"))[None]
    made = jax.jit(lambda: draw_many(draw, 11))()
assert made[0].tolist() == [i // 2 for i in range(11)], made
config = get_config("tiny")
rng = np.random.default_rng(0)
shapes = checkpoints.abstract_state(config).params
params = jax.tree.map(lambda x: 0.3 * rng.standard_normal(x.shape, "float32"), shapes)
system, variables = systems.make(config), {"params": params, "stats": {}}
image = rng.integers(0, 256, (1, 8, 8, 3), np.uint8)
known = np.ones((1, 8, 8, 1), np.uint8)
known[:, 4:] = 0
draw = jax.jit(make_draw(system), static_argnums=(3, 4, 5))
batch = visible(image, known, {})
expected = draw(variables, batch, jax.random.key(3), 5, 5, False).pixels
images = Model(config, system, variables, 0).sample(image, known, 5, 3).pixels
assert len(images.sharding.device_set) == 8 > len(expected.sharding.device_set)
levels = np.asarray(images, int) - np.asarray(expected)
assert np.abs(levels).max() <= 1, levels
assert (images[0, 0] != images[0, 4]).any()
"""


def test_eight_devices_share_the_completions_of_one_image():
    root = str(Path(__file__).parents[1])
    subprocess.run(
        [sys.executable, "-c", SHARE],
        check=True,
        env=os.environ | {"PYTHONPATH": root},
    )
