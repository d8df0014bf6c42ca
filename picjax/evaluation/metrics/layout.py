"""Diversity of samples of a layout, class by class and instance by instance.

These are definitions of our own. The published mCSD and mOCD draw the style of one
class alone, and compare by LPIPS inside and outside of it.
"""

import numpy as np
from jaxtyping import Float, Integer
from scipy import ndimage

from picjax.evaluation.metrics.image import GREY, pair_distance
from picjax.evaluation.metrics.results import Columns, Example, MeanAccumulator


class LayoutDiversity(MeanAccumulator):
    """How much samples differ over the pixels of each class, or of each instance.

    Args:
      entry: of the examples: `label` or `instance`.
    """

    def __init__(self, entry: str):
        self.entry = entry
        kind = {"label": "class", "instance": "instance"}[entry]
        description = (
            "mean L1 distance over all pairs of a layout's samples, over the pixels of "
            f"one {kind}, mean over each {kind} of the layout"
        )
        super().__init__(f"{kind}_diversity", GREY, description)

    def add(self, example: Example) -> Columns:
        """Counts a layout; no column."""
        difference = pair_distance(example.samples).mean(-1)
        self.count("whole", "all", region_mean(difference, example.extra[self.entry]))
        return {}


def region_mean(
    values: Float[np.ndarray, "h w"], ids: Integer[np.ndarray, "h w"]
) -> float:
    """Mean over the pixels of each id, then over the ids that have pixels."""
    return float(np.mean(ndimage.mean(values, ids, np.unique(ids))))
