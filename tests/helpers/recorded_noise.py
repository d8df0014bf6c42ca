"""A recorded stream of noise as the noise of RePaint's sampler."""

import jax.numpy as jnp
import numpy as np

from picjax.methods.painter.process import Schedule
from picjax.methods.painter.resampling import (
    Noise,
    NoiseSource,
    Plan,
    forward_ratios,
)


def recorded_noise(
    schedule: Schedule, plan: Plan, stream: np.ndarray, has_known: bool = True
) -> NoiseSource:
    """The noise that the original consumed, in order, one evaluation at a time.

    Its single forward steps are combined: a sum of Gaussians is a Gaussian.

    Args:
      schedule: of the process.
      plan: the evaluations.
      stream: [n b h w 3]: the initial x; then for each evaluation its forward steps,
        the reverse step and (except for the first evaluation) the known pixels.
      has_known: whether there are known pixels; otherwise nothing is drawn for them.

    Raises:
      ValueError: if the stream is too long or too short.
    """
    needed = 1 + plan.forward_steps + plan.evaluations
    needed += has_known * (plan.evaluations - 1)
    if len(stream) != needed:
        raise ValueError(f"a stream of {len(stream)} for a plan that takes {needed}")
    rest = iter(stream)
    initial = next(rest)
    nothing = np.zeros_like(initial)
    rows = []
    total = 1 - forward_ratios(schedule, plan)
    for i, (t, reached) in enumerate(zip(plan.t, plan.reached, strict=True)):
        forward = nothing
        for s in range(reached + 1, t + 1):
            kept = schedule.alphas_cumprod[t] / schedule.alphas_cumprod[s]
            share = np.sqrt(schedule.betas[s] * kept / total[i])
            forward = forward + next(rest) * np.float32(share)
        reverse = next(rest)
        rows.append(Noise(forward, next(rest) if has_known and i else nothing, reverse))
    stacked = Noise(*(jnp.stack(x) for x in zip(*rows, strict=True)))
    return NoiseSource(jnp.asarray(initial), lambda i: Noise(*(x[i] for x in stacked)))
