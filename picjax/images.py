"""Images: reading, conversion, resizing to a model and back, grids, PNG files."""

import io
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from etils import epath
from jaxtyping import Array, Float, UInt8
from PIL import Image, ImageDraw, ImageFont

from picjax.cli import UserError
from picjax.data.colour import Profile
from picjax.data.decode import (
    MIN_SIDE,
    BadImage,
    bad_image,
    check_picture,
    check_size,
    open_image,
    to_rgb,
)
from picjax.files import write_bytes

MARGIN = 4  # pixels between images and around them
TITLE_HEIGHT = 18  # pixels of the row of titles
WHITE = 255
HOLE_GREY = 127  # colour of a hole, as in PICNet's test script
CELL = 192  # pixels: the longest side in a grid of completions


# ---- reading ----


def check_unique(stems: Sequence[str], message: str) -> None:
    """Refuse outputs that would overwrite each other.

    Args:
      stems: names of the inputs, which name their outputs.
      message: start of the error, with `{}` for the number of equal names.

    Raises:
      UserError: if two names are equal.
    """
    for stem, count in Counter(stems).most_common(1):
        if count > 1:
            raise UserError(
                f"{message.format(count)} named '{stem}', whose completions would "
                "overwrite each other; rename all but one"
            )


def read_image(path: Path) -> UInt8[np.ndarray, "h w 3"]:
    """Read an image file of any mode as upright RGB, in sRGB.

    Raises:
      UserError: if it cannot be used.
    """
    return read_picture(path).srgb


def read_picture(path: Path) -> "Picture":
    """Read an image file of any mode as upright RGB, in its own colours.

    Raises:
      UserError: if it cannot be used.
    """
    try:
        with open_image(path) as file:
            check_size(file.size, MIN_SIDE)
            rgb, profile = to_rgb(file)
    except BadImage as error:
        raise UserError(
            f"'{path}' cannot be used: {error}; use a whole PNG or JPEG file"
        ) from error
    return Picture(np.asarray(rgb), profile)


# ---- conversion ----


class Picture(NamedTuple):
    """A picture in its own colours.

    Attributes:
      pixels: uint8 [h w 3], upright.
      profile: of its colours; None: sRGB.
    """

    pixels: UInt8[np.ndarray, "h w 3"]
    profile: Profile | None = None

    @property
    def srgb(self) -> UInt8[np.ndarray, "h w 3"]:
        """The pixels that a model sees."""
        if self.profile is None:
            return self.pixels
        return np.asarray(self.profile.to_srgb(Image.fromarray(self.pixels)))

    @property
    def icc(self) -> bytes | None:
        """The profile, to be stored in files with these colours."""
        return self.profile.icc if self.profile else None

    def in_own_colours(
        self, samples: UInt8[np.ndarray, "n h w 3"]
    ) -> UInt8[np.ndarray, "n h w 3"]:
        """A model's samples in the picture's colours."""
        if self.profile is None:
            return samples
        converted = (self.profile.from_srgb(Image.fromarray(x)) for x in samples)
        return np.stack([np.asarray(x) for x in converted])


def as_picture(image: np.ndarray | Image.Image) -> Picture:
    """Convert a picture to RGB pixels.

    Args:
      image: uint8 [h w 3], [h w 4], [h w 1] or [h w], or a Pillow image of any mode:
        its EXIF orientation is applied, transparency dropped, 16 bits reduced to 8.

    Raises:
      UserError: if it is anything else.
    """
    try:
        if isinstance(image, Image.Image):
            with bad_image():
                check_picture(image)
                rgb, profile = to_rgb(image)
                return Picture(np.asarray(rgb), profile)
        pixels = np.asarray(image) if hasattr(image, "__array__") else None
        if pixels is None:
            raise BadImage(f"it is a {type(image).__name__}")
        shape = f"it is {pixels.dtype} of shape {list(pixels.shape)}"
        channels = pixels.shape[2] if pixels.ndim == 3 else 1
        if pixels.ndim not in (2, 3) or channels not in (1, 3, 4):
            raise BadImage(shape)
        check_size((pixels.shape[1], pixels.shape[0]))
        if pixels.dtype != np.uint8:
            raise BadImage(shape)
    except BadImage as error:
        raise UserError(
            f"the image cannot be used: {error}; use a Pillow image, or uint8 of shape "
            "[h w 3] or [h w]"
        ) from error
    if pixels.ndim == 2:
        pixels = pixels[..., None]
    if channels == 1:
        return Picture(np.repeat(pixels, 3, axis=2))
    return Picture(np.ascontiguousarray(pixels[..., :3]))


def to_float(batch: Mapping[str, Any]) -> dict[str, Any]:
    """Convert a uint8 batch inside `jit`, where a method expects float32.

    `image`, and `condition` if present, become float32 in [-1, 1], `mask` float32 with
    1 = known; everything else passes unchanged.
    """
    floats = {
        # Compiled, x / 127.5 - 1 exceeds 1 by one unit in the last place.
        name: (2 * jnp.asarray(batch[name]).astype(jnp.float32) - 255) / 255
        for name in ("image", "condition")
        if name in batch
    }
    mask = jnp.asarray(batch["mask"]).astype(jnp.float32)
    return {**batch, **floats, "mask": mask}


def to_uint8(
    image: Float[Array, "*b h w 3"], truncate: bool = False
) -> UInt8[Array, "*b h w 3"]:
    """Convert [-1, 1] to 0..255, clipped and rounded to the nearest level.

    With `truncate` fractions are cut off, as in RePaint and guided-diffusion, which is
    half a level darker on average.
    """
    levels = (image + 1) * 127.5
    levels = levels if truncate else jnp.round(levels)
    return jnp.clip(levels, 0, 255).astype(jnp.uint8)


# ---- to a model's size and back ----


def fit(
    image: UInt8[np.ndarray, "H W 3"],
    mask: UInt8[np.ndarray, "H W"],
    size: tuple[int, int],
    target_mask: UInt8[np.ndarray, "h w"] | None = None,
) -> tuple[UInt8[np.ndarray, "h w 3"], UInt8[np.ndarray, "h w"]]:
    """Resize an image and its mask to the model's size, without keeping the aspect.

    A known pixel is the mean of known pixels only: what the hole hides, such as an
    object to be removed, does not bleed into the model's input.

    Args:
      image: the image.
      mask: its mask, 1 = known.
      size: height and width of the result.
      target_mask: mask at `size` that `mask` was resized from. Without it, a pixel that
        contains any part of the hole belongs to the hole.

    Returns:
      The image, 0 in the hole (unless it has the size already), and the mask.
    """
    if mask.shape == size:
        return image, mask
    box = (size[1], size[0])
    weight = mask.astype(np.float32)
    total = np.asarray(Image.fromarray(weight).resize(box, Image.Resampling.BILINEAR))
    if target_mask is None:
        covered = Image.fromarray(weight).resize(box, Image.Resampling.BOX)
        small_mask = (np.asarray(covered) > 1 - 1e-4).astype(np.uint8)
    else:
        small_mask = target_mask * (total > 1e-4).astype(np.uint8)
    channels = []
    for c in range(3):
        plane = Image.fromarray(image[..., c] * weight)
        colour = np.asarray(plane.resize(box, Image.Resampling.BILINEAR))
        channels.append(colour / np.maximum(total, 1e-6))
    mean = np.stack(channels, -1).round().clip(0, 255).astype(np.uint8)
    return mean * small_mask[..., None], small_mask


def paste(
    image: UInt8[np.ndarray, "H W 3"],
    mask: UInt8[np.ndarray, "H W"],
    samples: UInt8[np.ndarray, "n h w 3"],
) -> UInt8[np.ndarray, "n H W 3"]:
    """Resize samples to the image (bicubic) and paste its known pixels into them."""
    height, width = mask.shape
    out = np.empty((len(samples), height, width, 3), np.uint8)
    for i, sample in enumerate(samples):
        if sample.shape != image.shape:
            picture = Image.fromarray(sample)
            resized = picture.resize((width, height), Image.Resampling.BICUBIC)
            sample = np.asarray(resized)
        out[i] = np.where(mask[..., None] == 1, image, sample)
    return out


# ---- grids and PNG files ----


def image_grid(
    rows: Sequence[Sequence[np.ndarray]], titles: Sequence[str] | None = None
) -> UInt8[np.ndarray, "height width 3"]:
    """Arrange images in rows on white, each centred in a cell of the largest size.

    Args:
      rows: uint8 images [h w 3]; rows may differ in length, images in size.
      titles: a title above each column, truncated at the column's width.

    Raises:
      ValueError: if there is no image, or one is not uint8 [h w 3].
    """
    images = [image for row in rows for image in row]
    if not images:
        raise ValueError("a grid needs at least one image")
    for image in images:
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[-1] != 3:
            raise ValueError(f"not uint8 [h w 3]: {image.dtype} {image.shape}")
    h = max(image.shape[0] for image in images)
    w = max(image.shape[1] for image in images)
    columns = max(len(row) for row in rows)
    top = MARGIN + (TITLE_HEIGHT if titles else 0)
    height, width = top + len(rows) * (h + MARGIN), MARGIN + columns * (w + MARGIN)
    grid = np.full((height, width, 3), WHITE, np.uint8)
    for i, row in enumerate(rows):
        for j, image in enumerate(row):
            y = top + i * (h + MARGIN) + (h - image.shape[0]) // 2
            x = MARGIN + j * (w + MARGIN) + (w - image.shape[1]) // 2
            grid[y : y + image.shape[0], x : x + image.shape[1]] = image
    if titles:
        _draw_titles(grid, titles[:columns], w)
    return grid


def _draw_titles(grid: np.ndarray, titles: Sequence[str], width: int) -> None:
    font = ImageFont.load_default(size=12)
    for j, title in enumerate(titles):
        # One tile per title, so that a long one is truncated at its own column.
        tile = Image.new("RGB", (width, TITLE_HEIGHT), "white")
        ImageDraw.Draw(tile).text((0, 0), title, fill="black", font=font)
        x = MARGIN + j * (width + MARGIN)
        grid[MARGIN : MARGIN + TITLE_HEIGHT, x : x + width] = np.asarray(tile)


def thumbnail(image: UInt8[np.ndarray, "h w 3"]) -> UInt8[np.ndarray, "y x 3"]:
    """Enlarge (by whole pixels) or shrink an image for a grid of completions."""
    longest = max(image.shape)
    if longest < CELL:
        return image.repeat(CELL // longest, 0).repeat(CELL // longest, 1)
    picture = Image.fromarray(image)
    picture.thumbnail((CELL, CELL), Image.Resampling.BICUBIC)
    return np.asarray(picture)


def png_bytes(array: np.ndarray, icc: bytes | None = None) -> bytes:
    """Encode a uint8 image [h w 3] or [h w] as PNG, with the profile of its colours."""
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, "png", compress_level=3, icc_profile=icc)
    return buffer.getvalue()


def write_png(
    path: epath.PathLike, array: np.ndarray, icc: bytes | None = None
) -> None:
    """Write a uint8 image [h w 3], [h w 4] or [h w], and its profile, atomically."""
    write_bytes(path, png_bytes(array, icc))
