"""RePaint, Intelligent Painter and unconditional sampling: orders of steps, whole runs."""

import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from diffusion_networks import build_unet, load_unet
from diffusion_process import (
    assert_within,
    described_parameterization,
    described_schedule,
    image,
    parse_eta,
    recorded,
    times,
    toy_network,
)
from fixture import Fixture, below, nchw
from helpers.recorded_noise import recorded_noise

from picjax.methods.painter import process
from picjax.methods.painter.process import Denoiser, Schedule
from picjax.methods.painter.resampling import (
    Plan,
    Resampling,
    Transition,
    make_plan,
    repaint,
    visited_steps,
)

Arrays = Mapping[str, Any]

# ---- orders of steps ----

# Defaults of the functions that make the lists.
DEFAULTS: dict[str, dict[str, int]] = {
    "jump": {},
    "paper": {"t_T": 250, "jump_length": 10, "jump_n_sample": 10},
    "ip": {"t_T": 250, "jump_length": 10, "jump_n_sample": 2},
}


def resampling_of(
    function: str, params: Mapping[str, int] | None
) -> tuple[int, Resampling]:
    """Steps and settings of a list from the parameters of its function."""
    params = DEFAULTS[function] | dict(params or {})
    steps = params.pop("t_T")
    return steps, Resampling(**params)


def check_visited_steps(fixture: Fixture) -> None:
    for case in fixture.meta["cases"]:
        # The original never calls `simple`, whose lists begin beyond the last step.
        if case["function"] == "simple":
            continue
        arguments = resampling_of(case["function"], case["params"])
        expected = fixture.outputs[case["key"]].tolist()
        assert visited_steps(*arguments) == expected, case["key"]
        plan = make_plan(*arguments)
        assert plan.evaluations == case["network_evaluations"], case["key"]
        assert plan.forward_steps == case["forward_steps"], case["key"]


# ---- unconditional runs ----


def record(transition: Transition) -> Transition:
    return transition


def assert_run(
    name: str, ours: Any, expected: np.ndarray, late: float, early: int
) -> None:
    """The first `early` states to 2e-5, all to `late`."""
    ours = np.asarray(ours).transpose(0, 1, 4, 2, 3)
    assert_within(f"first {name}", ours[:early], expected[:early], 2e-5)
    assert_within(name, ours, expected, late)


def check_unconditional_runs(fixture: Fixture) -> None:
    """Ancestral and DDIM runs of the toy network."""
    text = fixture.meta["what"]
    name, steps, _ = described_schedule(text)
    parameterization = described_parameterization(text)
    for case in {name.split(".")[0] for name in fixture.inputs}:
        stream = recorded(fixture.inputs[f"{case}.noise"])
        schedule = run_schedule(fixture, case, (name, steps), len(stream) - 1)
        denoiser = Denoiser(toy_network, schedule, parameterization)
        transitions = unconditional_run(denoiser, stream, case_eta(text, case))
        for field, ours in (
            ("samples", transitions.next),
            ("pred_xstart", transitions.x0),
        ):
            expected = fixture.outputs[f"{case}.{field}"]
            assert_run(f"{case} {field}", ours, expected, 2e-5, 0)


def unconditional_run(
    denoiser: Denoiser, stream: np.ndarray, eta: float | None
) -> Transition:
    """All transitions of a run without known pixels."""
    plan = make_plan(denoiser.schedule.steps, Resampling())
    noise = recorded_noise(denoiser.schedule, plan, stream, has_known=False)
    nothing = jnp.zeros_like(noise.initial)

    def run() -> Any:
        inputs = denoiser, plan, nothing, nothing, noise
        return repaint(*inputs, eta=eta, record=record)

    return jax.jit(run)()[1]


def case_eta(text: str, case: str) -> float | None:
    """DDIM's eta as `text` or the case's name states it; None: ancestral."""
    described = re.search(rf"\b{case}: ([^;]*)", text)
    words = described[1] if described else ""
    if eta := re.search(r"eta ([\d.]*\d)", words):
        return float(eta[1])
    if "ancestral" in words or case.startswith("anc"):
        return None
    _, _, digits = case.partition("_eta")
    return parse_eta(digits or "0")


def run_schedule(
    fixture: Fixture, case: str, trained: tuple[str, int], length: int
) -> Schedule:
    """The schedule of a run: the spacing that gives the timesteps of the file."""
    expected = fixture.outputs[f"{case}.timestep_map"]
    assert len(expected) == length
    described = re.search(rf'\b{case}: respacing "([^"]*)"', fixture.meta["what"])
    if described:
        spacings: Iterator[str] = iter([described[1]])
    else:
        spacings = iter([str(length), ""])
        if any(len(range(0, trained[1], k)) == length for k in range(1, trained[1])):
            spacings = iter([str(length), f"ddim{length}", ""])
    for spacing in spacings:
        schedule = process.make_schedule(*trained, spacing)
        if schedule.timesteps.tolist() == expected.tolist():
            return schedule
    raise AssertionError(f"{case}: no spacing gives the timesteps of the file")


# ---- completions ----


def check_toy_completions(fixture: Fixture) -> None:
    for run in fixture.meta["runs"]:
        prefix = f"{run['key']}."
        inputs, out = below(fixture.inputs, prefix), below(fixture.outputs, prefix)
        name, steps, _ = described_schedule(fixture.meta["diffusion"])
        schedule = process.make_schedule(name, steps, str(run["respacing"]))
        parameterization = described_parameterization(fixture.meta["diffusion"])
        denoiser = Denoiser(toy_network, schedule, parameterization)
        resampling = resampling_of(run["schedule"], run["params"])
        plan = check_completion(denoiser, resampling, inputs, out, 1e-4, 100)
        assert plan.evaluations == run["reverse_steps"]
        assert plan.forward_steps == run["forward_steps"]


def check_unet_completion(fixture: Fixture) -> None:
    meta, inputs = fixture.meta, fixture.inputs
    net = build_unet(fixture.hyper)
    x = image(inputs["gt"])
    condition = (times(inputs["y"]),) if "y" in inputs else ()
    t = jnp.zeros(len(x), jnp.int32)
    variables = load_unet(net, fixture.params, x, t, *condition)

    def network(x: jax.Array, t: jax.Array) -> Any:
        return net.apply(variables, x, t, *condition)

    schedule = process.make_schedule(*described_schedule(meta["diffusion"]))
    parameterization = described_parameterization(meta["diffusion"])
    if net.out_channels != 6 and parameterization.learns_variance:
        parameterization = parameterization._replace(variance="fixed_large")
    denoiser = Denoiser(network, schedule, parameterization)
    resampling = resampling_of(meta["schedule"], meta["schedule_params"])
    check_completion(denoiser, resampling, inputs, fixture.outputs, 2e-4, 5)


def check_completion(
    denoiser: Denoiser,
    resampling: tuple[int, Resampling],
    inputs: Arrays,
    out: Arrays,
    late: float,
    early: int,
) -> Plan:
    """A completion from recorded noise, and every stored state of it.

    The states of the first `early` evaluations agree to 2e-5, all others to `late`.
    """
    schedule = denoiser.schedule
    if "timestep_map" in inputs:
        np.testing.assert_array_equal(schedule.timesteps, inputs["timestep_map"])
    assert schedule.steps == resampling[0]
    assert visited_steps(*resampling) == inputs["times"].tolist()
    plan = make_plan(*resampling)
    noise = recorded_noise(schedule, plan, recorded(inputs["noise"]))
    truth, mask = image(inputs["gt"]), image(inputs["mask"])
    run = jax.jit(lambda: repaint(denoiser, plan, truth, mask, noise, record=record))
    final, transitions = run()
    every = int(out.get("sample_every", 1))
    for name, ours in (("model_in", transitions.x), ("samples", transitions.next)):
        assert_run(name, ours[::every], out[name], late, early // every)
    # Near pure noise x_0 amplifies the network's rounding a hundredfold.
    assert_run("pred_xstart", transitions.x0[::every], out["pred_xstart"], late, 0)
    assert_within("final", nchw(final), out["final"], late)
    check_forward_steps(schedule, inputs, out, np.asarray(transitions.next), late)
    if "final_uint8_nhwc" in out:
        np.testing.assert_array_equal(truncate(final), out["final_uint8_nhwc"])
    if "masked_input_uint8_nhwc" in out:
        masked = truncate(truth * mask - (1 - mask))
        np.testing.assert_array_equal(masked, out["masked_input_uint8_nhwc"])
    return plan


def truncate(x: jax.Array) -> np.ndarray:
    """[-1, 1] to 0..255, rounded down as the original does."""
    return np.trunc(np.clip((np.asarray(x) + 1) * 127.5, 0, 255))


def check_forward_steps(
    schedule: Schedule, inputs: Arrays, out: Arrays, samples: np.ndarray, late: float
) -> None:
    """Each single forward step ("undo"), or the last one, as the file stores them."""
    visited, noise = inputs["times"], inputs["noise"][inputs["noise_kind"] == 3]
    ups = np.flatnonzero(np.diff(visited) > 0)
    if "undo_beta_index" in out:
        np.testing.assert_array_equal(visited[ups + 1], out["undo_beta_index"])
    x = None
    for i, (place, draw) in enumerate(zip(ups, noise, strict=True)):
        if place - 1 not in ups[:i]:  # the first step after a reverse step
            evaluation = int((np.diff(visited[: place + 1]) < 0).sum()) - 1
            x = jnp.asarray(samples[evaluation])
            if "undo" in out:
                x = image(out["samples"][evaluation])
        assert x is not None
        t = times(np.full(len(x), visited[place + 1]))
        x = process.forward_step(schedule, x, t, image(draw))
        if "undo" in out:
            assert_within(f"forward step {i}", nchw(x), out["undo"][i], 1e-6)
            x = image(out["undo"][i])
    if "undo_last" in out:
        assert x is not None
        assert_within("last forward step", nchw(x), out["undo_last"], late)


CHECKS: dict[str, Callable[[Fixture], None]] = {
    "UNetModel + complete resampling run": check_unet_completion,
    "complete RePaint / Intelligent Painter runs with a toy network at published "
    "length": check_toy_completions,
    "time lists for RePaint / Intelligent Painter": check_visited_steps,
    "unconditional ancestral and DDIM loops": check_unconditional_runs,
}
