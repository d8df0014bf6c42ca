"""Every reference file against our code; its `meta` decides what is checked."""

import importlib
from pathlib import Path

import jax
import pytest
from fixture import Fixture

# `meta["system"]` in lower case -> the modules whose CHECKS map a kind to its check.
MODULES = {
    "picmm": ("picmm",),
    "picnet": ("picnet",),
    "pix2pix": ("pix2pix",),
    "pixelcnn++": ("pixelcnn",),
    "diffusion": ("diffusion",),
    "posterior": ("posterior",),
    "inade": ("inade", "metrics"),  # some of its files pin down metrics
    "metrics": ("metrics",),
}


def test_reference(reference_file: Path) -> None:
    fixture = Fixture.load(reference_file)
    if fixture.system not in MODULES:
        pytest.fail(f"no checks for system '{fixture.system}'")
    modules = map(importlib.import_module, MODULES[fixture.system])
    found = [m.CHECKS[fixture.kind] for m in modules if fixture.kind in m.CHECKS]
    if not found:
        pytest.fail(f"no check for kind '{fixture.kind}' of '{fixture.system}'")
    with jax.default_matmul_precision("highest"):
        found[0](fixture)
