"""Files of clients, decoded within limits that are checked first."""

import contextlib
from collections.abc import Iterator
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
    TooLarge,
    check_size,
    open_image,
    to_rgb,
)
from picjax.data.maps import Map, as_map, check_same_size
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
    advice = "send a whole PNG or JPEG file"
    with opened(data, "the image", advice, limits) as file:
        check_size(file.size, MIN_SIDE)
        rgb, profile = to_rgb(file)
        return Picture(np.asarray(rgb), profile)


def read_mask(
    data: bytes, size: tuple[int, int], limits: Limits, invert: bool = False
) -> tuple[UInt8[np.ndarray, "h w"], tuple[str, ...]]:
    """Decode an uploaded mask file (white = hole) at a size, with warnings about it.

    Raises:
      UserError: if it cannot be used.
    """
    with opened(data, "the mask", "send a PNG with white = hole", limits) as file:
        mask, warnings = masks.picture_mask(file, size, invert)
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
    with opened(data, name, "send a PNG of indices", limits) as file:
        values = np.asarray(file)
    indices = as_map(values, name)
    if indices.min() < 0 or indices.max() > largest:
        raise UserError(
            f"{name} holds {indices.min()} to {indices.max()}; give 0 to {largest}"
        )
    return indices


def read_instances(data: bytes, labels: Map, owner: str, limits: Limits) -> Map:
    """Decode an uploaded instance map of a label map.

    Args:
      data: a file of indices.
      labels: the label map.
      owner: of both, for errors.
      limits: of the upload.

    Raises:
      UserError: if it cannot be used, or is of another size.
    """
    ids = read_map(data, f"{owner}'s instance map", INSTANCES, limits)
    check_same_size(labels.shape, ids.shape, owner)
    return ids


def read_rgba(data: bytes, limits: Limits) -> Image.Image:
    """Decode a layer of the editor, of mode RGBA.

    Raises:
      UserError: if it cannot be used.
    """
    with opened(data, "the drawing", "draw it again", limits) as file:
        return file.convert("RGBA")


@contextlib.contextmanager
def opened(
    data: bytes, name: str, advice: str, limits: Limits
) -> Iterator[Image.Image]:
    """Open an uploaded file, of which every error is one sentence.

    Args:
      data: the file.
      name: for errors.
      advice: how to mend a file that is damaged or of another kind.
      limits: of the upload.

    Raises:
      UserError: if it cannot be used.
    """
    try:
        with open_image(BytesIO(data), limits.pixels) as file:
            yield file
    except BadImage as error:
        advice = "make it smaller" if isinstance(error, TooLarge) else advice
        raise UserError(f"{name} cannot be used: {error}; {advice}") from None
