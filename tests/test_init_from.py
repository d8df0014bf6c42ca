"""A new run starts from another one's weights: what fits is taken, all is listed."""

import jax.numpy as jnp
import numpy as np
import pytest

from picjax.cli import UserError
from picjax.init_from import Source, compare, take
from picjax.system import State


def run(value: float, width: int = 3, nets=("encoder", "generator"), ema=()):
    params = {
        net: {"w": jnp.full((2, width), value), "b": jnp.full(4, value)} for net in nets
    }
    stats = {net: {"mean": jnp.full(2, value)} for net in nets}
    averages = {net: params[net] for net in ema}
    return State(jnp.int32(0), params, stats, {"opt": jnp.zeros(3)}, averages)


def source(state: State) -> Source:
    variables = {"params": state.params, "stats": state.stats}
    return Source("runs/a", variables, 40)


def test_what_fits_is_taken_and_the_optimiser_is_not():
    state = run(0.0, width=5, ema=("generator",))
    theirs = source(run(1.0))
    started = take(state, theirs)
    for tree in (started.params["generator"], started.ema["generator"]):
        assert (tree["b"] == 1).all() and (tree["w"] == 0).all()
    assert (started.stats["encoder"]["mean"] == 1).all()
    assert started.opt is state.opt and int(started.step) == 0
    lines = compare(state, theirs)
    assert lines[0] == "initial weights from step 40 of runs/a:"
    why = "left at their initial values: encoder/w is (2, 3) there, (2, 5) here"
    assert lines[1] == f"  encoder: 1 of 2 arrays; {why}" and len(lines) == 3


def test_nets_of_one_side_only_are_listed():
    lines = compare(run(0.0), source(run(1.0, nets=("encoder", "classifier"))))
    assert "  encoder: 2 of 2 arrays" in lines
    assert "  generator: 0 of 2 arrays; left" in lines[2]
    assert "generator/b is absent there; generator/w is absent there" in lines[2]
    assert lines[3] == "  not used: classifier"


def test_dtype_and_layout_stay_the_new_runs():
    theirs = source(run(1.0))
    theirs.variables["params"]["encoder"]["b"] = np.full(4, 2.0)  # float64
    b = take(run(0.0), theirs).params["encoder"]["b"]
    assert b.dtype == jnp.float32 and (b == 2).all()


def test_another_methods_run_is_refused():
    with pytest.raises(
        UserError, match="'runs/a' has no array of .*encoder, generator"
    ):
        compare(run(0.0), source(run(1.0, nets=("unet",))))
