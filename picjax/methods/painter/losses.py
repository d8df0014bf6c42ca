"""Losses of diffusion networks, one number an example, and which steps to train on.

`mse` compares what the network predicts; `vb` is a step's term of the variational bound
in bits a dimension. With a learned variance the hybrid loss is mse + vb, and the mean
learns nothing from vb (specification, section 2.6).
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int, PRNGKeyArray

from picjax.methods.painter import process as diffusion
from picjax.methods.painter.process import Images, Kind, Output, Tables, Times

LOSSES = ("mse", "rescaled_mse", "kl", "rescaled_kl")
SAMPLERS = ("uniform", "loss_second_moment")
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
    """The standard normal's cumulative distribution, as the original approximates it."""
    y = math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)
    # XLA's tanh may stop 2e-7 short of 1, of which the likelihood takes the logarithm.
    tanh = 1 - 2 / (jnp.exp(2 * jnp.clip(y, -15, 15)) + 1)
    return 0.5 * (1 + tanh)


def discretised_log_likelihood(
    x: Float[Array, "*n"], mean: Float[Array, "*n"], log_std: Float[Array, "*n"]
) -> Float[Array, "*n"]:
    """Log probability of each of the 256 values under a Gaussian, nats.

    Args:
      x: in [-1, 1], on the grid of 256 values; the ends take the tails.
      mean: of the Gaussian.
      log_std: of the Gaussian.
    """
    scaled = jnp.exp(-log_std)
    above = normal_cdf(scaled * (x - mean + 1 / 255))
    below = normal_cdf(scaled * (x - mean - 1 / 255))
    mass = jnp.where(x < -0.999, above, jnp.where(x > 0.999, 1 - below, above - below))
    return jnp.log(jnp.maximum(mass, 1e-12))


# ---- of a step ----


def bound_term(
    tables: Tables,
    kind: Kind,
    x0: Images,
    x: Images,
    t: Times,
    output: Output,
    clip: bool,
) -> tuple[Float[Array, " b"], Images]:
    """One step's term of the bound, bits a dimension, and the x_0 behind it.

    t > 0: KL from the posterior to the network's step; t = 0: the negative log
    probability of the image.
    """
    step = diffusion.predict(tables, kind, x, t, output, clip)
    kl = normal_kl(
        diffusion.posterior_mean(tables, x0, x, t),
        jnp.broadcast_to(diffusion.at(tables.log_variance, t), x.shape),
        step.mean,
        step.log_variance,
    )
    nll = -discretised_log_likelihood(x0, step.mean, 0.5 * step.log_variance)
    first = (t == 0)[:, None, None, None]
    return _mean(jnp.where(first, nll, kl)) / LOG_2, step.x0


def step_losses(
    tables: Tables,
    kind: Kind,
    loss: str,
    x0: Images,
    x: Images,
    t: Times,
    noise: Images,
    output: Output,
) -> dict[str, Float[Array, " b"]]:
    """What the network's output costs: `loss`, and `mse` and `vb` where they exist.

    Args:
      tables: of the chain that is trained.
      kind: what the output means.
      loss: one of LOSSES.
      x0: images in [-1, 1].
      x: `q_sample` of them.
      t: the steps.
      noise: that made x of x0.
      output: the network's, [b h w 3] or [b h w 6].
    """
    if loss in ("kl", "rescaled_kl"):
        vb, _ = bound_term(tables, kind, x0, x, t, output, False)
        scale = tables.steps if loss == "rescaled_kl" else 1
        return {"loss": vb * scale, "vb": vb}
    target = {
        "epsilon": noise,
        "start_x": x0,
        "previous_x": diffusion.posterior_mean(tables, x0, x, t),
    }[kind.mean]
    if not kind.learned:
        mse = _mean(jnp.square(target - output))
        return {"loss": mse, "mse": mse}
    value, spread = jnp.split(output, 2, -1)
    mse = _mean(jnp.square(target - value))
    frozen = jnp.concatenate([lax.stop_gradient(value), spread], -1)
    vb, _ = bound_term(tables, kind, x0, x, t, frozen, False)
    # Each vb is one of T terms; at T = 1000, as published, both losses are the same.
    vb = vb * tables.steps / 1000 if loss == "rescaled_mse" else vb
    return {"loss": mse + vb, "mse": mse, "vb": vb}


# ---- of the whole chain ----


def prior_bits(tables: Tables, x0: Images) -> Float[Array, " b"]:
    """KL from q(x_T | x_0) to N(0, 1), bits a dimension."""
    last = jnp.full(len(x0), tables.steps - 1)
    mean = diffusion.q_sample(tables, x0, last, jnp.zeros_like(x0))
    log_var = jnp.full_like(x0, math.log1p(-tables.abar[-1]))
    zero = jnp.zeros_like(x0)
    return _mean(normal_kl(mean, log_var, zero, zero)) / LOG_2


class Bound(NamedTuple):
    """The bound of each image, bits a dimension; terms run from T - 1 down to 0.

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


def bound(
    tables: Tables,
    kind: Kind,
    network: Callable[[Array, Array], Array],
    x0: Images,
    noise: Float[Array, "t b h w c"],
) -> Bound:
    """All T terms: T calls of the network.

    Args:
      tables: of the chain.
      kind: what the network's output means.
      network: (x, original steps) -> output.
      x0: images in [-1, 1].
      noise: for the steps from T - 1 down to 0.
    """

    def term(_: None, given: tuple[Array, Array]) -> tuple[None, tuple[Array, ...]]:
        step, eps = given
        t = jnp.full(len(x0), step)
        x = diffusion.q_sample(tables, x0, t, eps)
        output = network(x, jnp.asarray(tables.original, jnp.int32)[t])
        vb, found = bound_term(tables, kind, x0, x, t, output, True)
        guess = diffusion.epsilon_from_x0(tables, x, t, found)
        errors = jnp.square(found - x0), jnp.square(guess - eps)
        return None, (vb, *map(_mean, errors))

    steps = jnp.arange(tables.steps - 1, -1, -1)
    _, (vb, x0_mse, mse) = lax.scan(term, None, (steps, noise))
    prior = prior_bits(tables, x0)
    return Bound(vb.sum(0) + prior, prior, vb.T, x0_mse.T, mse.T)


def _mean(x: Images) -> Float[Array, " b"]:
    return x.mean((1, 2, 3))


# ---- which steps to train on ----


class History(NamedTuple):
    """The last losses of every step: what `loss_second_moment` knows.

    Attributes:
      losses: oldest first, 0 where there is none yet.
      seen: how many there are of each step.
    """

    losses: Float[Array, "t n"]
    seen: Int[Array, " t"]


def no_history(steps: int, length: int = 10) -> History:
    """Before the first step."""
    return History(jnp.zeros((steps, length)), jnp.zeros(steps, jnp.int32))


def probabilities(history: History, uniform: float = 1e-3) -> Float[Array, " t"]:
    """Of each step: by the root mean square of its losses, and a little for all.

    Uniform until every step has as many losses as are kept.
    """
    losses, seen = history
    size = jnp.sqrt(jnp.square(losses).mean(1))
    steps = len(seen)
    warm = (1 - uniform) * size / size.sum() + uniform / steps
    return jnp.where((seen == losses.shape[1]).all(), warm, 1 / steps)


def remember(history: History, t: Times, losses: Float[Array, " b"]) -> History:
    """The history with a batch's losses, one after another: steps may repeat."""

    def add(known: History, new: tuple[Array, Array]) -> tuple[History, None]:
        step, loss = new
        row, count = known.losses[step], known.seen[step]
        full = count == row.shape[0]
        row = jnp.where(full, jnp.roll(row, -1), row)
        row = row.at[jnp.where(full, -1, count)].set(loss)
        return History(
            known.losses.at[step].set(row),
            known.seen.at[step].set(jnp.minimum(count + 1, row.shape[0])),
        ), None

    return lax.scan(add, history, (t, losses))[0]


def draw_steps(
    key: PRNGKeyArray, chances: Float[Array, " t"], b: int
) -> tuple[Times, Float[Array, " b"]]:
    """b steps with these probabilities, and the weights that make up for them."""
    t = jax.random.categorical(key, jnp.log(chances), shape=(b,))
    return t, 1 / (len(chances) * chances[t])
