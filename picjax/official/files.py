"""PyTorch's .pth files: read as untrusted, written for every PyTorch since 0.4."""

# pyright: reportMissingImports=false
import pickle
import re
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from etils import epath

from picjax.cli import UserError
from picjax.official import digests

# Keys under which trainers keep a state_dict.
WRAPPERS = ("state_dict", "model", "params")
# A hostile file could execute code despite `weights_only` before 2.6 (CVE-2025-32434),
# and corrupt memory before 2.10 (CVE-2026-24747).
SAFE_VERSION = (2, 10)


def read(path: Path) -> dict[str, np.ndarray]:
    """Read a file with one network's state_dict, zipped or legacy.

    No code in the file is executed: PyTorch reads it with `weights_only`, which accepts
    tensors and containers only. Floating-point tensors are converted to float32.

    Raises:
      UserError: if the file is damaged or another program's, a whole pickled network or
        an optimiser's state, holds numbers that are not finite, or has the name of a
        published file but other bytes.
    """
    torch = _torch()
    tensors = _state_dict(torch, _load(torch, path), path)
    return {name: _array(torch, x, f"'{path}': {name}") for name, x in tensors.items()}


def read_adam(path: Path, moment: str) -> tuple[int, list[np.ndarray]]:
    """Read Adam's state: the number of updates and one moment per parameter, in order.

    Args:
      path: a file with an optimiser's `state_dict()`, read as by `read`.
      moment: "exp_avg" or "exp_avg_sq".

    Raises:
      UserError: if the file holds anything else.
    """
    torch = _torch()
    content = _load(torch, path)
    try:
        state = [content["state"][i] for i in range(len(content["state"]))]
        updates = {int(each["step"]) for each in state}
        moments = [each[moment] for each in state]
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(
            f"'{path}' holds no state of Adam; use a file of torch.save with its "
            "state_dict()"
        ) from error
    if len(updates) != 1:
        raise UserError(
            f"'{path}': its parameters differ in their updates; leave it out"
        )
    arrays = [
        _array(torch, x, f"'{path}': {moment} {i}") for i, x in enumerate(moments)
    ]
    return updates.pop(), arrays


def _load(torch: Any, path: Path) -> Any:
    try:
        digests.verify(path)
        with warnings.catch_warnings(
            action="ignore"
        ):  # of files that are refused below
            return torch.load(path, map_location="cpu", weights_only=True)
    except UserError:
        raise
    except OSError as error:
        raise UserError(
            f"'{path}' cannot be read ({error.strerror}); check its permissions"
        ) from error
    except Exception as error:
        raise UserError(f"'{path}' {_refusal(error)}") from error


def write(path: epath.PathLike, tensors: Mapping[str, np.ndarray]) -> None:
    """Write a state_dict in the legacy format, which every PyTorch since 0.4 reads.

    Names that share an array also share a tensor in the file.
    """
    torch = _torch()
    tensor_of = {id(x): torch.from_numpy(x) for x in tensors.values()}
    content = {name: tensor_of[id(x)] for name, x in tensors.items()}
    torch.save(content, path, _use_new_zipfile_serialization=False)


def _torch() -> Any:
    try:
        import torch
    except ImportError as error:
        raise UserError(
            "PyTorch's files need PyTorch, which is not installed; install picjax with "
            "its convert extra (pip install -e '.[convert]')"
        ) from error
    version = tuple(int(n) for n in re.findall(r"\d+", torch.__version__)[:2])
    if version < SAFE_VERSION:
        raise UserError(
            f"PyTorch {torch.__version__} can be made to run a hostile file's code; "
            f"install {SAFE_VERSION[0]}.{SAFE_VERSION[1]} or newer (pip install -e '.[convert]')"
        )
    return torch


def _refusal(error: Exception) -> str:
    """The reason why PyTorch refused a file."""
    wanted = re.search(r"GLOBAL (\S+)", str(error))
    if isinstance(error, pickle.UnpicklingError) and wanted:
        return (
            f"holds more than tensors: it asks for {wanted[1][:80]!r}, which was not run; "
            "use a file with nothing but a network's state_dict()"
        )
    return "is damaged or was not written by torch.save; copy or download it again"


def _state_dict(torch: Any, content: Any, path: Path) -> Mapping[str, Any]:
    """The only mapping from names to tensors in the content of a file."""
    candidates = [content]
    if isinstance(content, Mapping):
        candidates += [content[key] for key in WRAPPERS if key in content]
    matching = [x for x in candidates if _is_state_dict(torch, x)]
    if len(matching) == 1:
        return matching[0]
    if matching:
        raise UserError(
            f"'{path}' holds a state_dict under each of {', '.join(WRAPPERS)}; "
            "save the wanted one alone"
        )
    if isinstance(content, Mapping) and "param_groups" in content:
        raise UserError(
            f"'{path}' holds an optimiser's state, no network; use the network's file"
        )
    raise UserError(
        f"'{path}' holds no state_dict (names of tensors) but {_described(content)}; "
        "save a network's state_dict() with torch.save"
    )


def _is_state_dict(torch: Any, x: Any) -> bool:
    return (
        isinstance(x, Mapping)
        and len(x) > 0
        and all(isinstance(name, str) and name.isprintable() for name in x)
        and all(isinstance(value, torch.Tensor) for value in x.values())
    )


def _described(content: Any) -> str:
    if not isinstance(content, Mapping):
        return f"a {type(content).__name__}"
    keys = ", ".join(repr(key) for key in list(content)[:5])
    return f"a dict of {len(content)} entries ({keys})" if keys else "an empty dict"


def _array(torch: Any, x: Any, name: str) -> np.ndarray:
    """A tensor copied to a NumPy array: float32, or int64 for integers."""
    try:
        # A small file can declare a tensor that would fill the memory.
        if x.is_complex() or x.numel() * x.itemsize > x.untyped_storage().nbytes():
            raise TypeError
        kind = torch.float32 if x.is_floating_point() else torch.int64
        array = np.array(x.detach().to(kind).numpy())
    except Exception as error:
        raise UserError(
            f"{name} is no plain tensor ({x.dtype}, {x.layout}); use float tensors"
        ) from error
    if not np.isfinite(array).all():
        raise UserError(f"{name} holds numbers that are not finite; use another file")
    return array
