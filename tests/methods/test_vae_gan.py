"""The discriminator's loss and the decoder's fill that PICMM and PICNet share."""

from functools import partial
from typing import Any, cast

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers.configs import load_config, make_batch
from helpers.states import first_state

from picjax import methods
from picjax.layers.fill import smooth_fill
from picjax.methods.vae_gan import Judged, VaeGan
from picjax.system import inference_variables


class FirstChannel(nn.Module):
    """Scores each pixel by its first channel."""

    @nn.compact
    def __call__(self, x: Any, power_iterations: int = 0) -> Any:
        scale = self.param("scale", nn.initializers.ones_init(), (1,))
        return x[..., :1] * scale.reshape(1, 1, 1, 1)


def loss(gan_mode: str) -> float:
    """Of two real images of value 2 and four generated ones of values 1, 1, 3 and 3."""
    fakes = [jnp.full((2, 2, 2, 3), value) for value in (1.0, 3.0)]
    judged = Judged(jnp.full((2, 2, 2, 3), 2.0), fakes, jnp.full((2, 2), 0.5))
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
        fill=False,
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


@pytest.mark.parametrize("name", ["picmm", "picnet"])
def test_with_fill_the_networks_start_from_it_and_change_the_hole_alone(name):
    """Known pixels are the input's before anything is composited."""
    config = load_config(name, "tiny")
    config.model.fill = True
    system = methods.make(config)
    batch = make_batch(config.image_size)
    state = first_state(system, batch)
    variables = inference_variables(state)
    sample = jax.jit(partial(system.sample, n=1))
    start = sample(variables, batch, jax.random.key(1))[:, 0]
    np.testing.assert_array_equal(start, smooth_fill(batch["image"], batch["mask"]))

    def train(path, x):
        return x + 0.1 if "'out" in jax.tree_util.keystr(path) else x

    trained = jax.tree_util.tree_map_with_path(train, variables)
    image = sample(trained, batch, jax.random.key(1))[:, 0]
    changed = (image != start).any(-1, keepdims=True)
    np.testing.assert_array_equal(changed, batch["mask"] == 0)
