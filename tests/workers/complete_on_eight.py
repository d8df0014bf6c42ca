"""PixelCNN++ completes the same pixels on one device and on eight."""

from dataclasses import replace
from typing import Any

import jax

jax.config.update("jax_platforms", "cpu")
jax.config.update("jax_num_cpu_devices", 8)
import numpy as np

from picjax import checkpoints, flags, methods, sharding

config = flags.make_config("pixelcnn", "tiny", [])
rng = np.random.default_rng(0)
shapes = checkpoints.abstract_state(config).params
params = jax.tree.map(lambda x: 0.3 * rng.standard_normal(x.shape, "float32"), shapes)
batch = {
    "image": ((2 * rng.integers(0, 256, (8, 8, 8, 3)) - 255) / 255).astype("float32"),
    "mask": np.ones((8, 8, 8, 1), "float32"),
}
for i in range(8):
    batch["mask"][i, i // 2 + 1 :, i:] = 0
complete = jax.jit(methods.make(config).complete, static_argnums=3)
mesh = sharding.make_mesh()
one_device = jax.sharding.SingleDeviceSharding(jax.devices()[0])
split = sharding.batch_sharding(mesh)


def draw(variables_sharding, batch_sharding):
    """Completions, and the number of devices that they lie on."""
    variables = jax.device_put({"params": params, "stats": {}}, variables_sharding)
    placed = jax.device_put(batch, batch_sharding)
    images = complete(variables, placed, jax.random.key(0), 2)
    return np.asarray(images), len(images.sharding.device_set)


expected, devices = draw(one_device, one_device)
assert devices == 1
images, devices = draw(sharding.replicated(mesh), split)
assert devices == 8
np.testing.assert_array_equal(images, expected)
assert (images[:, 0] != images[:, 1]).any((1, 2, 3)).all()

system: Any = methods.make(config)
system = replace(system, orientations=("upright", "half_turn"))
orient = jax.jit(lambda batch, index: system.orient(batch, index).image)
images = orient(jax.device_put(batch, split), np.arange(8) % 2)
np.testing.assert_array_equal(images[1::2], batch["image"][1::2, ::-1, ::-1])
# Else every device would train on all images.
assert images.sharding.is_equivalent_to(split, 4), images.sharding
