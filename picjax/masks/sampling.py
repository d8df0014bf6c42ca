"""The masks of a data config: one is drawn per image, in training and in evaluation."""

from collections.abc import Callable
from typing import Any

import numpy as np

from picjax.buckets import AnyPath
from picjax.cli import UserError, say
from picjax.data.listing import list_data
from picjax.masks import shapes
from picjax.masks.files import load_mask
from picjax.masks.matching import NAMES_OF_MASKS
from picjax.masks.strokes import Mask

Size = tuple[int, int]
DataConfig = Any  # the `data` part of a config; configs/common.py explains its keys
FILES = "files"  # in config.data.masks: the files at config.data.mask_path
# (generator, name of the image, its index in an evaluation or None in training) -> mask
Draw = Callable[[np.random.Generator, str, int | None], Mask]


def mask_drawer(config: DataConfig, size: Size) -> Draw:
    """Return a function that draws one of `config.masks`, uniformly.

    `files` stands for the files at `config.mask_path`: a random one in training; in
    evaluation the one named as the image (`matching.NAMES_OF_MASKS`), or else the one
    at the image's index, modulo their number, which is printed once. In aligned pairs,
    and without masks in data with label maps, no pixel is known.

    Raises:
      UserError: if a name is unknown, there is no mask, or `files` finds no file; if
        aligned pairs have masks.
    """
    names = list(config.masks)
    if config.name == "aligned" and names:
        raise UserError(
            f"config.data.masks is {', '.join(names)}; leave it empty for aligned "
            "pairs, of which the whole image is generated"
        )
    if config.name == "aligned" or (config.get("maps") and not names):
        return lambda rng, image, index: np.zeros(size, np.uint8)
    if not names:
        raise UserError(
            "config.data.masks is empty; use some of "
            f"{', '.join(shapes.NAMES)}, {FILES}"
        )
    low, high = config.hole_ratio
    for name in names:
        if name != FILES:  # raises for unknown names and unusable sizes
            shapes.make(name, size, np.random.default_rng(0), (low, high))
    files = FileMasks(config.mask_path, size) if FILES in names else None

    def draw(rng: np.random.Generator, image: str, index: int | None) -> Mask:
        name = names[int(rng.integers(len(names)))] if len(names) > 1 else names[0]
        if name == FILES and files is not None:
            return files.draw(rng, image, index)
        return shapes.make(name, size, rng, (low, high))

    return draw


class FileMasks:
    """The mask files at a path; the warnings of each file are printed once.

    Args:
      path: a folder or a .txt list of mask files.
      size: height and width of the masks.

    Raises:
      UserError: if there is no file.
    """

    def __init__(self, path: str, size: Size):
        self.size = size
        self.paths = list_data(path, "config.data.mask_path")
        self.index_of = {path.stem: i for i, path in enumerate(self.paths)}
        self.reported: set[AnyPath] = set()
        self.path, self.by_order = path, False
        self.load(0)

    def load(self, index: int) -> Mask:
        """The mask at an index of the sorted list."""
        path = self.paths[index]
        mask, warnings = load_mask(path, self.size)
        if path not in self.reported:
            self.reported.add(path)
            for warning in warnings:
                say(warning)
        return mask

    def draw(self, rng: np.random.Generator, image: str, index: int | None) -> Mask:
        """A random mask if `index` is None, else that of the image's name or index."""
        if index is None:
            return self.load(int(rng.integers(len(self.paths))))
        for name in NAMES_OF_MASKS:
            if name.format(image) in self.index_of:
                return self.load(self.index_of[name.format(image)])
        if len(self.paths) > 1 and not self.by_order:
            self.by_order = True
            say(
                f"'{self.path}' has no mask named as '{image}'; masks are taken in order"
            )
        return self.load(index % len(self.paths))
