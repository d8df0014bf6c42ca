"""Cached sampling and fixed-point iteration against naive sampling."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers.states import numpy_draws

from picjax.methods.pixelcnn import cached, logistic, raster
from picjax.methods.pixelcnn.net import PixelCNN
from picjax.methods.pixelcnn.raster import Noise, draw_noise

KEY = jax.random.key(0)
NET: Any = PixelCNN(features=4, blocks=1, mixtures=2, dropout=0.0)


def make_net(net, b=2, h=12, w=8, condition=None):
    x = jax.random.uniform(KEY, (b, h, w, net.channels), minval=-1)
    with numpy_draws():
        init = jax.jit(lambda x: net.init(KEY, x, False, condition))
        return x, init(x)["params"]


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
def samples():
    """(known, noise) -> images, and cached, naive and fixed-point samples; passes.

    Cached sampling is mapped over the images, as in completion.
    """
    image, params = make_net(NET)

    @jax.jit
    def run(known, noise):
        def one(image, known, noise):
            each = jax.tree.map(lambda x: x[None], noise)
            inputs = cached.Inputs(image[None], known[None], each)
            return cached.sample(NET, params, inputs)[0]

        fast = jax.vmap(one)(image, known, noise)
        first = Noise(noise.mixture[:, 0], noise.value[:, 0])
        logits = partial(NET.apply, {"params": params}, train=False)
        slow = raster.naive(logits, image, known, first)
        return image, fast, slow, *raster.jacobi(logits, image, known, first)

    return run


@pytest.mark.parametrize(
    "names",
    [
        ("everything", "everything"),
        ("below", "centre"),
        ("centre", "nothing"),
        ("nothing", "nothing"),
    ],
)
def test_cached_is_naive(samples, names):
    size = (2, 12, 8)
    known = jnp.concatenate([known_mask(name, *size[1:]) for name in names])
    noise = draw_noise(KEY, (2, 2, *size[1:]), NET.mixtures, 3)
    image, fast, slow, fixed, passes = samples(known, noise)
    np.testing.assert_allclose(fast[:, 0], slow, atol=2e-5)
    np.testing.assert_allclose(fixed, slow, atol=2e-5)
    missing = int(jnp.logical_not(known).sum((1, 2, 3)).max())
    assert (missing > 0) <= int(passes) <= missing + 1
    keep = np.broadcast_to(known, image.shape)
    for i in range(2):
        np.testing.assert_array_equal(np.asarray(fast[:, i])[keep], image[keep])
    assert missing == 0 or float(jnp.abs(fast[:, 0] - fast[:, 1]).max()) > 0.01


def test_cached_with_every_option():
    """Grey, elu, two blocks and a condition, against draws from the network's logits."""
    net: Any = PixelCNN(4, 2, 2, channels=1, nonlinearity="elu", dropout=0.0)
    condition = jax.nn.one_hot(jnp.array([0, 2]), 3)
    image, params = make_net(net, 2, 8, 8, condition)
    params = jax.tree.map(lambda x: x + 0.1, params)
    known = jnp.broadcast_to(known_mask("below", 8, 8), (2, 8, 8, 1))
    noise = draw_noise(KEY, (2, 1, 8, 8), 2, 1)

    @jax.jit
    def run():
        inputs = cached.Inputs(image, known, noise)
        drawn = cached.sample(net, params, inputs, condition, True)[:, 0]
        logits = net.apply({"params": params}, drawn, False, condition)
        first = noise.mixture[:, 0], noise.value[:, 0]
        return drawn, logistic.draw(logits, *first, rounded=True)

    drawn, again = run()
    np.testing.assert_allclose(drawn, jnp.where(known, image, again), atol=1e-6)


def test_noise_stays_away_from_zero_and_one():
    noise = draw_noise(KEY, (1, 64, 64), 10, 3)
    for u in noise:
        assert float(u.min()) >= 1e-5 and float(u.max()) <= 1 - 1e-5
