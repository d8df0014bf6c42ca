"""Scenes: procedural images whose posterior is known (docs/scenes.md).

Four coloured markers in the border show the class of a scene; the class determines
which figures the centre hole may hide, with which probabilities. Everything else that
varies (background, gradient, positions of the markers) is visible and independent of
the figure. So all valid completions of the official centre hole are known exactly.
"""

from functools import lru_cache
from typing import NamedTuple, TypedDict

import numpy as np
from jaxtyping import Float, Float32, UInt8

Size = int | tuple[int, int]

TRAIN = range(2**20)  # indices of the training images
EVAL = range(2**20, 2**21)  # indices of the held-out images
# A completion is valid if its RMS distance to a mode over the hole is below this, in
# grey levels of 255. Two modes of a class are at least 70 apart, figures of different
# classes 32, and the mean of a class with several modes is at least 32 from each of
# them.
THRESHOLD = 20.0

COLOURS = {
    "red": (225, 30, 40),
    "green": (20, 160, 60),
    "blue": (30, 50, 225),
    "yellow": (250, 225, 40),
    "white": (250, 250, 250),
    "black": (10, 10, 10),
    "magenta": (225, 50, 225),
    "cyan": (30, 215, 225),
}


class SceneClass(NamedTuple):
    """A class of scenes.

    Attributes:
      marker: (shape, colour) of the visible markers.
      figures: (shape, colour) of each mode.
      probabilities: of each mode; they sum to 1.
    """

    marker: tuple[str, str]
    figures: tuple[tuple[str, str], ...]
    probabilities: tuple[float, ...]


CLASSES: tuple[SceneClass, ...] = (
    SceneClass(("disk", "red"), (("disk", "white"),), (1.0,)),
    SceneClass(
        ("square", "yellow"),
        (("rows", "blue"), ("disk", "red")),
        (0.7, 0.3),
    ),
    SceneClass(
        ("diamond", "cyan"),
        (("plus", "black"), ("frame", "yellow"), ("columns", "magenta")),
        (0.5, 0.3, 0.2),
    ),
    SceneClass(
        ("disk", "black"),
        (("disk", "green"), ("plus", "cyan"), ("rows", "magenta"), ("checks", "blue")),
        (0.25, 0.25, 0.25, 0.25),
    ),
    SceneClass(
        ("square", "white"),
        (
            ("columns", "red"),
            ("rows", "cyan"),
            ("disk", "blue"),
            ("frame", "black"),
            ("checks", "yellow"),
        ),
        (0.4, 0.2, 0.2, 0.1, 0.1),
    ),
    SceneClass(
        ("diamond", "magenta"),
        (
            ("frame", "red"),
            ("disk", "yellow"),
            ("columns", "blue"),
            ("plus", "magenta"),
            ("checks", "white"),
            ("rows", "black"),
        ),
        (0.25, 0.2, 0.2, 0.15, 0.1, 0.1),
    ),
)

# Length of a scene's visible attributes: mean colour (3, in 0..255), its change from
# the centre to the right and to the lower edge (2), and (dy, dx) of the four markers
# (8, in image sides).
ATTRIBUTES = 13
JITTER = 0.025
MARKER_RADIUS = 0.08
CORNERS = np.array([(a, b) for a in (0.125, 0.875) for b in (0.125, 0.875)])


class Scene(TypedDict):
    """One scene; `scene` is the class, `mode` the index of the figure in its hole."""

    image: UInt8[np.ndarray, "h w 3"]
    scene: int
    mode: int
    attributes: Float32[np.ndarray, " a"]


def sample(seed: int, index: int, size: Size) -> Scene:
    """Scene `index` of the set `seed`, the same on every machine.

    Classes are equally likely; the mode is drawn from `probabilities`.
    """
    rng = np.random.default_rng((seed, index))
    scene = int(rng.integers(len(CLASSES)))
    mode = int(np.searchsorted(np.cumsum(probabilities(scene))[:-1], rng.random()))
    angle, slope = rng.uniform(0, 2 * np.pi), rng.uniform(10, 40)
    shade = rng.uniform(95, 160) + rng.uniform(-20, 20, 3)
    jitter = rng.uniform(-JITTER, JITTER, 8)
    tilt = (slope * np.cos(angle), slope * np.sin(angle))
    attributes = np.concatenate([shade, tilt, jitter]).astype(np.float32)
    image = draw_figure(draw_visible(scene, attributes, size), scene, mode)
    return Scene(image=image, scene=scene, mode=mode, attributes=attributes)


def probabilities(scene: int) -> Float[np.ndarray, " m"]:
    """The true probability of each mode of class `scene`, given the visible part."""
    return np.array(CLASSES[scene].probabilities)


def modes(
    scene: int, attributes: Float[np.ndarray, " a"], size: Size
) -> UInt8[np.ndarray, "m h w 3"]:
    """All valid completions of a scene; they are equal outside the hole."""
    visible = draw_visible(scene, attributes, size)
    count = len(CLASSES[scene].probabilities)
    return np.stack([draw_figure(visible, scene, mode) for mode in range(count)])


def complete_true(
    scene: int,
    attributes: Float[np.ndarray, " a"],
    size: Size,
    n: int,
    rng: np.random.Generator,
) -> UInt8[np.ndarray, "n h w 3"]:
    """n draws from the true posterior."""
    p = probabilities(scene)
    return modes(scene, attributes, size)[rng.choice(len(p), n, p=p)]


def entropy(scene: int | None = None) -> float:
    """Entropy of the hidden part given the visible one, in nats.

    It is the lower bound of a model's expected negative log-likelihood of the mode.

    Args:
      scene: the class; None: the mean over the (equally likely) classes.
    """
    if scene is None:
        return float(np.mean([entropy(i) for i in range(len(CLASSES))]))
    p = probabilities(scene)
    return float((p * np.log(1 / p)).sum())


def hole(size: Size) -> tuple[slice, slice]:
    """Rows and columns of the hole: the official centre mask."""
    h, w = (size, size) if isinstance(size, int) else size
    return slice(h // 4, h * 3 // 4), slice(w // 4, w * 3 // 4)


# ---- drawing ----


def draw_visible(
    scene: int, attributes: Float[np.ndarray, " a"], size: Size
) -> UInt8[np.ndarray, "h w 3"]:
    """Draw background and markers; the background continues through the hole."""
    y, x = _grid(size)
    shade, (right, down), jitter = np.split(attributes.astype(np.float64), [3, 5])
    tilt = 2 * (right * (x - 0.5) + down * (y - 0.5))
    image = tilt[..., None] + shade
    shape, colour = CLASSES[scene].marker
    dy, dx = jitter.reshape(4, 2).T[:, :, None, None]
    v = (y - CORNERS[:, :1, None] - dy) / MARKER_RADIUS
    u = (x - CORNERS[:, 1:, None] - dx) / MARKER_RADIUS
    pixel = 1 / (MARKER_RADIUS * min(image.shape[:2]))
    image = _paint(image, _cover(_distance(shape, v, u).min(0), pixel), colour)
    return np.clip(np.round(image), 0, 255).astype(np.uint8)


def draw_figure(
    visible: UInt8[np.ndarray, "h w 3"], scene: int, mode: int
) -> UInt8[np.ndarray, "h w 3"]:
    """Draw the figure of `mode` into the hole of an image."""
    shape, colour = CLASSES[scene].figures[mode]
    rows, columns = hole(visible.shape[:2])
    inside = visible[rows, columns]
    cover = _figure_cover(shape, inside.shape[:2])
    image = visible.copy()
    image[rows, columns] = np.round(_paint(inside.astype(np.float64), cover, colour))
    return image


@lru_cache
def _grid(size: Size) -> tuple[np.ndarray, np.ndarray]:
    """Pixel centres in 0..1: (h, 1) and (1, w)."""
    h, w = (size, size) if isinstance(size, int) else size
    y, x = (np.arange(h) + 0.5) / h, (np.arange(w) + 0.5) / w
    return y[:, None], x[None, :]


@lru_cache
def _figure_cover(shape: str, size: tuple[int, int]) -> np.ndarray:
    """Coverage of the hole's pixels by a figure, which spans 0.9 of the hole."""
    y, x = _grid(size)
    distance = _distance(shape, (y - 0.5) / 0.45, (x - 0.5) / 0.45)
    return _cover(distance, 1 / (0.45 * min(size)))


def _paint(image: np.ndarray, cover: np.ndarray, colour: str) -> np.ndarray:
    return image + cover[..., None] * (np.array(COLOURS[colour]) - image)


def _cover(distance: np.ndarray, pixel: float) -> np.ndarray:
    """Coverage of a pixel at a signed distance from an edge, antialiased."""
    return np.clip(0.5 - distance / pixel, 0, 1)


def _distance(shape: str, y: np.ndarray, x: np.ndarray) -> np.ndarray:
    """Signed distance to a shape in the square [-1, 1]^2, positive outside."""
    ay, ax = np.abs(y), np.abs(x)
    square = np.maximum(ay, ax) - 1
    if shape == "disk":
        return np.hypot(y, x) - 1
    if shape == "square":
        return np.maximum(ay, ax) - 0.85
    if shape == "diamond":
        return (ay + ax - 1.1) / np.sqrt(2)
    if shape == "plus":
        return np.maximum(square, np.minimum(ay, ax) - 0.42)
    if shape == "frame":
        return np.maximum(square, 0.56 - np.maximum(ay, ax))
    if shape == "rows":
        return np.maximum(square, np.abs(ay - 0.61) - 0.39)
    if shape == "columns":
        return np.maximum(square, np.abs(ax - 0.61) - 0.39)
    if shape == "checks":
        same = np.sign(y) * np.sign(x)
        return np.maximum(square, -same * np.minimum(ay, ax))
    raise ValueError(shape)
