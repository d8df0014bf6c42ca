"""What all samplers share: the denoiser, its calls, the measurement, the trace.

Notation of every sampler: x_t = alpha_t x_0 + sigma_t noise with alpha_t^2 + sigma_t^2
= 1, t a step of the schedule; level -1 is the image (alpha 1, sigma 0).
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from picjax.methods.painter.process import (
    Denoiser,
    Images,
    Schedule,
    predict,
)


class Call(NamedTuple):
    """The scalars of one call of the network; of all calls, stacked on axis 0.

    Attributes:
      number: counts the calls from 0.
      index: step of the schedule at which the network is called.
      alpha, sigma: of x at this step.
      next_alpha, next_sigma: of x after it; 1 and 0 at the last.
      beta: variance that this step of the process adds.
      coef_x0, coef_x: the mean of q(x_{t-1} | x_t, x_0) is coef_x0 x_0 + coef_x x_t.
      posterior_std: standard deviation of that distribution.
      climbs: whether the walk goes back towards noise before this call.
      climb_alpha, climb_sigma: x becomes climb_alpha x + climb_sigma noise then.
    """

    number: Any
    index: Any
    alpha: Any
    sigma: Any
    next_alpha: Any
    next_sigma: Any
    beta: Any
    coef_x0: Any
    coef_x: Any
    posterior_std: Any
    climbs: Any
    climb_alpha: Any
    climb_sigma: Any

    @property
    def last(self) -> Any:
        """Whether the result is an image."""
        return self.index == 0


def plan_calls(schedule: Schedule, visited: Sequence[int] | None = None) -> Call:
    """The calls of a walk over the schedule, stacked on axis 0.

    Args:
      schedule: of the process that is sampled.
      visited: steps that the walk visits, from the last one to -1; neighbours differ by
        1, and each step down is a call (`resampling.visited_steps`). None: straight
        down.
    """
    if visited is None:
        visited = range(schedule.steps - 1, -2, -1)
    levels = np.asarray(visited, np.int64)
    index = levels[:-1][np.diff(levels) < 0]
    reached = np.append(schedule.steps, index[:-1]) - 1
    power, power_next = (
        table[index]
        for table in (schedule.alphas_cumprod, schedule.alphas_cumprod_prev)
    )
    ratio = power / np.append(1.0, schedule.alphas_cumprod)[reached + 1]
    columns = Call(
        number=np.arange(len(index)),
        index=index,
        alpha=np.sqrt(power),
        sigma=np.sqrt(1 - power),
        next_alpha=np.sqrt(power_next),
        next_sigma=np.sqrt(1 - power_next),
        beta=schedule.betas[index],
        coef_x0=schedule.posterior_mean_coef_x0[index],
        coef_x=schedule.posterior_mean_coef_xt[index],
        posterior_std=np.sqrt(schedule.posterior_variance[index]),
        climbs=reached < index,
        climb_alpha=np.sqrt(ratio),
        climb_sigma=np.sqrt(1 - ratio),
    )
    return Call(*(on_device(column) for column in columns))


def on_device(column: np.ndarray) -> Array:
    """A table in the default precision, which a test may set to float64."""
    return jnp.asarray(column, float if column.dtype == np.float64 else None)


# ---- the denoiser ----


class Denoised(NamedTuple):
    """What the network says of x_t.

    Attributes:
      epsilon: noise in x_t; of a network that predicts it, its own output.
      x0: the image in x_t, not clipped.
      log_variance: of the ancestral step p(x_{t-1} | x_t).
    """

    epsilon: Images
    x0: Images
    log_variance: Images


Denoise = Callable[[Images, Array], Denoised]  # (x, step of the schedule, a scalar)


def denoise_with(denoiser: Denoiser) -> Denoise:
    """A trained network as the samplers here call it."""

    schedule, parameterization = denoiser.schedule, denoiser.parameterization
    alphas = on_device(np.sqrt(schedule.alphas_cumprod))
    sigmas = on_device(np.sqrt(1 - schedule.alphas_cumprod))

    def denoise(x: Images, index: Array) -> Denoised:
        t = jnp.full(len(x), index, jnp.int32)
        output = denoiser.output(x, t)
        step = predict(schedule, parameterization, x, t, output, clip=False)
        alpha, sigma = alphas[index], sigmas[index]
        if parameterization.mean == "epsilon":
            epsilon = output[..., : x.shape[-1]]
            return Denoised(epsilon, (x - sigma * epsilon) / alpha, step.log_variance)
        return Denoised((x - alpha * step.x0) / sigma, step.x0, step.log_variance)

    return denoise


# ---- the measurement ----


class Measurement(NamedTuple):
    """What is known of the image.

    Attributes:
      y: the known pixels, 0 in the hole.
      mask: 1 = known, 0 = hole.
      sigma: standard deviation of the noise in y.
    """

    y: Images
    mask: Float[Array, "b h w m"]
    sigma: float = 0.0


def measure(image: Images, mask: Float[Array, "b h w m"]) -> Measurement:
    """The known pixels of an image, without noise."""
    return Measurement(image * mask, mask)


class Trace(NamedTuple):
    """One call: x before it, the network's x_0 (not clipped), x after the step."""

    x: Images
    x0: Images
    x_next: Images


Record = Callable[[Trace], Any]


def no_record(trace: Trace) -> tuple[()]:
    """Keeps nothing of a trajectory."""
    return ()
