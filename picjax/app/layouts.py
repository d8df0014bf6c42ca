"""Label and instance maps as the page paints them, shows them and is clicked on them."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Int, UInt8
from PIL import Image, ImageDraw, ImageFont
from scipy import ndimage

from picjax.cli import UserError
from picjax.data import maps
from picjax.data.maps import Map

SIDE = 512  # pixels that the longer side of a layout is enlarged to, for the mouse
NEAR = 12  # levels by which a painted colour may differ from the palette's
FONT = 28  # pixels of an enlarged layout

Palette = UInt8[np.ndarray, "n 3"]


class LabelMaps(NamedTuple):
    """A layout.

    Attributes:
      label: class of each pixel.
      instance: id of each pixel's instance.
    """

    label: Map
    instance: Map


def blank(size: tuple[int, int]) -> LabelMaps:
    """A layout of one instance of the first class, at a height and width."""
    zeros = np.zeros(size, np.int32)
    return LabelMaps(zeros, zeros)


def enlarged(values: np.ndarray) -> np.ndarray:
    """A small map or picture, each pixel repeated until it can be clicked on."""
    factor = max(1, SIDE // max(values.shape[:2]))
    return values.repeat(factor, 0).repeat(factor, 1)


# ---- painting ----


def read_strokes(value: dict[str, Any], size: tuple[int, int], palette: Palette) -> Map:
    """What is painted on the editor, as classes.

    Args:
      value: of the editor; its brush has the palette's colours.
      size: height and width of the layout.
      palette: colour of each class.

    Returns:
      Class of each pixel, -1 where nothing is painted.
    """
    strokes = np.full(size, -1, np.int32)
    for layer in value["layers"]:
        box = (size[1], size[0])
        pixels = np.asarray(layer.resize(box, Image.Resampling.NEAREST)).astype(int)
        painted = pixels[..., 3] >= 128
        if painted.any():
            strokes[painted] = nearest_classes(pixels[..., :3], painted, palette)
    return strokes


def nearest_classes(
    colours: Int[np.ndarray, "h w 3"],
    painted: Bool[np.ndarray, "h w"],
    palette: Palette,
) -> Int[np.ndarray, " p"]:
    """Classes of the painted pixels.

    Where the edges of two strokes mix their colours, a pixel has the class of the
    nearest pixel that is of one colour.
    """
    distance = np.abs(colours[painted][:, None] - palette.astype(int)).max(-1)
    classes = np.zeros(painted.shape, np.int32)
    classes[painted] = distance.argmin(-1)
    mixed = np.ones(painted.shape, bool)
    mixed[painted] = distance.min(-1) > NEAR
    if not mixed.all():
        classes = maps.fill_nearest(classes, mixed)
    return classes[painted]


def with_strokes(layout: LabelMaps, strokes: Map) -> LabelMaps:
    """A layout with strokes on it: each connected region of a class is a new instance."""
    painted = strokes >= 0
    if not painted.any():
        return layout
    label, instance = np.where(painted, strokes, layout.label), layout.instance.copy()
    regions = maps.connected(strokes)[painted]
    instance[painted] = instance.max() + 1 + maps.reidentify(regions[:, None])[:, 0]
    return LabelMaps(label, instance)


# ---- instances ----


def classes_of(layout: LabelMaps) -> dict[int, int]:
    """The class of each instance by its id, that of most of its pixels."""
    ids = np.unique(layout.instance)
    return {
        int(i): int(np.bincount(layout.label[layout.instance == i]).argmax())
        for i in ids
    }


def outlined(
    picture: UInt8[np.ndarray, "h w 3"], layout: LabelMaps, chosen: Sequence[int]
) -> UInt8[np.ndarray, "y x 3"]:
    """A picture of a layout, with instances outlined and numbered.

    Args:
      picture: at the size of the layout.
      layout: the maps.
      chosen: ids of instances that are highlighted; the others are paler.
    """
    ids, image = enlarged(layout.instance), enlarged(picture).copy()
    if chosen:
        others = ~np.isin(ids, list(chosen))
        image[others] = (image[others].astype(int) + 2 * 255) // 3
    edge = np.zeros(ids.shape, bool)
    edge[1:] |= ids[1:] != ids[:-1]
    edge[:, 1:] |= ids[:, 1:] != ids[:, :-1]
    image[edge] = 255
    canvas = Image.fromarray(image)
    brush, font = ImageDraw.Draw(canvas), ImageFont.load_default(FONT)
    for identity in np.unique(ids):
        y, x = inner_point(ids == identity)
        options: Any = {"anchor": "mm", "font": font, "stroke_width": 2}
        brush.text((x, y), str(identity), "white", stroke_fill="black", **options)
    return np.asarray(canvas)


def inner_point(region: Bool[np.ndarray, "h w"]) -> tuple[int, int]:
    """The row and column of a region's pixel that is farthest from its edge."""
    (rows, columns) = ndimage.find_objects(region.astype(np.int8))[0]
    inside = np.pad(region[rows, columns], 1)
    distance: Any = ndimage.distance_transform_edt(inside)
    y, x = np.unravel_index(distance.argmax(), inside.shape)
    return int(y) - 1 + rows.start, int(x) - 1 + columns.start


def instance_at(layout: LabelMaps, x: int, y: int) -> int:
    """The id of the instance at a pixel of the enlarged layout.

    Raises:
      UserError: if the pixel lies outside.
    """
    factor = max(1, SIDE // max(layout.instance.shape))
    row, column = y // factor, x // factor
    height, width = layout.instance.shape
    if not (0 <= row < height and 0 <= column < width):
        raise UserError("the click is outside of the layout; click on an instance")
    return int(layout.instance[row, column])
