"""Buckets, gs://NAME/FOLDER, as the place of runs, data and outputs.

`etils.epath` reads and writes their objects. An object appears when it is complete, so
that writing it is atomic (`picjax.files`); it cannot be appended to, so that files which
grow are copied (`Mirror`); and a folder exists while it holds objects.
"""

import contextlib
import errno
import os
import tempfile
import uuid
from collections.abc import Iterator
from pathlib import Path

from etils import epath

from picjax import cli
from picjax.cli import UserError

AnyPath = Path | epath.Path
SCHEME = "gs://"  # Orbax writes to no other buckets
# Where TensorFlow is installed, epath would use it, whose exceptions are others.
os.environ.setdefault("EPATH_USE_TF", "false")


def is_remote(path: epath.PathLike) -> bool:
    """Whether a path lies in a bucket, such as gs://name/runs."""
    return "://" in str(path)


def check(path: epath.PathLike, what: str) -> None:
    """Check that a path, if it lies in a bucket, is of a kind that can be read.

    Call it before a bucket is read for the first time.

    Args:
      path: the path.
      what: the option or setting, for errors.

    Raises:
      UserError: otherwise, or if a package is missing.
    """
    if not is_remote(path):
        return
    if not str(path).startswith(SCHEME):
        raise UserError(
            f"{what} '{path}' is neither a path nor in a bucket of Google Cloud Storage "
            f"({SCHEME}); copy it to one of them, or mount it as a folder"
        )
    cli.require("gcsfs", "gcs")
    import fsspec.config

    # Others write, too: Orbax, and other processes.
    fsspec.config.conf.setdefault("gcs", {})["use_listings_cache"] = False


def check_writable(folder: epath.Path, what: str) -> None:
    """Check that objects can be written to a folder, by writing one.

    Raises:
      UserError: otherwise.
    """
    check(folder, what)
    probe = folder / f".writable-{uuid.uuid4().hex[:8]}"  # other hosts write, too
    try:
        probe.write_bytes(b"x")
        probe.unlink()
    except Exception as error:
        absent = isinstance(error, FileNotFoundError)
        reason = "there is no such bucket" if absent else first_line(error)
        raise UserError(
            f"{what} '{folder}' cannot be written to ({reason}); correct it, or "
            "authenticate (gcloud auth application-default login)"
        ) from error


@contextlib.contextmanager
def as_os_error(path: epath.PathLike) -> Iterator[None]:
    """Turn what libraries raise about an object into an OSError, as of a file.

    Args:
      path: the file or object; exceptions about files pass.
    """
    try:
        yield
    except (OSError, ValueError, UserError):
        raise
    except Exception as error:
        if not is_remote(path):
            raise
        raise OSError(errno.EIO, first_line(error), str(path)) from error


def first_line(error: Exception) -> str:
    """A short reason."""
    return str(error).strip().partition("\n")[0][:200] or type(error).__name__


def find(folder: epath.PathLike) -> dict[str, int]:
    """The objects below a folder: relative name -> time of writing in nanoseconds.

    Raises:
      UserError: if it cannot be read; see `check`.
    """
    check(folder, "the folder")
    import fsspec

    system, root = fsspec.core.url_to_fs(str(folder))
    found = system.find(root, detail=True)
    return {
        name.removeprefix(f"{root}/"): int(info["mtime"].timestamp() * 1e9)
        for name, info in sorted(found.items())
    }


class Mirror:
    """A temporary folder on the disk, whose files are copied to a bucket.

    Args:
      folder: in the bucket.

    Attributes:
      path: the folder on the disk.
    """

    def __init__(self, folder: epath.PathLike):
        self.folder = epath.Path(folder)
        self._temporary = tempfile.TemporaryDirectory(prefix="picjax-")
        self.path = Path(self._temporary.name)
        self._copied: dict[Path, int] = {}  # file -> its size, as files only grow

    def fetch(self, name: str) -> None:
        """Copy a file from the bucket, if it is there."""
        with contextlib.suppress(FileNotFoundError), as_os_error(self.folder / name):
            (self.path / name).write_bytes((self.folder / name).read_bytes())

    def copy(self) -> None:
        """Copy the files that have grown since they were last copied.

        Raises:
          OSError: if the bucket cannot be written to.
        """
        for path in sorted(self.path.rglob("*")):
            if path.is_dir() or self._copied.get(path) == path.stat().st_size:
                continue
            data = path.read_bytes()
            target = self.folder / path.relative_to(self.path).as_posix()
            with as_os_error(target):
                target.write_bytes(data)
            self._copied[path] = len(data)

    def close(self) -> None:
        """Remove the folder on the disk."""
        self._temporary.cleanup()
