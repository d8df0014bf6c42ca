"""Random masks of PICNet's code (Zheng et al., CVPR 2019) and their brush strokes."""

import random
from collections.abc import Callable
from functools import lru_cache
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageDraw

Mask = UInt8[np.ndarray, "h w"]


class Draws(NamedTuple):
    """A source of random numbers.

    Attributes:
      integer: (low, high) -> an integer, both ends included.
      unit: () -> a number in [0, 1).
    """

    integer: Callable[[int, int], int]
    unit: Callable[[], float]


def numpy_draws(rng: np.random.Generator) -> Draws:
    """Random numbers of a NumPy generator."""
    return Draws(lambda low, high: int(rng.integers(low, high + 1)), rng.random)


def python_draws(seed: int) -> Draws:
    """Random numbers of the official code after `random.seed(seed)`."""
    rng = random.Random(seed)
    return Draws(rng.randint, rng.random)


def rectangles(draws: Draws, h: int, w: int) -> Mask:
    """PICNet's "random regular" mask: 1 to 5 rectangles, which may overlap."""
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
    """A line from (x1, y1) to (x2, y2) with round ends."""

    x1: int
    y1: int
    x2: int
    y2: int
    thickness: int


class Circle(NamedTuple):
    """A filled circle."""

    x: int
    y: int
    radius: int


class Arc(NamedTuple):
    """An arc of an ellipse rotated by `rotation`; angles in degrees, clockwise."""

    x: int
    y: int
    axis1: int
    axis2: int
    rotation: int
    start: int
    end: int
    thickness: int


def irregular_primitives(draws: Draws, h: int, w: int) -> list[Line | Circle | Arc]:
    """The 16 to 64 lines, circles and arcs of PICNet's "random irregular" mask.

    Thicknesses do not scale with the image. For h != w, which the official code does
    not support, x runs over the width and y over the height.
    """
    primitives: list[Line | Circle | Arc] = []
    for _ in range(draws.integer(16, 64)):
        u = draws.unit()
        if u < 0.6:
            x1, x2 = draws.integer(1, w), draws.integer(1, w)
            y1, y2 = draws.integer(1, h), draws.integer(1, h)
            primitives.append(Line(x1, y1, x2, y2, draws.integer(4, 20)))
        elif u < 0.8:
            x, y = draws.integer(1, w), draws.integer(1, h)
            primitives.append(Circle(x, y, draws.integer(4, 20)))
        else:
            x, y = draws.integer(1, w), draws.integer(1, h)
            axes = draws.integer(1, h), draws.integer(1, w)
            rotation, start, end = (draws.integer(3, 180) for _ in range(3))
            thickness = draws.integer(4, 20)
            primitives.append(Arc(x, y, *axes, rotation, start, end, thickness))
    return primitives


def irregular(draws: Draws, h: int, w: int) -> Mask:
    """PICNet's "random irregular" mask; on average it hides half of the image."""
    picture = Image.new("L", (w, h), 1)
    brush = ImageDraw.Draw(picture)
    for primitive in irregular_primitives(draws, h, w):
        draw_primitive(brush, primitive, 0)
    return np.array(picture)


def draw_primitive(
    brush: ImageDraw.ImageDraw, primitive: Line | Circle | Arc, value: int
) -> None:
    """Draw a primitive as OpenCV does, up to pixels at its edge."""
    if isinstance(primitive, Circle):
        _disk(brush, primitive.x, primitive.y, primitive.radius, value)
    elif isinstance(primitive, Line):
        p = primitive
        ends = [(float(p.x1), float(p.y1)), (float(p.x2), float(p.y2))]
        draw_stroke(brush, ends, p.thickness, value)
    else:
        draw_stroke(brush, _arc_points(primitive), primitive.thickness, value)


def _disk(brush: ImageDraw.ImageDraw, x: int, y: int, radius: int, value: int) -> None:
    corner = x - radius, y - radius
    brush.bitmap(corner, _disk_bitmap(radius), fill=value)


@lru_cache
def _disk_bitmap(radius: int) -> Image.Image:
    y, x = np.mgrid[-radius : radius + 1, -radius : radius + 1]
    return Image.fromarray(x * x + y * y <= radius * radius)


def draw_stroke(
    brush: ImageDraw.ImageDraw,
    points: list[tuple[float, float]],
    thickness: int,
    value: int,
) -> None:
    """Draw a polyline with round ends; odd thicknesses are one pixel wider."""
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
        # OpenCV fills a quad at pixel centres and draws a rounded outline.
        brush.polygon([(x + 0.5, y + 0.5) for x, y in corners], fill=value)
        rounded = [(round(x), round(y)) for x, y in corners]
        brush.line([*rounded, rounded[0]], fill=value)
    for x, y in points:
        _disk(brush, round(x), round(y), radius, value)


def _arc_points(arc: Arc) -> list[tuple[float, float]]:
    """Points every five degrees; start and end are swapped if needed, as by OpenCV."""
    start, end = sorted((arc.start, arc.end))
    t = np.radians(np.append(np.arange(start, end, 5), end))
    c, s = np.cos(np.radians(arc.rotation)), np.sin(np.radians(arc.rotation))
    u, v = arc.axis1 * np.cos(t), arc.axis2 * np.sin(t)
    x, y = arc.x + u * c - v * s, arc.y + u * s + v * c
    return [(float(a), float(b)) for a, b in zip(x, y, strict=True)]
