"""The discretized mixture of logistics of PixelCNN++ (arXiv 1701.05517).

A pixel value v in 0..255 is x = (v - 127.5) / 127.5; its bin reaches 1/255 to each side
and the first and last bins to infinity. Logits hold, in this order, K mixture logits
and then for each channel K means, K log scales and, with three channels, K raw
coefficients: 10 K values for colour, 3 K for grey.

There are two forms of the probability of a bin. `official` is that of the published
code, a difference of sigmoids and, where that is small, density times width:
discontinuous by up to 2.15 nats, and inexact in float32. `stable` is exact everywhere.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

LEAST_LOG_SCALE = -7.0
HALF_BIN = 1 / 255
EDGE = 0.999  # values beyond are the first or the last bin


class Mixture(NamedTuple):
    """The distribution of each pixel: K components, c channels.

    Attributes:
      logits: of the components, shared by the channels.
      mean: of each channel, without the contribution of the channels before it.
      log_scale: not clamped.
      coefficients: in [-1, 1]: red to green, red to blue, green to blue; None with one
        channel.
    """

    logits: Float[Array, "*b k"]
    mean: Float[Array, "*b c k"]
    log_scale: Float[Array, "*b c k"]
    coefficients: Float[Array, "*b 3 k"] | None


def logit_count(mixtures: int, channels: int) -> int:
    """Number of logits per pixel."""
    return 10 * mixtures if channels == 3 else 3 * mixtures


def unpack(logits: Float[Array, "*b m"], channels: int) -> Mixture:
    """The mixture that a network's outputs parameterise; `channels` is 3 or 1."""
    k = logits.shape[-1] // logit_count(1, channels)
    rest = logits[..., k:].reshape(*logits.shape[:-1], channels, -1)
    mean, log_scale = rest[..., :k], rest[..., k : 2 * k]
    coefficients = jnp.tanh(rest[..., 2 * k :]) if channels == 3 else None
    return Mixture(logits[..., :k], mean, log_scale, coefficients)


# ---- likelihood ----


def log_bin_official(
    x: Float[Array, "*b c k"], mean: Float[Array, "*b c k"], log_scale: Array
) -> Float[Array, "*b c k"]:
    """Log probability of each value's bin, nats, as in the published code."""
    inverse = jnp.exp(-log_scale)
    z = x - mean
    upper, lower, middle = (
        inverse * (z + HALF_BIN),
        inverse * (z - HALF_BIN),
        inverse * z,
    )
    difference = jax.nn.sigmoid(upper) - jax.nn.sigmoid(lower)
    density = middle - log_scale - 2 * jax.nn.softplus(middle) - np.log(127.5)
    # The maximum keeps the gradient finite where the other branch is taken.
    log_difference = jnp.log(jnp.maximum(difference, 1e-12))
    inner = jnp.where(difference > 1e-5, log_difference, density)
    first, last = upper - jax.nn.softplus(upper), -jax.nn.softplus(lower)
    return jnp.where(x < -EDGE, first, jnp.where(x > EDGE, last, inner))


def log_bin_stable(
    x: Float[Array, "*b c k"], mean: Float[Array, "*b c k"], log_scale: Array
) -> Float[Array, "*b c k"]:
    """Log probability of each value's bin, nats, exact everywhere.

    sigmoid(p) - sigmoid(q) = (1 - exp(q - p)) sigmoid(p) sigmoid(-q).
    """
    inverse = jnp.exp(-log_scale)
    z = x - mean
    upper, lower = inverse * (z + HALF_BIN), inverse * (z - HALF_BIN)
    below, above = -jax.nn.softplus(-upper), -jax.nn.softplus(lower)
    # log(1 - exp(-w)) of the bin's width w, which a huge scale brings near 0.
    width = 2 * HALF_BIN * inverse
    exact = jnp.log(-jnp.expm1(-jnp.maximum(width, 1e-5)))
    narrow = np.log(2 * HALF_BIN) - log_scale - width / 2
    log_width = jnp.where(width > 1e-5, exact, narrow)
    inner = log_width + below + above
    return jnp.where(x < -EDGE, below, jnp.where(x > EDGE, above, inner))


LOG_BIN: dict[str, Callable[[Array, Array, Array], Array]] = {
    "official": log_bin_official,
    "stable": log_bin_stable,
}


def component_log_prob(
    x: Float[Array, "*b c"], mixture: Mixture, form: str = "stable"
) -> Float[Array, "*b c k"]:
    """Log probability of each channel's value under each component, nats.

    Green's mean moves with the red value and blue's with both, by the coefficients.
    """
    mean = mixture.mean
    if mixture.coefficients is not None:
        red, green = x[..., 0:1], x[..., 1:2]
        r_g, r_b, g_b = (mixture.coefficients[..., i, :] for i in range(3))
        shift = [jnp.zeros_like(r_g), r_g * red, r_b * red + g_b * green]
        mean = mean + jnp.stack(shift, -2)
    log_scale = jnp.maximum(mixture.log_scale, LEAST_LOG_SCALE)
    return LOG_BIN[form](jnp.broadcast_to(x[..., None], mean.shape), mean, log_scale)


def log_likelihood(
    x: Float[Array, "*b c"], logits: Float[Array, "*b m"], form: str = "stable"
) -> Float[Array, "*b"]:
    """Log probability of each pixel, nats.

    Args:
      x: in [-1, 1], on the grid of 256 values.
      logits: the network's output at each pixel.
      form: `stable` or `official`.
    """
    mixture = unpack(logits, x.shape[-1])
    each = component_log_prob(x, mixture, form).sum(-2)
    return jax.nn.logsumexp(each + jax.nn.log_softmax(mixture.logits), -1)


def nll(
    x: Float[Array, "b h w c"], logits: Float[Array, "b h w m"], form: str = "stable"
) -> Float[Array, " b"]:
    """Negative log-likelihood of each image, nats, summed over pixels and channels."""
    return -log_likelihood(x, logits, form).sum((1, 2))


def bits(nats: Float[Array, "*b"]) -> Float[Array, "*b"]:
    """Nats as bits."""
    return nats / np.log(2)


# ---- sampling ----


def component(
    logits: Float[Array, "*b k"], u: Float[Array, "*b k"]
) -> Int[Array, "*b"]:
    """The component that uniforms in (0, 1) select (the Gumbel-max trick)."""
    return jnp.argmax(logits - jnp.log(-jnp.log(u)), -1)


def draw(
    logits: Float[Array, "*b m"],
    u_mixture: Float[Array, "*b k"],
    u_value: Float[Array, "*b c"],
    rounded: bool = False,
) -> Float[Array, "*b c"]:
    """Draw one value per pixel and channel, in [-1, 1], from given uniforms.

    Args:
      logits: the network's output at each pixel.
      u_mixture: uniform in (0, 1): selects the component, which all channels share.
      u_value: uniform in (0, 1): the logistic noise of each channel.
      rounded: whether to round to the 256 values, each channel before the next one is
        drawn, which makes the likelihood above exactly the probability of the draw.
        The official sampler does not round.
    """
    channels = u_value.shape[-1]
    mixture = unpack(logits, channels)
    chosen = jax.nn.one_hot(component(mixture.logits, u_mixture), u_mixture.shape[-1])

    def take(values: Array) -> Array:
        return (values * chosen[..., None, :]).sum(-1)

    scale = jnp.exp(jnp.maximum(take(mixture.log_scale), LEAST_LOG_SCALE))
    y = take(mixture.mean) + scale * (jnp.log(u_value) - jnp.log1p(-u_value))

    def discretise(value: Array) -> Array:
        value = jnp.clip(value, -1, 1)
        return to_grid(value) if rounded else value

    red = discretise(y[..., 0])
    if mixture.coefficients is None:
        return red[..., None]
    r_g, r_b, g_b = jnp.unstack(take(mixture.coefficients), axis=-1)
    green = discretise(y[..., 1] + r_g * red)
    blue = discretise(y[..., 2] + r_b * red + g_b * green)
    return jnp.stack([red, green, blue], -1)


def to_grid(x: Float[Array, "*b"]) -> Float[Array, "*b"]:
    """The nearest of the 256 values, in [-1, 1]."""
    return (2 * jnp.round((x + 1) * 127.5) - 255) / 255
