"""PICMM's step and sampler: which gradients flow, and what the options change."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers.configs import load_config, make_batch
from helpers.spectral import no_spectral_norm
from helpers.states import first_state
from helpers.trees import differs

from picjax.methods.picmm import mixture as mixtures
from picjax.methods.picmm.system import PICMM
from picjax.system import (
    composite,
    inference_variables,
    init_opt,
    split_keys,
    update,
)


@pytest.fixture(scope="module")
def tiny():
    """(system, state, batch) of the tiny config."""
    config = load_config("picmm", "tiny")
    batch = make_batch(config.image_size, 4)
    system = PICMM.from_config(config)
    return system, first_state(system, batch), batch


def preset(name, **fields):
    """The tiny system of a preset, with other fields."""
    system = PICMM.from_config(load_config("picmm", f"tiny-{name}"))
    return dataclasses.replace(system, **fields)


@pytest.mark.parametrize(
    "name, fields",
    [
        ("official", {}),
        ("published", {"gan_mode": "wgangp", "kl_weight": 0.01}),
        ("default", {"gan_mode": "hinge", "kl_weight": 0.01}),
    ],
)
def test_a_step_trains_all_networks_but_the_official_mixture(tiny, name, fields):
    _, state, batch = tiny
    with no_spectral_norm():
        step = jax.jit(preset(name, **fields).step)
        after, metrics = step(state, batch, jax.random.key(1))
    for net in state.params:
        trained = differs(after.params[net], state.params[net])
        assert trained == ((name, net) != ("official", "mixture")), net
    assert all(jnp.isfinite(x).all() for x in jax.tree.leaves((after, metrics)))


def test_the_official_statistics_are_a_blend_of_both_latents(tiny):
    _, state, batch = tiny

    @jax.jit
    def mixed(batch):
        stats = {}
        for name in ("default", "official"):
            system = preset(name)
            noise = system.draw_noise(state, batch, jax.random.key(2))["encoder"]
            latents, _, _ = system.encode(state.params, state.stats, batch, noise)
            after = system.mix(state.params, state.stats, latents)[1]
            stats[name] = after["mixture"]["mu"]
        return stats

    stats = mixed(batch)
    assert differs(stats["official"], stats["default"])


@pytest.mark.parametrize(
    "fields, reached",
    [({}, {"mixture"}), ({"prior_weight": 0.1}, {"mixture", "encoder"})],
)
def test_the_mixtures_loss_reaches_the_encoder_by_its_weight_alone(
    tiny, fields, reached
):
    _, state, batch = tiny
    system = preset("default", **fields)
    noise = system.draw_noise(state, batch, jax.random.key(2))

    def loss(params):
        out, (j, _) = system.forward(state.params | params, state.stats, batch, noise)
        return system.mixture_loss(j, out.mixture, out.posterior)[0]

    owned = {net: state.params[net] for net in ("encoder", "generator", "mixture")}
    for net, grads in jax.jit(jax.grad(loss))(owned).items():
        moved = any((x != 0).any() for x in jax.tree.leaves(grads))
        assert moved == (net in reached), net


def test_only_the_assigned_components_rows_get_a_gradient(tiny):
    system, state, batch = tiny
    j = jnp.ones(4, jnp.int32)

    def loss(params):
        params = state.params | {"mixture": params}
        noise = system.draw_noise(state, batch, jax.random.key(2))
        latents, _, stats = system.encode(params, state.stats, batch, noise["encoder"])
        mixture, _ = system.mix(params, stats, latents)
        return system.mixture_loss(j, mixture, latents.q_c)[0]

    grads = jax.jit(jax.grad(loss))(state.params["mixture"])
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


def test_accumulated_gradients_move_parameters_every_second_step(tiny):
    """By every optimiser; test_pix2pix.py does so in whole steps, which compile faster."""
    state = tiny[1]
    config = load_config("picmm", "tiny")
    config.opt.accumulate = 2
    opts = PICMM.from_config(config).opts
    state = state.replace(opt=init_opt(opts, state.params))

    @jax.jit
    def step(state):
        for name, opt in opts.items():
            grads = jax.tree.map(jnp.ones_like, {n: state.params[n] for n in opt.nets})
            state = update(opts, name, state, grads)
        return state

    once = step(state)
    twice = step(once)
    for net in state.params:
        assert not differs(once.params[net], state.params[net]), net
        assert differs(twice.params[net], once.params[net]), net


def test_completions_follow_the_mixtures_weights(tiny):
    """With all the weight on one component, every completion comes from it.

    At temperature 0 that is the component's mean.
    """
    system, state, batch = tiny
    system = dataclasses.replace(system, condition="sample", temperature=0.0)
    weights = state.params["mixture"] | {
        "alpha": jax.tree.map(jnp.zeros_like, state.params["mixture"]["alpha"])
    }
    weights["alpha"]["linear2"]["bias"] = jnp.array([-1e9, 0.0])
    variables = inference_variables(state)
    variables["params"]["mixture"] = weights
    key = jax.random.key(0)
    visible_key = split_keys(key, "visible")["visible"]

    @jax.jit
    def draw(variables):
        columns = system.visualize(variables, batch, visible_key)
        return system.sample(variables, batch, key, 2), columns

    images, columns = draw(variables)
    for i in range(2):
        image = composite(batch, images[:, i])
        np.testing.assert_allclose(image, columns["component 1"], atol=1e-5)


def test_presets_name_losses_that_exist():
    for preset in ("default", "paper", "elbo", "official", "published"):
        mixture = load_config("picmm", f"tiny-{preset}").model.mixture
        assert mixture.select in mixtures.ASSIGNMENTS
        assert mixture.loss in mixtures.COMPONENT_LOSSES
        assert mixture.gate in mixtures.WEIGHT_LOSSES
