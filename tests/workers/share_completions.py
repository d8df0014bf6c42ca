"""One image's completions are shared out over eight devices."""

import jax

jax.config.update("jax_platforms", "cpu")
jax.config.update("jax_num_cpu_devices", 8)
import numpy as np

from picjax import checkpoints, flags, methods, sharding
from picjax.completion import make_draw, visible_part
from picjax.model import Model
from picjax.system import draw_many

with jax.set_mesh(sharding.make_mesh()):

    def device_index(i):
        return jax.lax.axis_index(("data", "fsdp"))[None]

    devices = jax.jit(lambda: draw_many(device_index, 11))()
assert devices[0].tolist() == [i // 2 for i in range(11)]

config = flags.make_config("painter", "tiny", [])
rng = np.random.default_rng(0)
shapes = checkpoints.abstract_state(config).params
params = jax.tree.map(lambda x: 0.3 * rng.standard_normal(x.shape, "float32"), shapes)
system, variables = methods.make(config), {"params": params, "stats": {}}
mask = np.ones((1, 8, 8, 1), np.uint8)
mask[:, 4:] = 0
batch = {"image": rng.integers(0, 256, (1, 8, 8, 3), np.uint8), "mask": mask}
draw = jax.jit(make_draw(system), static_argnames=("n", "num_candidates"))
key = jax.random.key(3)
expected = draw(variables, visible_part(batch), key, n=5, num_candidates=5).pixels
images = Model(config, system, variables, 0).sample(batch, 5, 3).pixels
assert len(images.sharding.device_set) == 8 > len(expected.sharding.device_set)
levels = np.asarray(images, int) - np.asarray(expected)
assert np.abs(levels).max() <= 1
assert (images[0, 0] != images[0, 4]).any()
