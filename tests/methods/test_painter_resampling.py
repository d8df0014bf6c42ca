"""RePaint's sampler against lists, single steps and a posterior in closed form."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers.recorded_noise import recorded_noise

from picjax.cli import UserError
from picjax.methods.painter import process
from picjax.methods.painter.process import Denoiser, Parameterization
from picjax.methods.painter.resampling import (
    PRESETS,
    Resampling,
    make_noise,
    make_plan,
    repaint,
    visited_steps,
)
from picjax.system import composite

KEY = jax.random.key(0)
TWICE = Resampling(jump_length=2, jump_n_sample=2)


def test_visited_steps_and_plan_of_a_small_process():
    visited = visited_steps(6, TWICE)
    assert visited == [5, 4, 3, 2, 3, 4, 3, 2, 1, 0, 1, 2, 1, 0, -1]
    plan = make_plan(6, TWICE)
    assert plan.t.tolist() == [5, 4, 3, 4, 3, 2, 1, 2, 1, 0]
    assert plan.reached.tolist() == [5, 4, 3, 2, 3, 2, 1, 0, 1, 0]
    assert (plan.evaluations, plan.forward_steps) == (10, 4)
    stopped = visited_steps(6, TWICE._replace(stop_resampling=1))
    assert stopped == [5, 4, 3, 2, 3, 4, 3, 2, 1, 0, -1]


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
def test_presets_take_the_documented_number_of_evaluations(name, least, most):
    spacing, resampling, _ = PRESETS[name]
    schedule = process.make_schedule("linear", 1000, spacing)
    plan = make_plan(schedule.steps, resampling)
    assert least <= plan.evaluations <= most
    assert plan.evaluations - plan.forward_steps == schedule.steps
    assert (plan.t - plan.reached >= 0).all() and plan.reached[0] == schedule.steps - 1


@pytest.mark.parametrize(
    "resampling", [Resampling(jump_length=0), Resampling(n_sample=0)]
)
def test_empty_jumps_are_rejected(resampling):
    with pytest.raises(UserError, match="give 1 or more"):
        visited_steps(10, resampling)


# ---- an exact network for two correlated Gaussian pixels ----

SCALE, CORRELATION = 0.3, 0.9
COVARIANCE = SCALE**2 * np.array([[1, CORRELATION], [CORRELATION, 1]])
SCHEDULE = process.make_schedule("linear", 1000, "25")
TRAINED = process.make_schedule("linear", 1000)


def exact_network(x, t):
    """The expected noise of x [b 1 2 3], and the lower bound of the variance."""
    alphas = jnp.asarray(TRAINED.alphas_cumprod, jnp.float32)[t][:, None, None]
    covariance = alphas * COVARIANCE[None] + (1 - alphas) * jnp.eye(2)[None]
    solved = jnp.linalg.solve(covariance, x[:, 0])
    epsilon = (jnp.sqrt(1 - alphas) * solved)[:, None]
    return jnp.concatenate([epsilon, -jnp.ones_like(epsilon)], -1)


EXACT = Denoiser(exact_network, SCHEDULE, Parameterization("epsilon", "learned_range"))


def complete(resampling, n=800):
    """n draws of the right pixel given SCALE as the left one."""
    plan = make_plan(SCHEDULE.steps, resampling)
    image = jnp.full((n, 1, 2, 3), SCALE)
    mask = jnp.broadcast_to(jnp.array([1.0, 0.0])[None, None, :, None], (n, 1, 2, 1))

    @jax.jit
    def run(keys):
        images, _ = repaint(EXACT, plan, image, mask, make_noise(keys, (1, 2)))
        return composite({"image": image, "mask": mask}, images)

    out = np.asarray(run(jax.random.split(KEY, n)))
    assert (out[:, :, 0] == np.float32(SCALE)).all()
    return out[:, 0, 1]


def test_jumps_bring_the_hole_to_the_posterior():
    # Given SCALE on the left: mean 0.27, deviation 0.13.
    mean, deviation = CORRELATION * SCALE, SCALE * np.sqrt(1 - CORRELATION**2)
    without = complete(Resampling())
    resampled = complete(Resampling(jump_n_sample=8))
    # 25 steps are few: the network's variance is that of infinitely many.
    assert abs(resampled.mean() - mean) < 0.07
    assert abs(resampled.std() - deviation) < 0.02
    assert without.mean() < resampled.mean() - 0.04


def test_ddim_without_noise_is_a_function_of_the_initial_noise():
    plan = make_plan(SCHEDULE.steps, Resampling())
    nothing = jnp.zeros((3, 1, 2, 3))
    noise = make_noise(jax.random.split(KEY, 3), (1, 2))
    other = make_noise(jax.random.split(jax.random.key(1), 3), (1, 2))
    other = other._replace(initial=noise.initial)

    def run(noise, **options):
        return repaint(EXACT, plan, nothing, nothing, noise, **options)

    first, x0 = run(noise, eta=0.0, record=lambda transition: transition.x0)
    assert x0.shape == (25, *nothing.shape)
    np.testing.assert_allclose(first, run(other, eta=0.0)[0], atol=1e-6)
    assert float(jnp.abs(first - run(other)[0]).max()) > 0.01


def test_an_image_does_not_depend_on_the_rest_of_its_batch():
    keys = jax.random.split(KEY, 3)
    plan = make_plan(SCHEDULE.steps, Resampling(jump_length=5, jump_n_sample=2))

    @jax.jit
    def run(keys):
        noise = make_noise(keys, (1, 2))
        image = jnp.zeros_like(noise.initial)
        mask = jnp.ones_like(image).at[:, :, 1].set(0)
        return repaint(EXACT, plan, image, mask, noise)[0]

    np.testing.assert_allclose(run(keys[1:2]), run(keys)[1:2], atol=1e-6)


def test_combined_forward_steps_are_one_gaussian_step():
    plan = make_plan(6, TWICE)
    schedule = process.make_schedule("linear", 1000, "6")
    rng = np.random.default_rng(0)
    # The initial x, ten evaluations, four forward steps, nine times the known pixels.
    stream = rng.standard_normal((24, 1, 1, 1, 3)).astype(np.float32)
    noise = recorded_noise(schedule, plan, stream)
    x = jnp.asarray(rng.standard_normal((1, 1, 1, 3)), jnp.float32)
    # Before the fourth evaluation: 1 + 3 + 2 draws; then up from 2 to 4.
    single = process.forward_step(schedule, x, jnp.array([3]), jnp.asarray(stream[6]))
    single = process.forward_step(
        schedule, single, jnp.array([4]), jnp.asarray(stream[7])
    )
    ratio = schedule.alphas_cumprod[4] / schedule.alphas_cumprod[2]
    forward = noise.draw(jnp.int32(3)).forward
    combined = np.sqrt(ratio) * x + np.sqrt(1 - ratio) * forward
    np.testing.assert_allclose(combined, single, atol=1e-6)
    with pytest.raises(ValueError, match="48 for a plan that takes 24"):
        recorded_noise(schedule, plan, np.concatenate([stream, stream]))
