"""What the mixture learns under each preset of configs/picmm.py, against a known truth.

z_m is one of two conditions in 16 dimensions; z_c lies around one of two centres of that
condition with weights 0.7 and 0.3 and standard deviation 0.5, and its posterior adds
0.3. The density to learn has two modes per condition, of standard deviation
sqrt(0.5^2 + 0.3^2) = 0.583.
"""

import dataclasses
import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from helpers.configs import load_config

from picjax.methods.picmm import mixture as mixtures
from picjax.methods.picmm.mixture import Gaussian, Mixture
from picjax.methods.picmm.net import DynamicGMM
from picjax.methods.picmm.system import PICMM

D, STEPS, BATCH = 16, 1500, 256
WEIGHTS = jnp.array([0.7, 0.3])
SPREAD, POSTERIOR = 0.5, 0.3
TRUE_STD = (SPREAD**2 + POSTERIOR**2) ** 0.5
CONDITIONS = jax.random.normal(jax.random.key(100), (2, D))
CENTRES = jax.random.normal(jax.random.key(101), (2, 2, D))


def systems() -> dict[str, PICMM]:
    """The presets of the config that train the mixture, and the official rule.

    The official assignment is taken with its gradient attached and the sign of its loss
    corrected: as published, the loss is unbounded below.
    """
    presets = ("default", "paper", "elbo")
    found = {
        name: PICMM.from_config(load_config("picmm", f"tiny-{name}"))
        for name in presets
    }
    found["official rule"] = dataclasses.replace(found["paper"], assignment="official")
    return found


PRESETS = systems()


class Learned(NamedTuple):
    """The mixture of both conditions and its held-out log-density per dimension."""

    alpha: np.ndarray
    mu: np.ndarray
    std: np.ndarray
    log_density: float


def draw(key, n):
    """Condition index, posterior of z_c and z_c of n examples."""
    keys = jax.random.split(key, 4)
    condition = jax.random.randint(keys[0], (n,), 0, 2)
    mode = jax.random.categorical(keys[1], jnp.log(WEIGHTS), shape=(n,))
    mu = CENTRES[condition, mode] + SPREAD * jax.random.normal(keys[2], (n, D))
    posterior = Gaussian(mu, jnp.full((n, D), jnp.log(POSTERIOR)))
    return condition, posterior, mu + POSTERIOR * jax.random.normal(keys[3], (n, D))


def as_mixture(logits, mu, log_std):
    return Mixture(jax.nn.log_softmax(logits), mu, log_std)


def total_loss(preset, mixture, posterior, z_c, z_hat):
    """The mixture's loss as the method computes it."""
    system = PRESETS[preset]
    j = mixtures.ASSIGNMENTS[system.assignment](mixture, posterior, z_c, z_hat)
    return system.mixture_loss(j, mixture, posterior)[0]


@functools.partial(jax.jit, static_argnums=1)
def fit(preset, k, key):
    """The mixture of both conditions after training with preset number `preset`.

    The preset is traced, so that all presets share one compilation.
    """
    net, adam = DynamicGMM(k=k), optax.adam(1e-3, b1=0.0)
    losses = [functools.partial(total_loss, name) for name in PRESETS]
    variables = net.init(jax.random.fold_in(key, 0), CONDITIONS)

    def step(carry, key):
        params, stats, opt = carry
        data_key, eps_key = jax.random.split(key)
        condition, posterior, z_c = draw(data_key, BATCH)
        eps = jax.random.normal(eps_key, (BATCH, k, D))

        def loss(params):
            out, updated = net.apply(
                {"params": params, "stats": stats},
                CONDITIONS[condition],
                True,
                mutable=["stats"],
            )
            mixture = as_mixture(*out)
            z_hat = mixtures.sample(mixture, eps)
            total = jax.lax.switch(preset, losses, mixture, posterior, z_c, z_hat)
            return total, updated["stats"]

        gradient, stats = jax.grad(loss, has_aux=True)(params)
        updates, opt = adam.update(gradient, opt)
        return (optax.apply_updates(params, updates), stats, opt), None

    carry = variables["params"], variables["stats"], adam.init(variables["params"])
    keys = jax.random.split(jax.random.fold_in(key, 1), STEPS)
    (params, stats, _), _ = jax.lax.scan(step, carry, keys)
    out = net.apply({"params": params, "stats": stats}, CONDITIONS)
    return as_mixture(*out)


def truth() -> Mixture:
    """The density that z_c is drawn from."""
    log_alpha = jnp.broadcast_to(jnp.log(WEIGHTS), (2, 2))
    return Mixture(log_alpha, CENTRES, jnp.full((2, 2, D), jnp.log(TRUE_STD)))


@jax.jit
def held_out(mixture: Mixture):
    """Mean log-density per dimension of 4096 new z_c."""
    condition, _, z_c = draw(jax.random.key(7), 4096)
    per_example = jax.tree.map(lambda x: x[condition], mixture)
    return mixtures.log_prob(per_example, z_c).mean() / D


@functools.cache
def learned(preset: str, k: int, seed: int = 0) -> Learned:
    mixture = fit(list(PRESETS).index(preset), k, jax.random.key(seed))
    return Learned(
        np.exp(mixture.log_alpha),
        np.asarray(mixture.mu),
        np.exp(mixture.log_std),
        float(held_out(mixture)),
    )


def mode_errors(result: Learned) -> np.ndarray:
    """RMS distance per dimension from each true centre to the nearest mean, [2 2]."""
    difference = result.mu[:, None] - np.asarray(CENTRES)[:, :, None]
    return np.sqrt(np.square(difference).mean(-1)).min(-1)


def test_the_truth_scores_what_its_entropy_says():
    entropy = 0.5 * np.log(2 * np.pi * np.e * TRUE_STD**2)
    entropy += -np.sum(WEIGHTS * jnp.log(WEIGHTS)) / D
    assert float(held_out(truth())) == pytest.approx(-float(entropy), abs=0.01)


@pytest.mark.parametrize("preset", ["default", "elbo", "paper"])
def test_presets_find_both_modes_and_their_weights(preset):
    result = learned(preset, 2)
    assert (mode_errors(result) < 0.1).all()
    np.testing.assert_allclose(
        np.sort(result.alpha), [[0.3, 0.7]] * 2, atol=0.05, rtol=0
    )


@pytest.mark.parametrize("preset", ["default", "elbo"])
def test_posterior_to_component_learns_the_true_density(preset):
    result = learned(preset, 2)
    assert result.log_density == pytest.approx(float(held_out(truth())), abs=0.05)
    np.testing.assert_allclose(result.std.mean(-1), TRUE_STD, atol=0.05, rtol=0)


def test_component_to_posterior_learns_the_posteriors_spread_only():
    result = learned("paper", 2)
    np.testing.assert_allclose(result.std.mean(-1), POSTERIOR, atol=0.03, rtol=0)
    assert result.log_density < held_out(truth()) - 0.5


def test_the_official_rule_misses_a_mode():
    """Even with its gradient attached and the loss's sign corrected."""
    result = learned("official rule", 2)
    assert mode_errors(result).max() > 0.5
    assert result.log_density < held_out(truth()) - 0.3


def test_more_components_are_never_worse():
    scores = [learned("default", k).log_density for k in (1, 2, 4)]
    assert scores[0] < scores[1] - 0.1
    assert scores[2] > scores[1] - 0.02


def test_elbo_switches_surplus_components_off():
    result = learned("elbo", 4)
    assert (np.sort(result.alpha)[:, :2] < 0.02).all()
    assert result.log_density == pytest.approx(float(held_out(truth())), abs=0.05)
    assert np.isfinite(result.mu).all() and np.isfinite(result.std).all()
