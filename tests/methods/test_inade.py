"""INADE as a method: its configs, its noise, its refusals."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers.configs import load_config, make_batch

from picjax import flags
from picjax.cli import UserError
from picjax.completion import GREY, grid_inputs
from picjax.data import maps
from picjax.evaluation.metrics import weights
from picjax.methods.inade import build
from picjax.methods.inade.build import read_vgg
from picjax.methods.inade.system import INADE, zero_biases
from picjax.methods.inade.vgg import CONVS
from picjax.official import files

KEY = jax.random.key(0)


def make(variant="tiny", **changes):
    config = load_config("inade", variant)
    config.update_from_flattened_dict(
        {name.replace("__", "."): value for name, value in changes.items()}
    )
    return INADE.from_config(config)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"image_size": 48}, "image_size .48, 48. is not a multiple of 32"),
        ({"model__upsampling": "more"}, "is not a multiple of 64"),
        ({"model__norm": "clad"}, "norm 'clad' .* did you mean 'clade'"),
        ({"model__norm": "clade"}, "encoder is for INADE and SPADE"),
        ({"model__latent": False}, "latent=False is for SPADE and CLADE"),
        ({"loss__gan_mode": "lsgan"}, "gan_mode 'lsgan'"),
    ],
)
def test_settings_that_cannot_work_are_refused(changes, message):
    with pytest.raises(UserError, match=message):
        make(**changes)


@pytest.mark.parametrize("variant", ["ade20k", "cityscapes", "celeba", "deepfashion"])
@pytest.mark.parametrize("preset", ["", "-spade", "-clade", "-clade-noise"])
def test_published_configs_build(variant, preset):
    system = make(variant + preset)
    assert system.generator.width == 64
    assert (system.encoder is None) == ("clade" in preset)
    assert system.reads_latent == (preset != "-clade")


def test_the_data_have_the_model_s_classes():
    settings = ["--config.model.label_nc=5", "--config.model.instances=7"]
    maps = flags.make_config("inade", "tiny", settings).data.maps
    assert (maps.label_nc, maps.instances, maps.dontcare) == (5, 7, False)


def test_a_batch_without_maps_is_refused():
    batch = {name: x for name, x in make_batch(32).items() if name != "label"}
    with pytest.raises(UserError, match="without label and instance maps"):
        make().layout(batch)


# ---- noise ----


def test_noise_depends_neither_on_the_batch_nor_on_the_instance_axis():
    small, large = make(), make(model__instances=11)
    one, many = small.draw(KEY, 1), large.draw(KEY, 3)
    np.testing.assert_array_equal(one.latent, many.latent[:1])
    np.testing.assert_array_equal(one.style, many.style[:1, :6])


def test_noise_is_standard_normal_and_distinct():
    draw = make(model__instances=200).draw(KEY, 8)
    values = np.asarray(draw.style).ravel()
    assert abs(values.mean()) < 0.05 and abs(values.std() - 1) < 0.05
    assert len(np.unique(values)) > 0.99 * values.size


# ---- variants ----


@pytest.mark.parametrize(
    ("variant", "losses"),
    [
        ("tiny-spade", {"g_gan", "g_feature", "g_kl", "d_fake", "d_real"}),
        ("tiny-clade", {"g_gan", "g_feature", "d_fake", "d_real"}),
    ],
)
def test_every_variant_trains_and_samples(variant, losses):
    """Shapes alone: nothing is compiled."""
    system, batch = make(variant), make_batch(32)
    state = jax.eval_shape(system.init, batch, KEY)
    after, metrics = jax.eval_shape(system.step, state, batch, KEY)
    assert jax.tree.map(jnp.shape, after) == jax.tree.map(jnp.shape, state)
    assert metrics.keys() == losses
    variables = {"params": state.params, "stats": state.stats}
    images = jax.eval_shape(lambda v: system.sample(v, batch, KEY, 2), variables)
    assert images.shape == (2, 2, 32, 32, 3)


def test_edges_are_input_of_the_discriminator_only_if_wanted():
    batch = make_batch(32)
    for edges in (True, False):
        system = make(model__edges=edges)
        pair = system.pair(system.layout(batch), batch["image"])
        assert pair.shape[-1] == 4 + edges + 3


def test_every_bias_starts_at_zero():
    tree = {"conv": {"kernel": jnp.ones(2), "bias": jnp.ones(2)}}
    zeroed = zero_biases(tree)
    assert zeroed["conv"]["kernel"].all() and not zeroed["conv"]["bias"].any()


@pytest.mark.parametrize("known", [False, True])
def test_the_grid_shows_the_labels_in_colours_and_known_pixels(known):
    batch = {k: np.asarray(x) for k, x in make_batch(32).items()}
    batch["image"] = np.full((2, 32, 32, 3), 7, np.uint8)
    columns = grid_inputs(
        load_config("inade", "tiny"), batch | {"mask": batch["mask"] * known}
    )
    assert list(columns) == (["input", "labels"] if known else ["labels"])
    expected = maps.colour(batch["label"][0], 4)
    np.testing.assert_array_equal(columns["labels"][0], expected)
    if known:
        assert (columns["input"][0, 0] == 7).all()
        assert (columns["input"][0, 16, 16] == GREY).all()


# ---- VGG ----


def test_without_vgg_training_says_so_and_goes_on(monkeypatch, capsys):
    def missing(released):
        raise weights.NoWeights("not there", released.names[0])

    monkeypatch.setattr(weights, "load", missing)
    system, batch = make(loss__perceptual=10.0), make_batch(32)
    assert capsys.readouterr().err == "", "only training looks for it"
    build.find_vgg.cache_clear()
    state = jax.eval_shape(system.init, batch, KEY)
    _, metrics = jax.eval_shape(system.step, state, batch, KEY)
    assert "g_perceptual" not in metrics
    (line,) = capsys.readouterr().err.splitlines()
    assert "goes without the perceptual loss" in line and "PICJAX_WEIGHTS" in line
    build.find_vgg.cache_clear()


def test_vgg_is_found_as_the_metrics_networks_are(monkeypatch):
    tensors = {name: np.zeros(shape) for name, shape in build.vgg_shapes().items()}
    loaded = weights.Loaded(tensors, "vgg19-dcbb9e9d.pth")
    monkeypatch.setattr(weights, "load", lambda released: loaded)
    build.find_vgg.cache_clear()
    vgg = build.find_vgg("")
    assert vgg is not None and vgg.net.width == 64
    assert vgg.params["conv28"]["kernel"].shape == (3, 3, 512, 512)
    build.find_vgg.cache_clear()


def test_vgg_is_read_from_torchvision_s_names(monkeypatch):
    rng, channels, tensors = np.random.default_rng(0), 3, {}
    for index, factor in CONVS.items():
        shape = (factor, channels, 3, 3)
        tensors[f"features.{index}.weight"] = rng.normal(size=shape)
        tensors[f"features.{index}.bias"] = np.zeros(factor)
        channels = factor
    content = tensors | {"classifier.0.bias": np.zeros(2)}
    monkeypatch.setattr(files, "read", lambda path: content)
    net, params = read_vgg(Path("vgg19.pth"))
    assert net.width == 1
    expected = tensors["features.28.weight"].transpose(2, 3, 1, 0)
    np.testing.assert_allclose(params["conv28"]["kernel"], expected, rtol=1e-6)
    del content["features.28.bias"]
    with pytest.raises(UserError, match=r"lacks features\.28\.bias"):
        read_vgg(Path("vgg19.pth"))
