"""What holds of PICNet's step whatever the numbers (specification, section 4)."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers.configs import load_config, make_batch
from helpers.trees import differs

from picjax.cli import UserError
from picjax.legacy import keep_known
from picjax.losses import gaussian
from picjax.methods import make
from picjax.methods.picnet import system as picnet
from picjax.system import inference_variables


def tiny_config(**changes):
    config = load_config("picnet", "tiny")
    config.update_from_flattened_dict(changes)
    return config


@pytest.fixture(scope="module")
def tiny():
    """(nets, state, batch) of the tiny config."""
    config = tiny_config()
    batch = make_batch(config.image_size)
    state = jax.jit(make(config).init)(batch, jax.random.key(0))
    size = (config.image_size, config.image_size)
    return picnet.networks(config.model, size), state, batch


def run(config, batch, state=None):
    system = make(config)
    if state is None:
        state = jax.jit(system.init)(batch, jax.random.key(0))
    return (state, *jax.jit(system.step)(state, batch, jax.random.key(1)))


def test_one_path_learns_nothing_from_the_hole_content(tiny):
    """The posterior stays as it is; the reconstruction's judge still learns."""
    _, state, batch = tiny
    _, after, metrics = run(tiny_config(**{"loss.paths": "one"}), batch, state)
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
    before, after, metrics = run(config, tiny[2])
    for net in before.params:
        assert differs(after.params[net], before.params[net]), net
    assert all(jnp.isfinite(x).all() for x in jax.tree.leaves(after))
    assert set(metrics) == {
        *("app_rec", "app_g", "ad_rec", "ad_g", "kl_rec", "kl_g"),
        *("ad_d", "ad_d_rec"),
    }


def test_the_papers_divergence_is_the_codes_with_its_sides_swapped(tiny):
    nets, state, batch = tiny
    encoded, _ = picnet.encode(nets, 1e-4, state.params["encoder"], state.stats, batch)
    hyper = picnet.Hyper(kl_rec="posterior_to_prior")
    paper, kl_g = picnet.divergences(hyper, batch["mask"], encoded)
    code, same = picnet.divergences(picnet.Hyper(), batch["mask"], encoded)
    s = gaussian.mask_prior_std(batch["mask"])[:, None, None, None]
    mu, std = encoded.p
    expected = jnp.log(s / std) + (std**2 + mu**2) / (2 * s**2) - 0.5
    np.testing.assert_allclose(paper, expected.mean((1, 2, 3)), rtol=1e-4)
    assert differs(paper, code) and not differs(kl_g, same)


def test_posterior_is_not_pulled_to_the_prior_that_follows_it(tiny):
    """kl_g teaches q alone: no gradient reaches p."""
    nets, state, batch = tiny
    encoded, _ = picnet.encode(nets, 1e-4, state.params["encoder"], state.stats, batch)
    grads = jax.grad(
        lambda e: picnet.divergences(picnet.Hyper(), batch["mask"], e)[1].sum()
    )(encoded)
    assert all((x == 0).all() for x in grads.p)
    assert all((x != 0).any() for x in grads.q)


def test_the_floor_keeps_the_divergence_finite(tiny):
    nets, state, batch = tiny
    encoder = jax.tree.map(jnp.copy, state.params["encoder"])
    for head in ("posterior", "prior"):  # softplus of -200 is 0 in float32
        encoder[head]["bypass"]["bias"] -= 200.0
    for least, finite in ((1e-4, True), (0.0, False)):
        encoded, _ = picnet.encode(nets, least, encoder, state.stats, batch)
        kl = picnet.divergences(picnet.Hyper(), batch["mask"], encoded)
        assert all(bool(jnp.isfinite(x).all()) for x in kl) == finite


def test_no_spread_decodes_to_the_mean(tiny):
    nets, state, batch = tiny
    variables = inference_variables(state)
    seen = picnet.see(nets, 0.0, variables, batch)
    mean = picnet.show_mean(nets, 0.0, variables, batch, jax.random.key(0))["mean"]
    drawn = picnet.decode(nets, variables, seen, seen.q.mu)
    np.testing.assert_array_equal(mean, keep_known(batch, drawn))
    score = jax.jit(partial(picnet.score, nets))(variables, mean)
    assert score.shape == (2,) and bool(jnp.isfinite(score).all())


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
