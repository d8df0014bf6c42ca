"""NIQE: distance of an image's local statistics from those of sharp photographs.

Mittal et al., 2013; without a reference image, on the host in float64. A score depends
on the luma (the three conventions differ by 0.1 to 0.3) and on the pristine model.
"""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Float64, Real
from scipy import ndimage
from scipy.special import gammaln

from picjax.cli import UserError
from picjax.evaluation.metrics.networks import Networks
from picjax.evaluation.metrics.resize import halve
from picjax.evaluation.metrics.results import Columns, Example, MeanAccumulator

PRISTINE = Path(__file__).parent / "data" / "niqe_pristine.npz"
LUMAS = {
    # Weights of R, G and B in 0..255, and an offset.
    "gray": ((0.298936021293775, 0.587043074451121, 0.114020904255103), 0.0),
    "ycbcr_y": ((65.481 / 255, 128.553 / 255, 24.966 / 255), 16.0),
    "yiq_y": ((0.299, 0.587, 0.114), 0.0),
}
BLOCK = 96  # pixels a side
SHARP = 0.75  # of the sharpest block: blocks above it count when a model is fitted
SHIFTS = ((0, 1), (1, 0), (1, 1), (1, -1))
# Smaller normalised values are rounding errors, whose sign would matter in flat areas.
NOISE = 1e-9

ALPHA = np.arange(200, 10001) / 1000
_RATIO = np.exp(2 * gammaln(2 / ALPHA) - gammaln(1 / ALPHA) - gammaln(3 / ALPHA))


class Model(NamedTuple):
    """Statistics of the features of sharp photographs.

    Attributes:
      mean: [36].
      covariance: [36 36].
    """

    mean: Float64[np.ndarray, "36"]
    covariance: Float64[np.ndarray, "36 36"]


def released() -> Model:
    """The model of the original release, from 125 photographs."""
    with np.load(PRISTINE) as file:
        return Model(file["mu_pris_param"].reshape(-1), file["cov_pris_param"])


def luma(
    image: Real[np.ndarray, "h w 3"], convention: str = "gray"
) -> Float64[np.ndarray, "h w"]:
    """Rounded luma of 0..255 values, by a key of LUMAS.

    `gray` is MATLAB's and the original release's, `ycbcr_y` BasicSR's, `yiq_y` pyiqa's.
    """
    weights, offset = LUMAS[convention]
    return np.round(np.asarray(image, np.float64) @ np.array(weights) + offset)


def normalise(
    x: Float64[np.ndarray, "h w"],
) -> tuple[Float64[np.ndarray, "h w"], Float64[np.ndarray, "h w"]]:
    """(x - local mean) / (local deviation + 1), and the local deviation."""
    blur = partial(ndimage.gaussian_filter, sigma=7 / 6, radius=3, mode="nearest")
    mean = blur(x)
    deviation = np.sqrt(np.abs(blur(x * x) - mean * mean))
    y = (x - mean) / (deviation + 1)
    return np.where(np.abs(y) < NOISE, 0, y), deviation


def fit_aggd(
    x: Float64[np.ndarray, "n m"],
) -> tuple[
    Float64[np.ndarray, " n"], Float64[np.ndarray, " n"], Float64[np.ndarray, " n"]
]:
    """alpha, beta_l and beta_r of an asymmetric generalised Gaussian per row.

    NaN if a row has no value on one side of 0.
    """
    square = x * x
    left, right = (
        np.sqrt(
            np.divide(
                (square * side).sum(1),
                side.sum(1),
                out=np.full(len(x), np.nan),
                where=side.any(1),
            )
        )
        for side in (x < 0, x > 0)
    )
    g = left / right
    ratio = np.square(np.abs(x).mean(1)) / np.where(square.any(1), square.mean(1), 1)
    ratio = ratio * (g**3 + 1) * (g + 1) / np.square(g * g + 1)
    # _RATIO rises: the nearest entry is one of the two around the value.
    above = np.clip(np.searchsorted(_RATIO, ratio), 1, len(ALPHA) - 1)
    nearer_below = ratio - _RATIO[above - 1] <= _RATIO[above] - ratio
    alpha = np.where(np.isnan(ratio), np.nan, ALPHA[above - nearer_below])
    scale = np.exp((gammaln(1 / alpha) - gammaln(3 / alpha)) / 2)
    return alpha, left * scale, right * scale


def block_features(
    blocks: Float64[np.ndarray, "n s t"],
) -> Float64[np.ndarray, "n 18"]:
    """The features of every block of normalised values at one scale."""
    flat = (len(blocks), -1)
    alpha, left, right = fit_aggd(blocks.reshape(flat))
    columns = [alpha, (left + right) / 2]
    for shift in SHIFTS:
        product = blocks * np.roll(blocks, shift, (1, 2))
        alpha, left, right = fit_aggd(product.reshape(flat))
        mean = (right - left) * np.exp(gammaln(2 / alpha) - gammaln(1 / alpha))
        columns += [alpha, mean, left, right]
    return np.stack(columns, 1)


def image_features(
    grey: Float64[np.ndarray, "h w"], block: int = BLOCK
) -> tuple[Float64[np.ndarray, "n 36"], Float64[np.ndarray, " n"]]:
    """Features of every block, column by column, and the blocks' sharpness.

    Args:
      grey: luma, 0..255.
      block: pixels a side, even.

    Raises:
      UserError: if there are fewer than two whole blocks.
    """
    rows, columns = (n // block for n in grey.shape)
    if rows * columns < 2:
        raise UserError(
            f"NIQE needs two blocks of {block}x{block} pixels, an image of "
            f"{grey.shape[1]}x{grey.shape[0]} has {rows * columns}; leave it out"
        )
    x = grey[: rows * block, : columns * block]
    features, sharpness = [], np.zeros(0)
    for scale in (1, 2):
        if scale == 2:
            x = halve(x / 255) * 255
        normal, deviation = normalise(x)
        features.append(block_features(_cut(normal, block // scale)))
        if scale == 1:
            sharpness = _cut(deviation, block).mean((1, 2))
    return np.concatenate(features, 1), sharpness


def _cut(x: np.ndarray, side: int) -> np.ndarray:
    """[h w] as blocks [n side side], column by column."""
    rows, columns = x.shape[0] // side, x.shape[1] // side
    blocks = x.reshape(rows, side, columns, side)
    return blocks.transpose(2, 0, 1, 3).reshape(-1, side, side)


def score(grey: Float64[np.ndarray, "h w"], model: Model, block: int = BLOCK) -> float:
    """NIQE of a luma, 0 = natural; NaN for an image without texture.

    Raises:
      UserError: if the image is smaller than two blocks.
    """
    features, _ = image_features(grey, block)
    finite = features[~np.isnan(features).any(1)]
    if len(finite) < 2:
        return float("nan")
    gap = model.mean - np.nanmean(features, 0)
    covariance = (model.covariance + np.cov(finite.T)) / 2
    return float(np.sqrt(gap @ np.linalg.pinv(covariance) @ gap))


def refit(
    greys: Sequence[Float[np.ndarray, "h w"]], block: int = BLOCK, sharp: float = SHARP
) -> Model:
    """A pristine model from one's own sharp photographs; use a thousand blocks or more.

    In each image, blocks sharper than `sharp` times its sharpest block count.

    Raises:
      UserError: if an image is too small, or fewer than two blocks are left.
    """
    kept = []
    for grey in greys:
        features, sharpness = image_features(np.asarray(grey, np.float64), block)
        kept.append(features[sharpness > sharp * sharpness.max()])
    rows = np.concatenate(kept) if kept else np.zeros((0, 36))
    rows = rows[~np.isnan(rows).any(1)]
    if len(rows) < 2:
        raise UserError(
            f"{len(greys)} images have {len(rows)} sharp blocks; give more photographs"
        )
    return Model(rows.mean(0), np.cov(rows.T))


class Niqe(MeanAccumulator):
    """NIQE of every sample, with the released model."""

    def __init__(self, networks: Networks):
        self.luma, self.model = networks.settings.luma, released()
        super().__init__(
            "niqe",
            "0 = natural",
            f"luma {self.luma}, the released pristine model, blocks of {BLOCK} pixels",
        )

    def add(self, example: Example) -> Columns:
        """A column for the whole image."""
        lumas = (luma(sample, self.luma) for sample in example.samples)
        values = np.array([score(grey, self.model) for grey in lumas])
        self.count_samples("whole", values, example.chosen)
        return {"niqe": values}
