"""What a network is told besides pixels."""

import math

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int


def timestep_embedding(
    t: Float[Array, " b"] | Int[Array, " b"], dim: int, max_period: float = 10_000
) -> Float[Array, "b d"]:
    """Cosines, then sines, of t at frequencies from 1 to 1 / max_period.

    Float32; a zero at the end where `dim` is odd (specification, section 1.2).
    """
    half = dim // 2
    exponents = np.float32(-math.log(max_period)) * np.arange(half, dtype=np.float32)
    exponents = exponents / np.float32(half)
    # One unit in the last place moves an angle of 1000 by 6e-5. Of exponents in float32,
    # float64 gives the powers that the original has.
    frequencies = np.exp(exponents.astype(np.float64)).astype(np.float32)
    angles = t.astype(jnp.float32)[:, None] * frequencies[None]
    waves = jnp.concatenate([jnp.cos(angles), jnp.sin(angles)], -1)
    return jnp.pad(waves, ((0, 0), (0, dim % 2)))
