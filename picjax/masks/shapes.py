"""Named masks: `make(name, size, rng)` draws one of NAMES.

The same state of the generator gives the same mask.
"""

from collections.abc import Callable
from functools import partial

import numpy as np
from PIL import Image, ImageDraw

from picjax.cli import UserError, check_choice
from picjax.masks.strokes import (
    Draws,
    Mask,
    draw_stroke,
    irregular,
    numpy_draws,
    rectangles,
)

Size = tuple[int, int]
HOLE_RATIO = (0.2, 0.6)  # of free-form masks
MIN_IRREGULAR_SIZE = (
    64  # pixels: strokes of the official code would hide smaller images
)


def make(
    name: str,
    size: Size,
    rng: np.random.Generator,
    hole_ratio: tuple[float, float] = HOLE_RATIO,
) -> Mask:
    """Draw a mask by name.

    Args:
      name: one of NAMES.
      size: height and width in pixels.
      rng: the generator of random masks.
      hole_ratio: bounds of the share of hidden pixels, for `freeform` only.

    Returns:
      uint8 [h w], 1 = known, 0 = hole.

    Raises:
      UserError: if the name is unknown, the size too small for it, or `hole_ratio` not
        0 < low < high < 1.
    """
    check_choice("mask", name, NAMES)
    if name == "irregular" and min(size) < MIN_IRREGULAR_SIZE:
        raise UserError(
            f"mask 'irregular' needs {MIN_IRREGULAR_SIZE} pixels a side, not "
            f"{min(size)}: its strokes do not scale; use 'freeform'"
        )
    if name != "freeform":
        return MASKS[name](rng, *size)
    low, high = hole_ratio
    if not 0 < low < high < 1:
        raise UserError(
            f"hole_ratio {low}, {high} is no range between 0 and 1; use (0.2, 0.6)"
        )
    return freeform(rng, *size, low, high)


def center(rng: np.random.Generator, h: int, w: int) -> Mask:
    """The official centre hole: rows h/4 to 3h/4, columns likewise."""
    mask = np.ones((h, w), np.uint8)
    mask[h // 4 : h * 3 // 4, w // 4 : w * 3 // 4] = 0
    return mask


def side(known: str, rng: np.random.Generator, h: int, w: int) -> Mask:
    """Half of the image is known: left, right, top or bottom (rounded down)."""
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
    """17 of 32 rows are known, as in a report of PixelCNN++ on ImageNet."""
    mask = np.zeros((h, w), np.uint8)
    mask[: h * 17 // 32] = 1
    return mask


def half(rng: np.random.Generator, h: int, w: int) -> Mask:
    """One half of the image is known, drawn at random."""
    sides = ("left", "right", "top", "bottom")
    return side(sides[rng.integers(4)], rng, h, w)


def expand(rng: np.random.Generator, h: int, w: int) -> Mask:
    """Only the centre is known, a quarter of each side (RePaint's "ex64" at 256 px)."""
    mask = np.zeros((h, w), np.uint8)
    mask[h * 3 // 8 : h * 5 // 8, w * 3 // 8 : w * 5 // 8] = 1
    return mask


def every_second(
    step: tuple[int, int], rng: np.random.Generator, h: int, w: int
) -> Mask:
    """Every second row (RePaint's "ev2li") or pixel ("nn2") is known."""
    mask = np.zeros((h, w), np.uint8)
    mask[:: step[0], :: step[1]] = 1
    return mask


def outpaint(rng: np.random.Generator, h: int, w: int) -> Mask:
    """A window at a random place is known; its sides are 0.5 to 0.8 of the image's."""
    share = rng.uniform(0.5, 0.8)
    rows, columns = max(1, round(share * h)), max(1, round(share * w))
    y, x = rng.integers(h - rows + 1), rng.integers(w - columns + 1)
    mask = np.zeros((h, w), np.uint8)
    mask[y : y + rows, x : x + columns] = 1
    return mask


def freeform(
    rng: np.random.Generator, h: int, w: int, low: float = 0.2, high: float = 0.6
) -> Mask:
    """Winding brush strokes whose hole ratio is uniform between `low` and `high`.

    Strokes as in DeepFill v2 (Yu et al., ICCV 2019) grow segment by segment until the
    hole has its target size; a segment that would exceed it is drawn thinner.
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
            candidate = picture.copy()
            width = max(1, round(thickness * thinner))
            draw_stroke(ImageDraw.Draw(candidate), [(x, y), (x2, y2)], width, 0)
            now = h * w - int(np.count_nonzero(np.asarray(candidate)))
            if now > limit and (width > 1 or length > 1):
                thinner *= 0.7
                continue
            picture, hidden, x, y = candidate, now, x2, y2
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
    "expand": expand,
    "rows": partial(every_second, (2, 1)),
    "pixels": partial(every_second, (2, 2)),
}
NAMES = tuple(MASKS)
