"""Layers and residual blocks of INADE, SPADE and CLADE."""

import re
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from fixture import Fixture, nchw, nhwc
from inade_shared import (
    check_train,
    classes_of,
    close,
    has_edges,
    layout_of,
    load,
    maps,
    noise_of,
    norm_factory,
    scaled,
)

from picjax.layers.conv import Conv
from picjax.methods.inade import encoder, official
from picjax.methods.inade.net import ResBlock
from picjax.methods.inade.norm import BatchNorm
from picjax.official import mapping

# ---- normalisation ----


def check_norm(fixture: Fixture, mode: str) -> None:
    hyper, inputs, out = fixture.hyper, fixture.inputs, fixture.outputs
    classes = None
    if mode == "spade":  # whose tensors do not separate classes from edges
        classes = inputs["seg"].shape[1] - (
            has_edges(inputs["seg"]) and not hyper.get("no_instance")
        )
    else:
        classes = classes_of(mode, hyper, fixture.params)
    layout, noise = layout_of(inputs, classes), noise_of(inputs)
    net = norm_factory(mode, hyper["config"], fixture.params)(classes=classes)
    x = jnp.asarray(nhwc(inputs["x"]))
    table = official.generator_table(mode)
    variables = load(net, fixture.params, table, x, layout, noise, False)
    y, captured = net.apply(
        variables,
        x,
        layout,
        noise,
        False,
        capture_intermediates=True,
        mutable=["intermediates"],
    )
    close(fixture, "eval_y", nchw(y), out["eval_y"])
    inner = captured["intermediates"]
    normalised = inner["param_free_norm"]["__call__"][0]
    if "normalized_eval" in out:
        close(fixture, "normalised", nchw(normalised), out["normalized_eval"])
    if "gamma" in out:
        scale, shift = inner["modulation"]["__call__"][0]
        close(fixture, "gamma", nchw(scale), out["gamma"])
        close(fixture, "beta", nchw(shift), out["beta"])

    def call(variables, x, noise):
        return net.apply(variables, x, layout, noise, True, mutable=["stats"])

    if "train_y" not in out:
        return
    d_x, d_noise = check_train(fixture, call, variables, (x, noise), table)
    if "grad_x" in out:
        fixture.assert_close("grad_x", nchw(d_x), *scaled(out["grad_x"]))
    if "grad_noise" in out:
        count = out["grad_noise"].shape[1]
        fixture.assert_close(
            "grad_noise", d_noise[:, :count], *scaled(out["grad_noise"])
        )
        assert not np.any(d_noise[:, count:]), "padding has a gradient"


def check_sync_batchnorm(fixture: Fixture) -> None:
    """Statistics over the whole batch. The division is that of a single device."""
    out, net = fixture.outputs, BatchNorm()
    table = (mapping.Site("", ("",), official.RUNNING),)
    x = jnp.asarray(nhwc(fixture.inputs["x"]))
    variables = load(net, fixture.params, table, x, False)
    y, new = net.apply(variables, x, True, mutable=["stats"])
    close(fixture, "y", nchw(y), out["y_single"])
    after = mapping.to_official({"stats": new["stats"]}, table)
    for suffix in ("", "_single"):
        for name in ("running_mean", "running_var"):
            close(fixture, name + suffix, after[name], out[name + suffix])
    # The path of several devices: inv_std = max(var, eps)^(-1/2).
    mean = (after["running_mean"] - 0.9 * variables["stats"]["mean"]) / 0.1
    close(fixture, "mean", mean, out["mean"])
    usual = out["inv_std"] < 0.99 / np.sqrt(1e-5)  # where nothing is clamped
    multi = nchw(y) * np.sqrt(1 + 1e-5 * out["inv_std"] ** 2)[None, :, None, None]
    error = np.abs(multi - out["y_multi"])[:, usual]
    assert error.max(initial=0) <= 1e-4, f"y_multi: off by {error.max()}"


# ---- convolutions ----


def check_spectral_norm(fixture: Fixture) -> None:
    params, out = fixture.params, fixture.outputs
    features, _, kernel, _ = params["weight_orig"].shape
    x = jnp.asarray(nhwc(fixture.inputs["x"]))
    h, target = x.shape[1], out["eval_y"].shape[2]
    stride = 2 if target <= h // 2 + 1 else 1
    padding = ((target - 1) * stride + kernel - h + 1) // 2
    net = Conv(
        features, kernel, "bias" in params, stride=stride, padding=max(padding, 0)
    )
    table = (mapping.Site("", ("",), official.SPECTRAL),)
    variables = load(net, params, table, x, 0)
    close(fixture, "eval_y", nchw(net.apply(variables, x, 0)), out["eval_y"])
    calls = sorted(int(m[1]) for k in out if (m := re.fullmatch(r"train(\d+)_y", k)))
    before = variables
    for i in calls:
        before = variables
        y, new = net.apply(variables, x, 1, mutable=["stats"])
        variables = {"params": variables["params"], **new}
        close(fixture, f"train{i}_y", nchw(y), out[f"train{i}_y"])
        stats = new["stats"]
        for name in "uv":
            if f"train{i}_{name}" in out:
                close(fixture, name, stats[name], out[f"train{i}_{name}"])
        if f"train{i}_sigma" in out:
            matrix = params["weight_orig"].reshape(features, -1)
            sigma = stats["u"] @ (matrix @ stats["v"])
            close(fixture, "sigma", sigma, out[f"train{i}_sigma"])

    def call(variables, x):
        return net.apply(variables, x, 1, mutable=["stats"])

    check_train(fixture, call, before, (x,), table)


def check_instance_conv(fixture: Fixture) -> None:
    inputs, out = fixture.inputs, fixture.outputs
    net = encoder.InstanceConv(len(fixture.params["bias"]), fixture.hyper["stride"])
    x = jnp.asarray(nhwc(inputs["x"]))
    ids = maps(inputs["instances"])
    table = (mapping.Site("", ("",), mapping.CONV),)
    variables = load(net, fixture.params, table, x, ids)
    close(fixture, "y", nchw(net.apply(variables, x, ids)), out["y"])
    plain = net.apply(variables, x, jnp.zeros_like(ids))
    if "plain_conv" in out:
        close(fixture, "one instance", nchw(plain), out["plain_conv"])

    def call(variables, x):
        return net.apply(variables, x, ids), {}

    (d_x,) = check_train(fixture, call, variables, (x,), table)
    if "grad_x" in out:
        fixture.assert_close("grad_x", nchw(d_x), *scaled(out["grad_x"]))


def check_block(fixture: Fixture, mode: str) -> None:
    hyper, inputs, out = fixture.hyper, fixture.inputs, fixture.outputs
    classes = classes_of(mode, hyper, fixture.params)
    layout, noise = layout_of(inputs, classes), noise_of(inputs)
    norm_g = hyper.get("norm_G", "spectralspadesyncbatch3x3")
    norm = partial(norm_factory(mode, norm_g, fixture.params), classes=classes)
    spectral = official.parse_norm_g(norm_g).spectral
    net = ResBlock(hyper["fout"], norm, spectral)
    table = official.generator_table(mode, spectral)
    x = jnp.asarray(nhwc(inputs["x"]))
    variables = load(net, fixture.params, table, x, layout, noise, False)
    y = jax.jit(net.apply, static_argnums=4)(variables, x, layout, noise, False)
    close(fixture, "eval_y", nchw(y), out["eval_y"])

    def call(variables, x):
        return net.apply(variables, x, layout, noise, True, mutable=["stats"])

    (d_x,) = check_train(fixture, call, variables, (x,), table)
    if "grad_x" in out:
        fixture.assert_close("grad_x", nchw(d_x), *scaled(out["grad_x"]))
