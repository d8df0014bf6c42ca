"""Samplers of the posterior against the official code on a closed-form network."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from helpers.mixture import strided_schedule
from posterior_case import (
    Case,
    climbs_of,
    each_case,
    join,
    join_measurement,
    joined,
    merge_climbs,
)
from posterior_copaint import check_copaint
from posterior_filters import check_fps, check_mcgdiff
from posterior_particles import check_tds

from picjax.methods.painter.process import Schedule
from picjax.methods.painter.resampling import Resampling, visited_steps
from picjax.methods.painter.samplers.guidance import dps, mcg, norm_gradient, pigdm
from picjax.methods.painter.samplers.interface import (
    Call,
    Denoise,
    Measurement,
    Trace,
    plan_calls,
)
from picjax.methods.painter.samplers.noise import recorded_noise
from picjax.methods.painter.samplers.projection import (
    ddnm,
    ddnm_posterior,
    known_pixels,
    replacement,
    reverse_step,
)

# ---- DDNM ----


def split_noise(
    walk: np.ndarray, normals: np.ndarray, schedule: Schedule, merge: bool
) -> tuple[np.ndarray, np.ndarray]:
    """Normals of the calls and of the climbs before them, from one per transition.

    Args:
      walk: visited indices.
      normals: of each transition, down and up alike.
      schedule: the kept steps.
      merge: whether a climb is the sum of its steps; else its last one alone counts.
    """
    down = np.diff(walk) < 0
    if merge:
        climbs = merge_climbs(walk, normals[~down], schedule.alphas_cumprod)
    else:
        climbs = normals[[run[-1] for run in climbs_of(walk)]]
    step = normals[down]
    climb = np.zeros_like(step)
    climbed = np.append(False, ~down)[:-1][down]  # before each call
    climb[climbed] = climbs
    return step, climb


def hq_trust(call: Call, sigma_y: float) -> jax.Array:
    """As released: the quotient is formed in another order."""
    enough = call.posterior_std >= call.coef_x0 * sigma_y
    return jnp.where(enough, 1.0, call.posterior_std / call.coef_x0 * sigma_y)


def simplified(
    denoise: Denoise, calls: Call, measurement: Measurement, noise: Any, *, eta: float
) -> tuple[jax.Array, Trace]:
    """The released `--simplified` runner, whose noise has a wrong width."""
    y, mask, sigma_y = measurement
    x = noise("start", 0)
    x0 = jnp.zeros_like(x)
    traces = []
    for i in range(len(calls.index)):
        call = Call(*(column[i] for column in calls))
        if call.climbs:
            x = call.alpha * x0 + call.sigma * noise("climb", i)
        denoised = denoise(x, call.index)
        x0 = denoised.x0
        power = call.next_alpha**2
        width = np.sqrt(max(1 - power**2, 0))
        enough = width >= power * sigma_y
        trust = 1.0 if enough else width / (power * sigma_y)
        gamma = np.sqrt(max(width**2 - (power * sigma_y) ** 2, 0)) if enough else 0.0
        mixed = eta * noise("step", i) + np.sqrt(1 - eta**2) * denoised.epsilon
        new = call.next_alpha * (x0 - trust * (mask * x0 - y))
        new = new + gamma * call.next_sigma * mixed
        traces.append(Trace(x, x0, new))
        x = new
    return x, Trace(*(jnp.stack(field) for field in zip(*traces, strict=True)))


def check_ddnm(case: Case) -> None:
    options, outputs = case.options, case.outputs
    ddpm_form = options["variant"] == "hq_ddpm"
    steps = options["T_sampling"]
    schedule = (
        case.schedule() if ddpm_form else strided_schedule(case.alphas_cumprod, steps)
    )
    jumps = Resampling(options["travel_length"], options["travel_repeat"])
    walk = visited_steps(schedule.steps, jumps)
    np.testing.assert_array_equal(walk, outputs["times"])
    calls = plan_calls(schedule, walk)
    np.testing.assert_array_equal(schedule.timesteps[calls.index], outputs["model_t"])
    assert len(calls.index) == options["network_calls"]
    start = case.input("start")
    step, climb = split_noise(np.array(walk), case.input("noise"), schedule, ddpm_form)
    noise = recorded_noise(start=start[None], step=step, climb=climb)
    measurement = case.measurement(len(start), float(options["sigma_y"]))
    arguments = case.denoise(schedule), calls, measurement, noise
    if ddpm_form:
        final, trace = jax.jit(
            lambda: ddnm_posterior(*arguments, trust=hq_trust, record=lambda t: t)
        )()
    elif options["variant"] == "simple":
        final, trace = simplified(*arguments, eta=float(options["eta"]))
    else:
        final, trace = jax.jit(
            lambda: ddnm(*arguments, eta=float(options["eta"]), record=lambda t: t)
        )()
    case.assert_close("model_in", trace.x)
    case.assert_close("x0_last", trace.x0[-1])
    case.assert_close("final", final)


# ---- DPS, MCG, PiGDM ----


def wrong_mcg(
    denoise: Denoise,
    calls: Call,
    measurement: Measurement,
    noise: Any,
    *,
    scale: float,
    eta: float | None,
    record: Any,
) -> tuple[jax.Array, Trace]:
    """MCG as in the repository of DPS, whose projection swaps sign and regions."""
    mask = measurement.mask

    def body(x: jax.Array, call: Call) -> Any:
        denoised, gradient = norm_gradient(denoise, measurement, x, call.index)
        new = reverse_step(call, x, denoised, noise("step", call.number), eta)
        known = known_pixels(call, measurement, noise("known", call.number), lag=True)
        new = (1 - mask) * known - mask * (new - scale * gradient)
        return new, record(Trace(x, denoised.x0, new))

    return jax.lax.scan(body, noise("start", 0), calls)


def check_dps(case: Case) -> None:
    """A batch of the original shares one norm, so it is checked as one image."""
    options = case.options
    schedule = case.schedule()
    calls = plan_calls(schedule)
    start = case.input("start")
    b, shape = len(start), (len(calls.index), *start.shape)
    denoise = joined(case.denoise(schedule), b)
    measurement = join_measurement(case.measurement(b))
    step, known = join(case.input("step_noise")), join(case.input("known_noise"))
    noise = recorded_noise(start=join(start)[None], step=step, known=known)
    sampler = wrong_mcg if options["variant"] == "mcg" else dps
    eta = None if options["sampler"] == "ddpm" else float(options.get("eta", 0.0))

    def record(trace: Trace) -> Trace:
        return trace

    def run() -> tuple[jax.Array, Trace]:
        common = {"scale": float(options["scale"]), "eta": eta, "record": record}
        return sampler(denoise, calls, measurement, noise, **common)

    def unconditional(call: Call, x: jax.Array, normal: jax.Array) -> jax.Array:
        return reverse_step(call, x, denoise(x, call.index), normal, eta)

    final, trace = jax.jit(run)()
    x0 = jnp.clip(trace.x0, -1, 1)
    residual = measurement.y[None] - measurement.mask[None] * x0
    norm = jnp.sqrt(jnp.square(residual).sum((1, 2, 3, 4)))
    drawn = jax.jit(jax.vmap(unconditional))(calls, trace.x, step)
    case.assert_close("x_prev", trace.x.reshape(shape))
    case.assert_close("x0", x0.reshape(shape), "atol_x0")
    case.assert_close("x_uncond", drawn.reshape(shape))
    case.assert_close("norm", norm, "atol_norm")
    case.assert_close("x", trace.x_next.reshape(shape))
    case.assert_close("final", final.reshape(start.shape))


def check_mcg(case: Case) -> None:
    """A batch of the original shares one norm, so it is checked as one image."""
    schedule = case.schedule()
    calls = plan_calls(schedule)
    start = case.input("start")
    b = len(start)
    noise = recorded_noise(
        start=join(start)[None],
        step=join(case.input("step_noise")),
        known=join(case.input("known_noise")),
    )
    denoise = joined(case.denoise(schedule), b)
    measurement = join_measurement(case.measurement(b))
    sampler = replacement if case.options["variant"] == "vanilla" else mcg
    x, trace = jax.jit(
        lambda: sampler(
            denoise, calls, measurement, noise, lag=True, record=lambda t: t
        )
    )()
    shape = (len(calls.index), *start.shape)
    case.assert_close("model_in", trace.x.reshape(shape))
    case.assert_close("samples", trace.x_next.reshape(shape))
    case.assert_close("final", x.reshape(start.shape))


def check_pigdm(case: Case) -> None:
    options = case.options
    timesteps = case.fixture.inputs[f"{case.name}.t"].astype(np.int64)
    schedule = case.keep(timesteps)
    start = case.input("init_noise")
    noise = recorded_noise(start=start[None], step=case.input("step_noise"))
    arguments = case.measurement(len(start)), noise
    x, trace = jax.jit(
        lambda: pigdm(
            case.denoise(schedule),
            plan_calls(schedule),
            *arguments,
            eta=float(options["eta"]),
            weight="released" if options["variant"] == "awd" else "rederived",
            scale=float(options["grad_term_weight"]),
            project=options["deg"].startswith("in2"),
            record=lambda t: t,
        )
    )()
    case.assert_close("x0", trace.x0)
    case.assert_close("x", jnp.concatenate([trace.x, x[None]]))
    case.assert_close("final", x)


CHECKS = {
    "copaint": each_case(check_copaint),
    "ddnm": each_case(check_ddnm),
    "dps": each_case(check_dps),
    "fps": each_case(check_fps),
    "mcgdiff": each_case(check_mcgdiff),
    "mcg": each_case(check_mcg),
    "pigdm": each_case(check_pigdm),
    "tds": each_case(check_tds),
}
