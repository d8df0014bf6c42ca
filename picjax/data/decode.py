"""Image files of any mode and size as upright 8-bit RGB."""

import os
import sys
import warnings
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from picjax.cli import UserError

LEAST = 8  # pixels: a side shorter than this holds nothing to learn from
ORIENTATION = 0x0112


class BadImage(Exception):
    """A file that cannot be used; the message is the reason, without the name."""


def decode(path: str | Path, target: int = 0) -> Image.Image:
    """The picture in a file.

    CMYK, palette, grey, 16-bit and transparent files become RGB; of an animation the
    first frame counts; EXIF rotation is applied.

    Args:
      path: of the file.
      target: pixels; a JPEG may come out smaller than it is (by 2, 4 or 8, far cheaper),
        but with no side below this. 0: its full size.

    Raises:
      BadImage: when it is empty, damaged, no image, too small or too large.
    """
    try:
        with Image.open(path) as picture:
            if min(picture.size) < LEAST:
                raise BadImage(f"{picture.width}x{picture.height} pixels are too few")
            if target:
                picture.draft(None, (target, target))  # pyright: ignore
            return to_rgb(picture)
    except BadImage:
        raise
    except UnidentifiedImageError as error:
        reason = "it is empty" if os.path.getsize(path) == 0 else "it is no image"
        raise BadImage(reason) from error
    except Exception as error:  # Pillow's readers raise a dozen kinds on damaged files
        raise BadImage(str(error) or type(error).__name__) from error


def to_rgb(picture: Image.Image) -> Image.Image:
    """A picture of any mode as upright RGB; transparency is dropped.

    Raises:
      ValueError: for floating-point pixels, whose range nobody states.
    """
    if picture.getexif().get(ORIENTATION, 1) != 1:
        picture = ImageOps.exif_transpose(picture)
    if picture.mode == "RGB":
        picture.load()
        return picture
    if picture.mode.startswith("I"):  # 16 bits, whatever the mode says
        wide = np.asarray(picture).astype(np.float64)
        grey = np.clip(np.round(wide / 257), 0, 255).astype(np.uint8)
        return Image.fromarray(grey).convert("RGB")
    if picture.mode == "F":
        raise ValueError("its pixels are floating-point numbers")
    if "transparency" in picture.info:
        picture = picture.convert("RGBA")  # Pillow warns on the direct way
    return picture.convert("RGB")


def say(line: str) -> None:
    """One line on standard error, such as the name of a file that is left out.

    Printed, not logged: it goes through a progress bar that is on the screen, and
    looks the same whatever other packages did to the root logger.
    """
    print(f"picjax: {line}", file=sys.stderr)


def core_count() -> int:
    """Cores that this process may run on."""
    if hasattr(os, "sched_getaffinity"):  # not on macOS
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def list_images(path: str | Path, key: str) -> list[Path]:
    """The image files of a directory tree or a text list, sorted by name.

    Lines of a list are paths, relative to the list or else to where the command runs.
    Hidden files and those without an image's extension are left out.

    Args:
      path: a directory, a .txt file, or one image.
      key: what to call it in errors, such as `config.data.path`.

    Raises:
      UserError: when there is none.
    """
    # Pictures of 90 to 180 million pixels are large, not attacks.
    warnings.simplefilter("ignore", Image.DecompressionBombWarning)
    root = Path(path)
    if not str(path) or not root.exists():
        raise UserError(
            f"{key} '{path}' does not exist; set it to a folder of images or a .txt list"
        )
    if root.is_file():
        found = _read_list(root) if root.suffix.lower() == ".txt" else [root]
    else:
        found = _walk(root)
    if not found:
        raise UserError(
            f"{key} '{path}' holds no image file; point it to a folder of images or a "
            ".txt list of them"
        )
    return found


def _read_list(file: Path) -> list[Path]:
    lines = file.read_text(encoding="utf-8").splitlines()
    named = [Path(line.strip()) for line in lines if line.strip()]
    return [near if (near := file.parent / path).exists() else path for path in named]


def _walk(root: Path) -> list[Path]:
    extensions = Image.registered_extensions()
    found = []
    for folder, folders, names in os.walk(root, followlinks=True):
        folders[:] = [name for name in folders if not name.startswith(".")]
        found += [
            Path(folder, name)
            for name in names
            if os.path.splitext(name)[1].lower() in extensions and name[0] != "."
        ]
    return sorted(found)
