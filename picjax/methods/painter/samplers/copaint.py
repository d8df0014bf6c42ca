"""CoPaint: DDIM whose x_t is optimised to agree with the known pixels at every level.

References:
  Zhang et al., Towards Coherent Image Inpainting Using Denoising Diffusion Implicit
  Models (arXiv 2304.03322).
"""

import itertools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float

from picjax.methods.painter.process import Schedule
from picjax.methods.painter.samplers.interface import (
    Denoise,
    Denoised,
    Images,
    Measurement,
    on_device,
)
from picjax.methods.painter.samplers.noise import Noise

SHRINK = 0.8  # of a rate whose step made the loss larger
MOST_TRIALS = 60  # 0.8^60 = 2e-6


class Refinement(NamedTuple):
    """One optimisation of x, and the DDIM step down or the climb that follows it.

    Attributes:
      number: counts them from 0.
      index: step of the schedule at which x is optimised.
      descended: net steps down before it.
      alpha, sigma: of x at this step.
      ratio: alpha over that of the lowest step of the schedule; the rate is scaled by it.
      climbs: whether a climb follows.
      next_alpha, next_sigma: after the DDIM step; of a climb, x becomes next_alpha x +
        next_sigma noise.
    """

    number: Any
    index: Any
    descended: Any
    alpha: Any
    sigma: Any
    ratio: Any
    climbs: Any
    next_alpha: Any
    next_sigma: Any


def plan_refinements(
    schedule: Schedule, visits: Sequence[int] | None = None
) -> Refinement:
    """The optimisations of a walk that ends at the lowest step of the schedule, stacked on axis 0.

    Args:
      schedule: the step of the schedules.
      visits: indices that the walk visits, from the last one to 0; before the first
        step up x is optimised once more. None: straight down.
    """
    steps = schedule.steps
    levels = list(range(steps - 1, -1, -1) if visits is None else visits)
    power = schedule.alphas_cumprod
    pairs: list[tuple[int, int]] = []
    for start, end in itertools.pairwise(levels):
        if end > start and pairs and pairs[-1][1] > pairs[-1][0]:
            pairs[-1] = pairs[-1][0], end  # a longer climb
        else:
            pairs.append((start, end))
    index, end = np.array(pairs, np.int64).T
    climbs = end > index
    ratio = power[end] / power[index]
    columns = Refinement(
        number=np.arange(len(index)),
        index=index,
        descended=steps - 1 - index,
        alpha=np.sqrt(power[index]),
        sigma=np.sqrt(1 - power[index]),
        ratio=np.sqrt(power[index] / power[0]),
        climbs=climbs,
        next_alpha=np.sqrt(np.where(climbs, ratio, power[end])),
        next_sigma=np.sqrt(1 - np.where(climbs, ratio, power[end])),
    )
    return Refinement(*(on_device(column) for column in columns))


class Refined(NamedTuple):
    """One optimisation: x before it, after it, and after the step that follows.

    Attributes:
      x, x_refined, x_next: those images.
      residual: sum of squares of mask (y - clip(x_0)) after it, per image.
      rate: before it is scaled by the level.
    """

    x: Images
    x_refined: Images
    x_next: Images
    residual: Float[Array, " b"]
    rate: Float[Array, ""]


def copaint(
    denoise: Denoise,
    plan: Refinement,
    measurement: Measurement,
    noise: Noise,
    *,
    gradient_steps: int = 2,
    rate: float = 0.02,
    rate_growth: float = 1.012,
    penalty: float = 1e-4,
    penalty_growth: float = 1.01,
    line_search: bool = True,
    scale_rate: bool = True,
    record: Callable[[Refined], Any] = lambda refined: (),
) -> tuple[Images, Any]:
    """CoPaint: each x_t is moved down the gradient of its loss, then stepped by DDIM.

    The loss is |mask (y - clip(x_0))|^2 + penalty |x - x_t|^2 of each image. After the
    start nothing is drawn but for climbs.

    Args:
      denoise: the denoiser.
      plan: the optimisations.
      measurement: the known pixels; they are only approached.
      noise: of "start" and "climb".
      gradient_steps: of each optimisation.
      rate: of the first.
      rate_growth: its factor for each net step down.
      penalty: weight of the distance from x_t at the first.
      penalty_growth: its factor for each net step down.
      line_search: shrink the rate, within one optimisation, until the loss falls.
      scale_rate: scale the rate by the level's alpha.
      record: what to return of every optimisation.

    Returns:
      images at the lowest step of the schedule, clipped; and what `record` returned, stacked.
    """
    y, mask, _ = measurement

    def body(x: Images, step: Refinement) -> tuple[Images, Any]:
        anchor_weight = penalty * penalty_growth**step.descended

        def losses(new: Images) -> tuple[Float[Array, " b"], tuple[Denoised, Array]]:
            denoised = denoise(new, step.index)
            square = jnp.square(mask * (y - jnp.clip(denoised.x0, -1, 1)))
            residual = square.sum((1, 2, 3))
            moved = jnp.square(new - x).sum((1, 2, 3))
            return residual + anchor_weight * moved, (denoised, residual)

        unscaled = rate * rate_growth**step.descended
        scale = step.ratio if scale_rate else jnp.ones_like(step.ratio)
        rates = jnp.full(len(x), unscaled * scale)
        refined = x
        for _ in range(gradient_steps):
            refined, rates = descend(losses, refined, rates, line_search)
        _, (denoised, residual) = losses(refined)
        down = step.next_alpha * jnp.clip(denoised.x0, -1, 1)
        down = down + step.next_sigma * denoised.epsilon
        normal = noise("climb", step.number)
        climbed = step.next_alpha * refined + step.next_sigma * normal
        new = jnp.where(step.climbs, climbed, down)
        return new, record(Refined(x, refined, new, residual, unscaled))

    x, records = lax.scan(body, noise("start", jnp.int32(0)), plan)
    return jnp.clip(x, -1, 1), records


def descend(
    losses: Callable[[Images], tuple[Float[Array, " b"], Any]],
    x: Images,
    rates: Float[Array, " b"],
    line_search: bool,
) -> tuple[Images, Float[Array, " b"]]:
    """One gradient step of each image, and the rates that lowered their losses.

    Args:
      losses: of each image, which depend on that image alone.
      x: the images.
      rates: the first to try.
      line_search: shrink a rate until the loss is no larger, and no NaN.
    """

    def total(x: Images) -> tuple[Array, Float[Array, " b"]]:
        each, _ = losses(x)
        return each.sum(), each

    gradient, before = jax.grad(total, has_aux=True)(x)

    def moved(rates: Float[Array, " b"]) -> Images:
        return x - rates[:, None, None, None] * gradient

    if not line_search:
        return moved(rates), rates

    def worse(state: tuple[Array, Array, Array]) -> Array:
        _, bad, trial = state
        return bad.any() & (trial < MOST_TRIALS)

    def shrink(state: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
        rates, bad, trial = state
        rates = jnp.where(bad, SHRINK * rates, rates)
        return rates, ~(losses(moved(rates))[0] <= before), trial + 1

    first = rates, ~(losses(moved(rates))[0] <= before), jnp.int32(0)
    rates, _, _ = lax.while_loop(worse, shrink, first)
    return moved(rates), rates
