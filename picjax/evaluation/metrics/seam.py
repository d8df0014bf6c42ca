"""The seam: how visible the hole's edge is in a completion, relative to the truth.

Distances to the truth hardly see an edge, eyes see it first.
"""

import math

import numpy as np
from jaxtyping import Float, Real

from picjax.evaluation.metrics.results import Columns, Example, Result


def edge_step(
    image: Real[np.ndarray, "*b h w c"], mask: Real[np.ndarray, "h w 1"]
) -> Float[np.ndarray, "*b"]:
    """Mean absolute difference of neighbours across the hole's edge, per channel.

    Neighbours lie side by side or one above the other, one of them known (mask 1), the
    other missing. NaN without an edge.
    """
    pixels, hole = np.asarray(image, np.float64), mask[..., 0] < 0.5
    total, pairs = np.zeros(pixels.shape[:-3]), 0
    for axis in (0, 1):
        across = np.diff(hole, axis=axis)
        total = total + np.abs(np.diff(pixels, axis=axis - 3))[..., across, :].sum(
            (-2, -1)
        )
        pairs += int(across.sum())
    mean = total / (pairs * pixels.shape[-1]) if pairs else total + math.nan
    return np.asarray(mean)


class RunningRatio:
    """Ratio of two sums over images, and its standard error (the delta method)."""

    def __init__(self) -> None:
        self.count, self.sums, self.products = 0, np.zeros(2), np.zeros((2, 2))

    def add(self, numerator: float, denominator: float) -> None:
        """Counts one image, unless it has no value."""
        pair = np.array([numerator, denominator])
        if np.isfinite(pair).all():
            self.count += 1
            self.sums += pair
            self.products += np.outer(pair, pair)

    def result(self) -> tuple[float, float]:
        """The ratio and its standard error; NaN where there is none."""
        n = self.count
        if not self.sums[1]:
            return math.nan, math.nan
        ratio = self.sums[0] / self.sums[1]
        weights = np.array([1, -ratio])
        squares = max(
            weights @ self.products @ weights, 0
        )  # of numerator - ratio x denominator
        error = math.sqrt(squares * n / (n - 1)) / self.sums[1] if n > 1 else math.nan
        return float(ratio), float(error)


class Seam:
    """Steps across the hole's edge in the completions over those in the truth."""

    description = (
        "mean absolute difference of neighbouring pixels across the hole's edge in the "
        "completion, summed over images, over that in the truth: 1 = no visible edge"
    )

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Forgets every example."""
        self._ratios = {name: RunningRatio() for name in ("mean", "first", "picnet")}

    def add(self, example: Example) -> Columns:
        """The steps of the samples and of the truth, in grey levels; none without a mask."""
        if example.mask is None:
            return {}
        steps = edge_step(example.samples, example.mask)
        truth = float(edge_step(example.truth, example.mask))
        values = {
            "mean": steps.mean(),
            "first": steps[0],
            "picnet": steps[example.chosen],
        }
        for name, value in values.items():
            self._ratios[name].add(float(value), truth)
        return {"edge_step": steps, "edge_step_truth": np.full(len(steps), truth)}

    def results(self) -> list[Result]:
        """The ratio of the sums over all images, for each choice of samples."""
        return [
            Result(
                "seam", "hole", name, *ratio.result(), ratio.count, "1 = as the truth"
            )
            for name, ratio in self._ratios.items()
            if ratio.count
        ]
