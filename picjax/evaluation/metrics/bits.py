"""Likelihoods as bits per dimension (metrics specification, section 12)."""

import numpy as np
from jaxtyping import Float, Real

LEVELS = {
    # log2 of how many levels of 256 a unit of the data's scale holds.
    "discrete": 0.0,
    "density_pm1": float(np.log2(127.5)),
    "density_01": 8.0,
}


def bits_per_dim(
    nats: Real[np.ndarray, "*b"], dims: int, scale: str = "discrete"
) -> Float[np.ndarray, "*b"]:
    """Bits a dimension of a negative log-likelihood in nats.

    Args:
      nats: of the whole image.
      dims: how many numbers were generated: height x width x channels, or those of the
        hole; say which.
      scale: `discrete` over 256 levels, or a density of data in [-1, 1] (`density_pm1`)
        or divided by 256 (`density_01`).
    """
    return np.asarray(nats, np.float64) / (np.log(2) * dims) + LEVELS[scale]
