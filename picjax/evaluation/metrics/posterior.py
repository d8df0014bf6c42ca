"""How close n completions of a scene come to its known posterior (docs/scenes.md).

`count_modes` assigns each completion of one image to the valid completion that it
shows; `summarise` turns the counts of many images into numbers with intervals. Masks
must be the centre hole, which hides the whole figure and nothing else.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, Int, UInt8

from picjax.data import scenes
from picjax.evaluation.metrics.results import (
    Columns,
    Example,
    Result,
    interval_results,
)

MODES = max(len(c.probabilities) for c in scenes.CLASSES)
INVALID = MODES  # the last bin of the counts
RESAMPLES = 1000  # of the bootstrap and of the perfect sampler
LEVEL = 0.95


def count_modes(
    samples: UInt8[np.ndarray, "n h w 3"],
    scene: int,
    attributes: Float[np.ndarray, " a"],
    threshold: float = scenes.THRESHOLD,
) -> Int[np.ndarray, " k"]:
    """How many completions of one scene show each mode; the last bin is "invalid".

    A completion shows the mode nearest to it by RMS over the hole (grey levels of 255,
    all channels); it is invalid if that distance is `threshold` or more.
    """
    valid = scenes.modes(scene, attributes, samples.shape[1:3])
    distance = hole_rms(samples[:, None], valid[None])
    nearest = distance.argmin(1)
    shown = np.where(distance.min(1) < threshold, nearest, INVALID)
    return np.bincount(shown, minlength=MODES + 1)


def hole_rms(
    a: UInt8[np.ndarray, "*#b h w 3"], b: UInt8[np.ndarray, "*#b h w 3"]
) -> Float[np.ndarray, "*b"]:
    """Root mean square difference over the centre hole, in grey levels of 255."""
    rows, columns = scenes.hole((a.shape[-3], a.shape[-2]))
    a, b = (x[..., rows, columns, :].astype(np.float32) for x in (a, b))
    return np.sqrt(np.square(a - b).mean((-3, -2, -1)))


def summarise(
    counts: Sequence[Int[np.ndarray, " k"]] | Int[np.ndarray, "b k"],
    classes: Sequence[int] | Int[np.ndarray, " b"],
    seed: int = 0,
    threshold: float = scenes.THRESHOLD,
) -> dict[str, Any]:
    """Statistics over images, each with a bootstrap interval.

    Args:
      counts: of each image, from `count_modes`; the same n for all.
      classes: of each image.
      seed: of the bootstrap and of the perfect sampler's draws.
      threshold: the one passed to `count_modes`; only reported.

    Returns:
      `protocol` and, for each of these names, {"value", "low", "high"}:
      valid: share of completions that are valid.
      modes_found: distinct modes found, divided by the number that n draws from the
        true posterior find on average (sum over modes of 1 - (1 - p)^n), both summed
        over images.
      modes_found_raw: distinct modes found / existing modes, mean over images.
      total_variation: distance of the frequencies pooled by class (with an invalid bin
        of true probability 0) from the true probabilities, mean over classes.
      total_variation_floor: its mean for a perfect sampler with as many draws; low and
        high are quantiles of its distribution.
      image_total_variation, image_total_variation_floor: the same, image by image.
      The interval resamples images within classes, percentiles at 95 %.

    Raises:
      ValueError: without images, or if images differ in their number of completions.
    """
    counted, labels = np.asarray(counts), np.asarray(classes)
    if not len(counted) or len(np.unique(counted.sum(1))) > 1:
        raise ValueError("counts must be of one number of completions per image")
    n = int(counted[0].sum())
    rng = np.random.default_rng(seed)
    observed: Means = {}
    resampled: Means = {}
    perfect: Means = {}
    for scene in map(int, np.unique(labels)):
        own = counted[labels == scene]
        features = _features(scene, own)
        observed[scene] = features.mean(0)
        b = len(own)
        weights = rng.multinomial(b, np.full(b, 1 / b), RESAMPLES) / b
        resampled[scene] = weights @ features
        p = true_probabilities(scene)
        draws = (rng.multinomial(n, p, b) for _ in range(RESAMPLES))
        perfect[scene] = np.stack([_features(scene, x).mean(0) for x in draws])
    share = {scene: float((labels == scene).mean()) for scene in observed}
    value, spread, floor = (
        _statistics(x, share, n) for x in (observed, resampled, perfect)
    )
    values = {name: interval(float(value[name]), spread[name]) for name in value}
    for name in ("total_variation", "image_total_variation"):
        values[f"{name}_floor"] = interval(float(floor[name].mean()), floor[name])
    protocol = {
        "samples": n,
        "images": len(counted),
        "threshold_rms": threshold,
        "region": "centre hole",
        "interval": f"{LEVEL:.0%} bootstrap over images, {RESAMPLES} resamples",
        "seed": seed,
    }
    return {"protocol": protocol, **values}


def true_probabilities(scene: int) -> Float[np.ndarray, " k"]:
    """Probability of each bin of `count_modes`; 0 for absent modes and for invalid."""
    p = scenes.probabilities(scene)
    return np.pad(p, (0, MODES + 1 - len(p)))


# ---- statistics from means over the images of each class ----

Means = dict[int, np.ndarray]  # class -> means of features [*r k+2]


def _features(scene: int, counts: np.ndarray) -> np.ndarray:
    """Frequencies, modes found and total variation of each image: [*r b k+2]."""
    frequency = counts / counts.sum(-1, keepdims=True)
    modes = (counts[..., :MODES] > 0).sum(-1)
    distance = np.abs(frequency - true_probabilities(scene)).sum(-1) / 2
    return np.concatenate([frequency, modes[..., None], distance[..., None]], -1)


def _statistics(means: Means, share: dict[int, float], n: int) -> dict[str, Any]:
    """Every statistic of `summarise`, [*r] each; `share`: of images in each class."""

    def over_images(of_class: Callable[[int, np.ndarray], Any]) -> Any:
        return sum(share[scene] * of_class(scene, x) for scene, x in means.items())

    def expected(scene: int) -> float:
        return float((1 - (1 - scenes.probabilities(scene)) ** n).sum())

    pooled = [
        np.abs(x[..., : MODES + 1] - true_probabilities(scene)).sum(-1) / 2
        for scene, x in means.items()
    ]
    modes = over_images(lambda scene, x: x[..., -2])
    return {
        "valid": 1 - over_images(lambda scene, x: x[..., INVALID]),
        "modes_found": modes / over_images(lambda scene, x: expected(scene)),
        "modes_found_raw": over_images(
            lambda scene, x: x[..., -2] / len(scenes.probabilities(scene))
        ),
        "total_variation": np.mean(pooled, axis=0),
        "image_total_variation": over_images(lambda scene, x: x[..., -1]),
    }


def interval(value: float, draws: np.ndarray) -> dict[str, float]:
    """A value with the interval at LEVEL of its resamples."""
    tail = (1 - LEVEL) / 2
    low, high = np.quantile(draws, [tail, 1 - tail])
    return {"value": value, "low": float(low), "high": float(high)}


# ---- accumulator ----


class Posterior:
    """How close the samples come to the known posterior of `scenes`.

    Keeps a handful of counts per image, which the bootstrap needs.
    """

    description = (
        "centre hole of scenes: a sample shows the nearest mode, valid below RMS "
        f"{scenes.THRESHOLD:g} of 255; in brackets {LEVEL:.0%} bootstrap over images, "
        "for a floor the spread of a perfect sampler"
    )

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Forgets every example."""
        self._counts: list[np.ndarray] = []
        self._scenes: list[int] = []

    def add(self, example: Example) -> Columns:
        """Counts which modes the samples show; no column."""
        scene = int(example.extra["scene"])
        attributes = example.extra["scene_attributes"]
        self._counts.append(count_modes(example.samples, scene, attributes))
        self._scenes.append(scene)
        return {}

    def results(self) -> list[Result]:
        """Every statistic of `summarise`."""
        statistics = summarise(self._counts, self._scenes)
        del statistics["protocol"]
        return interval_results("posterior", "hole", len(self._scenes), statistics)
