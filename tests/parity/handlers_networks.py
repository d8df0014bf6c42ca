"""Layers and networks: outputs, gradients, input gradients and the state afterwards."""

import re
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from fixture import Fixture, below, nchw, nhwc

from picjax.layers.attention import AutoAttention, attention_map
from picjax.layers.conv import Conv, ConvTranspose
from picjax.layers.residual import DecoderBlock, FirstBlock, Output, ResBlock
from picjax.methods.picmm import net as picmm
from picjax.methods.picmm import official as picmm_names
from picjax.methods.picnet import net as picnet
from picjax.methods.picnet import official as picnet_names
from picjax.official.mapping import (
    CONV,
    NORM,
    SPECTRAL,
    SPECTRAL_TRANSPOSED,
    Leaf,
    Site,
    Table,
    from_official,
    to_official,
)

Arrays = Mapping[str, Any]
Forward = Callable[..., dict[str, Any]]
KEY = jax.random.key(0)


def load(
    fixture: Fixture, module: nn.Module, forward: Forward, inputs: Arrays, table: Table
) -> dict[str, Any]:
    """The file's parameters as the module's variables."""
    target = jax.eval_shape(nn.init(forward, module), KEY, **inputs)
    return from_official(fixture.params, target, table)


def check(fixture: Fixture, module: nn.Module, forward: Forward, table: Table) -> None:
    """Compares everything that the file holds.

    `forward(module, **inputs)` takes the file's arrays and returns its outputs, both as
    stored; cotangents and attention maps are dealt with here.
    """
    given = fixture.inputs
    cotangents = below(given, "cot_")
    inputs = {
        name: jnp.asarray(x) for name, x in given.items() if not name.startswith("cot_")
    }
    variables = load(fixture, module, forward, inputs, table)
    apply = nn.apply(
        forward,
        module,
        mutable=["stats", "intermediates"],
        capture_intermediates=lambda layer, method: (
            (layer.name, method) == ("query_conv", "__call__")
        ),
    )

    def total(params: Any, inputs: Arrays) -> tuple[Any, Any]:
        outputs, state = apply(variables | {"params": params}, **inputs)
        products = [jnp.vdot(outputs[n], c) for n, c in cotangents.items()]
        return sum(products, jnp.zeros(())), (outputs, state)

    run = jax.jit(jax.grad(total, argnums=(0, 1), has_aux=True))
    (grads, input_grads), (outputs, state) = run(variables["params"], inputs)
    if "attn" in fixture.outputs:
        (query,) = jax.tree.leaves(state["intermediates"])
        query = query.reshape(query.shape[0], -1, query.shape[-1])
        outputs["attn"] = attention_map(query, query)
    for name, expected in fixture.outputs.items():
        fixture.assert_close(name, outputs[name], expected)
    for name, expected in fixture.input_grads.items():
        fixture.assert_grad(name, input_grads[name], expected)
    if fixture.grads:
        check_grads(fixture, to_official({"params": grads}, table))
    stats = to_official({"stats": state.get("stats", {})}, table)
    for name, expected in fixture.after.items():
        fixture.assert_close(name, stats[name], expected)


def check_grads(fixture: Fixture, grads: Arrays) -> None:
    """A parameter without a gradient in the file has none, or only rounding."""
    rounding = fixture.meta.get("err", {}).get("zero_grads_left_out", [])
    for name, expected in fixture.grads.items():
        fixture.assert_grad(name, grads[name], expected)
    for name in fixture.params.keys() & grads.keys() - fixture.grads.keys():
        if f"grad/{name}" not in rounding:
            assert not np.any(grads[name]), f"{name} should have no gradient"


# Blocks ------------------------------------------------------------------------------


def block_table(spectral: bool, coord: bool, transposed: bool) -> Table:
    """The names of a block on its own."""
    plain = SPECTRAL if spectral else CONV
    up = SPECTRAL_TRANSPOSED if transposed else plain
    inner = ".conv" if coord else ""
    return (
        Site("conv1", (f"conv1{inner}",), plain),
        Site("conv2", (f"conv2{inner}",), up),
        Site("bypass", (f"bypass{inner}",), up),
        Site("norm1", ("model.0",), NORM),
        Site("norm2", ("model.3",), NORM),
    )


def kernel_shape(fixture: Fixture, layer: str) -> tuple[int, ...]:
    for name, x in fixture.params.items():
        if re.fullmatch(rf"{layer}\.(conv\.)?(module\.weight_bar|weight)", name):
            return x.shape
    raise KeyError(layer)


def slope(fixture: Fixture) -> float:
    act = fixture.hyper.get("act", "LeakyReLU(0.1)")
    number = re.match(r"LeakyReLU\(([\d.]+)\)", act)
    assert number or act == "ReLU", act
    return float(number[1]) if number else 0.0


def check_block(fixture: Fixture, module: nn.Module, transposed: bool = False) -> None:
    coord = any(".conv." in name for name in fixture.params)

    def forward(module: Any, x: Any) -> dict[str, Any]:
        return {"y": nchw(module(nhwc(x), True))}

    spectral = fixture.hyper.get("spect", True)
    check(fixture, module, forward, block_table(spectral, coord, transposed))


def res_block(fixture: Fixture) -> None:
    hyper = fixture.hyper
    sample = hyper.get("sample_type", "none").split()[0]
    out = kernel_shape(fixture, "bypass")[0] // (4 if sample == "up" else 1)
    norm = re.split(r"\W", hyper.get("norm") or "")[0]
    module = ResBlock(
        out,
        kernel_shape(fixture, "conv1")[0],
        sample=sample,
        norm=None if norm in ("", "none") else norm,
        slope=slope(fixture),
        spectral=hyper.get("spect", True),
        coord=any(".conv." in name for name in fixture.params),
    )
    check_block(fixture, module)


def first_block(fixture: Fixture) -> None:
    check_block(fixture, FirstBlock(kernel_shape(fixture, "conv1")[0]))


def decoder_block(fixture: Fixture) -> None:
    hidden, out = kernel_shape(fixture, "conv2")[:2]
    check_block(fixture, DecoderBlock(out, hidden), transposed=True)


def output_block(fixture: Fixture) -> None:
    check_block(fixture, Output())


def attention(fixture: Fixture) -> None:
    gates = {"params/gamma": Leaf(".gamma"), "params/alpha": Leaf(".alpha")}
    table = (
        Site("", ("",), gates),
        Site("query_conv", ("query_conv",), CONV),
        Site(r"model/(\w+)", (r"model.\1",), SPECTRAL),
    )

    def forward(
        module: Any, x: Any, xpre: Any = None, mask: Any = None
    ) -> dict[str, Any]:
        encoded = None if xpre is None else nhwc(xpre)
        mask = None if mask is None else nhwc(mask)
        return {"y": nchw(module(nhwc(x), True, encoded, mask))}

    check(fixture, AutoAttention(), forward, table)


def spectral_norm(module: Conv | ConvTranspose, fixture: Fixture) -> None:
    """Two calls, u and v carried on, and the gradient with each call's own u and v.

    `out/grad_two_pass_official` is what autograd makes of two calls before one backward
    pass: the last u, v in both. A call here is differentiated with its own.
    """
    transposed = isinstance(module, ConvTranspose)
    table = (Site("", ("conv",), SPECTRAL_TRANSPOSED if transposed else SPECTRAL),)
    given, out = fixture.inputs, fixture.outputs
    x1, x2 = (jnp.asarray(nhwc(given[name])) for name in ("x1", "x2"))
    target = jax.eval_shape(partial(module.init, update_stats=True), KEY, x1)
    tensors = {f"conv.{name}": x for name, x in fixture.params.items()}
    variables = from_official(tensors, target, table)

    def call(params: Any, stats: Any, x: Any) -> tuple[Any, Any]:
        now = {"params": params, "stats": stats}
        y, state = module.apply(now, x, True, mutable=["stats"])
        return nchw(y), state["stats"]

    def first(params: Any, x: Any) -> tuple[Any, Any]:
        y, stats = call(params, variables["stats"], x)
        return jnp.vdot(y, given["cot_y1"]), (y, stats)

    def both(params: Any) -> tuple[Any, Any]:
        total, (_, stats) = first(params, x1)
        y, stats = call(params, stats, x2)
        return total + jnp.vdot(y, given["cot_y2"]), (y, stats)

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
    sizes = dict(re.findall(r"(\w+)=\((\d+), \d+\)", fixture.hyper["module"]))
    module = Conv(
        fixture.params["module.weight_bar"].shape[0],
        int(sizes["kernel_size"]),
        use_bias="module.bias" in fixture.params,
        stride=int(sizes["stride"]),
        padding=int(sizes.get("padding", 0)),
    )
    spectral_norm(module, fixture)


def sn_conv_transpose(fixture: Fixture) -> None:
    out = fixture.params["module.weight_bar"].shape[1]
    use_bias = "module.bias" in fixture.params
    spectral_norm(ConvTranspose(out, use_bias=use_bias), fixture)


# PICNet ------------------------------------------------------------------------------


def widths(hyper: Mapping[str, Any], suffix: str = "") -> dict[str, Any]:
    ngf = hyper.get("ndf" if suffix else "ngf", hyper.get("ndf"))
    img_f = hyper.get(f"img_f{suffix}", hyper.get("img_f"))
    return {"ngf": ngf, "img_f": img_f, "layers": hyper.get("layers", 5)}


def picnet_encoder(fixture: Fixture) -> None:
    hyper = fixture.hyper
    module = picnet.Encoder(z_nc=hyper["z_nc"], depth=hyper["L"], **widths(hyper))

    def forward(module: Any, x_m: Any, x_c: Any = None) -> dict[str, Any]:
        complement = None if x_c is None else nhwc(x_c)
        q, p, features = module(nhwc(x_m), complement, update_stats=True)
        out = {f"f{i}": nchw(f) for i, f in enumerate(features)}
        for name, gaussian in (("q", q), ("p", p)):
            if gaussian is not None:
                out[f"{name}_mu"], out[f"{name}_sigma"] = map(nchw, gaussian)
        return out

    check(fixture, module, forward, picnet_names.TABLE)


def picnet_generator(fixture: Fixture) -> None:
    hyper = fixture.hyper
    attention = hyper["use_attn"]
    module = picnet.ResGenerator(
        depth=hyper["L"], output_scale=hyper["output_scale"], **widths(hyper)
    )

    def forward(module: Any, x_z: Any, x_fm: Any, x_fe: Any, mask: Any) -> Any:
        f_e, mask = (nhwc(x) if attention else None for x in (x_fe, mask))
        images = module(nhwc(x_z), nhwc(x_fm), f_e, mask, True)
        return {f"img{i}": nchw(image) for i, image in enumerate(images)}

    check(fixture, module, forward, picnet_names.TABLE)


def discriminator(module: Any, table: Table, fixture: Fixture) -> None:
    def forward(module: Any, x: Any) -> dict[str, Any]:
        return {"y": nchw(module(nhwc(x), True))}

    check(fixture, module(**widths(fixture.hyper)), forward, table)


# PICMM -------------------------------------------------------------------------------


def picmm_encoder(fixture: Fixture) -> None:
    hyper = fixture.hyper
    side = hyper["image"] >> hyper["layers"]
    channels = picnet.width(hyper["ngf"], hyper["img_f"], hyper["layers"] - 1)
    grid = round((2 * hyper["latent"] / channels) ** 0.5)
    module = picmm.Encoder(poolings=round(np.log2(side / grid)), **widths(hyper))

    def forward(module: Any, img: Any, mask: Any, eps: Any) -> dict[str, Any]:
        x = nhwc(jnp.concatenate([img * mask, img * (1 - mask)]))
        mu, log_std, features = module(x, True)
        out = {f"f{i}": nchw(f) for i, f in enumerate(features)}
        z = mu + eps * jnp.exp(log_std)
        return out | {"z": z, "mu": mu, "logsigma": log_std}

    check(fixture, module, forward, picmm_names.TABLE)


def picmm_generator(fixture: Fixture) -> None:
    hyper = fixture.hyper
    side = fixture.inputs["x_fm"].shape[-1]
    module = picmm.Generator(
        output_scale=hyper["output_scale"],
        poolings=round(np.log2(side / hyper["latent_grid"])),
        **widths(hyper),
    )

    def forward(module: Any, x_z: Any, x_fm: Any, x_fe: Any, mask: Any) -> Any:
        z_m, z_c = jnp.split(x_z, 2, -1)
        images = module(z_m, z_c, nhwc(x_fm), nhwc(x_fe), nhwc(mask), True)
        return {f"img{i}": nchw(image) for i, image in enumerate(images)}

    check(fixture, module, forward, picmm_names.TABLE)


def up_conv(fixture: Fixture) -> None:
    channels = fixture.hyper["C"]

    def forward(module: Any, x: Any) -> dict[str, Any]:
        grid = round((x.shape[1] / channels) ** 0.5)
        x = picmm.unflatten(x, grid, grid)
        y = module(x)
        once = picmm.UpConv(times=1).apply({"params": module.variables["params"]}, x)
        return {"step1": nchw(once), "y": nchw(y)}

    table = (Site("conv", ("0",), CONV),)
    check(fixture, picmm.UpConv(times=2), forward, table)


def gmm_train(fixture: Fixture) -> None:
    """The official trainer also feeds z_c to the heads of mu and sigma, not alpha."""

    def forward(module: Any, x_zm: Any, x_zc: Any = None) -> dict[str, Any]:
        logits, mu, log_std = module(x_zm, True)
        alpha = jax.nn.softmax(logits)
        if x_zc is None:
            return {"alpha": alpha, "mu": mu, "logsigma": log_std}
        mu_c, log_std_c = module.advance(x_zc, True)
        out = {"alpha": alpha, "z_c_mu_hat": mu, "z_c_logsigma_hat": log_std}
        return out | {"z_m_mu_hat": mu_c, "z_m_logsigma_hat": log_std_c}

    module = picmm.DynamicGMM(k=fixture.hyper["k"])
    check(fixture, module, forward, picmm_names.TABLE)


def choose(x: Any, index: Any) -> Any:
    return jnp.take_along_axis(x, index[:, None, None], 1)[:, 0]


def gmm_eval(fixture: Fixture) -> None:
    def forward(module: Any, x_zm: Any, eps: Any, index: Any) -> dict[str, Any]:
        logits, mu, log_std = module(x_zm, False)
        z = mu + eps * jnp.exp(log_std)
        alpha = jax.nn.softmax(logits)
        return {"z_all": z, "alpha": alpha, "z_selected": choose(z, index)}

    module = picmm.DynamicGMM(k=fixture.hyper["k"])
    inputs = {name: jnp.asarray(x) for name, x in fixture.inputs.items()}
    variables = load(fixture, module, forward, inputs, picmm_names.TABLE)
    outputs = nn.apply(forward, module)(variables, **inputs)
    for name, expected in fixture.outputs.items():
        fixture.assert_close(name, outputs[name], expected)


HANDLERS: dict[tuple[str, str], Callable[[Fixture], None]] = {
    ("picnet", "auto_attn_self"): attention,
    ("picnet", "auto_attn_short_long"): attention,
    ("picnet", "coord_resblock"): res_block,
    ("picnet", "dec_block_instance"): decoder_block,
    ("picnet", "enc_optimized"): first_block,
    ("picnet", "encoder_one_path"): picnet_encoder,
    ("picnet", "encoder_two_paths"): picnet_encoder,
    ("picnet", "generator"): picnet_generator,
    ("picnet", "generator_L1_scale2_noattn"): picnet_generator,
    ("picnet", "output_block"): output_block,
    ("picnet", "patch_discriminator"): partial(
        discriminator, picnet.PatchDiscriminator, picnet_names.PATCH_TABLE
    ),
    ("picnet", "res_discriminator"): partial(
        discriminator, picnet.ResDiscriminator, picnet_names.TABLE
    ),
    ("picnet", "resblock_batch_train"): res_block,
    ("picnet", "resblock_default_slope"): res_block,
    ("picnet", "resblock_down"): res_block,
    ("picnet", "resblock_none"): res_block,
    ("picnet", "resblock_up_instance"): res_block,
    ("picnet", "sn_conv"): sn_conv,
    ("picnet", "sn_convtranspose"): sn_conv_transpose,
    ("picmm", "dynamic_gmm_eval_sampling"): gmm_eval,
    ("picmm", "dynamic_gmm_train_official_two_inputs"): gmm_train,
    ("picmm", "dynamic_gmm_train_one_input"): gmm_train,
    ("picmm", "encoder_256"): picmm_encoder,
    ("picmm", "generator_128"): picmm_generator,
    ("picmm", "generator_256"): picmm_generator,
    ("picmm", "up_convfc"): up_conv,
}
