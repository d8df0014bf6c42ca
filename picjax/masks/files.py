"""Mask files: white = hole, or else transparent = hole."""

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageOps

from picjax.buckets import AnyPath
from picjax.cli import UserError
from picjax.data.decode import BadImage, open_image, to_grey
from picjax.masks.strokes import Mask

Size = tuple[int, int]


def load_mask(
    path: str | AnyPath, size: Size, invert: bool = False
) -> tuple[Mask, list[str]]:
    """Read a mask file at a size; the warnings of `picture_mask` name the file.

    Raises:
      UserError: if the file is not a readable image.
    """
    try:
        with open_image(path) as picture:
            mask, warnings = picture_mask(picture, size, invert)
    except BadImage as error:
        raise UserError(
            f"mask '{path}' cannot be read ({error}); use a PNG with white = hole"
        ) from error
    return mask, [f"mask '{path}': {warning}" for warning in warnings]


def picture_mask(
    picture: Image.Image, size: Size, invert: bool = False
) -> tuple[Mask, list[str]]:
    """Convert a picture to a mask: white = hole, or else transparent = hole.

    An alpha channel is used if it is not fully opaque. Grey values are thresholded at
    the middle.

    Args:
      picture: a picture of any mode; its EXIF orientation is applied.
      size: height and width of the mask; other pictures are resized by nearest.
      invert: black (or opaque) = hole instead.

    Returns:
      The mask, 1 = known, and warnings about doubtful properties of the picture.
    """
    warnings = []
    picture = ImageOps.exif_transpose(picture)
    grey, hole_below = _mask_channel(picture)
    if picture.size != (size[1], size[0]):
        warnings.append(
            f"it is {picture.width}x{picture.height}, not {size[1]}x{size[0]}; resized "
            "by nearest"
        )
        box = (size[1], size[0])
        grey = np.asarray(Image.fromarray(grey).resize(box, Image.Resampling.NEAREST))
    between = float(((grey > 5) & (grey < 250)).mean())
    if between > 0.01:
        warnings.append(
            f"{between:.0%} of its pixels are grey; thresholded at the middle (save "
            "masks as PNG, without smoothing)"
        )
    known = (grey >= 128) if hole_below else (grey < 128)
    mask = (known ^ invert).astype(np.uint8)
    hidden = 1 - float(mask.mean())
    if hidden == 0 or hidden > 0.95:
        warnings.append(
            f"{hidden:.0%} of it is hole; white means hole, with --invert-mask black "
            "does"
        )
    return mask, warnings


def _mask_channel(picture: Image.Image) -> tuple[UInt8[np.ndarray, "h w"], bool]:
    """The channel that marks the hole, and whether its low values mean hole."""
    if "A" in picture.getbands() or "transparency" in picture.info:
        alpha = np.asarray(picture.convert("RGBA"))[..., 3]
        if (alpha < 255).any():
            return alpha, True
    if picture.mode[0] in "IF":
        return np.asarray(to_grey(picture)), False
    return np.asarray(picture.convert("RGB").convert("L")), False
