"""The training loop: steps, and what happens every so many of them.

`picjax.train` prepares what it works on, a `Run`.
"""

import contextlib
import math
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils

from picjax import saving, sharding, signals
from picjax.cli import UserError
from picjax.log import Log
from picjax.system import Config, State


class Run(NamedTuple):
    """What the loop needs besides the state.

    Attributes:
      config: the run's config.
      mesh: all devices.
      data: batches of this process.
      step: (state, batch) -> (state, metrics), compiled.
      checkpoints: of the workdir.
      log: None on all processes but the first.
      draw_grid: state -> grid of completions.
      evaluate: state -> metrics of held-out images.
    """

    config: Config
    mesh: jax.sharding.Mesh
    data: Iterator[dict[str, np.ndarray]]
    step: Callable[..., tuple[State, dict[str, jax.Array]]]
    checkpoints: saving.Checkpoints
    log: Log | None
    draw_grid: Callable[[State], np.ndarray]
    evaluate: Callable[[State], dict[str, float]]


def loop(run: Run, state: State) -> State:
    """Train from `state.step` to `config.steps`, or until a signal.

    Every step checks that the workdir is still this run's and that nothing failed to be
    saved. A signal may interrupt the first step, which compiles for minutes; in a later
    one it waits for the end of the step, which is then saved.

    Raises:
      UserError: if a metric or a parameter is no longer finite, a checkpoint cannot be
        saved, or the workdir is no longer this run's.
      Interrupted: if a signal stopped the run before its last step.
    """
    config, start = run.config, int(state.step)
    meter = Meter(run, start)
    with stop_on_signal() as stop_requested:
        for step in range(start + 1, config.steps + 1):
            batch = meter.next_batch()
            with meter.compiling() if step == start + 1 else contextlib.nullcontext():
                state, metrics = run.step(state, batch)
            run.checkpoints.poll()
            meter.read({})  # of the previous step
            meter.pending = (step, metrics)
            evaluated = evaluate(run, meter, step, state)
            stopping = stop_requested(step)
            if stopping or due(step, config.save_every, config):
                save(run, meter, step, state, evaluated)
            elif evaluated:
                meter.read(evaluated)
            if stopping:
                break
            sample(run, meter, step, state)
        run.checkpoints.wait()
        if int(state.step) < config.steps:
            raise signals.Interrupted(
                f"stopped by {signals.name()} and saved at step {int(state.step)}; "
                "the same command resumes from here"
            )
        signals.forget()
    return state


# ---- what happens every so many steps ----


def due(step: int, every: int, config: Config) -> bool:
    """Whether it is the turn of what happens every so many steps and at the end.

    If `every` is 0, it never is.
    """
    return every > 0 and (step % every == 0 or step == config.steps)


def evaluate(run: Run, meter: "Meter", step: int, state: State) -> dict[str, float]:
    """If due, metrics of held-out images; otherwise none."""
    if not due(step, run.config.eval.every, run.config):
        return {}
    with meter.untimed("compiling and running the first evaluation"):
        return run.evaluate(state)


def save(
    run: Run, meter: "Meter", step: int, state: State, evaluated: dict[str, float]
) -> None:
    """Check and log the step's metrics, check its parameters, and save it with both.

    Raises:
      UserError: if one is not finite, or this or the previous save fails.
    """
    values = meter.read(evaluated)
    check_finite_state(step, state, meter.last_saved)
    if run.log:
        run.log.copy()
    run.checkpoints.save(state, values)
    meter.last_saved = step


def sample(run: Run, meter: "Meter", step: int, state: State) -> None:
    """If due, write a grid of completions."""
    if not due(step, run.config.sample_every, run.config):
        return
    with meter.untimed("compiling and drawing the first grid"):
        grid = run.draw_grid(state)
        if run.log:
            run.log.grid(step, grid)


class Meter:
    """Reads the metrics of a step while the next one runs, so the device never waits.

    Args:
      run: the run.
      start: completed steps.

    Attributes:
      pending: a step and its metrics, which are still being computed.
      last_saved: the newest step whose checkpoint was begun; -1: none.
    """

    def __init__(self, run: Run, start: int):
        self.run, self.log = run, run.log
        self.last_saved = start if run.checkpoints.latest is not None else -1
        self.pending: tuple[int, dict[str, jax.Array]] | None = None
        self.waited, self.since = 0.0, time.perf_counter()

    def next_batch(self) -> dict[str, jax.Array]:
        """The next batch, on the devices; the time that it takes is logged."""
        start = time.perf_counter()
        batch = sharding.global_batch(self.run.mesh, next(self.run.data))
        self.waited += time.perf_counter() - start
        return batch

    def read(self, evaluated: dict[str, float]) -> dict[str, float]:
        """The pending metrics, checked and, if due, logged.

        Args:
          evaluated: metrics of an evaluation to log with them; if any, they are due.

        Raises:
          UserError: if one is not finite.
        """
        if self.pending is None:
            return {}
        (step, metrics), self.pending = self.pending, None
        values = {name: float(value) for name, value in metrics.items()}
        check_finite(step, values, self.last_saved)
        values |= evaluated
        if self.log is None:
            return values
        config = self.run.config
        logged = bool(evaluated) or due(step, config.log_every, config)
        if logged:
            now = time.perf_counter()
            share = self.waited / (now - self.since)
            self.log.metrics(step, values | {"data_wait": round(share, 4)})
            self.waited, self.since = 0.0, now
        self.log.progress(step, evaluated | values, logged)
        return values

    @contextlib.contextmanager
    def compiling(self) -> Iterator[None]:
        """Exclude a block from the rate, and let signals interrupt it."""
        with self.untimed("compiling the training step"), signals.interruptible():
            yield

    @contextlib.contextmanager
    def untimed(self, activity: str) -> Iterator[None]:
        """Exclude a block from the rate; its activity is shown the first time."""
        start = time.perf_counter()
        with self.log.announce(activity) if self.log else contextlib.nullcontext():
            yield
        if self.log:
            self.log.leave_out(time.perf_counter() - start)


# ---- when it stops ----


def check_finite(step: int, values: dict[str, float], last_saved: int) -> None:
    """Stop a run whose metrics are no longer finite.

    Raises:
      UserError: with the step, the metrics and the last good checkpoint.
    """
    bad = [name for name, value in values.items() if not math.isfinite(value)]
    if bad:
        kept = f"checkpoint {last_saved} is kept" if last_saved >= 0 else "none is kept"
        raise UserError(
            f"{', '.join(bad)} is not finite at step {step}; {kept}: lower "
            "config.opt.lr, or resume in float32 if config.model.dtype is bfloat16"
        )


def check_finite_state(step: int, state: State, last_saved: int) -> None:
    """Stop before saving parameters that are not finite, even if the losses were."""
    values = {} if all_finite(state.params) else {"a parameter": math.nan}
    check_finite(step, values, last_saved)


@jax.jit
def all_finite(tree: Any) -> jax.Array:
    """Whether every number of a tree is finite."""
    leaves = [jnp.isfinite(x).all() for x in jax.tree.leaves(tree)]
    return jnp.stack(leaves).all()


@contextlib.contextmanager
def stop_on_signal() -> Iterator[Callable[[int], bool]]:
    """Yield a function of the step that returns whether to stop after it.

    On several hosts, JAX's preemption service makes them agree on the step of a SIGTERM.
    """
    if jax.process_count() > 1:
        yield lambda step: multihost_utils.reached_preemption_sync_point(step)
        return
    with signals.deferred() as received:
        yield lambda step: received()
