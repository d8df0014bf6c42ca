"""What users hand in: image files, mask files and names, arrays, folders of them.

Whatever is wrong with them is said in one line before anything is compiled.
"""

import warnings
import zlib
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from PIL import Image, UnidentifiedImageError

from picjax import masks
from picjax.cli import UserError, check_choice
from picjax.data.decode import BadImage, decode, to_rgb

DRAWN_AT = 256  # pixels a side, of named masks


def match_masks(stems: Sequence[str], mask: str) -> list[Path] | list[str]:
    """A mask for each image: one for all (a file or a name), or those of a folder.

    A folder's masks are matched by stem (`a.jpg` with `a.png`); where no stem is
    shared, by order of names, if there are as many masks as images.

    Raises:
      UserError: when the mask is missing, unreadable or unknown, or does not match.
    """
    path = Path(mask)
    if path.is_file():
        check_image(path)
        return [path] * len(stems)
    if not path.is_dir():
        if path.suffix or len(path.parts) > 1:
            raise UserError(
                f"--mask '{mask}' does not exist; give a file, a folder, or one of "
                f"{', '.join(masks.NAMES)}"
            )
        check_choice("mask", mask, masks.NAMES)
        return [mask] * len(stems)
    found = find_images(path, "--mask")
    by_stem = {file.stem: file for file in found}
    unmatched = [stem for stem in stems if stem not in by_stem]
    if not unmatched:
        return [by_stem[stem] for stem in stems]
    if len(unmatched) == len(stems) == len(found):
        return found
    if len(unmatched) == len(stems):
        raise UserError(
            f"--mask '{path}' holds {len(found)} masks for {len(stems)} images and "
            "none has an image's name; name each mask as its image"
        )
    raise UserError(
        f"--mask '{path}' holds no mask for {len(unmatched)} of {len(stems)} images "
        f"(first '{unmatched[0]}'); name each mask as its image"
    )


def find_images(path: str | Path, option: str) -> list[Path]:
    """The image files at a path, sorted by name; only their headers are read.

    Raises:
      UserError: when there is none, or one is no image.
    """
    # Pictures of 90 to 180 million pixels are large, not attacks.
    warnings.simplefilter("ignore", Image.DecompressionBombWarning)
    path = Path(path)
    if path.is_file():
        check_image(path)
        return [path]
    if not path.is_dir():
        raise UserError(f"{option} '{path}' does not exist; give a file or a folder")
    known = Image.registered_extensions()
    found = sorted(
        p
        for p in path.iterdir()
        if p.suffix.lower() in known and p.is_file() and not p.name.startswith(".")
    )
    if not found:
        raise UserError(
            f"{option} '{path}' holds no image file; point it to a folder of images"
        )
    for file in found:
        check_image(file)
    return found


def check_image(path: Path) -> None:
    """Reads a file's header.

    Raises:
      UserError: when it is no image.
    """
    try:
        with Image.open(path):
            pass
    except (OSError, Image.DecompressionBombError) as error:
        reason = (
            "it is no image" if isinstance(error, UnidentifiedImageError) else error
        )
        raise UserError(_unusable(path, reason)) from error


def read_image(path: Path) -> UInt8[np.ndarray, "h w 3"]:
    """An image file of any mode, upright, in RGB.

    Raises:
      UserError: when it cannot be used.
    """
    try:
        return np.asarray(decode(path))
    except BadImage as error:
        raise UserError(_unusable(path, error)) from error


def _unusable(path: Path, reason: object) -> str:
    return f"'{path}' cannot be used: {reason}; give a whole PNG or JPEG file"


def as_pixels(image: np.ndarray | Image.Image) -> UInt8[np.ndarray, "h w 3"]:
    """A picture as the library works on it.

    Args:
      image: uint8 [h w 3], [h w 4], [h w 1] or [h w], or a Pillow image of any mode:
        turned upright by its EXIF tag, transparency dropped, 16 bits reduced to 8.

    Raises:
      UserError: for any other array.
    """
    if isinstance(image, Image.Image):
        try:
            return np.asarray(to_rgb(image))
        except ValueError as error:
            raise UserError(f"the image cannot be used: {error}; give RGB") from error
    channels = image.shape[2] if image.ndim == 3 else 1
    if image.dtype != np.uint8 or image.ndim not in (2, 3) or channels not in (1, 3, 4):
        raise UserError(
            f"the image is {image.dtype} of shape {image.shape}; "
            "give uint8 of shape [h w 3] or [h w], or a Pillow image"
        )
    if image.ndim == 2:
        image = image[..., None]
    if channels == 1:
        return np.repeat(image, 3, axis=2)
    return np.ascontiguousarray(image[..., :3])


def as_known(
    mask: np.ndarray | Image.Image | str, image: UInt8[np.ndarray, "h w 3"], seed: int
) -> tuple[UInt8[np.ndarray, "h w"], list[str]]:
    """A mask handed in from Python, for `image`, and warnings.

    Args:
      mask: a Pillow image is read as a mask file (white = hole); an array is 1 = known,
        0 = hole, [h w] or [h w 1]; a string is a name, see `named`.
      image: what it is for.
      seed: of a mask drawn at random.

    Raises:
      UserError: for an array of another size or with other values.
    """
    if isinstance(mask, str):
        return named(mask, image, seed), []
    size = image.shape[:2]
    if isinstance(mask, Image.Image):
        return masks.picture_mask(mask, size, False)
    flat = mask[..., 0] if mask.ndim == 3 and mask.shape[2] == 1 else mask
    if flat.shape != size:
        raise UserError(
            f"the mask's shape is {mask.shape} but the image is {size[0]} high and "
            f"{size[1]} wide; give one of [{size[0]} {size[1]}]"
        )
    if not np.isin(flat, (0, 1)).all():
        raise UserError(
            "the mask array holds other values than 1 = known and 0 = hole; "
            "give a Pillow image for one with white = hole"
        )
    return flat.astype(np.uint8), []


def read_known(
    mask: Path | str, image: UInt8[np.ndarray, "h w 3"], seed: int, invert: bool
) -> tuple[UInt8[np.ndarray, "h w"], list[str]]:
    """A mask of the command line, a file or a name, for `image`, and warnings.

    Raises:
      UserError: when the file cannot be read.
    """
    if isinstance(mask, str):
        return named(mask, image, seed), []
    return masks.load_mask(mask, image.shape[:2], invert)


def named(
    name: str, image: UInt8[np.ndarray, "h w 3"], seed: int
) -> UInt8[np.ndarray, "h w"]:
    """A mask by its name; a random one depends on the seed and the image alone.

    Drawn at the size that the published ones are made for and resized by nearest:
    strokes keep their width in the picture, whatever its number of pixels.

    Raises:
      UserError: for a name that there is none of.
    """
    rng = np.random.default_rng([seed % 2**32, zlib.crc32(image.tobytes())])
    drawn = Image.fromarray(masks.make(name, (DRAWN_AT, DRAWN_AT), rng))
    size = (image.shape[1], image.shape[0])
    return np.asarray(drawn.resize(size, Image.Resampling.NEAREST))


def refuse_same(stems: Sequence[str], what: str) -> None:
    """Refuses outputs that would overwrite each other; `what` has a place for a number.

    Raises:
      UserError: when two are called the same.
    """
    for stem, count in Counter(stems).most_common(1):
        if count > 1:
            raise UserError(
                f"{what.format(count)} named '{stem}', whose completions would "
                "overwrite each other; rename all but one"
            )
