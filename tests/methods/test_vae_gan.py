"""The discriminator's loss that PICMM and PICNet share."""

from typing import Any, cast

import flax.linen as nn
import jax.numpy as jnp
import pytest

from picjax.methods.vae_gan import Judged, VaeGan


class FirstChannel(nn.Module):
    """Scores each pixel by its first channel."""

    @nn.compact
    def __call__(self, x: Any, power_iterations: int = 0) -> Any:
        scale = self.param("scale", nn.initializers.ones_init(), (1,))
        return x[..., :1] * scale.reshape(1, 1, 1, 1)


def loss(gan_mode: str) -> float:
    """Of two real images of value 2 and four generated ones of values 1, 1, 3 and 3."""
    values = jnp.array([1.0, 1.0, 3.0, 3.0]).reshape(4, 1, 1, 1)
    judged = Judged(
        jnp.full((2, 2, 2, 3), 2.0),
        jnp.broadcast_to(values, (4, 2, 2, 3)),
        jnp.full(4, 0.5),
    )
    net = FirstChannel(name="discriminator")
    system = cast(Any, VaeGan)(
        encoder=None,
        generator=None,
        discriminator=net,
        opts={},
        gan_mode=gan_mode,
        rec_weight=1.0,
        adversarial_weight=1.0,
        kl_weight=0.0,
    )
    params = {"discriminator": {"scale": jnp.ones(1)}}
    value, stats = system.discriminator_loss(net, params, {}, judged, 1)
    assert stats == {"discriminator": {}}
    return float(value)


def test_discriminator_averages_real_and_generated_images():
    assert loss("lsgan") == pytest.approx(0.5 * (1 + 5))


def test_penalty_is_added_after_the_half():
    """The gradient is 1 at each of 4 pixels: norm 2, penalty 10 (2 - 1)^2."""
    assert loss("wgangp") == pytest.approx(0.5 * (-2 + 2) + 10)
