"""Pix2Pix's reference files: networks, losses, whole steps, schedules, names."""

import re
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from fixture import Fixture, below, nchw, nhwc
from vae_gan import record

from picjax import masks
from picjax.data.pipeline import to_float, to_uint8
from picjax.layers.conv import Conv, ConvTranspose
from picjax.layers.initialisers import kernel_std
from picjax.legacy import learning_rate
from picjax.losses.adversarial import GAN, gradient_penalty
from picjax.losses.reconstruction import multiscale_l1
from picjax.methods.pix2pix import system as pix2pix
from picjax.methods.pix2pix.net import (
    PatchDiscriminator,
    PixelDiscriminator,
    ResnetGenerator,
    UnetGenerator,
)
from picjax.methods.pix2pix.official import table
from picjax.official.mapping import from_official, official_names, to_official
from picjax.system import State, init_opt

KEY = jax.random.key(0)
GENERATORS = (UnetGenerator, ResnetGenerator)


def build(network: str, hyper: Mapping[str, Any]) -> Any:
    """The net that a file's meta describes."""
    dropout = "official" if hyper.get("use_dropout") else "none"
    kind = network.split()[0]
    shared: Any = {"norm": hyper["norm"]}
    generator: Any = {"width": hyper.get("ngf"), "dropout": dropout}
    generator["out"] = hyper.get("output_nc", 3)
    judge: Any = {"width": hyper.get("ndf")}
    if kind == "UnetGenerator":
        return UnetGenerator(levels=hyper["num_downs"], **generator, **shared)
    if kind == "ResnetGenerator":
        padding, blocks = hyper["padding_type"], hyper["n_blocks"]
        return ResnetGenerator(blocks=blocks, padding=padding, **generator, **shared)
    if kind == "NLayerDiscriminator":
        return PatchDiscriminator(layers=hyper["n_layers"], **judge, **shared)
    assert kind == "PixelDiscriminator", kind
    return PixelDiscriminator(**judge, **shared)


def inputs(net: Any, x: Any, keep: list[Any]) -> tuple[Any, ...]:
    """What the net is called with."""
    return (x, keep) if isinstance(net, GENERATORS) else (x,)


def abstract(net: Any, shape: tuple[int, ...]) -> Any:
    """The shapes of the net's variables for images b h w c."""
    x = jax.ShapeDtypeStruct(shape, jnp.float32)
    init = partial(net.init, update_stats=False)
    return jax.eval_shape(init, KEY, *inputs(net, x, []))


def load(net: Any, params: Mapping[str, np.ndarray], shape: tuple[int, ...]) -> Any:
    loaded = from_official(params, abstract(net, shape), table(net))
    return {"stats": {}} | jax.tree.map(jnp.asarray, loaded)


def assert_near(name: str, actual: Any, expected: Any, share: float) -> None:
    """Every element to a share of the expected array's largest."""
    actual, expected = np.asarray(actual, np.float64), np.asarray(expected)
    assert actual.shape == expected.shape, (name, actual.shape, expected.shape)
    error, allowed = np.abs(actual - expected).max(), share * np.abs(expected).max()
    assert error <= allowed, f"{name}: off by {error:.3g}, {allowed:.3g} is allowed"


# ---- networks ----


def network(fixture: Fixture) -> None:
    """Both modes, every convolution's output, gradients, the buffers afterwards."""
    net = build(fixture.meta["network"], fixture.hyper)
    names, given, expected = table(net), fixture.inputs, fixture.outputs
    x = jnp.asarray(nhwc(given["x"]))
    masks = below(given, "keep_mask_")
    keep = [jnp.asarray(nhwc(masks[str(i)]), jnp.float32) for i in range(len(masks))]
    if isinstance(net, GENERATORS):
        _, h, w, _ = x.shape
        assert [k.shape[1:] for k in keep] == net.keep_shapes(h, w)
    variables = load(net, fixture.params, x.shape)

    evaluated = jax.jit(partial(net.apply, update_stats=False))
    y = nchw(evaluated(variables, *inputs(net, x, [])))
    # Random running statistics let a ResNet's activations grow.
    share = 3e-5 if isinstance(net, ResnetGenerator) else 1e-5
    assert_near("eval", y, expected["eval"], share)

    def total(params: Any, x: Any) -> tuple[Any, Any]:
        y, state = net.apply(
            variables | {"params": params},
            *inputs(net, x, keep),
            update_stats=True,
            mutable=["stats", "intermediates"],
            capture_intermediates=lambda layer, _: isinstance(
                layer, Conv | ConvTranspose
            ),
        )
        y = nchw(y)
        return (y * given.get("cotangent", 0 * y)).sum(), (y, state)

    slopes = jax.jit(jax.grad(total, argnums=(0, 1), has_aux=True))
    _, (y, state) = slopes(variables["params"], x)
    assert_near("train", y, expected["train"], 1e-5)
    layers = {
        official_names(f"params/{layer}/kernel", names)[0][0]: calls["__call__"][0]
        for layer, calls in state["intermediates"].items()
        if "__call__" in calls
    }
    for name, value in below(expected, "conv_train/").items():
        assert_near(name, nchw(layers[f"{name}.weight"]), value, 1e-5)
    after = to_official({"stats": state.get("stats", {})}, names)
    for name, value in below(expected, "after_train/").items():
        assert_near(name, after[name], value, 1e-5)

    def slope_at(x: Any) -> dict[str, Any]:
        (grads, d_x), _ = slopes(variables["params"], x)
        return to_official({"params": grads}, names) | {"in/x": nchw(d_x)}

    if fixture.grads:
        # One ReLU of resnet6 sits at 0 to rounding, and every gradient below it moves
        # by 2 % with its side, which the order of sums decides: inputs that differ by
        # rounding must hold one where it falls as in the reference.
        nudges = (0.0, 1e-6, -1e-6, 3e-6, -3e-6)
        wrong = [
            wrong_grads(fixture.grads, slope_at(x * (1 + nudge)), fixture.hyper["norm"])
            for nudge in nudges[: 5 if isinstance(net, ResnetGenerator) else 1]
        ]
        assert not all(wrong), wrong


def wrong_grads(
    expected: Mapping[str, Any], ours: Mapping[str, Any], norm: str
) -> dict[str, float]:
    """Those further off than 1e-4 of their array's largest, and by what share of it.

    A bias in front of an instance norm has no gradient but rounding: compared with the
    net's largest.
    """
    found = {}
    largest = max(np.abs(x).max() for x in expected.values())
    for name, value in expected.items():
        rounding = norm == "instance" and name.endswith(".bias")
        size = largest if rounding else np.abs(value).max()
        error = np.abs(np.asarray(ours[name]) - value).max()
        if error > 1e-4 * size:
            found[name] = float(error / size)
    return found


# ---- losses ----


def losses(fixture: Fixture) -> None:
    hyper, given, out = fixture.hyper, fixture.inputs, fixture.outputs
    score = jnp.asarray(nhwc(given["pred"]))
    for mode in ("vanilla", "lsgan", "wgangp"):
        for side in ("real", "fake"):
            loss = getattr(GAN[mode], side)
            value, slope = jax.value_and_grad(lambda x, f=loss: f(x).mean())(score)
            assert_near(mode, value, out[f"{mode}_{side}"], 1e-5)
            expected = fixture.grads[f"pred_{mode}_{side}"]
            assert_near(f"gradient of {mode}", nchw(slope), expected, 1e-5)
            if mode == "vanilla":  # sigmoid and cross entropy: the same number
                assert_near("bce", value, out[f"bce_sigmoid_{side}"], 1e-5)
    fake, real = (jnp.asarray(nhwc(given[name])) for name in ("fake_B", "real_B"))
    value, slope = jax.value_and_grad(
        lambda fake: hyper["lambda_L1"] * multiscale_l1([fake], [real]).mean()
    )(fake)
    assert_near("l1", value, out["l1_weighted"], 1e-5)
    assert_near("gradient of l1", nchw(slope), fixture.grads["fake_B_l1"], 1e-5)
    penalty(fixture)


def penalty(fixture: Fixture) -> None:
    """The gradient penalty of mixed, real and generated images."""
    given, out = fixture.inputs, fixture.outputs
    described = re.search(
        r"ndf=(\d+), n_layers=(\d+), (\w+) norm", fixture.hyper["gp_D"]
    )
    assert described
    width, layers, norm = described.groups()
    shared: Any = {"norm": norm}
    net: Any = PatchDiscriminator(width=int(width), layers=int(layers), **shared)
    real, fake = (jnp.asarray(nhwc(given[f"gp_{name}"])) for name in ("real", "fake"))
    variables = load(net, below(fixture.params, "D."), real.shape)
    alpha = jnp.asarray(given["gp_alpha"][:, 0])

    def weighted(params: Any, alpha: Any) -> Any:
        score = partial(net.apply, {"params": params}, update_stats=False)
        each = gradient_penalty(score, real, fake, alpha)
        return fixture.hyper["lambda_gp"] * each.mean()

    run = jax.jit(jax.value_and_grad(weighted))
    mixes = {"mixed": alpha, "real": jnp.ones_like(alpha), "fake": 0 * alpha}
    for kind, alpha in mixes.items():
        value, slope = run(variables["params"], alpha)
        assert_near(f"penalty of {kind}", value, out[f"gp_{kind}"], 1e-5)
        a = alpha[:, None, None, None]
        x = a * real + (1 - a) * fake
        d_x = jax.grad(lambda x: net.apply(variables, x, False).sum())(x)
        d_x = nchw(d_x).reshape(len(x), -1)
        assert_near("input gradient", d_x, out[f"gp_inputgrad_{kind}"], 1e-5)
        ours = to_official({"params": slope}, table(net))
        assert not wrong_grads(below(fixture.grads, f"gp_{kind}/D."), ours, norm)


# ---- whole steps ----

NETS = {"G": "generator", "D": "discriminator"}


def described_nets(hyper: Mapping[str, Any]) -> dict[str, Any]:
    """From "UnetGenerator num_downs=5 ngf=2 batch norm" and the like."""

    def build_one(kind: str, text: str) -> Any:
        numbers = {name: int(x) for name, x in re.findall(r"(\w+)=(\d+)", text)}
        norm = re.search(r"(\w+) norm", text)
        assert norm
        return build(kind, numbers | {"norm": norm[1], "padding_type": "reflect"})

    kinds = {"pixel": "PixelDiscriminator"}
    judge = kinds.get(hyper["netD"].split()[0], "NLayerDiscriminator")
    return {
        "generator": build_one(hyper["netG"].split()[0], hyper["netG"]),
        "discriminator": build_one(judge, hyper["netD"]),
    }


def train_steps(fixture: Fixture) -> None:
    h, given = fixture.hyper, fixture.inputs
    nets = described_nets(h)
    hyper = pix2pix.Hyper(gan_mode=h["gan_mode"], l1=h["lambda_L1"])
    adam = optax.adam(h["lr"], *h["betas"], eps=h["eps"])
    opts = pix2pix.optimisers(optax.chain(record(), adam))
    b, _, height, width = given["step1/real_A"].shape
    channels = {"G": 3, "D": 6}
    loaded = {
        ours: load(
            nets[ours],
            below(fixture.params, f"{theirs}."),
            (b, height, width, channels[theirs]),
        )
        for theirs, ours in NETS.items()
    }
    params = {net: variables["params"] for net, variables in loaded.items()}
    stats = {net: variables["stats"] for net, variables in loaded.items()}
    state = State(jnp.int32(0), params, stats, init_opt(opts, params), {})
    zeros = jnp.zeros(b)
    noise = {"keep": [], "penalty": zeros, "swap": zeros, "index": jnp.int32(zeros)}
    step = jax.jit(partial(pix2pix.step, nets, opts, hyper))
    sure = {name: True for name in fixture.params}
    for i in range(1, h["steps"] + 1):
        batch = {
            "image": jnp.asarray(nhwc(given[f"step{i}/real_B"])),
            "condition": jnp.asarray(nhwc(given[f"step{i}/real_A"])),
            "mask": jnp.zeros((b, height, width, 1)),
        }
        after, metrics = step(state, batch, noise)
        out = below(fixture.outputs, f"step{i}/")
        check_step(nets, state, after, batch, metrics, out)
        grads = below(fixture.grads, f"step{i}/")
        sure = {n: s & (np.abs(grads.get(n, 1)) > 1e-6) for n, s in sure.items()}
        check_state(nets, after, out, grads, sure, 2 * h["lr"] * i)
        state = after


def check_step(
    nets: dict[str, Any],
    before: State,
    after: State,
    batch: Any,
    metrics: Any,
    out: Any,
) -> None:
    """Losses and what the nets gave on the way."""
    values = {
        "loss_D_fake": metrics["d_fake"],
        "loss_D_real": metrics["d_real"],
        "loss_D": 0.5 * (metrics["d_fake"] + metrics["d_real"]),
        "loss_G_GAN": metrics["g_gan"],
        "loss_G_L1": metrics["g_l1"],
        "loss_G": metrics["g_gan"] + metrics["g_l1"],
    }
    given, generator = batch["condition"], before.params["generator"]
    fake, _ = pix2pix.generate(nets, generator, before.stats, given, [])
    values["fake_B"] = nchw(fake)
    for name, state, image in (
        ("pred_fake_D", before, fake),
        ("pred_real_D", before, batch["image"]),
        ("pred_fake_G", after, fake),
    ):
        params, stats = (x["discriminator"] for x in (state.params, state.stats))
        pair = jnp.concatenate([given, image], -1)
        values[name] = nchw(pix2pix.judge(nets, params, stats, pair)[0])
    for name, value in values.items():
        assert_near(name, value, out[name], 1e-5)


def check_state(
    nets: dict[str, Any],
    state: State,
    out: Mapping[str, Any],
    grads: Mapping[str, Any],
    sure: Mapping[str, Any],
    moved: float,
) -> None:
    """The gradients that Adam was given, and the state after it.

    Adam's first steps are lr times the sign of the gradient: where that has been
    rounding, two right answers may be `moved` apart.
    """
    for theirs, ours in NETS.items():
        names = table(nets[ours])
        slope = to_official({"params": state.opt[ours][0][ours]}, names)
        norm = nets[ours].norm
        assert not wrong_grads(below(grads, f"{theirs}."), slope, norm)
        variables = {"params": state.params[ours], "stats": state.stats[ours]}
        for name, value in to_official(variables, names).items():
            full = f"{theirs}.{name}"
            allowed = np.where(sure[full], 2e-6, moved) + 1e-6 * np.abs(out[full])
            assert np.all(np.abs(value - out[full]) <= allowed), full


# ---- the rest ----


def image_pool(fixture: Fixture) -> None:
    size = fixture.hyper["pool_size"]
    images, returned = fixture.inputs["images"], fixture.outputs["returned"]
    uniform = iter(fixture.inputs["uniform_draws"])
    index = iter(fixture.inputs["index_draws"])
    pool = pix2pix.empty_pool(size, nhwc(images[0]).shape[1:])
    for seen, (batch, expected) in enumerate(zip(images, returned, strict=True)):
        before = seen * len(batch)
        swap = [next(uniform) if before + i >= size else 0 for i in range(len(batch))]
        places = [int(next(index)) if u > 0.5 else 0 for u in swap]
        pool, shown = pix2pix.query(
            pool,
            jnp.asarray(nhwc(batch), jnp.float32),
            jnp.asarray(swap, jnp.float32),
            jnp.asarray(places),
        )
        np.testing.assert_array_equal(nchw(shown), expected)


def lr_schedules(fixture: Fixture) -> None:
    """The linear ones, all we offer, as epochs of one step each.

    The rate of the later code in epoch e (from 1) is ours at step e of n + m + 1; the
    two older versions are one epoch ahead.
    """
    checked = 0
    for name, about in fixture.meta["arrays"].items():
        if about["policy"] != "linear":
            continue
        n, decay = about.get("n", 100), about.get("d", 100)
        ahead = about["when"] == "begin" or about.get("rule") == "2018"
        expected = fixture.raw[name]
        epochs = about.get("epoch_count", 1) + np.arange(len(expected)) + ahead
        rate = learning_rate(2e-4, n + decay + 1, (decay + 1) / (n + decay + 1))
        # Ours are 32-bit numbers.
        np.testing.assert_allclose(rate(epochs), expected, rtol=1e-5, atol=1e-9)
        checked += 1
    assert checked


def init_moments(fixture: Fixture) -> None:
    """The std of every kernel by each rule: asked for, and drawn."""
    gain = fixture.hyper["init_gain"]
    for about, shapes in fixture.meta["shapes"].items():
        width, channels = shapes[0][1][:2]
        scaled = any(len(s) == 1 and n.endswith(".weight") for n, s in shapes)
        shared: Any = {"width": width, "norm": "batch" if scaled else "instance"}
        net: Any = PatchDiscriminator(**shared)
        if side := re.match(r"unet(\d+)", about):
            net = UnetGenerator(levels=int(side[1]).bit_length() - 1, **shared)
        x = jnp.zeros((1, 32, 32, channels))
        for rule in ("normal", "xavier", "kaiming", "orthogonal"):
            ruled = net.clone(rule=rule, gain=gain)
            init = jax.jit(partial(ruled.init, update_stats=False))
            start = init(KEY, *inputs(net, x, []))
            drawn = to_official({"params": start["params"]}, table(net))
            assert drawn.keys() == {name for name, _ in shapes}
            asked = below(fixture.outputs, f"{about}/{rule}/theory_std/")
            for name, shape in shapes:
                check_start(name, drawn[name], tuple(shape), rule, gain, asked)


def check_start(
    name: str, drawn: Any, shape: tuple[int, ...], rule: Any, gain: float, asked: Any
) -> None:
    assert drawn.shape == shape, name
    spread = 5 / np.sqrt(2 * drawn.size)
    if name.endswith(".bias"):
        assert not drawn.any(), name
    elif drawn.ndim == 1:
        assert abs(drawn.mean() - 1) < 5 * gain / np.sqrt(drawn.size), name
        assert abs(drawn.std() / gain - 1) < 2 * spread, name
    elif rule == "orthogonal":
        rows = drawn.reshape(len(drawn), -1)
        rows = rows if len(rows) <= rows.shape[1] else rows.T
        np.testing.assert_allclose(
            rows @ rows.T, gain**2 * np.eye(len(rows)), atol=1e-8
        )
    else:
        first, second, kh, kw = shape
        # By the stored tensor alone, whether it is a transposed one or not.
        std = kernel_std(rule, (kh, kw, second, first), gain)
        transposed = kernel_std(rule, (kh, kw, first, second), gain, transposed=True)
        assert std == transposed
        np.testing.assert_allclose(std, asked[name], rtol=1e-6)
        assert abs(drawn.mean()) < 5 * std / np.sqrt(drawn.size), name
        assert abs(drawn.std() / std - 1) < spread, name


def half_mask(fixture: Fixture) -> None:
    """The report's condition, and pixels as files hold them: the original truncates."""
    given, out = fixture.inputs, fixture.outputs
    images = np.where(
        given["flip"].astype(bool)[:, None, None, None],
        given["images"][:, :, ::-1],
        given["images"],
    )
    known = masks.make("top", images.shape[1:3], np.random.default_rng(0))
    mask = np.broadcast_to(known[None, ..., None], (*images.shape[:3], 1))
    batch = to_float({"image": images, "mask": mask})
    np.testing.assert_allclose(nchw(batch["image"]), out["full"], atol=1e-6)
    half = pix2pix.condition(pix2pix.Hyper(), batch)
    np.testing.assert_allclose(nchw(half), out["half"], atol=1e-6)
    assert not np.any(nchw(half)[out["half"] == 0])
    generated = given["generated"].transpose(1, 2, 0)
    above = np.asarray(to_uint8(jnp.asarray(generated)), int) - out["tensor2im"]
    rest = np.modf((generated.astype(np.float64) + 1) * 127.5)[0]
    np.testing.assert_array_equal(above[rest < 0.499], 0)
    np.testing.assert_array_equal(above[rest > 0.501], 1)


def state_dict_names(fixture: Fixture) -> None:
    """Every name, shape and type of the networks at full size."""
    for name, entries in fixture.meta["nets"].items():
        norm = re.search(r"_(batch|instance|none)_", name)
        width = re.search(r"_n[gd]f(\d+)", name)
        assert norm and width
        shared: Any = {"norm": norm[1], "width": int(width[1])}
        dropout = "none" if name.endswith("nodropout") else "official"
        # Sides that each of the nets can take; the width says what goes in.
        shape = (1, 256, 256, entries[0][1][1])
        if levels := re.match(r"unet_(\d+)", name):
            net: Any = UnetGenerator(levels=int(levels[1]).bit_length() - 1, **shared)
        elif blocks := re.match(r"resnet_(\d+)blocks", name):
            net = ResnetGenerator(blocks=int(blocks[1]), dropout=dropout, **shared)
        elif layers := re.match(r"patchd_n(\d+)", name):
            net = PatchDiscriminator(layers=int(layers[1]), **shared)
        else:
            net = PixelDiscriminator(**shared)
        target = abstract(net, shape)
        zeros = jax.tree.map(lambda s: np.zeros(s.shape, s.dtype), target)
        ours = to_official(zeros, table(net))
        described = {n: (x.shape, str(x.dtype)) for n, x in ours.items()}
        assert described == {n: (tuple(s), t) for n, s, t in entries}, name
        count = sum(x.size for x in jax.tree.leaves(target["params"]))
        assert count == fixture.meta["parameter_counts"][name], name


STEMS: dict[str, Callable[[Fixture], None]] = {
    "half_mask": half_mask,
    "image_pool": image_pool,
    "init_moments": init_moments,
    "losses": losses,
    "lr_schedules": lr_schedules,
    "state_dict_names": state_dict_names,
    "train_step_vanilla_patch": train_steps,
    "train_step_vanilla_pixel": train_steps,
}
STEMS |= dict.fromkeys(
    (
        "patchd_n1_batch",
        "patchd_n2_batch",
        "patchd_n3_batch",
        "patchd_n3_instance",
        "patchd_n5_batch",
        "pixeld_batch",
        "pixeld_instance",
        "resnet6_batch_dropout",
        "resnet9_instance",
        "unet128_batch_dropout",
        "unet256_batch_dropout",
        "unet32_batch",
        "unet32_instance",
        "unet32_none",
    ),
    network,
)
HANDLERS = {("pix2pix", stem): handler for stem, handler in STEMS.items()}
