"""Image files of any mode and size as upright 8-bit RGB."""

import os
import sys
import warnings
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from picjax.cli import UserError

MIN_SIDE = 8  # pixels of the shorter side of a usable picture
ORIENTATION = 0x0112


class BadImage(Exception):
    """A file that cannot be used; the message is the reason, without the name."""


def decode(path: str | Path, target: int = 0) -> Image.Image:
    """Decode an image file.

    CMYK, palette, grey, 16-bit and transparent files become RGB; the first frame of an
    animation is used; EXIF orientation is applied.

    Args:
      path: the file.
      target: pixels; a JPEG may be decoded at 1/2, 1/4 or 1/8 of its size, which is
        much faster, but with no side below this. 0: at its full size.

    Raises:
      BadImage: if it is empty, damaged, not an image, too small or too large.
    """
    try:
        with Image.open(path) as picture:
            if min(picture.size) < MIN_SIDE:
                raise BadImage(f"{picture.width}x{picture.height} pixels are too few")
            if target:
                picture.draft(None, (target, target))  # pyright: ignore
            return to_rgb(picture)
    except BadImage:
        raise
    except UnidentifiedImageError as error:
        reason = "it is empty" if os.path.getsize(path) == 0 else "it is no image"
        raise BadImage(reason) from error
    except Exception as error:  # Pillow's decoders raise many types on damaged files
        raise BadImage(str(error) or type(error).__name__) from error


def to_rgb(picture: Image.Image) -> Image.Image:
    """Convert a picture of any mode to upright RGB; transparency is dropped.

    Raises:
      ValueError: for floating-point pixels, whose range is unknown.
    """
    if picture.getexif().get(ORIENTATION, 1) != 1:
        picture = ImageOps.exif_transpose(picture)
    if picture.mode == "RGB":
        picture.load()
        return picture
    if picture.mode.startswith("I"):  # 16 bits in every such mode
        wide = np.asarray(picture).astype(np.float64)
        grey = np.clip(np.round(wide / 257), 0, 255).astype(np.uint8)
        return Image.fromarray(grey).convert("RGB")
    if picture.mode == "F":
        raise ValueError("its pixels are floating-point numbers")
    if "transparency" in picture.info:
        picture = picture.convert("RGBA")  # Pillow warns about the direct conversion
    return picture.convert("RGB")


def say(line: str) -> None:
    """Print one line to standard error, such as the name of a skipped file.

    Printed instead of logged, so that it passes through a progress bar on the screen
    and does not depend on the root logger, which other packages configure.
    """
    print(f"picjax: {line}", file=sys.stderr)


def core_count() -> int:
    """The number of cores that this process may run on."""
    if hasattr(os, "sched_getaffinity"):  # not on macOS
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def list_images(path: str | Path, key: str) -> list[Path]:
    """The image files of a directory tree or a text list, sorted by name.

    Lines of a list are paths relative to the list, or else to the working directory.
    Hidden files and those without an image's extension are ignored.

    Args:
      path: a directory, a .txt file, or one image.
      key: name of the setting for errors, such as `config.data.path`.

    Raises:
      UserError: if there is none.
    """
    # Pictures of 90 to 180 million pixels are large, not attacks.
    warnings.simplefilter("ignore", Image.DecompressionBombWarning)
    root = Path(path)
    if not str(path) or not root.exists():
        raise UserError(
            f"{key} '{path}' does not exist; set it to a folder of images or a .txt list"
        )
    if root.is_file():
        files = _read_list(root) if root.suffix.lower() == ".txt" else [root]
    else:
        files = _walk(root)
    if not files:
        raise UserError(
            f"{key} '{path}' holds no image file; point it to a folder of images or a "
            ".txt list of them"
        )
    return files


def _read_list(file: Path) -> list[Path]:
    lines = file.read_text(encoding="utf-8").splitlines()
    paths = [Path(line.strip()) for line in lines if line.strip()]
    return [beside if (beside := file.parent / p).exists() else p for p in paths]


def _walk(root: Path) -> list[Path]:
    extensions = Image.registered_extensions()
    files = []
    for folder, folders, names in os.walk(root, followlinks=True):
        folders[:] = [name for name in folders if not name.startswith(".")]
        files += [
            Path(folder, name)
            for name in names
            if os.path.splitext(name)[1].lower() in extensions and name[0] != "."
        ]
    return sorted(files)
