"""Masks: uint8 [h w], 1 = known, 0 = hole, by name, at random or from files.

`make(name, size, rng)` draws one of NAMES; the same generator state gives the same
mask. The official shapes are those of PICNet's code (Zheng et al., CVPR 2019).
"""

import difflib
import random
from collections.abc import Callable
from functools import lru_cache, partial
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageDraw, ImageOps

from picjax.cli import UserError

Mask = UInt8[np.ndarray, "h w"]
Size = tuple[int, int]
HOLE_RATIO = (0.2, 0.6)  # of free-form masks
IRREGULAR_LEAST = 64  # pixels: as in the official code


def make(
    name: str,
    size: Size,
    rng: np.random.Generator,
    hole_ratio: tuple[float, float] = HOLE_RATIO,
) -> Mask:
    """A mask by name.

    Args:
      name: one of NAMES.
      size: height and width, pixels.
      rng: what random masks are drawn with.
      hole_ratio: bounds of the hole's share, for `freeform` alone.

    Raises:
      UserError: for a name that there is none of, a size too small for it, or a ratio
        outside 0 < low < high < 1.
    """
    check_name(name)
    if name == "irregular" and min(size) < IRREGULAR_LEAST:
        raise UserError(
            f"mask 'irregular' needs {IRREGULAR_LEAST} pixels a side, not {min(size)}: "
            "its strokes do not scale; take 'freeform'"
        )
    if name != "freeform":
        return MASKS[name](rng, *size)
    low, high = hole_ratio
    if not 0 < low < high < 1:
        raise UserError(
            f"hole_ratio {low}, {high} is no range between 0 and 1; give (0.2, 0.6)"
        )
    return freeform(rng, *size, low, high)


def check_name(name: str) -> None:
    """Refuses what no mask is called.

    Raises:
      UserError: with the names there are, and the nearest.
    """
    if name not in MASKS:
        near = difflib.get_close_matches(name, NAMES, n=1)
        hint = f"did you mean '{near[0]}'?" if near else "give one of them"
        raise UserError(f"mask '{name}' is none of {', '.join(NAMES)}; {hint}")


# ---- simple ----


def center(rng: np.random.Generator, h: int, w: int) -> Mask:
    """The official centre hole: rows h/4 to 3h/4, columns likewise."""
    mask = np.ones((h, w), np.uint8)
    mask[h // 4 : h * 3 // 4, w // 4 : w * 3 // 4] = 0
    return mask


def side(known: str, rng: np.random.Generator, h: int, w: int) -> Mask:
    """Half the image is known: left, right, top or bottom (odd sizes: the smaller)."""
    mask = np.zeros((h, w), np.uint8)
    part = {
        "left": np.s_[:, : w // 2],
        "right": np.s_[:, w - w // 2 :],
        "top": np.s_[: h // 2],
        "bottom": np.s_[h - h // 2 :],
    }
    mask[part[known]] = 1
    return mask


def top_17_of_32(rng: np.random.Generator, h: int, w: int) -> Mask:
    """17 rows of 32 are known, as in a report of PixelCNN++ on ImageNet."""
    mask = np.zeros((h, w), np.uint8)
    mask[: h * 17 // 32] = 1
    return mask


def half(rng: np.random.Generator, h: int, w: int) -> Mask:
    """Half the image is known, which one is drawn."""
    sides = ("left", "right", "top", "bottom")
    return side(sides[rng.integers(4)], rng, h, w)


def outpaint(rng: np.random.Generator, h: int, w: int) -> Mask:
    """A window is known, anywhere, its sides 0.5 to 0.8 of the image's."""
    share = rng.uniform(0.5, 0.8)
    rows, columns = max(1, round(share * h)), max(1, round(share * w))
    y, x = rng.integers(h - rows + 1), rng.integers(w - columns + 1)
    mask = np.zeros((h, w), np.uint8)
    mask[y : y + rows, x : x + columns] = 1
    return mask


# ---- the official random ones ----


class Draws(NamedTuple):
    """Where random numbers come from.

    Attributes:
      integer: (low, high) -> an integer, both ends included.
      unit: () -> in [0, 1).
    """

    integer: Callable[[int, int], int]
    unit: Callable[[], float]


def numpy_draws(rng: np.random.Generator) -> Draws:
    """From a NumPy generator."""
    return Draws(lambda low, high: int(rng.integers(low, high + 1)), rng.random)


def python_draws(seed: int) -> Draws:
    """From Python's generator: the official code's draws after `random.seed(seed)`."""
    rng = random.Random(seed)
    return Draws(rng.randint, rng.random)


def rectangles(draws: Draws, h: int, w: int) -> Mask:
    """PICNet's "random regular": 1 to 5 rectangles, which may overlap."""
    mask = np.ones((h, w), np.uint8)
    n = draws.integer(1, 5)
    for _ in range(n):
        y = draws.integer(0, int(h - h / (n + 1)))
        x = draws.integer(0, int(w - w / (n + 1)))
        y2 = y + draws.integer(int(h / (n + 7)), int(h - y))
        x2 = x + draws.integer(int(w / (n + 7)), int(w - x))
        mask[y:y2, x:x2] = 0
    return mask


class Line(NamedTuple):
    """From (x1, y1) to (x2, y2), round ends."""

    x1: int
    y1: int
    x2: int
    y2: int
    thickness: int


class Circle(NamedTuple):
    """Filled."""

    x: int
    y: int
    radius: int


class Arc(NamedTuple):
    """Of an ellipse turned by `rotation`; degrees, clockwise."""

    x: int
    y: int
    axis1: int
    axis2: int
    rotation: int
    start: int
    end: int
    thickness: int


def irregular_primitives(draws: Draws, h: int, w: int) -> list[Line | Circle | Arc]:
    """What PICNet's "random irregular" draws: 16 to 64 lines, circles and arcs.

    Widths do not scale with the image. For h != w, where the official code fails, x
    runs over the width and y over the height.
    """
    found: list[Line | Circle | Arc] = []
    for _ in range(draws.integer(16, 64)):
        u = draws.unit()
        if u < 0.6:
            x1, x2 = draws.integer(1, w), draws.integer(1, w)
            y1, y2 = draws.integer(1, h), draws.integer(1, h)
            found.append(Line(x1, y1, x2, y2, draws.integer(4, 20)))
        elif u < 0.8:
            x, y = draws.integer(1, w), draws.integer(1, h)
            found.append(Circle(x, y, draws.integer(4, 20)))
        else:
            x, y = draws.integer(1, w), draws.integer(1, h)
            axes = draws.integer(1, h), draws.integer(1, w)
            rotation, start, end = (draws.integer(3, 180) for _ in range(3))
            thickness = draws.integer(4, 20)
            found.append(Arc(x, y, *axes, rotation, start, end, thickness))
    return found


def irregular(draws: Draws, h: int, w: int) -> Mask:
    """PICNet's "random irregular"; most of these hide about half the image."""
    picture = Image.new("L", (w, h), 1)
    brush = ImageDraw.Draw(picture)
    for primitive in irregular_primitives(draws, h, w):
        draw_primitive(brush, primitive, 0)
    return np.array(picture)


def draw_primitive(
    brush: ImageDraw.ImageDraw, primitive: Line | Circle | Arc, value: int
) -> None:
    """As OpenCV draws it, up to pixels at the edge."""
    if isinstance(primitive, Circle):
        _disk(brush, primitive.x, primitive.y, primitive.radius, value)
    elif isinstance(primitive, Line):
        p = primitive
        ends = [(float(p.x1), float(p.y1)), (float(p.x2), float(p.y2))]
        _stroke(brush, ends, p.thickness, value)
    else:
        _stroke(brush, _arc_points(primitive), primitive.thickness, value)


def _disk(brush: ImageDraw.ImageDraw, x: int, y: int, radius: int, value: int) -> None:
    corner = x - radius, y - radius
    brush.bitmap(corner, _disk_bitmap(radius), fill=value)


@lru_cache
def _disk_bitmap(radius: int) -> Image.Image:
    y, x = np.mgrid[-radius : radius + 1, -radius : radius + 1]
    return Image.fromarray(x * x + y * y <= radius * radius)


def _stroke(
    brush: ImageDraw.ImageDraw,
    points: list[tuple[float, float]],
    thickness: int,
    value: int,
) -> None:
    """A polyline with round joints and ends; odd thicknesses come out one wider."""
    radius = (thickness + 1) // 2
    for (x1, y1), (x2, y2) in pairwise(points):
        length = max(np.hypot(x2 - x1, y2 - y1), 1e-6)
        u, v = (y1 - y2) / length * radius, (x2 - x1) / length * radius
        offsets = (
            (x1 + u, y1 + v),
            (x2 + u, y2 + v),
            (x2 - u, y2 - v),
            (x1 - u, y1 - v),
        )
        corners = [(float(x), float(y)) for x, y in offsets]
        # Filled at pixel centres plus a rounded outline: how OpenCV fills a quad.
        brush.polygon([(x + 0.5, y + 0.5) for x, y in corners], fill=value)
        rounded = [(round(x), round(y)) for x, y in corners]
        brush.line([*rounded, rounded[0]], fill=value)
    for x, y in points:
        _disk(brush, round(x), round(y), radius, value)


def _arc_points(arc: Arc) -> list[tuple[float, float]]:
    """Every five degrees; an end before the start swaps them, as OpenCV does."""
    start, end = sorted((arc.start, arc.end))
    t = np.radians(np.append(np.arange(start, end, 5), end))
    c, s = np.cos(np.radians(arc.rotation)), np.sin(np.radians(arc.rotation))
    u, v = arc.axis1 * np.cos(t), arc.axis2 * np.sin(t)
    x, y = arc.x + u * c - v * s, arc.y + u * s + v * c
    return [(float(a), float(b)) for a, b in zip(x, y, strict=True)]


# ---- free-form strokes ----


def freeform(
    rng: np.random.Generator, h: int, w: int, low: float = 0.2, high: float = 0.6
) -> Mask:
    """Winding brush strokes whose hole ratio is uniform between `low` and `high`.

    Strokes as in DeepFill v2 (Yu et al., ICCV 2019) grow segment by segment until the
    hole has the size drawn for it; one that would be too large is drawn thinner.
    """
    target = rng.uniform(low, high) * h * w
    limit = min(1.02 * target, high * h * w)
    side_length = (h * w) ** 0.5
    picture = Image.new("L", (w, h), 1)
    hidden, thinner = 0, 1.0
    while hidden < target:
        x, y = rng.uniform(0, w), rng.uniform(0, h)
        angle = rng.uniform(0, 2 * np.pi)
        thickness = side_length * rng.uniform(0.03, 0.12)
        for _ in range(rng.integers(4, 12)):
            angle += rng.uniform(-1.0, 1.0)
            length = side_length * rng.uniform(0.05, 0.2) * thinner
            x2 = float(np.clip(x + length * np.cos(angle), 0, w))
            y2 = float(np.clip(y + length * np.sin(angle), 0, h))
            tried = picture.copy()
            width = max(1, round(thickness * thinner))
            _stroke(ImageDraw.Draw(tried), [(x, y), (x2, y2)], width, 0)
            now = h * w - int(np.count_nonzero(np.asarray(tried)))
            if now > limit and (width > 1 or length > 1):
                thinner *= 0.7
                continue
            picture, hidden, x, y = tried, now, x2, y2
            if hidden >= target:
                break
    return np.array(picture)


def _from_numpy(
    draw: Callable[[Draws, int, int], Mask],
) -> Callable[[np.random.Generator, int, int], Mask]:
    return lambda rng, h, w: draw(numpy_draws(rng), h, w)


MASKS: dict[str, Callable[[np.random.Generator, int, int], Mask]] = {
    "center": center,
    "half": half,
    "left": partial(side, "left"),
    "right": partial(side, "right"),
    "top": partial(side, "top"),
    "bottom": partial(side, "bottom"),
    "top_17_of_32": top_17_of_32,
    "rectangles": _from_numpy(rectangles),
    "irregular": _from_numpy(irregular),
    "freeform": freeform,
    "outpaint": outpaint,
}
NAMES = tuple(MASKS)


# ---- from files ----


def load_mask(
    path: str | Path, size: Size, invert: bool = False
) -> tuple[Mask, list[str]]:
    """A mask file at a size, with warnings that name the file; see `picture_mask`.

    Raises:
      UserError: when it cannot be read as an image.
    """
    try:
        with Image.open(path) as picture:
            mask, warnings = picture_mask(picture, size, invert)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise UserError(
            f"mask '{path}' cannot be read ({error}); give a PNG with white = hole"
        ) from error
    return mask, [f"mask '{path}': {warning}" for warning in warnings]


def picture_mask(
    picture: Image.Image, size: Size, invert: bool = False
) -> tuple[Mask, list[str]]:
    """A picture read as a mask file: white = hole, or else transparent = hole.

    An alpha channel counts when it is not fully opaque. Grey is cut at the middle.

    Args:
      picture: of any mode; turned upright by its EXIF tag.
      size: height and width of the mask; a picture of another is resized by nearest.
      invert: black (or opaque) = hole instead.

    Returns:
      the mask, and one sentence for each thing that may not be what was meant.
    """
    warnings = []
    picture = ImageOps.exif_transpose(picture)
    grey, hole_below = _mask_channel(picture)
    if picture.size != (size[1], size[0]):
        warnings.append(
            f"it is {picture.width}x{picture.height}, not {size[1]}x{size[0]}; resized "
            "by nearest"
        )
        box = (size[1], size[0])
        grey = np.asarray(Image.fromarray(grey).resize(box, Image.Resampling.NEAREST))
    between = float(((grey > 5) & (grey < 250)).mean())
    if between > 0.01:
        warnings.append(
            f"{between:.0%} of its pixels are grey; cut at the middle (save masks as "
            "PNG, without smoothing)"
        )
    known = (grey >= 128) if hole_below else (grey < 128)
    mask = (known ^ invert).astype(np.uint8)
    hidden = 1 - float(mask.mean())
    if hidden == 0 or hidden > 0.95:
        warnings.append(
            f"{hidden:.0%} of it is hole; white means hole, --invert-mask says black "
            "does"
        )
    return mask, warnings


def _mask_channel(picture: Image.Image) -> tuple[UInt8[np.ndarray, "h w"], bool]:
    """The channel that says where the hole is, and whether low values mean hole."""
    if "A" in picture.getbands() or "transparency" in picture.info:
        alpha = np.asarray(picture.convert("RGBA"))[..., 3]
        if (alpha < 255).any():
            return alpha, True
    if picture.mode.startswith("I"):
        wide = np.asarray(picture).astype(np.int64)
        return np.clip(wide // 256, 0, 255).astype(np.uint8), False
    return np.asarray(picture.convert("RGB").convert("L")), False
