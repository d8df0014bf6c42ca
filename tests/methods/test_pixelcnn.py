"""PixelCNN++ as a system: turning, remarks, candidates, rates and averages."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers.configs import load_config

from picjax import masks, methods
from picjax.cli import UserError
from picjax.methods.pixelcnn import raster
from picjax.methods.pixelcnn import system as pixelcnn
from picjax.system import inference_variables

KEY = jax.random.key(0)


@pytest.fixture(scope="module")
def tiny():
    """(config, batch, state) of a network that knows four ways of turning."""
    config = load_config("pixelcnn", "tiny")
    config.model.turns = ("upright", "upside_down", "transposed", "three_quarter_turn")
    rng = np.random.default_rng(0)
    sides = ("top", "bottom", "left", "right")
    mask = np.stack([masks.make(side, (8, 8), rng) for side in sides])
    image = (2 * rng.integers(0, 256, (4, 8, 8, 3)) - 255) / 255
    batch = {"image": jnp.float32(image), "mask": jnp.float32(mask[..., None])}
    state = jax.jit(methods.make(config).init)(batch, KEY)
    return config, batch, state


def test_turning_back_and_forth():
    x = jnp.arange(4 * 8 * 3.0).reshape(1, 4, 8, 3)
    seen = set()
    for name in raster.TURNS:
        there = raster.turn(x, name)
        seen.add(there.tobytes() if hasattr(there, "tobytes") else str(there))
        np.testing.assert_array_equal(raster.turn_back(there, name), x)
    assert len(seen) == 8


def test_halves_are_exact_with_the_turns_for_them(tiny):
    config, batch, _ = tiny
    index = pixelcnn.best_turn(config.model.turns, batch["mask"])
    np.testing.assert_array_equal(index, [0, 1, 2, 3])
    for mask in np.asarray(batch["mask"][..., 0], np.uint8):
        assert not pixelcnn.remarks(config.model.turns, mask)
    said = pixelcnn.remarks(
        ("upright",), np.asarray(batch["mask"][1, ..., 0], np.uint8)
    )
    assert len(said) == 1 and said[0].startswith("100% of the known pixels")


def test_what_is_turned_is_turned_back(tiny):
    config, batch, _ = tiny
    turns = tuple(config.model.turns)
    seen = pixelcnn.turned(
        pixelcnn.network(config.model), turns, batch, jnp.array([1, 2, 3, 0])
    )
    assert float(jnp.abs(seen.image - batch["image"]).max()) > 0.1
    np.testing.assert_array_equal(seen.condition, jnp.eye(4)[jnp.array([1, 2, 3, 0])])
    back = pixelcnn.turned_back(turns, seen.image, seen.which)
    np.testing.assert_array_equal(back, batch["image"])
    held = pixelcnn.turned(pixelcnn.network(config.model), turns, batch, jnp.arange(4))
    # Whichever half was known, the network gets it above.
    assert held.known[:, :4].all() and not held.known[:, 4:].any()


def test_the_class_is_told_beside_the_turn(tiny):
    """An image's own, or the config's where it comes without; training wants its own."""
    config, batch, _ = tiny
    turns = ("upright", "upside_down")
    hyper = pixelcnn.Hyper(turns=turns, classes=3, label=2)
    net = pixelcnn.network(config.model)
    known = batch | {"class": jnp.array([0, 1, 2, 0])}
    for given, labels in [(batch, [2, 2, 2, 2]), (known, [0, 1, 2, 0])]:
        seen = pixelcnn.best_turned(net, hyper, given)
        own = jnp.eye(3)[jnp.array(labels)]
        told = jnp.concatenate([jnp.eye(2)[jnp.array([0, 1, 0, 0])], own], 1)
        np.testing.assert_array_equal(seen.condition, told)
    alone = pixelcnn.best_turned(net, hyper._replace(turns=turns[:1]), known)
    np.testing.assert_array_equal(alone.condition, jnp.eye(3)[known["class"]])
    config = config.copy_and_resolve_references()
    config.data.classes = 5
    system = methods.make(config)
    made = jax.eval_shape(system.init, batch, KEY)
    assert made.params["net"]["up0_0_u"]["hw"].shape == (4 + 5, 8)
    with pytest.raises(UserError, match="set config.data.classes to 0"):
        jax.eval_shape(system.step, made, batch, KEY)
    jax.eval_shape(system.step, made, known, KEY)


def test_candidates_are_chosen_by_what_is_known_after_the_hole(tiny):
    config, batch, state = tiny
    net = pixelcnn.network(config.model)
    params = state.params["net"]
    hyper = pixelcnn.Hyper(turns=tuple(config.model.turns), candidates=2)
    seen = pixelcnn.turned(net, hyper.turns, batch, jnp.zeros(4, jnp.int32))
    # The second of each two candidates has the known pixels wrong.
    right = jnp.broadcast_to(seen.image[:, None], (4, 3, 8, 8, 3))
    wrong = jnp.where(seen.known[:, None], 1.0, right)
    both = jnp.stack([right, wrong], 2).reshape(4, 6, 8, 8, 3)
    picked = jax.jit(partial(pixelcnn.choose, net, hyper))(params, seen, both, KEY)
    assert picked.shape == (4, 3, 8, 8, 3)
    score = jax.jit(partial(known_score, net))
    scores = [np.asarray(score(params, seen, x[:, 0])) for x in (right, wrong)]
    sure = np.abs(scores[0] - scores[1]) > 30
    assert sure.any()
    for i in np.flatnonzero(sure):
        better = right if scores[0][i] > scores[1][i] else wrong
        np.testing.assert_array_equal(picked[i], better[i])


def known_score(net, params, seen, image):
    logits = pixelcnn.look(net, params, image, seen.condition)
    each = pixelcnn.logistic.log_likelihood(image, logits)
    return jnp.where(seen.known[..., 0], each, 0).sum((1, 2))


def test_the_average_starts_from_the_first_batch_and_follows(tiny):
    config, batch, state = tiny
    system = methods.make(config)
    jax.tree.map(np.testing.assert_array_equal, state.ema, state.params)
    after, metrics = jax.jit(system.step)(state, batch, KEY)
    decay = config.opt.ema
    expected = jax.tree.map(
        lambda a, b: decay * a + (1 - decay) * b, state.params, after.params
    )
    jax.tree.map(partial(np.testing.assert_allclose, atol=1e-6), after.ema, expected)
    # Gains and biases fitted to the batch leave it near the bits of wide mixtures.
    assert 5 < float(metrics["bits_per_dim"]) < 15


def test_the_hole_has_bits_of_its_own(tiny):
    config, batch, state = tiny
    system = methods.make(config)
    variables = inference_variables(state)
    evaluate = jax.jit(system.evaluate)
    values = evaluate(variables, batch, KEY)
    known = batch | {"mask": 1 - batch["mask"]}
    other = evaluate(variables, known, KEY)
    assert (np.asarray(values["unused"]) == 0).all()
    assert not np.allclose(values["bits_per_dim_hole"], other["bits_per_dim_hole"])
    none = evaluate(variables, batch | {"mask": jnp.zeros_like(batch["mask"])}, KEY)
    np.testing.assert_allclose(
        none["bits_per_dim_hole"], none["bits_per_dim"], rtol=1e-5
    )


def test_the_hole_alone_can_be_what_is_learnt(tiny):
    config, batch, _ = tiny
    config = config.copy_and_resolve_references()
    config.model.update(turns=("upright",), dropout=0.0)
    config.loss.pixels = "missing"
    mask = jnp.zeros_like(batch["mask"]).at[:, :6].set(1).at[:, 7].set(1)
    batch = batch | {"mask": mask}
    system = methods.make(config)
    state = jax.jit(system.init)(batch, KEY)
    said = jax.jit(system.evaluate)(inference_variables(state), batch, KEY)
    step = jax.jit(system.step)
    after, metrics = step(state, batch, KEY)
    np.testing.assert_allclose(
        metrics["bits_per_dim"], said["bits_per_dim_hole"].mean(), rtol=1e-5
    )
    # What comes after the hole teaches nothing; what it hides does.
    behind = batch | {"image": batch["image"].at[:, 7].set(-1.0)}
    inside = batch | {"image": batch["image"].at[:, 6].set(-1.0)}
    for given, same in ((behind, True), (inside, False)):
        other = step(state, given, KEY)[0].params
        pairs = zip(jax.tree.leaves(after.params), jax.tree.leaves(other), strict=True)
        assert same == all(bool(jnp.array_equal(a, b)) for a, b in pairs)
    assert not system.can_score and methods.make(tiny[0]).can_score


def test_the_rate_falls_from_the_first_step():
    config = load_config("pixelcnn", "tiny")
    config.opt.update(fall=0.5, decay=0.0, lr=1.0)
    tx: Any = pixelcnn.adam(config)
    params = jnp.zeros(1)
    state, values = tx.init(params), []
    for _ in range(3):
        updates, state = tx.update(jnp.ones(1), state, params)
        values.append(-float(updates[0]))
    # Adam's own correction of the second moment is 3e-5 off in float32.
    np.testing.assert_allclose(values, [0.5, 0.25, 0.125], rtol=1e-4)


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("image_size", 30, "an image size of 30x30 does not halve twice"),
        ("model.sampler", "gibbs", "config.model.sampler 'gibbs' is none of cached"),
        ("model.turns", ("left",), "config.model.turns 'left' is none of upright"),
        ("loss.form", "exact", "config.loss.form 'exact' is none of official, stable"),
        ("model.candidates", 0, "config.model.candidates below 1"),
        ("loss.pixels", "holes", "config.loss.pixels 'holes' is none of all, missing"),
        ("image_size", -8, "an image size of -8x-8 does not halve twice"),
        ("model.features", -4, "config.model.features is -4; make it at least 1"),
        ("model.dropout", 1.0, "config.model.dropout is 1.0; give 0 or more, and less"),
        ("opt.decay", 50.0, "config.opt.decay is 50.0; give a share of the steps"),
        ("opt.fall", 1.5, "config.opt.fall is 1.5; give more than 0, at most 1"),
        ("opt.lr", -1.0, "config.opt.lr is -1.0; give more than 0"),
        ("data.classes", -1, "config.data.classes is -1; 0 says that there are none"),
        ("model.label", 1, "config.model.label 1 is none of config.data.classes, 0"),
    ],
)
def test_settings_that_cannot_work_are_refused(key, value, said):
    config = load_config("pixelcnn", "tiny")
    config.update_from_flattened_dict({key: value})
    with pytest.raises(UserError) as error:
        methods.make(config)
    assert said in str(error.value) and "\n" not in str(error.value)


def test_candidates_need_the_likelihood_of_what_is_known():
    config = load_config("pixelcnn", "tiny")
    config.model.candidates, config.loss.pixels = 2, "missing"
    with pytest.raises(UserError, match="candidates above 1 needs the likelihood"):
        methods.make(config)
