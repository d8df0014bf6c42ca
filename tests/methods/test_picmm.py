"""PICMM's step and sampler: which gradients flow, and what the options change."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers.configs import load_config, make_batch
from helpers.trees import differs

from picjax.methods.picmm import mixture as mixtures
from picjax.methods.picmm.system import PICMM
from picjax.system import composite, inference_variables, split_keys


@pytest.fixture(scope="module")
def tiny():
    """(system, state, batch) of the tiny config."""
    config = load_config("picmm", "tiny")
    batch = make_batch(config.image_size, 4)
    system = PICMM.from_config(config)
    return system, jax.jit(system.init)(batch, jax.random.key(0)), batch


def run(tiny, preset, **fields):
    """The state after one step of a preset from the same state."""
    system = PICMM.from_config(load_config("picmm", f"tiny-{preset}"))
    system = dataclasses.replace(system, **fields)
    return jax.jit(system.step)(tiny[1], tiny[2], jax.random.key(1))[0]


@pytest.fixture(scope="module")
def after(tiny):
    presets = ("default", "official", "published")
    return {preset: run(tiny, preset) for preset in presets}


def test_official_preset_never_trains_the_mixture(tiny, after):
    before = tiny[1]
    for preset, state in after.items():
        moved = differs(state.params["mixture"], before.params["mixture"])
        assert moved == (preset != "official"), preset
    # Its running statistics move all the same, and are a blend of both latents.
    blended = after["official"].stats["mixture"]["mu"]
    assert differs(blended, after["default"].stats["mixture"]["mu"])


def test_mixture_loss_reaches_neither_encoder_nor_generator(tiny, after):
    default = after["default"].params
    other = run(tiny, "default", component_loss="component_to_posterior").params
    assert differs(default["mixture"], other["mixture"])
    for net in ("encoder", "generator", "discriminator"):
        assert not differs(default[net], other[net]), net


def test_prior_weight_lets_the_mixture_loss_reach_the_encoder_alone(tiny, after):
    default = after["default"].params
    bound = run(tiny, "default", prior_weight=0.1).params
    assert differs(default["encoder"], bound["encoder"])
    for net in ("generator", "mixture", "discriminator"):
        assert not differs(default[net], bound[net]), net


def test_only_the_assigned_components_rows_get_a_gradient(tiny):
    system, state, batch = tiny
    noise = system.draw_noise(state, batch, jax.random.key(2))
    latents, _, stats = system.encode(
        state.params, state.stats, batch, noise["encoder"]
    )
    j = jnp.ones(4, jnp.int32)

    def loss(params):
        mixture, _ = system.mix(state.params | {"mixture": params}, stats, latents)
        return system.mixture_loss(j, mixture, latents.q_c)[0]

    grads = jax.grad(loss)(state.params["mixture"])
    for head in ("mu", "log_std"):
        rows = grads[head]["linear2"]["bias"].reshape(2, -1)
        assert (rows[0] == 0).all() and (rows[1] != 0).any()
    assert (grads["alpha"]["linear2"]["bias"] != 0).all()


def test_one_image_is_its_row_of_a_batch(tiny):
    system, state, batch = tiny
    variables = inference_variables(state)
    z_c = jax.random.normal(jax.random.key(0), (4, 4))
    decode = jax.jit(system.decode)
    # The draw of z_m depends on the batch's shape, so compare from one latent on.
    visible = jax.jit(system.encode_visible)(variables, batch, jax.random.key(5))
    row = jax.tree.map(lambda x: x[1:2], visible)
    whole, single = decode(variables, visible, z_c), decode(variables, row, z_c[1:2])
    np.testing.assert_allclose(whole[1:2], single, atol=1e-5)


@pytest.mark.parametrize("mode", ["hinge", "wgangp"])
def test_other_gan_modes_stay_finite(tiny, mode):
    state = run(tiny, "default", gan_mode=mode, kl_weight=0.01)
    assert all(jnp.isfinite(x).all() for x in jax.tree.leaves(state))


def test_accumulated_gradients_move_parameters_every_second_step(tiny):
    _, state, batch = tiny
    config = load_config("picmm", "tiny")
    config.opt.accumulate = 2
    system = PICMM.from_config(config)
    # Only the states of the optimisers differ from the usual config's.
    fresh = jax.eval_shape(system.init, batch, jax.random.key(0)).opt
    zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), fresh)
    state = state.replace(opt=zeros)
    step = jax.jit(system.step)
    once, _ = step(state, batch, jax.random.key(1))
    twice, _ = step(once, batch, jax.random.key(2))
    for net in state.params:
        assert not differs(once.params[net], state.params[net]), net
        assert differs(twice.params[net], once.params[net]), net


def test_completions_follow_the_mixtures_weights(tiny):
    """With all the weight on one component, every completion comes from it."""
    system, state, batch = tiny
    system = dataclasses.replace(system, condition="sample")
    weights = state.params["mixture"] | {
        "alpha": jax.tree.map(jnp.zeros_like, state.params["mixture"]["alpha"])
    }
    weights["alpha"]["linear2"]["bias"] = jnp.array([-1e9, 0.0])
    # Components without spread decode to their means.
    zeros = jax.tree.map(jnp.zeros_like, weights["log_std"])
    zeros["linear2"]["bias"] = jnp.full_like(zeros["linear2"]["bias"], -50.0)
    variables = inference_variables(state)
    variables["params"]["mixture"] = weights | {"log_std": zeros}
    key = jax.random.key(0)
    images = system.sample(variables, batch, key, 2)
    visible_key = split_keys(key, "visible")["visible"]
    columns = system.visualize(variables, batch, visible_key)
    for i in range(2):
        image = composite(batch, images[:, i])
        np.testing.assert_allclose(image, columns["component 1"], atol=1e-5)


def test_presets_name_losses_that_exist():
    for preset in ("default", "paper", "elbo", "official", "published"):
        mixture = load_config("picmm", f"tiny-{preset}").model.mixture
        assert mixture.select in mixtures.ASSIGNMENTS
        assert mixture.loss in mixtures.COMPONENT_LOSSES
        assert mixture.gate in mixtures.WEIGHT_LOSSES
