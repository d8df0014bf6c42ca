"""Where images come from: photos, digits, folders, pairs, TFDS, shards, scenes.

A source has a length and `read(index, rng)`, which gives an image at its final size, a
name and perhaps more. The generator decides augmentation and nothing else, so a source
is a function of index and generator.
"""

import os
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
from PIL import Image

from picjax.cli import UserError, check_choice
from picjax.data import scenes
from picjax.data.decode import BadImage, decode, list_images, say
from picjax.data.photos import HeldOutPhotos, Photos
from picjax.data.transforms import (
    Augment,
    Pixels,
    Size,
    augment,
    augmentation,
    resample,
)

Element = dict[str, Any]
DataConfig = Any  # the `data` part of a ConfigDict; configs/picmm.py explains its keys
HELD_OUT = 20  # without eval_path, one image in 20 is held out


@runtime_checkable
class Source(Protocol):
    """Images by index."""

    def __len__(self) -> int: ...

    def read(self, index: int, rng: np.random.Generator) -> Element:
        """`image` uint8 [h w 3], `name`, and what else the data set says.

        Raises:
          BadImage: when there is no usable image at this index.
        """
        ...


# ---- scenes ----


class Scenes:
    """Procedural images with a known posterior (docs/scenes.md)."""

    def __init__(self, size: Size, indices: range):
        self.size = size
        self.indices = indices

    def __len__(self) -> int:
        return len(self.indices)

    def read(self, index: int, rng: np.random.Generator) -> Element:
        """Also `scene` (the class) and `scene_attributes`, for metrics.posterior."""
        found = scenes.sample(0, self.indices[index], self.size)
        return {
            "image": found["image"],
            "name": f"scene_{index:05}",
            "scene": np.int32(found["scene"]),
            "scene_attributes": found["attributes"],
        }


# ---- files and records ----


class Pictures:
    """Pictures by index, augmented; without `how`, resized whole.

    Args:
      load: index -> (picture or pixels, `name` and what else is known of it); raises
        BadImage.
      names: a string for each index, by whose hash images are held out.
      size: of what comes out.
      how: augmentation, or None at evaluation.
    """

    def __init__(
        self,
        load: Callable[[int], tuple[Any, Element]],
        names: Sequence[str],
        size: Size,
        how: Augment | None,
    ):
        self.load, self.names, self.size, self.how = load, names, size, how

    def __len__(self) -> int:
        return len(self.names)

    def read(self, index: int, rng: np.random.Generator) -> Element:
        """Decodes, then one resampling."""
        picture, about = self.load(index)
        return {"image": self.render(picture, rng), **about}

    def render(
        self, picture: Image.Image | np.ndarray, rng: np.random.Generator
    ) -> Pixels:
        """A picture at the final size."""
        if self.how is not None:
            return augment(picture, self.how, rng)
        if isinstance(picture, np.ndarray):
            picture = Image.fromarray(picture)
        return resample(picture, self.size)


class Pairs:
    """Files of two pictures side by side, A left of B, augmented alike.

    Args:
      files: of pairs; its `how` and size are those of one half.
      direction: `AtoB` makes B from A, `BtoA` the reverse.

    Raises:
      UserError: for another direction.
    """

    def __init__(self, files: Pictures, direction: str):
        if direction not in ("AtoB", "BtoA"):
            raise UserError(
                f"config.data.direction '{direction}' is neither AtoB nor BtoA"
            )
        self.files, self.names, self.direction = files, files.names, direction

    def __len__(self) -> int:
        return len(self.files)

    def read(self, index: int, rng: np.random.Generator) -> Element:
        """`condition` is what `image` is to be made from."""
        pair, about = self.files.load(index)
        middle = pair.width // 2
        boxes = [(0, 0, middle, pair.height), (middle, 0, pair.width, pair.height)]
        seed = int(rng.integers(2**63))  # the same draws for both
        a, b = (
            self.files.render(pair.crop(box), np.random.default_rng(seed))
            for box in boxes
        )
        condition, image = (a, b) if self.direction == "AtoB" else (b, a)
        return {"image": image, "condition": condition, **about}


class Part:
    """Some indices of a source."""

    def __init__(self, source: Source, indices: Sequence[int]):
        self.source, self.indices = source, indices

    def __len__(self) -> int:
        return len(self.indices)

    def read(self, index: int, rng: np.random.Generator) -> Element:
        """The chosen one."""
        return self.source.read(self.indices[index], rng)


class Usable:
    """A source whose bad images are replaced by the next good one.

    Each is named once, with its reason.
    """

    def __init__(self, source: Source):
        self.source = source
        self.said: set[int] = set()

    def __len__(self) -> int:
        return len(self.source)

    def try_read(self, index: int, rng: np.random.Generator) -> Element | None:
        """None for a bad image."""
        try:
            return self.source.read(index, rng)
        except BadImage as error:
            if index not in self.said:
                self.said.add(index)
                say(f"skipped {error}")
            return None

    def read(self, index: int, rng: np.random.Generator) -> Element:
        """The image at `index` or the next good one after it.

        Raises:
          BadImage: when none is good.
        """
        for offset in range(len(self)):
            found = self.try_read((index + offset) % len(self), rng)
            if found is not None:
                return found
        raise BadImage("no image can be read")


def folder(
    path: str, key: str, size: Size, how: Augment | None, classes: int = 0
) -> Pictures:
    """The images of a directory tree or a .txt list.

    Args:
      path: of the tree or list.
      key: what to call it in errors.
      size: of what comes out.
      how: augmentation, or None.
      classes: of how many classes they are, each in a folder of its own below `path`;
        they are numbered in the order of names. 0: whatever.

    Raises:
      UserError: when there is no image, or there are not so many classes.
    """
    paths = list_images(path, key)
    names, inside = file_names(path, paths), below(path, paths)
    target = max(how.load_size if how else size)
    about: list[Element] = [{"name": name} for name in names]
    if classes:
        # A file that is in no folder is alone in its class, which does not fit either.
        tops = [file.partition(os.sep)[0] for file in inside]
        kinds = sorted(set(tops))
        check_classes(classes, len(kinds), f"{key} '{path}' has so many folders")
        about = [x | in_class(kinds.index(y)) for x, y in zip(about, tops, strict=True)]

    def load(index: int) -> tuple[Image.Image, Element]:
        try:
            return decode(paths[index], target), about[index]
        except BadImage as error:
            raise BadImage(f"'{paths[index]}': {error}") from error

    return Pictures(load, names, size, how)


def below(path: str, files: Sequence[Path]) -> list[str]:
    """The files as seen from the folder, or from the list, that they are of."""
    base = path if os.path.isdir(path) else os.path.dirname(path) or "."
    return [os.path.relpath(file, base) for file in files]


def file_names(path: str, files: Sequence[Path]) -> list[str]:
    """What to call images: without folder and extension where that tells them apart."""
    names = [file.stem for file in files]
    if len(set(names)) == len(names):
        return names
    return [_flat(file) for file in below(path, files)]


def in_class(label: int) -> Element:
    """What an element says of its class."""
    return {"class": np.int32(label)}


def check_classes(wanted: int, found: int, where: str) -> None:
    """Refuses data of another number of classes.

    Raises:
      UserError: naming both.
    """
    if wanted != found:
        raise UserError(
            f"config.data.classes is {wanted}, where {found} are found ({where}); "
            "mend it, or make it 0 to do without"
        )


def _flat(path: str) -> str:
    """A path as a file name without extension."""
    parts = Path(path).with_suffix("").parts
    return "_".join(part for part in parts if part != "..")


def packed(path: str, key: str, size: Size, how: Augment | None) -> Pictures:
    """The shards that `python -m picjax.data.pack` wrote.

    Raises:
      UserError: when there are none, or they are of another kind.
    """
    from picjax.data import pack

    shards = pack.open_shards(path, key)

    def load(index: int) -> tuple[np.ndarray, Element]:
        pixels, name = pack.unpack(shards[index])
        return pixels, {"name": _flat(name)}

    names = [f"{index:07}" for index in range(len(shards))]
    return Pictures(load, names, size, how)


def tfds(
    path: str,
    key: str,
    split: str,
    size: Size,
    how: Augment | None,
    classes: int = 0,
) -> Pictures:
    """A split of a prepared TFDS data set with a feature called `image`.

    With `classes` each image's is that of the feature `label`.

    Raises:
      UserError: when it cannot be read that way, or has not so many classes.
    """
    import tensorflow_datasets

    try:
        builder: Any = tensorflow_datasets.builder_from_directory(path)
        source = builder.as_data_source(split)
    except Exception as error:  # it raises many kinds, TensorFlow's missing among them
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(
            f"{key} '{path}' is no TFDS data set whose split '{split}' can be read "
            f"({reason}); prepare it with file_format='array_record'"
        ) from error
    if "image" not in builder.info.features:
        raise UserError(
            f"{key} '{path}' has no feature 'image'; choose another data set"
        )

    if classes:
        features = builder.info.features
        found = features["label"].num_classes if "label" in features else 0
        check_classes(classes, found, f"the feature 'label' of '{path}'")

    def load(index: int) -> tuple[np.ndarray, Element]:
        record = source[index]
        image = np.asarray(record["image"])
        about = in_class(int(record["label"])) if classes else {}
        about |= {"name": names[index]}
        grey = image.shape[2] == 1
        return np.repeat(image, 3, 2) if grey else image[..., :3], about

    names = [f"{index:07}" for index in range(len(source))]
    return Pictures(load, names, size, how)


# ---- digits ----


def digits(size: Size, how: Augment | None, classes: int = 0) -> Pictures:
    """scikit-learn's handwritten digits: 1,797 images of 8 x 8 pixels, 17 greys.

    Raises:
      UserError: when classes are asked for, but not ten.
    """
    from sklearn.datasets import load_digits

    found: Any = load_digits()
    greys = np.round(found.images * (255 / 16)).astype(np.uint8)
    pixels = np.repeat(greys[..., None], 3, -1)
    names = [f"digit{label}_{i:04}" for i, label in enumerate(found.target)]
    if classes:
        check_classes(classes, 10, "digits")

    def load(index: int) -> tuple[np.ndarray, Element]:
        about = in_class(int(found.target[index])) if classes else {}
        return pixels[index], about | {"name": names[index]}

    return Pictures(load, names, size, how)


# ---- by config ----


def training(config: DataConfig, size: Size) -> Usable:
    """The training images of a data config.

    Raises:
      UserError: when there is none, before anything else is done.
    """
    how = augmentation(config, size)
    classes = config.get("classes", 0)
    if classes and config.name not in ("digits", "folder", "tfds"):
        check_classes(classes, 0, config.name)
    if config.name == "photos":
        return Usable(Photos(how))
    if config.name == "scenes":
        return Usable(Scenes(size, scenes.TRAIN))
    source = _stored(config, config.path, "config.data.path", "train", size, how)
    if not _own_held_out(config):
        source = Part(source, _share(source, held_out=False))
    return _checked(source, "config.data.path", config.path)


def evaluation(config: DataConfig, size: Size) -> Usable:
    """The held-out images of a data config, resized whole or, by `aspect`, cropped.

    Without `eval_path` they are one in 20 of the images at `path`, which training
    leaves out, chosen by a hash of their names.

    Raises:
      UserError: when there is none.
    """
    if config.name == "photos":
        return Usable(HeldOutPhotos(size))
    if config.name == "scenes":
        return Usable(Scenes(size, scenes.EVAL))
    how = None
    if config.crop == "aspect":
        how = augmentation(config, size)._replace(flip=False, rotation=0.0)
    if _own_held_out(config):
        path, key = config.eval_path, "config.data.eval_path"
        return _checked(_stored(config, path, key, "eval", size, how), key, path)
    source = _stored(config, config.path, "config.data.path", "train", size, how)
    part = Part(source, _share(source, held_out=True))
    return _checked(part, "config.data.path", config.path)


def _own_held_out(config: DataConfig) -> bool:
    return bool(config.eval_path)


def _stored(
    config: DataConfig, path: str, key: str, part: str, size: Size, how: Augment | None
) -> Pictures | Pairs:
    names = ("photos", "digits", "folder", "aligned", "tfds", "arrayrecord", "scenes")
    check_choice("config.data.name", config.name, names)
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
    # TFDS: its splits are in one folder, `eval_path` is the name of the held-out one.
    split = path if part == "eval" else config.get("split", "train")
    return tfds(config.path, "config.data.path", split, size, how, classes)


def _share(source: Pictures | Pairs, held_out: bool) -> list[int]:
    """Indices of one image in HELD_OUT (at least one), or of the others."""
    order = sorted(
        range(len(source)), key=lambda i: (zlib.crc32(source.names[i].encode()), i)
    )
    if len(order) == 1:
        return order  # a single image is both
    count = max(1, len(order) // HELD_OUT)
    return sorted(order[:count] if held_out else order[count:])


def _checked(source: Source, key: str, path: str) -> Usable:
    """Reads up to the first good image.

    Raises:
      UserError: when there is none.
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
