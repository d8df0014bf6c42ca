"""Properties of Pix2Pix's step and completions that do not depend on the numbers."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers.configs import load_config, make_batch
from helpers.states import first_state
from helpers.trees import differs

from picjax.cli import UserError
from picjax.layers.fill import smooth_fill
from picjax.losses import adversarial
from picjax.methods import make
from picjax.methods.pix2pix import official
from picjax.methods.pix2pix.pool import empty_pool, exchange
from picjax.official.mapping import from_official, to_official
from picjax.system import inference_variables

KEY = jax.random.key(1)


def make_config(**changes):
    """The tiny config with changes by dotted key, `__` for the dot."""
    config = load_config("pix2pix", "tiny")
    for key, value in changes.items():
        section, name = key.split("__")
        config[section][name] = value
    return config


class Run:
    """A method at its first state, with a batch."""

    def __init__(self, b=2, **changes):
        self.system: Any = make(make_config(**changes))
        self.batch = make_batch(32, b)
        self.state = first_state(self.system, self.batch)
        self.variables = inference_variables(self.state)

    def complete(self, **changes: Any):
        complete = jax.jit(self.system.complete, static_argnums=3)
        return complete(self.variables, self.batch | changes, KEY, 2)


def test_completions_do_not_depend_on_the_batch_with_either_norm_at_test():
    """Batch norm with the statistics of each image, or with the running ones."""
    images = {}
    for option in ("image", "running"):
        run = Run(model__norm_at_test=option)
        images[option] = run.complete()
        others = run.complete(image=run.batch["image"].at[1].set(0.5))
        np.testing.assert_allclose(images[option][0], others[0], atol=1e-5)
        assert differs(images[option][1], others[1])
    assert differs(images["image"], images["running"])


def test_with_fill_the_generator_draws_in_the_hole_alone():
    run = Run(model__fill=True)
    mask = np.asarray(run.batch["mask"])
    image = run.system.generate(run.variables, run.system.condition(run.batch), keep=[])
    filled = smooth_fill(run.batch["image"], run.batch["mask"])
    np.testing.assert_array_equal(image * mask, run.batch["image"] * mask)
    assert 0 < np.abs(image - filled).max() < 0.5  # a network not yet trained


@pytest.mark.parametrize(
    "change, sentence",
    [
        ({"model__mask_channel": False}, "needs the mask"),
        ({"data__name": "aligned"}, "no hole"),
    ],
)
def test_fill_without_a_hole_to_see_is_refused(change, sentence):
    with pytest.raises(UserError, match=sentence):
        make(make_config(model__fill=True, **change))


def test_dropout_is_the_only_noise():
    images = Run(model__dropout_at_test=False).complete()
    np.testing.assert_array_equal(images[:, 0], images[:, 1])
    # The PyTorch code has no dropout layer in a U-Net with 5 levels.
    images = Run(model__dropout="official").complete()
    np.testing.assert_array_equal(images[:, 0], images[:, 1])


def test_the_mask_channel_distinguishes_a_hole_from_grey_pixels():
    batch = make_batch(32) | {"image": jnp.zeros((2, 32, 32, 3))}
    all_known = batch | {"mask": jnp.ones_like(batch["mask"])}
    for channel in (False, True):
        system: Any = make(make_config(model__mask_channel=channel))
        conditions = [system.condition(b) for b in (batch, all_known)]
        assert differs(*conditions) == channel


def test_translation_depends_on_the_condition_alone():
    run = Run(model__mask_channel=False)
    mask = jnp.zeros_like(run.batch["mask"])
    other = jnp.flip(run.batch["image"], 1)
    pair = {"mask": mask, "condition": other}
    images = run.complete(**pair)
    without_target = run.complete(**pair, image=jnp.zeros_like(other))
    np.testing.assert_array_equal(images, without_target)
    assert differs(images, run.complete(**pair | {"condition": other * 0.5}))


@pytest.mark.parametrize(
    "changes",
    [
        {"loss__gan_mode": "wgangp", "model__discriminator": "pixel"},
        {"loss__gan_mode": "lsgan", "loss__pool": 3, "model__norm": "none"},
        {
            "model__generator": "resnet",
            "model__blocks": 1,
            "model__norm": "instance",
            "model__dtype": "bfloat16",
        },
    ],
    ids=lambda changes: "-".join(map(str, changes.values())),
)
def test_other_options_train(changes):
    run = Run(b=4, **changes)
    state, metrics = jax.jit(run.system.step)(run.state, run.batch, KEY)
    assert all(jnp.isfinite(x).all() for x in jax.tree.leaves(state))
    for net in run.state.params:
        assert differs(state.params[net], run.state.params[net]), net
    if "loss__pool" in changes:
        assert state.stats["pool"]["count"] == 3
    assert ("d_penalty" in metrics) == (changes.get("loss__gan_mode") == "wgangp")


def test_accumulated_gradients_move_parameters_every_second_step():
    run = Run(opt__accumulate=2)
    step = jax.jit(run.system.step)
    once, _ = step(run.state, run.batch, KEY)
    twice, _ = step(once, run.batch, KEY)
    for net in run.state.params:
        assert not differs(once.params[net], run.state.params[net]), net
        assert differs(twice.params[net], once.params[net]), net


def test_the_penalty_is_on_the_image_part_of_the_pair():
    """A critic of the condition alone has slope 0, hence a penalty of 10."""
    run = Run(loss__gan_mode="wgangp", model__mask_channel=False)
    params = jax.tree.map(jnp.copy, run.state.params)
    first = params["discriminator"]["conv0"]["kernel"]
    params["discriminator"]["conv0"]["kernel"] = first.at[:, :, 3:].set(0)
    system: Any = run.system
    noise = system.draw_noise(run.batch, KEY)
    _, metrics = jax.jit(system.update_discriminator)(
        run.state.replace(params=params), run.batch, -run.batch["image"], noise
    )
    np.testing.assert_allclose(metrics["d_penalty"], 10, rtol=1e-5)


def test_without_a_penalty_the_critic_is_that_of_the_official_code():
    run = Run(loss__gan_mode="wgangp", model__discriminator="pixel")
    system: Any = run.system
    gan = adversarial.GAN["wgangp"]._replace(penalty=0.0)
    system = dataclasses.replace(system, gan=gan)
    _, metrics = jax.jit(system.step)(run.state, run.batch, KEY)
    assert "d_penalty" not in metrics


def test_the_noise_of_a_step_can_be_pinned():
    """With a kept mask of zeros for each layer, the key no longer matters."""
    run = Run()
    system: Any = run.system

    class Pinned(type(system)):
        def draw_noise(self, batch, key):
            noise = super().draw_noise(batch, key)
            return noise._replace(keep=[0 * mask for mask in noise.keep])

    fields = {f.name: getattr(system, f.name) for f in dataclasses.fields(system)}
    after = {}
    for kind in (type(system), Pinned):
        step = jax.jit(kind(**fields).step)
        after[kind] = [step(run.state, run.batch, jax.random.key(i))[0] for i in (1, 2)]
    free, pinned = (
        differs(*(state.params["generator"] for state in states))
        for states in after.values()
    )
    assert free and not pinned


def test_the_pool_fills_then_swaps():
    pool = empty_pool(2, (1, 1, 1))

    def query(pool, values, swap, index):
        pairs = jnp.asarray(values, jnp.float32).reshape(-1, 1, 1, 1)
        swap, index = jnp.asarray(swap, jnp.float32), jnp.asarray(index)
        pool, returned = exchange(pool, pairs, swap, index)
        return pool, returned.ravel().tolist()

    pool, returned = query(pool, [1, 2, 3], [0.9, 0.9, 0.9], [0, 0, 1])
    assert returned == [1, 2, 2] and pool["pairs"].ravel().tolist() == [1, 3]
    pool, returned = query(pool, [4, 5], [0.1, 0.6], [0, 0])
    assert returned == [4, 1] and pool["pairs"].ravel().tolist() == [5, 3]


def test_every_tensor_has_one_official_name():
    batch = make_batch(32)
    for variant in ("tiny", "half32_pixel"):
        config = load_config("pix2pix", variant)
        config.model.update(ngf=4, ndf=4, bias=False)
        state = jax.eval_shape(make(config).init, batch, KEY)
        tables = official.tables(config)
        assert tables.keys() == set(official.FILES.values()) == state.params.keys()
        for net, table in tables.items():
            target = {"params": state.params[net], "stats": state.stats[net]}
            zeros = jax.tree.map(lambda s: np.zeros(s.shape, s.dtype), target)
            tensors = to_official(zeros, table)
            assert len(tensors) == len(jax.tree.leaves(target))
            from_official(tensors, zeros, table)


@pytest.mark.parametrize(
    ("changes", "size", "message"),
    [
        ({}, (50, 50), "multiples of 32"),
        ({"model__levels": 6}, (32, 32), "cannot be halved 6 times"),
        ({"model__generator": "resnet"}, (30, 32), "multiple of 4"),
        ({"model__patch_layers": 4}, (32, 32), "patch_layers 4 leaves no score"),
        ({"model__norm": "layer"}, (32, 32), "batch, instance, none"),
        ({"model__dropout": "all"}, (32, 32), "none, official, paper"),
        ({"model__init": "zeros"}, (32, 32), "xavier"),
        ({"model__norm_at_test": "batch"}, (32, 32), "image, running"),
        ({"loss__gan_mode": "gan"}, (32, 32), "config.loss.gan_mode 'gan'"),
    ],
)
def test_impossible_settings_are_refused_in_one_line(changes, size, message):
    config = make_config(**changes)
    with config.ignore_type():
        config.image_size = size
    with pytest.raises(UserError, match=message) as error:
        make(config)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("variant", "discriminator"),
    [("half32_patch", "patch"), ("half32_pixel", "pixel"), ("maps", "patch")],
)
def test_published_variants_have_the_published_sizes(variant, discriminator):
    """Built at full size without running; parameter counts of the original code."""
    config = load_config("pix2pix", variant)
    batch = make_batch(config.image_size)
    state = jax.eval_shape(make(config).init, batch, KEY)
    counts = {
        net: sum(x.size for x in jax.tree.leaves(params))
        for net, params in state.params.items()
    }
    assert config.model.discriminator == discriminator
    assert counts["generator"] == (54_413_955 if variant == "maps" else 16_659_075)
    assert counts["discriminator"] == (9_024 if discriminator == "pixel" else 2_768_705)
