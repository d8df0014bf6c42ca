"""The resampling walk against lists, single steps and a posterior known in closed form."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from picjax.cli import UserError
from picjax.methods.painter import process as diffusion
from picjax.methods.painter import resampling as walk
from picjax.methods.painter.process import Kind
from picjax.methods.painter.resampling import PRESETS, Jumps

KEY = jax.random.key(0)


def test_a_small_walk_is_the_list_written_out():
    seen = walk.visits(6, Jumps(length=2, times=2))
    assert seen == [5, 4, 3, 2, 3, 4, 3, 2, 1, 0, 1, 2, 1, 0, -1]
    plan = walk.plan(6, Jumps(length=2, times=2))
    assert plan.at.tolist() == [5, 4, 3, 4, 3, 2, 1, 2, 1, 0]
    assert plan.after.tolist() == [5, 4, 3, 2, 3, 2, 1, 0, 1, 0]
    assert (plan.calls, plan.steps_back) == (10, 4)
    assert walk.visits(6, Jumps(length=2, times=2, stop=1)) == [
        *(5, 4, 3, 2, 3, 4, 3, 2, 1, 0, -1)
    ]


@pytest.mark.parametrize(
    ("name", "least", "most"),
    [
        ("repaint", 2410, 2410),
        ("painter", 1510, 1510),
        ("fast", 100, 500),
        ("draft", 20, 50),
        ("plain", 250, 250),
    ],
)
def test_presets_take_the_calls_that_they_promise(name, least, most):
    spacing, jumps, _ = PRESETS[name]
    tables = diffusion.tables("linear", 1000, spacing)
    plan = walk.plan(tables.steps, jumps)
    assert least <= plan.calls <= most
    assert plan.calls - plan.steps_back == tables.steps
    assert (plan.at - plan.after >= 0).all() and plan.after[0] == tables.steps - 1


@pytest.mark.parametrize("jumps", [Jumps(length=0), Jumps(repeats=0)])
def test_jumps_that_lead_nowhere_are_refused(jumps):
    with pytest.raises(UserError, match="give 1 or more"):
        walk.visits(10, jumps)


# ---- a network that knows: two pixels, Gaussian and correlated ----

SCALE, CORRELATION = 0.3, 0.9
COVARIANCE = SCALE**2 * np.array([[1, CORRELATION], [CORRELATION, 1]])
TABLES = diffusion.tables("linear", 1000, "25")
WHOLE = diffusion.tables("linear", 1000)


def knowing(x, t):
    """The expected noise of x [b 1 2 3], and the variance's lower bound."""
    abar = jnp.asarray(WHOLE.abar, jnp.float32)[t][:, None, None]
    spread = abar * COVARIANCE[None] + (1 - abar) * jnp.eye(2)[None]
    flat = x[:, 0]
    solved = jnp.linalg.solve(spread, flat)
    epsilon = (jnp.sqrt(1 - abar) * solved)[:, None]
    return jnp.concatenate([epsilon, -jnp.ones_like(epsilon)], -1)


def complete(jumps, n=800, known=SCALE):
    """n draws of the right pixel given the left one."""
    plan = walk.plan(TABLES.steps, jumps)
    image = jnp.full((n, 1, 2, 3), known)
    mask = jnp.broadcast_to(jnp.array([1.0, 0.0])[None, None, :, None], (n, 1, 2, 1))

    @jax.jit
    def run(keys):
        start, draw = walk.draw_noise(keys, (1, 2))
        return walk.run(knowing, TABLES, plan, Kind(), start, image, mask, draw)[0]

    out = np.asarray(run(jax.random.split(KEY, n)))
    assert (out[:, :, 0] == known).all()
    return out[:, 0, 1]


def test_jumps_bring_the_hole_to_the_posterior():
    # Given SCALE on the left: mean 0.27, deviation 0.13.
    mean, deviation = CORRELATION * SCALE, SCALE * np.sqrt(1 - CORRELATION**2)
    without = complete(Jumps(times=1))
    often = complete(Jumps(length=1, times=8))
    # 25 steps are few: the network's variance is that of infinitely many.
    assert abs(often.mean() - mean) < 0.07
    assert abs(often.std() - deviation) < 0.02
    assert without.mean() < often.mean() - 0.04


def test_ddim_without_noise_is_a_function_of_the_start():
    plan = walk.plan(TABLES.steps, Jumps(times=1))
    nothing = jnp.zeros((3, 1, 2, 3))
    start, draw = walk.draw_noise(jax.random.split(KEY, 3), (1, 2))
    _, other = walk.draw_noise(jax.random.split(jax.random.key(1), 3), (1, 2))
    run = partial(walk.run, knowing, TABLES, plan, Kind(), start, nothing, nothing)
    first, seen = run(draw, eta=0.0, watch=lambda seen: seen.x0)
    assert seen.shape == (25, *nothing.shape)
    np.testing.assert_allclose(first, run(other, eta=0.0)[0], atol=1e-6)
    assert float(jnp.abs(first - run(other)[0]).max()) > 0.01


def test_an_image_does_not_depend_on_those_beside_it():
    keys = jax.random.split(KEY, 3)
    plan = walk.plan(TABLES.steps, Jumps(length=5, times=2))

    @jax.jit
    def run(keys):
        start, draw = walk.draw_noise(keys, (1, 2))
        image, known = jnp.zeros_like(start), jnp.ones_like(start)
        known = known.at[:, :, 1].set(0)
        out = walk.run(knowing, TABLES, plan, Kind(), start, image, known, draw)
        return out[0]

    np.testing.assert_allclose(run(keys[1:2]), run(keys)[1:2], atol=1e-6)


def test_steps_back_put_together_are_one_step():
    plan = walk.plan(6, Jumps(length=2, times=2))
    tables = diffusion.tables("linear", 1000, "6")
    rng = np.random.default_rng(0)
    # First x, ten calls, four steps back, and nine times the known pixels.
    stream = rng.standard_normal((24, 1, 1, 1, 3)).astype(np.float32)
    _, draw = walk.given_noise(tables, plan, stream)
    x = jnp.asarray(rng.standard_normal((1, 1, 1, 3)), jnp.float32)
    # Before the fourth call: x, 3 calls with 2 known pixels; then from 2 up to 4.
    one_by_one = diffusion.undo(tables, x, jnp.array([3]), jnp.asarray(stream[6]))
    one_by_one = diffusion.undo(
        tables, one_by_one, jnp.array([4]), jnp.asarray(stream[7])
    )
    ratio = tables.abar[4] / tables.abar[2]
    back = draw(jnp.int32(3)).back
    at_once = np.sqrt(ratio) * x + np.sqrt(1 - ratio) * back
    np.testing.assert_allclose(at_once, one_by_one, atol=1e-6)
    with pytest.raises(ValueError, match="48 for a walk that takes 24"):
        walk.given_noise(tables, plan, np.concatenate([stream, stream]))
