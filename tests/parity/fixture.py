"""A reference file: what an official network was given, and what it gave back."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Fixture:
    """The arrays of one .npz, as stored (NCHW, PyTorch's kernel layouts).

    `params`, `inputs`, `outputs`, `grads`, `input_grads` and `after` are the arrays
    below `param/`, `in/`, `out/`, `grad/`, `gin/` and `after/`, without the prefix.
    """

    path: Path
    raw: Mapping[str, np.ndarray]
    meta: Mapping[str, Any]

    @staticmethod
    def load(path: Path) -> "Fixture":
        with np.load(path, allow_pickle=False) as file:
            raw = {name: file[name] for name in file.files}
        return Fixture(path, raw, json.loads(str(raw.pop("meta"))))

    @property
    def key(self) -> tuple[str, str]:
        """(system, file stem) in lower case: what handlers are filed under."""
        return self.meta["system"].lower(), self.path.stem

    @property
    def system(self) -> str:
        return self.meta["system"].lower()

    @property
    def kind(self) -> str:
        """What the file holds, in the words of its `meta`."""
        for name in ("kind", "network", "metric", "fixture"):
            if name in self.meta:
                return self.meta[name]
        raise KeyError(f"{self.path}: meta names no kind, network, metric or fixture")

    @property
    def hyper(self) -> Mapping[str, Any]:
        return self.meta.get("hyper", {})

    @property
    def params(self) -> dict[str, np.ndarray]:
        return below(self.raw, "param/")

    @property
    def inputs(self) -> dict[str, np.ndarray]:
        return below(self.raw, "in/")

    @property
    def outputs(self) -> dict[str, np.ndarray]:
        return below(self.raw, "out/")

    @property
    def grads(self) -> dict[str, np.ndarray]:
        return below(self.raw, "grad/")

    @property
    def input_grads(self) -> dict[str, np.ndarray]:
        return below(self.raw, "gin/")

    @property
    def after(self) -> dict[str, np.ndarray]:
        return below(self.raw, "after/")

    def tolerance(self, name: str, default: float = 1e-5) -> float:
        """The number called `name` in the file's tolerances."""
        value = self.meta.get("tol", {}).get(name, default)
        return value if isinstance(value, int | float) else default

    def assert_close(
        self,
        name: str,
        actual: Any,
        expected: Any,
        rtol: float | None = None,
        atol: float | None = None,
    ) -> None:
        """|actual - expected| <= atol + rtol |expected|, by default as the file says."""
        rtol = self.tolerance("rtol") if rtol is None else rtol
        atol = self.tolerance("atol") if atol is None else atol
        actual, expected = np.asarray(actual), np.asarray(expected)
        assert actual.shape == expected.shape, (name, actual.shape, expected.shape)
        error = np.abs(actual.astype(np.float64) - expected.astype(np.float64))
        allowed = atol + rtol * np.abs(expected)
        assert np.all(error <= allowed), (
            f"{name}: off by {error.max():.3g} where {allowed[error > allowed].min():.3g}"
            f" is allowed; largest {np.abs(expected).max():.3g}"
        )

    def assert_grad(self, name: str, actual: Any, expected: Any) -> None:
        """A gradient to 1e-3 of the largest element of the expected array."""
        expected = np.asarray(expected)
        atol = 1e-3 * float(np.abs(expected).max())
        self.assert_close(f"gradient of {name}", actual, expected, 0.0, atol)


def below(arrays: Mapping[str, np.ndarray], prefix: str) -> dict[str, np.ndarray]:
    """The arrays whose name begins with the prefix, without it."""
    return {
        name.removeprefix(prefix): array
        for name, array in arrays.items()
        if name.startswith(prefix)
    }


def nhwc(x: Any) -> Any:
    """PyTorch's b c h w to b h w c."""
    return x.transpose(0, 2, 3, 1)


def nchw(x: Any) -> Any:
    """b h w c to PyTorch's b c h w."""
    return x.transpose(0, 3, 1, 2)
