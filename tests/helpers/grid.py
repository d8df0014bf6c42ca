"""A posterior known in closed form: eight numbers, of which one is known.

The prior has 25 components at (a, b, a, b, a, b, a, b), a and b each one of five
values; the first number is known, so that b remains. Components part only near the end
of the reverse process, where replacement no longer moves between them.
"""

import jax.numpy as jnp
import numpy as np

from helpers.mixture import Network, mixture_network
from picjax.methods.painter import process
from picjax.methods.painter.samplers.interface import Measurement, measure

VALUES = np.linspace(-0.8, 0.8, 5)
WIDTH = 0.06
PROBS = np.random.default_rng(3).dirichlet(np.full(25, 1.5)).reshape(5, 5)
TEMPLATES = np.tile(
    np.stack(np.meshgrid(VALUES, VALUES, indexing="ij"), -1), 4
)  # [a b 8]
SHAPE = (1, 8, 1)
ALPHAS_CUMPROD = process.make_schedule("linear", 1000).alphas_cumprod
INVALID_RMS = 0.2


def network() -> Network:
    """The exact network of the prior."""
    templates = TEMPLATES.reshape(25, *SHAPE)
    return mixture_network(templates, PROBS.ravel(), WIDTH, ALPHAS_CUMPROD)


def problems(num: int) -> Measurement:
    """The five values of the known number, `num` times each."""
    mask = np.zeros(SHAPE, np.float32)
    mask[0, 0] = 1
    images = np.repeat(TEMPLATES[:, 0].reshape(5, *SHAPE), num, 0)
    masks = np.broadcast_to(mask, images.shape)
    return measure(jnp.asarray(images, jnp.float32), jnp.asarray(masks))


def total_variation(samples: np.ndarray, weights: np.ndarray | None = None) -> float:
    """Mean distance from the posteriors, counting samples near no component.

    Args:
      samples: [5 n 1 8 1], of the five problems in order.
      weights: [5 n]; None: equal.
    """
    flat = np.asarray(samples).reshape(5, -1, 8)
    if weights is None:
        weights = np.full(flat.shape[:2], 1 / flat.shape[1])
    distance = np.sqrt(np.square(flat[:, :, None] - TEMPLATES[:, None]).mean(-1))
    shown = np.where(distance.min(-1) < INVALID_RMS, distance.argmin(-1), 5)
    true = np.append(PROBS / PROBS.sum(1, keepdims=True), np.zeros((5, 1)), 1)
    drawn = np.stack(
        [np.bincount(s, w, minlength=6) for s, w in zip(shown, weights, strict=True)]
    )
    return float(np.abs(drawn - true).sum(1).mean() / 2)
