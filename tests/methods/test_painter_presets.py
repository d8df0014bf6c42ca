"""The painter's samplers of the posterior, by name."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers.configs import load_config, make_batch
from helpers.states import first_variables

from picjax.cli import UserError
from picjax.methods.painter import process
from picjax.methods.painter.samplers.presets import Cost
from picjax.methods.painter.system import Painter


def make_short(preset):
    """The tiny painter with a preset, on ten steps."""
    config = load_config("painter", "tiny")
    config.sampler.preset = preset
    system = Painter.from_config(config)
    schedule = process.make_schedule("linear", 1000, "10")
    return dataclasses.replace(
        system, sampler=system.sampler._replace(schedule=schedule)
    )


@pytest.fixture(scope="module")
def variables():
    """No network depends on the preset."""
    return first_variables(make_short("ddnm"), make_batch(8))


@pytest.mark.parametrize("name", ["ddnm", "pigdm", "copaint", "tds"])
def test_a_preset_completes_and_keeps_known_pixels(name, variables):
    system = make_short(name)
    batch = make_batch(8)
    complete = jax.jit(system.complete, static_argnums=3)
    images = complete(variables, batch, jax.random.key(1), 2)
    assert jnp.isfinite(images).all()
    known = np.broadcast_to(batch["mask"][:, None] > 0.5, images.shape)
    truth = np.broadcast_to(batch["image"][:, None], images.shape)
    np.testing.assert_array_equal(np.asarray(images)[known], truth[known])
    assert float(jnp.abs(images[:, 0] - images[:, 1]).max()) > 1e-3


@pytest.mark.parametrize(
    ("name", "cost"),
    [
        ("ddnm", Cost(100)),
        ("ddnm-fast", Cost(50)),
        ("ddnm-fine", Cost(250)),
        ("ddnm-travel", Cost(280)),
        ("pigdm", Cost(100, 100)),
        ("dps", Cost(250, 250)),
        ("copaint", Cost(1245, 498)),
        ("smcdiff", Cost(1600, 0, 16)),
        ("tds", Cost(400, 400, 4)),
    ],
)
def test_costs_count_evaluations_gradients_and_particles(name, cost):
    config = load_config("painter", "tiny")
    config.sampler.preset = name
    sampler = Painter.from_config(config).sampler
    assert sampler.cost == cost


def test_a_cost_is_a_sentence():
    assert str(Cost(1510)) == "1,510 evaluations of the network per completion"
    assert str(Cost(400, 400, 4)) == (
        "400 evaluations of the network, 400 gradients through it, 4 particles in "
        "memory per completion"
    )


def test_a_classifier_that_would_be_ignored_is_refused():
    config = load_config("painter", "digits")
    config.sampler.preset = "ddnm"
    with pytest.raises(UserError, match="does not follow a classifier; set .*=0"):
        Painter.from_config(config)
    config.sampler.guidance = 0.0
    assert Painter.from_config(config).sampler.cost == Cost(100)
