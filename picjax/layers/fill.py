"""Smooth interpolation of a hole from the known pixels around it, without learning."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

RELAXATIONS = 40  # steps per level
STEP, MOMENTUM = 0.4, 0.8  # stable, since the squared Laplacian here is at most 4


def smooth_fill(
    image: Float[Array, "b h w c"], mask: Float[Array, "b h w 1"]
) -> Float[Array, "b h w c"]:
    """The known pixels, and in the hole a surface that continues them with their slope.

    An approximate solution of the biharmonic equation (a thin plate), coarse to fine: the
    image is halved down to one pixel, and each finer level starts from the coarser one's
    pixels and takes `RELAXATIONS` steps of gradient descent with momentum. Stopping there
    is better than solving the equation, whose surface bends too far in large holes
    (docs/results.md).

    Args:
      image: in [-1, 1]; its values in the hole are not read.
      mask: 1 = known. Fractional values count as known by that share.
    """
    h, w = image.shape[1:3]
    known = image * mask
    start = jnp.zeros_like(image)
    if (h, w) != (1, 1):
        share = _halve(mask)
        coarse = _halve(known) / jnp.maximum(share, 1e-6)
        coarse = smooth_fill(coarse, (share > 0).astype(image.dtype))
        b, rows, columns, c = coarse.shape
        start = jax.image.resize(coarse, (b, 2 * rows, 2 * columns, c), "linear")
        start = start[:, :h, :w]
    return jnp.clip(_relax(known + (1 - mask) * start, 1 - mask), -1, 1)


def _relax(
    x: Float[Array, "b h w c"], hole: Float[Array, "b h w 1"]
) -> Float[Array, "b h w c"]:
    def step(_, state):
        x, velocity = state
        slope = _laplacian(_laplacian(x)) * hole
        velocity = MOMENTUM * velocity - STEP * slope
        return x + velocity, velocity

    return jax.lax.fori_loop(0, RELAXATIONS, step, (x, jnp.zeros_like(x)))[0]


def _halve(x: Float[Array, "b h w c"]) -> Float[Array, "b h2 w2 c"]:
    """Means of 2 by 2 pixels; an odd side gets a row of zeros."""
    x = jnp.pad(x, ((0, 0), (0, x.shape[1] % 2), (0, x.shape[2] % 2), (0, 0)))
    b, h, w, c = x.shape
    return x.reshape(b, h // 2, 2, w // 2, 2, c).mean((2, 4))


def _laplacian(x: Float[Array, "b h w c"]) -> Float[Array, "b h w c"]:
    """The mean of the four neighbours less x; the image is reflected at its edges."""
    padded = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)), "edge")
    rows = padded[:, :-2, 1:-1] + padded[:, 2:, 1:-1]
    return (rows + padded[:, 1:-1, :-2] + padded[:, 1:-1, 2:]) / 4 - x
