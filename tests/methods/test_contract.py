"""Every system goes through the same contract, on its tiny config."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers.configs import load_config, make_batch

from picjax import methods
from picjax.cli import UserError
from picjax.system import inference_variables


@pytest.mark.parametrize("name", methods.NAMES)
def test_a_misspelt_dtype_is_refused(name):
    config = load_config(name, "tiny")
    config.model.dtype = "float23"
    with pytest.raises(UserError, match="dtype 'float23' .* did you mean 'float32'"):
        methods.make(config)


@pytest.fixture(scope="module", params=methods.NAMES)
def trained(request):
    """(system, batch, states after 0, 1 and 2 steps, metrics)."""
    config = load_config(request.param, "tiny")
    system = methods.make(config)
    batch = make_batch(config.image_size)
    state = jax.jit(system.init)(batch, jax.random.key(0))
    step = jax.jit(system.step)
    states, metrics = [state], []
    for i in range(2):
        state, values = step(state, batch, jax.random.key(i))
        states.append(state)
        metrics.append(values)
    return system, batch, states, metrics


def test_init_is_abstract(trained):
    system, batch, states, _ = trained
    shapes = jax.eval_shape(system.init, batch, jax.random.key(0))
    assert jax.tree.map(jnp.shape, shapes) == jax.tree.map(jnp.shape, states[0])


def test_steps_change_every_owned_net_and_stay_finite(trained):
    _, _, states, metrics = trained
    assert [int(s.step) for s in states] == [0, 1, 2]
    for values in metrics:
        assert values and all(np.isfinite(v) and v.shape == () for v in values.values())
    for net in states[0].params:
        before, after = (jax.tree.leaves(s.params[net]) for s in (states[0], states[2]))
        assert any((a != b).any() for a, b in zip(before, after, strict=True)), net
    assert all(jnp.isfinite(x).all() for x in jax.tree.leaves(states[2]))


def test_step_is_a_function(trained):
    system, batch, states, _ = trained
    again, _ = jax.jit(system.step)(states[0], batch, jax.random.key(0))
    jax.tree.map(np.testing.assert_array_equal, again, states[1])


def test_completions_keep_known_pixels_and_differ(trained):
    system, batch, states, _ = trained
    variables = inference_variables(states[2])
    key = jax.random.key(1)
    images = jax.jit(system.complete, static_argnums=3)(variables, batch, key, 2)
    size = batch["image"].shape[1]
    assert images.shape == (2, 2, size, size, 3)
    known = jnp.broadcast_to(batch["mask"][:, None] > 0.5, images.shape)
    truth = jnp.broadcast_to(batch["image"][:, None], images.shape)
    np.testing.assert_array_equal(images[known], truth[known])
    assert float(jnp.abs(images[:, 0] - images[:, 1]).max()) > 1e-4
    # The first do not depend on how many are asked for; the rest is as it is made.
    made = jax.jit(system.sample, static_argnums=3)(variables, batch, key, 3)
    assert made.shape == (2, 3, size, size, 3) and jnp.isfinite(made).all()
    np.testing.assert_allclose(made[:, :2][~known], images[~known], atol=1e-5)


def test_evaluate_and_show(trained):
    system, batch, states, _ = trained
    variables = inference_variables(states[2])
    values = jax.jit(system.evaluate)(variables, batch, jax.random.key(1))
    assert values and all(v.shape == (2,) for v in values.values())
    shown = jax.jit(system.visualize)(variables, batch, jax.random.key(1))
    for image in shown.values():
        assert image.shape == batch["image"].shape


def test_hidden_pixels_do_not_reach_a_completion(trained):
    system, batch, states, _ = trained
    variables = inference_variables(states[2])
    complete = jax.jit(partial(system.complete, n=1))
    other = batch | {"image": jnp.where(batch["mask"] > 0, batch["image"], 0.3)}
    key = jax.random.key(3)
    a, b = complete(variables, batch, key), complete(variables, other, key)
    np.testing.assert_array_equal(a, b)
