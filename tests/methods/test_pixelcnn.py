"""PixelCNN++ as a method: orientations, warnings, candidates, rates and averages."""

from dataclasses import replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers.configs import load_config
from helpers.states import first_state
from helpers.trees import differs

from picjax import masks, methods
from picjax.cli import UserError
from picjax.methods.pixelcnn.build import adam
from picjax.methods.pixelcnn.orientation import (
    ORIENTATIONS,
    best_orientation,
    orient,
    restore,
)
from picjax.system import inference_variables

KEY = jax.random.key(0)


@pytest.fixture(scope="module")
def tiny():
    """(config, batch, state) of a network with four orientations."""
    config = load_config("pixelcnn", "tiny")
    config.model.turns = ("upright", "upside_down", "transposed", "three_quarter_turn")
    rng = np.random.default_rng(0)
    sides = ("top", "bottom", "left", "right")
    mask = np.stack([masks.make(side, (8, 8), rng) for side in sides])
    image = (2 * rng.integers(0, 256, (4, 8, 8, 3)) - 255) / 255
    batch = {"image": jnp.float32(image), "mask": jnp.float32(mask[..., None])}
    state = first_state(methods.make(config), batch)
    return config, batch, state


def make(config) -> Any:
    return methods.make(config)


def test_orientations_differ_and_are_restored():
    x = jnp.arange(4 * 8 * 3.0).reshape(1, 4, 8, 3)
    distinct = set()
    for name in ORIENTATIONS:
        oriented = orient(x, name)
        distinct.add(np.asarray(oriented).tobytes() + str(oriented.shape).encode())
        np.testing.assert_array_equal(restore(oriented, name), x)
    assert len(distinct) == 8


def test_halves_are_exact_in_their_orientations(tiny):
    config, batch, _ = tiny
    system = make(config)
    index = best_orientation(system.orientations, batch["mask"])
    np.testing.assert_array_equal(index, [0, 1, 2, 3])
    for mask in np.asarray(batch["mask"][..., 0], np.uint8):
        assert not system.mask_warnings(mask)
    upright = replace(system, orientations=("upright",))
    lower = np.asarray(batch["mask"][1, ..., 0], np.uint8)
    (warning,) = upright.mask_warnings(lower)
    assert warning.startswith("100% of the known pixels")


def test_oriented_batches_are_restored(tiny):
    config, batch, _ = tiny
    system = make(config)
    index = jnp.array([1, 2, 3, 0])
    oriented = system.orient(batch, index)
    assert float(jnp.abs(oriented.image - batch["image"]).max()) > 0.1
    np.testing.assert_array_equal(oriented.condition, jnp.eye(4)[index])
    restored = system.restore(oriented.image, oriented.orientation)
    np.testing.assert_array_equal(restored, batch["image"])
    # Whichever half is known, the network reads it first.
    known = system.orient(batch, jnp.arange(4)).known
    assert known[:, :4].all() and not known[:, 4:].any()


def test_the_condition_holds_orientation_and_class(tiny):
    """The class of the image, or the config's for images without one."""
    config, batch, _ = tiny
    system = replace(
        make(config), orientations=("upright", "upside_down"), classes=3, label=2
    )
    labelled = batch | {"class": jnp.array([0, 1, 2, 0])}
    for inputs, labels in [(batch, [2, 2, 2, 2]), (labelled, [0, 1, 2, 0])]:
        oriented = system.orient_best(inputs)
        classes = jnp.eye(3)[jnp.array(labels)]
        expected = jnp.concatenate([jnp.eye(2)[jnp.array([0, 1, 0, 0])], classes], 1)
        np.testing.assert_array_equal(oriented.condition, expected)
    upright = replace(system, orientations=("upright",)).orient_best(labelled)
    np.testing.assert_array_equal(upright.condition, jnp.eye(3)[labelled["class"]])


def test_training_with_classes_needs_classes(tiny):
    config, batch, _ = tiny
    labelled = batch | {"class": jnp.array([0, 1, 2, 0])}
    config = config.copy_and_resolve_references()
    config.data.classes = 5
    system = make(config)
    state = jax.eval_shape(system.init, batch, KEY)
    assert state.params["net"]["up0_0_u"]["hw"].shape == (4 + 5, 8)
    with pytest.raises(UserError, match=r"set config.data.classes to 0"):
        jax.eval_shape(system.step, state, batch, KEY)
    jax.eval_shape(system.step, state, labelled, KEY)


def test_candidates_are_resampled_by_the_known_pixels_after_the_hole(tiny):
    config, batch, state = tiny
    system = replace(make(config), candidates=2)
    params = state.params
    oriented = system.orient(batch, jnp.zeros(4, jnp.int32))
    # The second of each two candidates has the known pixels wrong.
    right = jnp.broadcast_to(oriented.image[:, None], (4, 3, 8, 8, 3))
    wrong = jnp.where(oriented.known[:, None], 1.0, right)
    both = jnp.stack([right, wrong], 2).reshape(4, 6, 8, 8, 3)
    resample = jax.jit(system.importance_resample)
    picked = resample(params, oriented, both, KEY)
    assert picked.shape == (4, 3, 8, 8, 3)

    @jax.jit
    def score(image):
        each = system.log_likelihood(params, image, oriented.condition)
        return jnp.where(oriented.known[..., 0], each, 0).sum((1, 2))

    scores = [np.asarray(score(x[:, 0])) for x in (right, wrong)]
    clear = np.abs(scores[0] - scores[1]) > 30
    assert clear.any()
    for i in np.flatnonzero(clear):
        better = right if scores[0][i] > scores[1][i] else wrong
        np.testing.assert_array_equal(picked[i], better[i])


def test_the_average_starts_from_the_first_batch_and_follows(tiny):
    config, batch, state = tiny
    system = make(config)
    jax.tree.map(np.testing.assert_array_equal, state.ema, state.params)
    after, metrics = jax.jit(system.step)(state, batch, KEY)
    decay = config.opt.ema
    expected = jax.tree.map(
        lambda a, b: decay * a + (1 - decay) * b, state.params, after.params
    )
    jax.tree.map(partial(np.testing.assert_allclose, atol=1e-6), after.ema, expected)
    # Gains and biases initialised from the batch give about the bits of wide mixtures.
    assert 5 < float(metrics["bits_per_dim"]) < 15


def test_the_hole_has_its_own_bits_per_dim(tiny):
    config, batch, state = tiny
    variables = inference_variables(state)
    evaluate = jax.jit(make(config).evaluate)
    values = evaluate(variables, batch, KEY)
    inverted = batch | {"mask": 1 - batch["mask"]}
    other = evaluate(variables, inverted, KEY)
    assert (np.asarray(values["known_after_hole"]) == 0).all()
    assert not np.allclose(values["bits_per_dim_hole"], other["bits_per_dim_hole"])
    nothing_known = batch | {"mask": jnp.zeros_like(batch["mask"])}
    whole = evaluate(variables, nothing_known, KEY)
    np.testing.assert_allclose(
        whole["bits_per_dim_hole"], whole["bits_per_dim"], rtol=1e-5
    )


def test_training_can_be_limited_to_missing_pixels(tiny):
    config, batch, _ = tiny
    config = config.copy_and_resolve_references()
    config.model.update(turns=("upright",), dropout=0.0)
    config.loss.pixels = "missing"
    mask = jnp.zeros_like(batch["mask"]).at[:, :6].set(1).at[:, 7].set(1)
    batch = batch | {"mask": mask}
    system = make(config)
    state = first_state(system, batch)
    values = jax.jit(system.evaluate)(inference_variables(state), batch, KEY)
    step = jax.jit(system.step)
    after, metrics = step(state, batch, KEY)
    np.testing.assert_allclose(
        metrics["bits_per_dim"], values["bits_per_dim_hole"].mean(), rtol=1e-5
    )
    # Known pixels after the hole have no influence; missing ones have.
    after_hole = batch | {"image": batch["image"].at[:, 7].set(-1.0)}
    inside = batch | {"image": batch["image"].at[:, 6].set(-1.0)}
    assert not differs(step(state, after_hole, KEY)[0].params, after.params)
    assert differs(step(state, inside, KEY)[0].params, after.params)
    assert not system.can_score and make(tiny[0]).can_score


def test_the_rate_falls_from_the_first_step():
    config = load_config("pixelcnn", "tiny")
    config.opt.update(fall=0.5, decay=0.0, lr=1.0)
    tx: Any = adam(config)
    params = jnp.zeros(1)
    state, values = tx.init(params), []
    for _ in range(3):
        updates, state = tx.update(jnp.ones(1), state, params)
        values.append(-float(updates[0]))
    # Adam's own correction of the second moment is 3e-5 off in float32.
    np.testing.assert_allclose(values, [0.5, 0.25, 0.125], rtol=1e-4)


def test_configs_of_older_runs_build_the_same_method():
    """Without the keys that were introduced later."""
    config = load_config("pixelcnn", "tiny")
    older = config.copy_and_resolve_references()
    with older.unlocked():
        del older.data["classes"], older.model["label"], older.loss["pixels"]
    old, new = make(older), make(config)
    for name in ("net", "classes", "label", "pixels"):
        assert getattr(old, name) == getattr(new, name)
    assert "classes" not in older.data


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("image_size", 30, "an image size of 30x30 cannot be halved twice"),
        ("model.sampler", "gibbs", "config.model.sampler 'gibbs' is none of cached"),
        ("model.turns", ("left",), "config.model.turns 'left' is none of upright"),
        ("model.turns", (), "config.model.turns is empty; use at least one of upright"),
        ("loss.form", "exact", "config.loss.form 'exact' is none of official, stable"),
        ("model.candidates", 0, "config.model.candidates is 0; use at least 1"),
        ("loss.pixels", "holes", "config.loss.pixels 'holes' is none of all, missing"),
        ("image_size", -8, "an image size of -8x-8 cannot be halved twice"),
        ("model.features", -4, "config.model.features is -4; use at least 1"),
        ("model.dropout", 1.0, "config.model.dropout is 1.0; use 0 or more, and less"),
        ("opt.decay", 50.0, "config.opt.decay is 50.0; use a share of the steps"),
        ("opt.fall", 1.5, "config.opt.fall is 1.5; use more than 0, and at most 1"),
        ("opt.lr", -1.0, "config.opt.lr is -1.0; use more than 0"),
        ("data.classes", -1, "config.data.classes is -1; use 0 for no classes"),
        ("model.label", 1, "config.model.label 1 is not below config.data.classes, 0"),
    ],
)
def test_impossible_settings_are_refused_in_one_line(key, value, message):
    config = load_config("pixelcnn", "tiny")
    config.update_from_flattened_dict({key: value})
    with pytest.raises(UserError) as error:
        methods.make(config)
    assert message in str(error.value) and "\n" not in str(error.value)


def test_candidates_need_the_likelihood_of_known_pixels():
    config = load_config("pixelcnn", "tiny")
    config.model.candidates, config.loss.pixels = 2, "missing"
    with pytest.raises(UserError, match="candidates above 1 needs the likelihood"):
        methods.make(config)
