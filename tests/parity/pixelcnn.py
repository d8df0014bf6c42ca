"""PixelCNN++'s reference files: layers, network, port, receptive field, names."""

import re
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from fixture import Fixture, below, nhwc
from patterns import Patterns
from pixelcnn_likelihood import (
    check_draw,
    check_loss,
    check_port_loss,
    check_released_logits,
)
from pixelcnn_nets import (
    KEY,
    Arrays,
    assert_relative,
    assert_within,
    condition_of,
    dropout_masks,
    float_image,
    from_theirs,
    given_dropout,
    network,
    place,
    quick,
    to_theirs,
)
from pixelcnn_training import check_data_init, check_samples, check_train_steps

from picjax.methods.pixelcnn import logistic, official
from picjax.methods.pixelcnn.layers import (
    NONLINEARITIES,
    Conv,
    Dense,
    Gated,
    Grow,
    shift_down,
    shift_right,
)
from picjax.methods.pixelcnn.net import PixelCNN

# ---- layers and blocks ----


def make_layer(name: str, case: Any, features: int) -> nn.Module:
    """A primitive layer: down, downright, their transposed forms, or nin."""
    if name.startswith("nin") or "filter_size" not in case:
        return Dense(features)
    kernel, right = tuple(case["filter_size"]), "right" in name
    if "deconv" in name:
        return Grow(features, kernel=kernel)
    stride = case.get("stride", [1, 1])[0]
    return Conv(features, kernel=kernel, stride=stride, right=right)


def check_layers(fixture: Fixture) -> None:
    x = jnp.asarray(fixture.inputs["x"])
    for name, case in fixture.meta["cases"].items():
        params = as_arrays(below(fixture.params, f"{name}/"))
        layer = make_layer(name, case, len(params["b"]))
        cotangent = fixture.inputs.get(f"cotangent/{name}")
        if cotangent is None:
            cotangent = np.zeros_like(fixture.outputs[name])
        run = quick(partial(with_gradient, layer))
        y, (grads, grad_x) = run(params, x, cotangent)
        assert_within(name, y, fixture.outputs[name], 1e-5)
        actual = grads | {"x": grad_x}
        for part, expected in below(fixture.grads, f"{name}/").items():
            # Sums over all pixels, in float32 there too.
            scale = max(1.0, float(np.abs(expected).max()))
            assert_within(f"{name}/{part}", actual[part], expected, 1e-5 * scale)
    functions = {"down_shift": shift_down, "right_shift": shift_right, **NONLINEARITIES}
    for name in functions.keys() & fixture.outputs.keys():
        assert_within(name, functions[name](x), fixture.outputs[name], 1e-5)


def as_arrays(tensors: Arrays) -> dict[str, jax.Array]:
    return {name: jnp.asarray(x) for name, x in tensors.items()}


def with_gradient(module: Any, params: Any, x: Any, cotangent: Any) -> Any:
    y, pull = jax.vjp(lambda p, x: module.apply({"params": p}, x), params, x)
    return y, pull(cotangent)


def check_gated(fixture: Fixture) -> None:
    x = jnp.asarray(fixture.inputs["x"])
    layers = {"conv_a": "conv2d_0", "conv_b": "conv2d_1", "nin": "dense_0"}
    for name, case in fixture.meta["cases"].items():
        tensors = below(fixture.params, f"{name}/")
        params: dict[str, Any] = {
            ours: tensor
            for ours, theirs in layers.items()
            if (tensor := as_arrays(below(tensors, f"{theirs}/")))
        }
        if case.get("h"):
            params["hw"] = jnp.asarray(tensors["conditional_weights_0/hw"])
        rate = float(case.get("dropout_p") or 0)
        module = Gated(
            x.shape[-1],
            right=case["conv"] == "down_right_shifted_conv2d",
            nonlinearity=case.get("nonlinearity", "concat_elu"),
            dropout=rate,
        )
        a = jnp.asarray(fixture.inputs[case["aux"]]) if case.get("aux") else None
        h = jnp.asarray(fixture.inputs["h"]) if case.get("h") else None
        mask = below(fixture.inputs, "dropout_keep/").get(name)
        keep = {} if mask is None else {"dropout": mask}
        with given_dropout(keep, rate):
            y = module.apply({"params": params}, x, bool(keep), a, h)
        assert_within(name, y, fixture.outputs[name], 1e-5)


# ---- network ----


def check_network(fixture: Fixture) -> None:
    logits, streams = forward(fixture, jnp.float32)
    assert_within("logits", logits, fixture.outputs["logits"], 2e-5)
    stacks = ("up_u/", "up_ul/", "down_u/", "down_ul/")
    stored = {name for name in fixture.outputs if name.startswith(stacks)}
    assert stored in (set(), streams.keys())
    for name in stored:
        assert_within(name, streams[name], fixture.outputs[name], 2e-5)
    with jax.enable_x64():
        check_double_precision(fixture)


def forward(fixture: Fixture, dtype: Any) -> tuple[Any, dict[str, Any]]:
    """Logits, and every entry of the four stacks by its official name."""
    net = network(fixture, dtype=dtype)
    x = float_image(fixture.inputs["x_uint8"], dtype)
    condition = condition_of(fixture)
    params = from_theirs(net, fixture.params, x, condition)
    masks = dropout_masks(fixture, net)

    def run(params: Any, x: Any) -> Any:
        with given_dropout(masks, net.dropout):
            return net.apply(
                {"params": params},
                x,
                bool(masks),
                condition,
                mutable=["intermediates"],
                capture_intermediates=lambda layer, method: method == "__call__",
            )

    logits, sown = quick(run)(params, x)
    layers = {
        name: out["__call__"][0]
        for name, out in sown["intermediates"].items()
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
    for site in official.table(net.blocks):
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


def check_double_precision(fixture: Fixture) -> None:
    """Logits, likelihood and the gradient of every parameter, in float64."""
    net = network(fixture, dtype=jnp.float64)
    x = float_image(fixture.inputs["x_uint8"], jnp.float64)
    condition = condition_of(fixture)
    params = from_theirs(net, fixture.params, x, condition)
    masks = dropout_masks(fixture, net)

    def loss(params: Any) -> Any:
        with given_dropout(masks, net.dropout):
            logits = net.apply({"params": params}, x, bool(masks), condition)
        return logistic.nll(x, logits, "official").sum(), logits

    (total, logits), grads = quick(jax.value_and_grad(loss, has_aux=True))(params)
    check_results(fixture, total, logits, to_theirs(net, grads))


def check_results(fixture: Fixture, total: Any, logits: Any, grads: Any) -> None:
    """Logits NHWC, likelihood and gradients in float64, as far as the file has them."""
    expected = {
        name: nhwc(x) if "NCHW" in fixture.meta.get("layout", "") and x.ndim == 4 else x
        for name, x in fixture.outputs.items()
        if name.startswith(("logits", "nll_sum"))
    }
    assert expected
    if "logits_f64" in expected:
        assert_within("logits_f64", logits, expected["logits_f64"], 1e-9)
    else:
        assert_within("logits", logits, expected["logits"], 2e-5)
    if "nll_sum_f64" in expected:
        assert_relative("nll", total, expected["nll_sum_f64"], 1e-9)
    stored = official.dotted(fixture.grads)
    assert not stored or official.dotted(grads).keys() == stored.keys()
    for name, value in stored.items():
        actual = official.dotted(grads)[name]
        assert_relative(f"gradient of {name}", actual, value, 1e-8)


def check_port(fixture: Fixture) -> None:
    """The PyTorch port: its names, layouts and norms."""
    with jax.enable_x64():
        net = network(fixture, dtype=jnp.float64)
        x = jnp.asarray(nhwc(float_image(fixture.inputs["x_uint8"], jnp.float64)))
        tensors = {n: jnp.asarray(t, jnp.float64) for n, t in fixture.params.items()}
        masks = dropout_masks(fixture, net)
        paths = {site.names[0]: site.path for site in official.table(net.blocks)}

        def loss(tensors: Arrays) -> Any:
            named = official.from_port(tensors, net.blocks).items()
            split = ((name.rpartition("."), value) for name, value in named)
            params = place(
                {f"{paths[layer]}/{leaf}": value for (layer, _, leaf), value in split}
            )
            with given_dropout(masks, net.dropout):
                logits = net.apply({"params": params}, x, bool(masks))
            return logistic.nll(x, logits, "official").sum(), logits

        run = quick(jax.value_and_grad(loss, has_aux=True))
        (total, logits), grads = run(tensors)
        check_results(fixture, total, logits, grads)


# ---- structure ----


def check_receptive_field(fixture: Fixture) -> None:
    """Which pixels each output depends on, by the zeros of its gradient."""
    for tag, config in fixture.meta["configs"].items():
        h, w = config["H"], config["W"]
        net = PixelCNN(config["nr_filters"], config["nr_resnet"], 1, dropout=0.0)
        x = jax.random.uniform(KEY, (1, h, w, 3), minval=-1)
        shapes = jax.eval_shape(partial(net.init, train=False), KEY, x)["params"]
        leaves, tree = jax.tree.flatten(shapes)
        keys = jax.random.split(KEY, len(leaves))
        random = [
            jax.random.normal(k, s.shape) for k, s in zip(keys, leaves, strict=True)
        ]
        weights = jax.random.normal(KEY, (10,))

        def outputs(x: Any, net=net, random=random, tree=tree, weights=weights):
            params = jax.tree.unflatten(tree, random)
            return (net.apply({"params": params}, x, False)[0] @ weights).ravel()

        jacobian = quick(jax.jacrev(outputs))(x)
        depends = np.asarray(jacobian != 0).reshape(h * w, h * w, 3).any(-1)
        np.testing.assert_array_equal(depends, fixture.outputs[f"dep/{tag}"])
        assert not np.triu(depends).any()


def check_inventory(fixture: Fixture) -> None:
    """Names and shapes of a network's variables, in creation order."""
    shapes = {
        str(name): tuple(int(n) for n in shape if n >= 0)
        for name, shape in zip(
            fixture.outputs["names"], fixture.outputs["shapes"], strict=True
        )
    }
    net, classes = network_of(shapes)
    x = jax.ShapeDtypeStruct((1, 32, 32, net.channels), jnp.float32)
    h = jax.ShapeDtypeStruct((1, classes), jnp.float32) if classes else None
    init = partial(net.init, train=False)
    params = jax.eval_shape(init, KEY, x, condition=h)["params"]
    actual = {}
    for site in official.table(net.blocks):
        layer: Any = params
        for part in site.path.split("/"):
            layer = layer[part]
        for path, leaf in site.leaves.items():
            if (tensor := path.split("/")[1]) in layer:
                name = (site.names[0] + leaf.name).replace(".", "/")
                actual[name] = layer[tensor].shape
    assert list(actual.items()) == list(shapes.items())
    total = sum(int(np.prod(shape)) for shape in actual.values())
    assert total == fixture.meta["total_parameters"]


def network_of(shapes: dict[str, tuple[int, ...]]) -> tuple[PixelCNN, int]:
    """The network with these variables, and its number of classes."""
    dense = [name for name in shapes if re.fullmatch(r".*dense_\d+/V", name)]
    head = max(dense, key=lambda name: int(re.findall(r"\d+", name)[-1]))
    *_, inputs, features = shapes["model/conv2d_0/V"]
    hw = [shape[0] for name, shape in shapes.items() if name.endswith("/hw")]
    channels = inputs - 1
    doubled = shapes["model/conv2d_3/V"][2] == 2 * features
    net = PixelCNN(
        features=features,
        blocks=(len(dense) - 5) // 9,
        mixtures=shapes[head][1] // logistic.logit_count(1, channels),
        channels=channels,
        nonlinearity="concat_elu" if doubled else "elu",
    )
    return net, hw[0] if hw else 0


CHECKS = Patterns(
    {
        r"each primitive layer": check_layers,
        r"gated residual block": check_gated,
        r"whole network": check_network,
        r"PyTorch port, whole network": check_port,
        r"gradient dependency matrix": check_receptive_field,
        r"names and shapes of": check_inventory,
        r"data-dependent initialisation": check_data_init,
        r"discretized mixture-of-logistics loss": check_loss,
        r"one-channel|PyTorch port, (loss|three-channel)": check_port_loss,
        r"draw of": check_draw,
        r"logits of the RELEASED": check_released_logits,
        r"full training steps": check_train_steps,
        r"autoregressive sampling|completion": check_samples,
    }
)
