"""One image's completions are shared out over eight devices."""

import jax

jax.config.update("jax_platforms", "cpu")
jax.config.update("jax_num_cpu_devices", 8)
import numpy as np

from configs.painter import get_config
from picjax import checkpoints, methods, sharding
from picjax.completion import make_draw, visible
from picjax.model import Model
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
system, variables = methods.make(config), {"params": params, "stats": {}}
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
