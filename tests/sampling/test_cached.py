"""Cached sampling and fixed point against naive, and what turning makes of a mask."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from picjax.models.pixelcnn import PixelCNN
from picjax.sampling import cached, raster
from picjax.sampling.raster import Noise, draw_noise

KEY = jax.random.key(0)
NET = PixelCNN(features=4, blocks=1, mixtures=2, dropout=0.0)


def make(net, b=2, h=12, w=8, condition=None):
    x = jax.random.uniform(KEY, (b, h, w, net.channels), minval=-1)
    return x, net.init(KEY, x, False, condition)["params"]


def known_mask(name, h, w):
    mask = np.ones((h, w), bool)
    holes = {
        "everything": np.s_[:],
        "below": np.s_[h // 2 + 1 :],
        "centre": np.s_[h // 2 : -2, 3:5],
        "nothing": np.s_[:0],
    }
    mask[holes[name]] = False
    return jnp.asarray(mask)[None, ..., None]


@pytest.fixture(scope="module")
def colour():
    image, params = make(NET)

    @jax.jit
    def samples(known, noise):
        fast = cached.sample(NET, params, image, known, noise)
        first = Noise(noise.mixture[:, 0], noise.value[:, 0])
        logits = partial(NET.apply, {"params": params}, train=False)
        slow = raster.naive(logits, image, known, first)
        return fast, slow, *raster.jacobi(logits, image, known, first)

    return image, params, samples


@pytest.mark.parametrize("name", ["everything", "below", "centre", "nothing"])
def test_cached_is_naive(colour, name):
    image, _, samples = colour
    b, h, w, _ = image.shape
    known = jnp.broadcast_to(known_mask(name, h, w), (b, h, w, 1))
    noise = draw_noise(KEY, (b, 2, h, w), NET.mixtures, 3)
    fast, slow, fixed, passes = samples(known, noise)
    np.testing.assert_allclose(fast[:, 0], slow, atol=2e-5)
    np.testing.assert_allclose(fixed, slow, atol=2e-5)
    missing = int(jnp.logical_not(known[0]).sum())
    assert 0 <= int(passes) <= missing + 1
    keep = np.broadcast_to(known, image.shape)
    for i in range(2):
        np.testing.assert_array_equal(np.asarray(fast[:, i])[keep], image[keep])
    assert missing == 0 or float(jnp.abs(fast[:, 0] - fast[:, 1]).max()) > 0.01
