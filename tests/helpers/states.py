"""First states at a small part of the cost of compiling `init`.

Most of that cost is JAX's random numbers, one program for each shape. Tests whose
statement holds for any draws take NumPy's; test_contract.py compiles every `init` as
training does.
"""

from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np

from picjax.system import State, System


def first_state(system: System, batch) -> State:
    """`system.init` with NumPy's draws in place of `jax.random`'s."""
    rng = np.random.default_rng(0)

    def uniform(key, shape=(), dtype=jnp.float32, minval=0.0, maxval=1.0):
        return jnp.asarray(rng.uniform(minval, maxval, shape), dtype)

    def normal(key, shape=(), dtype=jnp.float32):
        return jnp.asarray(rng.normal(size=shape), dtype)

    with mock.patch.multiple(jax.random, uniform=uniform, normal=normal):
        # A new function, which no other call of `jit` has traced.
        init = jax.jit(lambda batch: system.init(batch, jax.random.key(0)))
        return init(batch)
