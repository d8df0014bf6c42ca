"""GAN modes and the gradient penalty."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from picjax.losses.adversarial import (
    GAN,
    gradient_penalty,
    match_loss,
)

# Scores of 2 and -3 everywhere.
SCORE = jnp.broadcast_to(jnp.array([2.0, -3.0])[:, None, None, None], (2, 3, 3, 1))

EXPECTED = {
    "lsgan": ([1, 16], [4, 9], [1, 16]),
    "hinge": ([0, 4], [3, 0], [-2, 3]),
    "wgangp": ([-2, 3], [2, -3], [-2, 3]),
    "vanilla": (
        [np.log1p(np.exp(-2)), np.log1p(np.exp(3))],
        [np.log1p(np.exp(2)), np.log1p(np.exp(-3))],
        [np.log1p(np.exp(-2)), np.log1p(np.exp(3))],
    ),
}


@pytest.mark.parametrize("mode", EXPECTED)
def test_each_mode_by_hand_one_value_per_example(mode):
    for loss, expected in zip(GAN[mode][:3], EXPECTED[mode], strict=True):
        np.testing.assert_allclose(loss(SCORE), expected, rtol=1e-6)


def test_wgan_gp_has_two_spellings_and_alone_a_penalty():
    assert GAN["wgan-gp"] is GAN["wgangp"]
    assert {name for name, gan in GAN.items() if gan.penalty} == {"wgan-gp", "wgangp"}


def test_match_loss_is_zero_only_for_equal_maps():
    np.testing.assert_array_equal(match_loss(SCORE, SCORE), 0)
    np.testing.assert_allclose(match_loss(SCORE, SCORE + 2), 4)


@pytest.mark.parametrize("mode", EXPECTED)
def test_scores_in_bfloat16_are_averaged_in_float32(mode):
    for loss in GAN[mode][:3]:
        assert loss(SCORE.astype(jnp.bfloat16)).dtype == jnp.float32


def test_gradient_penalty_of_a_quadratic_score():
    """score = |x|^2 / 2 has gradient x, so the penalty is (|x| - 1)^2 at the mix."""
    real = jax.random.normal(jax.random.key(0), (3, 4, 4, 2))
    fake = jax.random.normal(jax.random.key(1), (3, 4, 4, 2))
    alpha = jnp.array([0.0, 0.25, 1.0])

    def score_of(x):
        return 0.5 * jnp.square(x).sum((1, 2, 3), keepdims=True)

    mix = jnp.stack([fake[0], 0.25 * real[1] + 0.75 * fake[1], real[2]])
    norm = jnp.sqrt(jnp.square(mix).sum((1, 2, 3)))
    value = gradient_penalty(score_of, real, fake, alpha)
    np.testing.assert_allclose(value, jnp.square(norm - 1), rtol=1e-5)


def test_gradient_penalty_differentiates_to_the_second_order():
    """score = w sum(x): penalty (|w| sqrt(n) - 1)^2, slope 2 (w sqrt(n) - 1) sqrt(n)."""
    x = jnp.ones((1, 2, 2, 1))

    def penalty(w, fake):
        scores = lambda x: w * x
        return gradient_penalty(scores, x, fake, jnp.array([0.5]))[0]

    slope, through_images = jax.grad(penalty, (0, 1))(3.0, x)
    assert slope == pytest.approx(2 * (3 * 2 - 1) * 2)
    np.testing.assert_array_equal(through_images, 0)


def test_gradient_penalty_has_a_finite_slope_where_the_score_is_flat():
    x = jnp.ones((1, 2, 2, 1))

    def penalty(w):
        return gradient_penalty(lambda x: w * x, x, x, jnp.array([0.5]))[0]

    assert jnp.isfinite(jax.grad(penalty)(0.0))
