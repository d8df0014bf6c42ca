"""Photographs included in scikit-image and scikit-learn, each cut into two parts.

Training uses random crops of one part, evaluation fixed crops of the other, which is
smaller; no pixel is in both.
"""

from functools import lru_cache
from importlib import resources
from typing import Any

import numpy as np
from PIL import Image

from picjax.cli import UserError
from picjax.data.decode import decode
from picjax.data.transforms import Augment, Size, jitter, random_box, resample

MIN_CROP = 0.3  # smallest crop in training, relative to the largest possible
# Package, file, and position of the cut in widths. The narrower part is held out.
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
    """One of PHOTOS by its file name; None if its package does not include it."""
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

    After the cut, large parts are reduced to the resolution that crops of `size` need.

    Raises:
      UserError: if the installed packages include no photograph.
    """
    regions = []
    for _, name, cut in PHOTOS:
        picture = photograph(name)
        if picture is None:
            continue
        edge = round(picture.width * cut)
        right = held_out == (cut > 0.5)
        left, end = (edge, picture.width) if right else (0, edge)
        part = picture.crop((left, 0, end, picture.height))
        shrink = min(part.size) / (max(size) / MIN_CROP)
        if shrink > 1:
            box = round(part.width / shrink), round(part.height / shrink)
            part = part.resize(box, Image.Resampling.BICUBIC)
        regions.append((name.partition(".")[0], part))
    if not regions:
        raise UserError(
            "scikit-image and scikit-learn include no photographs here; set "
            "config.data.name=folder and config.data.path"
        )
    return tuple(regions)


class Photos:
    """Training images: index i is a random crop of photograph i."""

    def __init__(self, how: Augment):
        self.how = how
        self.regions = photo_regions(False, how.size)

    def __len__(self) -> int:
        return len(self.regions)

    def read(self, index: int, rng: np.random.Generator) -> dict[str, Any]:
        """A random crop, MIN_CROP to 1 of the largest possible."""
        name, picture = self.regions[index]
        region = picture.height, picture.width
        box = random_box(rng, region, self.how.size, MIN_CROP)
        image = jitter(resample(picture, self.how.size, box), self.how, rng)
        return {"image": image, "name": name}


class HeldOutPhotos:
    """Held-out images: any number of crops, each fixed by its index."""

    def __init__(self, size: Size):
        self.size = size
        self.regions = photo_regions(True, size)

    def __len__(self) -> int:
        return 1_000_000

    def read(self, index: int, rng: np.random.Generator) -> dict[str, Any]:
        """A crop of photograph `index` modulo their number."""
        name, picture = self.regions[index % len(self.regions)]
        fixed = np.random.default_rng(index)
        region = picture.height, picture.width
        box = random_box(fixed, region, self.size, 0.6)
        image = resample(picture, self.size, box)
        return {"image": image, "name": f"{name}_{index:04}"}
