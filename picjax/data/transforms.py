"""From a decoded picture to the image of a batch, with one resampling of uint8."""

import math
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from picjax.cli import UserError

Size = tuple[int, int]
Pixels = UInt8[np.ndarray, "h w 3"]
BILINEAR = Image.Resampling.BILINEAR
CROPS = ("random", "center", "aspect")


class Augment(NamedTuple):
    """Augmentation of training images (Zheng et al., 2019: 266, 256, 0.5, 3).

    Attributes:
      size: height and width of the image.
      load_size: size that the whole picture is resized to, without keeping the aspect,
        before `size` is cropped from it.
      crop: `random`, `center`, or `aspect`: the centre with the aspect kept, instead of
        `load_size`; see `middle_square`.
      flip: flip horizontally, half of the time.
      rotation: largest angle in degrees, in both directions; the image is reflected at
        its edges (in the original, black enters).
    """

    size: Size
    load_size: Size
    crop: str
    flip: bool
    rotation: float


def augmentation(config: Any, size: Size) -> Augment:
    """The augmentation of a data config.

    `config.load_size` is that of the longer side; 0: 266/256 of the image size, the
    ratio of the original.

    Raises:
      UserError: if load_size is smaller than the image, the crop unknown, or `aspect`
        is used for images that are not square.
    """
    longer = max(size)
    load = config.load_size or round(longer * 266 / 256)
    if load < longer:
        raise UserError(
            f"config.data.load_size {load} is smaller than config.image_size {longer}; "
            "make it at least that, or 0 for 266/256 of it"
        )
    if config.crop not in CROPS:
        raise UserError(
            f"config.data.crop '{config.crop}' is none of {', '.join(CROPS)}; correct it"
        )
    if config.crop == "aspect" and size[0] != size[1]:
        raise UserError(
            f"config.data.crop=aspect gives squares, not {size[0]}x{size[1]}; use center"
        )
    load_size = (round(load * size[0] / longer), round(load * size[1] / longer))
    return Augment(size, load_size, config.crop, config.flip, float(config.rotation))


def augment(
    picture: Image.Image | UInt8[np.ndarray, "H W 3"],
    how: Augment,
    rng: np.random.Generator,
) -> Pixels:
    """Augment a picture to a training image.

    Resizing to `load_size` and cropping are one resampling of the crop only; an array
    that already has `load_size` is sliced.
    """
    if how.crop == "aspect":
        if isinstance(picture, np.ndarray):
            picture = Image.fromarray(picture)
        return jitter(middle_square(picture, how.size[0]), how, rng)
    (h, w), (load_h, load_w) = how.size, how.load_size
    y, x = (load_h - h) // 2, (load_w - w) // 2
    if how.crop == "random":
        y, x = int(rng.integers(load_h - h + 1)), int(rng.integers(load_w - w + 1))
    if isinstance(picture, np.ndarray) and picture.shape[:2] == how.load_size:
        pixels = picture[y : y + h, x : x + w]
    else:
        if isinstance(picture, np.ndarray):
            picture = Image.fromarray(picture)
        sy, sx = picture.height / load_h, picture.width / load_w
        pixels = resample(
            picture, how.size, (x * sx, y * sy, (x + w) * sx, (y + h) * sy)
        )
    return jitter(pixels, how, rng)


def jitter(pixels: Pixels, how: Augment, rng: np.random.Generator) -> Pixels:
    """Flip and rotate an image that has its final size."""
    if how.flip and rng.random() < 0.5:
        pixels = mirror(pixels)
    if how.rotation:
        pixels = rotate(pixels, rng.uniform(-how.rotation, how.rotation))
    return pixels


def mirror(pixels: Pixels) -> Pixels:
    """Flip horizontally, by channel: 5 times faster than all channels at once."""
    out = np.empty_like(pixels)
    for channel in range(3):
        out[..., channel] = pixels[:, ::-1, channel]
    return out


def rotate(pixels: Pixels, degrees: float) -> Pixels:
    """Rotate about the centre, bilinear, with reflection at the edges."""
    h, w = pixels.shape[:2]
    a = math.radians(abs(degrees))
    margin = math.ceil(max(h, w) / 2 * (math.sin(a) + math.cos(a) - 1)) + 1
    margins = ((margin, margin), (margin, margin), (0, 0))
    padded = Image.fromarray(np.pad(pixels, margins, "symmetric"))
    rotated = np.asarray(padded.rotate(degrees, BILINEAR))
    return rotated[margin : margin + h, margin : margin + w]


def resample(
    picture: Image.Image,
    size: Size,
    box: tuple[float, float, float, float] | None = None,
) -> Pixels:
    """Resize a box (left, upper, right, lower) of a picture, antialiased bilinear."""
    h, w = size
    if picture.size != (w, h) or box not in (None, (0, 0, w, h)):
        picture = picture.resize((w, h), BILINEAR, box, reducing_gap=2.0)
    return np.asarray(picture)


def middle_square(picture: Image.Image, size: int) -> UInt8[np.ndarray, "s s *c"]:
    """Resize the shorter side of a picture to `size` and crop the middle square.

    Halved by box filters while at least twice too large, then bicubic, as in
    guided-diffusion and RePaint. Grey masks become soft.
    """
    while min(picture.size) >= 2 * size:
        half = picture.width // 2, picture.height // 2
        picture = picture.resize(half, Image.Resampling.BOX)
    scale = size / min(picture.size)
    box = round(picture.width * scale), round(picture.height * scale)
    pixels = np.asarray(picture.resize(box, Image.Resampling.BICUBIC))
    y, x = (box[1] - size) // 2, (box[0] - size) // 2
    return pixels[y : y + size, x : x + size]


def random_box(
    rng: np.random.Generator, region: Size, size: Size, least: float
) -> tuple[float, float, float, float]:
    """A random box in a region, with the aspect of `size`.

    Args:
      rng: the generator.
      region: height and width of the region.
      size: height and width whose aspect the box has.
      least: smallest size relative to the largest possible.

    Returns:
      left, upper, right, lower.
    """
    largest = min(region[0] / size[0], region[1] / size[1])
    scale = largest * rng.uniform(least, 1)
    h, w = scale * size[0], scale * size[1]
    y, x = rng.uniform(0, region[0] - h), rng.uniform(0, region[1] - w)
    return x, y, min(x + w, region[1]), min(y + h, region[0])
