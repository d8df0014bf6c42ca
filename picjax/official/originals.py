"""The published code bases: the names of their files and the net in each."""

import importlib
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from picjax.cli import UserError
from picjax.official import files
from picjax.system import Config

Tensors = Mapping[str, np.ndarray]


class Original(NamedTuple):
    """A published code base.

    Attributes:
      variant: variant of configs/SYSTEM.py with the settings of the published weights.
      prefix: prefix of every name in its files, if saved from DataParallel.
      file: pattern of its file names, filled with a key of the official module's
        `FILES`.
    """

    variant: str
    prefix: str = ""
    file: str = "latest_net_{}.pth"


ORIGINALS = {
    "inade": Original("ade20k", file="best_net_{}.pth"),
    "picmm": Original("celeba_hq-official", "module."),
    "picnet": Original("celeba_hq_center", "module."),
    "pix2pix": Original("facades"),
    "pixelcnn": Original("cifar10", file="pixelcnn_{}.pth"),  # of the PyTorch port
    "painter": Original("places2_256", file="{}.pt"),
}


def official(system: str) -> Any:
    """The module of a method's official names, with `FILES` and `tables(config)`.

    Raises:
      UserError: if the method has no published weights.
    """
    if system not in ORIGINALS:
        raise UserError(
            f"--system '{system}' cannot be converted; "
            f"use one of {', '.join(sorted(ORIGINALS))}"
        )
    return importlib.import_module(f"picjax.methods.{system}.official")


def needed(system: str) -> set[str]:
    """The nets that completion needs: no discriminators, classifiers or `OPTIONAL`."""
    nets = set(official(system).FILES.values())
    nets -= getattr(official(system), "OPTIONAL", set())
    return {net for net in nets if not net.startswith(("discriminator", "classifier"))}


def file_names(system: str, nets: Iterable[str]) -> list[str]:
    """The original's file names of these nets."""
    suffixes = {net: suffix for suffix, net in official(system).FILES.items()}
    return [ORIGINALS[system].file.format(suffixes[net]) for net in sorted(nets)]


def read_files(
    config: Config, sources: Sequence[str]
) -> tuple[dict[str, Path], dict[str, Tensors]]:
    """Find and read the files of a method's nets.

    Returns:
      net -> file, and net -> official name -> array.

    Raises:
      UserError: if a file is missing, ambiguous or cannot be read.
    """
    if reader := getattr(official(config.system), "read_files", None):
        return reader(config, sources)
    paths = find_files(sources, config.system)
    return paths, {net: files.read(path) for net, path in paths.items()}


def find_files(sources: Sequence[str], system: str) -> dict[str, Path]:
    """Find the file of each net by the original's names, such as `latest_net_E.pth`.

    In a folder, the files of the latest iteration are used. A single file with another
    name is taken for the net that completion needs, if there is only one.

    Raises:
      UserError: if a path does not exist or a file's net is ambiguous.
    """
    paths = [path for source in sources for path in _files_of(Path(source), system)]
    file_of: dict[str, Path] = {}
    for path in paths:
        net = _net_of(path, system)
        if net is None and len(paths) == len(needed(system)) == 1:
            (net,) = needed(system)
        if net is None:
            raise UserError(
                f"'{path}' does not say which network it holds; name it as the "
                f"original does: {', '.join(file_names(system, needed(system)))}"
            )
        if net in file_of:
            raise UserError(
                f"'{file_of[net]}' and '{path}' both hold the {net}; pass one"
            )
        file_of[net] = path
    nets = official(system).FILES.values()
    return {net: file_of[net] for net in nets if net in file_of}


def _files_of(source: Path, system: str) -> list[Path]:
    """The file, or the files of one iteration in a folder."""
    if not source.exists():
        raise UserError(f"--from '{source}' does not exist; use a folder or .pth files")
    if not source.is_dir():
        return [source]
    every = sorted(source.glob("*.pth"))
    named = [path for path in every if _net_of(path, system)]
    iterations = {path.name.rpartition("net_")[0] for path in named}
    if not named and len(every) == 1:
        return every
    if not named:
        expected = ", ".join(file_names(system, needed(system)))
        raise UserError(
            f"--from '{source}' holds no file like {expected}; choose another"
        )
    if len(iterations) > 1 and "latest_" not in iterations:
        raise UserError(
            f"--from '{source}' holds several iterations "
            f"({', '.join(sorted(i.strip('_') for i in iterations))}) and no 'latest'; "
            "pass the files of one"
        )
    chosen = "latest_" if len(iterations) > 1 else min(iterations)
    return [path for path in named if path.name.rpartition("net_")[0] == chosen]


def _net_of(path: Path, system: str) -> str | None:
    match = re.fullmatch(r"(?:.*_)?net_(\w+)", path.stem)
    names = official(system).FILES | getattr(official(system), "ALIASES", {})
    return names.get(match[1]) if match else None
