"""Every reference file against our code; what a file holds decides what is checked."""

import importlib
from collections.abc import Callable
from pathlib import Path

import jax
import pytest
from fixture import Fixture

MODULES = (
    "handlers_networks",
    "handlers_procedures",
    "handlers_losses",
    "handlers_masks",
    "handlers_steps",
    "handlers_pix2pix",
    "handlers_pixelcnn",
    "handlers_compose",
    "handlers_painter",
    "handlers_diffusion",
)


def _handlers() -> dict[tuple[str, str], Callable[[Fixture], None]]:
    handlers: dict[tuple[str, str], Callable[[Fixture], None]] = {}
    for name in MODULES:
        for key, handler in importlib.import_module(name).HANDLERS.items():
            assert key not in handlers, f"two handlers for {key}"
            handlers[key] = handler
    return handlers


HANDLERS = _handlers()


def test_reference(reference_file: Path) -> None:
    fixture = Fixture.load(reference_file)
    if fixture.key not in HANDLERS:
        pytest.fail(f"no handler for {fixture.key}: {fixture.meta.get('network')}")
    with jax.default_matmul_precision("highest"):
        HANDLERS[fixture.key](fixture)
