"""Which back end a computation is traced for, where an operation has a form for each."""

import contextlib
from collections.abc import Iterator
from contextvars import ContextVar

import jax

_platform: ContextVar[str | None] = ContextVar("platform", default=None)


def on_cpu() -> bool:
    """Whether a computation is traced for the CPU: JAX's default back end, or another.

    Read while tracing.
    """
    return (_platform.get() or jax.default_backend()) == "cpu"


@contextlib.contextmanager
def tracing_for(platform: str) -> Iterator[None]:
    """Trace a block for another back end, which need not be there."""
    token = _platform.set(platform)
    try:
        yield
    finally:
        _platform.reset(token)
