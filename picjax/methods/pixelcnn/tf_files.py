"""Variables by name from TensorFlow's checkpoints, old and new, or from an .npz."""

# pyright: reportMissingImports=false, reportMissingModuleSource=false
import re
import zipfile
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from picjax.cli import UserError

ALONE = (".npz", ".pth", ".pt")  # files that are complete on their own

# What NumPy raises for files that are damaged or not archives.
DAMAGED = (OSError, ValueError, EOFError, AttributeError, TypeError)
DAMAGED += (zipfile.BadZipFile, zlib.error)


class Variables(NamedTuple):
    """The contents of a checkpoint; variables are read on demand."""

    names: Sequence[str]
    get: Callable[[str], np.ndarray]


def find(sources: Sequence[str]) -> Path:
    """Find the one checkpoint: a file, a prefix, or the one in a folder.

    A prefix is what `NAME.index` and `NAME.data-00000-of-00001` have in common; the
    older format is one file.

    Raises:
      UserError: if there is none, or more than one.
    """
    if len(sources) > 1:
        raise UserError(
            f"--from has {len(sources)} paths, where one checkpoint is enough; give its "
            "prefix (without .index or .data)"
        )
    source = Path(sources[0])
    if not source.is_dir():
        return _whole(source)
    files = [path for path in sorted(source.iterdir()) if path.is_file()]
    kinds = (".index", ".ckpt", *ALONE)
    for kind in kinds:
        found = [path for path in files if path.suffix == kind]
        if len(found) > 1:
            names = ", ".join(path.name for path in found)
            raise UserError(f"--from '{source}' holds {names}; give one of them")
        if found:
            return _whole(found[0])
    raise UserError(
        f"--from '{source}' holds no file that ends in {', '.join(kinds)}; give the "
        "checkpoint itself"
    )


def _whole(path: Path) -> Path:
    """The prefix of a checkpoint, from the name of any of its files."""
    prefix = path.with_name(re.sub(r"\.(index|meta|data-\d+-of-\d+)$", "", path.name))
    if prefix.with_name(f"{prefix.name}.index").is_file() or prefix.is_file():
        return prefix
    raise UserError(
        f"--from '{path}' does not exist; give a checkpoint, its prefix or a folder"
    )


def open_checkpoint(path: Path) -> Variables:
    """Open a checkpoint by its prefix, or an .npz.

    TensorFlow only reads tensors; it executes nothing from the file.

    Raises:
      UserError: if TensorFlow is missing, or the file is unreadable.
    """
    if path.suffix == ".npz":
        try:
            with np.load(path, allow_pickle=False) as file:
                arrays = {name: file[name] for name in file.files}
        except DAMAGED as error:
            raise UserError(f"'{path}' cannot be read ({error}); mend it") from error
        return Variables(list(arrays), arrays.__getitem__)
    tensorflow = _tensorflow()
    try:
        reader = tensorflow.train.load_checkpoint(str(path))
        names = sorted(reader.get_variable_to_shape_map())
    except Exception as error:  # TensorFlow has exceptions of its own
        reason = (str(error).splitlines() or [type(error).__name__])[0][:200]
        raise UserError(
            f"'{path}' is no checkpoint of TensorFlow's ({reason}); copy it again"
        ) from error

    def get(name: str) -> np.ndarray:
        try:
            return reader.get_tensor(name)
        except Exception as error:
            raise UserError(
                f"'{path}': {name} cannot be read; copy all of its .data files again"
            ) from error

    return Variables(names, get)


def _tensorflow() -> Any:
    try:
        import tensorflow
    except ImportError as error:
        raise UserError(
            "TensorFlow's checkpoints need TensorFlow, which is not installed; install "
            "picjax with its convert extra (pip install -e '.[convert]'), or give the "
            "variables as an .npz (docs/convert.md)"
        ) from error
    return tensorflow
