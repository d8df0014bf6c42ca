"""Photographs that scikit-image and scikit-learn carry, each cut in two.

Training takes random crops of the larger part, evaluation fixed ones of the smaller;
no pixel is in both.
"""

from functools import lru_cache
from importlib import resources
from typing import Any

import numpy as np
from PIL import Image

from picjax.cli import UserError
from picjax.data.decode import decode
from picjax.data.transforms import Augment, Size, jitter, random_box, resample

LEAST_BOX = 0.3  # of the largest possible: the smallest crop in training
# Package, file, and where the cut is, in widths. The narrower side is held out: each
# has something to complete, and of most the larger side shows the like.
PHOTOS = (
    ("skimage.data", "astronaut.png", 0.68),
    ("skimage.data", "chelsea.png", 0.62),
    ("skimage.data", "coffee.png", 0.6),
    ("skimage.data", "hubble_deep_field.jpg", 0.75),
    ("skimage.data", "motorcycle_left.png", 0.66),
    ("skimage.data", "retina.jpg", 0.7),
    ("skimage.data", "rocket.jpg", 0.68),
    ("sklearn.datasets.images", "china.jpg", 0.34),
    ("sklearn.datasets.images", "flower.jpg", 0.42),
)


def photograph(name: str) -> Image.Image | None:
    """One of PHOTOS by its file's name; None where its package does not carry it."""
    (package,) = (package for package, file, _ in PHOTOS if file == name)
    folder, _, last = package.rpartition(".")
    path = resources.files(folder) / last / name
    if not path.is_file():
        return None
    with resources.as_file(path) as file:
        return decode(file)


@lru_cache
def photo_regions(held_out: bool, size: Size) -> tuple[tuple[str, Image.Image], ...]:
    """(name, picture) of the training or of the held-out part of each photograph.

    Large ones are shrunk to what crops of `size` need, after the cut, so that no pixel
    mixes both sides.

    Raises:
      UserError: when the installed packages carry none.
    """
    found = []
    for _, name, cut in PHOTOS:
        picture = photograph(name)
        if picture is None:
            continue
        edge = round(picture.width * cut)
        right = held_out == (cut > 0.5)
        left, end = (edge, picture.width) if right else (0, edge)
        part = picture.crop((left, 0, end, picture.height))
        shrink = min(part.size) / (max(size) / LEAST_BOX)
        if shrink > 1:
            box = round(part.width / shrink), round(part.height / shrink)
            part = part.resize(box, Image.Resampling.BICUBIC)
        found.append((name.partition(".")[0], part))
    if not found:
        raise UserError(
            "scikit-image and scikit-learn carry no photographs here; set "
            "config.data.name=folder and config.data.path"
        )
    return tuple(found)


class Photos:
    """Training: a random crop of a photograph's larger part. An index is a photograph."""

    def __init__(self, how: Augment):
        self.how = how
        self.regions = photo_regions(False, how.size)

    def __len__(self) -> int:
        return len(self.regions)

    def read(self, index: int, rng: np.random.Generator) -> dict[str, Any]:
        """A box of LEAST_BOX to 1 of the largest possible, anywhere."""
        name, picture = self.regions[index]
        region = picture.height, picture.width
        box = random_box(rng, region, self.how.size, LEAST_BOX)
        image = jitter(resample(picture, self.how.size, box), self.how, rng)
        return {"image": image, "name": name}


class HeldOutPhotos:
    """Evaluation: crops of the held-out strips; any number, each fixed by its index."""

    def __init__(self, size: Size):
        self.size = size
        self.regions = photo_regions(True, size)

    def __len__(self) -> int:
        return 1_000_000

    def read(self, index: int, rng: np.random.Generator) -> dict[str, Any]:
        """Photographs in turn."""
        name, picture = self.regions[index % len(self.regions)]
        where = np.random.default_rng(index)
        region = picture.height, picture.width
        box = random_box(where, region, self.size, 0.6)
        image = resample(picture, self.size, box)
        return {"image": image, "name": f"{name}_{index:04}"}
