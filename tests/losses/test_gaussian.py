"""What the mixture's losses promise (PICMM specification, section 5d)."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from picjax.losses import gaussian
from picjax.losses.gaussian import BM, GATE, SELECTION, Gaussian, Mixture

B, K, D = 6, 3, 5


def normal(seed: int, *shape: int) -> jax.Array:
    return jax.random.normal(jax.random.key(seed), shape)


def make_mixture() -> Mixture:
    log_alpha = jax.nn.log_softmax(normal(0, B, K))
    return Mixture(log_alpha, normal(1, B, K, D), 0.3 * normal(2, B, K, D))


def make_posterior() -> Gaussian:
    return Gaussian(normal(3, B, D), 0.3 * normal(4, B, D) - 0.5)


@pytest.mark.parametrize("name", ["posterior_to_component", "component_to_posterior"])
def test_bm_and_its_gradient_vanish_at_equality(name):
    posterior = make_posterior()
    value, pullback = jax.vjp(lambda c: BM[name](c, posterior), posterior)
    (gradient,) = pullback(jnp.ones(B))
    np.testing.assert_allclose(value, 0, atol=1e-6)
    np.testing.assert_allclose(gradient.mu, 0, atol=1e-6)
    np.testing.assert_allclose(gradient.log_std, 0, atol=1e-6)


def test_published_bm_is_half_the_dimension_at_equality_and_unbounded_below():
    posterior = make_posterior()
    np.testing.assert_allclose(BM["published"](posterior, posterior), D / 2, rtol=1e-6)
    far = posterior._replace(mu=posterior.mu + 1e3)
    assert (BM["published"](far, posterior) < -1e5).all()


def test_kl_is_the_mean_log_ratio():
    """Against 100,000 draws, to 1 %."""
    p = Gaussian(normal(5, B, D), 0.3 * normal(6, B, D))
    q = Gaussian(normal(7, B, D), 0.3 * normal(8, B, D))
    kl = gaussian.kl_divergence(*p, *q)
    assert (kl >= 0).all()
    eps = normal(9, 100_000, B, D)
    z = p.mu[None] + jnp.exp(p.log_std)[None] * eps

    def log_density(g):
        scaled = (z - g.mu[None]) * jnp.exp(-g.log_std)[None]
        return -(0.5 * scaled**2 + g.log_std[None]).sum(-1)

    estimate = (log_density(p) - log_density(q)).mean(0)
    np.testing.assert_allclose(kl, estimate, rtol=0.01)


def test_kl_to_the_standard_normal_is_the_general_one():
    p = make_posterior()
    zeros = jnp.zeros((B, D))
    general = gaussian.kl_divergence(*p, zeros, zeros)
    np.testing.assert_allclose(gaussian.kl_standard_normal(*p), general, rtol=1e-5)


def test_kl_takes_a_difference_of_logs_before_it_takes_exp():
    """exp(2 x 60) overflows float32; the ratio of two such is 1."""
    wide, zeros = jnp.full((1, D), 60.0), jnp.zeros((1, D))
    value = gaussian.kl_divergence(zeros, wide, zeros, wide)
    np.testing.assert_array_equal(value, 0)


def test_clamp_bounds_log_std_and_leaves_mu():
    wild = Gaussian(normal(0, B, D) * 100, normal(1, B, D) * 100)
    tame = gaussian.clamp(wild)
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
    density = jnp.exp(gaussian.log_prob(tiled, grid[:, None]))
    assert density.sum() * (grid[1] - grid[0]) == pytest.approx(1, abs=1e-4)


def test_each_rule_chooses_by_its_own_formula():
    """Four components; each of four rules has one of its own to prefer."""
    mu = jnp.array([[[0.1], [0.4], [1.0], [9.0]]])
    std = jnp.array([[[5.0], [0.5], [2.0], [0.1]]])
    mixture = Mixture(jnp.log(jnp.full((1, 4), 0.25)), mu, jnp.log(std))
    z_c, z_hat = jnp.zeros((1, 1)), jnp.array([[[3.0], [4.0], [0.2], [9.0]]])
    posterior = Gaussian(jnp.full((1, 1), 9.0), jnp.log(jnp.full((1, 1), 0.1)))
    chosen = {
        name: int(rule(mixture, posterior, z_c, z_hat)[0])
        for name, rule in SELECTION.items()
    }
    expected = {"sampled": 2, "mean": 0, "responsibility": 1, "elbo": 3, "official": 3}
    assert chosen == expected


def test_elbo_is_its_three_named_parts_and_bounds_the_mixture():
    mixture, posterior = make_mixture(), make_posterior()
    loss = gaussian.elbo_loss(mixture, posterior)
    j = SELECTION["elbo"](mixture, posterior, posterior.mu, mixture.mu)
    parts = BM["posterior_to_component"](gaussian.component(mixture, j), posterior)
    parts += GATE["cross_entropy"](mixture.log_alpha, j)
    np.testing.assert_allclose(loss, parts, rtol=1e-6)
    # KL(posterior || mixture), from draws, never exceeds it.
    eps = normal(11, 2_000, B, D)
    z = posterior.mu[None] + jnp.exp(posterior.log_std)[None] * eps
    single = Mixture(jnp.zeros((B, 1)), *jax.tree.map(lambda x: x[:, None], posterior))
    ratio = jax.vmap(
        lambda z: gaussian.log_prob(single, z) - gaussian.log_prob(mixture, z)
    )
    assert (ratio(z).mean(0) < loss).all()


@pytest.mark.parametrize("bm", BM)
def test_gradient_reaches_the_chosen_component_alone(bm):
    mixture, posterior = make_mixture(), make_posterior()
    j = jnp.arange(B, dtype=jnp.int32) % K

    def loss(mixture):
        return BM[bm](gaussian.component(mixture, j), posterior).sum()

    gradient = jax.grad(loss)(mixture)
    np.testing.assert_array_equal(gradient.log_alpha, 0)
    chosen = np.asarray(jax.nn.one_hot(j, K)) > 0
    for g in (np.asarray(gradient.mu), np.asarray(gradient.log_std)):
        assert (g[chosen] != 0).all() and (g[~chosen] == 0).all()


@pytest.mark.parametrize("gate", GATE)
def test_weights_tend_to_the_frequencies(gate):
    """The mean loss over wins of 0.7 and 0.3 is least at these weights."""
    j = jnp.array([0] * 7 + [1] * 3, jnp.int32)
    share = jnp.linspace(0.01, 0.99, 99)
    log_alpha = jnp.log(jnp.stack([share, 1 - share], axis=1))
    tiled = jnp.repeat(log_alpha[:, None], len(j), axis=1)
    mean = jax.vmap(lambda a: GATE[gate](a, j).mean())(tiled)
    assert share[mean.argmin()] == pytest.approx(0.7, abs=0.006)


def test_losses_keep_float64():
    with jax.enable_x64():
        posterior = Gaussian(jnp.ones((2, 3)), jnp.zeros((2, 3)))
        assert BM["posterior_to_component"](posterior, posterior).dtype == jnp.float64


def test_prior_narrows_as_more_is_known():
    share = np.array([1.0, 0.75, 0.5, 0.0], np.float32)
    mask = jnp.asarray(np.broadcast_to(share[:, None, None, None], (4, 4, 4, 1)))
    expected = [0.1680, 0.5987, 0.9168, 0.9983]
    np.testing.assert_allclose(gaussian.mask_prior_std(mask), expected, atol=1e-4)
