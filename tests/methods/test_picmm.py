"""What holds of PICMM's step whatever the numbers (specification, section 5d)."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers.configs import load_config, make_batch
from helpers.trees import differs

from picjax.legacy import keep_known
from picjax.losses import gaussian
from picjax.methods import make
from picjax.methods.picmm import system as picmm
from picjax.system import inference_variables


@pytest.fixture(scope="module")
def tiny():
    """(config, nets, state, batch) of the tiny config."""
    config = load_config("picmm", "tiny")
    batch = make_batch(config.image_size, 4)
    state = jax.jit(make(config).init)(batch, jax.random.key(0))
    size = (config.image_size, config.image_size)
    return config, picmm.networks(config.model, size), state, batch


def run(tiny, preset, loss=None, mixture=None):
    """One step of a preset from the same state: the state after it."""
    config = load_config("picmm", f"tiny-{preset}")
    config.loss.update(loss or {})
    config.model.mixture.update(mixture or {})
    return jax.jit(make(config).step)(tiny[2], tiny[3], jax.random.key(1))[0]


@pytest.fixture(scope="module")
def after(tiny):
    presets = ("default", "official", "published")
    return {preset: run(tiny, preset) for preset in presets}


def test_official_code_never_trains_the_mixture(tiny, after):
    before = tiny[2]
    for preset, state in after.items():
        moved = differs(state.params["mixture"], before.params["mixture"])
        assert moved == (preset != "official"), preset
    # Its running statistics move all the same, and are a blend of both latents.
    blended = after["official"].stats["mixture"]["mu"]
    assert differs(blended, after["default"].stats["mixture"]["mu"])


def test_mixture_loss_reaches_neither_encoder_nor_generator(tiny, after):
    """Unless `loss.prior` lets it: an evidence bound's KL in the encoder's loss."""
    default = after["default"].params
    other = run(tiny, "default", mixture={"loss": "component_to_posterior"}).params
    assert differs(default["mixture"], other["mixture"])
    for net in ("encoder", "generator", "discriminator"):
        assert not differs(default[net], other[net]), net
    bound = run(tiny, "default", loss={"prior": 0.1}).params
    assert differs(default["encoder"], bound["encoder"])
    assert not differs(default["generator"], bound["generator"])


def test_only_the_chosen_components_rows_get_a_gradient(tiny):
    _, nets, state, batch = tiny
    noise = picmm.draw_noise(nets, state, jax.random.key(2), batch)
    hyper = picmm.Hyper()
    encoded, _ = picmm.encode(
        nets, state.params["encoder"], state.stats, batch, noise["encoder"]
    )
    j = jnp.ones(4, jnp.int32)

    def loss(params):
        mixture, _ = picmm.mix(nets, hyper, params, state.stats, encoded)
        return picmm.mixture_loss(hyper, j, mixture, encoded.q_c)[0]

    grads = jax.grad(loss)(state.params["mixture"])
    for head in ("mu", "log_std"):
        rows = grads[head]["linear2"]["bias"].reshape(2, -1)
        assert (rows[0] == 0).all() and (rows[1] != 0).any()
    assert (grads["alpha"]["linear2"]["bias"] != 0).all()


def test_batch_of_one_gives_its_row_of_a_batch(tiny):
    _, nets, state, batch = tiny
    variables = inference_variables(state)
    draw = jax.random.normal(jax.random.key(0), (4, 4))
    decode = jax.jit(partial(picmm.decode, nets, variables))
    # The draw of z_m follows the batch's shape, so compare from a given latent on.
    see = jax.jit(partial(picmm.see, nets, "sample"))
    seen = see(variables, batch, jax.random.key(5))
    row = jax.tree.map(lambda x: x[1:2], seen)
    whole, single = decode(seen, draw), decode(row, draw[1:2])
    np.testing.assert_allclose(whole[1:2], single, atol=1e-5)


@pytest.mark.parametrize("mode", ["hinge", "wgangp"])
def test_other_gan_modes_stay_finite(tiny, mode):
    state = run(tiny, "default", loss={"gan_mode": mode, "kl": 0.01})
    assert all(jnp.isfinite(x).all() for x in jax.tree.leaves(state))


def test_accumulated_gradients_move_parameters_every_second_step(tiny):
    config, _, started, batch = tiny
    config = config.copy_and_resolve_references()
    config.opt.accumulate = 2
    system = make(config)
    # The optimisers' states differ from those of the usual config, nothing else does.
    fresh = jax.eval_shape(system.init, batch, jax.random.key(0)).opt
    zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), fresh)
    state = started.replace(opt=zeros)
    step = jax.jit(system.step)
    once, _ = step(state, batch, jax.random.key(1))
    twice, _ = step(once, batch, jax.random.key(2))
    for net in state.params:
        assert not differs(once.params[net], state.params[net]), net
        assert differs(twice.params[net], once.params[net]), net


def test_completions_follow_the_mixtures_weights(tiny):
    """With all the weight on one component, every completion comes from it."""
    _, nets, state, batch = tiny
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
    images = picmm.sample(nets, "sample", variables, batch, key, 2)
    shown = picmm.show_components(
        nets, "sample", variables, batch, picmm.split_keys(key, "visible")["visible"]
    )
    for i in range(2):
        image = keep_known(batch, images[:, i])
        np.testing.assert_allclose(image, shown["component 1"], atol=1e-5)


def test_names_of_presets_are_names_of_losses():
    for preset in ("default", "paper", "elbo", "official", "published"):
        mixture = load_config("picmm", f"tiny-{preset}").model.mixture
        assert mixture.select in gaussian.SELECTION
        assert mixture.loss in gaussian.BM and mixture.gate in gaussian.GATE
