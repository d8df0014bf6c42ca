"""Files of clients, decoded within limits that are checked first."""

from dataclasses import dataclass
from io import BytesIO

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from picjax import masks
from picjax.cli import UserError
from picjax.data.decode import (
    MIN_SIDE,
    BadImage,
    bad_image,
    check_size,
    open_image,
    to_rgb,
)
from picjax.data.maps import Map, as_map
from picjax.images import Picture

LABELS, INSTANCES = 2**8 - 1, 2**16 - 1  # largest indices of the two kinds of maps


@dataclass(frozen=True)
class Limits:
    """What an upload may be; checked before anything is decoded.

    Attributes:
      bytes: of one request.
      pixels: of a picture, width times height.
    """

    bytes: int = 32 * 2**20
    pixels: int = 16 * 2**20


def read_picture(data: bytes, limits: Limits) -> Picture:
    """Decode an uploaded picture; of its metadata only a colour profile is kept.

    Raises:
      UserError: if it cannot be used.
    """
    try:
        with open_image(BytesIO(data), limits.pixels) as file:
            check_size(file.size, MIN_SIDE)
            rgb, profile = to_rgb(file)
            return Picture(np.asarray(rgb), profile)
    except BadImage as error:
        raise UserError(
            f"the image cannot be used: {error}; send a whole PNG or JPEG file"
        ) from None


def read_mask(
    data: bytes, size: tuple[int, int], limits: Limits, invert: bool = False
) -> tuple[UInt8[np.ndarray, "h w"], tuple[str, ...]]:
    """Decode an uploaded mask file (white = hole) at a size, with warnings about it.

    Raises:
      UserError: if it cannot be used.
    """
    try:
        with open_image(BytesIO(data), limits.pixels) as file:
            mask, warnings = masks.picture_mask(file, size, invert)
    except BadImage as error:
        raise UserError(
            f"the mask cannot be used: {error}; send a PNG with white = hole"
        ) from None
    return mask, tuple(f"the mask: {warning}" for warning in warnings)


def read_map(data: bytes, name: str, largest: int, limits: Limits) -> Map:
    """Decode an uploaded label or instance map.

    Args:
      data: a file of indices.
      name: for errors.
      largest: index that a file of its kind can store.
      limits: of the upload.

    Raises:
      UserError: if it cannot be used.
    """
    try:
        with open_image(BytesIO(data), limits.pixels) as file:
            values = np.asarray(file)
    except BadImage as error:
        raise UserError(
            f"{name} cannot be used: {error}; send a PNG of indices"
        ) from None
    indices = as_map(values, name)
    if indices.min() < 0 or indices.max() > largest:
        raise UserError(
            f"{name} holds {indices.min()} to {indices.max()}; give 0 to {largest}"
        )
    return indices


def read_rgba(data: bytes, limits: Limits) -> Image.Image:
    """Decode a layer of the editor, of mode RGBA.

    Raises:
      UserError: if it cannot be used.
    """
    try:
        with open_image(BytesIO(data), limits.pixels) as file, bad_image():
            return file.convert("RGBA")
    except BadImage as error:
        raise UserError(f"the drawing cannot be used: {error}; draw it again") from None
