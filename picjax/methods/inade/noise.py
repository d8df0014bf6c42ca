"""The standard normal noise of INADE's images."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, PRNGKeyArray

from picjax.methods.inade.norm import Noise


class Draw(NamedTuple):
    """The standard normal noise of one image per example.

    Attributes:
      latent: input of the generator's first layer, or noise of the image encoder.
      style: noise of every instance.
    """

    latent: Float[Array, "b d"]
    style: Noise

    def redrawn(self, other: "Draw", instances: Bool[Array, "b i"]) -> "Draw":
        """This draw with another's noise for some instances alone."""
        style = jnp.where(instances[..., None, None], other.style, self.style)
        return Draw(self.latent, style)


def normals(key: PRNGKeyArray, n: int, shape: tuple[int, ...]) -> Array:
    """n standard normal arrays; the i-th does not depend on n."""
    return jax.vmap(lambda i: jax.random.normal(jax.random.fold_in(key, i), shape))(
        jnp.arange(n)
    )
