"""INADE's layers and networks: what the reference files cannot show."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from picjax.methods.inade import losses, official
from picjax.methods.inade.discriminator import Discriminator
from picjax.methods.inade.encoder import (
    InstanceConv,
    InstanceEncoder,
    PooledConv,
    StyleStatistics,
    instance_mean,
    instance_taps,
    standard_statistics,
)
from picjax.methods.inade.layout import Layout, semantics
from picjax.methods.inade.net import Generator, base_size
from picjax.methods.inade.norm import NORMS, BatchNorm, InadeNorm, LabelConv
from picjax.methods.inade.schedule import decay_factor, epoch_schedule, ttur
from picjax.official import mapping

KEY = jax.random.key(0)
LABEL = jnp.array([[[0, 0, 1, 1], [2, 2, 1, 1]]] * 2, jnp.int32)
INSTANCE = jnp.array([[[0, 0, 1, 1], [2, 2, 3, 3]]] * 2, jnp.int32)
LAYOUT = Layout(LABEL, INSTANCE)


def normal(*shape, seed=0):
    return jax.random.normal(jax.random.key(seed), shape)


def init(net, *inputs) -> Any:
    return net.init(KEY, *inputs)


def apply(net, *inputs, **options) -> Any:
    return net.apply(*inputs, **options)


def count(tree):
    return sum(x.size for x in jax.tree.leaves(tree))


# ---- normalisation ----


def test_inade_norm_equals_its_formula_with_one_hot_tensors():
    net = InadeNorm(classes=3, statistics="instance")
    x, noise = normal(2, 2, 4, 5), normal(2, 4, 2, 6, seed=1)
    variables = init(net, x, LAYOUT, noise, False)
    params = variables["params"]["modulation"]
    params["bias"] = normal(3, 5, 2, seed=2)
    style = noise @ params["fc_noise"]["kernel"]
    classes, instances = jax.nn.one_hot(LABEL, 3), jax.nn.one_hot(INSTANCE, 4)
    at_pixel = jnp.einsum("bhwi,bikc->bhwkc", instances, style)
    weight, bias = (
        jnp.einsum("bhwn,nck->bhwkc", classes, params[name])
        for name in ("weight", "bias")
    )
    scale, shift = jnp.moveaxis(weight * at_pixel + bias, 3, 0)
    mean = x.mean((1, 2), keepdims=True)
    normalised = (x - mean) / jnp.sqrt(x.var((1, 2), keepdims=True) + 1e-5)
    y = apply(net, variables, x, LAYOUT, noise, False)
    np.testing.assert_allclose(y, scale * normalised + shift, atol=1e-5)


def test_rows_of_absent_instances_do_not_matter():
    net = InadeNorm(classes=3)
    x, noise = normal(2, 2, 4, 5), normal(2, 4, 2, 6, seed=1)
    variables = init(net, x, LAYOUT, noise, False)
    junk = 50 * normal(2, 7, 2, 6, seed=2)
    y, padded = (
        apply(net, variables, x, LAYOUT, n, False)
        for n in (noise, jnp.concatenate([noise, junk], 1))
    )
    np.testing.assert_array_equal(y, padded)


def test_noise_of_one_instance_changes_its_pixels_alone():
    net = InadeNorm(classes=3)
    x, noise = normal(2, 2, 4, 5), normal(2, 4, 2, 6, seed=1)
    variables = init(net, x, LAYOUT, noise, False)
    y = apply(net, variables, x, LAYOUT, noise, False)
    redrawn = apply(net, variables, x, LAYOUT, noise.at[:, 2].add(1.0), False)
    np.testing.assert_array_equal((y != redrawn).any(-1), INSTANCE == 2)


def test_inade_ignores_edges():
    net = InadeNorm(classes=3)
    x, noise = normal(2, 2, 4, 5), normal(2, 4, 2, 6, seed=1)
    edges = LAYOUT._replace(edges=jnp.ones((2, 2, 4, 1)))
    variables = init(net, x, LAYOUT, noise, False)
    y, with_edges = (apply(net, variables, x, m, noise, False) for m in (LAYOUT, edges))
    np.testing.assert_array_equal(y, with_edges)


def test_a_sketch_branch_without_a_sketch_is_refused():
    net = InadeNorm(classes=3, sketch=True)
    with pytest.raises(ValueError, match="needs a sketch"):
        init(net, normal(2, 2, 4, 5), LAYOUT, normal(2, 4, 2, 6), False)


@pytest.mark.parametrize("kernel", [1, 3, 5])
@pytest.mark.parametrize("with_edges", [True, False])
def test_label_conv_is_a_convolution_of_the_one_hot_labels(kernel, with_edges):
    label = jax.random.randint(KEY, (2, 6, 7), 0, 4)
    edges = normal(2, 6, 7, 1) if with_edges else None
    net = LabelConv(3, 4, kernel)
    variables = init(net, label, edges)
    onehot = semantics(Layout(label, edges=edges), 4)
    expected = jax.lax.conv_general_dilated(
        onehot,
        variables["params"]["kernel"],
        (1, 1),
        "SAME",
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )
    np.testing.assert_allclose(apply(net, variables, label, edges), expected, atol=1e-6)


def test_batch_norm_moves_running_statistics_by_a_tenth():
    net, x = BatchNorm(), 3 + 2 * normal(4, 5, 6, 2)
    variables = init(net, x, False)
    assert "params" not in variables
    _, new = apply(net, variables, x, True, mutable=["stats"])
    flat = x.reshape(-1, 2)
    np.testing.assert_allclose(new["stats"]["mean"], 0.1 * flat.mean(0), rtol=1e-5)
    expected = 0.9 + 0.1 * flat.var(0, ddof=1)
    np.testing.assert_allclose(new["stats"]["var"], expected, rtol=1e-5)


# ---- encoder ----


def test_instance_conv_sees_its_own_instance_alone():
    net, x = InstanceConv(3), normal(1, 2, 4, 2)
    variables = init(net, x, INSTANCE[:1])
    y = apply(net, variables, x, INSTANCE[:1])
    other = jnp.where((INSTANCE[:1] == 1)[..., None], x, 9.0)
    changed = apply(net, variables, other, INSTANCE[:1])
    inside = INSTANCE[:1] == 1
    np.testing.assert_array_equal(y[inside], changed[inside])


def test_pooled_conv_is_the_mean_of_an_instance_conv():
    net, x = InstanceConv(3), normal(2, 2, 4, 2)
    variables = init(net, x, INSTANCE)
    variables["params"]["bias"] = normal(3, seed=1)
    expected = instance_mean(apply(net, variables, x, INSTANCE), INSTANCE, 6)
    means = [instance_mean(tap, INSTANCE, 6) for tap in instance_taps(x, INSTANCE)]
    present = jax.nn.one_hot(INSTANCE, 6).max((1, 2))
    pooled = apply(PooledConv(3), variables, jnp.stack(means), present)
    np.testing.assert_allclose(pooled, expected, atol=1e-6)
    assert not pooled[:, 4:].any()


def test_instance_mean_of_an_instance_without_pixels_is_zero():
    x = normal(2, 2, 4, 3)
    mean = instance_mean(x, INSTANCE, 6)
    assert mean.shape == (2, 6, 3) and not mean[:, 4:].any()
    expected = x[1][INSTANCE[1] == 2].mean(0)
    np.testing.assert_allclose(mean[1, 2], expected, rtol=1e-5)


def test_absent_instances_add_no_divergence():
    zeros = jnp.zeros((2, 3, 4))
    mu = normal(2, 3, 4)
    kl = losses.kl_standard_normal(mu, zeros)
    padded = losses.kl_standard_normal(
        *(jnp.pad(x, ((0, 0), (0, 5), (0, 0))) for x in (mu, zeros))
    )
    np.testing.assert_array_equal(kl, padded)
    np.testing.assert_allclose(kl, 0.5 * jnp.square(mu).sum((1, 2)), rtol=1e-5)


def test_the_prior_leaves_noise_alone_and_a_transfer_changes_one_instance():
    noise, prior = normal(1, 4, 2, 6), standard_statistics(1, 4, 6)
    np.testing.assert_array_equal(prior.remap(noise), noise)
    reference = StyleStatistics(*(normal(1, 2, 6, seed=i) for i in range(4)))
    styled = prior.transfer(3, reference, 1).remap(noise)
    np.testing.assert_array_equal(styled[:, :3], noise[:, :3])
    std = jnp.exp(0.5 * reference.shift_log_var[0, 1])
    expected = noise[0, 3, 1] * std + reference.shift_mu[0, 1]
    np.testing.assert_allclose(styled[0, 3, 1], expected, rtol=1e-5)


# ---- losses and schedules ----


def test_no_gradient_of_feature_matching_reaches_the_real_side():
    fake, real = ([[normal(2, 3, 3, 2, seed=i) for i in (j, j + 1)]] for j in (0, 5))
    loss = lambda a, b: losses.feature_matching(a, b, 0).sum()
    d_fake, d_real = jax.grad(loss, (0, 1))(fake, real)
    assert jnp.abs(d_fake[0][0]).max() > 0
    assert not any(jnp.any(x) for x in jax.tree.leaves(d_real))
    assert not jnp.any(d_fake[0][1]), "the logits never count"


def test_feature_matching_without_a_layer_is_zero():
    features = [[normal(2, 3, 3, 2, seed=i) for i in range(4)]]
    assert not losses.feature_matching(features, features[::-1], 3).any()


def test_the_rate_falls_linearly_and_stays_zero():
    assert [decay_factor(e, 3, 4) for e in (1, 3, 4, 5, 7)] == [1, 1, 1, 0.75, 0.25]
    assert decay_factor(99, 3, 0) == 1
    schedule: Any = epoch_schedule(2.0, 10, 3, 4)
    rates = [float(schedule(jnp.int32(step))) for step in (0, 39, 40, 69, 70, 999)]
    np.testing.assert_allclose(rates, [2, 2, 1.5, 0.5, 0, 0])


def test_two_time_scales():
    assert ttur(2e-4) == (1e-4, 4e-4)
    assert ttur(2e-4, enabled=False) == (2e-4, 2e-4)


# ---- sizes ----


@pytest.mark.parametrize(("upsampling", "size"), [("normal", 32), ("most", 128)])
def test_the_generator_doubles_its_first_features(upsampling, size):
    """Shapes alone, with a sketch branch; `most` ends with half the width."""
    norm = partial(InadeNorm, sketch=True)
    net = Generator(norm, 3, (1, 2), upsampling, width=2)
    layout = LAYOUT._replace(sketch=jnp.zeros((2, 2, 4, 1)))
    inputs = layout, normal(2, 6), normal(2, 4, 2, 5)
    image, variables = jax.eval_shape(
        lambda: net.init_with_output(KEY, *inputs, train=False)
    )
    assert image.shape == (2, size, 2 * size, 3)
    last = variables["params"]["conv_img"]["kernel"]
    assert last.shape == (3, 3, 1 if upsampling == "most" else 2, 3)


# ---- sizes of the released models ----

RELEASED: dict[str, Any] = {
    # classes, style channels, upsampling, aspect: parameters of G, IE and D
    "ade20k": ((151, 64, "normal", 1.0), (90.894, 3.690, 5.839)),
    "cityscapes": ((35, 64, "more", 2.0), (77.394, 3.690, 5.601)),
    "celeba": ((19, 64, "normal", 1.0), (85.115, 3.690, 5.569)),
    "deepfashion": ((8, 8, "normal", 1.0), (84.021, 3.561, 5.546)),
}


@pytest.mark.parametrize("name", RELEASED)
def test_networks_have_the_released_sizes_and_names(name):
    (classes, channels, upsampling, aspect), millions = RELEASED[name]
    width = 512 if aspect == 2 else 256
    base = base_size(width, aspect, upsampling)
    assert base == ((4, 8) if aspect == 2 else (8, 8))
    maps: Any = jax.ShapeDtypeStruct((1, 256, width), jnp.int32)
    image = jax.ShapeDtypeStruct((1, 256, width, 3), jnp.float32)
    pair = jax.ShapeDtypeStruct((1, 256, width, classes + 4), jnp.float32)
    noise = jax.ShapeDtypeStruct((1, 2, 2, channels), jnp.float32)
    latent = jax.ShapeDtypeStruct((1, 256), jnp.float32)
    generator = Generator(partial(NORMS["inade"]), classes, base, upsampling)
    nets = [
        (
            partial(generator.init, KEY, train=False),
            (Layout(maps, maps), latent, noise),
            official.generator_table("inade"),
        ),
        (
            partial(InstanceEncoder(2, channels).init, KEY),
            (image, maps),
            official.INSTANCE_ENCODER,
        ),
        (
            partial(Discriminator().init, KEY, train=False),
            (pair,),
            official.discriminator_table(4, "instance"),
        ),
    ]
    tensors = (198, 24, 26)
    for (init, inputs, table), size, number in zip(
        nets, millions, tensors, strict=True
    ):
        variables = jax.eval_shape(init, *inputs)
        assert count(variables["params"]) / 1e6 == pytest.approx(size, abs=6e-4)
        paths = [
            "/".join(key.key for key in keys)
            for keys, _ in jax.tree_util.tree_leaves_with_path(variables)
        ]
        names = [mapping.official_names(path, table)[0][0] for path in paths]
        assert len(names) == len(set(names)) == number


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("spectralspadesyncbatch3x3", (True, "batch", 3)),
        ("spadeinstance5x5", (False, "instance", 5)),
        ("spectralspadebatch3x3", (True, "batch", 3)),
    ],
)
def test_the_original_s_norm_option(text, expected):
    assert official.parse_norm_g(text) == expected


def test_an_unknown_norm_option_is_refused():
    with pytest.raises(ValueError, match="norm_G 'batch3x3' is not of the form"):
        official.parse_norm_g("batch3x3")
