"""Schedules that cannot be, steps that undo each other, bounds that add up."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from picjax.cli import UserError
from picjax.methods.painter import losses
from picjax.methods.painter import process as diffusion
from picjax.methods.painter.process import Kind, Prediction

KEY = jax.random.key(0)


@pytest.mark.parametrize(
    ("steps", "chosen", "said"),
    [
        (1000, "ddim300", "is no whole stride"),
        (1000, "ddimx", "is no number"),
        (1000, "25.5", "is no number"),
        (1000, "1001", "asks for 1001 steps of a section of 1000"),
        (100, "40,40,30", "asks for 40 steps of a section of 34"),
        (1000, "1", "keeps 1 step"),
        (1000, "0,0", "keeps 0 step"),
    ],
)
def test_spacings_that_cannot_be_had_are_refused(steps, chosen, said):
    with pytest.raises(UserError, match=said):
        diffusion.spacing(steps, chosen)


def test_spacings():
    assert diffusion.spacing(1000, "ddim25") == list(range(0, 1000, 40))
    even = diffusion.spacing(1000, "250")
    assert even == [round(i * 999 / 249) for i in range(250)]
    assert diffusion.spacing(7, "") == list(range(7))
    sections = diffusion.spacing(30, "2,3,10")
    assert sections == [0, 9, 10, 14, 19, *range(20, 30)]


@pytest.mark.parametrize(
    ("name", "steps", "said"),
    [
        ("sigmoid", 10, "none of linear, cosine"),
        ("linear", 20, "beta of 1 or more"),
        ("cosine", 1, "2 or more"),
    ],
)
def test_schedules_that_cannot_be_are_refused(name, steps, said):
    with pytest.raises(UserError, match=said):
        diffusion.betas(name, steps)


def test_ddim_forwards_and_back():
    tables = diffusion.tables("cosine", 100, "20")
    x0, noise = jax.random.normal(KEY, (2, 3, 4, 4, 3)) * 0.5
    t = jnp.array([3, 10, 18])
    x = diffusion.q_sample(tables, x0, t, noise)
    up = diffusion.ddim_reverse(tables, x, t, x0)
    np.testing.assert_allclose(
        up, diffusion.q_sample(tables, x0, t + 1, noise), atol=1e-5
    )
    down = diffusion.ddim(tables, up, t + 1, x0, 0.0, noise)
    np.testing.assert_allclose(down, x, atol=1e-5)


def test_ddim_with_eta_one_is_as_wide_as_the_posterior():
    tables = diffusion.tables("linear", 1000, "50")
    t = jnp.array([1, 20, 49])
    x0, x = jax.random.normal(KEY, (2, 3, 2, 2, 3))
    zero = jnp.zeros_like(x)
    mean = diffusion.ddim(tables, x, t, x0, 1.0, zero)
    np.testing.assert_allclose(
        mean, diffusion.posterior_mean(tables, x0, x, t), atol=2e-3
    )
    std = diffusion.ddim(tables, x, t, x0, 1.0, zero + 1) - mean
    wanted = np.sqrt(tables.variance[np.asarray(t)])
    np.testing.assert_allclose(std[:, 0, 0, 0], wanted, rtol=1e-3)


def test_the_last_step_draws_nothing_and_guidance_moves_by_the_variance():
    x, log_variance, noise = jax.random.normal(KEY, (3, 2, 2, 2, 3))
    step = Prediction(x, log_variance, x)
    last = diffusion.ancestral(step, jnp.array([0, 5]), noise)
    np.testing.assert_array_equal(last[0], x[0])
    assert (last[1] != x[1]).all()
    moved = diffusion.guide_mean(step, jnp.ones_like(x)).mean - x
    np.testing.assert_allclose(moved, jnp.exp(log_variance), rtol=1e-4, atol=1e-6)


def test_the_probabilities_of_all_values_sum_to_one():
    grid = (2 * jnp.arange(256.0) - 255) / 255
    for mean, log_std in ((0.1, -1.0), (-1.2, -3.0), (0.995, -5.0)):
        each = losses.discretised_log_likelihood(
            grid, jnp.full(256, mean), jnp.full(256, log_std)
        )
        np.testing.assert_allclose(jnp.exp(each).sum(), 1, atol=1e-5)


def test_vb_teaches_the_variance_alone_in_the_hybrid():
    tables = diffusion.tables("linear", 100)
    x0, noise = jax.random.normal(KEY, (2, 3, 2, 2, 3)) * 0.3
    t = jnp.array([0, 5, 99])
    x = diffusion.q_sample(tables, x0, t, noise)
    output = jnp.concatenate([noise, jnp.zeros_like(noise)], -1)

    def total(output, loss):
        made = losses.step_losses(tables, Kind(), loss, x0, x, t, noise, output)
        return made["loss"].sum()

    hybrid = jax.grad(total)(output, "mse")
    # With the right noise only the variance has something to learn.
    assert not hybrid[..., :3].any() and hybrid[..., 3:].any()
    np.testing.assert_allclose(
        total(output, "rescaled_kl"), 100 * total(output, "kl"), rtol=1e-5
    )


def test_steps_that_lose_more_are_trained_more():
    history = losses.no_history(4, 2)
    t = jnp.tile(jnp.arange(4), 2)
    half = losses.remember(history, t[:7], jnp.ones(7))
    np.testing.assert_allclose(losses.probabilities(half), 0.25)
    full = losses.remember(half, t[7:], jnp.array([3.0]))
    chances = losses.probabilities(full, uniform=0.0)
    np.testing.assert_allclose(chances[:3], chances[0])
    np.testing.assert_allclose(chances[3] / chances[0], np.sqrt(5), rtol=1e-5)
    drawn, weights = losses.draw_steps(KEY, chances, 4000)
    share = np.bincount(np.asarray(drawn), minlength=4) / 4000
    np.testing.assert_allclose(share, chances, atol=0.03)
    np.testing.assert_allclose(weights.mean(), 1, atol=0.05)
