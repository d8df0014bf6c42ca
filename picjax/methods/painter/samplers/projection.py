"""Samplers that put the known pixels in, without gradients: replacement and DDNM.

References:
  Wang, Yu, Zhang: Zero-Shot Image Restoration Using Denoising Diffusion Null-Space
  Model (arXiv 2212.00490).
"""

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array

from picjax.methods.painter.samplers.interface import (
    Call,
    Denoise,
    Denoised,
    Images,
    Measurement,
    Record,
    Trace,
    no_record,
)
from picjax.methods.painter.samplers.noise import Noise


def reverse_step(
    call: Call, x: Images, denoised: Denoised, normal: Images, eta: float | None = None
) -> Images:
    """A draw of x_{t-1} with x_0 clipped to [-1, 1]; at the last call without noise.

    Args:
      call: its scalars.
      x: x_t.
      denoised: what the network says of it.
      normal: standard normal.
      eta: DDIM's, whose noise is derived from the clipped x_0; None: the ancestral step
        with the network's variance.
    """
    x0 = jnp.clip(denoised.x0, -1, 1)
    if eta is None:
        mean = call.coef_x0 * x0 + call.coef_x * x
        std = jnp.where(call.last, 0, jnp.exp(0.5 * denoised.log_variance))
        return mean + std * normal
    renewed, kept = ddim_widths(call, eta)
    epsilon = (x - call.alpha * x0) / call.sigma
    return call.next_alpha * x0 + kept * epsilon + renewed * normal


def ddim_widths(call: Call, eta: float) -> tuple[Array, Array]:
    """Standard deviations of the renewed and of the kept noise in DDIM's step."""
    renewed = eta * call.next_sigma / call.sigma * jnp.sqrt(call.beta)
    return renewed, jnp.sqrt(jnp.maximum(call.next_sigma**2 - renewed**2, 0))


def known_pixels(
    call: Call, measurement: Measurement, normal: Images, *, lag: bool = False
) -> Images:
    """y noised to the level that the step leads to; with `lag`, to the call's own."""
    if lag:
        return call.alpha * measurement.y + call.sigma * normal
    return call.next_alpha * measurement.y + call.next_sigma * normal


def replacement(
    denoise: Denoise,
    calls: Call,
    measurement: Measurement,
    noise: Noise,
    *,
    eta: float | None = None,
    lag: bool = False,
    record: Record = no_record,
) -> tuple[Images, Any]:
    """Unconditional steps, each followed by known pixels noised afresh.

    Args:
      denoise: the denoiser.
      calls: straight down.
      measurement: the known pixels.
      noise: of "start", "step" and "known".
      eta: DDIM's; None: ancestral steps.
      lag: noise the known pixels to the level before the step, as MCG's code has it.
      record: what to return of every call.

    Returns:
      images, and what `record` returned, stacked.
    """
    mask = measurement.mask

    def body(x: Images, call: Call) -> tuple[Images, Any]:
        denoised = denoise(x, call.index)
        new = reverse_step(call, x, denoised, noise("step", call.number), eta)
        known = known_pixels(call, measurement, noise("known", call.number), lag=lag)
        new = mask * known + (1 - mask) * new
        return new, record(Trace(x, denoised.x0, new))

    return lax.scan(body, noise("start", jnp.int32(0)), calls)


def ddnm(
    denoise: Denoise,
    calls: Call,
    measurement: Measurement,
    noise: Noise,
    *,
    eta: float = 0.85,
    record: Record = no_record,
) -> tuple[Images, Any]:
    """DDNM, and DDNM+ where y has noise: known pixels of x_0 are replaced by y's.

    The noise that is carried on is the network's own. Derived anew from the corrected
    x_0 it would lose what guides the hole: as long as the network disagrees with y, the
    known pixels of the next x are pushed beyond y (docs/samplers.md).

    Args:
      denoise: the denoiser.
      calls: may climb; a climb starts from the last x_0, before y was put in.
      measurement: the known pixels.
      noise: of "start", "step" and "climb".
      eta: share of a step's noise that is renewed; 0: none, 1: all.
      record: what to return of every call.

    Returns:
      images, and what `record` returned, stacked. Without noise in y the known pixels
      are exact.
    """
    y, mask, sigma_y = measurement
    kept = (1 - eta**2) ** 0.5

    def body(carry: tuple[Images, Images], call: Call) -> tuple[Any, Any]:
        x, x0 = carry
        back = call.alpha * x0 + call.sigma * noise("climb", call.number)
        x = jnp.where(call.climbs, back, x)
        denoised = denoise(x, call.index)
        x0 = denoised.x0
        normal = noise("step", call.number)
        hole = call.next_alpha * x0 + call.next_sigma * (
            eta * normal + kept * denoised.epsilon
        )
        if sigma_y:
            known = _noisy_known(call, measurement, x0, normal, eta)
        else:
            # The arithmetic rounds: at the last call y itself.
            known = jnp.where(call.last, y, hole + call.next_alpha * (y - x0))
        new = mask * known + (1 - mask) * hole
        return (new, x0), record(Trace(x, x0, new))

    start = noise("start", jnp.int32(0))
    (x, _), records = lax.scan(body, (start, jnp.zeros_like(start)), calls)
    return x, records


def _noisy_known(
    call: Call, measurement: Measurement, x0: Images, normal: Images, eta: float
) -> Images:
    """DDNM+'s step on known pixels: y's own noise counts as part of the step's."""
    width = call.next_alpha * measurement.sigma  # of y's noise at the next level
    enough = call.next_sigma >= width
    trust = call.next_sigma * (1 - eta**2) ** 0.5 / width
    trust = jnp.where(enough, 1.0, trust)
    rest = jnp.sqrt(jnp.maximum(call.next_sigma**2 - width**2, 0))
    std = jnp.where(enough, rest, eta * call.next_sigma)
    return call.next_alpha * (x0 - trust * (x0 - measurement.y)) + std * normal


def noise_trust(call: Call, sigma_y: float) -> Array:
    """How far x_0 is moved to a y with noise so that a step's variance suffices."""
    width = call.coef_x0 * sigma_y
    enough = call.posterior_std >= width
    return jnp.where(enough, 1.0, call.posterior_std / jnp.where(enough, 1.0, width))


def ddnm_posterior(
    denoise: Denoise,
    calls: Call,
    measurement: Measurement,
    noise: Noise,
    *,
    trust: Callable[[Call, float], Array] = noise_trust,
    record: Record = no_record,
) -> tuple[Images, Any]:
    """DDNM by steps of the DDPM posterior, as in its paper; climbs by true steps back.

    With the same calls it is farther from the posterior than `ddnm`.

    Args:
      denoise: the denoiser.
      calls: may climb.
      measurement: the known pixels.
      noise: of "start", "step" and "climb".
      trust: share of the correction towards y; 1 without noise in y.
      record: what to return of every call; its x_0 has y in it.

    Returns:
      images, and what `record` returned, stacked.
    """
    y, mask, sigma_y = measurement

    def body(x: Images, call: Call) -> tuple[Images, Any]:
        back = call.climb_alpha * x + call.climb_sigma * noise("climb", call.number)
        x = jnp.where(call.climbs, back, x)
        share = trust(call, sigma_y)
        x0 = jnp.clip(denoise(x, call.index).x0, -1, 1)
        x0 = x0 + share * (y - mask * x0)
        variance = call.posterior_std**2 - (call.coef_x0 * sigma_y) ** 2
        std = jnp.sqrt(jnp.maximum(variance, 0))
        normal = noise("step", call.number)
        mean = jnp.where(call.last, x0, call.coef_x0 * x0 + call.coef_x * x)
        new = mean + jnp.where(call.last, 0, std) * normal
        return new, record(Trace(x, x0, new))

    return lax.scan(body, noise("start", jnp.int32(0)), calls)
