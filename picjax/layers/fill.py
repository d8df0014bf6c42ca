"""Smooth interpolation of a hole from the known pixels around it, without learning."""

import jax.numpy as jnp
from jaxtyping import Array, Float

RELAXATIONS = 8  # averages of neighbours per level


def smooth_fill(
    image: Float[Array, "b h w c"], mask: Float[Array, "b h w 1"]
) -> Float[Array, "b h w c"]:
    """The known pixels, and in the hole an approximate solution of Laplace's equation.

    Coarse to fine: the image is halved while both sides are even, and the coarsest hole
    gets the mean colour. Each finer level starts from the coarser one's pixels and relaxes
    towards the mean of their neighbours (membrane interpolation on a multigrid).

    Args:
      image: in [-1, 1]; its values in the hole are not read.
      mask: 1 = known. Fractional values count as known by that share.
    """
    h, w = image.shape[1:3]
    known = image * mask
    if h % 2 or w % 2:
        share = mask.sum((1, 2), keepdims=True)
        mean = known.sum((1, 2), keepdims=True) / jnp.maximum(share, 1e-6)
        start = jnp.broadcast_to(mean, image.shape)
    else:
        share = _halve(mask)
        coarse = _halve(known) / jnp.maximum(share, 1e-6)
        coarse = smooth_fill(coarse, (share > 0).astype(image.dtype))
        start = _double(coarse)
    x = known + (1 - mask) * start
    for _ in range(RELAXATIONS):
        x = known + (1 - mask) * _neighbours(x)
    return x


def _halve(x: Float[Array, "b h w c"]) -> Float[Array, "b h2 w2 c"]:
    b, h, w, c = x.shape
    return x.reshape(b, h // 2, 2, w // 2, 2, c).mean((2, 4))


def _double(x: Float[Array, "b h w c"]) -> Float[Array, "b h2 w2 c"]:
    return jnp.repeat(jnp.repeat(x, 2, 1), 2, 2)


def _neighbours(x: Float[Array, "b h w c"]) -> Float[Array, "b h w c"]:
    """The mean of the four neighbours; the image is reflected at its edges."""
    x = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)), "edge")
    rows = x[:, :-2, 1:-1] + x[:, 2:, 1:-1]
    return (rows + x[:, 1:-1, :-2] + x[:, 1:-1, 2:]) / 4
