"""How close n completions of a scene come to its known posterior (docs/scenes.md).

`count_modes` sorts the completions of one image by the valid completion that each shows,
and `summarise` turns the counts of many images into numbers with intervals. The masks
must be the official centre: with another the figure shows or the hole asks for more.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, Int, UInt8

from picjax.data import scenes

MODES = max(len(c.probabilities) for c in scenes.CLASSES)
INVALID = MODES  # the last bin of the counts
RESAMPLES = 1000  # of the bootstrap and of the perfect sampler
LEVEL = 0.95


def count_modes(
    samples: UInt8[np.ndarray, "n h w 3"],
    scene: int,
    attributes: Float[np.ndarray, "a"],
    threshold: float = scenes.THRESHOLD,
) -> Int[np.ndarray, "k"]:
    """How many completions of one scene show each mode; the last bin is "invalid".

    A completion shows the mode nearest to it by RMS over the hole (grey levels of 255,
    all channels), and is invalid from `threshold` on.
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
    counts: Sequence[Int[np.ndarray, "k"]] | Int[np.ndarray, "b k"],
    classes: Sequence[int] | Int[np.ndarray, "b"],
    seed: int = 0,
    threshold: float = scenes.THRESHOLD,
) -> dict[str, Any]:
    """The numbers over images, each with a bootstrap interval.

    Args:
      counts: of each image, from `count_modes`; the same n for all.
      classes: of each image.
      seed: of the bootstrap and of the perfect sampler's draws.
      threshold: that `count_modes` was given; only reported.

    Returns:
      `protocol` and, for each of these names, {"value", "low", "high"}:
      valid: share of completions that are valid.
      modes_found: distinct modes found, over how many n draws from the true posterior
        find on average (sum over modes of 1 - (1 - p)^n); both summed over images.
      modes_found_raw: distinct modes found over modes there are, mean over images.
      total_variation: of the frequencies pooled by class (with an invalid bin of true
        probability 0) from the true probabilities, mean over classes.
      total_variation_floor: its mean for a perfect sampler with as many draws; low and
        high are quantiles of its distribution.
      image_total_variation, image_total_variation_floor: the same, image by image.
      The interval resamples images within classes, percentiles at 95 %.

    Raises:
      ValueError: without images, or with different numbers of completions.
    """
    counted, kinds = np.asarray(counts), np.asarray(classes)
    if not len(counted) or len(np.unique(counted.sum(1))) > 1:
        raise ValueError("give counts of one number of completions an image")
    n = int(counted[0].sum())
    rng = np.random.default_rng(seed)
    groups = {int(c): counted[kinds == c] for c in np.unique(kinds)}
    resampled = [_resample(groups, rng) for _ in range(RESAMPLES)]
    values: dict[str, Any] = {
        name: _interval(statistic(groups), [statistic(d) for d in resampled])
        for name, statistic in STATISTICS.items()
    }
    perfect = [_perfect(groups, n, rng) for _ in range(RESAMPLES)]
    for name in ("total_variation", "image_total_variation"):
        floors = [STATISTICS[name](d) for d in perfect]
        values[f"{name}_floor"] = _interval(float(np.mean(floors)), floors)
    protocol = {
        "samples": n,
        "images": len(counted),
        "threshold_rms": threshold,
        "region": "centre hole",
        "interval": f"{LEVEL:.0%} bootstrap over images, {RESAMPLES} resamples",
        "seed": seed,
    }
    return {"protocol": protocol, **values}


def true_probabilities(scene: int) -> Float[np.ndarray, "k"]:
    """Of each bin of `count_modes`; 0 for modes that a class lacks and for invalid."""
    p = scenes.probabilities(scene)
    return np.pad(p, (0, MODES + 1 - len(p)))


# ---- statistics: class -> counts [b k] -> a number ----

Groups = dict[int, np.ndarray]


def valid_share(groups: Groups) -> float:
    """Share of completions that are valid."""
    counts = np.concatenate(list(groups.values()))
    return float(1 - counts[:, INVALID].sum() / counts.sum())


def modes_found(groups: Groups) -> float:
    """Modes found over modes that a perfect sampler finds on average."""
    found = expected = 0.0
    for scene, counts in groups.items():
        n = int(counts[0].sum())
        found += (counts[:, :MODES] > 0).sum()
        missed = (1 - scenes.probabilities(scene)) ** n
        expected += len(counts) * (1 - missed).sum()
    return float(found / expected)


def modes_found_raw(groups: Groups) -> float:
    """Modes found over modes there are, mean over images."""
    shares = [
        (counts[:, :MODES] > 0).sum(1) / len(scenes.probabilities(scene))
        for scene, counts in groups.items()
    ]
    return float(np.concatenate(shares).mean())


def total_variation(groups: Groups) -> float:
    """Of frequencies pooled by class, mean over classes."""
    distances = []
    for scene, counts in groups.items():
        frequency = counts.sum(0) / counts.sum()
        distances.append(np.abs(frequency - true_probabilities(scene)).sum() / 2)
    return float(np.mean(distances))


def image_total_variation(groups: Groups) -> float:
    """Of the frequencies of each image, mean over images."""
    distances = []
    for scene, counts in groups.items():
        frequency = counts / counts.sum(1, keepdims=True)
        difference = frequency - true_probabilities(scene)[None]
        distances.append(np.abs(difference).sum(1) / 2)
    return float(np.concatenate(distances).mean())


STATISTICS: dict[str, Callable[[Groups], float]] = {
    "valid": valid_share,
    "modes_found": modes_found,
    "modes_found_raw": modes_found_raw,
    "total_variation": total_variation,
    "image_total_variation": image_total_variation,
}


def _resample(groups: Groups, rng: np.random.Generator) -> Groups:
    """As many images of each class, drawn with replacement."""
    return {
        scene: counts[rng.integers(len(counts), size=len(counts))]
        for scene, counts in groups.items()
    }


def _perfect(groups: Groups, n: int, rng: np.random.Generator) -> Groups:
    """Counts of n draws an image from the true posterior."""
    return {
        scene: rng.multinomial(n, true_probabilities(scene), len(counts))
        for scene, counts in groups.items()
    }


def _interval(value: float, draws: Sequence[float]) -> dict[str, float]:
    tail = (1 - LEVEL) / 2
    low, high = np.quantile(draws, [tail, 1 - tail])
    return {"value": value, "low": float(low), "high": float(high)}
