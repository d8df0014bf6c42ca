"""What holds of Pix2Pix's step and completions whatever the numbers."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers.configs import load_config, make_batch

from picjax.cli import UserError
from picjax.methods import make
from picjax.methods.pix2pix import official
from picjax.methods.pix2pix import system as pix2pix
from picjax.official.mapping import from_official, to_official
from picjax.system import inference_variables

KEY = jax.random.key(1)


def config(**changes):
    """The tiny config with changes by dotted key, `__` for the dot."""
    found = load_config("pix2pix", "tiny")
    for key, value in changes.items():
        part, name = key.split("__")
        found[part][name] = value
    return found


def differs(a, b):
    pairs = zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
    return any(bool((x != y).any()) for x, y in pairs)


class Run:
    """A config's system at its first state."""

    def __init__(self, b=2, **changes):
        self.config = config(**changes)
        self.system = make(self.config)
        self.batch = make_batch(32, b)
        self.state = jax.jit(self.system.init)(KEY, self.batch)
        self.variables = inference_variables(self.state)

    def complete(self, **changes: Any):
        run = jax.jit(self.system.complete, static_argnums=3)
        return run(self.variables, self.batch | changes, KEY, 2)


def test_no_image_depends_on_its_batch_whatever_normalises_it():
    """Batch norm at test by an image's own statistics, or by the running ones."""
    images = {}
    for option in ("image", "running"):
        run = Run(model__norm_at_test=option)
        images[option] = run.complete()
        others = run.complete(image=run.batch["image"].at[1].set(0.5))
        np.testing.assert_allclose(images[option][0], others[0], atol=1e-5)
        assert differs(images[option][1], others[1])
    assert differs(images["image"], images["running"])


def test_dropout_is_the_only_noise():
    images = Run(model__dropout_at_test=False).complete()
    np.testing.assert_array_equal(images[:, 0], images[:, 1])
    # The PyTorch code has no layer to drop in a U-Net of 5 levels.
    images = Run(model__dropout="official").complete()
    np.testing.assert_array_equal(images[:, 0], images[:, 1])


def test_the_mask_channel_tells_a_hole_from_grey():
    batch = make_batch(32) | {"image": jnp.zeros((2, 32, 32, 3))}
    known = batch | {"mask": jnp.ones_like(batch["mask"])}
    for channel in (False, True):
        hyper = pix2pix.Hyper(mask_channel=channel)
        given = [pix2pix.condition(hyper, b) for b in (batch, known)]
        assert differs(*given) == channel


def test_translation_is_given_the_other_picture_alone():
    run = Run(model__mask_channel=False)
    mask = jnp.zeros_like(run.batch["mask"])
    other = jnp.flip(run.batch["image"], 1)
    pair = {"mask": mask, "condition": other}
    made = run.complete(**pair)
    hidden = run.complete(**pair, image=jnp.zeros_like(other))
    np.testing.assert_array_equal(made, hidden)
    assert differs(made, run.complete(**pair | {"condition": other * 0.5}))


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


def test_penalty_is_of_the_image_part_and_bounds_the_critic():
    """A critic that looks at the condition alone has no slope: a penalty of 10."""
    run = Run(loss__gan_mode="wgangp", model__mask_channel=False)
    params = jax.tree.map(jnp.copy, run.state.params)
    first = params["discriminator"]["conv0"]["kernel"]
    params["discriminator"]["conv0"]["kernel"] = first.at[:, :, 3:].set(0)
    nets = pix2pix.networks(run.config.model, (32, 32))
    hyper = pix2pix.Hyper(gan_mode="wgangp")
    opts = pix2pix.optimisers(pix2pix.adam(run.config))
    image = run.batch["image"]
    _, made = jax.jit(partial(pix2pix.update_discriminator, nets, opts, hyper))(
        run.state.replace(params=params),
        image * run.batch["mask"],
        image,
        -image,
        {"penalty": jnp.full(2, 0.3)},
    )
    np.testing.assert_allclose(made["d_penalty"], 10, rtol=1e-5)


def test_pool_fills_then_swaps():
    pool = pix2pix.empty_pool(2, (1, 1, 1))

    def query(pool, values, swap, index):
        pairs = jnp.asarray(values, jnp.float32).reshape(-1, 1, 1, 1)
        swap, index = jnp.asarray(swap, jnp.float32), jnp.asarray(index)
        pool, shown = pix2pix.query(pool, pairs, swap, index)
        return pool, shown.ravel().tolist()

    pool, shown = query(pool, [1, 2, 3], [0.9, 0.9, 0.9], [0, 0, 1])
    assert shown == [1, 2, 2] and pool["pairs"].ravel().tolist() == [1, 3]
    pool, shown = query(pool, [4, 5], [0.1, 0.6], [0, 0])
    assert shown == [4, 1] and pool["pairs"].ravel().tolist() == [5, 3]


def test_every_tensor_has_one_official_name():
    batch = make_batch(32)
    for variant in ("tiny", "half32_pixel"):
        found = load_config("pix2pix", variant)
        found.model.update(ngf=4, ndf=4, bias=False)
        state = jax.eval_shape(make(found).init, batch, KEY)
        tables = official.tables(found)
        assert tables.keys() == set(official.FILES.values()) == state.params.keys()
        for net, table in tables.items():
            target = {"params": state.params[net], "stats": state.stats[net]}
            zeros = jax.tree.map(lambda s: np.zeros(s.shape, s.dtype), target)
            tensors = to_official(zeros, table)
            assert len(tensors) == len(jax.tree.leaves(target))
            from_official(tensors, zeros, table)


@pytest.mark.parametrize(
    ("changes", "size", "words"),
    [
        ({}, (50, 50), "multiples of 32"),
        ({"model__levels": 6}, (32, 32), "does not halve 6 times"),
        ({"model__generator": "resnet"}, (30, 32), "multiple of 4"),
        ({"model__patch_layers": 4}, (32, 32), "patch_layers 4 leaves no score"),
        ({"model__norm": "layer"}, (32, 32), "batch, instance, none"),
        ({"model__dropout": "all"}, (32, 32), "none, official, paper"),
        ({"model__init": "zeros"}, (32, 32), "xavier"),
        ({"model__norm_at_test": "batch"}, (32, 32), "image, running"),
        ({"loss__gan_mode": "gan"}, (32, 32), "config.loss.gan_mode 'gan'"),
    ],
)
def test_what_cannot_work_is_said_at_once(changes, size, words):
    wrong = config(**changes)
    with wrong.ignore_type():
        wrong.image_size = size
    with pytest.raises(UserError, match=words) as error:
        make(wrong)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("variant", "system_keys"),
    [("half32_patch", "patch"), ("half32_pixel", "pixel"), ("maps", "patch")],
)
def test_published_variants(variant, system_keys):
    """Built at full size, without running; sizes as in the specification."""
    found = load_config("pix2pix", variant)
    batch = make_batch(found.image_size)
    state = jax.eval_shape(make(found).init, batch, KEY)
    counts = {
        net: sum(x.size for x in jax.tree.leaves(params))
        for net, params in state.params.items()
    }
    assert found.model.discriminator == system_keys
    assert counts["generator"] == (54_413_955 if variant == "maps" else 16_659_075)
    assert counts["discriminator"] == (9_024 if system_keys == "pixel" else 2_768_705)
