"""Gaussian diffusion: schedules, tables and single steps, all pure functions.

x_t = sqrt(abar_t) x_0 + sqrt(1 - abar_t) noise for t in 0..T-1, where abar is the
cumulative product of 1 - beta. Tables are float64 on the host; a step looks its numbers
up as float32. Noise is always passed in. Names and formulas are those of guided-diffusion
(specification, section 2): "epsilon" predicts the noise, "learned_range" interpolates
the log variance between its two bounds.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Float64, Int, Int64

from picjax.cli import UserError

SCHEDULES = ("linear", "cosine")
MEANS = ("epsilon", "start_x", "previous_x")
VARIANCES = ("learned_range", "learned", "fixed_large", "fixed_small")

Images = Float[Array, "b h w c"]
Output = Float[Array, "b h w o"]
Times = Int[Array, " b"]
Table = Float64[np.ndarray, " t"]


# ---- schedules ----


def betas(name: str, steps: int) -> Table:
    """The variances added by `steps` steps (specification, section 2.1).

    Raises:
      UserError: for a name that is none of SCHEDULES, or fewer than 2 steps.
    """
    if steps < 2:
        raise UserError(f"a diffusion of {steps} steps has no middle; take 2 or more")
    if name == "linear":
        scale = 1000 / steps
        if scale * 0.02 >= 1:
            raise UserError(
                f"a linear schedule of {steps} steps has a beta of 1 or more; take "
                "more than 20 steps and choose fewer of them, or the cosine schedule"
            )
        return np.linspace(scale * 1e-4, scale * 0.02, steps)
    if name == "cosine":

        def kept(u: np.ndarray) -> np.ndarray:
            return np.cos((u + 0.008) / 1.008 * np.pi / 2) ** 2

        times = np.arange(steps)
        return np.minimum(1 - kept((times + 1) / steps) / kept(times / steps), 0.999)
    raise UserError(f"schedule '{name}' is none of {', '.join(SCHEDULES)}")


def spacing(steps: int, chosen: str) -> list[int]:
    """Which of `steps` original steps a shorter chain keeps (specification, 2.2).

    Args:
      steps: of the chain that the network was trained on.
      chosen: "250": so many, evenly, ends included; "10,20,30": so many of each equal
        section; "ddim25": every k-th from 0 on, which does not reach the last; "": all.

    Raises:
      UserError: when it cannot be had.
    """

    def refuse(why: str) -> UserError:
        return UserError(
            f"a spacing of '{chosen}' on {steps} steps {why}; give a number up to "
            f"{steps}, such as '{max(steps // 2, 2)}', or 'ddim' and one that divides it"
        )

    if not chosen:
        return list(range(steps))
    if chosen.startswith("ddim"):
        wanted = chosen.removeprefix("ddim")
        if not wanted.isdecimal():
            raise refuse("is no number")
        for stride in range(1, steps):
            if len(range(0, steps, stride)) == int(wanted):
                return _at_least_two(list(range(0, steps, stride)), refuse)
        raise refuse("is no whole stride")
    words = chosen.split(",")
    if not all(word.strip().isdecimal() for word in words):
        raise refuse("is no number")
    size, extra = divmod(steps, len(words))
    kept: list[int] = []
    start = 0
    for i, count in enumerate(int(word) for word in words):
        length = size + (i < extra)
        if length < count:
            raise refuse(f"asks for {count} steps of a section of {length}")
        stride = (length - 1) / (count - 1) if count > 1 else 1.0
        place = 0.0  # added up as the original does, which decides how halves round
        for _ in range(count):
            kept.append(start + round(place))
            place += stride
        start += length
    return _at_least_two(kept, refuse)


def _at_least_two(kept: list[int], refuse: Callable[[str], UserError]) -> list[int]:
    if len(kept) < 2:
        raise refuse(f"keeps {len(kept)} step(s), and 2 are the least")
    return kept


class Tables(NamedTuple):
    """All numbers of a chain of T steps.

    Attributes:
      original: which original step each is: what the network is told.
      beta: variance added by step t.
      abar: what is left of x_0's power after step t.
      abar_prev: the same one step before; 1 at t = 0.
      abar_next: the same one step after; 0 at t = T - 1.
      variance: of the posterior q(x_{t-1} | x_t, x_0); 0 at t = 0.
      log_variance: its logarithm, at t = 0 that of t = 1.
      coef_x0: of x_0 in the posterior's mean.
      coef_x: of x_t in the posterior's mean.
    """

    original: Int64[np.ndarray, " t"]
    beta: Table
    abar: Table
    abar_prev: Table
    abar_next: Table
    variance: Table
    log_variance: Table
    coef_x0: Table
    coef_x: Table

    @property
    def steps(self) -> int:
        """T."""
        return len(self.beta)


def tables(name: str, steps: int, chosen: str = "") -> Tables:
    """The tables of a schedule of which only some steps are kept.

    The kept steps have betas of their own, 1 - abar_i / abar_p with p the kept step
    before i; everything else follows from these (specification, sections 2.2, 2.3).

    Raises:
      UserError: as `betas` and `spacing`.
    """
    kept = np.array(spacing(steps, chosen), np.int64)
    every = np.cumprod(1 - betas(name, steps))[kept]
    beta = 1 - every / np.append(1.0, every[:-1])
    abar = np.cumprod(1 - beta)
    before, after = np.append(1.0, abar[:-1]), np.append(abar[1:], 0.0)
    variance = beta * (1 - before) / (1 - abar)
    return Tables(
        original=kept,
        beta=beta,
        abar=abar,
        abar_prev=before,
        abar_next=after,
        variance=variance,
        log_variance=np.log(np.append(variance[1], variance[1:])),
        coef_x0=beta * np.sqrt(before) / (1 - abar),
        coef_x=(1 - before) * np.sqrt(1 - beta) / (1 - abar),
    )


def at(table: np.ndarray, t: Times) -> Float[Array, "b 1 1 1"]:
    """A table's numbers at the steps t, to be multiplied with images."""
    return jnp.asarray(table, jnp.float32)[t][:, None, None, None]


# ---- forwards ----


def q_sample(tables: Tables, x0: Images, t: Times, noise: Images) -> Images:
    """x_t of the images x_0."""
    abar = tables.abar
    return at(np.sqrt(abar), t) * x0 + at(np.sqrt(1 - abar), t) * noise


def undo(tables: Tables, x: Images, t: Times, noise: Images) -> Images:
    """x_t from x_{t-1}: one step back towards noise."""
    beta = tables.beta
    return at(np.sqrt(1 - beta), t) * x + at(np.sqrt(beta), t) * noise


def posterior_mean(tables: Tables, x0: Images, x: Images, t: Times) -> Images:
    """Mean of q(x_{t-1} | x_t, x_0)."""
    return at(tables.coef_x0, t) * x0 + at(tables.coef_x, t) * x


# ---- what an output of the network means ----


def x0_from_epsilon(tables: Tables, x: Images, t: Times, epsilon: Images) -> Images:
    """The x_0 that x_t and its noise belong to."""
    inverse = 1 / tables.abar
    return at(np.sqrt(inverse), t) * x - at(np.sqrt(inverse - 1), t) * epsilon


def epsilon_from_x0(tables: Tables, x: Images, t: Times, x0: Images) -> Images:
    """The noise that x_t and x_0 belong to."""
    inverse = 1 / tables.abar
    return (at(np.sqrt(inverse), t) * x - x0) / at(np.sqrt(inverse - 1), t)


def x0_from_previous(tables: Tables, x: Images, t: Times, previous: Images) -> Images:
    """The x_0 with which the posterior's mean is `previous`."""
    coef_x0, coef_x = tables.coef_x0, tables.coef_x
    return at(1 / coef_x0, t) * previous - at(coef_x / coef_x0, t) * x


class Kind(NamedTuple):
    """What the network's output means: one of MEANS, one of VARIANCES."""

    mean: str = "epsilon"
    variance: str = "learned_range"

    @property
    def learned(self) -> bool:
        """Whether half of the output's channels are the variance's."""
        return self.variance.startswith("learned")


class Prediction(NamedTuple):
    """p(x_{t-1} | x_t), and the x_0 behind it."""

    mean: Images
    log_variance: Images
    x0: Images


def predict(
    tables: Tables, kind: Kind, x: Images, t: Times, output: Output, clip: bool
) -> Prediction:
    """The step that an output of the network asks for (specification, section 2.4).

    Args:
      tables: of the chain.
      kind: what the output means.
      x: x_t.
      t: its steps.
      output: [b h w 3], or [b h w 6] where the variance is learned.
      clip: x_0 to [-1, 1] before the mean is made of it.
    """
    value, log_variance = _split(tables, kind, t, output, x)
    if kind.mean == "epsilon":
        x0 = x0_from_epsilon(tables, x, t, value)
    elif kind.mean == "start_x":
        x0 = value
    else:
        x0 = x0_from_previous(tables, x, t, value)
    x0 = jnp.clip(x0, -1, 1) if clip else x0
    mean = value if kind.mean == "previous_x" else posterior_mean(tables, x0, x, t)
    return Prediction(mean, log_variance, x0)


def _split(
    tables: Tables, kind: Kind, t: Times, output: Output, x: Images
) -> tuple[Images, Images]:
    """The mean's half of an output, and the log variance."""
    if kind.learned:
        value, spread = jnp.split(output, 2, -1)
        if kind.variance == "learned":
            return value, spread
        share = (spread + 1) / 2
        high, low = at(np.log(tables.beta), t), at(tables.log_variance, t)
        return value, share * high + (1 - share) * low
    if kind.variance == "fixed_large":
        large = np.log(np.append(tables.variance[1], tables.beta[1:]))
        return output, jnp.broadcast_to(at(large, t), x.shape)
    return output, jnp.broadcast_to(at(tables.log_variance, t), x.shape)


# ---- backwards ----


def ancestral(prediction: Prediction, t: Times, noise: Images) -> Images:
    """A draw of x_{t-1}; at t = 0 the mean."""
    moving = (t > 0)[:, None, None, None]
    std = jnp.exp(0.5 * prediction.log_variance)
    return prediction.mean + jnp.where(moving, std * noise, 0)


def ddim(
    tables: Tables, x: Images, t: Times, x0: Images, eta: float, noise: Images
) -> Images:
    """x_{t-1} by DDIM: eta 0 draws nothing, eta 1 as much as the ancestral step."""
    # In float32, as the original has it, which near t = 0 loses digits of 1 - abar.
    abar, before = (x.astype(np.float32) for x in (tables.abar, tables.abar_prev))
    std = eta * np.sqrt((1 - before) / (1 - abar)) * np.sqrt(1 - abar / before)
    rest = np.sqrt(np.maximum(1 - before - std**2, 0))
    epsilon = epsilon_from_x0(tables, x, t, x0)
    # At t = 0 abar_prev is 1 and the width 0.
    return at(np.sqrt(before), t) * x0 + at(rest, t) * epsilon + at(std, t) * noise


def ddim_reverse(tables: Tables, x: Images, t: Times, x0: Images) -> Images:
    """x_{t+1} from x_t by DDIM with eta 0: an image to the noise that makes it."""
    epsilon = epsilon_from_x0(tables, x, t, x0)
    after = tables.abar_next.astype(np.float32)  # as in `ddim`
    return at(np.sqrt(after), t) * x0 + at(np.sqrt(1 - after), t) * epsilon


# ---- classifier guidance (specification, section 2.5) ----


def guide_mean(prediction: Prediction, gradient: Images) -> Prediction:
    """The mean moved along the gradient of a log-likelihood at x_t."""
    moved = prediction.mean + jnp.exp(prediction.log_variance) * gradient
    return prediction._replace(mean=moved)


def guide_score(
    tables: Tables, x: Images, t: Times, prediction: Prediction, gradient: Images
) -> Prediction:
    """The noise moved against the gradient; x_0 and mean follow, not clipped again."""
    epsilon = epsilon_from_x0(tables, x, t, prediction.x0)
    epsilon = epsilon - at(np.sqrt(1 - tables.abar), t) * gradient
    x0 = x0_from_epsilon(tables, x, t, epsilon)
    return prediction._replace(x0=x0, mean=posterior_mean(tables, x0, x, t))
