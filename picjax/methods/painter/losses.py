"""Losses of diffusion networks, one value per example.

`mse` compares the network's prediction with its target; `vb` is one step's term of the
variational bound in bits per dimension. With a learned variance the hybrid loss is
mse + vb, where vb has no gradient with respect to the mean (Nichol and Dhariwal, arXiv
2102.09672, section 3.1).
"""

import math
from typing import NamedTuple

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from picjax.methods.painter import process
from picjax.methods.painter.process import (
    Denoiser,
    Images,
    Noised,
    Output,
    Parameterization,
    Schedule,
)

LOSSES = ("mse", "rescaled_mse", "kl", "rescaled_kl")
LOG_2 = math.log(2)


# ---- Gaussians ----


def normal_kl(
    mean_p: Float[Array, "*#n"],
    log_var_p: Float[Array, "*#n"],
    mean_q: Float[Array, "*#n"],
    log_var_q: Float[Array, "*#n"],
) -> Float[Array, "*n"]:
    """KL(N(mean_p, var_p) || N(mean_q, var_q)) of every element, nats."""
    ratio = log_var_p - log_var_q
    distance = jnp.square(mean_p - mean_q) * jnp.exp(-log_var_q)
    return 0.5 * (jnp.exp(ratio) - ratio - 1 + distance)


def normal_cdf(x: Float[Array, "*n"]) -> Float[Array, "*n"]:
    """The tanh approximation of the standard normal CDF that guided-diffusion uses."""
    y = math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)
    # XLA's tanh may stop 2e-7 short of 1, and the likelihood takes its logarithm.
    tanh = 1 - 2 / (jnp.exp(2 * jnp.clip(y, -15, 15)) + 1)
    return 0.5 * (1 + tanh)


def discretized_log_likelihood(
    x: Float[Array, "*n"], mean: Float[Array, "*n"], log_std: Float[Array, "*n"]
) -> Float[Array, "*n"]:
    """Log probability of each of the 256 pixel values under a Gaussian, nats.

    Args:
      x: in [-1, 1], on the grid of 256 values; the extreme values take the tails.
      mean: of the Gaussian.
      log_std: of the Gaussian.
    """
    scaled = jnp.exp(-log_std)
    above = normal_cdf(scaled * (x - mean + 1 / 255))
    below = normal_cdf(scaled * (x - mean - 1 / 255))
    mass = jnp.where(x < -0.999, above, jnp.where(x > 0.999, 1 - below, above - below))
    return jnp.log(jnp.maximum(mass, 1e-12))


# ---- losses of one step ----


def bound_term(
    schedule: Schedule,
    parameterization: Parameterization,
    noised: Noised,
    output: Output,
    *,
    clip: bool,
) -> tuple[Float[Array, " b"], Images]:
    """One step's term of the variational bound, bits per dimension, and its x_0.

    For t > 0 the KL divergence from the posterior to the network's step; for t = 0 the
    negative log likelihood of the image.
    """
    x0, t, _, x = noised
    step = process.predict(schedule, parameterization, x, t, output, clip=clip)
    log_variance = process.extract(schedule.posterior_log_variance, t)
    kl = normal_kl(
        process.posterior_mean(schedule, x0, x, t),
        jnp.broadcast_to(log_variance, x.shape),
        step.mean,
        step.log_variance,
    )
    nll = -discretized_log_likelihood(x0, step.mean, 0.5 * step.log_variance)
    is_last = (t == 0)[:, None, None, None]
    return _mean(jnp.where(is_last, nll, kl)) / LOG_2, step.x0


def step_losses(
    schedule: Schedule,
    parameterization: Parameterization,
    loss: str,
    noised: Noised,
    output: Output,
) -> dict[str, Float[Array, " b"]]:
    """The losses of an output: `loss`, and `mse` and `vb` where it consists of them.

    Args:
      schedule: of the process that is trained.
      parameterization: what the output means.
      loss: one of LOSSES.
      noised: the network's input and what it was made from.
      output: the network's, [b h w 3] or [b h w 6].
    """
    if loss in ("kl", "rescaled_kl"):
        vb, _ = bound_term(schedule, parameterization, noised, output, clip=False)
        scale = schedule.steps if loss == "rescaled_kl" else 1
        return {"loss": vb * scale, "vb": vb}
    target = _target(schedule, parameterization, noised)
    if not parameterization.learns_variance:
        mse = _mean(jnp.square(target - output))
        return {"loss": mse, "mse": mse}
    value, variance = jnp.split(output, 2, -1)
    mse = _mean(jnp.square(target - value))
    frozen = jnp.concatenate([lax.stop_gradient(value), variance], -1)
    vb, _ = bound_term(schedule, parameterization, noised, frozen, clip=False)
    # vb is one of T terms; at T = 1000, as published, both losses are the same.
    vb = vb * schedule.steps / 1000 if loss == "rescaled_mse" else vb
    return {"loss": mse + vb, "mse": mse, "vb": vb}


def _target(
    schedule: Schedule, parameterization: Parameterization, noised: Noised
) -> Images:
    """What the network is to predict."""
    x0, t, noise, x = noised
    if parameterization.mean == "epsilon":
        return noise
    if parameterization.mean == "start_x":
        return x0
    return process.posterior_mean(schedule, x0, x, t)


# ---- the bound of the whole process ----


def prior_bits(schedule: Schedule, x0: Images) -> Float[Array, " b"]:
    """KL from q(x_T | x_0) to N(0, 1), bits per dimension."""
    last = jnp.full(len(x0), schedule.steps - 1)
    mean = process.q_sample(schedule, x0, last, jnp.zeros_like(x0))
    log_var = jnp.full_like(x0, math.log1p(-schedule.alphas_cumprod[-1]))
    zero = jnp.zeros_like(x0)
    return _mean(normal_kl(mean, log_var, zero, zero)) / LOG_2


class Bound(NamedTuple):
    """The bound of each image, bits per dimension; terms run from T - 1 down to 0.

    Attributes:
      total: sum of `vb` and `prior`.
      prior: of the last step.
      vb: each step's term.
      x0_mse: squared error of x_0 at each step.
      mse: squared error of the noise at each step.
    """

    total: Float[Array, " b"]
    prior: Float[Array, " b"]
    vb: Float[Array, "b t"]
    x0_mse: Float[Array, "b t"]
    mse: Float[Array, "b t"]


def bound(denoiser: Denoiser, x0: Images, noise: Float[Array, "t b h w c"]) -> Bound:
    """All T terms of the bound, in T evaluations of the network.

    Args:
      denoiser: the network.
      x0: images in [-1, 1].
      noise: for the steps from T - 1 down to 0.
    """
    schedule = denoiser.schedule

    def term(_: None, inputs: tuple[Array, Array]) -> tuple[None, tuple[Array, ...]]:
        step, eps = inputs
        noised = process.add_noise(schedule, x0, jnp.full(len(x0), step), eps)
        output = denoiser.output(noised.x, noised.t)
        vb, x0_hat = bound_term(
            schedule, denoiser.parameterization, noised, output, clip=True
        )
        eps_hat = process.epsilon_from_x0(schedule, noised.x, noised.t, x0_hat)
        errors = jnp.square(x0_hat - x0), jnp.square(eps_hat - eps)
        return None, (vb, *map(_mean, errors))

    steps = jnp.arange(schedule.steps - 1, -1, -1)
    _, (vb, x0_mse, mse) = lax.scan(term, None, (steps, noise))
    prior = prior_bits(schedule, x0)
    return Bound(vb.sum(0) + prior, prior, vb.T, x0_mse.T, mse.T)


def _mean(x: Images) -> Float[Array, " b"]:
    return x.mean((1, 2, 3))
