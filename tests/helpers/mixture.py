"""Exact denoisers of finite mixtures: what a perfectly trained network would say."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np


def mixture_network(
    templates: np.ndarray, probs: np.ndarray, width: float, alphas_cumprod: np.ndarray
) -> Callable[[jax.Array, jax.Array], jax.Array]:
    """The expected noise of a mixture of templates, and variance values.

    Args:
      templates: [k h w c].
      probs: [k].
      width: standard deviation of each component.
      alphas_cumprod: of the original chain.

    Returns:
      (x [b h w c], original steps [b]) -> [b h w 2c].
    """
    flat = jnp.asarray(templates.reshape(len(templates), -1))
    log_probs = jnp.log(jnp.asarray(probs))
    power = jnp.asarray(alphas_cumprod, float)
    rest = jnp.asarray(1 - alphas_cumprod, float)

    def network(x: jax.Array, t: jax.Array) -> jax.Array:
        a, b = power[t][:, None], rest[t][:, None]
        spread = b + a * width**2
        pixels = x.reshape(len(x), -1)
        off = pixels[:, None] - jnp.sqrt(a)[:, None] * flat[None]
        logits = log_probs[None] - jnp.square(off).sum(-1) / (2 * spread)
        mean = jax.nn.softmax(logits) @ flat
        x0 = mean + jnp.sqrt(a) * width**2 / spread * (pixels - jnp.sqrt(a) * mean)
        epsilon = ((pixels - jnp.sqrt(a) * x0) / jnp.sqrt(b)).reshape(x.shape)
        time = jnp.cos(jnp.asarray(t, a.dtype) / 300)[:, None, None, None]
        return jnp.concatenate([epsilon, 0.5 * jnp.tanh(x) + 0.2 * time], -1)

    return network
