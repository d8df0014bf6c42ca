"""INADE without networks: each pixel of an image shows its instance's noise."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from helpers.configs import load_config
from picjax.methods.inade import encoder
from picjax.methods.inade import system as inade
from picjax.model import Model

LAYOUT_SIZE = (40, 60)


def paint(net, variables, *inputs):
    """In place of the networks: each pixel shows its instance's noise."""
    if isinstance(net, encoder.InstanceEncoder):
        image, instance = inputs
        mean = encoder.instance_mean(image, instance, net.instances)
        mu = jnp.pad(mean, ((0, 0), (0, 0), (0, net.channels - 3)))
        low = jnp.full_like(mu, -50.0)
        return encoder.StyleStatistics(mu, low, mu, low)
    layout, _, style, _ = inputs
    rows = jax.vmap(lambda table, ids: table[ids])(style[:, :, 0, :3], layout.instance)
    return jnp.clip(rows, -1, 1)


def make_layout_model(patch: pytest.MonkeyPatch) -> Model:
    """A model of `configs/inade.py:tiny`, whose step is 0, while the patch lasts."""
    patch.setattr(inade, "infer", paint)
    config = load_config("inade", "tiny")
    return Model(config, inade.INADE.from_config(config), {}, 0)


def layout(size: tuple[int, int] = LAYOUT_SIZE):
    """Class 1 in the two upper quarters, instances 1 and 4, on class 0, instance 0."""
    h, w = size
    instance = np.zeros(size, np.uint16)
    instance[: h // 2, : w // 2] = 1
    instance[: h // 2, w // 2 :] = 4
    return (instance > 0).astype(np.uint8), instance
