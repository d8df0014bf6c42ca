"""Variables by name of TensorFlow checkpoints, old and new, or of an .npz of them."""

# pyright: reportMissingImports=false, reportMissingModuleSource=false
import re
import zipfile
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from picjax.cli import UserError

SINGLE_FILES = (".npz", ".pth", ".pt")  # formats other than TensorFlow's

# Errors of numpy for damaged files and files that are no archives.
DAMAGED = (OSError, ValueError, EOFError, AttributeError, TypeError)
DAMAGED += (zipfile.BadZipFile, zlib.error)


class Variables(NamedTuple):
    """The variables of a checkpoint, read on demand."""

    names: Sequence[str]
    get: Callable[[str], np.ndarray]


def find(sources: Sequence[str]) -> Path:
    """Find a checkpoint: a file, a prefix, or the only one in a folder.

    The prefix is the common part of `NAME.index` and `NAME.data-00000-of-00001`; the
    older format is a single file.

    Raises:
      UserError: if there is none, or more than one.
    """
    if len(sources) > 1:
        raise UserError(
            f"--from has {len(sources)} paths, where one checkpoint is enough; pass its "
            "prefix (without .index or .data)"
        )
    source = Path(sources[0])
    if not source.is_dir():
        return _prefix(source)
    files = [path for path in sorted(source.iterdir()) if path.is_file()]
    kinds = (".index", ".ckpt", *SINGLE_FILES)
    for kind in kinds:
        matching = [path for path in files if path.suffix == kind]
        if len(matching) > 1:
            names = ", ".join(path.name for path in matching)
            raise UserError(f"--from '{source}' holds {names}; give one of them")
        if matching:
            return _prefix(matching[0])
    raise UserError(
        f"--from '{source}' holds no file that ends in {', '.join(kinds)}; pass the "
        "checkpoint itself"
    )


def _prefix(path: Path) -> Path:
    """The prefix of a checkpoint from the name of any of its files."""
    prefix = path.with_name(re.sub(r"\.(index|meta|data-\d+-of-\d+)$", "", path.name))
    if prefix.with_name(f"{prefix.name}.index").is_file() or prefix.is_file():
        return prefix
    raise UserError(
        f"--from '{path}' does not exist; use a checkpoint, its prefix or a folder"
    )


def open_checkpoint(path: Path) -> Variables:
    """Open a checkpoint by its prefix, or an .npz of variables.

    TensorFlow reads tensors from it and executes nothing.

    Raises:
      UserError: if TensorFlow is missing, or the file cannot be read.
    """
    if path.suffix == ".npz":
        try:
            with np.load(path, allow_pickle=False) as file:
                arrays = {name: file[name] for name in file.files}
        except DAMAGED as error:
            raise UserError(f"'{path}' cannot be read ({error}); replace it") from error
        return Variables(list(arrays), arrays.__getitem__)
    tensorflow = _tensorflow()
    try:
        reader = tensorflow.train.load_checkpoint(str(path))
        names = sorted(reader.get_variable_to_shape_map())
    except Exception as error:  # of TensorFlow's own types
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
            "picjax with its convert extra (pip install -e '.[convert]'), or pass the "
            "variables as an .npz (docs/convert.md)"
        ) from error
    return tensorflow
