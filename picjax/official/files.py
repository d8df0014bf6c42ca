"""PyTorch's .pth files: read as untrusted input, written for every PyTorch since 0.4."""

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

# Keys under which trainers keep a state_dict.
WRAPPERS = ("state_dict", "model", "params")
# A hostile file could run code through `weights_only` before 2.6 (CVE-2025-32434), and
# spoil memory before 2.10 (CVE-2026-24747).
SAFE = (2, 10)


def read(path: Path) -> dict[str, np.ndarray]:
    """The tensors of a file that holds one network's state_dict, zipped or legacy.

    Nothing that the file says is executed: PyTorch reads it with `weights_only`, which
    knows tensors and containers and refuses all else. Floating-point tensors come as
    float32.

    Raises:
      UserError: for anything else: a damaged file, another program's, a whole pickled
        network, an optimiser's state, numbers that are not finite.
    """
    torch = _torch()
    tensors = _state_dict(torch, _load(torch, path), path)
    return {name: _array(torch, x, f"'{path}': {name}") for name, x in tensors.items()}


def read_adam(path: Path, moment: str) -> tuple[int, list[np.ndarray]]:
    """How many updates an Adam has made, and one moment of every parameter, in order.

    Args:
      path: of a file that holds an optimiser's `state_dict()`, read as `read` does.
      moment: "exp_avg" or "exp_avg_sq".

    Raises:
      UserError: for anything else.
    """
    torch = _torch()
    content = _load(torch, path)
    try:
        state = [content["state"][i] for i in range(len(content["state"]))]
        updates = {int(each["step"]) for each in state}
        moments = [each[moment] for each in state]
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(
            f"'{path}' holds no state of Adam; give what torch.save wrote of its "
            "state_dict()"
        ) from error
    if len(updates) != 1:
        raise UserError(
            f"'{path}': its parameters were not trained alike; leave it out"
        )
    arrays = [
        _array(torch, x, f"'{path}': {moment} {i}") for i, x in enumerate(moments)
    ]
    return updates.pop(), arrays


def _load(torch: Any, path: Path) -> Any:
    try:
        with warnings.catch_warnings(action="ignore"):  # about what is refused below
            return torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise UserError(
            f"'{path}' cannot be read ({error.strerror}); mend its permissions"
        ) from error
    except Exception as error:
        raise UserError(f"'{path}' {_refusal(error)}") from error


def write(path: epath.PathLike, tensors: Mapping[str, np.ndarray]) -> None:
    """Writes a state_dict in the legacy format, which every PyTorch since 0.4 reads.

    Names that share an array share a tensor in the file, too.
    """
    torch = _torch()
    made = {id(x): torch.from_numpy(x) for x in tensors.values()}
    content = {name: made[id(x)] for name, x in tensors.items()}
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
    if version < SAFE:
        raise UserError(
            f"PyTorch {torch.__version__} can be made to run a hostile file's code; "
            f"install {SAFE[0]}.{SAFE[1]} or newer (pip install -e '.[convert]')"
        )
    return torch


def _refusal(error: Exception) -> str:
    """What is wrong with a file that PyTorch did not read."""
    wanted = re.search(r"GLOBAL (\S+)", str(error))
    if isinstance(error, pickle.UnpicklingError) and wanted:
        return (
            f"holds more than tensors: it asks for {wanted[1][:80]!r}, which was not run; "
            "give a file with nothing but a network's state_dict()"
        )
    return "is damaged or was not written by torch.save; copy or download it again"


def _state_dict(torch: Any, content: Any, path: Path) -> Mapping[str, Any]:
    """The one mapping from names to tensors in what a file holds."""
    candidates = [content]
    if isinstance(content, Mapping):
        candidates += [content[key] for key in WRAPPERS if key in content]
    found = [x for x in candidates if _is_state_dict(torch, x)]
    if len(found) == 1:
        return found[0]
    if found:
        raise UserError(
            f"'{path}' holds a state_dict under each of {', '.join(WRAPPERS)}; "
            "save the wanted one alone"
        )
    if isinstance(content, Mapping) and "param_groups" in content:
        raise UserError(
            f"'{path}' holds an optimiser's state, no network; give the network's file"
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
    """A tensor in memory of our own: float32, or int64 for integers."""
    try:
        # A few bytes can claim to be a tensor that fills the memory.
        if x.is_complex() or x.numel() * x.itemsize > x.untyped_storage().nbytes():
            raise TypeError
        kind = torch.float32 if x.is_floating_point() else torch.int64
        array = np.array(x.detach().to(kind).numpy())
    except Exception as error:
        raise UserError(
            f"{name} is no plain tensor ({x.dtype}, {x.layout}); give float tensors"
        ) from error
    if not np.isfinite(array).all():
        raise UserError(f"{name} holds numbers that are not finite; give a sound file")
    return array
