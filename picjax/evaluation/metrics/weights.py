"""Released weights of the measuring networks: found on disk, or downloaded once.

A file is searched for in the given folder (`--weights`, or the environment variable
PICJAX_WEIGHTS), then in the cache, and otherwise downloaded into the cache. Reading a
PyTorch file needs PyTorch once: its tensors are kept beside it as an .npz. Without
weights nothing is measured, unless random ones are requested, which mark the number.
"""

import os
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pooch

from picjax.cli import UserError
from picjax.evaluation.metrics import layers
from picjax.evaluation.metrics.fid import DAMAGED
from picjax.evaluation.metrics.layers import Shapes, Tensors
from picjax.evaluation.metrics.results import RANDOM
from picjax.official import files

VARIABLE = "PICJAX_WEIGHTS"
TIMEOUT = 30  # seconds without an answer
TORCHVISION = "https://download.pytorch.org/models/"
PYIQA = "https://huggingface.co/chaofengc/IQA-PyTorch-Weights/resolve/main/"

pooch.get_logger().setLevel("WARNING")


class Released(NamedTuple):
    """A network's weights as they were published.

    Attributes:
      folder: URL of the folder that they are downloaded from.
      names: of the file; the first is downloaded, the others hold the same network.
        Eight hex digits before the suffix are the first of the file's SHA-256.
      shapes: returns the names and shapes that the file must hold.
      rename: maps other programs' names to these.
    """

    folder: str
    names: tuple[str, ...]
    shapes: Callable[[], Shapes]
    rename: Callable[[Tensors], Tensors] = dict


class NoWeights(UserError):
    """Weights are unavailable; `name` is the file's."""

    def __init__(self, message: str, name: str):
        super().__init__(message)
        self.name = name


class Loaded(NamedTuple):
    """Tensors of the released names and shapes, and the file's name or RANDOM."""

    tensors: Tensors
    source: str


def load(
    released: Released, folder: str | None = None, allow_random: bool = False
) -> Loaded:
    """The weights of a network.

    Args:
      released: of the network's module.
      folder: searched first; None for the environment variable's.
      allow_random: use untrained weights if there are no others; report `source` with
        every number.

    Raises:
      UserError: if there is no intact file and none can be downloaded.
    """
    folders = [Path(x) for x in (folder or os.environ.get(VARIABLE),) if x]
    for place in folders:
        if not place.is_dir():
            raise UserError(
                f"the weights folder '{place}' does not exist; correct --weights or "
                f"{VARIABLE}"
            )
    for place in [*folders, cache()]:
        for name in released.names:
            path = place / name
            if path.with_suffix(".npz").exists() or path.exists():
                return Loaded(_read(path, released), name)
    if allow_random:
        return Loaded(layers.random_tensors(released.shapes()), RANDOM)
    path = _download(released, folders)
    return Loaded(_read(path, released), path.name)


def cache() -> Path:
    """Folder of downloads: $XDG_CACHE_HOME/picjax/weights or ~/.cache/..."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "picjax" / "weights"


def _read(path: Path, released: Released) -> dict[str, np.ndarray]:
    """The tensors of a file, from the .npz beside it if there is one."""
    converted = path.with_suffix(".npz")
    if converted.exists():
        try:
            with (
                open(converted, "rb") as whole,
                np.load(whole, allow_pickle=False) as file,
            ):
                tensors = {name: file[name] for name in file.files}
        except DAMAGED as error:
            raise UserError(
                f"'{converted}' is damaged; delete it, and it is created again"
            ) from error
        return _checked(tensors, converted, released.shapes())
    _check_digest(path, path.name)
    tensors = released.rename(files.read(path))
    kept = _checked(tensors, path, released.shapes())
    _write(converted, kept)
    return kept


def _checked(tensors: Tensors, path: Path, shapes: Shapes) -> dict[str, np.ndarray]:
    """The tensors that a network needs.

    Raises:
      UserError: if one is missing or has another shape.
    """
    for name, shape in shapes.items():
        if name not in tensors or tensors[name].shape != shape:
            present = tensors[name].shape if name in tensors else "nothing"
            raise UserError(
                f"'{path}' holds {present} for '{name}' where {shape} is needed; give "
                "the released file"
            )
    return {name: tensors[name] for name in shapes}


def _write(path: Path, tensors: Tensors) -> None:
    """Writes an .npz if the folder is writable."""
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        with open(part, "wb") as file:
            np.savez(file, allow_pickle=False, **tensors)
        os.replace(part, path)
    except OSError:
        part.unlink(missing_ok=True)


def _check_digest(path: Path, name: str) -> None:
    """Compares a file with the digits in its name, if there are any.

    Raises:
      UserError: if they differ.
    """
    expected = re.search(r"-([0-9a-f]{8})\.\w+$", name)
    if expected is None:
        return
    digest = pooch.file_hash(str(path), alg="sha256")
    if not digest.startswith(expected[1]):
        raise UserError(
            f"'{path}' is not the released file (SHA-256 {digest[:8]}..., not "
            f"{expected[1]}...); copy or download it again"
        )


def _download(released: Released, folders: list[Path]) -> Path:
    """Downloads the first name into the cache, completely or not at all.

    Raises:
      NoWeights: if that fails, with what to do by hand.
    """
    name = released.names[0]
    url = released.folder + name

    def fetch_checked(url: str, path: Any, manager: Any) -> None:
        fetch(url, path, manager)
        _check_digest(Path(path), name)  # pooch needs all digits, the name has eight

    downloader: Any = fetch_checked  # pooch passes its arguments by position

    try:
        path = pooch.retrieve(
            url, known_hash=None, fname=name, path=cache(), downloader=downloader
        )
    except OSError as error:
        places = " or ".join(f"'{x}'" for x in [*folders, cache()])
        raise NoWeights(
            f"the weights {name} are not in {places} and {url} cannot be fetched "
            f"({error}); download it elsewhere and put it into a folder that --weights "
            f"or {VARIABLE} names",
            name,
        ) from error
    return Path(path)


def fetch(url: str, path: str, manager: Any) -> None:
    """Downloads a URL to a file, with a progress bar on a terminal."""
    bar = sys.stderr.isatty()
    pooch.HTTPDownloader(progressbar=bar, timeout=TIMEOUT)(url, path, manager)
