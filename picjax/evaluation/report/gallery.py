"""Which images of an evaluation are shown: the first, best, worst, most diverse."""

import base64
import io
from collections.abc import Collection, Mapping
from typing import NamedTuple

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from picjax.evaluation.metrics.results import BETTER, Example
from picjax.images import HOLE_GREY

FIRST = 8  # images in the first section
EXTREMES = 4  # images in each of the others
SAMPLES = 8  # completions per image
LARGEST = 256  # longest side of a picture, in pixels
LOSSLESS = 128  # longest side that is kept as PNG; larger ones are JPEG
# Images are ranked by the first of these columns that exists.
QUALITY = ("lpips_hole", "lpips", "psnr_hole", "psnr", "l1_hole", "l1", "ssim")
DIVERSITY = ("lpips_diversity_hole", "lpips_diversity", "diversity_hole", "diversity")


class Panel(NamedTuple):
    """An image that is shown.

    Attributes:
      place: index in the evaluation.
      name: of the image.
      numbers: column -> mean over its samples.
      frames: title -> data URI: input, completions by number, truth.
    """

    place: int
    name: str
    numbers: dict[str, float]
    frames: dict[str, str]

    def rounded(self) -> list[list[str]]:
        """(column, text) of every number."""
        return [[name, f"{value:.4g}"] for name, value in self.numbers.items()]


class Gallery:
    """Keeps panels of a few examples of a stream.

    Attributes:
      sections: title -> (rank, panel), highest rank first.
      columns: section -> the column that ranks it, fixed at the first image.
    """

    def __init__(self) -> None:
        self.sections: dict[str, list[tuple[float, Panel]]] = {}
        self.columns: dict[str, str] = {}

    def add(
        self, index: int, example: Example, columns: Mapping[str, np.ndarray]
    ) -> None:
        """Keeps the example if it ranks among the highest of a section."""
        numbers = {
            name: float(finite.mean())
            for name, column in columns.items()
            if len(finite := column[np.isfinite(column)])
        }
        if not index:
            self.columns = ranking_columns(columns)
        ranks = self._ranks(index, numbers)
        admitted = [title for title, rank in ranks.items() if self._admits(title, rank)]
        if not admitted:
            return
        panel = Panel(index, example.name, numbers, frames(example))
        for title in admitted:
            section = self.sections.setdefault(title, [])
            section.append((ranks[title], panel))
            section.sort(key=lambda entry: -entry[0])
            del section[capacity(title) :]

    def panels(self, title: str) -> list[Panel]:
        """The panels of a section, highest rank first."""
        return [panel for _, panel in self.sections.get(title, [])]

    def _ranks(self, index: int, numbers: Mapping[str, float]) -> dict[str, float]:
        """Section -> rank, for each whose column the image has."""
        ranks = {"first": -float(index)}
        for title, column in self.columns.items():
            if column in numbers:
                high = BETTER.get(column.removesuffix("_hole")) != "min"
                sign = 1 if high == (title != "worst") else -1
                ranks[title] = sign * numbers[column]
        return ranks

    def _admits(self, title: str, rank: float) -> bool:
        section = self.sections.get(title, [])
        return len(section) < capacity(title) or rank > section[-1][0]


def ranking_columns(columns: Collection[str]) -> dict[str, str]:
    """Section -> the column that ranks it."""
    quality = next((name for name in QUALITY if name in columns), None)
    diversity = next((name for name in DIVERSITY if name in columns), None)
    by_title = {"best": quality, "worst": quality, "most diverse": diversity}
    return {title: column for title, column in by_title.items() if column}


def capacity(title: str) -> int:
    """Number of panels in a section."""
    return FIRST if title == "first" else EXTREMES


def frames(example: Example) -> dict[str, str]:
    """Title -> data URI: the input, some completions by number, the truth."""
    pictures = {}
    if "condition" in example.extra:
        pictures["input"] = example.extra["condition"]
    elif example.mask is not None:
        grey = np.uint8(HOLE_GREY)
        pictures["input"] = np.where(example.mask == 1, example.truth, grey)
    pictures |= {str(i): sample for i, sample in enumerate(example.samples[:SAMPLES])}
    pictures["truth"] = example.truth
    return {title: data_uri(picture) for title, picture in pictures.items()}


def data_uri(picture: UInt8[np.ndarray, "h w 3"]) -> str:
    """A picture inside a page, LARGEST pixels per side at most."""
    small = Image.fromarray(picture)
    small.thumbnail((LARGEST, LARGEST), Image.Resampling.BICUBIC)
    buffer = io.BytesIO()
    kind = "png" if max(small.size) <= LOSSLESS else "jpeg"
    small.save(buffer, kind, quality=90)
    return f"data:image/{kind};base64,{base64.b64encode(buffer.getvalue()).decode()}"


def pixels(uri: str) -> UInt8[np.ndarray, "h w 3"]:
    """The picture of a data URI."""
    data = base64.b64decode(uri.partition(",")[2])
    with Image.open(io.BytesIO(data), formats=("PNG", "JPEG")) as picture:
        return np.asarray(picture.convert("RGB"))
