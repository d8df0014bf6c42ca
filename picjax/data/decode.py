"""Image files of any mode and size as upright 8-bit RGB: the one place that opens them.

Only formats whose decoders lie in Pillow's own libraries are opened, whatever a file is
called: others start programs (EPS) or read further files.
"""

import contextlib
import os
import stat
from collections.abc import Iterator
from functools import lru_cache
from io import BytesIO
from typing import Any

import numpy as np
from etils import epath
from PIL import Image, ImageOps, UnidentifiedImageError

from picjax.buckets import AnyPath, as_os_error, is_remote
from picjax.data import colour
from picjax.data.colour import Profile

FORMATS = ("PNG", "JPEG", "WEBP", "TIFF", "BMP", "GIF", "PPM", "AVIF", "JPEG2000")
MIN_SIDE = 8  # pixels of the shorter side of a usable picture
MAX_PIXELS = 178_956_970  # of a picture; Pillow itself refuses more
MAX_BYTES = 2**30  # of a file, more than MAX_PIXELS uncompressed
ORIENTATION = 0x0112
# TIFF tags (TIFF 6.0, sections 8 and 19).
BITS_PER_SAMPLE, PHOTOMETRIC, LARGEST_SAMPLE = 258, 262, 341
DARK = 2**12  # 16-bit pixels that stay below are likely of fewer bits


class BadImage(Exception):
    """A file that cannot be used; the message is the reason, without the name."""


class TooLarge(BadImage):
    """A file of more bytes or pixels than are read."""


# ---- opening ----


@lru_cache
def formats() -> tuple[str, ...]:
    """Those of FORMATS that the installed Pillow has."""
    Image.init()
    return tuple(name for name in FORMATS if name in Image.OPEN)


@contextlib.contextmanager
def open_image(
    file: str | AnyPath | BytesIO, max_pixels: int | None = None
) -> Iterator[Image.Image]:
    """Open an image file, within limits that are checked before anything is decoded.

    Args:
      file: its path, perhaps in a bucket, or its bytes.
      max_pixels: the largest picture, width times height; None: MAX_PIXELS.

    Raises:
      BadImage: for every exception of the block: Pillow's decoders raise many types.
      OSError: if a bucket cannot be read.
    """
    if is_remote(str(file)):  # a bucket out of reach is no bad image
        file = fetch(str(file))
    with bad_image():
        if not isinstance(file, BytesIO):
            check_file(file)
        with Image.open(file, formats=formats()) as picture:
            check_size(picture.size, max_pixels=max_pixels)
            yield picture


@contextlib.contextmanager
def bad_image() -> Iterator[None]:
    """Turn every exception of Pillow into a BadImage with the reason in one line."""
    try:
        yield
    except BadImage:
        raise
    except UnidentifiedImageError as error:
        raise BadImage(f"it is no image ({', '.join(formats())})") from error
    except MemoryError as error:
        raise BadImage("it does not fit into memory") from error
    except Exception as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise BadImage(" ".join(reason.split()) or type(error).__name__) from error


def fetch(path: str) -> BytesIO:
    """The bytes of an image in a bucket.

    Raises:
      BadImage: if there are none, or too many.
      OSError: if it cannot be read.
    """
    with as_os_error(path):
        size = epath.Path(path).stat().length
    check_bytes(size)
    with as_os_error(path):
        return BytesIO(epath.Path(path).read_bytes())


def check_file(path: str | AnyPath) -> None:
    """Refuse what is no file to be decoded.

    Raises:
      BadImage: with the reason.
      OSError: if there is no file.
    """
    status = os.stat(path)
    if not stat.S_ISREG(status.st_mode):  # reading a pipe would wait forever
        raise BadImage("it is no file")
    check_bytes(status.st_size)


def check_bytes(size: int) -> None:
    """Refuse a file by its size.

    Raises:
      BadImage: if it is empty.
      TooLarge: if it has too many bytes.
    """
    if size == 0:
        raise BadImage("it is empty")
    if size > MAX_BYTES:
        raise TooLarge(f"{size:,} bytes are more than {MAX_BYTES:,}")


def check_size(
    size: tuple[int, int], least: int = 1, max_pixels: int | None = None
) -> None:
    """Refuse a picture by its width and height.

    Raises:
      BadImage: if a side is below `least`.
      TooLarge: if there are too many pixels.
    """
    width, height = size
    if min(size) < least:
        raise BadImage(f"{width}x{height} pixels are too few")
    most = MAX_PIXELS if max_pixels is None else max_pixels
    if width * height > most:
        raise TooLarge(f"{width}x{height} pixels are more than {most:,}")


def check_picture(picture: Image.Image) -> None:
    """Refuse a Pillow image that `open_image` would not have opened.

    Raises:
      BadImage: if it is of another format, or too large.
    """
    if picture.format not in (None, "MPO", *formats()):  # MPO: a JPEG of two frames
        raise BadImage(f"{picture.format} is none of {', '.join(formats())}")
    check_size(picture.size)


def decode(path: str | AnyPath, target: int = 0) -> Image.Image:
    """Decode an image file.

    CMYK, palette, grey, 16-bit and transparent files become RGB; the first frame of an
    animation is used; EXIF orientation is applied, and colours are converted to sRGB.

    Args:
      path: the file.
      target: pixels; a JPEG may be decoded at 1/2, 1/4 or 1/8 of its size, which is
        much faster, but with no side below this. 0: at its full size.

    Raises:
      BadImage: if it is empty, damaged, not an image, too small or too large.
    """
    with open_image(path) as picture:
        check_size(picture.size, MIN_SIDE)
        if target:
            picture.draft(None, (target, target))  # pyright: ignore
        return to_srgb(picture)


# ---- conversion ----


def to_srgb(picture: Image.Image) -> Image.Image:
    """Convert a picture of any mode to upright RGB in sRGB; transparency is dropped.

    Raises:
      BadImage: for pixels of unknown range.
    """
    rgb, profile = to_rgb(picture)
    return profile.to_srgb(rgb) if profile else rgb


def to_rgb(picture: Image.Image) -> tuple[Image.Image, Profile | None]:
    """Convert a picture of any mode to upright RGB, in its own colours if it is RGB.

    Returns:
      The picture, and its profile if it is not in sRGB.

    Raises:
      BadImage: for pixels of unknown range, such as floating-point numbers.
    """
    reduced = _has_16_bits(picture)
    if picture.mode[0] in "IF":
        picture = _upright(picture, to_grey(picture))
    elif picture.getexif().get(ORIENTATION, 1) != 1:
        picture = ImageOps.exif_transpose(picture)
    if picture.mode == "RGB":
        picture.load()
        rgb, profile = picture, colour.profile_of(picture)
    else:
        if "transparency" in picture.info:
            picture = picture.convert("RGBA")  # Pillow warns about direct conversion
        converted = colour.to_srgb(picture)
        rgb = converted or picture.convert("RGB")
        profile = None if converted else colour.profile_of(rgb)
    if reduced and 0 < np.asarray(rgb).max() < DARK >> 8:
        raise _unknown_range(f"16-bit pixels stay below {DARK}")
    return rgb, profile


def to_grey(picture: Image.Image) -> Image.Image:
    """Reduce a grey picture of 16 or 32 bits to 8, by the range that its file states.

    If it states none, 16 bits have their whole range, and 32 bits that of the smallest
    type of 8 or 16 that holds them.

    Raises:
      BadImage: if the range is unknown: for floating-point numbers, negative numbers,
        and where it would make the picture nearly black.
    """
    if picture.mode == "F":
        raise _unknown_range("pixels are floating-point numbers")
    values = np.asarray(picture).astype(np.int64)
    low, high = int(values.min()), int(values.max())
    tags: Any = getattr(picture, "tag_v2", {})
    top = _stated_range(picture, tags)
    if top is None:
        top = 255 if picture.mode == "I" and high <= 255 else 65535
        if top == 65535 and 0 < high < DARK:
            raise _unknown_range(f"{picture.mode} pixels stay below {DARK}")
    if low < 0 or high > top:
        raise _unknown_range(f"pixels lie between {low} and {high}")
    if tags.get(PHOTOMETRIC) == 0:  # white is zero, which Pillow leaves as it is
        values = top - values
    return Image.fromarray(np.round(values * (255 / top)).astype(np.uint8))


def _stated_range(picture: Image.Image, tags: Any) -> int | None:
    """The largest value that a file says a pixel may have."""
    if picture.format == "PPM":  # Pillow has scaled it by the file's maximum
        return 65535
    stated = np.atleast_1d(tags.get(LARGEST_SAMPLE, 0))
    if np.isfinite(stated[0]) and stated[0] >= 1:
        return int(stated[0])
    bits = min(np.atleast_1d(tags.get(BITS_PER_SAMPLE, 16)))
    return 2 ** int(bits) - 1 if 8 < bits < 16 else None


def _unknown_range(what: str) -> BadImage:
    return BadImage(f"its {what}, so their range is unknown: save it with 8 bits")


def _has_16_bits(picture: Image.Image) -> bool:
    """Whether Pillow will drop the lower 8 of 16 bits per channel."""
    tiles = getattr(picture, "tile", ())
    return bool(tiles) and ";16" in str(tiles[0][3]) and picture.mode[0] != "I"


def _upright(original: Image.Image, converted: Image.Image) -> Image.Image:
    """The converted picture with the EXIF orientation of the original."""
    converted.getexif()[ORIENTATION] = original.getexif().get(ORIENTATION, 1)
    return ImageOps.exif_transpose(converted)


def core_count() -> int:
    """The number of cores that this process may run on."""
    if hasattr(os, "sched_getaffinity"):  # not on macOS
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
