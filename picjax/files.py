"""Files and folders that appear under their final names only when they are complete."""

import contextlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from picjax.cli import UserError


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
