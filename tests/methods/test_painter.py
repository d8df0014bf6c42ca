"""The painter as a system: settings, averages, classes, guidance, histories."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers.configs import load_config, make_batch

from picjax import methods
from picjax.cli import UserError
from picjax.methods.painter import system as painter
from picjax.methods.painter.resampling import PRESETS
from picjax.system import inference_variables

KEY = jax.random.key(0)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"sampler.preset": "quick"}, "config.sampler.preset 'quick' is none of"),
        ({"sampler.spacing": "2000"}, "asks for 2000 steps of a section of 1000"),
        ({"sampler.stop": 9}, "leave no jump on 3 steps, which is what they count"),
        ({"sampler.jump_length": 0}, "give 1 or more"),
        ({"sampler.label": 0}, "config.sampler.label 0 is none of the 0 classes"),
        ({"diffusion.steps": 20}, "a beta of 1 or more"),
        ({"loss.kind": "l1"}, "config.loss.kind 'l1' is none of mse"),
        ({"model.width": 48}, "makes 48 channels"),
        ({"model.attention": (3,)}, "config.model.attention holds 3"),
        ({"model.mult": (1, 1), "image_size": 9}, "does not halve"),
        (
            {"model.classifier_classes": 2, "model.classifier_width": 32},
            "config.model.classifier_width 32 makes levels that are no multiple of 64",
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
        ({"diffusion.predicts": "previous_x"}, "needs every step of the chain"),
        ({"sampler.eta": 2.0}, "config.sampler.eta 2.0 is above 1"),
        ({"sampler.jump_times": 0}, "config.sampler.jump_times is 0"),
        ({"sampler.spacing": "2000"}, "config.sampler, preset 'own'"),
    ],
)
def test_settings_that_cannot_work_are_refused(changes, said):
    config = load_config("painter", "tiny")
    config.update_from_flattened_dict(changes)
    with pytest.raises(UserError) as error:
        methods.make(config)
    assert said in str(error.value) and "\n" not in str(error.value)


def test_published_variants_have_the_networks_and_walks_of_the_papers():
    for name, calls in (
        ("celeba_hq_256", 1510),
        ("places2_256", 1510),
        ("imagenet_256", 2410),
    ):
        config = load_config("painter", name)
        assert painter.make_sampler(config).walk.calls == calls
    made = jax.eval_shape(methods.make(config).init, make_batch(256), KEY)
    sizes = {
        net: sum(x.size for x in jax.tree.leaves(params))
        for net, params in made.params.items()
    }
    assert sizes == {"unet": 553_838_086, "classifier": 54_096_360}


def test_own_numbers_make_the_walk_of_a_preset():
    config = load_config("painter", "tiny")
    config.sampler.update(preset="own", spacing="250", jump_length=10, jump_times=10)
    config.sampler.stop = 100
    made = painter.make_sampler(config)
    assert painter.own_preset(config.sampler) == PRESETS["painter"]
    assert made.eta is None and made.walk.calls == 1510
    nothing, something = np.zeros((8, 8), np.uint8), np.eye(8, dtype=np.uint8)
    assert "1260 steps back" in painter.remarks(made.walk, nothing)[0]
    assert not painter.remarks(made.walk, something)


@pytest.fixture(scope="module")
def guided():
    """(config, batch, state): classes, a classifier, and a history of losses."""
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


def test_classes_of_the_data_are_nothing_to_a_network_without():
    config = load_config("painter", "tiny")
    config.data.classes = 10
    system = methods.make(config)
    batch = make_batch(8) | {"class": jnp.zeros(2, jnp.int32)}
    state = jax.eval_shape(system.init, batch, KEY)
    _, metrics = jax.eval_shape(system.step, state, batch, KEY)
    assert "loss" in metrics


def test_the_history_grows_and_the_average_follows(guided):
    config, batch, state = guided
    batch = batch | {"class": jnp.array([0, 2])}
    jax.tree.map(np.testing.assert_array_equal, state.ema["unet"], state.params["unet"])
    after, metrics = jax.jit(methods.make(config).step)(state, batch, KEY)
    assert set(metrics) == {"loss", "mse", "vb", "classifier", "accuracy"}
    assert int(after.stats["history"]["seen"].sum()) == 2
    assert float(after.stats["history"]["losses"].sum()) > 0
    expected = painter.average(config.opt.ema, state.params, after.params)["unet"]
    jax.tree.map(
        partial(np.testing.assert_allclose, atol=1e-6), after.ema["unet"], expected
    )
    # Its head starts at zero: no class is likelier than another, and it moves first.
    np.testing.assert_allclose(metrics["classifier"], np.log(3), atol=1e-5)
    heads = [s.params["classifier"]["head"]["kernel"] for s in (state, after)]
    assert float(jnp.abs(heads[1] - heads[0]).max()) > 1e-5


def test_networks_that_learn_classes_want_images_that_have_them(guided):
    config, batch, _ = guided
    own = config.copy_and_resolve_references()
    for key in ("model.classes", "model.classifier_classes"):
        own.model.classes = 3 if key == "model.classes" else 0
        system = methods.make(own)
        shapes = jax.eval_shape(system.init, batch, KEY)
        with pytest.raises(UserError, match=f"config.{key} is 3, but the images come"):
            jax.eval_shape(system.step, shapes, batch, KEY)
    own.opt.classifier_lr = 0.0  # frozen, and none is needed
    system = methods.make(own)
    shapes = jax.eval_shape(system.init, batch, KEY)
    after, metrics = jax.eval_shape(system.step, shapes, batch, KEY)
    assert set(after.opt) == {"adamw"} and "classifier" not in metrics


def test_the_classifier_and_the_label_change_what_is_made(guided):
    config, batch, state = guided
    params = state.params
    # Fresh networks put out zero: give both a head.
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

    def made(guidance, *kinds):
        """One image a kind, the first of the two."""
        own = config.copy_and_resolve_references()
        own.sampler.guidance = guidance
        complete = jax.jit(methods.make(own).complete, static_argnums=3)
        batches = [batch | {"class": jnp.full(2, kind)} for kind in kinds]
        return [complete(variables, given, KEY, 1)[0] for given in batches]

    first, second = made(1.0, 0, 1)
    (unguided,) = made(0.0, 0)
    assert float(jnp.abs(first - second).max()) > 1e-3
    assert float(jnp.abs(first - unguided).max()) > 1e-3
