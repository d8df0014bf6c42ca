"""CoPaint against the official code, whose line search couples the batch."""

from typing import Any

import jax
import numpy as np
from posterior_case import Case, join, join_measurement, joined, merge_climbs

from picjax.methods.painter.resampling import Resampling, visited_steps
from picjax.methods.painter.samplers.copaint import copaint, plan_refinements
from picjax.methods.painter.samplers.noise import recorded_noise


def check_copaint(case: Case) -> None:
    """A batch is checked as one image: its images share a loss and a rate."""
    options, outputs = case.options, case.outputs
    respaced, kept = case.schedule(), options["inference_steps"]
    steps = respaced.steps
    indices = np.array([round(i * steps / kept) for i in range(kept)])
    schedule = case.keep(respaced.timesteps[indices])
    length, repeats = options["travel"] or (1, 1)
    walk = np.array(visited_steps(kept, Resampling(length, repeats))[:-1])
    np.testing.assert_array_equal(indices[walk], outputs["steps"])
    plan = plan_refinements(schedule, walk.tolist())
    np.testing.assert_array_equal(indices[plan.index], outputs["t"][:, 0])
    start = case.input("start")
    b, shape = len(start), (len(plan.index), *start.shape)
    climbs = np.zeros(shape, start.dtype)
    if plan.climbs.any():
        undo = case.input("undo_noise")
        merged = merge_climbs(walk, undo, schedule.alphas_cumprod)
        climbs[np.asarray(plan.climbs)] = merged
    noise = recorded_noise(start=join(start)[None], climb=join(climbs))
    denoise = joined(case.denoise(schedule), b)
    measurement = join_measurement(case.measurement(b))

    def run() -> Any:
        return copaint(
            denoise,
            plan,
            measurement,
            noise,
            gradient_steps=options["G"],
            rate=float(options["lr"]),
            rate_growth=float(options["lr_decay"]),
            penalty=float(options["coef_reg"]),
            penalty_growth=float(options["reg_decay"]),
            line_search=options["adaptive"],
            scale_rate=options["smart"],
            record=lambda refined: refined,
        )

    final, seen = jax.jit(run)()
    case.assert_close("x_in", seen.x.reshape(shape))
    case.assert_close("x_opt", seen.x_refined.reshape(shape))
    down = ~np.asarray(plan.climbs)
    x_prev = np.where(
        down.reshape(-1, 1, 1, 1, 1), seen.x_next.reshape(shape), case.output("x_prev")
    )
    case.assert_close("x_prev", x_prev)
    case.assert_close("loss", seen.residual.sum(1), "atol_loss")
    rtol = case.fixture.tolerance("rtol_lr")
    np.testing.assert_allclose(seen.rate, outputs["lr64"], rtol)
    case.assert_close("final", final.reshape(start.shape))
