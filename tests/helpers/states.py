"""First states at a small part of the cost of compiling `init`.

Most of that cost is JAX's random numbers, one program for each shape. Tests whose
statement holds for any draws take NumPy's; tests that train by the command compile an
`init` as training does.
"""

from contextlib import contextmanager
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np

from picjax.system import State, System, inference_variables


@contextmanager
def numpy_draws():
    """Functions traced here draw with NumPy in place of `jax.random`."""
    rng = np.random.default_rng(1)

    def uniform(key, shape=(), dtype=jnp.float32, minval=0.0, maxval=1.0):
        return jnp.asarray(rng.uniform(minval, maxval, shape), dtype)

    def normal(key, shape=(), dtype=jnp.float32):
        return jnp.asarray(rng.normal(size=shape), dtype)

    with mock.patch.multiple(jax.random, uniform=uniform, normal=normal):
        yield


def first_state(system: System, batch) -> State:
    """`system.init` with NumPy's draws."""
    with numpy_draws():
        # A new function, which no other call of `jit` has traced.
        init = jax.jit(lambda batch: system.init(batch, jax.random.key(0)))
        return init(batch)


def first_variables(system: System, batch):
    """What completion needs of `first_state`."""
    return inference_variables(first_state(system, batch))
