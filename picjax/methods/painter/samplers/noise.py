"""Where the random numbers of a sampler come from: keys, or recorded arrays.

A source is a function of a purpose and the number of the call. It is evaluated inside
the scan, so that the noise of a long walk is never held at once.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Key

from picjax.system import purpose_key

# (purpose, call) -> standard normals. Purposes are "start", the first x; "step", of each
# step; "climb", of steps back before a call; "known", of the known pixels.
Noise = Callable[[str, Array], Array]
Uniforms = Callable[[Array], Array]  # call -> uniforms for the resampling


def noise_from_keys(keys: Key[Array, " b"], shape: tuple[int, ...]) -> Noise:
    """Standard normals [b h w c]; an image's noise depends on its own key alone.

    Args:
      keys: one per image, or per particle.
      shape: height, width and channels.
    """

    def noise(purpose: str, number: Array) -> Array:
        def one(key: Array) -> Array:
            own = purpose_key(key, purpose)
            return jax.random.normal(jax.random.fold_in(own, number), shape)

        return jax.vmap(one)(keys)

    return noise


def uniforms_from_key(key: Key[Array, ""], particles: int) -> Uniforms:
    """As many uniforms per call as any resampling scheme takes."""

    def uniforms(number: Array) -> Array:
        return jax.random.uniform(jax.random.fold_in(key, number), (particles + 1,))

    return uniforms


def recorded_noise(**arrays: ArrayLike) -> Noise:
    """Normals by purpose, such as `step=[calls b h w c]`, `start=[1 b h w c]`."""
    stacked = {purpose: jnp.asarray(array) for purpose, array in arrays.items()}
    return lambda purpose, number: stacked[purpose][number]
