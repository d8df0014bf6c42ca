"""PICNet's reference files: layers, networks, losses, the test, a training step."""

import re
from collections.abc import Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from fixture import Fixture, below, nchw, nhwc
from patterns import Patterns
from picnet_losses import (
    adam,
    eval_metrics,
    gan_losses,
    kl_prior,
    penalty,
    scale_pyramid,
)
from picnet_masks import check_masks
from picnet_step import check_step
from vae_gan import (
    KEY,
    PlainGenerator,
    check,
    check_discriminator,
    check_manifest,
    check_procedure,
    discriminator,
    encoder_sizes,
    features,
    generator_sizes,
    manifest_shapes,
)

from picjax.layers.attention import AutoAttention
from picjax.layers.conv import Conv, ConvTranspose
from picjax.layers.encoder_decoder import VisibleFeatures
from picjax.layers.interleave import separate
from picjax.layers.residual import DecoderBlock, FirstBlock, Output, ResBlock
from picjax.methods.picnet.net import Encoder, PatchDiscriminator, ResGenerator
from picjax.methods.picnet.official import PATCH_TABLE, TABLE
from picjax.official import replay
from picjax.official.mapping import (
    CONV,
    CONV_TRANSPOSED,
    NORM,
    SPECTRAL,
    SPECTRAL_TRANSPOSED,
    Leaf,
    Site,
    from_official,
    to_official,
)

# ---- blocks ----


def shape_of(fixture: Fixture, layer: str) -> tuple[int, ...]:
    """Shape of the kernel of a layer of a block."""
    for name, x in fixture.params.items():
        if re.fullmatch(rf"{layer}\.(conv\.)?(module\.weight_bar|weight)", name):
            return x.shape
    raise KeyError(layer)


def block_options(fixture: Fixture) -> dict[str, Any]:
    """Norm, slope, spectral norm and coordinates of a block, as far as it has them."""
    act = fixture.hyper.get("act", "LeakyReLU(0.1)")
    slope = re.match(r"LeakyReLU\(([\d.]+)\)", act)
    assert slope or act.startswith("ReLU"), act
    names = fixture.params.keys()
    norm = None
    if any(re.fullmatch(r"model\.\d\.running_var", name) for name in names):
        norm = "batch"
    elif any(re.fullmatch(r"model\.\d\.weight", name) for name in names):
        norm = "instance"
    return {
        "norm": norm,
        "slope": float(slope[1]) if slope else 0.0,
        "spectral": any(name.endswith("weight_bar") for name in names),
        "coord": any(".conv." in name for name in names),
    }


def check_block(
    fixture: Fixture,
    module: Any,
    norms: tuple[str, ...] = ("model.0", "model.3"),
    transposed: bool = False,
) -> None:
    """A block; `norms` are the original's places of its norms, in order."""
    plain = SPECTRAL if module.spectral else CONV
    up = SPECTRAL_TRANSPOSED if module.spectral else CONV_TRANSPOSED
    inner = ".conv" if getattr(module, "coord", False) else ""
    names = (
        ("norm",) if len(norms) == 1 and norms != ("model.0",) else ("norm1", "norm2")
    )
    table = (
        Site("conv1", (f"conv1{inner}",), plain),
        Site("conv2", (f"conv2{inner}",), up if transposed else plain),
        Site("bypass", (f"bypass{inner}",), up if transposed else plain),
        *(
            Site(ours, (theirs,), NORM)
            for ours, theirs in zip(names, norms, strict=False)
        ),
    )
    train = "eval" not in f"{fixture.kind} {fixture.hyper.get('norm')}"

    def forward(module: Any, x: Any) -> dict[str, Any]:
        return {"y": nchw(module(nhwc(x), 1, train))}

    check(fixture, module, forward, table)


def res_block(fixture: Fixture) -> None:
    before, after = fixture.inputs["x"].shape[2], fixture.outputs["y"].shape[2]
    sample: Any = {2 * before: "up", before: "none"}.get(after, "down")
    out = shape_of(fixture, "bypass")[0] // (4 if sample == "up" else 1)
    hidden = shape_of(fixture, "conv1")[0]
    check_block(fixture, ResBlock(out, hidden, sample, **block_options(fixture)))


def first_block(fixture: Fixture) -> None:
    out = shape_of(fixture, "conv1")[0]
    check_block(fixture, FirstBlock(out, **block_options(fixture)), ("model.1",))


def decoder_block(fixture: Fixture) -> None:
    hidden, out = shape_of(fixture, "conv2")[:2]
    options = block_options(fixture)
    assert not options.pop("coord")
    check_block(fixture, DecoderBlock(out, hidden, **options), transposed=True)


def output_block(fixture: Fixture) -> None:
    check_block(fixture, Output(**block_options(fixture)), ("model.0",))


def attention(fixture: Fixture) -> None:
    gates = {"params/gamma": Leaf(".gamma"), "params/alpha": Leaf(".alpha")}
    table = (
        Site("", ("",), gates),
        Site("query_conv", ("query_conv",), CONV),
        Site("model/norm1", ("model.model.0",), NORM),
        Site("model/norm2", ("model.model.3",), NORM),
        Site(r"model/(\w+)", (r"model.\1",), SPECTRAL),
    )
    norm = None
    if "model.model.0.running_var" in fixture.params:
        norm = "batch"
    elif "model.model.0.weight" in fixture.params:
        norm = "instance"

    def forward(
        module: Any, x: Any, xpre: Any = None, mask: Any = None
    ) -> dict[str, Any]:
        encoded = None if xpre is None else nhwc(xpre)
        mask = None if mask is None else nhwc(mask)[..., :1]
        return {"y": nchw(module(nhwc(x), 1, encoded, mask, train=norm == "batch"))}

    check(fixture, AutoAttention(norm=norm), forward, table)


def spectral_norm(module: Conv | ConvTranspose, fixture: Fixture) -> None:
    """Two calls that carry u and v on, and gradients with each call's own u and v.

    `out/grad_two_pass_official` is autograd's gradient of two calls before one backward
    pass, which reads the last u and v in both; a call here is differentiated with its
    own.
    """
    transposed = isinstance(module, ConvTranspose)
    table = (Site("", ("conv",), SPECTRAL_TRANSPOSED if transposed else SPECTRAL),)
    inputs, out = fixture.inputs, fixture.outputs
    iterations = fixture.hyper.get("power_iterations", 1)
    x1, x2 = (jnp.asarray(nhwc(inputs[name])) for name in ("x1", "x2"))
    target = jax.eval_shape(module.init, KEY, x1)
    tensors = {f"conv.{name}": x for name, x in fixture.params.items()}
    variables = from_official(tensors, target, table)

    def call(params: Any, stats: Any, x: Any) -> tuple[Any, Any]:
        now = {"params": params, "stats": stats}
        y, state = module.apply(now, x, iterations, mutable=["stats"])
        return nchw(y), state["stats"]

    def first(params: Any, x: Any) -> tuple[Any, Any]:
        y, stats = call(params, variables["stats"], x)
        return jnp.vdot(y, inputs["cot_y1"]), (y, stats)

    def both(params: Any) -> tuple[Any, Any]:
        total, (_, stats) = first(params, x1)
        y, stats = call(params, stats, x2)
        return total + jnp.vdot(y, inputs["cot_y2"]), (y, stats)

    grads, (y1, stats1) = jax.grad(first, (0, 1), has_aux=True)(variables["params"], x1)
    grad2, (y2, stats2) = jax.grad(both, has_aux=True)(variables["params"])
    for i, y, stats in ((1, y1, stats1), (2, y2, stats2)):
        fixture.assert_close(f"y{i}", y, out[f"y{i}"])
        fixture.assert_close(f"u{i}", stats["u"], out[f"u{i}"])
        fixture.assert_close(f"v{i}", stats["v"], out[f"v{i}"])
        raw = tensors["conv.module.weight_bar"]
        sigma = stats["u"] @ raw.reshape(len(raw), -1) @ stats["v"]
        fixture.assert_close(f"sigma{i}", sigma, out[f"sigma{i}"])
        if f"w{i}" in out:
            fixture.assert_close(f"w{i}", raw / sigma, out[f"w{i}"])
    official = to_official({"params": grads[0]}, table)
    for name, expected in fixture.grads.items():
        fixture.assert_grad(name, official[f"conv.{name}"], expected)
    fixture.assert_grad("x1", nchw(grads[1]), fixture.input_grads["x1"])
    two_passes = to_official({"params": grad2}, table)["conv.module.weight_bar"]
    fixture.assert_grad("two passes", two_passes, out["grad_two_pass_own_uv"])


def sn_conv(fixture: Fixture) -> None:
    module = fixture.hyper.get("module", "")
    stride, padding = (
        int(match[1])
        if (match := re.search(rf"\b{word}=\(?(\d+)", module))
        else default
        for word, default in (("stride", 1), ("padding", 0))
    )
    kernel = fixture.params["module.weight_bar"].shape
    bias = "module.bias" in fixture.params
    conv = Conv(kernel[0], kernel[2], bias, stride=stride, padding=padding)
    spectral_norm(conv, fixture)


def sn_conv_transpose(fixture: Fixture) -> None:
    _, out, size, _ = fixture.params["module.weight_bar"].shape
    bias = "module.bias" in fixture.params
    spectral_norm(ConvTranspose(out, size, use_bias=bias), fixture)


# ---- networks ----


def make_encoder(params: Mapping[str, Any]) -> Encoder:
    depth = len({n.split(".")[0] for n in params if n.startswith("infer_prior")})
    z_nc = features(params, "prior.conv2") // 2
    return Encoder(z_nc=z_nc, depth=depth, **encoder_sizes(params))


def make_generator(params: Mapping[str, Any]) -> ResGenerator | PlainGenerator:
    attends = any(name.startswith("attn1.") for name in params)
    return (ResGenerator if attends else PlainGenerator)(**generator_sizes(params))


def encoder(fixture: Fixture) -> None:
    def forward(module: Any, x_m: Any, x_c: Any = None) -> dict[str, Any]:
        complement = None if x_c is None else nhwc(x_c)
        q, p, maps = module(nhwc(x_m), complement, 1)
        if complement is not None:  # the file's are the visible half, then the other
            maps = [jnp.concatenate(separate(f, 2)) for f in maps]
        out = {f"f{i}": nchw(f) for i, f in enumerate(maps)}
        for name, gaussian in (("q", q), ("p", p)):
            if gaussian is not None:
                out[f"{name}_mu"], out[f"{name}_sigma"] = map(nchw, gaussian)
        return out

    check(fixture, make_encoder(fixture.params), forward, TABLE)


def generator(fixture: Fixture) -> None:
    def forward(
        module: Any, x_z: Any, x_fm: Any, x_fe: Any = None, mask: Any = None
    ) -> Any:
        f_e, mask = (None if x is None else nhwc(x) for x in (x_fe, mask))
        visible = VisibleFeatures(
            nhwc(x_fm), f_e, None if mask is None else mask[..., :1]
        )
        images = module(nhwc(x_z), visible, 1)
        return {f"img{i}": nchw(image) for i, image in enumerate(images)}

    check(fixture, make_generator(fixture.params), forward, TABLE)


def res_discriminator(fixture: Fixture) -> None:
    check_discriminator(discriminator(fixture.params), TABLE, fixture)


def patch_discriminator(fixture: Fixture) -> None:
    params, prefix = fixture.params, "model."
    kernels = [
        params[f"{prefix}{2 * i}.module.weight_bar"].shape
        for i in range(9)
        if f"{prefix}{2 * i}.module.weight_bar" in params
    ]
    module = PatchDiscriminator(
        ngf=kernels[0][0], img_f=kernels[-2][0], layers=len(kernels) - 2
    )
    check_discriminator(module, PATCH_TABLE, fixture)


def manifest(fixture: Fixture) -> None:
    shapes = manifest_shapes(fixture)
    generator = make_generator(shapes["G"])
    side = 32 << generator.layers
    image = jnp.zeros((1, side, side, 3))
    nets = {"E": make_encoder(shapes["E"])}
    variables = {"E": jax.eval_shape(nets["E"].init, KEY, image)}
    (z, _), _, maps = jax.eval_shape(nets["E"].apply, variables["E"], image)
    f_e = maps[generator.layers - 3]
    visible = VisibleFeatures(maps[-1], f_e, jnp.zeros((*f_e.shape[:3], 1)))
    variables["G"] = jax.eval_shape(generator.init, KEY, z, visible)
    for name in shapes.keys() - {"E", "G"}:
        net = discriminator(shapes[name])
        variables[name] = jax.eval_shape(net.init, KEY, image)
    check_manifest(fixture, variables, dict.fromkeys(variables, TABLE))


def official_test(fixture: Fixture) -> None:
    params = {net: below(fixture.params, f"{net}/") for net in ("E", "G", "D")}
    nets: dict[str, Any] = {
        "encoder": make_encoder(params["E"]),
        "generator": make_generator(params["G"]),
    }
    b, _, h, w = fixture.inputs["img"].shape
    image = jnp.zeros((b, h, w, 3))
    target = jax.eval_shape(nets["encoder"].init, KEY, image)
    variables = {"encoder": from_official(params["E"], target, TABLE)}
    (z, _), _, maps = jax.eval_shape(nets["encoder"].apply, target, image)
    f_e = maps[nets["generator"].layers - 3]
    visible = VisibleFeatures(maps[-1], f_e, jnp.zeros((*f_e.shape[:3], 1)))
    target = jax.eval_shape(nets["generator"].init, KEY, z, visible)
    variables["generator"] = from_official(params["G"], target, TABLE)
    ours = check_procedure(fixture, replay.picnet, nets, variables)
    scores = below(fixture.outputs, "score")
    if not scores:
        return
    net = discriminator(params["D"])
    target = jax.eval_shape(net.init, KEY, image)
    loaded = {"D": from_official(params["D"], target, TABLE)}
    score = replay.stateful({"D": net}, loaded, "D")
    for name in sorted(scores, key=int):
        actual = score("D", nhwc(ours[f"sample{name}"]))
        fixture.assert_close(f"score{name}", nchw(actual), scores[name])


CHECKS = Patterns(
    {
        "ResBlockEncoderOptimized": first_block,
        "ResBlockDecoder": decoder_block,
        "ResBlock": res_block,
        "Output": output_block,
        "Auto_Attn": attention,
        r"SpectralNorm\(ConvTranspose2d": sn_conv_transpose,
        r"SpectralNorm\(Conv2d": sn_conv,
        "ResEncoder": encoder,
        "ResGenerator": generator,
        "ResDiscriminator": res_discriminator,
        "PatchDiscriminator": patch_discriminator,
        "full published width": manifest,
        r"test\(\)": official_test,
        "one optimize_parameters": partial(
            check_step, make_encoder=make_encoder, make_generator=make_generator
        ),
        "GANLoss": gan_losses,
        "cal_gradient_penalty": penalty,
        "get_distribution": kl_prior,
        "Adam": adam,
        "scale_pyramid": scale_pyramid,
        "compute_errors": eval_metrics,
        "masks": check_masks,
    }
)
