"""Learning rates: two time-scale updates (TTUR) and the schedule by epochs.

References:
  TTUR: Heusel et al., GANs Trained by a Two Time-Scale Update Rule Converge to a Local
    Nash Equilibrium, NeurIPS 2017, arXiv 1706.08500.
"""

from typing import Any

import jax.numpy as jnp
import optax


def ttur(lr: float, enabled: bool = True) -> tuple[float, float]:
    """Learning rates of generator and discriminator: lr/2 and 2 lr, or both lr."""
    return (lr / 2, 2 * lr) if enabled else (lr, lr)


def decay_factor(epoch: Any, constant: int, decay: int) -> Any:
    """What the learning rate is multiplied by during an epoch, counted from 1.

    1 for the first `constant` epochs; epoch constant + k has 1 - (k - 1) / decay, so
    that the last one still has 1 / decay. With `decay` 0 the rate never falls.
    """
    if not decay:
        return 1.0
    past = epoch - constant - 1
    return 1.0 - past * (past > 0) / decay


def epoch_schedule(
    lr: float, steps_per_epoch: int, constant: int, decay: int
) -> optax.Schedule:
    """`lr` times `decay_factor`, by the number of finished steps.

    The step decides, so a resumed run continues the schedule; the original restarts it.
    """

    def schedule(step):
        epoch = jnp.minimum(1 + step // steps_per_epoch, constant + decay + 1)
        return lr * decay_factor(epoch, constant, decay)

    return schedule
