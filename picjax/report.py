"""Pictures and pages for people: image grids, Markdown and HTML, written atomically."""

import contextlib
import html
import io
import os
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageDraw, ImageFont

from picjax.cli import UserError

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


def markdown_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table, its columns aligned for reading as plain text too."""
    cells = [
        [c.replace("|", "\\|").replace("\n", " ") for c in row]
        for row in [header, *rows]
    ]
    widths = [max(3, *(len(c) for c in column)) for column in zip(*cells, strict=True)]

    def line(row: Sequence[str]) -> str:
        padded = (c.ljust(w) for c, w in zip(row, widths, strict=True))
        return "| " + " | ".join(padded) + " |"

    rule = "|" + "|".join("-" * (w + 2) for w in widths) + "|"
    return "\n".join([line(cells[0]), rule, *map(line, cells[1:])]) + "\n"


def html_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """The same table in HTML; what follows a line break in a cell is set small."""

    def cell(text: str) -> str:
        first, _, rest = text.partition("\n")
        return html.escape(first) + (
            f"<small>{html.escape(rest)}</small>" if rest else ""
        )

    def line(row: Sequence[str], tag: str) -> str:
        cells = "".join(f"<{tag}>{cell(text)}</{tag}>" for text in row)
        return f"<tr>{cells}</tr>"

    body = "\n".join(line(row, "td") for row in rows)
    head = f"<thead>{line(header, 'th')}</thead>"
    return f"<table>\n{head}\n<tbody>{body}</tbody>\n</table>\n"


def html_page(
    title: str, parts: Sequence[str], style: str = "", script: str = ""
) -> str:
    """One self-contained page: nothing in it is fetched from elsewhere."""
    title = html.escape(title)
    return (
        '<!doctype html>\n<html lang="en"><meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{title}</title>\n<style>{style}</style>\n<h1>{title}</h1>\n"
        + "\n".join(parts)
        + f"\n<script>{script}</script>\n</html>\n"
    )


def html_text(text: str) -> str:
    """Plain text inside a page."""
    return html.escape(text)


def png_bytes(array: np.ndarray) -> bytes:
    """A uint8 image [h w 3] or [h w] as a PNG file."""
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, "png", compress_level=3)
    return buffer.getvalue()


def write_png(path: str | os.PathLike[str], array: np.ndarray) -> None:
    """Writes a uint8 image [h w 3] or [h w]; the final name never holds half of it."""
    write_bytes(path, png_bytes(array))


def write_text(path: str | os.PathLike[str], text: str) -> None:
    """Writes UTF-8 text; the final name never holds half of it."""
    write_bytes(path, text.encode())


def write_bytes(path: str | os.PathLike[str], data: bytes) -> None:
    """Writes a file; the final name never holds half of it."""
    with open_atomic(path) as file:
        file.write(data)


@contextlib.contextmanager
def open_atomic(path: str | os.PathLike[str]) -> Iterator[BinaryIO]:
    """A file to write, under a temporary name beside `path` until it is whole.

    Makes the folder. Where the block raises, `path` stays as it was.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(temporary, "wb") as file:
            yield file
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def new_folder(path: str | os.PathLike[str]) -> Iterator[Path]:
    """A folder to fill, under a temporary name beside `path` until it is whole.

    Where the block raises, nothing is left.

    Raises:
      UserError: when `path` is anything but an empty folder, or cannot be made.
    """
    path = Path(path)
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise UserError(f"--out '{path}' exists already; remove it or choose another")
    whole = path.absolute()
    partial = whole.with_name(f".{whole.name}.partial-{os.getpid()}")
    try:
        partial.mkdir(parents=True)
    except OSError as error:
        raise UserError(
            f"--out '{path}' cannot be made ({error.strerror}); choose another"
        ) from error
    try:
        yield partial
        if path.exists():
            path.rmdir()
        partial.rename(path)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
