"""Pictures for people: grids, thumbnails, PNG files."""

import io
import os
from collections.abc import Sequence

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageDraw, ImageFont

from picjax.files import write_bytes

MARGIN = 4  # pixels between images and around them
TITLE_HEIGHT = 18  # pixels for a line of titles above the columns
WHITE = 255
HOLE_GREY = 127  # what PICNet's test script shows a hole as
CELL = 192  # pixels: the longest side in a grid of completions


def image_grid(
    rows: Sequence[Sequence[np.ndarray]], titles: Sequence[str] | None = None
) -> UInt8[np.ndarray, "height width 3"]:
    """Rows of images on white, every image centred in a cell of the largest size.

    Args:
      rows: uint8 images [h w 3]; rows may differ in length, images in size.
      titles: one word or two above each column; cut where longer than the column.

    Returns:
      uint8 [height width 3].

    Raises:
      ValueError: when there is no image, or one is not uint8 [h w 3].
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
        # One tile a title, so that a long one is cut at its own column.
        tile = Image.new("RGB", (width, TITLE_HEIGHT), "white")
        ImageDraw.Draw(tile).text((0, 0), title, fill="black", font=font)
        x = MARGIN + j * (width + MARGIN)
        grid[MARGIN : MARGIN + TITLE_HEIGHT, x : x + width] = np.asarray(tile)


def thumbnail(image: UInt8[np.ndarray, "h w 3"]) -> UInt8[np.ndarray, "y x 3"]:
    """The image as a grid shows it: small ones in larger pixels, large ones shrunk."""
    longest = max(image.shape)
    if longest < CELL:
        return image.repeat(CELL // longest, 0).repeat(CELL // longest, 1)
    picture = Image.fromarray(image)
    picture.thumbnail((CELL, CELL), Image.Resampling.BICUBIC)
    return np.asarray(picture)


def png_bytes(array: np.ndarray) -> bytes:
    """A uint8 image [h w 3] or [h w] as a PNG file."""
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, "png", compress_level=3)
    return buffer.getvalue()


def write_png(path: str | os.PathLike[str], array: np.ndarray) -> None:
    """Writes a uint8 image [h w 3] or [h w]; the final name never holds half of it."""
    write_bytes(path, png_bytes(array))
