"""Exact denoisers of finite mixtures: what a perfectly trained network would say."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from picjax.methods.painter import process
from picjax.methods.painter.process import Denoiser, Parameterization, Schedule
from picjax.methods.painter.samplers.interface import Denoise, denoise_with

Network = Callable[[jax.Array, jax.Array], jax.Array]


def mixture_network(
    templates: np.ndarray, probs: np.ndarray, width: float, alphas_cumprod: np.ndarray
) -> Network:
    """The expected noise in an image drawn from a mixture of templates.

    Args:
      templates: [k h w c].
      probs: [k].
      width: standard deviation of each component.
      alphas_cumprod: of the original schedule.

    Returns:
      (x [b h w c], original steps [b]) -> [b h w c].
    """
    flat = jnp.asarray(templates.reshape(len(templates), -1), float)
    log_probs = jnp.log(jnp.asarray(probs, float))
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
        return ((pixels - jnp.sqrt(a) * x0) / jnp.sqrt(b)).reshape(x.shape)

    return network


def with_variance(network: Network) -> Network:
    """The network with variance values beside the noise, as the reference files'."""

    def both(x: jax.Array, t: jax.Array) -> jax.Array:
        time = jnp.cos(jnp.asarray(t, x.dtype) / 300)[:, None, None, None]
        return jnp.concatenate([network(x, t), 0.5 * jnp.tanh(x) + 0.2 * time], -1)

    return both


def denoise_by(network: Network, schedule: Schedule, variance: str) -> Denoise:
    """A network that predicts the noise, as the samplers call it.

    `variance` is what the rest of its output means, one of `process.VARIANCES`.
    """
    parameterization = Parameterization("epsilon", variance)
    return denoise_with(Denoiser(network, schedule, parameterization))


def strided_schedule(alphas_cumprod: np.ndarray, steps: int) -> Schedule:
    """The original steps 0, k, 2k, .. with k = len(alphas_cumprod) // steps."""
    timesteps = np.arange(steps) * (len(alphas_cumprod) // steps)
    return process.keep_timesteps(alphas_cumprod, timesteps)
