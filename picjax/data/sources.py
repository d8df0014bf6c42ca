"""The sources of a data config: photos, digits, folders, pairs, TFDS, shards, scenes.

A source has a length and `read(index, rng)`, which returns an image at its final size,
a name and perhaps more. The generator is used for augmentation only, so an element is a
function of index and generator.
"""

import filecmp
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np

from picjax import plugins
from picjax.cli import UserError, check_choice, say
from picjax.data import scenes
from picjax.data.decode import BadImage
from picjax.data.labelled import (
    TREES,
    Clustered,
    InstanceScenes,
    labelled_folder,
    labelled_shards,
)
from picjax.data.listing import list_images
from picjax.data.photos import HeldOutPhotos, Photos
from picjax.data.stored import (
    Element,
    Pictures,
    check_classes,
    digits,
    file_names,
    folder,
    packed,
    tfds,
)
from picjax.data.transforms import Augment, Size, augmentation

DataConfig = Any  # the `data` part of a config; configs/common.py explains its keys
HELD_OUT = 20  # without eval_path, one image in 20 is held out


@runtime_checkable
class Source(Protocol):
    """Images by index."""

    def __len__(self) -> int: ...

    def read(self, index: int, rng: np.random.Generator) -> Element:
        """`image` uint8 [h w 3], `name`, and other entries of the data set.

        Raises:
          BadImage: if there is no usable image at this index.
        """
        ...


class Scenes:
    """Procedural images with a known posterior (docs/scenes.md)."""

    def __init__(self, size: Size, indices: range):
        self.size = size
        self.indices = indices

    def __len__(self) -> int:
        return len(self.indices)

    def read(self, index: int, rng: np.random.Generator) -> Element:
        """Also returns `scene` (the class) and `scene_attributes`, for `posterior`."""
        scene = scenes.sample(0, self.indices[index], self.size)
        return {
            "image": scene["image"],
            "name": f"scene_{index:05}",
            "scene": np.int32(scene["scene"]),
            "scene_attributes": scene["attributes"],
        }


class Pairs:
    """Files of two pictures side by side, A left of B, augmented alike.

    Args:
      files: the files of pairs; their augmentation and size are those of one half.
      direction: `AtoB` translates A to B, `BtoA` the reverse.

    Raises:
      UserError: if the direction is another.
    """

    def __init__(self, files: Pictures, direction: str):
        if direction not in ("AtoB", "BtoA"):
            raise UserError(
                f"config.data.direction '{direction}' is neither AtoB nor BtoA; use "
                "one of them"
            )
        self.files, self.names, self.direction = files, files.names, direction

    def __len__(self) -> int:
        return len(self.files)

    def read(self, index: int, rng: np.random.Generator) -> Element:
        """Also returns `condition`, the picture that `image` is generated from."""
        pair, extra = self.files.load(index)
        middle = pair.width // 2
        boxes = [(0, 0, middle, pair.height), (middle, 0, pair.width, pair.height)]
        seed = int(rng.integers(2**63))  # the same draws for both
        a, b = (
            self.files.render(pair.crop(box), np.random.default_rng(seed))
            for box in boxes
        )
        condition, image = (a, b) if self.direction == "AtoB" else (b, a)
        return {"image": image, "condition": condition, **extra}


class Part:
    """Some indices of a source."""

    def __init__(self, source: Source, indices: Sequence[int]):
        self.source, self.indices = source, indices

    def __len__(self) -> int:
        return len(self.indices)

    def read(self, index: int, rng: np.random.Generator) -> Element:
        """The element of the source at the chosen index."""
        return self.source.read(self.indices[index], rng)


class Usable:
    """A source whose bad images are replaced by the next good one.

    Each bad image is reported once, with the reason.
    """

    def __init__(self, source: Source):
        self.source = source
        self.reported: set[int] = set()

    def __len__(self) -> int:
        return len(self.source)

    def try_read(self, index: int, rng: np.random.Generator) -> Element | None:
        """The element at an index, or None for a bad image."""
        try:
            return self.source.read(index, rng)
        except BadImage as error:
            if index not in self.reported:
                self.reported.add(index)
                say(f"skipped {error}")
            return None

    def read(self, index: int, rng: np.random.Generator) -> Element:
        """The element at an index, or the next good one after it.

        Raises:
          BadImage: if none is good.
        """
        for offset in range(len(self)):
            element = self.try_read((index + offset) % len(self), rng)
            if element is not None:
                return element
        raise BadImage("no image can be read")


# ---- by config ----


def training(config: DataConfig, size: Size) -> Usable:
    """The training images of a data config.

    Raises:
      UserError: if there is none.
    """
    if config.name in plugins.names(plugins.SOURCES):
        return _plugin(config, size, held_out=False)
    if config.get("maps"):
        source = _with_maps(config, size, held_out=False)
        return _checked(source, "config.data.path", config.path)
    how = augmentation(config, size)
    classes = config.get("classes", 0)
    if classes and config.name not in ("digits", "folder", "tfds"):
        check_classes(classes, 0, config.name)
    if config.name == "photos":
        return Usable(Photos(how))
    if config.name == "scenes":
        return Usable(Scenes(size, scenes.TRAIN))
    source = _stored(config, config.path, "config.data.path", size, how)
    if not config.eval_path:
        source = Part(source, _share(source.names, held_out=False))
    return _checked(source, "config.data.path", config.path)


def evaluation(config: DataConfig, size: Size) -> Usable:
    """The held-out images of a data config, resized, or cropped if `crop` is `aspect`.

    Without `eval_path` they are one in 20 of the images at `path`, which training
    leaves out, chosen by a hash of their names.

    Raises:
      UserError: if there is none.
    """
    if config.name in plugins.names(plugins.SOURCES):
        return _plugin(config, size, held_out=True)
    if config.get("maps"):
        source = _with_maps(config, size, held_out=True)
        return _checked(source, "config.data.path", config.path)
    if config.name == "photos":
        return Usable(HeldOutPhotos(size))
    if config.name == "scenes":
        return Usable(Scenes(size, scenes.EVAL))
    how = None
    if config.crop == "aspect":
        how = augmentation(config, size)._replace(flip=False, rotation=0.0)
    if config.eval_path:
        path, key = config.eval_path, "config.data.eval_path"
        source = _stored(config, path, key, size, how, held_out=True)
        return _checked(source, key, path)
    source = _stored(config, config.path, "config.data.path", size, how)
    part = Part(source, _share(source.names, held_out=True))
    return _checked(part, "config.data.path", config.path)


def _with_maps(config: DataConfig, size: Size, held_out: bool) -> Source:
    """The images with label and instance maps of a data config."""
    names = ("scenes", "photos", "folder", "arrayrecord")
    check_choice("config.data.name (with label maps)", config.name, names)
    if config.name == "scenes":
        return InstanceScenes(size, scenes.EVAL if held_out else scenes.TRAIN)
    if config.name == "photos":
        if held_out:
            return Clustered(HeldOutPhotos(size), config.maps)
        return Clustered(Photos(augmentation(config, size)), config.maps)
    name = "eval_path" if held_out and config.eval_path else "path"
    path, key = config[name], f"config.data.{name}"
    if config.name == "folder":
        source = labelled_folder(config, path, key, size, held_out)
        if TREES[config.maps.layout].phases:
            return source
    else:
        source = labelled_shards(config, path, key, size, train=not held_out)
    return source if config.eval_path else Part(source, _share(source.names, held_out))


def _plugin(config: DataConfig, size: Size, held_out: bool) -> Usable:
    """The source that another package makes."""
    source = plugins.load(plugins.SOURCES, config.name)(config, size, held_out)
    return _checked(source, "config.data.name", config.name)


def _stored(
    config: DataConfig,
    path: str,
    key: str,
    size: Size,
    how: Augment | None,
    held_out: bool = False,
) -> Pictures | Pairs:
    names = ("photos", "digits", "folder", "aligned", "tfds", "arrayrecord", "scenes")
    choices = (*names, *plugins.names(plugins.SOURCES))
    check_choice("config.data.name", config.name, choices)
    classes = config.get("classes", 0)
    if config.name == "digits":
        return digits(size, how, classes)
    if config.name == "folder":
        return folder(path, key, size, how, classes)
    if config.name == "aligned":
        direction = config.get("direction", "AtoB")
        return Pairs(folder(path, key, size, how), direction)
    if config.name == "arrayrecord":
        return packed(path, key, size, how)
    # TFDS keeps all splits in one folder; `eval_path` is the name of the held-out
    # split.
    split = path if held_out else config.get("split", "train")
    return tfds(config.path, "config.data.path", split, size, how, classes)


def training_files(config: DataConfig) -> list[Path]:
    """The files that a folder's config is trained on, as far as they are there."""
    return _files(config, config.path, held_out=False)


def evaluation_files(config: DataConfig) -> list[Path]:
    """The files of a folder's held-out images, as far as they are there."""
    return _files(config, config.eval_path or config.path, held_out=True)


def _files(config: DataConfig, path: str, held_out: bool) -> list[Path]:
    if config.name not in ("folder", "aligned") or not path or not Path(path).exists():
        return []
    if config.get("maps"):  # its layout says which files are held out
        return []
    files = list_images(path, "config.data.path")
    if config.eval_path:
        return files
    return [files[i] for i in _share(file_names(path, files), held_out)]


def count_same(files: Sequence[Path], others: Sequence[Path]) -> int:
    """How many files are among others, or are copies of one under the same name."""
    paths = {path.resolve() for path in others}
    by_name: dict[str, list[Path]] = {}
    for path in others:
        by_name.setdefault(path.name, []).append(path)

    def is_among(path: Path) -> bool:
        copies = by_name.get(path.name, [])
        return path.resolve() in paths or any(
            filecmp.cmp(path, other, shallow=False) for other in copies
        )

    return sum(map(is_among, files))


def _share(names: Sequence[str], held_out: bool) -> list[int]:
    """Indices of one image in HELD_OUT (at least one), or of the others."""
    order = sorted(range(len(names)), key=lambda i: (zlib.crc32(names[i].encode()), i))
    if len(order) == 1:
        return order  # a single image is used for both
    count = max(1, len(order) // HELD_OUT)
    return sorted(order[:count] if held_out else order[count:])


def _checked(source: Source, key: str, path: str) -> Usable:
    """Read up to the first good image.

    Raises:
      UserError: if there is none.
    """
    usable = Usable(source)
    try:
        usable.read(0, np.random.default_rng(0))
    except BadImage as error:
        raise UserError(
            f"{key} '{path}': {error} of {len(source)}; see the reasons above and point "
            "it to other images"
        ) from error
    return usable
