"""Samplers that follow a gradient of the known pixels: DPS, MCG and PiGDM.

The gradient is a vector-Jacobian product of the network inside the scan: one call and
one backward pass per step. A network that recomputes its blocks in the backward pass
(config.model.remat) does so here, too.

References:
  DPS: Chung et al., arXiv 2209.14687. MCG: Chung et al., arXiv 2206.00941.
  PiGDM: Song et al., Pseudoinverse-Guided Diffusion Models, ICLR 2023.
"""

from collections.abc import Callable
from typing import Any, Literal

import jax
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
from picjax.methods.painter.samplers.projection import (
    ddim_widths,
    known_pixels,
    reverse_step,
)

Weight = Literal["paper", "released", "rederived", "identity"]


def denoise_with_gradient(
    denoise: Denoise, x: Images, index: Array
) -> tuple[Denoised, Callable[[Images], Images]]:
    """The denoised x, and the function g -> J^T g with J = dx_0 / dx."""

    def of_x0(x: Images) -> tuple[Images, Denoised]:
        denoised = denoise(x, index)
        return denoised.x0, denoised

    _, pullback, denoised = jax.vjp(of_x0, x, has_aux=True)
    return denoised, lambda cotangent: pullback(cotangent)[0]


def norm_gradient(
    denoise: Denoise, measurement: Measurement, x: Images, index: Array
) -> tuple[Denoised, Images]:
    """The denoised x, and the gradient of |y - mask clip(x_0)|, of each image, in x."""
    denoised, pullback = denoise_with_gradient(denoise, x, index)
    residual = measurement.y - measurement.mask * jnp.clip(denoised.x0, -1, 1)
    norm = jnp.sqrt(jnp.square(residual).sum((1, 2, 3), keepdims=True))
    inside = jnp.abs(denoised.x0) <= 1  # the derivative of the clip
    cotangent = -measurement.mask * residual * inside / jnp.maximum(norm, 1e-12)
    return denoised, pullback(cotangent)


def dps(
    denoise: Denoise,
    calls: Call,
    measurement: Measurement,
    noise: Noise,
    *,
    scale: float = 1.0,
    eta: float | None = None,
    record: Record = no_record,
) -> tuple[Images, Any]:
    """DPS: unconditional steps, each moved against the gradient of the residual's norm.

    Args:
      denoise: the denoiser.
      calls: straight down.
      measurement: the known pixels; they are only approached.
      noise: of "start" and "step".
      scale: of the gradient of the norm (not of its square).
      eta: DDIM's; None: ancestral steps.
      record: what to return of every call.

    Returns:
      images, and what `record` returned, stacked.
    """

    def body(x: Images, call: Call) -> tuple[Images, Any]:
        denoised, gradient = norm_gradient(denoise, measurement, x, call.index)
        new = reverse_step(call, x, denoised, noise("step", call.number), eta)
        new = new - scale * gradient
        return new, record(Trace(x, denoised.x0, new))

    return lax.scan(body, noise("start", jnp.int32(0)), calls)


def mcg(
    denoise: Denoise,
    calls: Call,
    measurement: Measurement,
    noise: Noise,
    *,
    scale: float = 1.0,
    eta: float | None = None,
    lag: bool = False,
    record: Record = no_record,
) -> tuple[Images, Any]:
    """MCG: DPS's step in the hole, known pixels noised afresh.

    Args:
      denoise: the denoiser.
      calls: straight down.
      measurement: the known pixels.
      noise: of "start", "step" and "known".
      scale: of the gradient of the norm.
      eta: DDIM's; None: ancestral steps.
      lag: noise the known pixels to the level before the step, as the released code.
      record: what to return of every call.

    Returns:
      images, and what `record` returned, stacked.
    """
    mask = measurement.mask

    def body(x: Images, call: Call) -> tuple[Images, Any]:
        denoised, gradient = norm_gradient(denoise, measurement, x, call.index)
        new = reverse_step(call, x, denoised, noise("step", call.number), eta)
        known = known_pixels(call, measurement, noise("known", call.number), lag=lag)
        new = mask * known + (1 - mask) * (new - scale * gradient)
        return new, record(Trace(x, denoised.x0, new))

    return lax.scan(body, noise("start", jnp.int32(0)), calls)


def pigdm(
    denoise: Denoise,
    calls: Call,
    measurement: Measurement,
    noise: Noise,
    *,
    eta: float = 1.0,
    weight: Weight = "paper",
    scale: float = 1.0,
    clip: bool = False,
    project: bool = False,
    record: Record = no_record,
) -> tuple[Images, Any]:
    """PiGDM: DDIM's step plus the gradient J^T mask (y - x_0).

    It starts from y noised to the first level. With noise in y the residual is
    multiplied by r^2 / (r^2 + sigma^2), r^2 = sigma_t^2.

    Args:
      denoise: the denoiser.
      calls: straight down.
      measurement: the known pixels; they are only approached.
      noise: of "start" and "step".
      eta: DDIM's; 0 draws nothing after the start.
      weight: of the gradient; `gradient_weight` has the formulas.
      scale: multiplies the weight.
      clip: x_0 to [-1, 1], but not its gradient: near the start an error of the
        network is 150 times as large in x_0, and an untrained one would diverge.
      project: put y into x_0 and follow the gradient in the hole alone, as the released
        code does for free-form masks.
      record: what to return of every call; its x_0 has y in it if `project`.

    Returns:
      images, and what `record` returned, stacked.
    """
    y, mask, sigma_y = measurement

    def body(x: Images, call: Call) -> tuple[Images, Any]:
        denoised, pullback = denoise_with_gradient(denoise, x, call.index)
        x0 = jnp.clip(denoised.x0, -1, 1) if clip else denoised.x0
        certainty = call.sigma**2 / (call.sigma**2 + sigma_y**2)
        gradient = pullback(certainty * mask * (y - x0))
        if project:
            x0 = mask * y + (1 - mask) * x0
            gradient = (1 - mask) * gradient
        renewed, kept = ddim_widths(call, eta)
        strength = scale * gradient_weight(call, kept, weight)
        new = call.next_alpha * x0 + renewed * noise("step", call.number)
        new = new + kept * denoised.epsilon + strength * gradient
        return new, record(Trace(x, x0, new))

    first = Call(*(column[0] for column in calls))
    start = first.alpha * y + first.sigma * noise("start", jnp.int32(0))
    return lax.scan(body, start, calls)


def gradient_weight(call: Call, kept: Array, weight: Weight) -> Array:
    """PiGDM's weight of the gradient.

    Args:
      call: its scalars.
      kept: coefficient of the network's noise in the step.
      weight: "paper": alpha_t; "released": alpha_s alpha_t of the authors' code, s the
        level after the step; "rederived": x_0 moves by alpha_t times the gradient and
        the noise follows it; "identity": of a unit Gaussian's score, which guides too
        much.
    """
    if weight == "paper":
        return call.alpha
    if weight == "released":
        return call.next_alpha * call.alpha
    if weight == "rederived":
        return (call.next_alpha - kept * call.alpha / call.sigma) * call.alpha
    return call.next_alpha / call.alpha - kept / call.sigma
