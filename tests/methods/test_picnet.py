"""PICNet's step and sampler: both paths, divergences and options."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers.configs import load_config, make_batch
from helpers.spectral import no_spectral_norm
from helpers.states import first_state
from helpers.trees import differs

from picjax.cli import UserError
from picjax.methods import make
from picjax.methods.picnet.divergence import divergences, mask_prior_std
from picjax.methods.picnet.system import PICNet
from picjax.system import composite, inference_variables


def tiny_config(**changes):
    config = load_config("picnet", "tiny")
    config.update_from_flattened_dict(changes)
    return config


@pytest.fixture(scope="module")
def tiny():
    """(system, state, batch) of the tiny config."""
    config = tiny_config()
    batch = make_batch(config.image_size)
    system = PICNet.from_config(config)
    return system, first_state(system, batch), batch


def encode(tiny):
    system, state, batch = tiny
    p, q, _, _ = system.encode(state.params, state.stats, batch)
    return p, q


def test_one_path_learns_nothing_from_the_complement(tiny):
    """The posterior stays unchanged; the reconstruction's discriminator still learns."""
    system, state, batch = tiny
    system = dataclasses.replace(system, two_paths=False)
    with no_spectral_norm():
        after, metrics = jax.jit(system.step)(state, batch, jax.random.key(1))
    before = state.params["encoder"]
    assert not differs(after.params["encoder"]["posterior"], before["posterior"])
    assert differs(after.params["encoder"]["prior"], before["prior"])
    assert differs(after.params["discriminator_rec"], state.params["discriminator_rec"])
    assert not {"app_rec", "ad_rec", "kl_rec"} & set(metrics)


def test_other_options_stay_finite(tiny):
    config = tiny_config(
        **{
            "loss.gan_mode": "wgangp",
            "loss.kl_rec": "posterior_to_prior",
            "model.discriminator": "patch",
            "model.upsample": "nearest",
            "model.generator_depth": 1,
            "model.remat": True,
        }
    )
    system = PICNet.from_config(config)
    before = first_state(system, tiny[2])
    with no_spectral_norm():
        after, metrics = jax.jit(system.step)(before, tiny[2], jax.random.key(1))
    for net in before.params:
        assert differs(after.params[net], before.params[net]), net
    assert all(jnp.isfinite(x).all() for x in jax.tree.leaves(after))
    assert set(metrics) == {
        *("app_rec", "app_g", "ad_rec", "ad_g", "kl_rec", "kl_g"),
        *("ad_d", "ad_d_rec"),
    }


def test_prior_narrows_as_more_is_known():
    share = np.array([1.0, 0.75, 0.5, 0.0], np.float32)
    mask = jnp.asarray(np.broadcast_to(share[:, None, None, None], (4, 4, 4, 1)))
    expected = [0.1680, 0.5987, 0.9168, 0.9983]
    np.testing.assert_allclose(mask_prior_std(mask), expected, atol=1e-4)


def test_the_papers_divergence_is_the_codes_with_its_sides_swapped(tiny):
    p, q = encode(tiny)
    mask = tiny[2]["mask"]
    paper, kl_g = divergences(p, q, mask, "posterior_to_prior", True)
    code, same = divergences(p, q, mask, "prior_to_posterior", True)
    s = mask_prior_std(mask)[:, None, None, None]
    expected = jnp.log(s / p.std) + (p.std**2 + p.mu**2) / (2 * s**2) - 0.5
    np.testing.assert_allclose(paper, expected.mean((1, 2, 3)), rtol=1e-4)
    assert differs(paper, code) and not differs(kl_g, same)


def test_the_posterior_gets_no_gradient_from_the_prior_that_learns_it(tiny):
    p, q = encode(tiny)

    def kl_g(p, q):
        mask = tiny[2]["mask"]
        return divergences(p, q, mask, "prior_to_posterior", True)[1].sum()

    of_p, of_q = jax.grad(kl_g, (0, 1))(p, q)
    assert all((x == 0).all() for x in of_p)
    assert all((x != 0).any() for x in of_q)


def test_the_floor_keeps_the_divergence_finite(tiny):
    system, state, batch = tiny
    encoder = jax.tree.map(jnp.copy, state.params["encoder"])
    for head in ("posterior", "prior"):  # softplus of -200 is 0 in float32
        encoder[head]["bypass"]["bias"] -= 200.0
    state = state.replace(params=state.params | {"encoder": encoder})
    for least, finite in ((1e-4, True), (0.0, False)):
        floored = dataclasses.replace(system, least_std=least)
        p, q = encode((floored, state, batch))
        kl = divergences(p, q, batch["mask"], "prior_to_posterior", True)
        assert all(bool(jnp.isfinite(x).all()) for x in kl) == finite


def test_a_draw_without_spread_is_the_mean(tiny):
    system, state, batch = tiny
    system = dataclasses.replace(system, least_std=0.0)
    variables = inference_variables(state)
    heads = state.params["encoder"]["prior"]
    bias = heads["bypass"]["bias"].at[system.encoder.z_nc :].add(-200.0)
    prior = heads | {"bypass": heads["bypass"] | {"bias": bias}}
    encoder = state.params["encoder"] | {"prior": prior}
    variables["params"] = variables["params"] | {"encoder": encoder}
    key = jax.random.key(0)

    @jax.jit
    def run(variables):
        columns = system.visualize(variables, batch, key)
        return columns["mean"], system.sample(variables, batch, key, 1)

    mean, samples = run(variables)
    draw = composite(batch, samples[:, 0])
    np.testing.assert_allclose(draw, mean, atol=1e-5)


def test_the_discriminator_scores_each_image(tiny):
    system, state, batch = tiny
    variables = inference_variables(state)
    scores = jax.jit(system.score)(variables, batch["image"])
    one = jax.jit(system.score)(variables, batch["image"][1:])
    assert scores.shape == (2,)
    np.testing.assert_allclose(one, scores[1:], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("model.discriminator", "pach"),
        ("model.upsample", "bilinear"),
        ("loss.paths", "three"),
        ("loss.kl_rec", "kl"),
        ("loss.gan_mode", "lsgn"),
    ],
)
def test_unknown_names_are_refused(key, value):
    with pytest.raises(UserError, match=f"config.{key} '{value}' is none of"):
        make(tiny_config(**{key: value}))


@pytest.mark.parametrize("system", ["picnet", "picmm"])
def test_widths_that_cannot_work_are_refused(system):
    config = load_config(system, "tiny")
    config.model.ndf = 16
    with pytest.raises(UserError, match="config.model.ndf 16 does not lie between"):
        make(config)
