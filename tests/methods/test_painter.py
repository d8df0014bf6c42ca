"""The painter: validation of settings, training, classes and guidance."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from helpers.configs import load_config, make_batch
from helpers.pictures import half_mask, picture

from picjax import methods, programs
from picjax.cli import UserError
from picjax.methods.painter import settings
from picjax.methods.painter import system as painter
from picjax.methods.painter.resampling import PRESETS
from picjax.model import Model
from picjax.system import inference_variables

KEY = jax.random.key(0)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sampler.preset": "quick"}, "config.sampler.preset 'quick' is none of"),
        ({"sampler.spacing": "2000"}, "asks for 2000 steps of a section of 1000"),
        (
            {"sampler.stop": 9},
            "leave no jump on 3 steps, the scale on which they count",
        ),
        ({"sampler.jump_length": 0}, "give 1 or more"),
        ({"sampler.label": 0}, "config.sampler.label 0 is none of the 0 classes"),
        ({"diffusion.steps": 20}, "a beta of 1 or more"),
        ({"loss.kind": "l1"}, "config.loss.kind 'l1' is none of mse"),
        ({"model.width": 48}, "gives 48 channels"),
        ({"model.attention": (3,)}, "config.model.attention holds 3"),
        ({"model.mult": (1, 1), "image_size": 9}, "does not halve"),
        (
            {"model.classifier_classes": 2, "model.classifier_width": 32},
            "config.model.classifier_width 32 gives levels whose channels are not",
        ),
        ({"model.qkv_order": "mixed"}, "config.model.qkv_order 'mixed'"),
        ({"model.dtype": "bf16"}, "config.model.dtype 'bf16'"),
        ({"model.attention": (4,)}, "holds 4, which is not 8"),
        ({"model.head_width": 0, "model.heads": 3}, "heads 3 does not divide 32"),
        ({"model.classifier_pool": "max"}, "config.model.classifier_pool 'max'"),
        (
            {"model.classifier_classes": 2, "model.classifier_width": 64},
            "fewer levels in config.model.classifier_mult",
        ),
        (
            {"model.classes": 3, "data.classes": 2},
            "config.data.classes is 2, config.model.classes is 3; make them equal",
        ),
        ({"diffusion.predicts": "previous_x"}, "needs every step of the process"),
        ({"sampler.eta": 2.0}, "config.sampler.eta 2.0 is above 1"),
        ({"sampler.jump_times": 0}, "config.sampler.jump_times is 0"),
        ({"sampler.spacing": "2000"}, "config.sampler, preset 'own'"),
    ],
)
def test_invalid_settings_are_rejected(changes, message):
    config = load_config("painter", "tiny")
    config.update_from_flattened_dict(changes)
    with pytest.raises(UserError) as error:
        methods.make(config)
    assert message in str(error.value) and "\n" not in str(error.value)


def test_published_variants_have_the_networks_and_samplers_of_the_papers():
    for name, evaluations in (
        ("celeba_hq_256", 1510),
        ("places2_256", 1510),
        ("imagenet_256", 2410),
    ):
        config = load_config("painter", name)
        assert settings.make_sampler(config).plan.evaluations == evaluations
    state = jax.eval_shape(methods.make(config).init, make_batch(256), KEY)
    sizes = {
        net: sum(x.size for x in jax.tree.leaves(params))
        for net, params in state.params.items()
    }
    assert sizes == {"unet": 553_838_086, "classifier": 54_096_360}


def test_own_settings_equal_to_a_presets_give_its_plan():
    config = load_config("painter", "tiny")
    config.sampler.update(preset="own", spacing="250", jump_length=10, jump_times=10)
    config.sampler.stop = 100
    sampler = settings.make_sampler(config)
    assert settings.own_preset(config.sampler) == PRESETS["painter"]
    assert sampler.eta is None and sampler.plan.evaluations == 1510


def test_resampling_an_empty_canvas_gives_a_warning():
    empty, diagonal = np.zeros((8, 8), np.uint8), np.eye(8, dtype=np.uint8)
    config = load_config("painter", "tiny")
    config.sampler.preset = "painter"
    system = methods.make(config)
    (warning,) = system.mask_warnings(empty)
    assert "1260 steps back" in warning and "--sampler=plain" in warning
    assert not system.mask_warnings(diagonal)
    config.sampler.preset = "plain"
    assert not methods.make(config).mask_warnings(empty)


@pytest.mark.parametrize("preset", ["draft", "ddnm-fast"])
def test_a_walk_that_is_shown_draws_the_same_completions(monkeypatch, preset):
    def network(net, variables, x, t, *_):
        epsilon = jnp.tanh(3 * x) + 1e-3 * t[:, None, None, None]
        return jnp.concatenate([epsilon, jnp.sin(5 * x)], -1)

    monkeypatch.setattr(painter, "infer", network)
    monkeypatch.setattr(programs, "CALLS", 20)
    config = load_config("painter", "tiny")
    config.diffusion.steps = 1000
    config.sampler.preset = preset
    system = methods.make(config)
    model = Model(config, system, {}, 0)
    size = 16, 24
    parts = list(model.stream(picture(0, *size), half_mask(*size), n=3))
    assert system.walk_calls == 50
    assert [part.progress for part in parts] == 2 * [0.4, 0.8, 1]
    assert [len(part.samples) for part in parts] == 3 * [2] + 3 * [1]
    whole = model.complete(picture(0, *size), half_mask(*size), n=3)
    finished = [part.samples for part in parts if part.progress == 1]
    np.testing.assert_array_equal(np.concatenate(finished), whole)
    # On the way they are at the model's size, and not yet what they will be.
    assert parts[0].samples.shape == (2, 8, 8, 3)
    assert (parts[0].samples != parts[1].samples).any()
    config.sampler.preset = "ddnm-travel"
    assert methods.make(config).walk_calls == 0


@pytest.mark.parametrize("preset", ["own", "ddnm"])
def test_a_network_sees_what_is_known_of_its_own_image(monkeypatch, preset):
    def network(net, variables, x, t, *_):
        x, known, mask = jnp.split(x, (3, 6), -1)
        epsilon = jnp.tanh(x + 3 * known.mean((1, 2, 3), keepdims=True) - mask)
        return jnp.concatenate([epsilon, x], -1)

    config = load_config("painter", "tiny")
    config.model.sees_known = True
    config.sampler.preset = preset
    config.diffusion.steps = 1000
    system = methods.make(config)
    batch = make_batch(8)
    state = jax.eval_shape(system.init, batch, KEY)
    assert state.params["unet"]["in0_0"]["kernel"].shape[-2] == 7
    jax.eval_shape(system.step, state, batch, KEY)

    monkeypatch.setattr(painter, "infer", network)
    sample = jax.jit(partial(system.sample, n=1))
    image, mask = batch["image"], batch["mask"]
    first = sample({}, batch, KEY)
    assert float(jnp.abs(first[0] - first[1]).max()) > 1e-2

    other_hole = batch | {"image": jnp.where(mask > 0, image, -image)}
    np.testing.assert_array_equal(sample({}, other_hole, KEY), first)
    # The second image's known pixels change the second image's completion alone.
    other_known = batch | {"image": image.at[1].multiply(-1)}
    second = sample({}, other_known, KEY)
    np.testing.assert_array_equal(second[0], first[0])
    hole = np.asarray(mask[1] < 1)[..., 0]
    assert float(np.abs(second[1, 0] - first[1, 0])[hole].max()) > 1e-2


@pytest.fixture(scope="module")
def guided():
    """(config, batch, state) with classes, a classifier and a history of losses."""
    config = load_config("painter", "tiny")
    config.model.update(classes=3, classifier_classes=3, classifier_width=64)
    config.model.update(classifier_mult=(1,), classifier_blocks=1)
    config.model.update(classifier_attention=(), classifier_pool="adaptive")
    config.loss.steps = "loss_second_moment"
    config.diffusion.steps = 30
    config.sampler.update(spacing="2", jump_times=1, eta=1.0)
    batch = make_batch(config.image_size)
    state = jax.jit(methods.make(config).init)(batch, KEY)
    return config, batch, state


def test_an_unconditional_network_ignores_the_classes_of_the_data():
    config = load_config("painter", "tiny")
    config.data.classes = 10
    system = methods.make(config)
    batch = make_batch(8) | {"class": jnp.zeros(2, jnp.int32)}
    state = jax.eval_shape(system.init, batch, KEY)
    _, metrics = jax.eval_shape(system.step, state, batch, KEY)
    assert "loss" in metrics


def test_a_step_records_losses_and_updates_the_average(guided):
    config, batch, state = guided
    batch = batch | {"class": jnp.array([0, 2])}
    jax.tree.map(np.testing.assert_array_equal, state.ema["unet"], state.params["unet"])
    after, metrics = jax.jit(methods.make(config).step)(state, batch, KEY)
    assert set(metrics) == {"loss", "mse", "vb", "classifier", "accuracy"}
    assert int(after.stats["history"]["seen"].sum()) == 2
    assert float(after.stats["history"]["losses"].sum()) > 0
    expected = optax.incremental_update(
        after.params["unet"], state.params["unet"], 1 - config.opt.ema
    )
    jax.tree.map(
        partial(np.testing.assert_allclose, atol=1e-6), after.ema["unet"], expected
    )
    # The classifier's head starts at zero, so all classes are equally likely.
    np.testing.assert_allclose(metrics["classifier"], np.log(3), atol=1e-5)
    heads = [s.params["classifier"]["head"]["kernel"] for s in (state, after)]
    assert float(jnp.abs(heads[1] - heads[0]).max()) > 1e-5


def test_networks_with_classes_require_a_batch_with_classes(guided):
    config, batch, _ = guided
    own = config.copy_and_resolve_references()
    for key in ("model.classes", "model.classifier_classes"):
        own.model.classes = 3 if key == "model.classes" else 0
        system = methods.make(own)
        shapes = jax.eval_shape(system.init, batch, KEY)
        with pytest.raises(UserError, match=f"config.{key} is 3, but the images come"):
            jax.eval_shape(system.step, shapes, batch, KEY)
    own.opt.classifier_lr = 0.0  # a frozen classifier needs no classes
    system = methods.make(own)
    shapes = jax.eval_shape(system.init, batch, KEY)
    after, metrics = jax.eval_shape(system.step, shapes, batch, KEY)
    assert set(after.opt) == {"adamw"} and "classifier" not in metrics


def test_classifier_and_label_change_the_completion(guided):
    config, batch, state = guided
    params = state.params
    # Initial networks return zero: replace both heads.
    unet = params["unet"] | {
        "head": jax.tree.map(jnp.ones_like, params["unet"]["head"])
    }
    head = {
        name: jax.random.normal(KEY, x.shape) * 9
        for name, x in params["classifier"]["head"].items()
    }
    classifier = params["classifier"] | {"head": head}
    variables = inference_variables(state)
    variables["params"] = {"unet": unet, "classifier": classifier}

    def completions(guidance, *classes):
        """The first image's completion for each class."""
        own = config.copy_and_resolve_references()
        own.sampler.guidance = guidance
        complete = jax.jit(methods.make(own).complete, static_argnums=3)
        batches = [batch | {"class": jnp.full(2, c)} for c in classes]
        return [complete(variables, batch, KEY, 1)[0] for batch in batches]

    first, second = completions(1.0, 0, 1)
    (unguided,) = completions(0.0, 0)
    assert float(jnp.abs(first - second).max()) > 1e-3
    assert float(jnp.abs(first - unguided).max()) > 1e-3
