"""Every reference file against our code; its `meta` decides what is checked."""

import importlib
from pathlib import Path

import jax
import pytest
from fixture import Fixture

# `meta["system"]` in lower case -> the module whose CHECKS maps a kind to its check.
MODULES: dict[str, str] = {"diffusion": "diffusion", "posterior": "posterior"}
# Transitional: by file name.
BY_FILE = (
    "handlers_networks",
    "handlers_procedures",
    "handlers_losses",
    "handlers_masks",
    "handlers_steps",
    "handlers_pix2pix",
    "handlers_pixelcnn",
    "handlers_metrics",
)


def test_reference(reference_file: Path) -> None:
    fixture = Fixture.load(reference_file)
    if fixture.system in MODULES:
        checks = importlib.import_module(MODULES[fixture.system]).CHECKS
        if fixture.kind not in checks:
            pytest.fail(f"no check for kind '{fixture.kind}' of '{fixture.system}'")
        check = checks[fixture.kind]
    else:
        handlers = {}
        for name in BY_FILE:
            handlers |= importlib.import_module(name).HANDLERS
        if fixture.key not in handlers:
            pytest.fail(f"no handler for {fixture.key}: {fixture.meta.get('network')}")
        check = handlers[fixture.key]
    with jax.default_matmul_precision("highest"):
        check(fixture)
