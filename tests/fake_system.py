"""A system without networks: noise around the visible mean, in place of every pixel.

Of pairs it is the other picture with noise.
"""

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from picjax.model import Model
from picjax.system import System

SIZE = 32


def sample(variables, batch, key, n):
    image, mask = batch["image"][:, None], batch["mask"][:, None]
    shape = (image.shape[0], n, *image.shape[2:])
    mean = (image * mask).mean((2, 3, 4), keepdims=True)
    if "condition" in batch:
        mean = batch["condition"][:, None]
    noise = variables["scale"] * jax.random.normal(key, shape)
    return jnp.clip(mean + noise, -1.2, 1.2)


def unused(*args):
    raise AssertionError("completing must not call this")


SYSTEM = System(unused, unused, sample, unused, unused)


def make_model(
    size: int | tuple[int, int] = SIZE, scale: float = 0.3, data: str = "photos"
) -> Model:
    config = ConfigDict(
        {
            "system": "fake",
            "image_size": size,
            "data": {
                "name": data,
                "masks": ("center",) if data == "photos" else (),
                "mask_path": "",
                "path": "",
                "eval_path": "",
            },
        }
    )
    return Model(config, SYSTEM, {"scale": jnp.float32(scale)}, 7)
