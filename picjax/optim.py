"""Optimisers and learning-rate schedules that several methods share."""

import optax

from picjax.system import Config


def adam(config: Config) -> optax.GradientTransformation:
    """Adam as `config.opt` states: rate, decay, moments, accumulation of gradients."""
    opt = config.opt
    lr = linear_decay(opt.lr, config.steps // opt.accumulate, opt.decay)
    return accumulate(optax.adam(lr, b1=opt.b1, b2=opt.b2), opt.accumulate)


def accumulate(
    tx: optax.GradientTransformation, steps: int
) -> optax.GradientTransformation:
    """One update per `steps` steps, with the mean of their gradients."""
    if steps == 1:
        return tx
    return optax.MultiSteps(tx, steps).gradient_transformation()


def linear_decay(lr: float, updates: int, decay: float) -> optax.Schedule:
    """Constant, then falling linearly to 0 over the last share `decay` of the updates."""
    if not decay:  # a program that does not depend on the number of updates
        return optax.schedules.constant_schedule(lr)
    last = max(1, round(updates * decay))
    return optax.schedules.linear_schedule(lr, 0.0, last, updates - last)
