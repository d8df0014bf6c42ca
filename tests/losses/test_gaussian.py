"""Divergences between diagonal Gaussians."""

import jax
import jax.numpy as jnp
import numpy as np

from picjax.losses import gaussian

B, D = 6, 5


def normal(seed: int, *shape: int) -> jax.Array:
    return jax.random.normal(jax.random.key(seed), shape)


def test_kl_is_the_mean_log_ratio():
    """Against 100,000 draws, to 1 %."""
    mu_p, log_std_p = normal(5, B, D), 0.3 * normal(6, B, D)
    mu_q, log_std_q = normal(7, B, D), 0.3 * normal(8, B, D)
    kl = gaussian.kl_divergence(mu_p, log_std_p, mu_q, log_std_q)
    assert (kl >= 0).all()
    z = mu_p[None] + jnp.exp(log_std_p)[None] * normal(9, 100_000, B, D)

    def log_density(mu, log_std):
        scaled = (z - mu[None]) * jnp.exp(-log_std)[None]
        return -(0.5 * scaled**2 + log_std[None]).sum(-1)

    ratio = log_density(mu_p, log_std_p) - log_density(mu_q, log_std_q)
    np.testing.assert_allclose(kl, ratio.mean(0), rtol=0.01)


def test_kl_to_the_standard_normal_is_the_general_one():
    mu, log_std, zeros = normal(3, B, D), 0.3 * normal(4, B, D) - 0.5, jnp.zeros((B, D))
    general = gaussian.kl_divergence(mu, log_std, zeros, zeros)
    actual = gaussian.kl_standard_normal(mu, log_std)
    np.testing.assert_allclose(actual, general, rtol=1e-5)


def test_kl_takes_a_difference_of_logs_before_it_takes_exp():
    """exp(2 x 60) overflows float32; the ratio of two such is 1."""
    wide, zeros = jnp.full((1, D), 60.0), jnp.zeros((1, D))
    value = gaussian.kl_divergence(zeros, wide, zeros, wide)
    np.testing.assert_array_equal(value, 0)


def test_divergences_keep_float64():
    with jax.enable_x64():
        ones, zeros = jnp.ones((2, 3)), jnp.zeros((2, 3))
        assert gaussian.kl_divergence(ones, zeros, ones, zeros).dtype == jnp.float64
