"""Layers of the measuring networks against XLA's own."""

from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from picjax.evaluation.metrics import layers

RNG = np.random.default_rng(0)


@pytest.mark.parametrize(("size", "padding"), [((7, 8), (1, 1)), ((6, 5), (0, 1))])
def test_winograds_form_is_the_convolution(size, padding):
    x = jnp.asarray(RNG.normal(size=(2, *size, 3)), jnp.float32)
    kernel = jnp.asarray(RNG.normal(size=(3, 3, 3, 4)), jnp.float32)
    expected = layers.convolve(x, kernel, 1, padding)
    found = layers.winograd(x, kernel, padding)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("padding", [0, 1])
def test_pools_are_xlas(padding):
    x = RNG.normal(size=(1, 7, 9, 2)).astype(np.float32)
    ends = [(0, 0), (padding, padding), (padding, padding), (0, 0)]
    window, stride = (1, 3, 3, 1), (1, 2, 2, 1)
    largest = lax.reduce_window(x, -np.inf, lax.max, window, stride, ends)
    total = lax.reduce_window(x, 0.0, lax.add, window, stride, ends)
    x = jnp.asarray(x)
    np.testing.assert_array_equal(layers.max_pool(x, padding=padding), largest)
    mean = layers.mean_pool(x, 3, 2, padding)
    np.testing.assert_allclose(mean, total / 9, rtol=1e-5, atol=1e-6)


def test_a_last_incomplete_window_counts_with_ceil():
    x = jnp.arange(36.0).reshape(1, 6, 6, 1)
    found = layers.max_pool(x, ceil=True)[0, :, :, 0]
    np.testing.assert_array_equal(found, [[14, 16, 17], [26, 28, 29], [32, 34, 35]])


def test_a_norm_disappears_into_its_convolution():
    norm = {f"x.bn.{name}": RNG.uniform(0.5, 2, 4) for name in layers.NORM}
    tensors = {"x.conv.weight": RNG.normal(size=(4, 3, 1, 1)), **norm}
    x = RNG.normal(size=(2, 5, 5, 3))
    plain = np.einsum("bhwc,dc->bhwd", x, tensors["x.conv.weight"][:, :, 0, 0])
    weight, bias, mean, variance = norm.values()
    expected = (plain - mean) / np.sqrt(variance + 1e-3) * weight + bias
    params = layers.fold(tensors, 1e-3)
    assert params.keys() == {"x.conv"}
    conv, x = layers.Conv(4, bias="norm"), jnp.asarray(x, jnp.float32)
    found: Any = conv.apply({"params": params["x.conv"]}, x)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
