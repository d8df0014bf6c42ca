"""The diffusion networks' reference files: blocks, whole networks, names."""

import math
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from fixture import Fixture, below, nchw, nhwc

from picjax.layers.attention import qkv_attention
from picjax.layers.embedding import timestep_embedding
from picjax.layers.norm import GroupNorm
from picjax.methods.painter.net import (
    Attention,
    AttentionPool,
    Classifier,
    Resample,
    ResBlock,
    UNet,
    resample,
)
from picjax.methods.painter.official import UNET, classifier_table
from picjax.official.mapping import Table, from_official, official_names, to_official

KEY = jax.random.key(0)
Tensors = Mapping[str, np.ndarray]


# ---- what other files need, too ----


def torso(hyper: Mapping[str, Any]) -> dict[str, Any]:
    """The fields that both networks have, of a file's `hyper`."""
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
    }


def build_unet(hyper: Mapping[str, Any], dtype: Any = jnp.float32) -> UNet:
    """The network that a file's `hyper` describes."""
    heads_up = hyper.get("num_heads_upsample", -1)
    return UNet(
        classes=hyper.get("num_classes"),
        out_channels=hyper["out_channels"],
        heads_up=None if heads_up == -1 else heads_up,
        dtype=dtype,
        **torso(hyper),
    )


def build_classifier(hyper: Mapping[str, Any]) -> Classifier:
    """The network that a file's `hyper` describes."""
    pool = hyper.get("pool", "adaptive")
    return Classifier(classes=hyper["out_channels"], pool=pool, **torso(hyper))


def load(module: Any, tensors: Tensors, table: Table, *inputs: Any) -> Any:
    """Official tensors as {"params"} of a module that is called with these inputs."""
    target = jax.eval_shape(module.init, KEY, *inputs)
    return jax.tree.map(jnp.asarray, from_official(tensors, target, table))


def load_unet(net: UNet, tensors: Tensors, *inputs: Any) -> Any:
    """The variables of a network that is called with x, t and, with classes, y."""
    return load(net, tensors, UNET, *inputs)


def load_classifier(net: Classifier, tensors: Tensors, *inputs: Any) -> Any:
    """The variables of a classifier that is called with x and t."""
    return load(net, tensors, classifier_table(net.pool), *inputs)


def assert_near(
    name: str, actual: Any, expected: Any, share: float, floor: float = 0
) -> None:
    """Every element to a share of the expected array's largest, or of `floor`."""
    actual, expected = np.asarray(actual, np.float64), np.asarray(expected)
    assert actual.shape == expected.shape, (name, actual.shape, expected.shape)
    error = np.abs(actual - expected).max()
    allowed = share * max(np.abs(expected).max(), floor)
    assert error <= allowed, f"{name}: off by {error:.3g}, {allowed:.3g} is allowed"


def assert_gradients(fixture: Fixture, case: str, ours: Tensors, share: float) -> None:
    """Every stored gradient to a share of the network's largest.

    As a convolution's bias in front of a norm of one channel a group has none but
    rounding. Of large ones four rows and the norm are stored.
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
    assert grads.keys() | heads.keys() == ours.keys(), "a gradient too many"
    assert norms


# ---- networks ----


def network(fixture: Fixture) -> None:
    """Output, the output of every block, and gradients, where the file has them."""
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
    """The official name of a block -> its output: that of its last module."""
    found = {"time_embed": seen["time2"]["__call__"][0]}
    stages = {"in": "input_blocks.", "mid": "middle_block", "out": "output_blocks."}
    for name in sorted(seen):
        block, _, index = name.partition("_")
        stage = block.rstrip("0123456789")
        if stage in stages and index:
            number = block.removeprefix(stage)
            found[f"{stages[stage]}{number}"] = seen[name]["__call__"][0]
    return found


def checkpoint_shapes(fixture: Fixture) -> None:
    """Every name and shape of the published networks, in our table."""
    published: dict[str, Any] = {
        "256x256_diffusion.pt": UNet(classes=1000),
        "256x256_classifier.pt": Classifier(width=128),
    }
    published |= dict.fromkeys(
        ("places256_300000.pt", "celeba256_250000.pt", "256x256_diffusion_uncond.pt"),
        UNet(),
    )
    for about in fixture.meta["models"]:
        net = next(published[n] for n in about["files"].split("|") if n in published)
        x, t = jnp.zeros((1, 256, 256, 3)), jnp.zeros(1)
        is_unet = isinstance(net, UNet)
        y = (jnp.zeros(1, jnp.int32),) if is_unet and net.classes else ()
        target = jax.eval_shape(net.init, KEY, x, t, *y)
        table = UNET if is_unet else classifier_table(net.pool)
        ours = official_shapes(target, table)
        names, shapes = (
            fixture.outputs[f"{about['index']}.{what}"] for what in ("names", "shapes")
        )
        expected = {
            str(name): tuple(int(n) for n in shape if n)
            for name, shape in zip(names, shapes, strict=True)
        }
        assert ours == expected
        assert len(ours) == about["tensors"]
        assert sum(map(math.prod, ours.values())) == about["parameters"]


def official_shapes(target: Any, table: Table) -> dict[str, tuple[int, ...]]:
    """Official name -> shape of the variables that `target` describes."""
    shapes = {}
    for keys, like in jax.tree_util.tree_leaves_with_path(target):
        names, leaf = official_names("/".join(key.key for key in keys), table)
        empty = np.broadcast_to(np.int8(0), like.shape)
        shapes |= dict.fromkeys(names, leaf.to_official(empty).shape)
    return shapes


# ---- blocks ----


def assert_block(
    fixture: Fixture, case: str, module: Any, tensors: Tensors, *inputs: Any
) -> None:
    """A block's output and gradients, called with the inputs of a case (by name)."""
    given = {name: fixture.inputs[f"{case}.{name}"] for name in inputs}
    arrays = [nhwc(x) if x.ndim == 4 else x for x in map(jnp.asarray, given.values())]
    prefix, place = "input_blocks.1.0.", "in1_0"
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
    ours |= dict(zip(given, back, strict=True))
    assert_gradients(fixture, f"{case}.", ours, 2e-5)


def resblocks(fixture: Fixture) -> None:
    for case, about in fixture.meta["cases"].items():
        sample = "up" if about.get("up") else "down" if about.get("down") else "none"
        block = ResBlock(
            about.get("out_channels") or about["channels"],
            sample,
            about["use_scale_shift_norm"],
            skip=3 if about.get("use_conv") else 1,
        )
        tensors = below(fixture.params, f"{case}.")
        assert_block(fixture, case, block, tensors, "x", "emb")


def attention(fixture: Fixture) -> None:
    """Blocks, bare attention, and the classifier's pool."""
    c = fixture.meta["channels"]
    for case, about in fixture.meta["cases"].items():
        width = about.get("num_head_channels")
        heads = c // width if width else about["num_heads"]
        order = "new" if about.get("use_new_attention_order") else "legacy"
        tensors = below(fixture.params, f"{case}.")
        assert_block(fixture, case, Attention(heads, order), tensors, "x")
    qkv = jnp.asarray(fixture.inputs["qkv"]).swapaxes(1, 2)
    for name, value in below(fixture.outputs, "qkv_").items():
        order, _, heads = name.partition("_h")
        y = qkv_attention(qkv, int(heads), order)  # pyright: ignore[reportArgumentType]
        assert_near(name, y.swapaxes(1, 2), value, 5e-6)
    x = nhwc(jnp.asarray(fixture.inputs["pool.x"]))
    x = x.reshape(len(x), -1, x.shape[-1])
    tensors = below(fixture.params, "pool.")
    about = fixture.meta["pool"]
    width = int(about.split("num_heads_channels=")[1].split(",")[0])
    pool = AttentionPool(len(tensors["c_proj.bias"]), x.shape[-1] // width)
    target = {"params": {"head": jax.eval_shape(pool.init, KEY, x)["params"]}}
    renamed = {f"out.2.{name}": x for name, x in tensors.items()}
    loaded = from_official(renamed, target, classifier_table("attention"))
    y = pool.apply({"params": loaded["params"]["head"]}, x)
    assert_near("pool", y, fixture.outputs["pool.y"], 5e-6)


def updown_groupnorm(fixture: Fixture) -> None:
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
    half: Any = GroupNorm(dtype=jnp.float16).apply(norm, x.astype(jnp.float16))
    assert half.dtype == jnp.float16
    assert_near("gn of halves", nchw(half), out["gn.y_fp16in"], 1e-3)


def embedding(fixture: Fixture) -> None:
    for name, value in fixture.outputs.items():
        kind, _, rest = name.partition("_dim")
        dim, _, period = rest.partition("_maxperiod")
        t = jnp.asarray(fixture.inputs[f"t_{kind}"])
        ours = timestep_embedding(t, int(dim), float(period or 10_000))
        # A frequency may be off in the last place, an angle of 1000 then by 6e-5.
        np.testing.assert_allclose(ours, value, rtol=0, atol=6e-5, err_msg=name)
        off = np.abs(ours - value) > 1e-6
        assert off.mean() < 0.02, name


STEMS: dict[str, Callable[[Fixture], None]] = {
    "attention": attention,
    "checkpoint_shapes": checkpoint_shapes,
    "resblocks": resblocks,
    "timestep_embedding": embedding,
    "updown_groupnorm": updown_groupnorm,
}
STEMS |= dict.fromkeys(
    (
        "unet_a_updown_legacy",
        "unet_b_classcond_neworder",
        "unet_c_noconv_resample",
        "unet_d_fractional_mult",
        "unet_e_gradients",
    ),
    network,
)
HANDLERS = {("diffusion", stem): handler for stem, handler in STEMS.items()}
