"""How much n completions of one image differ from each other, on the host in float64.

Diversity alone proves nothing (noise is diverse): read it next to the distances to the
truth, or to the known posterior. Values of different masks do not compare: over the
whole image they shrink with the share of the hole.
"""

import numpy as np
from jaxtyping import Float, Real

from picjax.evaluation.metrics.image import hole_mean


def pixel_diversity(
    images: Real[np.ndarray, "*b n h w c"],
    mask: Real[np.ndarray, "*b h w 1"] | None = None,
) -> Float[np.ndarray, "*b"]:
    """Mean L1 distance over all pairs of the n completions, in 0..255 grey levels.

    Over the whole image, or the hole alone with a mask (1 = known; NaN without a
    hole). 0 where n is 1 or all are equal.
    """
    n = images.shape[-4]
    # In sorted order the k-th value is added k times and subtracted n - 1 - k times.
    weights = 2 * np.arange(n, dtype=np.float64) - (n - 1)
    ordered = np.sort(images, axis=-4)
    pairs = max(n * (n - 1) / 2, 1)
    return hole_mean(np.einsum("...nhwc,n->...hwc", ordered, weights) / pairs, mask)
