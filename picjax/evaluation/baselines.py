"""Completions by methods that learn nothing, measured beside every evaluation.

A number means little alone: a blurred hole may be nearer to the truth than a photograph.
"""

import hashlib
import importlib.util
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, UInt8

from picjax.cli import UserError, check_choice
from picjax.evaluation.metrics.results import Accumulator, Example, Result
from picjax.images import read_image, write_png

DEFAULT = ("biharmonic", "mean")
# Metrics of several completions of an image, and of none.
WITHOUT = ("diversity", "lpips_diversity", "likelihood")
WITHOUT += ("class_diversity", "instance_diversity")
LARGEST_HOLE = 2**18  # pixels, which biharmonic fills in 10 s and 1 GB (512x512)
MOST_PIXELS = 2**23  # of all holes; biharmonic: 2 to 5 minutes

Image = UInt8[np.ndarray, "h w 3"]
Hole = Bool[np.ndarray, "h w"]


class Method(NamedTuple):
    """How a hole is filled without learning.

    Attributes:
      fill: (image, hole) -> image; pixels of the hole are not read, others not changed.
      description: for the report.
      slow: whether large holes, and more than MOST_PIXELS by default, are left out.
    """

    fill: Callable[[Image, Hole], Image]
    description: str
    slow: bool = False


def fill_mean(image: Image, hole: Hole) -> Image:
    """The mean colour of the known pixels."""
    colour = image[~hole].mean(0).round().astype(np.uint8)
    return np.where(hole[..., None], colour, image)


def fill_biharmonic(image: Image, hole: Hole) -> Image:
    """The smooth surface through the known pixels (Damelin and Hoang, 2018)."""
    from skimage.restoration import inpaint_biharmonic  # slow to import

    filled = inpaint_biharmonic(image, hole, channel_axis=-1)
    levels = (255 * filled).round().clip(0, 255).astype(np.uint8)
    return np.where(hole[..., None], levels, image)


def fill_telea(image: Image, hole: Hole) -> Image:
    """Fast marching from the edge inwards (Telea, 2004)."""
    import cv2  # pyright: ignore[reportMissingImports]

    filled = cv2.inpaint(image, hole.astype(np.uint8), 3, cv2.INPAINT_TELEA)
    return np.where(hole[..., None], filled, image)


METHODS = {
    "biharmonic": Method(
        fill_biharmonic, "scikit-image's inpaint_biharmonic, nothing learnt", slow=True
    ),
    "mean": Method(fill_mean, "the mean colour of the known pixels"),
    "telea": Method(fill_telea, "OpenCV's INPAINT_TELEA, radius 3, nothing learnt"),
}
NONE = "none"


def parse_names(text: str | None) -> list[str]:
    """The baselines that `--baselines` names; by default DEFAULT.

    Raises:
      UserError: if one is unknown, or its package is not installed.
    """
    if text is None:
        return list(DEFAULT)
    if text == NONE:
        return []
    names = [name.strip() for name in text.split(",")]
    for name in names:
        check_choice("--baselines", name, (*METHODS, NONE))
    if NONE in names:
        raise UserError(f"--baselines '{text}' is none and some; leave one out")
    if "telea" in names and importlib.util.find_spec("cv2") is None:
        raise UserError(
            "--baselines telea needs OpenCV, which is not installed; run "
            "pip install 'picjax[opencv]'"
        )
    return list(dict.fromkeys(names))


class Baseline:
    """A method with metrics of its own, over the examples of an evaluation.

    Args:
      name: a key of METHODS.
      metrics: name -> metric; they must not be those of the evaluation.
      folder: keeps slow completions, by the checksum of what they depend on, until the
        evaluation is finished.
      limit: pixels of all holes that a slow method fills; None for any number.
    """

    def __init__(
        self,
        name: str,
        metrics: Mapping[str, Accumulator],
        folder: Path,
        limit: int | None = None,
    ):
        self.name, self.metrics, self.folder, self.limit = name, metrics, folder, limit
        self.method = METHODS[name]
        self.reset()

    def reset(self) -> None:
        """Forgets every example."""
        self.count, self.pixels, self.left_out = 0, 0, Counter[str]()
        for metric in self.metrics.values():
            metric.reset()

    def add(self, example: Example) -> None:
        """Completes and measures an example, unless it is one of those left out."""
        if example.mask is None:
            raise ValueError(f"'{example.name}' has no mask")
        hole = example.mask[..., 0] == 0
        reason = self._reason_to_leave_out(int(hole.sum()), hole.size)
        if reason:
            self.left_out[reason] += 1
            return
        self.count += 1
        sample = self._complete(example.truth, hole)
        completed = example._replace(samples=sample[None], chosen=0)
        for metric in self.metrics.values():
            metric.add(completed)

    def _reason_to_leave_out(self, pixels: int, size: int) -> str:
        if pixels == size:
            return "without a known pixel"
        if not self.method.slow:
            return ""
        if pixels > LARGEST_HOLE:
            return f"with holes of more than {LARGEST_HOLE:,} pixels (too slow)"
        if self.limit is not None and self.pixels + pixels > self.limit:
            self.pixels = self.limit  # all that follow, too: the first images count
            return (
                f"after the first {self.limit:,} pixels of holes (slow; all by "
                f"--baselines={self.name})"
            )
        self.pixels += pixels
        return ""

    def _complete(self, truth: Image, hole: Hole) -> Image:
        visible = np.where(hole[..., None], np.uint8(0), truth)
        if not self.method.slow:
            return self.method.fill(visible, hole)
        digest = hashlib.sha256(np.dstack([visible, hole]).tobytes())
        path = self.folder / f"{self.name}-{digest.hexdigest()[:32]}.png"
        if path.exists():
            return read_image(path)
        filled = self.method.fill(visible, hole)
        write_png(path, filled)
        return filled

    def results(self) -> list[Result]:
        """The numbers of every metric; none if every example was left out."""
        if not self.count:
            return []
        return [r for metric in self.metrics.values() for r in metric.results()]

    def note(self) -> str:
        """Which images are not in its numbers, and why; nothing if all are."""
        if not self.left_out:
            return ""
        reasons = "; ".join(f"{count} {why}" for why, count in self.left_out.items())
        images = f"{self.count} of {self.count + self.left_out.total()} images"
        return f"Baseline {self.name}: of {images}; left out {reasons}"
