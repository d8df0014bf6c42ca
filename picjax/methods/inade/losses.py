"""The losses of SPADE and INADE, one value per example unless a docstring differs."""

from collections.abc import Sequence

import jax.numpy as jnp
from jax.lax import stop_gradient
from jaxtyping import Array, Float

from picjax.losses import adversarial
from picjax.losses.reconstruction import l1
from picjax.methods.inade.discriminator import Features

# The original's `gan_mode` -> the losses of one score map.
GAN = {
    "hinge": adversarial.GAN["hinge"],
    "ls": adversarial.GAN["lsgan"],
    "original": adversarial.GAN["vanilla"],
    "w": adversarial.WGAN._replace(penalty=0.0),
}
# Weights of relu1_1 .. relu5_1 in the perceptual loss.
VGG_WEIGHTS = {
    "inade": (0.0, 0.0, 0.0, 1 / 4, 1.0),
    "spade": (1 / 32, 1 / 16, 1 / 8, 1 / 4, 1.0),
}


def over_scales(
    loss: adversarial.Loss, outputs: Sequence[Features]
) -> Float[Array, " b"]:
    """A loss of logits, averaged over the discriminator's scales."""
    each = [loss(features[-1]) for features in outputs]
    return jnp.stack(each).mean(0)


def feature_matching(
    fake: Sequence[Features], real: Sequence[Features], first: int
) -> Float[Array, " b"]:
    """L1 between the discriminator's features of fake and real, averaged over scales.

    Args:
      fake, real: the layers' outputs of every scale; none reaches `real` as a gradient.
      first: index of the first layer that counts. The original counts from layer 3 in
        INADE (its last before the logits, as it has 4) and from 0 in SPADE; the logits
        never count. The loss is 0 if no layer is left.
    """
    total = jnp.zeros(fake[0][0].shape[0])
    for of_fake, of_real in zip(fake, real, strict=True):
        for a, b in zip(of_fake[first:-1], of_real[first:-1], strict=True):
            total += l1(a, stop_gradient(b))
    return total / len(fake)


def perceptual(
    fake: Features, real: Features, weights: Sequence[float]
) -> Float[Array, " b"]:
    """Weighted L1 between the VGG features of fake and real images."""
    total = jnp.zeros(fake[0].shape[0])
    for a, b, weight in zip(fake, real, weights, strict=True):
        if weight:
            total += weight * l1(a, stop_gradient(b))
    return total


def kl_standard_normal(
    mu: Float[Array, "b *i z"], log_var: Float[Array, "b *i z"]
) -> Float[Array, " b"]:
    """KL(N(mu, exp(log_var)) || N(0, 1)), summed over all axes but the first, in nats.

    An instance without pixels, whose statistics are 0, adds exactly 0.
    """
    axes = tuple(range(1, mu.ndim))
    return -0.5 * (1 + log_var - jnp.square(mu) - jnp.exp(log_var)).sum(axes)
