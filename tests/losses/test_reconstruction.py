"""The pyramid against a loop, and the masked L1 by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from picjax.losses.reconstruction import l1, multiscale_l1, pyramid, resize


def resize_by_loop(x: np.ndarray, height: int, width: int) -> np.ndarray:
    """One pixel at a time: position k (source - 1) / (target - 1), four neighbours."""
    h, w, _ = x.shape
    y = np.zeros((height, width, x.shape[2]))
    for i in range(height):
        for j in range(width):
            r = i * (h - 1) / (height - 1) if height > 1 else 0.0
            c = j * (w - 1) / (width - 1) if width > 1 else 0.0
            r0, c0 = int(r), int(c)
            r1, c1 = min(r0 + 1, h - 1), min(c0 + 1, w - 1)
            top = x[r0, c0] * (1 - c + c0) + x[r0, c1] * (c - c0)
            low = x[r1, c0] * (1 - c + c0) + x[r1, c1] * (c - c0)
            y[i, j] = top * (1 - r + r0) + low * (r - r0)
    return y


@pytest.mark.parametrize("size", [(4, 6), (9, 12), (1, 5), (30, 20), (17, 24)])
def test_resize_is_the_loop(size):
    x = np.asarray(jax.random.normal(jax.random.key(0), (2, 17, 24, 3)))
    y = resize(jnp.asarray(x), size)
    expected = np.stack([resize_by_loop(image, *size) for image in x])
    np.testing.assert_allclose(y, expected, atol=2e-5)


def test_resize_keeps_corners_and_constants():
    x = jax.random.normal(jax.random.key(0), (1, 8, 8, 1))
    y = resize(x, (3, 5))
    np.testing.assert_allclose(y[:, ::2, ::4], x[:, ::7, ::7], rtol=1e-6)
    np.testing.assert_allclose(resize(jnp.ones((1, 8, 8, 1)), (3, 5)), 1, rtol=1e-6)


def test_pyramid_runs_from_coarse_to_the_image_itself():
    x = jax.random.normal(jax.random.key(0), (1, 37, 50, 3))
    levels = pyramid(x, 4)
    assert [y.shape[1:3] for y in levels] == [(4, 6), (9, 12), (18, 25), (37, 50)]
    np.testing.assert_array_equal(levels[-1], x)


def test_multiscale_l1_sums_scales_and_counts_masked_pixels_in_the_mean():
    sizes = (2, 4)
    targets = [jnp.zeros((2, n, n, 3)) for n in sizes]
    # Off by 1 and 2 on the coarse scale, by 3 and 4 on the fine one.
    images = [
        jnp.broadcast_to(jnp.array(v)[:, None, None, None], t.shape)
        for v, t in zip([(1.0, 2.0), (3.0, 4.0)], targets, strict=True)
    ]
    np.testing.assert_allclose(multiscale_l1(images, targets), [4, 6])
    half = [jnp.zeros((2, n, n, 1)).at[:, : n // 2].set(1) for n in sizes]
    np.testing.assert_allclose(multiscale_l1(images, targets, half), [2, 3])


def test_the_gradient_of_l1_at_a_tie_is_zero_as_in_the_originals():
    """As PyTorch's L1Loss and TensorFlow's abs; that of jnp.abs is 1."""
    target = jnp.array([0.5, 0.5, 0.5, -0.0]).reshape(1, 2, 2, 1)
    image = jnp.array([0.7, 0.5, 0.1, 0.0]).reshape(1, 2, 2, 1)
    expected = np.array([0.25, 0, -0.25, 0]).reshape(1, 2, 2, 1)
    for loss in (l1, lambda a, b: multiscale_l1([a], [b])):
        value, slope = jax.value_and_grad(lambda x, f=loss: f(x, target).sum())(image)
        np.testing.assert_array_equal(slope, expected)
        assert value == pytest.approx(0.15)
        other = jax.grad(lambda x, f=loss: f(image, x).sum())(target)
        np.testing.assert_array_equal(other, -expected)
