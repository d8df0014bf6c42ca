"""Which images of an evaluation are shown: the first, best, worst, most diverse."""

import base64
import io
from collections.abc import Collection, Mapping
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from picjax.evaluation.metrics.suite import BETTER, Group
from picjax.images import HOLE_GREY

FIRST = 8  # images shown whatever their numbers
EXTREME = 4  # images on each of the other shelves
SAMPLES = 8  # completions of each
LARGEST = 256  # pixels: the longest side of a picture that is kept
LOSSLESS = 128  # up to this side as PNG, beyond as JPEG
# What images are ranked by: the first of these columns that there is.
RANKED_BY = ("lpips_hole", "lpips", "psnr_hole", "psnr", "l1_hole", "l1", "ssim")
DIVERSE_BY = ("lpips_diversity_hole", "lpips_diversity", "diversity_hole", "diversity")


class Shot(NamedTuple):
    """An image that is shown.

    Attributes:
      place: in the evaluation, from 0.
      name: the image's.
      numbers: column -> mean over its samples.
      frames: title -> data URI: input, completions by number, truth.
    """

    place: int
    name: str
    numbers: dict[str, float]
    frames: dict[str, str]


class Gallery:
    """Keeps the pictures of a few images while all pass by.

    Attributes:
      shelves: title -> (how high it ranks here, shot), highest first.
      by: column that a shelf ranks by, chosen once, at the first image.
    """

    def __init__(self) -> None:
        self.shelves: dict[str, list[tuple[float, Shot]]] = {}
        self.by: dict[str, str] = {}

    def add(self, index: int, group: Group, columns: Mapping[str, np.ndarray]) -> None:
        """Keeps the group where it is among the highest."""
        numbers = {
            name: float(finite.mean())
            for name, column in columns.items()
            if len(finite := column[np.isfinite(column)])
        }
        if not index:
            self.by = ranking(columns)
        ranks = self.ranks(index, numbers)
        wanted = [title for title, rank in ranks.items() if self.admits(title, rank)]
        if not wanted:
            return
        shot = Shot(index, group.name, numbers, frames(group))
        for title in wanted:
            shelf = self.shelves.setdefault(title, [])
            shelf.append((ranks[title], shot))
            shelf.sort(key=lambda entry: -entry[0])
            del shelf[places(title) :]

    def ranks(self, index: int, numbers: Mapping[str, float]) -> dict[str, float]:
        """How high an image ranks on each shelf for which it has the number."""
        found = {"first": -float(index)}
        for title, column in self.by.items():
            if column in numbers:
                high = BETTER.get(column.removesuffix("_hole")) != "min"
                sign = 1 if high == (title != "worst") else -1
                found[title] = sign * numbers[column]
        return found

    def admits(self, title: str, rank: float) -> bool:
        """Whether a shelf has room for this."""
        shelf = self.shelves.get(title, [])
        return len(shelf) < places(title) or rank > shelf[-1][0]

    def shots(self, title: str) -> list[Shot]:
        """The images on a shelf, highest first."""
        return [shot for _, shot in self.shelves.get(title, [])]

    def state(self) -> dict[str, Any]:
        """Everything, ready for JSON."""
        return {"shelves": self.shelves, "by": self.by}

    def restore(self, state: dict[str, Any]) -> None:
        """Goes on from what `state` gave."""
        self.by = state["by"]
        self.shelves = {
            title: [(rank, Shot(*shot)) for rank, shot in shelf]
            for title, shelf in state["shelves"].items()
        }


def ranking(columns: Collection[str]) -> dict[str, str]:
    """Shelf -> the column that it ranks by, of those that every image has."""
    quality = next((name for name in RANKED_BY if name in columns), None)
    diverse = next((name for name in DIVERSE_BY if name in columns), None)
    found = {"best": quality, "worst": quality, "most diverse": diverse}
    return {title: column for title, column in found.items() if column}


def places(title: str) -> int:
    """How many images a shelf holds."""
    return FIRST if title == "first" else EXTREME


def frames(group: Group) -> dict[str, str]:
    """Title -> data URI: what was given, some completions by number, the truth."""
    shown = {}
    if "condition" in group.extra:
        shown["input"] = group.extra["condition"]
    elif group.mask is not None:
        shown["input"] = np.where(group.mask == 1, group.truth, np.uint8(HOLE_GREY))
    shown |= {str(i): sample for i, sample in enumerate(group.samples[:SAMPLES])}
    shown["truth"] = group.truth
    return {title: data_uri(picture) for title, picture in shown.items()}


def data_uri(picture: UInt8[np.ndarray, "h w 3"]) -> str:
    """A picture of at most LARGEST pixels a side, inside a page."""
    small = Image.fromarray(picture)
    small.thumbnail((LARGEST, LARGEST), Image.Resampling.BICUBIC)
    buffer = io.BytesIO()
    kind = "png" if max(small.size) <= LOSSLESS else "jpeg"
    small.save(buffer, kind, quality=90)
    return f"data:image/{kind};base64,{base64.b64encode(buffer.getvalue()).decode()}"


def pixels(uri: str) -> UInt8[np.ndarray, "h w 3"]:
    """The picture in a data URI."""
    data = base64.b64decode(uri.partition(",")[2])
    with Image.open(io.BytesIO(data)) as picture:
        return np.asarray(picture.convert("RGB"))
