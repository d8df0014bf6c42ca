"""Every method passes the same contract, on its tiny config."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers.configs import load_config, make_batch
from helpers.states import first_state

from picjax import methods
from picjax.cli import UserError
from picjax.system import State, System, inference_variables

KEY = jax.random.key(0)


@pytest.mark.parametrize("name", methods.NAMES)
def test_a_misspelt_dtype_is_refused(name):
    config = load_config(name, "tiny")
    config.model.dtype = "float23"
    with pytest.raises(UserError, match="dtype 'float23' .* did you mean 'float32'"):
        methods.make(config)


class Trained(NamedTuple):
    """A method, its compiled functions, and states after 0, 1 and 2 steps."""

    config: Any
    system: System
    step: Any
    complete: Any  # with n as its last, static argument
    batch: dict[str, Any]
    states: list[State]
    metrics: list[dict[str, Any]]

    @property
    def variables(self):
        return inference_variables(self.states[2])


def make_config(name):
    """The tiny config, at a rate that does not depend on the number of steps."""
    config = load_config(name, "tiny")
    config.opt.decay = 0.0
    return config


@pytest.fixture(scope="module", params=methods.NAMES)
def trained(request):
    config = make_config(request.param)
    system = methods.make(config)
    batch = make_batch(config.image_size)
    state = first_state(system, batch)
    step = jax.jit(system.step)
    states, metrics = [state], []
    for i in range(2):
        state, values = step(state, batch, jax.random.key(i))
        states.append(state)
        metrics.append(values)
    complete = jax.jit(system.complete, static_argnums=3)
    return Trained(config, system, step, complete, batch, states, metrics)


def test_init_is_abstract(trained):
    shapes = jax.eval_shape(trained.system.init, trained.batch, KEY)
    state = trained.states[0]
    assert jax.tree.map(jnp.shape, shapes) == jax.tree.map(jnp.shape, state)


def test_steps_change_every_owned_net_and_stay_finite(trained):
    states = trained.states
    assert [int(s.step) for s in states] == [0, 1, 2]
    for values in trained.metrics:
        assert values.keys() <= trained.system.meanings.keys()
        assert values and all(np.isfinite(v) and v.shape == () for v in values.values())
    for net in states[0].params:
        before, after = (jax.tree.leaves(s.params[net]) for s in (states[0], states[2]))
        assert any((a != b).any() for a, b in zip(before, after, strict=True)), net
    assert all(jnp.isfinite(x).all() for x in jax.tree.leaves(states[2]))


def test_step_is_a_function(trained):
    """The same values again; traced again for more steps, the same program.

    A run that resumes with more steps then finds its program in the cache.
    """
    inputs = trained.states[0], trained.batch, KEY
    again, _ = trained.step(*inputs)
    jax.tree.map(np.testing.assert_array_equal, again, trained.states[1])
    longer = trained.config.copy_and_resolve_references()
    longer.steps = 2 * trained.config.steps
    program = jax.jit(methods.make(longer).step).lower(*inputs).as_text()
    assert program == trained.step.lower(*inputs).as_text()


def test_completions_keep_known_pixels_and_differ(trained):
    batch, variables = trained.batch, trained.variables
    images = trained.complete(variables, batch, KEY, 2)
    size = batch["image"].shape[1]
    assert images.shape == (2, 2, size, size, 3)
    known = jnp.broadcast_to(batch["mask"][:, None] > 0.5, images.shape)
    truth = jnp.broadcast_to(batch["image"][:, None], images.shape)
    np.testing.assert_array_equal(images[known], truth[known])
    assert float(jnp.abs(images[:, 0] - images[:, 1]).max()) > 1e-4
    # The i-th sample does not depend on their number; holes are the networks'.
    sample = jax.jit(trained.system.sample, static_argnums=3)
    counted, room = batch, 3
    if trained.system.counts_draws:  # 3 of the 4 that there is room for
        counted, room = batch | {"count": jnp.int32([0, 3])}, 4
    samples = sample(variables, counted, KEY, room)[:, :3]
    assert samples.shape == (2, 3, size, size, 3) and jnp.isfinite(samples).all()
    np.testing.assert_allclose(samples[:, :2][~known], images[~known], atol=1e-5)


def test_evaluate_and_visualize(trained):
    system, batch, variables = trained.system, trained.batch, trained.variables
    values = jax.jit(system.evaluate)(variables, batch, KEY)
    assert values and all(v.shape == (2,) for v in values.values())
    columns = jax.jit(system.visualize)(variables, batch, KEY)
    for image in columns.values():
        assert image.shape == batch["image"].shape


def test_hidden_pixels_do_not_reach_a_completion(trained):
    batch, variables = trained.batch, trained.variables
    hidden = jnp.where(batch["mask"] > 0, batch["image"], 0.3)
    a = trained.complete(variables, batch, KEY, 2)
    b = trained.complete(variables, batch | {"image": hidden}, KEY, 2)
    np.testing.assert_array_equal(a, b)
