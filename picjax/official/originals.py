"""The published code bases: what their files are called and which net each holds."""

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
      variant: of configs/SYSTEM.py: the published settings at 256 px, and what the code
        that made the weights does with them.
      prefix: of every name in its files: DataParallel's, where it saved that.
      torch: whether its files are PyTorch's, so that there is a way back.
      file: what it calls a file, by its entry in the official module's `FILES`.
    """

    variant: str
    prefix: str = ""
    torch: bool = True
    file: str = "latest_net_{}.pth"


ORIGINALS = {
    "picmm": Original("celeba_hq-official", "module."),
    "picnet": Original("celeba_hq_center", "module."),
    "pix2pix": Original("facades"),
    "pixelcnn": Original("cifar10", torch=False),
    "painter": Original("places2_256", file="{}.pt"),
}


def official(system: str) -> Any:
    """The module of a system's official names: `FILES` and `tables(config)`.

    Raises:
      UserError: for a system without published weights.
    """
    if system not in ORIGINALS:
        raise UserError(
            f"--system '{system}' cannot be converted; "
            f"use one of {', '.join(sorted(ORIGINALS))}"
        )
    return importlib.import_module(f"picjax.methods.{system}.official")


def needed(system: str) -> set[str]:
    """The nets without which nothing can be completed: all but those that judge."""
    nets = official(system).FILES.values()
    return {net for net in nets if not net.startswith(("discriminator", "classifier"))}


def file_names(system: str, nets: Iterable[str]) -> list[str]:
    """What the original calls the files of these nets."""
    suffixes = {net: suffix for suffix, net in official(system).FILES.items()}
    return [ORIGINALS[system].file.format(suffixes[net]) for net in sorted(nets)]


def read_files(
    config: Config, sources: Sequence[str]
) -> tuple[dict[str, Path], dict[str, Tensors]]:
    """Net -> its file, and net -> official name -> array.

    Raises:
      UserError: when a file is missing, unclear or cannot be read.
    """
    if reader := getattr(official(config.system), "read_files", None):
        return reader(config, sources)
    paths = find_files(sources, config.system)
    return paths, {net: files.read(path) for net, path in paths.items()}


def find_files(sources: Sequence[str], system: str) -> dict[str, Path]:
    """Net -> its file, by the names that the original gives: `latest_net_E.pth`.

    Of a folder the files of the latest iteration count. A single file of another name
    holds the one net that completion needs, if it is only one.

    Raises:
      UserError: when a path does not exist or it is unclear what a file holds.
    """
    paths = [path for source in sources for path in _files_of(Path(source), system)]
    found: dict[str, Path] = {}
    for path in paths:
        net = _net_of(path, system)
        if net is None and len(paths) == len(needed(system)) == 1:
            (net,) = needed(system)
        if net is None:
            raise UserError(
                f"'{path}' does not say which network it holds; name it as the "
                f"original does: {', '.join(file_names(system, needed(system)))}"
            )
        if net in found:
            raise UserError(
                f"'{found[net]}' and '{path}' both hold the {net}; give one"
            )
        found[net] = path
    return {net: found[net] for net in official(system).FILES.values() if net in found}


def _files_of(source: Path, system: str) -> list[Path]:
    """A file itself; of a folder, the files of one iteration."""
    if not source.exists():
        raise UserError(
            f"--from '{source}' does not exist; give a folder or .pth files"
        )
    if not source.is_dir():
        return [source]
    every = sorted(source.glob("*.pth"))
    named = [path for path in every if _net_of(path, system)]
    iterations = {path.name.rpartition("net_")[0] for path in named}
    if not named and len(every) == 1:
        return every
    if not named:
        expected = ", ".join(file_names(system, needed(system)))
        raise UserError(f"--from '{source}' holds no file like {expected}; mend it")
    if len(iterations) > 1 and "latest_" not in iterations:
        raise UserError(
            f"--from '{source}' holds several iterations "
            f"({', '.join(sorted(i.strip('_') for i in iterations))}) and no 'latest'; "
            "give the files of one"
        )
    chosen = "latest_" if len(iterations) > 1 else min(iterations)
    return [path for path in named if path.name.rpartition("net_")[0] == chosen]


def _net_of(path: Path, system: str) -> str | None:
    match = re.fullmatch(r"(?:.*_)?net_(\w+)", path.stem)
    return official(system).FILES.get(match[1]) if match else None
