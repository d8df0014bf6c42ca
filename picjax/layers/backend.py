"""Which back end a computation is traced for, where an operation has a form for each."""

import jax


def on_cpu() -> bool:
    """Whether JAX's default back end is the CPU; read while tracing."""
    return jax.default_backend() == "cpu"
