"""Proposals of the particle samplers: TDS, SMCDiff, and plain importance sampling.

References:
  TDS: Wu et al., arXiv 2306.17775. SMCDiff: Trippe et al., arXiv 2206.04119.
"""

from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from picjax.methods.painter.samplers.guidance import denoise_with_gradient
from picjax.methods.painter.samplers.interface import (
    Call,
    Denoise,
    Images,
    Measurement,
)
from picjax.methods.painter.samplers.noise import Noise
from picjax.methods.painter.samplers.smc import Weights

Twist = Literal["snr", "prior", "dps", "pigdm"]


def normal_log_density(
    x: Float[Array, "n h w c"], mean: Images, log_variance: Images
) -> Images:
    """Of each pixel; x is one image, or as many as there are means."""
    square = jnp.square(x - mean) * jnp.exp(-log_variance)
    return -0.5 * (square + log_variance + jnp.log(2 * jnp.pi))


def _sum(x: Images) -> Weights:
    return x.sum((1, 2, 3))


class Moments(NamedTuple):
    """Of the step from each particle; `move` draws from the twisted mean."""

    mean: Images
    twisted: Images
    log_variance: Images
    log_potential: Weights


@dataclass(frozen=True)
class TDS:
    """The twisted diffusion sampler: steps guided by, and weighted for, the known pixels.

    The twist of x_t is N(y; mask x_0(x_t), v_t) without its normaliser, x_0 not clipped.
    With s = sigma_t^2 / alpha_t^2, v_t is

      "snr": s;
      "prior": s tau2 / (s + tau2), of pixels with the prior variance tau2;
      "dps": 2 r beta_t with r the particle's residual norm, DPS's step;
      "pigdm": beta_t / alpha_t, PiGDM's weight.

    Attributes:
      denoise: the denoiser.
      measurement: of one image, [1 h w c].
      twist: which v_t.
      tau2: of "prior".
      floor: least standard deviation of the twist; without one, a network that is not
        exact leaves a single particle at the last levels.
      weigh_last: weight the particles for the last step, in which the known pixels
        become y; else their weights stay.
    """

    denoise: Denoise
    measurement: Measurement
    twist: Twist = "prior"
    tau2: float = 0.12
    floor: float = 0.0
    weigh_last: bool = True

    def twist_variance(self, call: Call, residual: Images) -> Float[Array, "b 1 1 1"]:
        """v_t of each particle."""
        ratio = (call.sigma / call.alpha) ** 2
        norm = jnp.sqrt(jnp.square(residual).sum((1, 2, 3), keepdims=True))
        variance = {
            "snr": ratio,
            "prior": ratio * self.tau2 / (ratio + self.tau2),
            "dps": 2 * norm * call.beta,
            "pigdm": call.beta / call.alpha,
        }[self.twist]
        return jnp.maximum(jnp.broadcast_to(variance, norm.shape), self.floor**2)

    def start(self, x: Images) -> tuple[Images, Weights]:
        return x, jnp.zeros(len(x), x.dtype)

    def weigh(self, x: Images, call: Call) -> tuple[Weights, Moments]:
        denoised, pullback = denoise_with_gradient(self.denoise, x, call.index)
        residual = self.measurement.mask * (self.measurement.y - denoised.x0)
        variance = self.twist_variance(call, residual)
        log_potential = _sum(-jnp.square(residual) / (2 * variance))
        score = pullback(residual) / variance
        shifted = denoised.x0 + call.sigma**2 / call.alpha * score
        mean = call.coef_x0 * denoised.x0 + call.coef_x * x
        twisted = call.coef_x0 * jnp.clip(shifted, -1, 1) + call.coef_x * x
        moments = Moments(mean, twisted, denoised.log_variance, log_potential)
        return log_potential, moments

    def move(
        self, moments: Moments, call: Call, normal: Images
    ) -> tuple[Images, Weights]:
        y, mask, _ = self.measurement
        mean, twisted, log_variance, log_potential = moments
        x = twisted + jnp.exp(0.5 * log_variance) * normal
        # The difference of two squares per pixel: their sums would cancel.
        difference = (twisted - mean) * (2 * x - mean - twisted)
        ratio = _sum(-0.5 * difference * jnp.exp(-log_variance)) - log_potential
        last = mask * y + (1 - mask) * mean
        likelihood = _sum(mask * normal_log_density(y, mean, log_variance))
        last_ratio = self.weigh_last * (likelihood - log_potential)
        return (
            jnp.where(call.last, last, x),
            jnp.where(call.last, last_ratio, ratio),
        )


class PlainMoments(NamedTuple):
    """Of the unconditional step from each particle."""

    mean: Images
    log_variance: Images


@dataclass(frozen=True)
class SMCDiff:
    """Replacement whose particles are weighted by how well they predict what replaces.

    One noised trajectory of y is shared by all particles, or each has its own.

    Attributes:
      denoise: the denoiser.
      mask: of one image, [1 h w m].
      trajectory: y at each level of the walk (`noised_trajectory`), the image first.
      weighted: without weights this is replacement.
    """

    denoise: Denoise
    mask: Float[Array, "1 h w m"]
    trajectory: Float[Array, "levels n h w c"]
    weighted: bool = True

    def start(self, x: Images) -> tuple[Images, Weights]:
        known = self.trajectory[-1]
        zero = jnp.zeros_like(x)
        log_weights = _sum(self.mask * normal_log_density(known, zero, zero))
        return self.mask * known + (1 - self.mask) * x, self.weighted * log_weights

    def weigh(self, x: Images, call: Call) -> tuple[Weights, PlainMoments]:
        return jnp.zeros(len(x), x.dtype), plain_moments(self.denoise, x, call)

    def move(
        self, moments: PlainMoments, call: Call, normal: Images
    ) -> tuple[Images, Weights]:
        known = self.trajectory[call.index]
        added = _sum(self.mask * normal_log_density(known, *moments))
        hole = plain_draw(moments, call, normal)
        return self.mask * known + (1 - self.mask) * hole, self.weighted * added


@dataclass(frozen=True)
class Importance:
    """Unconditional samples, weighted once, at the end: for very small problems."""

    denoise: Denoise
    measurement: Measurement

    def start(self, x: Images) -> tuple[Images, Weights]:
        return x, jnp.zeros(len(x), x.dtype)

    def weigh(self, x: Images, call: Call) -> tuple[Weights, PlainMoments]:
        return jnp.zeros(len(x), x.dtype), plain_moments(self.denoise, x, call)

    def move(
        self, moments: PlainMoments, call: Call, normal: Images
    ) -> tuple[Images, Weights]:
        y, mask, _ = self.measurement
        x = plain_draw(moments, call, normal)
        added = _sum(mask * normal_log_density(y, *moments))
        return (
            jnp.where(call.last, mask * y + (1 - mask) * x, x),
            jnp.where(call.last, added, 0),
        )


def plain_moments(denoise: Denoise, x: Images, call: Call) -> PlainMoments:
    """Of the ancestral step with x_0 clipped."""
    denoised = denoise(x, call.index)
    mean = call.coef_x0 * jnp.clip(denoised.x0, -1, 1) + call.coef_x * x
    return PlainMoments(mean, denoised.log_variance)


def plain_draw(moments: PlainMoments, call: Call, normal: Images) -> Images:
    """The ancestral step; at the last call its mean."""
    std = jnp.where(call.last, 0, jnp.exp(0.5 * moments.log_variance))
    return moments.mean + std * normal


def noised_trajectory(
    calls: Call, y: Images, noise: Noise, copies: int = 1
) -> Float[Array, "levels n h w c"]:
    """y, and y after each step of the forward process; one Markov schedule per copy.

    Args:
      calls: straight down.
      y: of one image, [1 h w c].
      noise: of "known", [n h w c].
      copies: n.
    """
    start: Any = jnp.repeat(y, copies, 0)

    def body(x: Images, step: tuple[Array, Array]) -> tuple[Images, Images]:
        number, beta = step
        x = jnp.sqrt(1 - beta) * x + jnp.sqrt(beta) * noise("known", number)
        return x, x

    _, levels = lax.scan(body, start, (calls.number, calls.beta[::-1]))
    return jnp.concatenate([start[None], levels])
