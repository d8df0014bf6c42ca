"""NIQE, HyperIQA and NIMA, which look at a sample alone, as streams over groups."""

import math
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jaxtyping import Float

from picjax.evaluation.metrics import hyperiqa, nima, niqe
from picjax.evaluation.metrics.networks import Shared, branded
from picjax.evaluation.metrics.suite import Group, ToTruth


class NoReference(ToTruth):
    """A number that a sample has by itself, of the whole image.

    Args:
      name: the metric's.
      unit: of its values.
      score: [h w 3] uint8 -> number.
      every: measure every sample, or sample 0 alone.
      about: how it is measured.
    """

    def __init__(
        self,
        name: str,
        unit: str,
        score: Callable[[np.ndarray], float],
        every: bool,
        about: str,
    ):
        def of_all(samples: Any, truths: Any, masks: Any) -> np.ndarray:
            return np.array([score(x) for x in samples])

        super().__init__(name, unit, of_all, about)
        self.score, self.every = score, every

    def add(self, group: Group) -> dict[str, Float[np.ndarray, " n"]]:
        """A column; NaN for samples that are not measured."""
        if self.every:
            return super().add(group._replace(mask=None))
        value = self.score(group.samples[0])
        self.count("whole", "first", value)
        return {self.name: np.array([value] + [math.nan] * (len(group.samples) - 1))}


def make_niqe(shared: Shared) -> NoReference:
    """NIQE of every sample, with the released model."""
    kind, model = shared.settings.luma, niqe.released()
    return NoReference(
        "niqe",
        "0 = natural",
        lambda image: niqe.score(niqe.luma(image, kind), model),
        True,
        f"luma {kind}, the released pristine model, blocks of {niqe.BLOCK} pixels",
    )


def make_hyperiqa(shared: Shared) -> NoReference:
    """HyperIQA of sample 0."""
    loaded = shared.load("hyperiqa")
    params, score = hyperiqa.prepare(loaded.tensors), jax.jit(hyperiqa.score)
    return NoReference(
        "hyperiqa",
        branded("score of the weights", loaded.source),
        lambda image: float(score(params, hyperiqa.crops(image)).mean()),
        False,
        f"{loaded.source}, mean of 25 crops of 224 pixels on a grid, of sample 0; sides "
        "of 224 or less are upscaled to 256 first",
    )


def make_nima(shared: Shared) -> NoReference:
    """NIMA's mean mark of sample 0."""
    loaded = shared.load("nima")
    params, marks = nima.prepare(loaded.tensors), jax.jit(nima.distribution)
    return NoReference(
        "nima",
        branded("1..10", loaded.source),
        lambda image: float(nima.moments(marks(params, nima.crop(image)))[0][0]),
        False,
        f"{loaded.source}, mean mark of the centre, shorter side 224, of sample 0",
    )
