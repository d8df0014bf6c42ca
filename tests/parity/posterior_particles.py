"""Particle samplers against the official code: TDS, SMCDiff, importance sampling."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from posterior_case import Case

from picjax.methods.painter.samplers.interface import Call, Denoise, plan_calls
from picjax.methods.painter.samplers.noise import recorded_noise
from picjax.methods.painter.samplers.proposals import (
    TDS,
    Importance,
    SMCDiff,
    Twist,
    noised_trajectory,
)
from picjax.methods.painter.samplers.smc import (
    RESAMPLING,
    Level,
    Proposal,
    effective_sample_size,
    residual,
    run_particles,
)

# The original's var_type -> twist and tau2; 6 takes the tau2 of the options.
TWISTS: dict[int, tuple[Twist, float]] = {
    1: ("snr", 0.0),
    2: ("prior", 1.0),
    3: ("dps", 0.0),
    4: ("pigdm", 0.0),
    5: ("prior", 0.30),
}


def make_proposal(case: Case, denoise: Denoise, calls: Call) -> Proposal:
    options = case.options
    variant = options["variant"]
    measurement = case.measurement(1)
    if variant == "tds":
        twist = TWISTS.get(options["var_type"], ("prior", float(options["tausq"])))
        return TDS(denoise, measurement, *twist)
    if variant == "is":
        return Importance(denoise, measurement)
    normals = case.input("forward_noise")
    shared = normals.ndim == 4  # one trajectory for all particles
    noise = recorded_noise(known=normals[:, None] if shared else normals)
    copies = 1 if shared else options["particles"]
    trajectory = noised_trajectory(calls, measurement.y, noise, copies)
    weighted = variant == "smcdiff"
    return SMCDiff(denoise, measurement.mask, trajectory, weighted)


def expand_uniforms(rows: np.ndarray, resampled: np.ndarray, count: int) -> np.ndarray:
    """A row for each level, from those of the levels that were resampled."""
    uniforms = np.full((len(resampled), count), 0.5)
    width = min(rows.shape[-1], count)
    uniforms[resampled.astype(bool), :width] = rows[:, :width]
    return uniforms


def released_residual(weights: jax.Array, uniforms: jax.Array) -> jax.Array:
    """Residual resampling that never draws an index above the number of draws left."""
    p = len(weights)
    copied = jnp.floor(p * weights).sum().astype(int)
    ancestors = residual(weights, uniforms)
    clipped = jnp.minimum(ancestors, p - copied - 1)
    return jnp.where(jnp.arange(p) < copied, ancestors, clipped)


SCHEMES = {**RESAMPLING, "residual": released_residual}


def check_tds(case: Case) -> None:
    options, outputs = case.options, case.outputs
    schedule = case.schedule()
    calls = plan_calls(schedule)
    resampled, threshold = outputs["resampled"], options["ess_threshold"]
    rows = case.fixture.inputs[f"{case.name}.uniforms64"]
    uniforms = jnp.asarray(
        expand_uniforms(rows, resampled, options["particles"] + 1), float
    )
    noise = recorded_noise(
        start=case.input("start")[None], step=case.input("step_noise")
    )

    def run() -> Any:
        return run_particles(
            make_proposal(case, case.denoise(schedule), calls),
            calls,
            noise,
            lambda number: uniforms[number],
            ess_threshold=float(1.0 if threshold is None else threshold),
            scheme=SCHEMES[options["strategy"]],
            record=lambda level: level,
        )

    particles, levels = jax.jit(run)()
    check_levels(case, levels, particles.x, particles.log_weights)
    np.testing.assert_array_equal(levels.resampled, resampled)
    ess = jnp.append(levels.ess, effective_sample_size(particles.log_weights))
    np.testing.assert_allclose(ess, outputs["ess"], 2e-3)
    case.assert_close("final", particles.x)
    weights = jax.nn.softmax(particles.log_weights)
    np.testing.assert_allclose(weights, outputs["final_weights"], 2e-3, 1e-4)
    if "log_potential" in outputs:
        potential = levels.moments.log_potential
        case.assert_log_weights("log_potential", pad_level(potential))


def pad_level(levels: jax.Array) -> jax.Array:
    """[levels p] with zeros for the image's level."""
    return jnp.concatenate([levels, jnp.zeros_like(levels[:1])])


def check_levels(
    case: Case, levels: Level, x: jax.Array, log_weights: jax.Array
) -> None:
    """States, ancestors and log weights of all levels."""
    np.testing.assert_array_equal(levels.ancestors, case.outputs["ancestors"])
    case.assert_close("xt", jnp.concatenate([levels.x, x[None]]))
    total = jnp.concatenate([levels.log_weights, log_weights[None]])
    # What remained of a level's weights: 0 after resampling, else they average 1. Where
    # the original never resamples, it does not normalise either.
    mean = jax.nn.logsumexp(levels.log_weights, 1, keepdims=True)
    mean = mean - jnp.log(levels.log_weights.shape[1])
    if case.options["ess_threshold"] == 0:
        total = total + jnp.cumsum(jnp.concatenate([jnp.zeros_like(mean[:1]), mean]), 0)
        kept = total[:-1]
    else:
        kept = jnp.where(levels.resampled[:, None], 0, levels.log_weights - mean)
    before = jnp.concatenate([jnp.zeros_like(kept[:1]), kept])
    case.assert_log_weights("log_w", total)
    case.assert_log_weights("log_w_increment", total - before)
