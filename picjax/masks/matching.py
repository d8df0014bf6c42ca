"""Masks that users pass: names, files, folders, arrays, matched with their images."""

import zlib
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from picjax.cli import UserError, check_choice, say
from picjax.data.decode import BadImage, bad_image, check_picture
from picjax.data.listing import list_images
from picjax.masks import shapes
from picjax.masks.files import load_mask, picture_mask
from picjax.masks.strokes import Mask

Size = tuple[int, int]
# Names of a mask without extension, with {} for its image's; picjax writes the first.
NAMES_OF_MASKS = ("{}_mask", "{}", "{}-mask", "mask_{}", "{}_mask000", "{}_mask001")
PAIRINGS = ("name", "order")
PRINTED = 20  # pairs


def match_masks(
    stems: Sequence[str], mask: str, order: bool = False
) -> list[Path] | list[str]:
    """Find a mask for each image: the same for all, or the files of a folder.

    The files of a folder are matched by name: with `{}` for an image's stem, they have
    one of the NAMES_OF_MASKS.

    Args:
      stems: names of the images without extension.
      mask: a file, a folder, or one of `shapes.NAMES`.
      order: match the sorted files of a folder with the images in order instead, and
        print the pairs.

    Raises:
      UserError: if the mask is missing, unreadable or unknown, or does not match.
    """
    path = Path(mask)
    if path.is_file():
        return [path] * len(stems)
    if not mask or not path.is_dir():
        if path.suffix or len(path.parts) > 1:
            raise UserError(
                f"--mask '{mask}' does not exist; use a file, a folder, or one of "
                f"{', '.join(shapes.NAMES)}"
            )
        check_choice("mask", mask, shapes.NAMES)
        return [mask] * len(stems)
    files = list_images(path, "--mask", deep=False)
    if order:
        return _in_order(stems, files, path)
    by_stem = mask_of_image(files, stems)
    unmatched = [stem for stem in stems if stem not in by_stem]
    if not unmatched:
        return [by_stem[stem] for stem in stems]
    hint = "' or '".join(name.format(unmatched[0]) for name in NAMES_OF_MASKS[:2])
    raise UserError(
        f"--mask '{path}' holds no mask for {len(unmatched)} of {len(stems)} images "
        f"(no file is named '{hint}'); name each mask as its image, or give "
        "--pair=order"
    )


def find(
    mask: np.ndarray | Image.Image | Path | str, invert: bool
) -> np.ndarray | Image.Image | Path | str:
    """A mask given from Python: a string becomes a file or stays the name of a mask.

    Raises:
      UserError: if it is neither, or a named mask is to be inverted.
    """
    if not isinstance(mask, (str, Path)):
        return mask
    if Path(mask).is_file():
        return Path(mask)
    if isinstance(mask, Path) or Path(mask).suffix or len(Path(mask).parts) > 1:
        raise UserError(
            f"mask '{mask}' does not exist; use a file, or one of "
            f"{', '.join(shapes.NAMES)}"
        )
    check_choice("mask", mask, shapes.NAMES)
    if invert:
        raise UserError(f"the mask '{mask}' is a name; leave invert_mask out")
    return mask


def mask_of_image(files: Sequence[Path], stems: Iterable[str]) -> dict[str, Path]:
    """Stem of an image -> its mask, by the one of NAMES_OF_MASKS that fits most."""
    by_stem, known = {file.stem: file for file in files}, list(stems)
    matches = [
        {
            stem: by_stem[name.format(stem)]
            for stem in known
            if name.format(stem) in by_stem
        }
        for name in NAMES_OF_MASKS
    ]
    return max(matches, key=len)  # the first of equals


def _in_order(stems: Sequence[str], files: list[Path], path: Path) -> list[Path]:
    if len(files) != len(stems):
        raise UserError(
            f"--mask '{path}' holds {len(files)} masks for {len(stems)} images, so that "
            "--pair=order cannot pair them; give one for each"
        )
    for stem, file in list(zip(stems, files, strict=True))[:PRINTED]:
        say(f"mask of '{stem}': '{file.name}', by order")
    if len(stems) > PRINTED:
        say(f"and so on, {len(stems)} masks")
    return files


def resolve(
    mask: np.ndarray | Image.Image | Path | str,
    image: UInt8[np.ndarray, "h w 3"],
    seed: int,
    size: Size | None = None,
    invert: bool = False,
) -> tuple[Mask, list[str]]:
    """The mask of an image at the image's size, and warnings.

    Args:
      mask: a name (see `named`), a mask file, a Pillow image, which is read like a mask
        file (white = hole), or an array [h w] or [h w 1] with 1 = known, 0 = hole.
      image: the image.
      seed: seed of random named masks.
      size: size at which named masks are drawn; None: the image's.
      invert: for files and Pillow images: black (or opaque) = hole; for arrays:
        1 = hole.

    Raises:
      UserError: if the name is unknown, the file unreadable, or the array has another
        size than the image or other values.
    """
    if isinstance(mask, str):
        box = (image.shape[1], image.shape[0])
        drawn = Image.fromarray(named(mask, image, seed, size))
        return np.asarray(drawn.resize(box, Image.Resampling.NEAREST)), []
    if isinstance(mask, Path):
        return load_mask(mask, image.shape[:2], invert)
    if isinstance(mask, Image.Image):
        try:
            with bad_image():
                check_picture(mask)
                return picture_mask(mask, image.shape[:2], invert)
        except BadImage as error:
            raise UserError(
                f"the mask cannot be used: {error}; use a picture with white = hole"
            ) from error
    return _check_array(mask, image.shape[:2], invert), []


def named(
    name: str, image: UInt8[np.ndarray, "H W 3"], seed: int, size: Size | None = None
) -> Mask:
    """Draw a mask by name; random ones are a function of the seed and the image.

    Args:
      name: one of `shapes.NAMES`.
      image: the image that it is for.
      seed: another seed gives another random mask.
      size: height and width of the mask, the model's to have a mask as in training;
        None: the image's.

    Raises:
      UserError: if the name is unknown or the size too small for it.
    """
    rng = np.random.default_rng([seed % 2**32, zlib.crc32(image.tobytes())])
    return shapes.make(name, size or image.shape[:2], rng)


def _check_array(mask: np.ndarray, size: Size, invert: bool) -> Mask:
    if not hasattr(mask, "__array__"):
        raise UserError(
            f"the mask is a {type(mask).__name__}; use an array, a Pillow image, or one "
            f"of {', '.join(shapes.NAMES)}"
        )
    mask = np.asarray(mask)
    flat = mask[..., 0] if mask.ndim == 3 and mask.shape[2] == 1 else mask
    if flat.shape != size:
        raise UserError(
            f"the mask's shape is {mask.shape} but the image is {size[0]} high and "
            f"{size[1]} wide; use a mask of shape [{size[0]} {size[1]}]"
        )
    if flat.dtype.kind not in "biuf" or not ((flat == 0) | (flat == 1)).all():
        raise UserError(
            "the mask array holds other values than 1 = known and 0 = hole; "
            "use a Pillow image for a mask with white = hole"
        )
    return flat.astype(np.uint8) ^ np.uint8(invert)


class DoubtfulMask(UserWarning):
    """A mask array that may have the opposite meaning."""


def doubts(mask: Mask) -> list[DoubtfulMask]:
    """Warnings about an array that would make sense the other way round."""
    hidden = 1 - float(mask.mean())
    border = np.concatenate([mask[0], mask[-1], mask[:, 0], mask[:, -1]])
    doubt = "" if hidden else "nothing of it is hole"
    if hidden > 0.5 and not border.any():
        doubt = f"{hidden:.0%} of it is hole, with its whole border"
    if not doubt:
        return []
    meaning = "1 means known, with invert_mask=True 1 means hole"
    return [DoubtfulMask(f"the mask array: {doubt}; {meaning}")]
