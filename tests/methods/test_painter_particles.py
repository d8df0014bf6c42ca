"""The particle engine: resampling, and posteriors that its samplers reach."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import grid
from helpers.mixture import denoise_by, strided_schedule

from picjax.methods.painter.samplers.interface import (
    Measurement,
    plan_calls,
)
from picjax.methods.painter.samplers.noise import noise_from_keys, uniforms_from_key
from picjax.methods.painter.samplers.proposals import (
    TDS,
    SMCDiff,
    noised_trajectory,
)
from picjax.methods.painter.samplers.smc import (
    RESAMPLING,
    effective_sample_size,
    inverse_cdf,
    pick,
    run_particles,
)

WEIGHTS = np.array([0.02, 0.3, 0.08, 0.26, 0.0, 0.34], np.float32)


def count_ancestors(scheme, draws):
    """How often each particle is continued, [draws p]."""
    uniforms = jax.random.uniform(jax.random.key(0), (draws, len(WEIGHTS) + 1))
    ancestors = jax.vmap(lambda u: RESAMPLING[scheme](jnp.asarray(WEIGHTS), u))(
        uniforms
    )
    return np.asarray(jax.nn.one_hot(ancestors, len(WEIGHTS)).sum(1))


# ---- resampling ----


@pytest.mark.parametrize("scheme", RESAMPLING)
def test_resampling_is_unbiased(scheme):
    draws = 20_000
    counts = count_ancestors(scheme, draws)
    assert (counts.sum(1) == len(WEIGHTS)).all()
    expected = len(WEIGHTS) * WEIGHTS
    error = np.abs(counts.mean(0) - expected)
    # Five standard errors of independent draws, the scheme with the largest variance.
    bound = 5 * np.sqrt(expected * (1 - WEIGHTS) / draws)
    assert (error <= bound + 1e-4).all(), error
    assert (counts[:, 4] == 0).all()


def test_systematic_resampling_rounds_and_residual_keeps_the_whole_copies():
    expected = len(WEIGHTS) * WEIGHTS
    systematic = count_ancestors("systematic", 1_000)
    assert (np.abs(systematic - expected) < 1).all()
    assert (count_ancestors("residual", 1_000) >= np.floor(expected)).all()


def test_resampling_of_equal_weights_keeps_every_particle():
    weights = jnp.full(4, 0.25)
    uniforms = jnp.full(5, 0.5)
    for name in ("systematic", "stratified", "residual"):
        ancestors = RESAMPLING[name](weights, uniforms)
        np.testing.assert_array_equal(ancestors, np.arange(4), err_msg=name)


def test_positions_fall_to_the_first_index_that_reaches_them():
    weights = jnp.array([0.25, 0.5, 0.25])
    positions = jnp.array([0.0, 0.25, 0.26, 0.75, 0.76, 1.1])
    found = inverse_cdf(weights, positions)
    np.testing.assert_array_equal(found, [0, 0, 1, 1, 2, 2])


def test_effective_sample_size_counts_the_particles_that_matter():
    assert effective_sample_size(jnp.zeros(8)) == 8
    one = jnp.array([0.0, -1e4, -1e4])
    np.testing.assert_allclose(effective_sample_size(one), 1)
    np.testing.assert_allclose(effective_sample_size(jnp.array([3.0, 3, -1e4])), 2)


# ---- samplers ----

SCHEDULE = strided_schedule(grid.ALPHAS_CUMPROD, 50)
CALLS = plan_calls(SCHEDULE)


def draw_particles(make, p, runs, **options):
    """Runs for each of the grid's five problems: particles [5 runs p ..]."""
    denoise = denoise_by(grid.network(), SCHEDULE, "fixed_small")
    problem = grid.problems(runs)

    def one(y, mask, key):
        keys = jax.random.split(key, 3)
        noise = noise_from_keys(jax.random.split(keys[0], p), grid.SHAPE)
        measurement = Measurement(y[None], mask[None])
        proposal = make(denoise, measurement, keys[2])
        uniforms = uniforms_from_key(keys[1], p)
        return run_particles(proposal, CALLS, noise, uniforms, **options)[0]

    keys = jax.random.split(jax.random.key(0), len(problem.y))
    particles = jax.jit(jax.vmap(one))(*problem[:2], keys)
    shape = 5, runs
    return jax.tree.map(lambda a: np.asarray(a).reshape(shape + a.shape[1:]), particles)


def tds(denoise, measurement, key, **options):
    return TDS(denoise, measurement, **options)


def smcdiff(denoise, measurement, key):
    noise = noise_from_keys(key[None], grid.SHAPE)
    trajectory = noised_trajectory(CALLS, measurement.y, noise)
    return SMCDiff(denoise, measurement.mask, trajectory)


def pooled_total_variation(particles):
    """Of all particles of all runs, by weight."""
    log_weights = particles.log_weights
    weights = np.exp(log_weights - log_weights.max(-1, keepdims=True))
    weights /= weights.sum(-1, keepdims=True) * weights.shape[1]
    x = particles.x.reshape(5, -1, *grid.SHAPE)
    return grid.total_variation(x, weights.reshape(5, -1))


@pytest.mark.parametrize("make", [tds, smcdiff])
def test_particles_have_the_known_pixels_and_finite_weights(make):
    particles = draw_particles(make, 4, 2)
    known = np.asarray(grid.problems(2).y).reshape(5, 2, 1, *grid.SHAPE)[..., 0, 0, 0]
    shown = particles.x[..., 0, 0, 0]
    np.testing.assert_array_equal(shown, np.broadcast_to(known, shown.shape))
    assert np.isfinite(particles.log_weights).all()
    assert np.isfinite(particles.log_evidence).all()
    assert ((particles.min_ess >= 1 - 1e-5) & (particles.min_ess <= 4)).all()
    assert ((particles.lineages >= 1) & (particles.lineages <= 4)).all()


def test_one_particle_of_tds_is_a_guided_sample():
    particles = draw_particles(tds, 1, 40)
    assert (particles.lineages == 1).all()
    np.testing.assert_allclose(particles.min_ess, 1, rtol=1e-6)
    assert grid.total_variation(particles.x) < 0.35


def test_more_particles_bring_smcdiff_nearer_to_the_posterior():
    few = pooled_total_variation(draw_particles(smcdiff, 2, 60))
    many = pooled_total_variation(draw_particles(smcdiff, 16, 60))
    assert many < 0.2 and many < few - 0.1, (few, many)


@pytest.mark.parametrize("scheme", RESAMPLING)
def test_tds_reaches_the_posterior_with_every_scheme(scheme):
    """A perfect sampler's 240 draws would have 0.05."""
    make = partial(tds, floor=0.05)
    particles = draw_particles(make, 4, 60, scheme=RESAMPLING[scheme])
    assert pooled_total_variation(particles) < 0.2


def test_no_resampling_leaves_every_lineage():
    particles = draw_particles(tds, 4, 2, ess_threshold=0.0)
    assert (particles.lineages == 4).all()
    always = draw_particles(tds, 4, 2, ess_threshold=None)
    assert (always.lineages < 4).any()


def test_a_particle_is_picked_by_weight():
    particles = draw_particles(tds, 4, 1)
    one = jax.tree.map(lambda a: jnp.asarray(a[0, 0]), particles)
    heavy = one._replace(log_weights=jnp.array([-1e4, 0.0, -1e4, -1e4]))
    np.testing.assert_array_equal(pick(heavy, jax.random.key(0)), one.x[1:2])
