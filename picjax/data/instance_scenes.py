"""Scenes of instances: label and instance maps whose styles have a known distribution.

Four objects stand on a background. Each of the five instances has a style of its own,
drawn independently from a distribution that its class decides. The image is a function
of maps and styles, so whether a sampler of images draws the styles of a layout as it
should, and independently, can be measured (docs/inade.md).
"""

from typing import NamedTuple, TypedDict

import numpy as np
from jaxtyping import Float, Int32, Integer, UInt8
from scipy import ndimage

Size = int | tuple[int, int]
Colour = tuple[int, int, int]

TRAIN = range(2**20)  # indices of the training images
EVAL = range(2**20, 2**21)  # indices of the held-out images
# A sample shows a style of an instance if their RMS distance over its pixels is below
# this, in grey levels of 255. Two styles of a class are at least twice as far apart.
THRESHOLD = 35.0
INSTANCES = 5  # background and one object in each quarter of the image
RIM = 1.5 / 32  # of the image's side: width of a rim

RED, GREEN, BLUE = (220, 30, 40), (25, 160, 70), (40, 60, 220)
YELLOW, CYAN, MAGENTA = (245, 215, 50), (50, 205, 225), (220, 60, 220)
WHITE, BLACK = (245, 245, 245), (15, 15, 15)


class Style(NamedTuple):
    """The look of an instance: its colour, and that of a rim along its border."""

    colour: Colour
    rim: Colour | None = None


class InstanceClass(NamedTuple):
    """A class of instances.

    Attributes:
      name: of its shape.
      styles: that an instance can have.
      probabilities: of each; they sum to 1.
    """

    name: str
    styles: tuple[Style, ...]
    probabilities: tuple[float, ...]


CLASSES: tuple[InstanceClass, ...] = (
    InstanceClass(
        "background", (Style((175, 175, 175)), Style((50, 65, 100))), (0.6, 0.4)
    ),
    InstanceClass(
        "disk",
        (Style(RED), Style(YELLOW), Style(BLUE, WHITE)),
        (0.5, 0.3, 0.2),
    ),
    InstanceClass(
        "square",
        (Style(GREEN), Style(MAGENTA), Style(WHITE), Style(YELLOW, BLACK)),
        (0.4, 0.3, 0.2, 0.1),
    ),
    InstanceClass(
        "diamond",
        (Style(WHITE), Style(BLACK), Style(CYAN), Style(RED, YELLOW)),
        (0.25, 0.25, 0.25, 0.25),
    ),
)


class InstanceScene(TypedDict):
    """One scene: image, maps, and the style of each instance."""

    image: UInt8[np.ndarray, "h w 3"]
    label: Int32[np.ndarray, "h w"]
    instance: Int32[np.ndarray, "h w"]
    styles: Int32[np.ndarray, " i"]


def sample(seed: int, index: int, size: Size) -> InstanceScene:
    """Scene `index` of the set `seed`, the same on every machine.

    Classes of the objects are equally likely, and independent; so are all styles, given
    the classes.
    """
    rng = np.random.default_rng((seed, index))
    classes = np.concatenate([[0], rng.integers(1, len(CLASSES), INSTANCES - 1)])
    radii = rng.uniform(0.17, 0.215, INSTANCES - 1)
    centres = rng.uniform(-0.025, 0.025, (INSTANCES - 1, 2))
    centres += [(y, x) for y in (0.25, 0.75) for x in (0.25, 0.75)]
    instance = draw_instances(classes[1:], radii, centres, size)
    styles = draw_styles(classes, rng)
    label = classes[instance].astype(np.int32)
    image = render(label, instance, styles)
    return InstanceScene(image=image, label=label, instance=instance, styles=styles)


def draw_styles(
    classes: Integer[np.ndarray, " i"], rng: np.random.Generator
) -> Int32[np.ndarray, " i"]:
    """A style for each instance, from the distribution of its class."""
    draws = [rng.choice(len(p), p=p) for p in map(probabilities, classes)]
    return np.array(draws, np.int32)


def probabilities(label: int | np.integer) -> Float[np.ndarray, " s"]:
    """The probability of each style of a class."""
    return np.array(CLASSES[int(label)].probabilities)


def classes_of(
    label: Int32[np.ndarray, "h w"], instance: Int32[np.ndarray, "h w"]
) -> Int32[np.ndarray, " i"]:
    """The class of each instance, whose ids are 0 .. i - 1."""
    classes = np.zeros(instance.max() + 1, np.int32)
    classes[instance] = label
    return classes


def render(
    label: Int32[np.ndarray, "h w"],
    instance: Int32[np.ndarray, "h w"],
    styles: Integer[np.ndarray, " i"],
) -> UInt8[np.ndarray, "h w 3"]:
    """The image of a layout with these styles."""
    rim = rims(instance)
    image = np.zeros((*label.shape, 3), np.uint8)
    classes = classes_of(label, instance)
    for i, (c, style) in enumerate(zip(classes, styles, strict=False)):
        look, inside = CLASSES[int(c)].styles[int(style)], instance == i
        image[inside] = look.colour
        if look.rim is not None:
            image[inside & rim] = look.rim
    return image


def candidates(
    label: Int32[np.ndarray, "h w"], instance: Int32[np.ndarray, "h w"]
) -> UInt8[np.ndarray, "s h w 3"]:
    """Images in which every instance has style 0, 1, ..: all looks of all instances.

    An instance whose class has fewer styles repeats its last one.
    """
    counts = [len(c.probabilities) for c in CLASSES]
    last = np.array(counts)[classes_of(label, instance)] - 1
    every = [np.minimum(style, last) for style in range(max(counts))]
    return np.stack([render(label, instance, styles) for styles in every])


def rims(instance: Int32[np.ndarray, "h w"]) -> np.ndarray:
    """Pixels of each instance that are near another's, as a Boolean map."""
    width = max(1, round(RIM * min(instance.shape)))
    low, high = (
        f(instance, size=2 * width + 1, mode="nearest")
        for f in (ndimage.minimum_filter, ndimage.maximum_filter)
    )
    return low != high


def draw_instances(
    classes: Integer[np.ndarray, " o"],
    radii: Float[np.ndarray, " o"],
    centres: Float[np.ndarray, "o 2"],
    size: Size,
) -> Int32[np.ndarray, "h w"]:
    """The instance map: 0 is the background, object o has id o + 1."""
    h, w = (size, size) if isinstance(size, int) else size
    y, x = (np.arange(h) + 0.5) / h, (np.arange(w) + 0.5) / w
    instance = np.zeros((h, w), np.int32)
    objects = zip(classes, radii, centres, strict=True)
    for o, (c, radius, (cy, cx)) in enumerate(objects, 1):
        dy, dx = np.abs(y - cy)[:, None] / radius, np.abs(x - cx)[None] / radius
        norms = {
            "disk": np.hypot(dy, dx),
            "square": np.maximum(dy, dx) / 0.9,
            "diamond": (dy + dx) / 1.2,
        }
        instance[norms[CLASSES[int(c)].name] < 1] = o
    return instance
