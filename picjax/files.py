"""Atomic writes: files and folders get their final names when they are complete.

In a bucket (`picjax.buckets`) an object has its final name at once, and appears whole.
"""

import contextlib
import io
import json
import os
import uuid
from collections.abc import Iterator
from typing import Any, BinaryIO, cast

import numpy as np
from etils import epath

from picjax import buckets, signals
from picjax.buckets import AnyPath, as_os_error, is_remote
from picjax.cli import UserError


def check_writable(path: epath.PathLike, option: str) -> None:
    """Check that a folder of outputs exists or can be created, before it is needed.

    Args:
      path: the folder.
      option: the command-line option, for errors.

    Raises:
      UserError: if not.
    """
    path = epath.Path(path)
    if is_remote(path):
        buckets.check_writable(path, option)
        return
    present, reason = path, ""
    try:
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            os.stat(path)  # `exists` is silent about names that are too long
        while not present.exists() and present != present.parent:
            present = present.parent
        if not present.is_dir():
            reason = f"'{present}' is a file"
        elif not os.access(present, os.W_OK | os.X_OK):
            reason = f"'{present}' is not writable"
    except OSError as error:
        reason = error.strerror or str(error)
    if reason:
        raise UserError(
            f"{option} '{path}' cannot be written to ({reason}); choose another folder"
        )


def absolute(path: epath.PathLike) -> epath.Path:
    """A path that does not depend on the working directory."""
    return epath.Path(path) if is_remote(path) else epath.Path(path).absolute()


def modified(path: epath.PathLike) -> int:
    """When a file or folder was last written to, in nanoseconds; 0 if it is absent."""
    with contextlib.suppress(FileNotFoundError, NotADirectoryError):
        if is_remote(path):
            return max(buckets.find(path).values(), default=0)
        return os.stat(path).st_mtime_ns
    return 0


def write_text(path: epath.PathLike, text: str) -> None:
    """Write UTF-8 text atomically; a file's name in it may be of other bytes."""
    write_bytes(path, text.encode(errors="backslashreplace"))


def read_json(path: epath.PathLike) -> Any:
    """Read a JSON file.

    Raises:
      ValueError: if it is no JSON in UTF-8.
      OSError: if it cannot be read.
    """
    with as_os_error(path):
        text = epath.Path(path).read_text()
    return parse_json(text)


def parse_json(text: str) -> Any:
    """Parse JSON.

    Raises:
      ValueError: if it is none.
    """
    try:
        return json.loads(text)
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error


def write_bytes(path: epath.PathLike, data: bytes) -> None:
    """Write a file atomically."""
    with open_atomic(path) as file:
        file.write(data)


def read_npz(path: epath.PathLike) -> dict[str, np.ndarray]:
    """Read every array of an .npz, whose bytes are compared with their checksums.

    Raises:
      ValueError: if it is damaged, no .npz, or holds objects, which would be executed.
      OSError: if it cannot be read.
    """
    # Read whole: a damaged offset, too, raises OSError while the arrays are read.
    data = io.BytesIO(epath.Path(path).read_bytes())
    try:
        with np.load(data, allow_pickle=False) as content:
            return {name: content[name] for name in content.files}
    except Exception as error:  # zipfile and numpy raise many types on damaged files
        raise ValueError(f"'{path}' is damaged ({error})") from error


def own_token() -> str:
    """A part of a temporary name; the process is not enough, as hosts share folders."""
    return uuid.uuid4().hex[:8]


@contextlib.contextmanager
def open_atomic(path: epath.PathLike) -> Iterator[BinaryIO]:
    """Open a file for writing under a temporary name, then rename it to `path`.

    Creates the folder. If the block raises, `path` remains as it was.
    """
    path = epath.Path(path)
    if is_remote(path):
        buffer = io.BytesIO()
        yield buffer
        with as_os_error(path):
            path.write_bytes(buffer.getvalue())
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{own_token()}.tmp")
    try:
        with temporary.open("wb") as file:
            yield cast(BinaryIO, file)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def check_new(path: epath.PathLike) -> None:
    """Check that nothing is at the path of a new folder but, perhaps, an empty one.

    Raises:
      UserError: otherwise.
    """
    path = epath.Path(path)
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise UserError(f"--out '{path}' exists already; remove it or choose another")


def partial_folder(path: epath.PathLike, token: str) -> epath.Path:
    """The temporary name of a new folder."""
    final = epath.Path(path).absolute()
    return final.with_name(f".{final.name}.partial-{token}")


@contextlib.contextmanager
def new_folder(path: epath.PathLike, token: str = "") -> Iterator[epath.Path]:
    """Create a folder under a temporary name to be filled, then rename it to `path`.

    If the block raises, nothing remains.

    Args:
      path: the folder.
      token: of its temporary name, where several processes fill it.

    Raises:
      UserError: if `path` is anything but an empty folder, or cannot be created.
    """
    check_new(path)
    path, final = epath.Path(path), epath.Path(path).absolute()
    partial = partial_folder(path, token or own_token())
    try:
        partial.mkdir(parents=True)
    except OSError as error:
        raise UserError(
            f"--out '{path}' cannot be created ({error.strerror}); choose another"
        ) from error
    try:
        yield partial
        if path.exists():
            path.rmdir()
        partial.rename(final)
    finally:
        if partial.exists():
            partial.rmtree()


@contextlib.contextmanager
def together(folder: epath.PathLike) -> Iterator[AnyPath]:
    """Yield a temporary folder whose files move into `folder` when the block ends.

    A first signal does not separate them. If the block raises, none of them appears.
    """
    folder = epath.Path(folder)
    if is_remote(folder):
        with signals.deferred(), contextlib.closing(buckets.Mirror(folder)) as mirror:
            yield mirror.path
            mirror.copy()
        return
    partial = folder / f".partial-{own_token()}"
    with signals.deferred():
        partial.mkdir(parents=True, exist_ok=True)
        try:
            yield partial
            for path in sorted(partial.iterdir()):
                path.replace(folder / path.name)
        finally:
            partial.rmtree()
