"""The losses of PICMM's mixture: optima, gradients, assignments."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from picjax.methods.picmm import mixture as mixtures
from picjax.methods.picmm.mixture import (
    ASSIGNMENTS,
    COMPONENT_LOSSES,
    WEIGHT_LOSSES,
    Gaussian,
    Mixture,
)

B, K, D = 6, 3, 5


def normal(seed: int, *shape: int) -> jax.Array:
    return jax.random.normal(jax.random.key(seed), shape)


def make_mixture() -> Mixture:
    log_alpha = jax.nn.log_softmax(normal(0, B, K))
    return Mixture(log_alpha, normal(1, B, K, D), 0.3 * normal(2, B, K, D))


def make_posterior() -> Gaussian:
    return Gaussian(normal(3, B, D), 0.3 * normal(4, B, D) - 0.5)


@pytest.mark.parametrize("name", ["posterior_to_component", "component_to_posterior"])
def test_component_loss_and_its_gradient_vanish_at_equality(name):
    posterior = make_posterior()
    value, pullback = jax.vjp(lambda c: COMPONENT_LOSSES[name](c, posterior), posterior)
    (gradient,) = pullback(jnp.ones(B))
    np.testing.assert_allclose(value, 0, atol=1e-6)
    np.testing.assert_allclose(gradient.mu, 0, atol=1e-6)
    np.testing.assert_allclose(gradient.log_std, 0, atol=1e-6)


def test_published_loss_is_half_the_dimension_at_equality_and_unbounded_below():
    posterior = make_posterior()
    np.testing.assert_allclose(
        COMPONENT_LOSSES["published"](posterior, posterior), D / 2, rtol=1e-6
    )
    far = posterior._replace(mu=posterior.mu + 1e3)
    assert (COMPONENT_LOSSES["published"](far, posterior) < -1e5).all()


def test_clamp_bounds_log_std_and_leaves_mu():
    wild = Gaussian(normal(0, B, D) * 100, normal(1, B, D) * 100)
    tame = mixtures.clamp(wild, -5.0, 2.0)
    assert tame.log_std.min() == -5 and tame.log_std.max() == 2
    np.testing.assert_array_equal(tame.mu, wild.mu)


def test_log_prob_integrates_to_one():
    mixture = Mixture(
        jnp.log(jnp.array([[0.2, 0.8]])),
        jnp.array([[[-1.0], [2.0]]]),
        jnp.array([[[0.3], [-0.7]]]),
    )
    grid = jnp.linspace(-12, 12, 4001)
    tiled = jax.tree.map(lambda x: jnp.repeat(x, len(grid), axis=0), mixture)
    density = jnp.exp(mixtures.log_prob(tiled, grid[:, None]))
    assert density.sum() * (grid[1] - grid[0]) == pytest.approx(1, abs=1e-4)


def test_each_rule_chooses_by_its_own_formula():
    """Four components; sampled, mean, responsibility and elbo each prefer another."""
    mu = jnp.array([[[0.1], [0.4], [1.0], [9.0]]])
    std = jnp.array([[[5.0], [0.5], [2.0], [0.1]]])
    mixture = Mixture(jnp.log(jnp.full((1, 4), 0.25)), mu, jnp.log(std))
    z_c, z_hat = jnp.zeros((1, 1)), jnp.array([[[3.0], [4.0], [0.2], [9.0]]])
    posterior = Gaussian(jnp.full((1, 1), 9.0), jnp.log(jnp.full((1, 1), 0.1)))
    chosen = {
        name: int(rule(mixture, posterior, z_c, z_hat)[0])
        for name, rule in ASSIGNMENTS.items()
    }
    expected = {"sampled": 2, "mean": 0, "responsibility": 1, "elbo": 3, "official": 3}
    assert chosen == expected


def test_elbo_is_its_three_named_parts_and_bounds_the_mixture():
    mixture, posterior = make_mixture(), make_posterior()
    loss = mixtures.elbo_loss(mixture, posterior)
    j = ASSIGNMENTS["elbo"](mixture, posterior, posterior.mu, mixture.mu)
    parts = COMPONENT_LOSSES["posterior_to_component"](
        mixtures.component(mixture, j), posterior
    )
    parts += WEIGHT_LOSSES["cross_entropy"](mixture.log_alpha, j)
    np.testing.assert_allclose(loss, parts, rtol=1e-6)
    # KL(posterior || mixture), from draws, never exceeds it.
    eps = normal(11, 2_000, B, D)
    z = posterior.mu[None] + jnp.exp(posterior.log_std)[None] * eps
    single = Mixture(jnp.zeros((B, 1)), *jax.tree.map(lambda x: x[:, None], posterior))
    ratio = jax.vmap(
        lambda z: mixtures.log_prob(single, z) - mixtures.log_prob(mixture, z)
    )
    assert (ratio(z).mean(0) < loss).all()


@pytest.mark.parametrize("name", COMPONENT_LOSSES)
def test_gradient_reaches_the_assigned_component_alone(name):
    mixture, posterior = make_mixture(), make_posterior()
    j = jnp.arange(B, dtype=jnp.int32) % K

    def loss(mixture):
        return COMPONENT_LOSSES[name](mixtures.component(mixture, j), posterior).sum()

    gradient = jax.grad(loss)(mixture)
    np.testing.assert_array_equal(gradient.log_alpha, 0)
    chosen = np.asarray(jax.nn.one_hot(j, K)) > 0
    for g in (np.asarray(gradient.mu), np.asarray(gradient.log_std)):
        assert (g[chosen] != 0).all() and (g[~chosen] == 0).all()


@pytest.mark.parametrize("name", WEIGHT_LOSSES)
def test_weights_tend_to_the_frequencies(name):
    """The mean loss over wins of 0.7 and 0.3 is least at these weights."""
    j = jnp.array([0] * 7 + [1] * 3, jnp.int32)
    share = jnp.linspace(0.01, 0.99, 99)
    log_alpha = jnp.log(jnp.stack([share, 1 - share], axis=1))
    tiled = jnp.repeat(log_alpha[:, None], len(j), axis=1)
    mean = jax.vmap(lambda a: WEIGHT_LOSSES[name](a, j).mean())(tiled)
    assert share[mean.argmin()] == pytest.approx(0.7, abs=0.006)


@pytest.mark.parametrize(
    "least, kept", [(0.0, [1, 1, 1]), (0.05, [1, 1, 0]), (1.0, [1, 0, 0])]
)
def test_light_components_are_left_out_but_never_the_heaviest(least, kept):
    log_alpha = jnp.log(jnp.array([[0.5, 0.46, 0.04]]))
    left = mixtures.without_light(log_alpha, least)
    np.testing.assert_array_equal(jnp.isfinite(left), [kept])
    np.testing.assert_array_equal(left[0, :1], log_alpha[0, :1])
