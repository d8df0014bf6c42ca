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
    exponents = np.arange(half, dtype=np.float32) / np.float32(half)
    frequencies = np.exp(np.float32(-math.log(max_period)) * exponents)
    angles = t.astype(jnp.float32)[:, None] * frequencies[None]
    waves = jnp.concatenate([jnp.cos(angles), jnp.sin(angles)], -1)
    return jnp.pad(waves, ((0, 0), (0, dim % 2)))
