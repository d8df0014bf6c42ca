"""Every reference file against our code; its `meta` decides what is checked."""

import importlib
from pathlib import Path

import jax
import pytest
from fixture import Fixture

# `meta["system"]` in lower case -> the module whose CHECKS maps a kind to its check.
MODULES = {
    "picmm": "picmm",
    "picnet": "picnet",
    "pix2pix": "pix2pix",
    "pixelcnn++": "pixelcnn",
    "diffusion": "diffusion",
    "posterior": "posterior",
    "inade": "inade",
    "metrics": "metrics",
}


def test_reference(reference_file: Path) -> None:
    fixture = Fixture.load(reference_file)
    if fixture.system not in MODULES:
        pytest.fail(f"no checks for system '{fixture.system}'")
    checks = importlib.import_module(MODULES[fixture.system]).CHECKS
    if fixture.kind not in checks:
        pytest.fail(f"no check for kind '{fixture.kind}' of '{fixture.system}'")
    with jax.default_matmul_precision("highest"):
        checks[fixture.kind](fixture)
