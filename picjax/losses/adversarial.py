"""Losses of a discriminator and a generator in four modes, one value per example.

`GAN[mode]` holds the three losses of a mode. Scores are maps [b h w 1] without a final
sigmoid.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

Loss = Callable[[Array], Array]


class Gan(NamedTuple):
    """The losses of one mode, each score map [b h w 1] -> [b].

    Attributes:
      real: the discriminator's loss, from scores of real images.
      fake: the discriminator's loss, from scores of generated images.
      generator: the generator's loss, from scores of its images.
      penalty: weight of `gradient_penalty` in the discriminator's loss.
    """

    real: Loss
    fake: Loss
    generator: Loss
    penalty: float = 0.0


def mean(score: Float[Array, "b h w c"]) -> Float[Array, " b"]:
    """Mean over the score map, in float32 or better."""
    return score.astype(jnp.promote_types(score.dtype, jnp.float32)).mean((1, 2, 3))


WGAN = Gan(
    real=lambda score: -mean(score),
    fake=mean,
    generator=lambda score: -mean(score),
    penalty=10.0,
)

GAN = {
    "lsgan": Gan(
        real=lambda score: mean(jnp.square(score - 1)),
        fake=lambda score: mean(jnp.square(score)),
        generator=lambda score: mean(jnp.square(score - 1)),
    ),
    "hinge": Gan(
        real=lambda score: mean(jax.nn.relu(1 - score)),
        fake=lambda score: mean(jax.nn.relu(1 + score)),
        generator=lambda score: -mean(score),
    ),
    "vanilla": Gan(
        real=lambda score: mean(jax.nn.softplus(-score)),
        fake=lambda score: mean(jax.nn.softplus(score)),
        generator=lambda score: mean(jax.nn.softplus(-score)),
    ),
    # Both spellings: the original's option accepts one and its loss class the other.
    "wgangp": WGAN,
    "wgan-gp": WGAN,
}


def match_loss(
    score: Float[Array, "b h w 1"], target: Float[Array, "b h w 1"]
) -> Float[Array, " b"]:
    """Mean squared difference of two score maps.

    In every mode, PICNet's and PICMM's adversarial loss of an image that has a truth to
    match.
    """
    return mean(jnp.square(score - target))


def gradient_penalty(
    score_of: Callable[[Array], Array],
    real: Float[Array, "b h w c"],
    fake: Float[Array, "b h w c"],
    alpha: Float[Array, " b"],
) -> Float[Array, " b"]:
    """(|d sum(score) / dx| - 1)^2 at x = alpha real + (1 - alpha) fake.

    Gradients reach the discriminator's parameters only. Weighted by 10 and added after
    the factor one half in wgan-gp (Gulrajani et al., 2017).

    Args:
      score_of: images -> score maps, without batch statistics.
      real, fake: images in [-1, 1].
      alpha: uniform in [0, 1), one value per example.
    """
    alpha = alpha[:, None, None, None]
    x = jax.lax.stop_gradient(alpha * real + (1 - alpha) * fake)
    gradient = jax.grad(lambda x: score_of(x).sum())(x)
    # The shift keeps the norm differentiable where the gradient vanishes.
    norm = jnp.sqrt(jnp.square(gradient + 1e-16).sum((1, 2, 3)))
    return jnp.square(norm - 1)
