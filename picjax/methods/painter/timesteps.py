"""Which steps of the process each batch is trained on.

Uniform, or in proportion to the root mean square of each step's recent losses (Nichol
and Dhariwal, arXiv 2102.09672, section 3.3), with weights that keep the loss unbiased.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int, PRNGKeyArray

from picjax.methods.painter.process import Times

TIMESTEP_SAMPLERS = ("uniform", "loss_second_moment")


class LossHistory(NamedTuple):
    """The most recent losses of every step.

    Attributes:
      losses: oldest first; 0 where there is none yet.
      seen: number of stored losses of each step.
    """

    losses: Float[Array, "t n"]
    seen: Int[Array, " t"]


def empty_history(steps: int, length: int = 10) -> LossHistory:
    """A history without losses, for `length` losses of each step."""
    return LossHistory(jnp.zeros((steps, length)), jnp.zeros(steps, jnp.int32))


def probabilities(history: LossHistory, uniform: float = 1e-3) -> Float[Array, " t"]:
    """Probability of each step; uniform until the history of every step is full.

    Args:
      history: of losses.
      uniform: share of the uniform distribution in the mixture.
    """
    losses, seen = history
    size = jnp.sqrt(jnp.square(losses).mean(1))
    steps = len(seen)
    by_loss = (1 - uniform) * size / size.sum() + uniform / steps
    return jnp.where((seen == losses.shape[1]).all(), by_loss, 1 / steps)


def record_losses(
    history: LossHistory, t: Times, losses: Float[Array, " b"]
) -> LossHistory:
    """The history with a batch's losses, added one by one since steps may repeat."""

    def add(
        history: LossHistory, entry: tuple[Array, Array]
    ) -> tuple[LossHistory, None]:
        step, loss = entry
        row, count = history.losses[step], history.seen[step]
        is_full = count == row.shape[0]
        row = jnp.where(is_full, jnp.roll(row, -1), row)
        row = row.at[jnp.where(is_full, -1, count)].set(loss)
        return LossHistory(
            history.losses.at[step].set(row),
            history.seen.at[step].set(jnp.minimum(count + 1, row.shape[0])),
        ), None

    return lax.scan(add, history, (t, losses))[0]


def sample_timesteps(
    key: PRNGKeyArray, p: Float[Array, " t"], b: int
) -> tuple[Times, Float[Array, " b"]]:
    """b steps drawn with probabilities p, and their importance weights 1 / (T p)."""
    t = jax.random.categorical(key, jnp.log(p), shape=(b,))
    return t, 1 / (len(p) * p[t])
