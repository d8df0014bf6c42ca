"""PixelCNN++'s network and optimiser as a config describes them."""

from typing import Any

import jax.numpy as jnp
import numpy as np
import optax

from picjax.methods.pixelcnn.net import PixelCNN
from picjax.optim import accumulate, linear_decay
from picjax.system import Config


def network(model: Config) -> PixelCNN:
    """The network of a config's `model`."""
    return PixelCNN(
        name="net",
        features=model.features,
        blocks=model.blocks,
        mixtures=model.mixtures,
        channels=model.channels,
        nonlinearity=model.nonlinearity,
        dropout=model.dropout,
        dtype=jnp.dtype(model.dtype),
        remat=model.remat,
    )


def networks(model: Config, image_size: tuple[int, int]) -> dict[str, PixelCNN]:
    """The one network, by name; it fits any image size."""
    del image_size
    return {"net": network(model)}


def adam(config: Config) -> optax.GradientTransformation:
    """Adam with eps inside the square root, and a rate that falls with every step.

    Update t, from 1, has rate lr fall^t; in addition, the last share `decay` of the run
    brings it to 0.
    """
    opt = config.opt
    decay = linear_decay(opt.lr, config.steps // opt.accumulate, opt.decay)
    slope = float(np.log(opt.fall))  # fall ** t itself is 3 % off in float32

    def rate(count: Any) -> Any:
        return decay(count) * jnp.exp(slope * (count + 1))

    tx = optax.chain(
        optax.scale_by_adam(b1=opt.b1, b2=opt.b2, eps=0.0, eps_root=1e-8),
        optax.scale_by_learning_rate(rate),
    )
    return accumulate(tx, opt.accumulate)
