"""Released weights of the networks that measure: found, or downloaded once.

A file is looked for in the folder given (`--weights`, or the environment variable
PICJAX_WEIGHTS), then in the cache; else it is downloaded into the cache. PyTorch's files
need PyTorch once: what they hold is kept beside them as an .npz. Without weights nothing
is measured, unless random ones are asked for, which brand the number.
"""

import hashlib
import os
import re
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn

from picjax.cli import UserError
from picjax.evaluation.metrics import convnet, hyperiqa, inception, lpips, nima
from picjax.evaluation.metrics.convnet import Shapes, Tensors
from picjax.evaluation.metrics.fid import DAMAGED
from picjax.official import files

VARIABLE = "PICJAX_WEIGHTS"
TIMEOUT = 30  # seconds without an answer
CHUNK = 1 << 20

_TORCHVISION = "https://download.pytorch.org/models/"
_PYTORCH_FID = "https://github.com/mseitzer/pytorch-fid/releases/download/fid_weights/"
_PYIQA = "https://huggingface.co/chaofengc/IQA-PyTorch-Weights/resolve/main/"


class Released(NamedTuple):
    """A network's weights as they were published.

    Attributes:
      folder: address of the folder they are downloaded from.
      names: of the file, the one to download first; the others hold the same network.
        Eight hex digits before the suffix are the beginning of the file's SHA-256.
      shapes: makes the names and shapes that must be in it.
      rename: from other programs' names to these.
    """

    folder: str
    names: tuple[str, ...]
    shapes: Callable[[], Shapes]
    rename: Callable[[Tensors], Tensors] = dict


RELEASED = {
    "inception": Released(
        _PYTORCH_FID,
        (
            "pt_inception-2015-12-05-6726825d.pth",
            "weights-inception-2015-12-05-6726825d.pth",
        ),
        lambda: inception.shapes("fid"),
    ),
    "inception_torchvision": Released(
        _TORCHVISION,
        ("inception_v3_google-0cc3c7bd.pth", "inception_v3_google-1a9a5a14.pth"),
        lambda: inception.shapes("torchvision"),
    ),
    "alexnet": Released(
        _TORCHVISION,
        ("alexnet-owt-7be5be79.pth", "alexnet-owt-4df8aa71.pth"),
        lambda: lpips.shapes("alex"),
    ),
    "vgg16": Released(
        _TORCHVISION, ("vgg16-397923af.pth",), lambda: lpips.shapes("vgg")
    ),
    "squeezenet1_1": Released(
        _TORCHVISION,
        ("squeezenet1_1-b8a52dc0.pth", "squeezenet1_1-f364aa15.pth"),
        lambda: lpips.shapes("squeeze"),
    ),
    "hyperiqa": Released(
        _PYIQA,
        ("HyperIQA-resnet50-koniq10k-c96c41b1.pth", "koniq_pretrained.pkl"),
        hyperiqa.shapes,
        hyperiqa.original_names,
    ),
    "nima": Released(
        _PYIQA,
        ("NIMA_VGG16_ava-dc4e8265.pth",),
        nima.shapes,
        nima.original_names,
    ),
}


class NoWeights(UserError):
    """No weights are to be had; `name` is the file's."""

    def __init__(self, message: str, name: str):
        super().__init__(message)
        self.name = name


class Loaded(NamedTuple):
    """Tensors and where they are from, for the report.

    Attributes:
      tensors: of the released names and shapes.
      source: the file's name, or `random features`.
    """

    tensors: Tensors
    source: str


RANDOM = "random features"


def load(network: str, folder: str | None = None, allow_random: bool = False) -> Loaded:
    """The weights of a network of RELEASED.

    Args:
      network: a key of RELEASED.
      folder: where to look first; None for the environment variable's.
      allow_random: take weights that were never trained where there are no others. What
        they measure means nothing: say `source` with every number.

    Raises:
      UserError: when there is no sound file and none can be downloaded.
    """
    released = RELEASED[network]
    folders = [Path(x) for x in (folder or os.environ.get(VARIABLE),) if x]
    for place in folders:
        if not place.is_dir():
            raise UserError(
                f"the weights folder '{place}' is no folder; mend --weights or {VARIABLE}"
            )
    for place in [*folders, cache()]:
        for name in released.names:
            path = place / name
            if path.with_suffix(".npz").exists() or path.exists():
                return Loaded(_read(path, released), name)
    if allow_random:
        return Loaded(convnet.random_tensors(released.shapes()), RANDOM)
    path = _download(released, folders)
    return Loaded(_read(path, released), path.name)


def cache() -> Path:
    """Where downloads are kept: $XDG_CACHE_HOME/picjax/weights or ~/.cache/..."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "picjax" / "weights"


def _read(path: Path, released: Released) -> dict[str, np.ndarray]:
    """The tensors of a file, by way of the .npz beside it."""
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
                f"'{converted}' is damaged; delete it, and it is made again"
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
      UserError: when one is missing or has another shape.
    """
    for name, shape in shapes.items():
        if name not in tensors or tensors[name].shape != shape:
            found = tensors[name].shape if name in tensors else "nothing"
            raise UserError(
                f"'{path}' holds {found} for '{name}' where {shape} is needed; give the "
                "released file"
            )
    return {name: tensors[name] for name in shapes}


def _write(path: Path, tensors: Tensors) -> None:
    """Writes an .npz where that is possible; a read-only folder is no error."""
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        with open(part, "wb") as file:
            np.savez(file, allow_pickle=False, **tensors)
        os.replace(part, path)
    except OSError:
        part.unlink(missing_ok=True)


def _check_digest(path: Path, name: str) -> None:
    """Compares a file with the digits in its name, where there are any.

    Raises:
      UserError: when they differ.
    """
    wanted = re.search(r"-([0-9a-f]{8})\.\w+$", name)
    if wanted is None:
        return
    with open(path, "rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if not digest.startswith(wanted[1]):
        raise UserError(
            f"'{path}' is not the released file (SHA-256 {digest[:8]}..., not "
            f"{wanted[1]}...); copy or download it again"
        )


def _download(released: Released, folders: list[Path]) -> Path:
    """Fetches the first name into the cache, whole or not at all.

    Raises:
      NoWeights: when it cannot be fetched, with what to do by hand.
    """
    name = released.names[0]
    url, path = released.folder + name, cache() / name
    part = path.with_name(f"{name}.{os.getpid()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _fetch(url, part)
        _check_digest(part, name)
        os.replace(part, path)
    except (OSError, urllib.error.URLError) as error:
        places = " or ".join(f"'{x}'" for x in [*folders, path.parent])
        raise NoWeights(
            f"the weights {name} are not in {places} and {url} cannot be fetched "
            f"({getattr(error, 'reason', error)}); download it elsewhere and put it into "
            f"a folder that --weights or {VARIABLE} names",
            name,
        ) from error
    finally:
        part.unlink(missing_ok=True)
    return path


def _fetch(url: str, path: Path) -> None:
    with (
        urllib.request.urlopen(url, timeout=TIMEOUT) as answer,
        open(path, "wb") as file,
        _progress() as bar,
    ):
        size = answer.headers.get("Content-Length")
        task = bar.add_task(url.rsplit("/", 1)[1], total=int(size) if size else None)
        while chunk := answer.read(CHUNK):
            file.write(chunk)
            bar.advance(task, len(chunk))


def _progress() -> Progress:
    console = Console(stderr=True, highlight=False)
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(bar_width=20),
        DownloadColumn(),
        console=console,
        disable=not console.is_terminal,
    )
