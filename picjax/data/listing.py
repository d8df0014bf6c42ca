"""The image files of a folder, a directory tree or a text list."""

import os
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

from etils import epath
from PIL import Image

from picjax import buckets
from picjax.buckets import AnyPath
from picjax.cli import UserError, say
from picjax.data.decode import formats


@lru_cache
def extensions() -> frozenset[str]:
    """The extensions of files that are opened, such as `.png`."""
    registered = Image.registered_extensions().items()
    return frozenset(extension for extension, f in registered if f in formats())


def list_images(path: str | Path, key: str, deep: bool = True) -> list[Path]:
    """The image files of a directory tree or a text list, sorted by name.

    Lines of a list are paths relative to the list, or else to the working directory.
    Hidden files and those without an image's extension are ignored, and a tree's file
    or folder that links lead to is listed once.

    Args:
      path: a directory, a .txt file, or one image.
      key: name of the setting for errors, such as `config.data.path`.
      deep: whether folders inside a directory are listed, and .txt files read.

    Raises:
      UserError: if there is none.
    """
    root = Path(path)
    kinds = "a folder of images or a .txt list" if deep else "a file or a folder"
    if not str(path) or not root.exists():
        raise UserError(f"{key} '{path}' does not exist; set it to {kinds}")
    if root.is_dir():
        files = _walk(root, deep)
    else:
        is_list = deep and root.suffix.lower() == ".txt"
        files = _read_list(root, key) if is_list else [root]
    if not files:
        raise UserError(f"{key} '{path}' holds no image file; point it to {kinds}")
    return files


def list_data(path: str, key: str) -> Sequence[AnyPath]:
    """`list_images` of a config, whose directory may also lie in a bucket.

    Args:
      path: a directory, a .txt file, or one image.
      key: name of the setting for errors.

    Raises:
      UserError: if there is none.
    """
    if not buckets.is_remote(path):
        return list_images(path, key)
    buckets.check(path, key)
    with buckets.as_os_error(path):
        names = [name.split("/") for name in buckets.find(path)]
    root = epath.Path(path)
    files = [
        root.joinpath(*parts)
        for parts in names
        if os.path.splitext(parts[-1])[1].lower() in extensions()
        and not any(part.startswith(".") for part in parts)
    ]
    if not files:
        raise UserError(
            f"{key} '{path}' holds no image; point it to a folder of images"
        )
    return files


def _read_list(file: Path, key: str) -> list[Path]:
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError as error:
        raise UserError(
            f"{key} '{file}' is no text in UTF-8; write one path per line"
        ) from error
    paths = [Path(line.strip()) for line in lines if line.strip()]
    return [beside if (beside := file.parent / p).exists() else p for p in paths]


def _walk(root: Path, deep: bool) -> list[Path]:
    found: dict[str, Path] = {}  # by real path
    visited: set[str] = set()
    waiting = [str(root)]
    while waiting:
        folder = waiting.pop()
        real = os.path.realpath(folder)
        if real in visited:
            continue
        visited.add(real)
        try:
            entries = list(os.scandir(folder))
        except OSError as error:
            say(f"skipped the folder '{folder}': {error.strerror}")
            continue
        for entry in entries:
            if entry.name.startswith("."):
                continue
            # Only links are asked for: a network answers slowly, for each of many files.
            is_link = entry.is_symlink()
            if os.path.isdir(entry.path) if is_link else entry.is_dir():
                waiting += [entry.path] if deep else []
            elif os.path.splitext(entry.name)[1].lower() in extensions():
                target = os.path.join(real, entry.name)
                if is_link:
                    found.setdefault(os.path.realpath(entry.path), Path(entry.path))
                else:  # the file itself, not a link to it, names it
                    found[target] = Path(entry.path)
    return sorted(found.values())
