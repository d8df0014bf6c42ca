"""guided-diffusion's networks: blocks, whole networks, checkpoint layouts."""

import math
import re
from collections.abc import Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from fixture import Fixture, below, nchw, nhwc

from picjax.layers.norm import GroupNorm
from picjax.methods.painter.classifier import AttentionPool, Classifier
from picjax.methods.painter.layers import qkv_attention, timestep_embedding
from picjax.methods.painter.net import Attention, Resample, ResBlock, UNet, resample
from picjax.methods.painter.official import (
    UNET,
    classifier_options,
    classifier_table,
    unet_options,
)
from picjax.official.mapping import Table, from_official, official_names, to_official

KEY = jax.random.key(0)
Tensors = Mapping[str, np.ndarray]


# ---- networks of a file ----


def torso(hyper: Mapping[str, Any]) -> dict[str, Any]:
    """The options of `hyper` that UNet and classifier share."""
    head_width = hyper.get("num_head_channels", -1)
    order = "new" if hyper.get("use_new_attention_order") else "legacy"
    return {
        "width": hyper["model_channels"],
        "mult": tuple(hyper["channel_mult"]),
        "blocks": hyper["num_res_blocks"],
        "attention": tuple(hyper["attention_resolutions"]),
        "head_width": None if head_width == -1 else head_width,
        "heads": hyper.get("num_heads", 1),
        "qkv_order": order,
        "scale_shift": hyper.get("use_scale_shift_norm", False),
        "resblock_updown": hyper.get("resblock_updown", False),
        "conv_resample": hyper.get("conv_resample", True),
        "dropout": hyper.get("dropout", 0.0),
    }


def build_unet(hyper: Mapping[str, Any], dtype: Any = jnp.float32) -> UNet:
    """The network that `hyper` describes."""
    heads_up = hyper.get("num_heads_upsample", -1)
    return UNet(
        classes=hyper.get("num_classes"),
        out_channels=hyper["out_channels"],
        heads_up=None if heads_up == -1 else heads_up,
        dtype=dtype,
        **torso(hyper),
    )


def build_classifier(hyper: Mapping[str, Any]) -> Classifier:
    """The network that `hyper` describes."""
    pool = hyper.get("pool", "adaptive")
    return Classifier(classes=hyper["out_channels"], pool=pool, **torso(hyper))


def load(module: Any, tensors: Tensors, table: Table, *inputs: Any) -> Any:
    """Official tensors as the variables of a module with these inputs."""
    target = jax.eval_shape(module.init, KEY, *inputs)
    return jax.tree.map(jnp.asarray, from_official(tensors, target, table))


def load_unet(net: UNet, tensors: Tensors, *inputs: Any) -> Any:
    """The variables of a network whose inputs are x, t and, with classes, y."""
    return load(net, tensors, UNET, *inputs)


def load_classifier(net: Classifier, tensors: Tensors, *inputs: Any) -> Any:
    """The variables of a classifier whose inputs are x and t."""
    return load(net, tensors, classifier_table(net.pool), *inputs)


def assert_near(
    name: str, actual: Any, expected: Any, share: float, floor: float = 0
) -> None:
    """|actual - expected| <= share * max(largest |expected|, floor)."""
    actual, expected = np.asarray(actual, np.float64), np.asarray(expected)
    assert actual.shape == expected.shape, (name, actual.shape, expected.shape)
    error = np.abs(actual - expected).max()
    allowed = share * max(np.abs(expected).max(), floor)
    assert error <= allowed, f"{name}: off by {error:.3g}, {allowed:.3g} is allowed"


def assert_gradients(fixture: Fixture, case: str, ours: Tensors, share: float) -> None:
    """Every stored gradient to a share of the network's largest gradient.

    The gradient of a bias in front of a norm with one channel per group is pure rounding.
    Of large gradients the first four rows and the norm are stored.
    """
    grads = below(fixture.grads, case)
    heads = below(below(fixture.raw, "grad_head/"), case)
    norms = below(below(fixture.raw, "grad_norm/"), case)
    largest = max(float(abs(x).max()) for x in (*grads.values(), *heads.values()))
    for name, value in grads.items():
        assert_near(f"gradient of {name}", ours[name], value, share, largest)
    for name, value in heads.items():
        assert_near(f"gradient of {name}", ours[name][:4], value, share, largest)
    root = float(max(norms.values()))
    for name, value in norms.items():
        norm = np.linalg.norm(np.asarray(ours[name], np.float64))
        assert_near(f"size of the gradient of {name}", norm, value, share, root)
    assert grads.keys() | heads.keys() == ours.keys(), "other parameters"
    assert norms


# ---- networks ----


def check_unet(fixture: Fixture) -> None:
    """The output and, where the file has them, block outputs and gradients."""
    given, out = fixture.inputs, fixture.outputs
    net = build_unet(fixture.hyper)
    x, t = jnp.asarray(nhwc(given["x"])), jnp.asarray(given["t"], jnp.float32)
    inputs = (x, t) + ((jnp.asarray(given["y"], jnp.int32),) if "y" in given else ())
    variables = load_unet(net, fixture.params, *inputs)
    apply = partial(net.apply, capture_intermediates=True, mutable=["intermediates"])
    y, seen = jax.jit(apply)(variables, *inputs)
    assert_near("y", nchw(y), out["y"], 5e-5)
    blocks = block_outputs(seen["intermediates"])
    for name, value in below(out, "act.").items():
        found = blocks[name][: len(value)]
        found = nchw(found) if value.ndim == 4 else found
        assert_near(name, found, value, 5e-5)
    if "y_fp16_torso" in out:
        half = build_unet(fixture.hyper, jnp.float16)
        y = jax.jit(half.apply)(variables, *inputs)
        assert_near("fp16 torso", nchw(y), out["y_fp16_torso"], 5e-3)
    if fixture.grads:

        def total(params: Any, x: Any) -> Any:
            y = net.apply({"params": params}, x, *inputs[1:])
            return (nchw(y) * given["w"]).mean()

        d_params, d_x = jax.jit(jax.grad(total, (0, 1)))(variables["params"], x)
        ours = to_official({"params": d_params}, UNET) | {"x": nchw(d_x)}
        assert_gradients(fixture, "", ours, 2e-5)


def block_outputs(seen: Mapping[str, Any]) -> dict[str, Any]:
    """Official name of a block -> the output of its last module."""
    found = {"time_embed": seen["time2"]["__call__"][0]}
    stages = {"in": "input_blocks.", "mid": "middle_block", "out": "output_blocks."}
    for name in sorted(seen):
        block, _, index = name.partition("_")
        stage = block.rstrip("0123456789")
        if stage in stages and index:
            number = block.removeprefix(stage)
            found[f"{stages[stage]}{number}"] = seen[name]["__call__"][0]
    return found


# Of the released classifiers, by image size: multipliers, residual blocks per level.
CLASSIFIERS = {
    512: ((0.5, 1, 1, 2, 2, 4, 4), 2),
    256: ((1, 1, 2, 2, 4, 4), 2),
    128: ((1, 1, 2, 3, 4), 2),
    64: ((1, 2, 3, 4), 4),
}


def check_checkpoint_layout(fixture: Fixture) -> None:
    """Every name and shape of a network with the options inferred from them."""
    for model in fixture.meta["models"]:
        names, shapes = (
            fixture.outputs[f"{model['index']}.{part}"] for part in ("names", "shapes")
        )
        expected = {
            str(name): tuple(int(n) for n in shape if n)
            for name, shape in zip(names, shapes, strict=True)
        }
        size = (
            int(match[1]) if (match := re.search(r"(\d+)x\1", model["files"])) else 256
        )
        is_unet = any(name.startswith("output_blocks.") for name in expected)
        net = (
            released_unet(expected) if is_unet else released_classifier(expected, size)
        )
        x, t = jnp.zeros((1, size, size, 3)), jnp.zeros(1)
        y = (jnp.zeros(1, jnp.int32),) if isinstance(net, UNet) and net.classes else ()
        target = jax.eval_shape(net.init, KEY, x, t, *y)
        table = UNET if isinstance(net, UNet) else classifier_table(net.pool)
        ours = official_shapes(target, table)
        assert ours == expected
        assert len(ours) == model["tensors"]
        assert sum(map(math.prod, ours.values())) == model["parameters"]


def released_unet(shapes: Mapping[str, tuple[int, ...]]) -> UNet:
    attention, options = unet_options(shapes)
    out_channels = 6 if options.pop("learn_sigma") else 3
    classes = options.pop("classes") or None
    options |= {"attention": attention, "out_channels": out_channels}
    return UNet(classes=classes, head_width=64, **options)


def released_classifier(shapes: Mapping[str, tuple[int, ...]], size: int) -> Classifier:
    options = {
        name.removeprefix("classifier_"): value
        for name, value in classifier_options(shapes).items()
    }
    mult, blocks = CLASSIFIERS[size]
    factors = tuple(size // side for side in (32, 16, 8))
    return Classifier(
        mult=mult, blocks=blocks, attention=factors, head_width=64, **options
    )


def official_shapes(target: Any, table: Table) -> dict[str, tuple[int, ...]]:
    """Official name -> shape, of the variables that `target` describes."""
    shapes = {}
    for keys, like in jax.tree_util.tree_leaves_with_path(target):
        names, leaf = official_names("/".join(key.key for key in keys), table)
        empty = np.broadcast_to(np.int8(0), like.shape)
        shapes |= dict.fromkeys(names, leaf.to_official(empty).shape)
    return shapes


# ---- blocks ----


def assert_block(
    fixture: Fixture, case: str, module: Any, tensors: Tensors, *names: str
) -> None:
    """A block's output and gradients for the named inputs of a case."""
    inputs = {name: fixture.inputs[f"{case}.{name}"] for name in names}
    arrays = [nhwc(x) if x.ndim == 4 else x for x in map(jnp.asarray, inputs.values())]
    prefix, place = "input_blocks.1.0.", "in1_0"  # of any block in the table
    extra = (False,) if isinstance(module, ResBlock) else ()
    init = jax.eval_shape(lambda *arrays: module.init(KEY, *arrays, *extra), *arrays)
    target = init["params"]
    renamed = {f"{prefix}{name}": x for name, x in tensors.items()}
    loaded = from_official(renamed, {"params": {place: target}}, UNET)
    params = jax.tree.map(jnp.asarray, loaded["params"][place])
    w = fixture.inputs[f"{case}.w"]

    def total(params: Any, *arrays: Any) -> Any:
        y = nchw(module.apply({"params": params}, *arrays, *extra))
        return (y * w).mean(), y

    places = tuple(range(1 + len(arrays)))
    grad = jax.jit(jax.grad(total, places, has_aux=True))
    (d_params, *d_inputs), y = grad(params, *arrays)
    assert_near(case, y, fixture.outputs[f"{case}.y"], 5e-6)
    ours = to_official({"params": {place: d_params}}, UNET)
    ours = {name.removeprefix(prefix): x for name, x in ours.items()}
    back = (nchw(x) if x.ndim == 4 else x for x in d_inputs)
    ours |= dict(zip(inputs, back, strict=True))
    assert_gradients(fixture, f"{case}.", ours, 2e-5)


def check_resblocks(fixture: Fixture) -> None:
    for case, options in fixture.meta["cases"].items():
        sample = (
            "up" if options.get("up") else "down" if options.get("down") else "none"
        )
        block = ResBlock(
            options.get("out_channels") or options["channels"],
            sample,
            options.get("use_scale_shift_norm", False),
            skip=3 if options.get("use_conv") else 1,
        )
        tensors = below(fixture.params, f"{case}.")
        assert_block(fixture, case, block, tensors, "x", "emb")


def check_attention(fixture: Fixture) -> None:
    """Attention blocks, attention alone, and the classifier's pool."""
    for case, options in fixture.meta["cases"].items():
        c = options.get("channels", fixture.meta["channels"])
        width = options.get("num_head_channels", -1)
        heads = options.get("num_heads", 1) if width == -1 else c // width
        order = "new" if options.get("use_new_attention_order") else "legacy"
        tensors = below(fixture.params, f"{case}.")
        assert_block(fixture, case, Attention(heads, order), tensors, "x")
    for name, value in below(fixture.outputs, "qkv_").items():
        order, _, heads = name.partition("_h")
        qkv = jnp.asarray(fixture.inputs["qkv"]).swapaxes(1, 2)
        y = qkv_attention(qkv, int(heads), order)  # pyright: ignore[reportArgumentType]
        assert_near(name, y.swapaxes(1, 2), value, 5e-6)
    if "pool.y" in fixture.outputs:
        check_pool(fixture)


def check_pool(fixture: Fixture) -> None:
    """The pool whose arguments `meta["pool"]` writes as a call."""
    arguments = dict(re.findall(r"(\w+)=(\d+)", fixture.meta["pool"]))
    x = nhwc(jnp.asarray(fixture.inputs["pool.x"]))
    x = x.reshape(len(x), -1, x.shape[-1])
    tensors = below(fixture.params, "pool.")
    heads = x.shape[-1] // int(arguments["num_heads_channels"])
    pool = AttentionPool(len(tensors["c_proj.bias"]), heads)
    target = {"params": {"head": jax.eval_shape(pool.init, KEY, x)["params"]}}
    renamed = {f"out.2.{name}": x for name, x in tensors.items()}
    loaded = from_official(renamed, target, classifier_table("attention"))
    y = pool.apply({"params": loaded["params"]["head"]}, x)
    assert_near("pool", y, fixture.outputs["pool.y"], 5e-6)


def check_resampling_and_norm(fixture: Fixture) -> None:
    out, params = fixture.outputs, fixture.params
    x = nhwc(jnp.asarray(fixture.inputs["x"]))
    for case, module, side, place in (
        ("up_conv", Resample("up"), "output", "out1_0"),
        ("down_conv", Resample("down"), "input", "in1_0"),
    ):
        target = jax.eval_shape(module.init, KEY, x)["params"]
        tensors = {
            f"{side}_blocks.1.0.{name}": x
            for name, x in below(params, f"{case}.").items()
        }
        loaded = from_official(tensors, {"params": {place: target}}, UNET)
        y = module.apply({"params": loaded["params"][place]}, x)
        assert_near(case, nchw(y), out[f"{case}.y"], 1e-6)
    assert_near("up", nchw(resample(x, "up")), out["up_noconv.y"], 1e-6)
    assert_near("down", nchw(resample(x, "down")), out["down_avg.y"], 1e-6)
    scale, bias = params["gn.weight"], params["gn.bias"]
    norm = {"params": {"scale": jnp.asarray(scale), "bias": jnp.asarray(bias)}}
    x = nhwc(jnp.asarray(fixture.inputs["gn.x"]))
    assert_near("gn", nchw(GroupNorm().apply(norm, x)), out["gn.y"], 1e-6)
    if "gn.y_fp16in" in out:
        half: Any = GroupNorm(dtype=jnp.float16).apply(norm, x.astype(jnp.float16))
        assert half.dtype == jnp.float16
        assert_near("gn of float16", nchw(half), out["gn.y_fp16in"], 1e-3)


def check_embedding(fixture: Fixture) -> None:
    for name, value in fixture.outputs.items():
        dtype, _, rest = name.partition("_dim")
        dim, _, period = rest.partition("_maxperiod")
        t, period = fixture.inputs[f"t_{dtype}"], float(period or 10_000)
        ours = timestep_embedding(jnp.asarray(t), int(dim), period)
        half = int(dim) // 2
        angles = t[:, None] * period ** (-np.arange(half) / half)
        # A unit in the last place of a frequency moves its angle by up to 1.2e-7 of it.
        allowed = np.zeros_like(value, np.float64) + 1e-6
        rounding = np.minimum(1.2e-7 * angles, 6e-5)
        allowed[:, : 2 * half] += np.concatenate([rounding, rounding], -1)
        error = np.abs(np.asarray(ours, np.float64) - value)
        assert (error <= allowed).all(), f"{name}: off by {error.max():.3g}"
