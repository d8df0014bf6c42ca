"""Bits per dimension, of the systems that state how likely the truth is."""

import numpy as np
from jaxtyping import Float, Real

from picjax.data import scenes
from picjax.evaluation.metrics.results import Columns, Example, MeanAccumulator

DENSITY_BITS = {  # log2 of the number of grey levels per unit of the data's scale
    "discrete": 0.0,
    "density_pm1": float(np.log2(127.5)),
    "density_01": 8.0,
}


def bits_per_dim(
    nats: Real[np.ndarray, "*b"], dims: int, scale: str = "discrete"
) -> Float[np.ndarray, "*b"]:
    """A negative log-likelihood in nats as bits per dimension.

    Args:
      nats: of the whole image.
      dims: number of generated values: height x width x channels, or those of the hole.
      scale: `discrete` over 256 levels, or a density of data in [-1, 1] (`density_pm1`)
        or of data divided by 256 (`density_01`).
    """
    return np.asarray(nats, np.float64) / (np.log(2) * dims) + DENSITY_BITS[scale]


class Likelihood(MeanAccumulator):
    """Bits per dimension of the truth, where the system has a likelihood."""

    def __init__(self) -> None:
        super().__init__(
            "likelihood",
            "bits/dim",
            "of the truth, bits per pixel and channel; hole: of its missing pixels, "
            "given those that are drawn or known before them; entropy: of the centre "
            "hole of scenes",
        )

    def add(self, example: Example) -> Columns:
        """Counts what the system states about the image; no column."""
        extra, mask = example.extra, example.mask
        self.count("whole", "all", float(extra["bits_per_dim"]))
        self.count("hole", "all", float(extra["bits_per_dim_hole"]))
        if "scene" in extra and mask is not None:
            missing = np.zeros(mask.shape, bool)
            missing[scenes.hole((mask.shape[0], mask.shape[1]))] = True
            if np.array_equal(mask == 0, missing):
                nats = np.array([scenes.entropy(int(extra["scene"]))])
                dims = int(missing.sum()) * example.truth.shape[-1]
                self.count("hole", "entropy", bits_per_dim(nats, dims)[0])
        return {}
