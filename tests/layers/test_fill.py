"""Smooth interpolation of a hole."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from picjax.layers.fill import smooth_fill

SIZES = ((16, 16), (12, 20), (7, 9))


def centre(height: int, width: int) -> jax.Array:
    """A mask whose hole is the middle half of each side."""
    mask = jnp.ones((1, height, width, 1))
    rows, columns = height // 4, width // 4
    return mask.at[:, rows : height - rows, columns : width - columns].set(0)


@pytest.mark.parametrize("size", SIZES)
def test_known_pixels_stay_and_the_hidden_ones_are_not_read(size):
    mask = centre(*size)
    image = jax.random.uniform(jax.random.key(0), (1, *size, 3), minval=-1)
    filled = smooth_fill(image, mask)
    assert (filled * mask == image * mask).all()
    other = jnp.where(mask == 1, image, -image)
    assert (smooth_fill(other, mask) == filled).all()
    assert (jnp.abs(filled) <= 1).all()


@pytest.mark.parametrize("size", SIZES)
def test_a_plane_is_continued(size):
    """A linear function solves Laplace's equation; the mean colour is 0.5 away."""
    rows = jnp.linspace(-1, 1, size[0])[None, :, None, None]
    image = jnp.broadcast_to(rows, (1, *size, 3))
    assert jnp.abs(smooth_fill(image, centre(*size)) - image).max() < 0.1


def test_an_image_without_known_pixels_is_finite():
    filled = smooth_fill(jnp.ones((1, 8, 8, 3)), jnp.zeros((1, 8, 8, 1)))
    np.testing.assert_array_equal(filled, 0)
