"""Label and instance maps beside their pictures: geometry, ranges, ids, colours.

Maps stay integers: int32 [h w], `label` 0 .. classes - 1 and `instance` 0 .. I - 1.
"""

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int, Int32, Integer, UInt8
from PIL import Image
from scipy import ndimage

from picjax.cli import UserError
from picjax.data.decode import open_image

MODES = (
    "resize_and_crop",
    "crop",
    "scale_width_and_crop",
    "scale_shortside_and_crop",
    "fixed",
    "none",
)
Size = tuple[int, int]
MapLike = np.ndarray | Image.Image
Map = Int32[np.ndarray, "h w"]
DONT_CARE = 255  # in label files


class Geometry(NamedTuple):
    """One resize, crop and flip, the same for a picture and all its maps.

    Attributes:
      mode: one of `MODES`.
      load_size: side that the resize aims at, in pixels.
      crop_size: side of the crop; the width of `fixed`.
      aspect_ratio: width over height of `fixed`.
      corner: left and top of the crop; what lies outside of the picture is 0.
      flip: whether left and right are exchanged, after the crop.
    """

    mode: str
    load_size: int
    crop_size: int
    aspect_ratio: float = 1.0
    corner: tuple[int, int] = (0, 0)
    flip: bool = False

    def apply(self, picture: Image.Image, resample: Image.Resampling) -> Image.Image:
        """The picture or map; bicubic for a picture, nearest for a map."""
        size = resized(self, (picture.width, picture.height))
        if size != picture.size:
            picture = picture.resize(size, resample)
        if "crop" in self.mode:
            (x, y), side = self.corner, self.crop_size
            picture = picture.crop((x, y, x + side, y + side))
        if self.flip:
            picture = picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        return picture


def resized(geometry: Geometry, size: Size) -> Size:
    """Width and height after the resize of a picture of `size` = (width, height).

    `scale_shortside_and_crop` keeps the short side as it is and sets the long one to
    load_size long / short, which distorts: the original does so, in a mode that none of
    its data sets uses.

    Raises:
      UserError: if the mode is unknown.
    """
    (w, h), load = size, geometry.load_size
    match geometry.mode:
        case "resize_and_crop":
            return load, load
        case "scale_width_and_crop":
            return (w, h) if w == load else (load, int(load * h / w))
        case "scale_shortside_and_crop":
            short, long = min(w, h), max(w, h)
            if short == load:
                return w, h
            long = int(load * long / short)
            return (short, long) if w < h else (long, short)
        case "fixed":
            return geometry.crop_size, round(geometry.crop_size / geometry.aspect_ratio)
        case "none":
            return round(w / 32) * 32, round(h / 32) * 32
        case "crop":
            return w, h
    raise UserError(f"mode '{geometry.mode}' is none of {', '.join(MODES)}; use one")


def draw_corner(
    geometry: Geometry, size: Size, rng: np.random.Generator
) -> tuple[int, int]:
    """A uniform corner at which the crop fits into a resized picture of `size`."""
    sides = resized(geometry, size)
    x, y = (rng.integers(0, max(0, s - geometry.crop_size) + 1) for s in sides)
    return int(x), int(y)


def read_image(picture: Image.Image, geometry: Geometry) -> Float[np.ndarray, "h w 3"]:
    """The transformed picture as float32 in [-1, 1]."""
    picture = geometry.apply(picture.convert("RGB"), Image.Resampling.BICUBIC)
    pixels = np.asarray(picture, np.float32) / np.float32(255)
    return (pixels - np.float32(0.5)) / np.float32(0.5)


def read_map(picture: Image.Image, geometry: Geometry) -> Int[np.ndarray, "h w"]:
    """The transformed instance map as int32; 8 or 16 bits, unscaled."""
    picture = geometry.apply(picture, Image.Resampling.NEAREST)
    return np.asarray(picture).astype(np.int32)


def read_label(
    picture: Image.Image, geometry: Geometry, label_nc: int
) -> Int[np.ndarray, "h w"]:
    """The transformed label map as int32, with 255 as the don't-care class `label_nc`.

    ADE20K's labels stay as in its files (0 unlabelled, k class k), as the original's
    training reads them.
    """
    label = read_map(picture, geometry)
    return np.where(label == DONT_CARE, label_nc, label).astype(np.int32)


def reidentify(
    ids: Integer[np.ndarray, "h w"] | Integer[np.ndarray, "h w c"],
) -> Int[np.ndarray, "h w"]:
    """Ids replaced by their rank 0 .. n - 1 among the values there are, as int32.

    Of a map with channels, the first counts. Save ranks with 16 bits: the original's 8
    wrap beyond 256 instances and merge unrelated ones.
    """
    ids = ids[..., 0] if ids.ndim == 3 else ids
    values = np.unique(ids)
    return np.searchsorted(values, ids).astype(np.int32)


# ---- ids ----


def classes(config: Any) -> int:
    """Number of classes of `config.data.maps`, that of unlabelled pixels included."""
    return config.label_nc + config.dontcare


def as_map(picture: MapLike, name: str) -> Map:
    """Indices of each pixel as int32.

    Args:
      picture: integers [h w], or a Pillow image of indices (8 or 16 bits, palettes
        included); three equal channels count as one.
      name: for errors.

    Raises:
      UserError: if it holds colours or fractions.
    """
    values = np.asarray(picture)
    if values.ndim == 3 and (values == values[..., :1]).all():
        values = values[..., 0]
    if values.ndim != 2 or values.dtype.kind not in "iub":
        raise UserError(
            f"{name} is {values.dtype} of shape {values.shape}, not indices [h w]; give "
            "the map of class numbers, not its colours"
        )
    return values.astype(np.int32)


def read_indices(path: Path) -> Map:
    """The indices of a map file.

    Raises:
      BadImage: if it is damaged or no image.
      UserError: if it holds colours.
    """
    with open_image(path) as picture:
        values = np.asarray(picture)
    return as_map(values, f"'{path}'")


def connected(label: Map) -> Map:
    """Ids of the connected regions of equal labels, neighbours by a side, from 0."""
    regions, first = np.zeros(label.shape, np.int32), 0
    for value in np.unique(label):
        labelled: Any = ndimage.label(label == value)
        found, count = labelled
        regions += np.where(found > 0, found + (first - 1), 0).astype(np.int32)
        first += count
    return regions


def fill_nearest(values: Map, missing: Bool[np.ndarray, "h w"]) -> Map:
    """A map whose missing pixels have the value of the nearest one that is not."""
    nearest: Any = ndimage.distance_transform_edt(
        missing, return_distances=False, return_indices=True
    )
    return values[tuple(nearest)]


def check_maps(
    label: Int[np.ndarray, "h w"],
    instance: Int[np.ndarray, "y x"],
    classes: int,
    instances: int,
    name: str,
) -> None:
    """Refuse maps that the networks would silently misread.

    On a device, an index beyond a table reads its last row.

    Args:
      label: classes; fewer than `classes` of them.
      instance: instance ids; fewer than `instances` of them.
      classes: rows of the class tables.
      instances: size of the padded instance axis.
      name: the file or example, for the message.

    Raises:
      UserError: if the sizes differ or an id is out of range.
    """
    check_same_size(label.shape, instance.shape, name)
    if label.min() < 0 or label.max() >= classes:
        raise UserError(
            f"'{name}' has labels from {label.min()} to {label.max()}, where the model "
            f"has classes 0 to {classes - 1}; set config.model.label_nc, or "
            "config.model.dontcare for a class of unlabelled pixels"
        )
    if instance.min() < 0 or instance.max() >= instances:
        raise UserError(
            f"'{name}' has instances from {instance.min()} to {instance.max()}, where "
            f"the model has room for 0 to {instances - 1}; renumber them from 0 or "
            "raise config.model.instances"
        )


def check_same_size(label: Size, instance: Size, name: str) -> None:
    """Refuse maps whose (height, width) differ.

    Raises:
      UserError: if they do.
    """
    if label != instance:
        raise UserError(
            f"'{name}' has a label map of {label} and an instance map of {instance}; "
            "resize both to their image's size"
        )


# ---- output ----


def to_uint8(image: Float[Any, "h w 3"]) -> UInt8[np.ndarray, "h w 3"]:
    """An image in [-1, 1] as bytes, truncated as the original does."""
    pixels = (np.asarray(image, np.float32) + 1) / 2 * 255
    return np.clip(pixels, 0, 255).astype(np.uint8)


def palette(classes: int) -> UInt8[np.ndarray, "n 3"]:
    """One colour per class: Cityscapes' for 35 classes, else by the bits of id + 1."""
    if classes == len(CITYSCAPES):
        return np.array(CITYSCAPES, np.uint8)
    ids = np.arange(1, classes + 1)
    colours = np.zeros((classes, 3), np.int64)
    for bit in range(7):
        for channel in range(3):
            colours[:, channel] |= (ids >> (3 * bit + channel) & 1) << (7 - bit)
    return colours.astype(np.uint8)


def colour(label: Int[np.ndarray, "h w"], classes: int) -> UInt8[np.ndarray, "h w 3"]:
    """A label map in colours; a label beyond the palette is black."""
    colours = np.concatenate([palette(classes), np.zeros((1, 3), np.uint8)])
    inside = (label >= 0) & (label < classes)
    return colours[np.where(inside, label, classes)]


# Colours of the 35 ids of Cityscapes.
CITYSCAPES = (
    (0, 0, 0),
    (0, 0, 0),
    (0, 0, 0),
    (0, 0, 0),
    (0, 0, 0),
    (111, 74, 0),
    (81, 0, 81),
    (128, 64, 128),
    (244, 35, 232),
    (250, 170, 160),
    (230, 150, 140),
    (70, 70, 70),
    (102, 102, 156),
    (190, 153, 153),
    (180, 165, 180),
    (150, 100, 100),
    (150, 120, 90),
    (153, 153, 153),
    (153, 153, 153),
    (250, 170, 30),
    (220, 220, 0),
    (107, 142, 35),
    (152, 251, 152),
    (70, 130, 180),
    (220, 20, 60),
    (255, 0, 0),
    (0, 0, 142),
    (0, 0, 70),
    (0, 60, 100),
    (0, 0, 90),
    (0, 0, 110),
    (0, 80, 100),
    (0, 0, 230),
    (119, 11, 32),
    (0, 0, 142),
)
