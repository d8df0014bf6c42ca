"""The discretized mixture of logistics: a distribution, and the one that is drawn."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from picjax.methods.pixelcnn import logistic

GRID = (jnp.arange(256.0) * 2 - 255) / 255


def make_logits(key, *shape, k=3, channels=3, scale=-2.0):
    raw = jax.random.normal(key, (*shape, logistic.logit_count(k, channels)))
    mixture = raw[..., k:].reshape(*shape, channels, -1)
    mixture = mixture.at[..., k : 2 * k].add(scale)
    return jnp.concatenate([raw[..., :k], mixture.reshape(*shape, -1)], -1)


@pytest.mark.parametrize(("form", "error"), [("stable", 2e-5), ("official", 5e-3)])
@pytest.mark.parametrize("scale", [-6.5, -4.0, 0.0, 4.0])
def test_probabilities_of_the_256_values_sum_to_one(form, error, scale):
    logits = make_logits(jax.random.key(0), 20, scale=scale)
    mixture = logistic.unpack(logits, 3)
    values = jnp.broadcast_to(GRID[:, None, None], (256, 20, 1))
    # Red varies for each red, green given red, blue given both.
    given = jax.random.choice(jax.random.key(1), GRID, (1, 20, 3))
    for channel in range(3):
        x = jnp.broadcast_to(given, (256, 20, 3)).at[..., channel].set(values[..., 0])
        each = jax.vmap(lambda x: logistic.component_log_prob(x, mixture, form))(x)
        total = jnp.exp(each[..., channel, :]).sum(0)
        np.testing.assert_allclose(total, 1.0, atol=error)


def test_stable_form_is_right_where_the_official_one_is_not():
    """Against float64, from the clamped scale up; the published form jumps."""
    log_scale = np.linspace(-7, 2, 91)
    x, mean = np.float64(GRID[130]), np.float64(GRID[100:160])

    def reference(x, mean, log_scale):
        # 1 - exp(-w), times both sigmoids, in logs.
        inverse = np.exp(-log_scale)
        upper, lower = inverse * (x - mean + 1 / 255), inverse * (x - mean - 1 / 255)
        wide = np.log(-np.expm1(lower - upper))
        return wide - np.logaddexp(0, -upper) - np.logaddexp(0, lower)

    grid = np.broadcast_arrays(x, *np.meshgrid(mean, log_scale))
    expected = reference(*grid)
    given = [jnp.asarray(a, jnp.float32)[..., None] for a in grid]
    stable = logistic.LOG_BIN["stable"](*given)[..., 0]
    official = logistic.LOG_BIN["official"](*given)[..., 0]
    # The mean is rounded to float32: that alone is 1e-7 times the slope exp(7).
    np.testing.assert_allclose(stable, expected, rtol=2e-5, atol=5e-4)
    assert np.abs(official - expected).max() > 1


def test_stable_gradients_are_finite_and_right():
    with jax.enable_x64():
        logits = make_logits(jax.random.key(2), 1, 2, 2).astype(jnp.float64)
        logits = logits.at[..., 6:9].set(jnp.array([-30.0, 60.0, 100.0]))
        x = jax.random.choice(jax.random.key(3), GRID, (1, 2, 2, 3))
        x = x.at[0, 0, 0].set(-1.0).at[0, 0, 1].set(1.0).astype(jnp.float64)

        def total(logits):
            return logistic.nll(x, logits).sum()

        grad = jax.grad(total)(logits)
        assert jnp.isfinite(grad).all() and jnp.isfinite(total(logits))
        step = 1e-6 * jax.random.normal(jax.random.key(4), logits.shape)
        slope = total(logits + step) - total(logits - step)
        np.testing.assert_allclose(slope, 2 * (grad * step).sum(), rtol=1e-4)


def test_no_channel_looks_at_those_after_it():
    logits = make_logits(jax.random.key(0), 1)
    mixture = logistic.unpack(logits, 3)
    x = jnp.array([[0.1, -0.3, 0.4]])
    jacobian = jax.jacobian(
        lambda x: logistic.component_log_prob(x, mixture)[0].sum(-1)
    )
    sees = np.asarray(jacobian(x)[:, 0] != 0)
    np.testing.assert_array_equal(sees, np.tril(np.ones((3, 3), bool)))


@pytest.mark.parametrize("channels", [1, 3])
def test_draws_follow_the_likelihood(channels):
    """Rounded draws of a pixel: the frequency of each value is its probability."""
    n = 40_000
    logits = make_logits(jax.random.key(5), channels=channels, k=2)
    keys = jax.random.split(jax.random.key(6))
    u = jax.random.uniform(keys[0], (n, 2)), jax.random.uniform(keys[1], (n, channels))
    many = jnp.broadcast_to(logits, (n, len(logits)))
    drawn = np.asarray(logistic.draw(many, *u, rounded=True))
    assert np.isin(drawn, np.asarray(GRID)).all()
    # The mean of -log P over draws is the entropy, which a sum over red alone gives.
    mixture = logistic.unpack(logits, channels)
    red = jnp.broadcast_to(GRID[:, None], (256, channels))
    each = jax.vmap(lambda x: logistic.component_log_prob(x, mixture))(red)[:, 0]
    weights = jax.nn.softmax(mixture.logits)[None]
    p = np.asarray((jnp.exp(each) * weights).sum(-1))
    counts = np.bincount(np.round((drawn[:, 0] + 1) * 127.5).astype(int), minlength=256)
    chance = np.sqrt(p * (1 - p) / n)
    assert np.all(np.abs(counts / n - p) < 5 * chance + 1e-4)
    if channels == 3:
        # Green given the red that was drawn: its rank is uniform if both agree.
        likely = logistic.log_likelihood(jnp.asarray(drawn), many)
        other = jnp.asarray(drawn).at[:, 1].set(jnp.roll(jnp.asarray(drawn[:, 1]), 1))
        assert float(likely.mean()) > float(logistic.log_likelihood(other, many).mean())


def test_uniform_noise_costs_eight_bits_under_a_wide_mixture():
    logits = jnp.zeros((1, 8, 8, 30)).at[..., 6:9].set(-0.5)
    x = jax.random.choice(jax.random.key(0), GRID, (1, 8, 8, 3))
    bits = logistic.bits(logistic.nll(x, logits)) / x.size
    assert 7 < float(bits[0]) < 9.5
