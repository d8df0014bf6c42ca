"""Pixel metrics: one value per image, on the host in float64.

Images hold 0..255 (round [-1, 1] to uint8 first, as a file would hold it), shape
[*b h w c] with any leading axes. With a mask [*b h w 1], 1 = known, a metric covers the
hole alone and is NaN without a hole.
"""

from collections.abc import Callable

import numpy as np
from jaxtyping import Float, Int, Real, UInt8
from scipy import ndimage

from picjax.evaluation.metrics.results import (
    Accumulator,
    Columns,
    Example,
    MeanAccumulator,
    regions,
)

GREY = "grey levels of 255"
IMAGE, AXES = (-3, -2, -1), (-3, -2)  # axes of an image, those of its pixels
SMALLEST_SSIM = 11  # pixels per side
LUMA = np.array([0.299, 0.587, 0.114])
SCALE_WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)
SMALLEST_MS_SSIM = 176

Images = Real[np.ndarray, "*b h w c"]
Masks = Real[np.ndarray, "*b h w 1"]
Values = Float[np.ndarray, "*b"]  # one per image
Blur = Callable[[np.ndarray], np.ndarray]


def hole_mean(x: Float[np.ndarray, "*b h w c"], mask: Masks | None) -> Values:
    """Mean over pixels and channels; with a mask, over the hole alone."""
    if mask is None:
        return np.asarray(x.mean(IMAGE))
    hole = np.broadcast_to(mask < 0.5, x.shape)
    count, total = hole.sum(IMAGE), np.where(hole, x, 0).sum(IMAGE)
    return np.where(count > 0, total / np.maximum(count, 1), np.nan)


def l1(image: Images, truth: Images, mask: Masks | None = None) -> Values:
    """Mean absolute difference, in 0..255 grey levels."""
    return hole_mean(np.abs(np.subtract(image, truth, dtype=np.float64)), mask)


def psnr(image: Images, truth: Images, mask: Masks | None = None) -> Values:
    """20 log10(255 / root mean squared difference), in dB; 100 for equal images."""
    error = hole_mean(np.square(np.subtract(image, truth, dtype=np.float64)), mask)
    finite = 10 * np.log10(255**2 / np.where(error > 0, error, 1))
    return np.where(error == 0, 100.0, np.where(error > 0, finite, np.nan))


def psnr_eps(image: Images, truth: Images) -> Values:
    """10 log10(1 / (mean squared difference on 0..1 + 1e-8)), at most 80: pyiqa's."""
    difference = np.subtract(image, truth, dtype=np.float64) / 255
    error = hole_mean(np.square(difference), None)
    return np.asarray(-10 * np.log10(error + 1e-8))


def tv(image: Images, mask: Masks | None = None) -> Values:
    """Mean length of the gradient, in grey levels per pixel: PICNet's total variation.

    Forward differences per channel that wrap around at the right and lower edge.
    """
    x = np.asarray(image, np.float64)
    dx, dy = x - np.roll(x, -1, axis=-2), x - np.roll(x, -1, axis=-3)
    return hole_mean(np.hypot(dx, dy), mask)


def ssim(image: Images, truth: Images, mask: Masks | None = None) -> Values:
    """Structural similarity, mean over channels (Wang et al., 2004); 1 when equal.

    11x11 Gaussian window of sigma 1.5, whole windows only, population covariance, as
    scikit-image computes with `gaussian_weights=True, use_sample_covariance=False`.
    With a mask: over the windows whose centre lies in the hole. Needs sides of 11.
    """
    luminance, structure = ssim_maps(image, truth)
    centre = None if mask is None else mask[..., 5:-5, 5:-5, :]
    return hole_mean(luminance * structure, centre)


def ssim_uniform(image: Images, truth: Images) -> Values:
    """SSIM over 7x7 uniform windows with sample covariances: scikit-image's default."""
    luminance, structure = ssim_maps(image, truth, uniform, 49 / 48)
    return hole_mean(luminance * structure, None)


def ssim_luma(
    image: Real[np.ndarray, "*b h w 3"], truth: Real[np.ndarray, "*b h w 3"]
) -> Values:
    """SSIM of the rounded luma with its structure term clipped at 0, as in pyiqa."""
    luminance, structure = ssim_maps(luma(image), luma(truth))
    return hole_mean(luminance * np.maximum(structure, 0), None)


def ms_ssim(image: Images, truth: Images) -> Values:
    """Multi-scale SSIM over five scales (Wang et al., 2003), mean over channels.

    pyiqa's is that of `luma`.

    Raises:
      ValueError: if a side is below 176 pixels.
    """
    if min(image.shape[-3:-1]) < SMALLEST_MS_SSIM:
        raise ValueError(
            f"MS-SSIM needs sides of {SMALLEST_MS_SSIM} pixels or more, not "
            f"{image.shape[-3]}x{image.shape[-2]}; use ssim"
        )
    x, y = np.asarray(image, np.float64), np.asarray(truth, np.float64)
    result = np.ones((*x.shape[:-3], x.shape[-1]))
    last = len(SCALE_WEIGHTS) - 1
    for scale, weight in enumerate(SCALE_WEIGHTS):
        luminance, structure = ssim_maps(x, y)
        value = luminance * structure if scale == last else structure
        result = result * np.maximum(value.mean((-3, -2)), 0) ** weight
        x, y = halve(x), halve(y)
    return np.asarray(result.mean(-1))


def luma(x: Real[np.ndarray, "*b h w 3"]) -> Float[np.ndarray, "*b h w 1"]:
    """YIQ luma of 0..255 values, rounded to integers as in pyiqa."""
    return np.round(x @ LUMA)[..., None]


def halve(x: Float[np.ndarray, "*b h w c"]) -> Float[np.ndarray, "*b _ _ c"]:
    """2x2 means; an odd side is padded with zeros at both ends, and these count."""
    height, width = x.shape[-3:-1]
    odd = [(height % 2,) * 2, (width % 2,) * 2]
    x = np.pad(x, [(0, 0)] * (x.ndim - 3) + odd + [(0, 0)])
    x = x[..., : x.shape[-3] // 2 * 2, : x.shape[-2] // 2 * 2, :]
    rows = x[..., ::2, :, :] + x[..., 1::2, :, :]
    return (rows[..., ::2, :] + rows[..., 1::2, :]) / 4


def gaussian(x: Float[np.ndarray, "*b h w c"]) -> Float[np.ndarray, "*b y x c"]:
    """Means with weights of sigma 1.5 over whole windows of 11x11."""
    x = ndimage.gaussian_filter(x, 1.5, radius=5, axes=AXES)
    return x[..., 5:-5, 5:-5, :]


def uniform(x: Float[np.ndarray, "*b h w c"]) -> Float[np.ndarray, "*b y x c"]:
    """Means over whole windows of 7x7."""
    return ndimage.uniform_filter(x, 7, axes=AXES)[..., 3:-3, 3:-3, :]


def ssim_maps(
    image: Images, truth: Images, blur: Blur = gaussian, scale: float = 1.0
) -> tuple[Float[np.ndarray, "*b y x c"], Float[np.ndarray, "*b y x c"]]:
    """SSIM's luminance and contrast-structure terms, over whole windows only.

    Args:
      image, truth: 0..255.
      blur: means over windows: `gaussian` or `uniform`.
      scale: factor on the covariances, n / (n - 1) for sample covariances.
    """
    x, y = np.asarray(image, np.float64), np.asarray(truth, np.float64)
    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    mean_x, mean_y = blur(x), blur(y)
    var_x, var_y = blur(x * x) - mean_x**2, blur(y * y) - mean_y**2
    covariance = scale * (blur(x * y) - mean_x * mean_y)
    luminance = (2 * mean_x * mean_y + c1) / (mean_x**2 + mean_y**2 + c1)
    return luminance, (2 * covariance + c2) / (scale * (var_x + var_y) + c2)


# ---- among the samples of an image ----


def best_of(
    images: Real[np.ndarray, "*b n h w c"], truth: Images
) -> Int[np.ndarray, "*b"]:
    """The sample nearest to the truth by PICNet's rule: least L1 - PSNR + TV.

    A number reported for it is the best of n against the truth: state n with it.
    """
    truths = np.broadcast_to(truth[..., None, :, :, :], images.shape)
    score = l1(images, truths) - psnr(images, truths) + tv(images)
    return np.asarray(score.argmin(-1))


def picnet_choice(
    samples: UInt8[np.ndarray, "n h w 3"], truth: UInt8[np.ndarray, "h w 3"]
) -> int:
    """Index of the sample that PICNet's rule selects."""
    return int(best_of(samples, truth))


def pixel_diversity(
    images: Real[np.ndarray, "*b n h w c"], mask: Masks | None = None
) -> Values:
    """Mean L1 distance over all pairs of the n samples, in grey levels of 255.

    0 if n is 1 or all are equal. Diversity alone proves nothing (noise is diverse):
    read it beside a distance to the truth. Over the whole image it shrinks with the share of
    the hole, so values of different masks do not compare.
    """
    return hole_mean(pair_distance(images), mask)


def pair_distance(
    images: Real[np.ndarray, "*b n h w c"],
) -> Float[np.ndarray, "*b h w c"]:
    """Mean absolute difference of every value over all pairs of the n samples."""
    n = images.shape[-4]
    # In sorted order the k-th value is added k times and subtracted n - 1 - k times.
    weights = 2 * np.arange(n, dtype=np.float64) - (n - 1)
    ordered = np.sort(images, axis=-4)
    pairs = max(n * (n - 1) / 2, 1)
    return np.einsum("...nhwc,n->...hwc", ordered, weights) / pairs


# ---- accumulators ----

Measure = Callable[[np.ndarray, np.ndarray, np.ndarray | None], np.ndarray]


class PerSample(MeanAccumulator):
    """One value per sample, of the whole image and of the hole.

    Args:
      name: of the metric; BETTER states which end is better.
      unit: of its values.
      measure: (samples, truths, masks or None) -> [n].
      description: how it is measured.
    """

    def __init__(self, name: str, unit: str, measure: Measure, description: str):
        super().__init__(name, unit, description)
        self.measure = measure

    def add(self, example: Example) -> Columns:
        """A column per region."""
        samples, columns = example.samples, {}
        truths = np.broadcast_to(example.truth, samples.shape)
        for region, mask in regions(example):
            if mask is not None:
                mask = np.broadcast_to(mask, (len(samples), *mask.shape))
            values = np.asarray(self.measure(samples, truths, mask))
            self.count_samples(region, values, example.chosen)
            columns[self.column(region)] = values
        return columns


class Diversity(MeanAccumulator):
    """How much the samples of an image differ from each other."""

    def __init__(self) -> None:
        description = "mean L1 distance over all pairs of an image's samples"
        super().__init__("diversity", GREY, description)

    def add(self, example: Example) -> Columns:
        """One value per image, repeated for its samples."""
        columns = {}
        for region, mask in regions(example):
            value = float(pixel_diversity(example.samples, mask))
            self.count(region, "all", value)
            columns[self.column(region)] = np.full(len(example.samples), value)
        return columns


PIXEL_METRICS: dict[str, Callable[[], Accumulator]] = {
    "l1": lambda: PerSample("l1", GREY, l1, "mean absolute difference"),
    "psnr": lambda: PerSample(
        "psnr", "dB", psnr, "of each sample; 100 if it is the truth"
    ),
    "ssim": lambda: PerSample(
        "ssim",
        "1 = equal",
        ssim,
        "11x11 Gaussian windows, sigma 1.5, mean over RGB; hole: windows centred in it",
    ),
    "tv": lambda: PerSample(
        "tv",
        GREY,
        lambda samples, truths, masks: tv(samples, masks),
        "mean length of the sample's gradient, wrapping around (PICNet)",
    ),
    "diversity": Diversity,
}
