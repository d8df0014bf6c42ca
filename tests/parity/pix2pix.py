"""Pix2Pix's reference files: networks, losses, whole steps, schedules, names."""

import re
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from fixture import Fixture, below, nchw, nhwc
from helpers.configs import load_config
from patterns import Patterns
from pix2pix_nets import (
    GENERATORS,
    KEY,
    abstract,
    arguments,
    assert_near,
    build,
    infer_network,
    load,
    parse,
    side,
    wrong_gradients,
)
from pix2pix_steps import check_steps

from picjax import masks
from picjax.images import to_float, to_uint8
from picjax.layers.conv import Conv, ConvTranspose
from picjax.layers.initialisers import kernel_std
from picjax.losses.adversarial import GAN, gradient_penalty
from picjax.losses.reconstruction import multiscale_l1
from picjax.methods.pix2pix.net import ResnetGenerator
from picjax.methods.pix2pix.official import table
from picjax.methods.pix2pix.pool import empty_pool, exchange
from picjax.methods.pix2pix.system import Pix2Pix
from picjax.official.mapping import official_names, to_official
from picjax.optim import linear_decay

ADAM_LR = 2e-4  # of every published setting

# ---- networks ----


def check_network(fixture: Fixture) -> None:
    """Both modes, each convolution's output, gradients, the buffers afterwards."""
    net = build(fixture.meta["network"], fixture.hyper)
    inputs, expected = fixture.inputs, fixture.outputs
    x = jnp.asarray(nhwc(inputs["x"]))
    masks = below(inputs, "keep_mask_")
    keep = [jnp.asarray(nhwc(masks[str(i)]), jnp.float32) for i in range(len(masks))]
    if isinstance(net, GENERATORS):
        _, h, w, _ = x.shape
        assert [k.shape[1:] for k in keep] == net.keep_shapes(h, w)
    variables = load(net, fixture.params, x.shape)
    if "eval" in expected:
        evaluate = jax.jit(partial(net.apply, train=False))
        y = nchw(evaluate(variables, *arguments(net, x, [])))
        # Random running statistics let the activations of a ResNet grow.
        share = 3e-5 if isinstance(net, ResnetGenerator) else 1e-5
        assert_near("eval", y, expected["eval"], share)

    def total(params: Any, x: Any) -> tuple[Any, Any]:
        y, state = net.apply(
            variables | {"params": params},
            *arguments(net, x, keep),
            train=True,
            mutable=["stats", "intermediates"],
            capture_intermediates=lambda layer, _: isinstance(
                layer, Conv | ConvTranspose
            ),
        )
        y = nchw(y)
        return (y * inputs.get("cotangent", 0 * y)).sum(), (y, state)

    differentiate = jax.jit(jax.grad(total, argnums=(0, 1), has_aux=True))
    _, (y, state) = differentiate(variables["params"], x)
    if "train" in expected:
        assert_near("train", y, expected["train"], 1e-5)
    assert {"eval", "train"} & expected.keys()
    check_training(net, state, expected)

    def gradients(x: Any) -> dict[str, Any]:
        (grads, d_x), _ = differentiate(variables["params"], x)
        return to_official({"params": grads}, table(net)) | {"in/x": nchw(d_x)}

    if fixture.grads:
        # A ReLU whose input is 0 up to rounding moves every gradient below it by some
        # percent, and the order of summation decides its side: inputs that differ by
        # rounding must include one where it falls as in the reference.
        nudges = (0.0, 1e-6, -1e-6, 3e-6, -3e-6)
        wrong = []
        for nudge in nudges:
            actual = gradients(x * (1 + nudge))
            wrong.append(wrong_gradients(fixture.grads, actual, net.norm))
            if not wrong[-1]:
                return
        raise AssertionError(f"wrong gradients, by nudge of the input: {wrong}")


def check_training(net: Any, state: Any, expected: Any) -> None:
    """Each convolution's output, and the running statistics after one pass."""
    layers = {
        official_names(f"params/{layer}/kernel", table(net))[0][0]: calls["__call__"][0]
        for layer, calls in state["intermediates"].items()
        if "__call__" in calls
    }
    for name, value in below(expected, "conv_train/").items():
        assert_near(name, nchw(layers[f"{name}.weight"]), value, 1e-5)
    after = to_official({"stats": state.get("stats", {})}, table(net))
    for name, value in below(expected, "after_train/").items():
        assert_near(name, after[name], value, 1e-5)


# ---- losses ----


def check_losses(fixture: Fixture) -> None:
    hyper, inputs, out = fixture.hyper, fixture.inputs, fixture.outputs
    score = jnp.asarray(nhwc(inputs["pred"]))
    named = (re.fullmatch(r"(?!gp_|bce_)(\w+)_(?:real|fake)", name) for name in out)
    modes = {match[1] for match in named if match}
    assert modes
    for mode in modes:
        for target in ("real", "fake"):
            loss = getattr(GAN[mode], target)
            value, slope = jax.value_and_grad(lambda x, f=loss: f(x).mean())(score)
            assert_near(mode, value, out[f"{mode}_{target}"], 1e-5)
            if (name := f"pred_{mode}_{target}") in fixture.grads:
                expected = fixture.grads[name]
                assert_near(f"gradient of {mode}", nchw(slope), expected, 1e-5)
            # A sigmoid in front of binary cross entropy is the same function.
            if mode == "vanilla" and f"bce_sigmoid_{target}" in out:
                assert_near("bce", value, out[f"bce_sigmoid_{target}"], 1e-5)
    if "l1_weighted" in out:
        fake, real = (jnp.asarray(nhwc(inputs[name])) for name in ("fake_B", "real_B"))
        value, slope = jax.value_and_grad(
            lambda fake: hyper["lambda_L1"] * multiscale_l1([fake], [real]).mean()
        )(fake)
        assert_near("l1", value, out["l1_weighted"], 1e-5)
        assert_near("gradient of l1", nchw(slope), fixture.grads["fake_B_l1"], 1e-5)
    if "gp_D" in hyper:
        check_penalty(fixture)


def check_penalty(fixture: Fixture) -> None:
    """The gradient penalty at mixed, real and generated images."""
    inputs, out = fixture.inputs, fixture.outputs
    text = fixture.hyper["gp_D"]
    net = build(re.split(r"\W", text)[0], parse(text))
    real, fake = (jnp.asarray(nhwc(inputs[f"gp_{name}"])) for name in ("real", "fake"))
    variables = load(net, below(fixture.params, "D."), real.shape)
    alpha = jnp.asarray(inputs["gp_alpha"]).reshape(-1)
    train = net.norm == "batch"  # the original's critic is in training mode

    def score(params: Any, x: Any) -> Any:
        own = variables | {"params": params}
        return net.apply(own, x, train, mutable=["stats"])[0]

    def weighted(params: Any, alpha: Any) -> Any:
        each = gradient_penalty(partial(score, params), real, fake, alpha)
        return fixture.hyper["lambda_gp"] * each.mean()

    run = jax.jit(jax.value_and_grad(weighted))
    mixes = {"mixed": alpha, "real": jnp.ones_like(alpha), "fake": 0 * alpha}
    mixes = {kind: alpha for kind, alpha in mixes.items() if f"gp_{kind}" in out}
    assert mixes
    for kind, alpha in mixes.items():
        value, slope = run(variables["params"], alpha)
        assert_near(f"penalty of {kind}", value, out[f"gp_{kind}"], 1e-5)
        a = alpha[:, None, None, None]
        x = a * real + (1 - a) * fake
        d_x = jax.grad(lambda x: score(variables["params"], x).sum())(x)
        d_x = nchw(d_x).reshape(len(x), -1)
        assert_near("input gradient", d_x, out[f"gp_inputgrad_{kind}"], 1e-5)
        ours = to_official({"params": slope}, table(net))
        expected = below(fixture.grads, f"gp_{kind}/D.")
        assert not wrong_gradients(expected, ours, net.norm)


# ---- pool, schedules, initialisation ----


def check_pool(fixture: Fixture) -> None:
    size = fixture.hyper["pool_size"]
    images, returned = fixture.inputs["images"], fixture.outputs["returned"]
    if not size:  # the pool is off
        np.testing.assert_array_equal(images, returned)
        return
    uniform = iter(fixture.inputs["uniform_draws"])
    index = iter(fixture.inputs["index_draws"])
    pool = empty_pool(size, nhwc(images[0]).shape[1:])
    for i, (batch, expected) in enumerate(zip(images, returned, strict=True)):
        before = i * len(batch)
        swap = [next(uniform) if before + j >= size else 0 for j in range(len(batch))]
        slot = [int(next(index)) if u > 0.5 else 0 for u in swap]
        pool, shown = exchange(
            pool,
            jnp.asarray(nhwc(batch), jnp.float32),
            jnp.asarray(swap, jnp.float32),
            jnp.asarray(slot),
        )
        np.testing.assert_array_equal(nchw(shown), expected)


def check_schedules(fixture: Fixture) -> None:
    """The linear schedules, as epochs of one step each.

    picjax has no others. The rate of the later code in epoch e (from 1) is ours at
    step e of n + m + 1; the two older versions are one epoch ahead.
    """
    linear = {
        name: entry
        for name, entry in fixture.meta["arrays"].items()
        if entry["policy"] == "linear"
    }
    if not linear:
        pytest.skip("the file holds no linear schedule, and picjax has no other")
    for name, entry in linear.items():
        n, decay = entry.get("n", 100), entry.get("d", 100)
        lr = entry.get("lr", fixture.hyper.get("lr", ADAM_LR))
        ahead = entry["when"] == "begin" or entry.get("rule") == "2018"
        expected = fixture.raw[name]
        epochs = entry.get("epoch_count", 1) + np.arange(len(expected)) + ahead
        rate = linear_decay(lr, n + decay + 1, (decay + 1) / (n + decay + 1))
        # Our rates are float32.
        np.testing.assert_allclose(rate(epochs), expected, rtol=1e-5, atol=1e-9)


def check_initialisation(fixture: Fixture) -> None:
    """The standard deviation of each kernel by each rule: intended, and drawn."""
    gain = fixture.hyper["init_gain"]
    for label, entries in fixture.meta["shapes"].items():
        shapes = dict(entries)
        net = infer_network(shapes)
        channels = entries[0][1][1]
        x = jnp.zeros((1, side(net), side(net), channels))
        outputs = below(fixture.outputs, f"{label}/")
        rules = {name.split("/")[0] for name in outputs}
        assert rules
        for rule in rules:
            ruled = net.clone(rule=rule, gain=gain)
            init = jax.jit(partial(ruled.init, train=False))
            start = init(KEY, *arguments(net, x, []))
            drawn = to_official({"params": start["params"]}, table(net))
            assert drawn.keys() == shapes.keys()
            intended = below(outputs, f"{rule}/theory_std/")
            for name, shape in shapes.items():
                assert drawn[name].shape == tuple(shape), name
                check_drawn(name, drawn[name], rule, gain, intended)


def check_drawn(name: str, drawn: Any, rule: Any, gain: float, intended: Any) -> None:
    spread = 5 / np.sqrt(2 * drawn.size)
    if name.endswith(".bias"):
        assert not drawn.any(), name
    elif drawn.ndim == 1:
        assert abs(drawn.mean() - 1) < 5 * gain / np.sqrt(drawn.size), name
        assert abs(drawn.std() / gain - 1) < 2 * spread, name
    elif rule == "orthogonal":
        rows = drawn.reshape(len(drawn), -1)
        rows = rows if len(rows) <= rows.shape[1] else rows.T
        expected = gain**2 * np.eye(len(rows))
        np.testing.assert_allclose(rows @ rows.T, expected, atol=1e-8)
    else:
        first, second, kh, kw = drawn.shape
        # It depends on the stored tensor alone, transposed or not.
        std = kernel_std(rule, (kh, kw, second, first), gain)
        transposed = kernel_std(rule, (kh, kw, first, second), gain, transposed=True)
        assert std == transposed
        np.testing.assert_allclose(std, intended[name], rtol=1e-6)
        assert abs(drawn.mean()) < 5 * std / np.sqrt(drawn.size), name
        assert abs(drawn.std() / std - 1) < spread, name


# ---- data, names ----


def check_half_mask(fixture: Fixture) -> None:
    """The course report's condition, and pixels in files: the original truncates."""
    inputs, out = fixture.inputs, fixture.outputs
    flip = inputs["flip"].astype(bool)[:, None, None, None]
    images = np.where(flip, inputs["images"][:, :, ::-1], inputs["images"])
    known = masks.make("top", images.shape[1:3], np.random.default_rng(0))
    mask = np.broadcast_to(known[None, ..., None], (*images.shape[:3], 1))
    batch = to_float({"image": images, "mask": mask})
    np.testing.assert_allclose(nchw(batch["image"]), out["full"], atol=1e-6)
    config = load_config("pix2pix", "half32_pixel")
    half = Pix2Pix.from_config(config).condition(batch)
    np.testing.assert_allclose(nchw(half), out["half"], atol=1e-6)
    assert not np.any(nchw(half)[out["half"] == 0])
    expected = out["tensor2im"].astype(int)
    generated = inputs["generated"].transpose(1, 2, 0)
    generated = np.broadcast_to(generated, expected.shape)
    above = np.asarray(to_uint8(jnp.asarray(generated)), int) - expected
    rest = np.modf((generated.astype(np.float64) + 1) * 127.5)[0]
    np.testing.assert_array_equal(above[rest < 0.499], 0)
    np.testing.assert_array_equal(above[rest > 0.501], 1)


def check_names(fixture: Fixture) -> None:
    """Every name, shape and type of the networks at full size."""
    for label, entries in fixture.meta["nets"].items():
        net = infer_network({name: shape for name, shape, _ in entries})
        target = abstract(net, (1, side(net), side(net), entries[0][1][1]))
        zeros = jax.tree.map(lambda s: np.zeros(s.shape, s.dtype), target)
        ours = to_official(zeros, table(net))
        described = {n: (x.shape, str(x.dtype)) for n, x in ours.items()}
        assert described == {n: (tuple(s), t) for n, s, t in entries}, label
        count = sum(x.size for x in jax.tree.leaves(target["params"]))
        assert count == fixture.meta["parameter_counts"][label], label


CHECKS = Patterns(
    {
        r"(Unet|Resnet)Generator|(NLayer|Pixel)Discriminator": check_network,
        r"GANLoss": check_losses,
        r"one Pix2Pix optimisation step": check_steps,
        r"ImagePool": check_pool,
        r"learning-rate schedules": check_schedules,
        r"initialisation": check_initialisation,
        r"lower-half data transform": check_half_mask,
        r"full-size state_dict listings": check_names,
    }
)
