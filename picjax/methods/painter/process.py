"""Gaussian diffusion: schedules, the forward process and single reverse steps.

x_t = sqrt(alphas_cumprod[t]) x_0 + sqrt(1 - alphas_cumprod[t]) noise for t in 0..T-1
(Ho et al., arXiv 2006.11239). Tables are float64 on the host; a step looks its
coefficients up as float32. Noise is always an argument. Names and formulas follow
guided-diffusion (Dhariwal and Nichol, arXiv 2105.05233).
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Float64, Int, Int64

from picjax.cli import UserError
from picjax.methods.painter.spacing import keep

SCHEDULES = ("linear", "cosine")
MEANS = ("epsilon", "start_x", "previous_x")
VARIANCES = ("learned_range", "learned", "fixed_large", "fixed_small")

Images = Float[Array, "b h w c"]
Output = Float[Array, "b h w o"]
Times = Int[Array, " b"]
Table = Float64[np.ndarray, " t"]


# ---- schedules ----


def beta_schedule(name: str, steps: int) -> Table:
    """The variance that each of `steps` steps adds.

    References:
      Linear: Ho et al., arXiv 2006.11239; cosine: Nichol and Dhariwal, arXiv
      2102.09672, equation 17.

    Raises:
      UserError: if the name is not one of SCHEDULES, or for fewer than 2 steps.
    """
    if steps < 2:
        raise UserError(
            f"a diffusion process of {steps} steps is too short; use 2 or more"
        )
    if name == "linear":
        scale = 1000 / steps
        if scale * 0.02 >= 1:
            raise UserError(
                f"a linear schedule of {steps} steps has a beta of 1 or more; use more "
                "than 20 steps and keep fewer of them, or use the cosine schedule"
            )
        return np.linspace(scale * 1e-4, scale * 0.02, steps)
    if name == "cosine":

        def alpha_cumprod(u: np.ndarray) -> np.ndarray:
            return np.cos((u + 0.008) / 1.008 * np.pi / 2) ** 2

        t = np.arange(steps)
        ratio = alpha_cumprod((t + 1) / steps) / alpha_cumprod(t / steps)
        return np.minimum(1 - ratio, 0.999)
    raise UserError(f"schedule '{name}' is none of {', '.join(SCHEDULES)}; use one")


class Schedule(NamedTuple):
    """All coefficients of a process of T steps.

    Attributes:
      timesteps: the original step of each, which the network is conditioned on.
      betas: variance that step t adds.
      alphas_cumprod: cumulative product of 1 - betas.
      alphas_cumprod_prev: of the step before; 1 at t = 0.
      alphas_cumprod_next: of the step after; 0 at t = T - 1.
      posterior_variance: of q(x_{t-1} | x_t, x_0); 0 at t = 0.
      posterior_log_variance: its logarithm; at t = 0 that of t = 1.
      posterior_mean_coef_x0: coefficient of x_0 in the posterior's mean.
      posterior_mean_coef_xt: coefficient of x_t in the posterior's mean.
    """

    timesteps: Int64[np.ndarray, " t"]
    betas: Table
    alphas_cumprod: Table
    alphas_cumprod_prev: Table
    alphas_cumprod_next: Table
    posterior_variance: Table
    posterior_log_variance: Table
    posterior_mean_coef_x0: Table
    posterior_mean_coef_xt: Table

    @property
    def steps(self) -> int:
        """T."""
        return len(self.betas)


def make_schedule(name: str, steps: int, spacing: str = "") -> Schedule:
    """The schedule `name` of `steps` steps, of which `spacing` keeps some.

    The kept steps get new betas, 1 - alphas_cumprod[i] / alphas_cumprod[p] with p the
    kept step before i; all other coefficients follow from these.

    Raises:
      UserError: as `beta_schedule` and `spacing.keep`.
    """
    alphas_cumprod = np.cumprod(1 - beta_schedule(name, steps))
    kept = np.array(keep(alphas_cumprod, spacing), np.int64)
    return keep_timesteps(alphas_cumprod, kept)


def keep_timesteps(
    alphas_cumprod: Table, timesteps: Int64[np.ndarray, " s"]
) -> Schedule:
    """The schedule that keeps some steps, in ascending order, of an original one."""
    original = alphas_cumprod[timesteps]
    betas = 1 - original / np.append(1.0, original[:-1])
    current = np.cumprod(1 - betas)
    before, after = np.append(1.0, current[:-1]), np.append(current[1:], 0.0)
    variance = betas * (1 - before) / (1 - current)
    return Schedule(
        timesteps=timesteps,
        betas=betas,
        alphas_cumprod=current,
        alphas_cumprod_prev=before,
        alphas_cumprod_next=after,
        posterior_variance=variance,
        posterior_log_variance=np.log(np.append(variance[1], variance[1:])),
        posterior_mean_coef_x0=betas * np.sqrt(before) / (1 - current),
        posterior_mean_coef_xt=(1 - before) * np.sqrt(1 - betas) / (1 - current),
    )


def extract(table: np.ndarray, t: Times) -> Float[Array, "b 1 1 1"]:
    """A table's entries at the steps t, shaped to broadcast over images."""
    return jnp.asarray(table, jnp.float32)[t][:, None, None, None]


# ---- forward process ----


def q_sample(schedule: Schedule, x0: Images, t: Times, noise: Images) -> Images:
    """A draw of x_t given x_0."""
    alphas = schedule.alphas_cumprod
    return extract(np.sqrt(alphas), t) * x0 + extract(np.sqrt(1 - alphas), t) * noise


class Noised(NamedTuple):
    """Images of a forward process: x is `q_sample` of x0 at t with this noise."""

    x0: Images
    t: Times
    noise: Images
    x: Images


def add_noise(schedule: Schedule, x0: Images, t: Times, noise: Images) -> Noised:
    """Images at the steps t, together with what they were made from."""
    return Noised(x0, t, noise, q_sample(schedule, x0, t, noise))


def forward_step(schedule: Schedule, x: Images, t: Times, noise: Images) -> Images:
    """A draw of x_t given x_{t-1}: RePaint's "undo"."""
    betas = schedule.betas
    return extract(np.sqrt(1 - betas), t) * x + extract(np.sqrt(betas), t) * noise


def posterior_mean(schedule: Schedule, x0: Images, x: Images, t: Times) -> Images:
    """Mean of q(x_{t-1} | x_t, x_0)."""
    coef_x0 = extract(schedule.posterior_mean_coef_x0, t)
    return coef_x0 * x0 + extract(schedule.posterior_mean_coef_xt, t) * x


# ---- the network's prediction ----


def x0_from_epsilon(schedule: Schedule, x: Images, t: Times, epsilon: Images) -> Images:
    """x_0 given x_t and its noise."""
    inverse = 1 / schedule.alphas_cumprod
    return extract(np.sqrt(inverse), t) * x - extract(np.sqrt(inverse - 1), t) * epsilon


def epsilon_from_x0(schedule: Schedule, x: Images, t: Times, x0: Images) -> Images:
    """The noise given x_t and x_0."""
    inverse = 1 / schedule.alphas_cumprod
    return (extract(np.sqrt(inverse), t) * x - x0) / extract(np.sqrt(inverse - 1), t)


def x0_from_previous(schedule: Schedule, x: Images, t: Times, mean: Images) -> Images:
    """x_0 given x_t and the mean of x_{t-1}."""
    coef_x0 = schedule.posterior_mean_coef_x0
    ratio = schedule.posterior_mean_coef_xt / coef_x0
    return extract(1 / coef_x0, t) * mean - extract(ratio, t) * x


class Parameterization(NamedTuple):
    """What the network's output means.

    Attributes:
      mean: one of MEANS.
      variance: one of VARIANCES; "learned_range" interpolates the log variance between
        the posterior's and that of beta (arXiv 2102.09672, equation 15).
    """

    mean: str
    variance: str

    @property
    def learns_variance(self) -> bool:
        """Whether the second half of the output's channels is the variance's."""
        return self.variance.startswith("learned")


class Prediction(NamedTuple):
    """Mean and log variance of p(x_{t-1} | x_t), and the predicted x_0."""

    mean: Images
    log_variance: Images
    x0: Images


def predict(
    schedule: Schedule,
    parameterization: Parameterization,
    x: Images,
    t: Times,
    output: Output,
    *,
    clip: bool,
) -> Prediction:
    """The reverse step that an output of the network describes.

    Args:
      schedule: of the process.
      parameterization: what the output means.
      x: x_t.
      t: the steps.
      output: [b h w 3], or [b h w 6] where the variance is learned.
      clip: clips x_0 to [-1, 1] before the mean is computed from it.
    """
    value, log_variance = _mean_and_variance(schedule, parameterization, x, t, output)
    if parameterization.mean == "epsilon":
        x0 = x0_from_epsilon(schedule, x, t, value)
    elif parameterization.mean == "start_x":
        x0 = value
    else:
        x0 = x0_from_previous(schedule, x, t, value)
    x0 = jnp.clip(x0, -1, 1) if clip else x0
    if parameterization.mean == "previous_x":
        return Prediction(value, log_variance, x0)
    return Prediction(posterior_mean(schedule, x0, x, t), log_variance, x0)


def _mean_and_variance(
    schedule: Schedule,
    parameterization: Parameterization,
    x: Images,
    t: Times,
    output: Output,
) -> tuple[Images, Images]:
    """The half of an output that describes the mean, and the log variance."""
    low = schedule.posterior_log_variance
    if parameterization.learns_variance:
        value, variance = jnp.split(output, 2, -1)
        if parameterization.variance == "learned":
            return value, variance
        fraction = (variance + 1) / 2
        high = extract(np.log(schedule.betas), t)
        return value, fraction * high + (1 - fraction) * extract(low, t)
    if parameterization.variance == "fixed_large":
        low = np.log(np.append(schedule.posterior_variance[1], schedule.betas[1:]))
    return output, jnp.broadcast_to(extract(low, t), x.shape)


@dataclass(frozen=True)
class Denoiser:
    """A trained network on a schedule: all that a sampler needs to know of a model.

    Attributes:
      network: (x [b h w 3], original steps [b]) -> output [b h w 3 or 6].
      schedule: of the process that is sampled.
      parameterization: what the output means.
    """

    network: Callable[[Array, Array], Array]
    schedule: Schedule
    parameterization: Parameterization

    def output(self, x: Images, t: Times) -> Output:
        """The network's output at steps of the schedule."""
        return self.network(x, jnp.asarray(self.schedule.timesteps, jnp.int32)[t])

    def __call__(self, x: Images, t: Times, clip: bool = True) -> Prediction:
        """The predicted reverse step; see `predict`."""
        schedule, parameterization = self.schedule, self.parameterization
        return predict(schedule, parameterization, x, t, self.output(x, t), clip=clip)


# ---- reverse steps ----


def ancestral_step(prediction: Prediction, t: Times, noise: Images) -> Images:
    """A draw of x_{t-1} given x_t; at t = 0 the mean."""
    is_noisy = (t > 0)[:, None, None, None]
    std = jnp.exp(0.5 * prediction.log_variance)
    return prediction.mean + jnp.where(is_noisy, std * noise, 0)


def ddim_step(
    schedule: Schedule, x: Images, t: Times, x0: Images, noise: Images, *, eta: float
) -> Images:
    """x_{t-1} by DDIM (Song et al., arXiv 2010.02502, equation 12).

    eta 0 is deterministic; eta 1 adds as much noise as the ancestral step.
    """
    # In float32 as in the original, which loses digits of 1 - alphas near t = 0.
    alphas = schedule.alphas_cumprod.astype(np.float32)
    before = schedule.alphas_cumprod_prev.astype(np.float32)
    std = eta * np.sqrt((1 - before) / (1 - alphas)) * np.sqrt(1 - alphas / before)
    rest = np.sqrt(np.maximum(1 - before - std**2, 0))
    epsilon = epsilon_from_x0(schedule, x, t, x0)
    mean = extract(np.sqrt(before), t) * x0 + extract(rest, t) * epsilon
    # At t = 0 alphas_cumprod_prev is 1 and std 0.
    return mean + extract(std, t) * noise


def ddim_reverse_step(schedule: Schedule, x: Images, t: Times, x0: Images) -> Images:
    """x_{t+1} from x_t by DDIM with eta 0: the inverse of `ddim_step`."""
    epsilon = epsilon_from_x0(schedule, x, t, x0)
    after = schedule.alphas_cumprod_next.astype(np.float32)  # as in `ddim_step`
    return extract(np.sqrt(after), t) * x0 + extract(np.sqrt(1 - after), t) * epsilon
