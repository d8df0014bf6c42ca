"""What the training loop does at which step, with a step that only counts."""

import itertools
import math
import signal
from types import SimpleNamespace
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest

from picjax import sharding, signals
from picjax.cli import UserError
from picjax.loop import Run, loop
from picjax.system import State


class Events(list):
    """What a run did, in order; stands in for its checkpoints and its log."""

    latest = None

    def poll(self):
        self.append("poll")

    def wait(self):
        self.append("wait")

    def save(self, state, metrics):
        self.append(("save", int(state.step), metrics))


@pytest.fixture
def run(monkeypatch):
    """A run of 5 steps whose loss is the step."""
    monkeypatch.setattr(signals._Status, "received", None)
    monkeypatch.setattr(signals._Status, "forgotten", False)
    events = Events()
    config: Any = SimpleNamespace(
        steps=5,
        log_every=1,
        save_every=2,
        sample_every=0,
        eval=SimpleNamespace(every=0),
    )

    def step(state, batch):
        state = state.replace(step=state.step + 1, params=state.params + batch["x"])
        return state, {"loss": jnp.float32(state.step)}

    def evaluate(state):
        events.append(("evaluate", int(state.step)))
        return {"eval/l1": 0.5}

    def draw_grid(state):
        events.append(("sample", int(state.step)))
        return np.zeros((1, 1, 3), np.uint8)

    data = itertools.repeat({"x": np.ones(1, np.float32)})
    checkpoints: Any = events
    mesh = sharding.make_mesh()
    return Run(config, mesh, data, step, checkpoints, None, draw_grid, evaluate)


def start() -> State:
    return State(jnp.int32(0), jnp.zeros(1), {}, {}, {})


def done(run: Run) -> list[Any]:
    """What happened besides the check after every step."""
    events: Any = run.checkpoints
    return [event for event in events if event != "poll"]


def test_saves_samples_and_evaluations_are_at_their_steps_and_at_the_end(run):
    run.config.sample_every, run.config.eval.every = 4, 3
    state = loop(run, start())
    assert int(state.step) == 5 and run.checkpoints.count("poll") == 5
    last = {"loss": 5.0, "eval/l1": 0.5}
    assert done(run) == [
        ("save", 2, {"loss": 2.0}),
        ("evaluate", 3),
        ("save", 4, {"loss": 4.0}),
        ("sample", 4),
        ("evaluate", 5),
        ("save", 5, last),
        ("sample", 5),
        "wait",
    ]


def test_a_signal_ends_the_run_after_its_step_with_a_checkpoint(run):
    def step(state, batch):
        if int(state.step) == 2:
            signals._Status.received = signal.SIGTERM
        return run.step(state, batch)

    with pytest.raises(signals.Interrupted, match="SIGTERM and saved at step 3; the"):
        loop(run._replace(step=step), start())
    assert done(run)[-2:] == [("save", 3, {"loss": 3.0}), "wait"]


def test_a_signal_in_the_last_step_changes_nothing(run):
    def step(state, batch):
        if int(state.step) == 4:
            signals._Status.received = signal.SIGINT
        return run.step(state, batch)

    assert int(loop(run._replace(step=step), start()).step) == 5
    assert signals._Status.received is None and signals._Status.forgotten


def test_what_is_not_finite_is_not_saved(run):
    def spoilt(state, batch):
        state, metrics = run.step(state, batch)
        return state.replace(params=state.params * math.nan), metrics

    with pytest.raises(UserError, match="a parameter is not finite at step 2; none is"):
        loop(run._replace(step=spoilt), start())

    def diverged(state, batch):
        state, _ = run.step(state, batch)
        return state, {"loss": jnp.float32(math.inf)}

    with pytest.raises(UserError, match="loss is not finite at step 1; none is kept"):
        loop(run._replace(step=diverged), start())
    assert not done(run)
