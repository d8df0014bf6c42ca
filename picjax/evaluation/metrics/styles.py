"""Whether samples of a layout draw the styles of its instances as they should.

On `picjax.data.instance_scenes` the styles of an instance and their probabilities are
known, and instances are independent (docs/inade.md). `shown_styles` says which style
each instance of a sample has, `summarise` turns that into numbers with intervals, and
`leak` measures what drawing one instance again does to the rest of the image.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int, Int32, UInt8
from scipy import ndimage

from picjax.data import instance_scenes as scenes
from picjax.evaluation.metrics.posterior import LEVEL, interval
from picjax.evaluation.metrics.results import (
    Columns,
    Example,
    Result,
    interval_results,
)

CLASSES = len(scenes.CLASSES)
STYLES = max(len(c.probabilities) for c in scenes.CLASSES)
INVALID = STYLES  # the last bin of the counts
RESAMPLES = 200  # of the bootstrap and of the perfect sampler
SEEN = 2.0  # grey levels of 255: a smaller mean change is not counted as a leak


def shown_styles(
    samples: UInt8[np.ndarray, "n h w 3"],
    label: Int32[np.ndarray, "h w"],
    instance: Int32[np.ndarray, "h w"],
) -> Int[np.ndarray, "n i"]:
    """The style that each instance of each sample shows; INVALID if none.

    It is the nearest by RMS over the instance's pixels, if that distance is below
    `instance_scenes.THRESHOLD`.
    """
    looks = scenes.candidates(label, instance).astype(np.float32)
    classes = scenes.classes_of(label, instance)
    shown = np.empty((len(samples), len(classes)), int)
    for i, c in enumerate(classes):
        inside = instance == i
        valid = looks[: len(scenes.probabilities(c)), inside]
        pixels = samples[:, inside].astype(np.float32)
        distance = np.sqrt(np.square(pixels[:, None] - valid[None]).mean((-2, -1)))
        near = distance.min(1) < scenes.THRESHOLD
        shown[:, i] = np.where(near, distance.argmin(1), INVALID)
    return shown


class Counts(NamedTuple):
    """What the samples of one layout show, by class; any leading axes.

    Attributes:
      styles: how often each style is shown.
      pairs: how often two instances of the class show these styles, both orders.
      found: distinct styles that an instance shows, summed over instances.
    """

    styles: Float[np.ndarray, "*r c s"]
    pairs: Float[np.ndarray, "*r c s s"]
    found: Float[np.ndarray, "*r c"]


def count(classes: Int[np.ndarray, " i"], shown: Int[np.ndarray, "*r n i"]) -> Counts:
    """Count what the instances of one layout show."""
    onehot = np.eye(STYLES + 1)[shown]  # *r n i s
    member = np.eye(CLASSES)[classes]  # i c
    styles = np.einsum("...nis,ic->...cs", onehot, member)
    of_class = np.einsum("...nis,ic->...ncs", onehot, member)
    pairs = np.einsum("...ncs,...nct->...cst", of_class, of_class)
    diagonal = np.arange(STYLES + 1)
    pairs[..., diagonal, diagonal] -= styles  # an instance is no pair with itself
    distinct = onehot[..., :STYLES].any(-3).sum(-1)  # *r i
    return Counts(styles, pairs, distinct @ member)


def summarise(
    classes: Sequence[Int[np.ndarray, " i"]],
    shown: Sequence[Int[np.ndarray, "n i"]],
    seed: int = 0,
) -> dict[str, dict[str, float]]:
    """Statistics over layouts, each {"value", "low", "high"}.

    Args:
      classes: of the instances of each layout.
      shown: `shown_styles` of each layout; the same number of samples for all.
      seed: of the bootstrap and of the perfect sampler's draws.

    Returns:
      valid: share of instances that show a style of their class.
      styles_found: distinct styles that an instance shows, over what as many draws from
        the true distribution find on average (sum over styles of 1 - (1 - p)^n).
      total_variation: distance of the frequencies pooled by class (with an invalid bin)
        from the true probabilities, mean over classes.
      mutual_information: between the styles of two instances of one class in one image,
        in nats, mean over classes with such pairs; 0 if they are independent.
      total_variation_floor, mutual_information_floor: means for a perfect sampler with
        as many draws; low and high are quantiles of its distribution.
      The intervals of the others resample layouts, percentiles at 95 %.
    """
    rng = np.random.default_rng(seed)
    n, b = len(shown[0]), len(shown)
    observed = [count(c, s) for c, s in zip(classes, shown, strict=True)]
    stacked = Counts(*(np.stack(x) for x in zip(*observed, strict=True)))
    weights = rng.multinomial(b, np.full(b, 1 / b), RESAMPLES)
    resampled = Counts(*(np.tensordot(weights, x, 1) for x in stacked))
    perfect = [count(c, perfect_draws(c, (RESAMPLES, n), rng)) for c in classes]
    floor = Counts(*(np.sum(x, 0) for x in zip(*perfect, strict=True)))
    instances = np.stack([np.bincount(c, minlength=CLASSES) for c in classes])
    value = statistics(Counts(*(x.sum(0) for x in stacked)), instances.sum(0), n)
    spread = statistics(resampled, weights @ instances, n)
    chance = statistics(floor, instances.sum(0), n)
    numbers = {name: interval(float(value[name]), spread[name]) for name in value}
    for name in ("total_variation", "mutual_information"):
        mean = float(np.mean(chance[name]))
        numbers[f"{name}_floor"] = interval(mean, chance[name])
    return numbers


def perfect_draws(
    classes: Int[np.ndarray, " i"], shape: tuple[int, ...], rng: np.random.Generator
) -> Int[np.ndarray, "*r i"]:
    """Styles of the instances of a layout, drawn independently."""
    draws = [rng.choice(len(p), shape, p=p) for p in map(scenes.probabilities, classes)]
    return np.stack(draws, -1)


def statistics(
    counts: Counts, instances: Int[np.ndarray, "*#r c"], n: int
) -> dict[str, np.ndarray]:
    """The numbers of `summarise` from counts; `instances` of each class, n samples."""
    every = range(CLASSES)
    truth = np.zeros((CLASSES, STYLES + 1))
    for c in every:
        truth[c, : len(scenes.probabilities(c))] = scenes.probabilities(c)
    expected = (1 - (1 - truth) ** n).sum(-1)
    total = counts.styles.sum(-1)
    frequency = counts.styles / np.maximum(total, 1)[..., None]
    present = total > 0
    distance = np.abs(frequency - truth).sum(-1) / 2
    paired = counts.pairs.sum((-2, -1)) > 0
    information = mutual_information(counts.pairs)
    numbers = {
        "valid": 1 - counts.styles[..., INVALID].sum(-1) / total.sum(-1),
        "styles_found": counts.found.sum(-1) / (instances * expected).sum(-1),
        "total_variation": (distance * present).sum(-1) / present.sum(-1),
        "mutual_information": (information * paired).sum(-1)
        / np.maximum(paired.sum(-1), 1),
    }
    return {name: np.asarray(x) for name, x in numbers.items()}


def mutual_information(
    pairs: Float[np.ndarray, "*r s s"],
) -> Float[np.ndarray, "*r"]:
    """Mutual information of a table of counts, in nats; 0 for an empty one."""
    joint = pairs / np.maximum(pairs.sum((-2, -1), keepdims=True), 1)
    product = joint.sum(-1, keepdims=True) * joint.sum(-2, keepdims=True)
    ratio = np.where(joint > 0, joint / np.where(joint > 0, product, 1), 1)
    return np.asarray((joint * np.log(ratio)).sum((-2, -1)))


# ---- one instance drawn again ----


def leak(
    images: UInt8[np.ndarray, "n h w 3"],
    instance: Int32[np.ndarray, "h w"],
    identity: int,
) -> dict[str, float]:
    """What drawing one instance again changes, from image 0 to the others.

    Returns:
      inside: mean absolute change of the instance's pixels, in grey levels of 255.
      outside: that of all other pixels.
      reach: largest distance from the instance, in pixels, at which pixels change by
        more than SEEN on average.
    """
    inside = instance == identity
    change = np.abs(images[1:].astype(float) - images[:1]).mean((0, -1))
    distance = np.asarray(ndimage.distance_transform_edt(~inside)).round().astype(int)
    area = np.bincount(distance.ravel())
    by_distance = np.bincount(distance.ravel(), change.ravel()) / np.maximum(area, 1)
    changed = np.flatnonzero(by_distance > SEEN)
    return {
        "inside": float(change[inside].mean()),
        "outside": float(change[~inside].mean()),
        "reach": float(changed.max(initial=0)),
    }


# ---- accumulator ----


class Styles:
    """How close the styles of instances come to their known distribution."""

    description = (
        "instances of scenes: a sample shows the nearest style of the class, valid below "
        f"RMS {scenes.THRESHOLD:g} of 255; mutual information of instances of one class "
        f"in nats; in brackets {LEVEL:.0%} bootstrap over layouts, for a floor the spread "
        "of a perfect sampler"
    )

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Forgets every example."""
        self._classes: list[np.ndarray] = []
        self._shown: list[np.ndarray] = []

    def add(self, example: Example) -> Columns:
        """Finds the styles that the samples show; no column."""
        label, instance = (example.extra[k] for k in ("label", "instance"))
        self._classes.append(scenes.classes_of(label, instance))
        self._shown.append(shown_styles(example.samples, label, instance))
        return {}

    def results(self) -> list[Result]:
        """Every statistic of `summarise`."""
        statistics = summarise(self._classes, self._shown)
        return interval_results("styles", "whole", len(self._shown), statistics)
