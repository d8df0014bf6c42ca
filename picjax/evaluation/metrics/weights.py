"""Released weights of the measuring networks: found on disk, or downloaded once.

A file is searched for in the given folder (`--weights`, or the environment variable
PICJAX_WEIGHTS), then in the cache, and otherwise downloaded into the cache. Reading a
PyTorch file needs PyTorch once: its tensors are kept beside it as an .npz. Without
weights nothing is measured, unless random ones are requested, which mark the number.
"""

import contextlib
import hashlib
import os
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pooch

from picjax.cli import UserError, say
from picjax.evaluation.metrics import layers
from picjax.evaluation.metrics.layers import Shapes, Tensors
from picjax.evaluation.metrics.results import RANDOM
from picjax.files import open_atomic, read_npz
from picjax.official import digests, files

VARIABLE = "PICJAX_WEIGHTS"
SOURCE, CONTENT = "sha256 of the source", "sha256 of the content"  # in an .npz
TIMEOUT = 30  # seconds without an answer
TORCHVISION = "https://download.pytorch.org/models/"
PYIQA = "https://huggingface.co/chaofengc/IQA-PyTorch-Weights/resolve/main/"

pooch.get_logger().setLevel("WARNING")


class Released(NamedTuple):
    """A network's weights as they were published.

    Attributes:
      folder: URL of the folder that they are downloaded from.
      names: of the file; the first is downloaded, the others hold the same network.
        Eight hex digits before the suffix are the first of the file's SHA-256;
        picjax/official/digests.py has all of them where they are known.
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
    """The tensors of a file, from the .npz beside it if there is an intact one.

    The .npz holds the SHA-256 of the file that it was converted from, which must be the
    released one, and of its own tensors.
    """
    converted = path.with_suffix(".npz")
    if converted.exists():
        try:
            return _checked(_read_converted(converted), converted, released.shapes())
        except ValueError as error:
            if not path.exists():
                raise UserError(
                    f"'{converted}' is damaged ({error}); delete it, and it is created "
                    f"again from {path.name}"
                ) from error
            say(f"'{converted}' is damaged ({error}); converted again from {path.name}")
    source = digests.verify(path, prefix=_digits(path.name))
    tensors = released.rename(files.read(path))
    kept = _checked(tensors, path, released.shapes())
    origin = {SOURCE: np.array(source), CONTENT: np.array(digest(kept))}
    # A folder that is not writable gets none.
    with contextlib.suppress(OSError), open_atomic(converted) as file:
        np.savez(file, allow_pickle=False, **kept, **origin)
    return kept


def _read_converted(path: Path) -> dict[str, np.ndarray]:
    """The tensors of an .npz that `_read` has written.

    Raises:
      ValueError: if they, or the file that they are from, are others.
    """
    tensors = read_npz(path)
    source, content = (str(tensors.pop(x, "nothing")) for x in (SOURCE, CONTENT))
    expected = digests.KNOWN.get(f"{path.stem}.pth", _digits(f"{path.stem}.pth"))
    if not source.startswith(expected) or content != digest(tensors):
        raise ValueError("its checksums differ")
    return tensors


def digest(tensors: Tensors) -> str:
    """The SHA-256 of tensors and their names."""
    total = hashlib.sha256()
    for name in sorted(tensors):
        array = np.ascontiguousarray(tensors[name])
        total.update(f"{name} {array.dtype} {array.shape}".encode())
        total.update(array.tobytes())
    return total.hexdigest()


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


def _digits(name: str) -> str:
    """The first digits of a released file's SHA-256, from its name."""
    found = re.search(r"-([0-9a-f]{8})\.\w+$", name)
    return found[1] if found else ""


def _download(released: Released, folders: list[Path]) -> Path:
    """Downloads the first name into the cache, completely or not at all.

    Raises:
      NoWeights: if that fails, with what to do by hand.
    """
    name = released.names[0]
    url = released.folder + name

    def fetch_checked(url: str, path: Any, manager: Any) -> None:
        fetch(url, path, manager)
        digests.verify(Path(path), name, _digits(name))

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
