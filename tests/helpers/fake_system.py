"""A system without networks: noise around the visible mean, in place of every pixel.

Of pairs it is the other picture with noise.
"""

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from picjax.model import Model
from picjax.system import System

SIZE = 32


class FakeSystem(System):
    """Only `sample` works: completing must call nothing else."""

    def sample(self, variables, batch, key, n):
        image, mask = batch["image"][:, None], batch["mask"][:, None]
        shape = (image.shape[0], n, *image.shape[2:])
        mean = (image * mask).mean((2, 3, 4), keepdims=True)
        if "condition" in batch:
            mean = batch["condition"][:, None]
        noise = variables["scale"] * jax.random.normal(key, shape)
        return jnp.clip(mean + noise, -1.2, 1.2)

    def init(self, batch, key):
        raise AssertionError("completing must not call init")

    def step(self, state, batch, key):
        raise AssertionError("completing must not call step")

    def evaluate(self, variables, batch, key):
        raise AssertionError("completing must not call evaluate")


class ScoringSystem(FakeSystem):
    """Scores images by a function of their pixels."""

    def __init__(self, function):
        self.function = function

    @property
    def can_score(self):
        return True

    def score(self, variables, images):
        return self.function(images)


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
    return Model(config, FakeSystem(), {"scale": jnp.float32(scale)}, 7)
