"""Embeddings of scalars that a network is conditioned on."""

import math

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int


def timestep_embedding(
    t: Float[Array, " b"] | Int[Array, " b"], dim: int, max_period: float = 10_000
) -> Float[Array, "b d"]:
    """Cosines, then sines, of t at frequencies from 1 to 1 / max_period, in float32.

    If `dim` is odd, the last entry is 0 (guided diffusion, arXiv 2105.05233).
    """
    half = dim // 2
    exponents = np.float32(-math.log(max_period)) * np.arange(half, dtype=np.float32)
    exponents = exponents / np.float32(half)
    # One unit in the last place moves an angle of 1000 by 6e-5. With exponents in float32
    # and powers in float64, the frequencies equal those of the original.
    frequencies = np.exp(exponents.astype(np.float64)).astype(np.float32)
    angles = t.astype(jnp.float32)[:, None] * frequencies[None]
    waves = jnp.concatenate([jnp.cos(angles), jnp.sin(angles)], -1)
    return jnp.pad(waves, ((0, 0), (0, dim % 2)))
