"""PixelCNN++: layers, network, likelihood, first batch, training step, sampling.

Most files hold float64 results; those parts run in float64, with weights and images as
exact as the file's.
"""

import contextlib
import re
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from fixture import Fixture, below, nhwc
from ml_collections import ConfigDict

from picjax.methods.pixelcnn import cached, logistic, official, raster
from picjax.methods.pixelcnn import system as pixelcnn
from picjax.methods.pixelcnn.net import (
    Conv,
    Dense,
    Gated,
    Grow,
    PixelCNN,
    concat_elu,
    shift_down,
    shift_right,
)
from picjax.methods.pixelcnn.raster import Noise
from picjax.official import mapping
from picjax.system import State, init_opt

KEY = jax.random.key(0)
Arrays = Mapping[str, Any]


def float_image(x: Any, dtype: Any = jnp.float32) -> jax.Array:
    return jnp.asarray((np.asarray(x, np.float64) - 127.5) / 127.5, dtype)


def quick(function: Callable[..., Any]) -> Callable[..., Any]:
    """Compiled with little effort, whatever the suite is run with."""
    return jax.jit(function, compiler_options={"xla_backend_optimization_level": 0})


def network(fixture: Fixture, **how: Any) -> Any:
    """The network that the file's meta describes."""
    meta = fixture.meta
    return PixelCNN(
        features=meta["nr_filters"],
        blocks=meta["nr_resnet"],
        mixtures=meta["nr_logistic_mix"],
        channels=meta.get("input_channels", 3),
        nonlinearity=meta.get("nonlinearity", "concat_elu"),
        dropout=float(meta.get("dropout_p", 0)),
        **how,
    )


def conditions(fixture: Fixture) -> jax.Array | None:
    h = fixture.inputs.get("h")
    return None if h is None else jnp.asarray(h)


def ours(net: PixelCNN, tensors: Arrays, x: Any, condition: Any = None) -> Any:
    """Official tensors as the network's parameters."""
    target = jax.eval_shape(partial(net.init, train=False), KEY, x, condition=condition)
    variables = {"params": target["params"]}
    table = official.table(net.blocks)
    return mapping.from_official(official.dotted(tensors), variables, table)["params"]


def theirs(net: PixelCNN, params: Any) -> dict[str, np.ndarray]:
    """The network's parameters by official names."""
    return mapping.to_official({"params": params}, official.table(net.blocks))


def in_order(masks: Arrays, net: PixelCNN) -> dict[str, Any]:
    """Dropout masks, given in the official order of the blocks, by our names."""
    blocks = dict.fromkeys(
        site.path.split("/")[0]
        for site in official.table(net.blocks)
        if "params/hw" in site.leaves
    )
    ordered = [masks[name] for name in sorted(masks)]
    return dict(zip(blocks, ordered, strict=True)) if ordered else {}


@contextlib.contextmanager
def given_dropout(keep: Arrays, rate: float) -> Iterator[None]:
    """Dropout with masks by the first part of the module's path; all are used."""
    used = set()

    def use(call: Any, args: Any, kwargs: Any, context: Any) -> Any:
        place = context.module.path[:1]
        if not isinstance(context.module, nn.Dropout) or place[0] not in keep:
            return call(*args, **kwargs)
        used.update(place)
        mask, x = jnp.asarray(keep[place[0]], args[0].dtype), args[0]
        # The port leaves out whole channels, [b c 1 1].
        mask = nhwc(mask) if mask.shape[2:] == (1, 1) else mask
        return jnp.broadcast_to(mask, x.shape) * x / (1 - rate)

    with nn.intercept_methods(use):
        yield
    assert used == keep.keys()


def assert_within(name: str, actual: Any, expected: Any, atol: float) -> None:
    actual, expected = np.asarray(actual, np.float64), np.asarray(expected, np.float64)
    assert actual.shape == expected.shape, (name, actual.shape, expected.shape)
    error = np.abs(actual - expected).max(initial=0)
    assert error <= atol, f"{name}: off by {error:.3g}, {atol:.3g} is allowed"


def assert_relative(name: str, actual: Any, expected: Any, rtol: float) -> None:
    """To `rtol` of the largest expected element."""
    assert_within(name, actual, expected, rtol * float(np.abs(expected).max()))


# ---- layers and blocks ----

LAYERS: dict[str, nn.Module] = {
    "down_k23": Conv(3, kernel=(2, 3)),
    "down_k13": Conv(3, kernel=(1, 3)),
    "down_k23_s2": Conv(3, kernel=(2, 3), stride=2),
    "downright_k22": Conv(3, kernel=(2, 2), right=True),
    "downright_k21": Conv(3, kernel=(2, 1), right=True),
    "downright_k22_s2": Conv(3, kernel=(2, 2), stride=2, right=True),
    "down_deconv_k23_s2": Grow(3, kernel=(2, 3)),
    "downright_deconv_k22_s2": Grow(3, kernel=(2, 2)),
    "nin": Dense(3),
}


def layers(fixture: Fixture) -> None:
    x = jnp.asarray(fixture.inputs["x"])
    for name in fixture.meta["cases"]:
        params = as_arrays(below(fixture.params, f"{name}/"))
        module = LAYERS[name].clone(features=len(params["b"]))
        run = quick(partial(with_gradient, module))
        y, (grads, grad_x) = run(params, x, fixture.inputs[f"cotangent/{name}"])
        assert_within(name, y, fixture.outputs[name], 1e-5)
        for part, actual in (grads | {"x": grad_x}).items():
            expected = fixture.grads[f"{name}/{part}"]
            # Sums over all pixels, in float32 there too.
            scale = max(1.0, float(np.abs(expected).max()))
            assert_within(f"{name}/{part}", actual, expected, 1e-5 * scale)
    for name, function in (
        ("down_shift", shift_down),
        ("right_shift", shift_right),
        ("concat_elu", concat_elu),
    ):
        assert_within(name, function(x), fixture.outputs[name], 1e-5)


def as_arrays(tensors: Arrays) -> dict[str, jax.Array]:
    return {name: jnp.asarray(x) for name, x in tensors.items()}


def with_gradient(module: Any, params: Any, x: Any, cotangent: Any) -> Any:
    y, pull = jax.vjp(lambda p, x: module.apply({"params": p}, x), params, x)
    return y, pull(cotangent)


def gated_resnet(fixture: Fixture) -> None:
    x = jnp.asarray(fixture.inputs["x"])
    places = {
        "conv_a": "conv2d_0",
        "conv_b": "conv2d_1",
        "nin": "dense_0",
    }
    for name, case in fixture.meta["cases"].items():
        tensors = below(fixture.params, f"{name}/")
        params: dict[str, Any] = {
            place: layer
            for place, there in places.items()
            if (layer := as_arrays(below(tensors, f"{there}/")))
        }
        if case["h"]:
            params["hw"] = jnp.asarray(tensors["conditional_weights_0/hw"])
        module = Gated(
            x.shape[-1],
            right=case["conv"] == "down_right_shifted_conv2d",
            nonlinearity=case["nonlinearity"],
            dropout=case["dropout_p"],
        )
        a = jnp.asarray(fixture.inputs[case["aux"]]) if case["aux"] else None
        h = jnp.asarray(fixture.inputs["h"]) if case["h"] else None
        mask = below(fixture.inputs, "dropout_keep/").get(name)
        keep = {} if mask is None else {"dropout": mask}
        with given_dropout(keep, case["dropout_p"]):
            y = module.apply({"params": params}, x, bool(keep), a, h)
        assert_within(name, y, fixture.outputs[name], 1e-5)


# ---- network ----


def net(fixture: Fixture) -> None:
    single, streams = forward(fixture, jnp.float32)
    assert_within("logits", single, fixture.outputs["logits"], 2e-5)
    for name, value in streams.items():
        assert_within(name, value, fixture.outputs[name], 2e-5)
    stacks = ("up_u/", "up_ul/", "down_u/", "down_ul/")
    assert streams.keys() == {n for n in fixture.outputs if n.startswith(stacks)}
    with jax.enable_x64():
        double_precision(fixture)


def forward(fixture: Fixture, dtype: Any) -> tuple[Any, dict[str, Any]]:
    """Logits, and every entry of the four stacks by its official name."""
    module = network(fixture, dtype=dtype)
    x = float_image(fixture.inputs["x_uint8"], dtype)
    condition = conditions(fixture)
    params = ours(module, fixture.params, x, condition)
    masks = in_order(below(fixture.inputs, "dropout_keep/"), module)

    def run(params: Any, x: Any) -> Any:
        with given_dropout(masks, module.dropout):
            return module.apply(
                {"params": params},
                x,
                bool(masks),
                condition,
                mutable=["intermediates"],
                capture_intermediates=lambda layer, method: method == "__call__",
            )

    logits, seen = quick(run)(params, x)
    layers = {
        name: out["__call__"][0]
        for name, out in seen["intermediates"].items()
        if name != "__call__"
    }
    u = shift_down(layers["stem_u"])
    ul = shift_down(layers["stem_above"]) + shift_right(layers["stem_left"])
    stacks: dict[str, list[Any]] = {
        "up_u": [u],
        "up_ul": [ul],
        "down_u": [],
        "down_ul": [],
    }
    for site in official.table(module.blocks):
        top = site.path.split("/")[0]
        match = re.fullmatch(r"(up\d_\d+|shrink\d|down\d_\d+)_(ul?)", top)
        if match and top in layers:
            way = "down" if top.startswith("down") else "up"
            stacks[f"{way}_{match[2]}"].append(layers.pop(top))
    streams = {
        f"{stack}/{i:02}": value
        for stack, values in stacks.items()
        for i, value in enumerate(values)
    }
    return logits, streams


def double_precision(fixture: Fixture) -> None:
    """Logits, likelihood and the gradient of every parameter, in float64."""
    module = network(fixture, dtype=jnp.float64)
    x = float_image(fixture.inputs["x_uint8"], jnp.float64)
    condition = conditions(fixture)
    params = ours(module, fixture.params, x, condition)
    masks = in_order(below(fixture.inputs, "dropout_keep/"), module)

    def loss(params: Any) -> Any:
        with given_dropout(masks, module.dropout):
            logits = module.apply({"params": params}, x, bool(masks), condition)
        return logistic.nll(x, logits, "official").sum(), logits

    (total, logits), grads = quick(jax.value_and_grad(loss, has_aux=True))(params)
    assert_within("logits_f64", logits, fixture.outputs["logits_f64"], 1e-9)
    assert_relative("nll", total, fixture.outputs["nll_sum_f64"], 1e-9)
    grads = theirs(module, grads)
    expected = official.dotted(fixture.grads)
    assert grads.keys() == expected.keys()
    for name, value in expected.items():
        assert_relative(f"gradient of {name}", grads[name], value, 1e-8)


def port(fixture: Fixture) -> None:
    """The PyTorch port: its names, layouts and norms."""
    with jax.enable_x64():
        module = network(fixture, dtype=jnp.float64)
        x = jnp.asarray(nhwc(float_image(fixture.inputs["x_uint8"], jnp.float64)))
        tensors = {n: jnp.asarray(t, jnp.float64) for n, t in fixture.params.items()}
        masks = in_order(below(fixture.inputs, "dropout_keep/"), module)
        paths = {
            site.names[0]: site.path.split("/")
            for site in official.table(module.blocks)
        }

        def loss(tensors: Arrays) -> Any:
            params: dict[str, Any] = {}
            for name, value in official.from_port(tensors, module.blocks).items():
                layer, _, leaf = name.rpartition(".")
                place = params
                for part in paths[layer]:
                    place = place.setdefault(part, {})
                place[leaf] = value
            with given_dropout(masks, module.dropout):
                logits = module.apply({"params": params}, x, bool(masks))
            return logistic.nll(x, logits, "official").sum(), logits

        (total, logits), grads = quick(jax.value_and_grad(loss, has_aux=True))(tensors)
        expected = nhwc(fixture.outputs["logits_f64"])
        assert_within("logits_f64", logits, expected, 1e-9)
        assert_relative("nll", total, fixture.outputs["nll_sum_f64"], 1e-9)
        assert grads.keys() == fixture.grads.keys()
        for name, value in fixture.grads.items():
            assert_relative(f"gradient of {name}", grads[name], value, 1e-8)


def receptive_field(fixture: Fixture) -> None:
    """Which pixels each output depends on, by the zeros of its gradient."""
    for tag, config in fixture.meta["configs"].items():
        h, w = config["H"], config["W"]
        module = PixelCNN(config["nr_filters"], config["nr_resnet"], 1, dropout=0.0)
        x = jax.random.uniform(KEY, (1, h, w, 3), minval=-1)
        shapes = jax.eval_shape(partial(module.init, train=False), KEY, x)["params"]
        leaves, tree = jax.tree.flatten(shapes)
        keys = jax.random.split(KEY, len(leaves))
        random = [
            jax.random.normal(k, s.shape) for k, s in zip(keys, leaves, strict=True)
        ]
        weights = jax.random.normal(KEY, (10,))

        def outputs(x: Any, module=module, random=random, tree=tree, weights=weights):
            params = jax.tree.unflatten(tree, random)
            return (module.apply({"params": params}, x, False)[0] @ weights).ravel()

        jacobian = quick(jax.jacrev(outputs))(x)
        seen = np.asarray(jacobian != 0).reshape(h * w, h * w, 3).any(-1)
        np.testing.assert_array_equal(seen, fixture.outputs[f"dep/{tag}"])
        assert not np.triu(seen).any()


def inventory(fixture: Fixture) -> None:
    """Names and shapes of the released configuration, in creation order."""
    module = PixelCNN()
    x = jax.ShapeDtypeStruct((1, 32, 32, 3), jnp.float32)
    shapes = jax.eval_shape(partial(module.init, train=False), KEY, x)["params"]
    found = {}
    for site in official.table(module.blocks):
        for leaf in site.leaves:
            place = shapes
            for part in (*site.path.split("/"), leaf.split("/")[1]):
                place = place.get(part, {}) if isinstance(place, dict) else place
            if not isinstance(place, dict):
                found[(site.names[0] + site.leaves[leaf].name).replace(".", "/")] = (
                    place
                )
    assert list(found) == list(fixture.outputs["names"])
    for actual, expected in zip(found.values(), fixture.outputs["shapes"], strict=True):
        assert list(actual.shape) == [n for n in expected if n >= 0]
    total = sum(x.size for x in found.values())
    assert total == fixture.meta["total_parameters"]


# ---- first batch ----


def data_init(fixture: Fixture) -> None:
    with jax.enable_x64():
        _data_init(fixture, jnp.float64, 1e-8)
    _data_init(fixture, jnp.float32, 5e-4)


def _data_init(fixture: Fixture, dtype: Any, atol: float) -> None:
    module = network(fixture, dtype=dtype)
    x = float_image(fixture.inputs["x_uint8"], dtype)
    directions = official.dotted(fixture.params)
    params: dict[str, Any] = {}
    for site in official.table(module.blocks):
        if (name := f"{site.names[0]}.V") in directions:
            place = params
            for part in site.path.split("/"):
                place = place.setdefault(part, {})
            place["V"] = jnp.asarray(directions[name], dtype)
    masks = in_order(below(fixture.inputs, "dropout_keep/"), module)

    def run(params: Any) -> Any:
        with given_dropout(masks, module.dropout):
            return module.apply(
                {"params": params}, x, bool(masks), mutable=["params"], rngs=KEY
            )

    logits, made = quick(run)(params)
    expected = official.dotted(fixture.outputs)
    assert_within("first pass", logits, expected.pop("logits_init_pass"), 10 * atol)
    after = quick(lambda made: module.apply(made, x, False))(made)
    assert_within("after it", after, expected.pop("logits_eval_after"), 10 * atol)
    found = theirs(module, made["params"])
    for name, value in expected.items():
        assert_within(name, found[name], value, atol)


# ---- likelihood and draws ----


def uniforms(fixture: Fixture) -> tuple[jax.Array, jax.Array]:
    """The noise of the component and of the values."""
    u_mix, u_logistic = (fixture.inputs[n] for n in ("u_mix", "u_logistic"))
    return jnp.asarray(u_mix), jnp.asarray(u_logistic)


def loss(fixture: Fixture) -> None:
    with jax.enable_x64():
        _loss(fixture, jnp.float64)
    _loss(fixture, jnp.float32)


def _loss(fixture: Fixture, dtype: Any) -> None:
    given, out = fixture.inputs, fixture.outputs
    x, logits = (
        float_image(given["x_uint8"], dtype),
        jnp.asarray(given["logits"], dtype),
    )
    each = logistic.component_log_prob(x, logistic.unpack(logits, 3), "official")
    pixel = logistic.log_likelihood(x, logits, "official")
    images = logistic.nll(x, logits, "official")
    grad = jax.grad(lambda z: logistic.nll(x, z, "official").sum())(logits)
    if dtype == jnp.float64:
        for name, actual in (
            ("nll_sum", images.sum()),
            ("nll_per_image", images),
            ("pixel_loglik", pixel),
            ("component_logprob", each),
        ):
            fixture.assert_close(name, actual, out[f"{name}_f64"], 1e-9, 1e-12)
        assert_relative("gradient", grad, fixture.grads["logits_f64"], 1e-9)
        size = x.size
        bits = logistic.bits(images.sum()) / size
        fixture.assert_close("bits", bits, out["bits_per_dim_f64"], 1e-9, 0.0)
        return
    fixture.assert_close("nll_sum", images.sum(), out["nll_sum_f32"], 2e-5, 0.0)
    # The difference of sigmoids loses digits in float32, differently in each library.
    cancels = out["branch"] == 2
    expected = out["component_logprob_f32"]
    fixture.assert_close(
        "sure", np.where(cancels, 0, each), np.where(cancels, 0, expected), 1e-5, 1e-6
    )
    fixture.assert_close(
        "cancels", np.where(cancels, each, 0), np.where(cancels, expected, 0), 0.0, 2e-2
    )


def grey_loss_sampler(fixture: Fixture) -> None:
    logits = jnp.asarray(nhwc(fixture.inputs["logits"]))
    drawn = logistic.draw(logits, *uniforms(fixture))
    assert_within("sample", drawn, nhwc(fixture.outputs["sample"]), 1e-5)
    with jax.enable_x64():
        x = jnp.asarray(nhwc(float_image(fixture.inputs["x_uint8"], jnp.float64)))
        total, grad = jax.value_and_grad(
            lambda z: logistic.nll(x, z, "official").sum()
        )(jnp.asarray(logits, jnp.float64))
        assert_relative("nll", total, fixture.outputs["nll_sum"], 1e-9)
        expected = nhwc(fixture.grads["logits"])
        assert_relative("gradient", grad, expected, 1e-9)


def sampler(fixture: Fixture) -> None:
    logits = jnp.asarray(fixture.inputs["logits"])
    drawn = logistic.draw(logits, *uniforms(fixture))
    assert_within("sample", drawn, fixture.outputs["sample"], 1e-5)
    if "component" in fixture.outputs:
        mixture = logistic.unpack(logits, 3)
        chosen = logistic.component(mixture.logits, uniforms(fixture)[0])
        np.testing.assert_array_equal(chosen, fixture.outputs["component"])


def released_cifar_logits(fixture: Fixture) -> None:
    """What the released model's logits mean: likelihood and a draw."""
    x = jnp.asarray(float_image(fixture.inputs["x_uint8"]))
    logits = jnp.asarray(fixture.outputs["logits"])
    bits = logistic.bits(logistic.nll(x, logits, "official")) / x[0].size
    assert_relative("bits", bits, fixture.outputs["bits_per_dim"], 2e-5)
    drawn = logistic.draw(logits, *uniforms(fixture))
    assert_within("sample", drawn, fixture.outputs["sample"], 1e-5)


def sampled(fixture: Fixture) -> None:
    """Images from given noise: cached, by fixed point, and the logits on the way."""
    module = network(fixture)
    noise = Noise(*uniforms(fixture))
    b, h, w, _ = noise.value.shape
    image = jnp.zeros_like(noise.value)
    if "image_uint8" in fixture.inputs:
        image = float_image(fixture.inputs["image_uint8"])
    params = ours(module, fixture.params, image)
    logits = partial(module.apply, {"params": params}, train=False)

    @quick
    def run(known: Any) -> Any:
        each = jax.tree.map(lambda x: x[:, None], noise)
        fast = cached.sample(module, params, image, known, each)[:, 0]
        fixed, passes = raster.jacobi(logits, image, known, noise)
        return fast, fixed, passes, logits(fast)

    masks = below(fixture.inputs, "known/") or {"": np.zeros((h, w), np.uint8)}
    for name, mask in masks.items():
        known = jnp.broadcast_to(mask[None, ..., None] == 1, (b, h, w, 1))
        fast, fixed, passes, out = run(known)
        expected = fixture.outputs[f"image/{name}".rstrip("/")]
        assert_within(f"cached {name}", fast, expected, 1e-4)
        assert_within(f"fixed point {name}", fixed, expected, 1e-4)
        assert int(passes) <= (1 - mask).sum() + 1
        out = jnp.where(known, 0, out)
        # Rounding of the pixels before grows with the network's slope.
        wanted = fixture.outputs[f"logits/{name}".rstrip("/")]
        assert_within(f"logits {name}", out, wanted, 1e-3)


# ---- training ----


def train_step(fixture: Fixture) -> None:
    """Two steps in float64: likelihood, gradients' effect, rate and average."""
    meta = fixture.meta
    with jax.enable_x64():
        module = network(fixture, dtype=jnp.float64)
        moments = {name: meta["adam"][name] for name in ("b1", "b2")}
        config = ConfigDict({"steps": 10**9, "opt": OPT | moments})
        opts = pixelcnn.optimisers(pixelcnn.adam(config))
        hyper = pixelcnn.Hyper(form="official", ema=0.9995)
        x = float_image(fixture.inputs["x_uint8/step1"], jnp.float64)
        doubles = {n: np.float64(t) for n, t in fixture.params.items()}
        params = {"net": ours(module, doubles, x)}
        shadows = below(fixture.inputs, "ema/")
        ema = {"net": ours(module, {n: np.float64(t) for n, t in shadows.items()}, x)}
        zero = jnp.zeros([], jnp.int32)
        state = State(zero, params, {}, init_opt(opts, params), ema)
        for i in (1, 2):
            x = float_image(fixture.inputs[f"x_uint8/step{i}"], jnp.float64)
            batch = {"image": x, "mask": jnp.ones_like(x[..., :1])}
            masks = below(fixture.inputs, f"dropout_keep/step{i}/")
            with given_dropout(in_order(masks, module), module.dropout):
                step = quick(partial(pixelcnn.step, module, hyper, opts))
                state, metrics = step(state, batch, KEY)
            expected = fixture.outputs[f"bits_per_dim/step{i}"]
            assert_relative("bits", metrics["bits_per_dim"], expected, 1e-9)
            for name, tree in (("param", state.params), ("ema", state.ema)):
                wanted = official.dotted(below(fixture.outputs, f"{name}_step{i}/"))
                found = theirs(module, tree["net"])
                for tensor, value in wanted.items():
                    grad = np.abs(official.dotted(fixture.grads)[tensor])
                    # Gradients agree to 1e-9 of the largest element, and Adam divides
                    # by the element: where it is small, that is 1e-6 of a step.
                    small = grad < 1e-2 * grad.max()
                    off = np.where(small, 0.1, 1.0) * (found[tensor] - value)
                    assert_within(f"{name} {tensor}", off, 0 * off, 1e-9)


OPT = {"lr": 1e-3, "fall": 0.999995, "decay": 0.0, "accumulate": 1}


HANDLERS = {
    ("pixelcnn++", name): handler
    for name, handler in {
        "layers": layers,
        "gated_resnet": gated_resnet,
        "net": net,
        "net_class_conditional": net,
        "net_elu": net,
        "port_eval": port,
        "port_grey_eval": port,
        "port_train": port,
        "receptive_field": receptive_field,
        "released_checkpoint_inventory": inventory,
        "data_init": data_init,
        "data_init_dropout": data_init,
        "loss": loss,
        "loss_extreme": loss,
        "grey_loss_sampler": grey_loss_sampler,
        "sampler": sampler,
        "released_cifar_logits": released_cifar_logits,
        "train_step": train_step,
        "sample_8x8": sampled,
        "complete_lower_half": sampled,
    }.items()
}
