"""MCGdiff and FPS-SMC as released, on the library's particle engine.

The library offers neither: MCGdiff needs hundreds of particles for each completion, and
the release of FPS-SMC multiplies its log weights by their number.
"""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from posterior_case import Case

from picjax.methods.painter.process import Schedule
from picjax.methods.painter.samplers.interface import (
    Call,
    Denoise,
    plan_calls,
)
from picjax.methods.painter.samplers.noise import recorded_noise
from picjax.methods.painter.samplers.projection import ddim_widths
from picjax.methods.painter.samplers.smc import Level, inverse_cdf, run_particles


def squares(x: jax.Array) -> jax.Array:
    """Sum of squares of each particle."""
    return jnp.square(x).sum((1, 2, 3))


def first_calls(calls: Call, count: int) -> Call:
    return Call(*(column[:count] for column in calls))


# ---- MCGdiff ----


@dataclass(frozen=True)
class MCGDiff:
    """Particles pulled to the noised known pixels, weighted by looking one step ahead.

    Attributes:
      denoise: the denoiser.
      y: known pixels, [1 h w c].
      mask: of them.
      widths: R of each kept step, the variance of the known pixels around sqrt(A) y.
      eta: DDIM's.
    """

    denoise: Denoise
    y: jax.Array
    mask: jax.Array
    widths: jax.Array
    eta: float

    def start(self, x: jax.Array) -> tuple[jax.Array, jax.Array]:
        return x, jnp.zeros(len(x), x.dtype)

    def log_density(self, x: jax.Array, alpha: Any, index: Any) -> jax.Array:
        """log g without its normaliser."""
        off = self.mask * (x - alpha * self.y)
        return -squares(off) / (2 * self.widths[index])

    def mean(self, x: jax.Array, call: Call) -> jax.Array:
        denoised = self.denoise(x, call.index)
        _, kept = ddim_widths(call, self.eta)
        return call.next_alpha * denoised.x0 + kept * denoised.epsilon

    def weigh(self, x: jax.Array, call: Call) -> tuple[jax.Array, jax.Array]:
        mean = self.mean(x, call)
        std, _ = ddim_widths(call, self.eta)
        off = self.mask * (mean - call.next_alpha * self.y)
        ahead = -squares(off) / (2 * (std**2 + self.widths[call.index - 1]))
        return ahead - self.log_density(x, call.alpha, call.index), mean

    def move(
        self, moments: jax.Array, call: Call, normal: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        std, _ = ddim_widths(call, self.eta)
        width = self.widths[call.index - 1]
        gain = std**2 / (std**2 + width)
        pulled = gain * call.next_alpha * self.y + (1 - gain) * moments
        known = pulled + jnp.sqrt(width * gain) * normal
        hole = moments + std * normal
        x = self.mask * known + (1 - self.mask) * hole
        return x, jnp.zeros(len(x), x.dtype)


def check_mcgdiff(case: Case) -> None:
    options, outputs, inputs = case.options, case.outputs, case.fixture.inputs
    timesteps = inputs[f"{case.name}.timesteps"]
    schedule = case.keep(timesteps)
    power, variance = schedule.alphas_cumprod, options["var_observation"]
    tau = np.abs(variance * power - (1 - power)).argmin() if variance else 0
    assert timesteps[tau] == outputs["tau"]
    kappa, eta = options["kappa"], float(options["eta"])
    mask = inputs[f"{case.name}.mask"]
    shape = mask.shape[1:]
    y = np.zeros_like(mask)
    y[mask > 0.5] = inputs[f"{case.name}.observation"]

    def images(flat: np.ndarray) -> np.ndarray:
        return np.moveaxis(flat.reshape(*flat.shape[:-1], *shape), -3, -1)

    uniforms = jnp.asarray(inputs[f"{case.name}.uniforms64"], float)
    step = images(inputs[f"{case.name}.step_noise"].astype(float))
    start = images(inputs[f"{case.name}.start"].astype(float))
    calls = first_calls(plan_calls(schedule), len(timesteps) - 1)
    np.testing.assert_array_equal(timesteps[calls.index], outputs["t_in"])
    widths = jnp.asarray(1 - (1 - kappa) * power / power[tau], float)
    sampler = MCGDiff(
        case.denoise(schedule),
        jnp.moveaxis(jnp.asarray(y, float), 1, -1),
        jnp.moveaxis(jnp.asarray(mask, float), 1, -1),
        widths,
        eta,
    )
    filtered = len(calls.index) - int(tau)

    def run() -> tuple[Any, Level]:
        return run_particles(
            sampler,
            first_calls(calls, filtered),
            recorded_noise(start=start[None], step=step),
            lambda number: uniforms[number],
            ess_threshold=None,
            scheme=inverse_cdf,
            record=lambda level: level,
        )

    particles, levels = jax.jit(run)()
    np.testing.assert_array_equal(levels.ancestors, outputs["ancestors"])
    case.assert_log_weights("log_weights", levels.log_weights)
    x = particles.x
    seen = [*levels.x]
    log_weights = -sampler.log_density(x, np.sqrt(power[tau]), tau)
    for i in range(filtered, len(calls.index)):
        call = Call(*(column[i] for column in calls))
        seen.append(x)
        std, _ = ddim_widths(call, eta)
        x = sampler.mean(x, call) + std * step[i]
    if variance:
        off = sampler.mask * (sampler.y - x)
        log_weights = log_weights - squares(off) / (2 * variance)
    case.assert_log_weights("final_log_weights", log_weights)
    expected = images(outputs["particles_in"]), images(outputs["final"])
    atol = case.fixture.tolerance("atol")
    case.fixture.assert_close("particles_in", jnp.stack(seen), expected[0], 0, atol)
    case.fixture.assert_close("final", x, expected[1], 0, atol)


# ---- FPS-SMC ----


@dataclass(frozen=True)
class FPS:
    """Particles drawn around a reverse trajectory of y, with the release's weights.

    Attributes:
      denoise: the denoiser.
      trajectory: y at each kept step, [t 1 h w c].
      mask: 1 = known.
      share: of a step's variance that is renewed.
      sigma: standard deviation of the noise in y.
      exponent: of the weights; the release's is the number of particles.
    """

    denoise: Denoise
    trajectory: jax.Array
    mask: jax.Array
    share: float
    sigma: float
    exponent: int

    def start(self, x: jax.Array) -> tuple[jax.Array, jax.Array]:
        mixed = self.mask * self.trajectory[-1] + (1 - self.mask) * x
        return mixed, jnp.zeros(len(x), x.dtype)

    def weigh(self, x: jax.Array, call: Call) -> tuple[jax.Array, jax.Array]:
        denoised = self.denoise(x, call.index)
        kept = call.next_sigma * (1 - self.share) ** 0.5
        mean = call.next_alpha * jnp.clip(denoised.x0, -1, 1) + kept * denoised.epsilon
        return jnp.zeros(len(x), x.dtype), mean

    def move(
        self, moments: jax.Array, call: Call, normal: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        known = self.trajectory[call.index]
        variance = self.share * call.next_sigma**2
        width = (call.alpha * self.sigma) ** 2
        joint = 1 / (1 / variance + 1 / width)
        widened = variance + 1e-6  # of the release, in the mean alone
        pulled = (moments / widened + known / width) / (1 / widened + 1 / width)
        mean = self.mask * pulled + (1 - self.mask) * moments
        own = self.mask * joint + (1 - self.mask) * variance
        x = mean + jnp.sqrt(own) * normal
        likelihood = -squares(self.mask * (known - x))
        likelihood = likelihood / (2 * (self.sigma * call.next_alpha) ** 2)
        prior = -squares(x - moments) / (2 * variance)
        drawn = -(jnp.square(normal) / 2).sum((1, 2, 3))
        added = self.exponent * (likelihood + prior - drawn)
        return jnp.where(call.last, moments, x), jnp.where(call.last, 0, added)


def noise_trajectory(
    schedule: Schedule, y: Any, normals: np.ndarray, share: float
) -> Any:
    """y at each kept step by a DDIM bridge down from noise, the last step first."""
    power = schedule.alphas_cumprod
    levels = [normals[0]]
    for i in range(len(power) - 1, 0, -1):
        a, s = power[i], power[i - 1]
        bridge = np.sqrt((1 - share) * (1 - s) / (1 - a))
        normal = np.sqrt(share * (1 - s)) * normals[len(power) - i]
        levels.append(np.sqrt(s) * y + bridge * (levels[-1] - np.sqrt(a) * y) + normal)
    return np.stack(levels[::-1])


def check_fps(case: Case) -> None:
    options, outputs = case.options, case.outputs
    schedule = case.schedule()
    share, mask, y = float(options["c_rate"]), case.input("mask"), case.input("y")
    normals = mask * case.input("y_noise")
    trajectory = noise_trajectory(schedule, y, normals, share)
    # The state lags by one level: at the top it is one above the network's step.
    calls = Call(*(column[1:] for column in plan_calls(schedule)))
    calls = calls._replace(number=calls.number - 1)
    np.testing.assert_array_equal(calls.index, outputs["t"])
    case.assert_close("y_seq", trajectory[calls.index][:, 0])
    start = case.input("start_noise")
    step = case.input("step_noise")
    rows = case.fixture.inputs[f"{case.name}.uniforms64"]
    # The first level has equal weights: each particle continues itself.
    p = options["particles"]
    uniforms = jnp.asarray(np.concatenate([(np.arange(p)[None] + 0.5) / p, rows]))
    sampler = FPS(
        case.denoise(schedule),
        jnp.asarray(trajectory),
        jnp.asarray(mask, float),
        share,
        float(options["sigma"]),
        p,
    )

    def run() -> Any:
        return run_particles(
            sampler,
            calls,
            recorded_noise(start=start[None], step=np.append(step, step[:1], 0)),
            lambda number: uniforms[number],
            ess_threshold=None,
            scheme=inverse_cdf,
            record=lambda level: level,
        )

    particles, levels = jax.jit(run)()
    np.testing.assert_array_equal(levels.ancestors[1:], outputs["ancestors"])
    weights = jnp.exp(levels.log_weights - levels.log_weights.max(1, keepdims=True))
    np.testing.assert_allclose(weights[1:], outputs["weights"], 1e-4, 1e-6)
    states = jax.vmap(lambda x, ancestors: x[ancestors])(levels.x, levels.ancestors)
    case.assert_close("x_in", states)
    case.assert_close("x_out", jnp.concatenate([states[1:], particles.x[None]]))
    case.assert_close("final", particles.x[:1])
