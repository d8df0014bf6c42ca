"""Stored pictures: folders of files, packed shards, TFDS data sets, digits."""

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from etils import epath
from PIL import Image

from picjax import buckets
from picjax.buckets import AnyPath
from picjax.cli import UserError
from picjax.data.decode import BadImage, decode
from picjax.data.listing import list_data
from picjax.data.records import unpack
from picjax.data.shards import open_shards
from picjax.data.transforms import Augment, Pixels, Size, augment, resample

Element = dict[str, Any]


class Pictures:
    """Pictures by index, augmented, or only resized.

    Args:
      load: index -> (picture or pixels, `name` and other entries of the element);
        raises BadImage.
      names: a string per index; held-out images are chosen by its hash.
      size: height and width of the images.
      how: augmentation, or None in evaluation.
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
        """Decode a picture and resample it once."""
        picture, extra = self.load(index)
        return {"image": self.render(picture, rng), **extra}

    def render(
        self, picture: Image.Image | np.ndarray, rng: np.random.Generator
    ) -> Pixels:
        """The image of a picture at its final size."""
        if self.how is not None:
            return augment(picture, self.how, rng)
        if isinstance(picture, np.ndarray):
            picture = Image.fromarray(picture)
        return resample(picture, self.size)


def folder(
    path: str, key: str, size: Size, how: Augment | None, classes: int = 0
) -> Pictures:
    """The images of a directory tree or a .txt list.

    Args:
      path: the tree or list.
      key: name of the setting for errors.
      size: height and width of the images.
      how: augmentation, or None.
      classes: number of classes, each in a folder of its own below `path`, numbered in
        alphabetical order; 0: without classes.

    Raises:
      UserError: if there is no image, or the number of classes differs.
    """
    paths = list_data(path, key)
    names = file_names(path, paths)
    target = max(how.load_size if how else size)
    folders, order = [], []
    if classes:
        # A file outside of all folders counts as a class, so that the numbers differ.
        folders = [x.partition(os.sep)[0] for x in relative_paths(path, paths)]
        order = sorted(set(folders))
        check_classes(classes, len(order), f"{key} '{path}' has so many folders")

    def load(index: int) -> tuple[Image.Image, Element]:
        extra = class_label(order.index(folders[index])) if classes else {}
        try:
            return decode(paths[index], target), extra | {"name": names[index]}
        except BadImage as error:
            raise BadImage(f"'{paths[index]}': {error}") from error

    return Pictures(load, names, size, how)


def relative_paths(path: str, files: Sequence[AnyPath]) -> list[str]:
    """The paths of files relative to the folder or list that they belong to."""
    base = path if epath.Path(path).is_dir() else os.path.dirname(path) or "."
    return [os.path.relpath(file, base) for file in files]


def file_names(path: str, files: Sequence[AnyPath]) -> list[str]:
    """Names of images: the stems of their files if unique, else with their folders."""
    names = [file.stem for file in files]
    if len(set(names)) == len(names):
        return names
    return [_flat_name(file) for file in relative_paths(path, files)]


def _flat_name(path: str) -> str:
    """A path as a file name without extension."""
    parts = Path(path).with_suffix("").parts
    return "_".join(part for part in parts if part != "..")


def class_label(label: int) -> Element:
    """The entry of an element for its class."""
    return {"class": np.int32(label)}


def check_classes(expected: int, actual: int, source: str) -> None:
    """Refuse data with another number of classes.

    Args:
      expected: `config.data.classes`.
      actual: the number of classes of the data.
      source: where the actual number is from.

    Raises:
      UserError: if the numbers differ.
    """
    if expected != actual:
        raise UserError(
            f"config.data.classes is {expected}, where {actual} are found ({source}); "
            "correct it, or set it to 0 to ignore classes"
        )


def packed(path: str, key: str, size: Size, how: Augment | None) -> Pictures:
    """The shards that `python -m picjax.data.pack` wrote.

    Raises:
      UserError: if there are none, or they have another format.
    """
    shards = open_shards(path, key)

    def load(index: int) -> tuple[np.ndarray, Element]:
        pixels, name = unpack(shards[index])
        return pixels, {"name": _flat_name(name)}

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
    """A split of a prepared TFDS data set with a feature `image`.

    Args:
      path: folder of the prepared data set.
      key: name of the setting for errors.
      split: name of the split.
      size: height and width of the images.
      how: augmentation, or None.
      classes: number of classes of the feature `label`; 0: without classes.

    Raises:
      UserError: if it cannot be read that way, or the number of classes differs.
    """
    import tensorflow_datasets

    buckets.check(path, key)
    try:
        builder: Any = tensorflow_datasets.builder_from_directory(path)
        source = builder.as_data_source(split)
    except Exception as error:  # of many types, a missing TensorFlow among them
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(
            f"{key} '{path}' is no TFDS data set whose split '{split}' can be read "
            f"({reason}); prepare it with file_format='array_record'"
        ) from error
    features = builder.info.features
    if "image" not in features:
        raise UserError(
            f"{key} '{path}' has no feature 'image'; choose another data set"
        )
    if classes:
        actual = features["label"].num_classes if "label" in features else 0
        check_classes(classes, actual, f"the feature 'label' of '{path}'")

    def load(index: int) -> tuple[np.ndarray, Element]:
        record = source[index]
        image = np.asarray(record["image"])
        extra = class_label(int(record["label"])) if classes else {}
        extra |= {"name": names[index]}
        grey = image.shape[2] == 1
        return np.repeat(image, 3, 2) if grey else image[..., :3], extra

    names = [f"{index:07}" for index in range(len(source))]
    return Pictures(load, names, size, how)


def digits(size: Size, how: Augment | None, classes: int = 0) -> Pictures:
    """scikit-learn's handwritten digits: 1,797 images of 8 x 8 pixels, 17 grey levels.

    Raises:
      UserError: if the number of classes is neither 0 nor ten.
    """
    from sklearn.datasets import load_digits

    data: Any = load_digits()
    greys = np.round(data.images * (255 / 16)).astype(np.uint8)
    pixels = np.repeat(greys[..., None], 3, -1)
    names = [f"digit{label}_{i:04}" for i, label in enumerate(data.target)]
    if classes:
        check_classes(classes, 10, "digits")

    def load(index: int) -> tuple[np.ndarray, Element]:
        extra = class_label(int(data.target[index])) if classes else {}
        return pixels[index], extra | {"name": names[index]}

    return Pictures(load, names, size, how)
