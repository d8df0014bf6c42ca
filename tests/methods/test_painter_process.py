"""Schedules, single steps, losses and the sampling of training steps."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from picjax.cli import UserError
from picjax.methods.painter import classifier, losses, process, timesteps
from picjax.methods.painter.process import Parameterization, Prediction

KEY = jax.random.key(0)
RELEASED = Parameterization("epsilon", "learned_range")


@pytest.mark.parametrize(
    ("name", "steps", "message"),
    [
        ("sigmoid", 10, "none of linear, cosine"),
        ("linear", 20, "beta of 1 or more"),
        ("cosine", 1, "use 2 or more"),
    ],
)
def test_impossible_schedules_are_rejected(name, steps, message):
    with pytest.raises(UserError, match=message):
        process.beta_schedule(name, steps)


def test_ddim_reverse_inverts_ddim():
    schedule = process.make_schedule("cosine", 100, "20")
    x0, noise = jax.random.normal(KEY, (2, 3, 4, 4, 3)) * 0.5
    t = jnp.array([3, 10, 18])
    x = process.q_sample(schedule, x0, t, noise)
    up = process.ddim_reverse_step(schedule, x, t, x0)
    np.testing.assert_allclose(
        up, process.q_sample(schedule, x0, t + 1, noise), atol=1e-5
    )
    down = process.ddim_step(schedule, up, t + 1, x0, noise, eta=0.0)
    np.testing.assert_allclose(down, x, atol=1e-5)


def test_ddim_with_eta_one_has_the_variance_of_the_posterior():
    schedule = process.make_schedule("linear", 1000, "50")
    t = jnp.array([1, 20, 49])
    x0, x = jax.random.normal(KEY, (2, 3, 2, 2, 3))
    zero = jnp.zeros_like(x)
    mean = process.ddim_step(schedule, x, t, x0, zero, eta=1.0)
    np.testing.assert_allclose(
        mean, process.posterior_mean(schedule, x0, x, t), atol=2e-3
    )
    std = process.ddim_step(schedule, x, t, x0, zero + 1, eta=1.0) - mean
    expected = np.sqrt(schedule.posterior_variance[np.asarray(t)])
    np.testing.assert_allclose(std[:, 0, 0, 0], expected, rtol=1e-3)


def test_the_last_step_adds_no_noise():
    x, log_variance, noise = jax.random.normal(KEY, (3, 2, 2, 2, 3))
    step = Prediction(x, log_variance, x)
    last = process.ancestral_step(step, jnp.array([0, 5]), noise)
    np.testing.assert_array_equal(last[0], x[0])
    assert (last[1] != x[1]).all()


def test_guidance_shifts_the_mean_by_the_variance():
    x, log_variance = jax.random.normal(KEY, (2, 2, 2, 2, 3))
    step = Prediction(x, log_variance, x)
    shift = classifier.condition_mean(step, jnp.ones_like(x)).mean - x
    np.testing.assert_allclose(shift, jnp.exp(log_variance), rtol=1e-4, atol=1e-6)


def test_the_probabilities_of_all_pixel_values_sum_to_one():
    grid = (2 * jnp.arange(256.0) - 255) / 255
    for mean, log_std in ((0.1, -1.0), (-1.2, -3.0), (0.995, -5.0)):
        log_p = losses.discretized_log_likelihood(
            grid, jnp.full(256, mean), jnp.full(256, log_std)
        )
        np.testing.assert_allclose(jnp.exp(log_p).sum(), 1, atol=1e-5)


def test_vb_trains_the_variance_alone_in_the_hybrid_loss():
    schedule = process.make_schedule("linear", 100)
    x0, noise = jax.random.normal(KEY, (2, 3, 2, 2, 3)) * 0.3
    noised = process.add_noise(schedule, x0, jnp.array([0, 5, 99]), noise)
    output = jnp.concatenate([noise, jnp.zeros_like(noise)], -1)

    def total(output, loss):
        values = losses.step_losses(schedule, RELEASED, loss, noised, output)
        return values["loss"].sum()

    gradient = jax.grad(total)(output, "mse")
    # With the right noise only the variance has a gradient.
    assert not gradient[..., :3].any() and gradient[..., 3:].any()
    np.testing.assert_allclose(
        total(output, "rescaled_kl"), 100 * total(output, "kl"), rtol=1e-5
    )


def test_steps_with_larger_losses_are_trained_more_often():
    history = timesteps.empty_history(4, 2)
    t = jnp.tile(jnp.arange(4), 2)
    half = timesteps.record_losses(history, t[:7], jnp.ones(7))
    np.testing.assert_allclose(timesteps.probabilities(half), 0.25)
    full = timesteps.record_losses(half, t[7:], jnp.array([3.0]))
    p = timesteps.probabilities(full, uniform=0.0)
    np.testing.assert_allclose(p[:3], p[0])
    np.testing.assert_allclose(p[3] / p[0], np.sqrt(5), rtol=1e-5)
    drawn, weights = timesteps.sample_timesteps(KEY, p, 4000)
    share = np.bincount(np.asarray(drawn), minlength=4) / 4000
    np.testing.assert_allclose(share, p, atol=0.03)
    np.testing.assert_allclose(weights.mean(), 1, atol=0.05)
