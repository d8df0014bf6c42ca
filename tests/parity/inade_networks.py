"""Generators, encoders and discriminators of INADE and SPADE."""

from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from fixture import Fixture, below, nchw, nhwc
from inade_shared import (
    FORWARD,
    check_train,
    close,
    close_gradients,
    close_state,
    discriminator_of,
    encoder_of,
    generator_of,
    layout_of,
    load,
    maps,
    padded,
    scaled,
)

from picjax.methods.inade import encoder, losses
from picjax.methods.inade.discriminator import downsample
from picjax.methods.inade.layout import edge_map
from picjax.official import mapping


def check_generator(fixture: Fixture) -> None:
    hyper, inputs, out = dict(fixture.hyper), fixture.inputs, fixture.outputs
    net, table = generator_of(hyper, fixture.params)
    layout = layout_of(inputs)
    if hyper.get("norm_mode") != "inade" and not hyper.get("no_instance"):
        layout = layout._replace(edges=edge_map(maps(inputs["instance"])))
    noise = latent = None
    if (first := fixture.params["fc.weight"]).ndim == 2:
        shape = len(layout.label), first.shape[1]
        names = ("noise_ins", "z", *inputs)
        arrays = (inputs[name] for name in names if name in inputs)
        latent = jnp.asarray(next(x for x in arrays if x.shape == shape))
    if "noise" in inputs:
        noise = inputs["noise"]
        if "z_s_mu" in inputs:
            statistics = statistics_of(inputs)
            noise = np.asarray(statistics.remap(jnp.asarray(noise)))
        if "eval_noise_remapped" in out:
            close(fixture, "remapped", noise, out["eval_noise_remapped"])
        noise = padded(noise)
    variables = load(net, fixture.params, table, layout, latent, noise, False)
    image, captured = jax.jit(
        lambda v: net.apply(
            v,
            layout,
            latent,
            noise,
            False,
            capture_intermediates=True,
            mutable=["intermediates"],
        )
    )(variables)
    close(fixture, "eval_image", nchw(image), out["eval_image"])
    for name, expected in below(out, "block/").items():
        block = captured["intermediates"][name]["__call__"][0]
        close(fixture, name, nchw(block) if block.ndim == 4 else block, expected)
    if "train_image" not in out:
        return

    def call(variables):
        return net.apply(variables, layout, latent, noise, True, mutable=["stats"])

    check_train(fixture, call, variables, (), table, 1e-4)


def statistics_of(inputs: dict) -> encoder.StyleStatistics:
    """A file's encoder statistics, whose deviations are already exponentiated."""
    return encoder.StyleStatistics(
        *(
            jnp.asarray(2 * np.log(inputs[name]) if "std" in name else inputs[name])
            for name in ("z_s_mu", "z_s_std", "z_b_mu", "z_b_std")
        )
    )


# ---- encoders ----


def check_instance_encoder(fixture: Fixture) -> None:
    hyper, inputs, out = fixture.hyper, fixture.inputs, fixture.outputs
    ids, image = maps(inputs["instance"]), jnp.asarray(nhwc(inputs["image"]))
    count = out["s_mu"].shape[1]
    net, table = encoder_of(hyper, fixture.params, count + 3)
    variables = load(net, fixture.params, table, image, ids)
    names = ("s_mu", "s_logvar", "b_mu", "b_logvar")
    cotangents = inputs.get("cotangent")

    @jax.jit
    def run(params, image):
        def forward(params, image):
            return net.apply(
                {"params": params},
                image,
                ids,
                capture_intermediates=True,
                mutable=["intermediates"],
            )

        y, pull, captured = jax.vjp(forward, params, image, has_aux=True)
        cut = jax.tree.map(jnp.zeros_like, y)
        if cotangents is not None:
            pairs = zip(cut, cotangents, strict=True)
            cut = type(y)(*(a.at[:, :count].set(b) for a, b in pairs))
        return y, captured["intermediates"], pull(cut)

    y, inner, (d_params, d_image) = run(variables["params"], image)
    for name, value in zip(names, y, strict=True):
        close(fixture, name, value[:, :count], out[name])
        assert not np.any(value[:, count:]), f"{name} of an absent instance"
    for name, expected in below(out, "layer/").items():
        close(fixture, name, nchw(inner[name]["__call__"][0]), expected)
    last = nn.leaky_relu(inner["up3_norm"]["__call__"][0], 0.2)
    for name, expected in below(out, "pixel/").items():
        params = variables["params"][name]
        conv = encoder.InstanceConv(len(params["bias"]))
        pixels = conv.apply({"params": params}, encoder.double(last), ids)
        close(fixture, name, nchw(pixels), expected)
    if "kld" in out:
        kl = [losses.kl_standard_normal(*y[i : i + 2]).sum() for i in (0, 2)]
        close(fixture, "kld", np.stack(kl), out["kld"])
    if fixture.grads:
        named = mapping.to_official({"params": d_params}, table)
        close_gradients(fixture, named, fixture.grads)
    if "grad_image" in out:
        fixture.assert_close("grad_image", nchw(d_image), *scaled(out["grad_image"]))


def check_image_encoder(fixture: Fixture) -> None:
    hyper, out = fixture.hyper, fixture.outputs
    net, table = encoder_of(hyper, fixture.params, 0)
    image = jnp.asarray(nhwc(fixture.inputs["image"]))
    variables = load(net, fixture.params, table, image, False)
    for name, train in (("eval", False), ("train", True)):
        (mu, log_var), _ = jax.jit(
            partial(net.apply, mutable=["stats"]), static_argnums=2
        )(variables, image, train)
        close(fixture, f"{name}_mu", mu, out[f"{name}_mu"], 1e-4)
        close(fixture, f"{name}_logvar", log_var, out[f"{name}_logvar"], 1e-4)


def check_exemplar(fixture: Fixture) -> None:
    hyper, inputs, out = dict(fixture.hyper), fixture.inputs, fixture.outputs
    layout, tensors = layout_of(inputs), below(fixture.params, "G/")
    h, w = layout.label.shape[1:]
    hyper = {"crop_size": w, "aspect_ratio": w / h, **hyper}
    generator, table = generator_of(hyper, tensors)
    noise = jnp.asarray(inputs["noise"])
    latent = jnp.asarray(inputs["noise_ins"])
    variables = load(generator, tensors, table, layout, latent, noise, False)

    tensors, z = below(fixture.params, "IE/"), noise.shape[-1]
    names = ("z_ref_s_mu", "z_ref_s_std", "z_ref_b_mu", "z_ref_b_std")
    count = out[names[0]].shape[1]
    net, table = encoder_of(hyper, tensors, count)
    image, ids = jnp.asarray(nhwc(inputs["ref_image"])), maps(inputs["ref_instance"])
    reference: Any = net.apply(load(net, tensors, table, image, ids), image, ids)
    for name, value in zip(names, reference, strict=True):
        value = jnp.exp(0.5 * value) if "std" in name else value
        close(fixture, name, value, out[name])

    draw = jax.jit(
        lambda statistics: generator.apply(
            variables, layout, latent, statistics.remap(noise), False
        )
    )
    target, source = int(inputs["inst_id"]), int(inputs["ref_id"])
    prior = encoder.standard_statistics(noise.shape[0], noise.shape[1], z)
    styled = prior.transfer(target, reference, source)
    # The original's demo lets the shift's statistics overwrite the scale's.
    shift = styled.shift_mu, styled.shift_log_var
    overwritten = encoder.StyleStatistics(*shift, *shift)
    cases = {"prior": prior, "intended": styled, "as_run": overwritten}
    for name, statistics in cases.items():
        if f"image_{name}" in out:
            close(fixture, name, nchw(draw(statistics)), out[f"image_{name}"])


# ---- discriminator ----


def check_discriminator(fixture: Fixture) -> None:
    hyper, inputs, out = fixture.hyper, fixture.inputs, fixture.outputs
    x = jnp.asarray(nhwc(inputs["x"]))
    net, table = discriminator_of(hyper)
    variables = load(net, fixture.params, table, x, False)
    if "down1" in out:
        close(fixture, "down1", nchw(downsample(x)), out["down1"])
    outputs = jax.jit(net.apply, static_argnums=2)(variables, x, False)
    check_outputs(fixture, outputs, below(out, "eval/"))

    @jax.jit
    def run(params, x):
        def forward(params, x):
            variables_now = variables | {"params": params}
            return net.apply(variables_now, x, True, mutable=["stats"])

        y, pull, new = jax.vjp(forward, params, x, has_aux=True)
        cut = [
            [
                jnp.asarray(nhwc(inputs[f"cot/{i}_{j}"])) / layer.size
                for j, layer in enumerate(scale)
            ]
            for i, scale in enumerate(y)
        ]
        return y, new, pull(cut)

    if not below(out, "train/"):
        return
    y, new, (d_params, d_x) = run(variables["params"], x)
    check_outputs(fixture, y, below(out, "train/"))
    after = mapping.to_official({"stats": new.get("stats", {})}, table)
    close_state(fixture, after, below(out, "train_state/"), FORWARD)
    named = mapping.to_official({"params": d_params}, table)
    close_gradients(fixture, named, fixture.grads)
    if "grad_x" in out:
        fixture.assert_close("grad_x", nchw(d_x), *scaled(out["grad_x"]))


def check_outputs(fixture: Fixture, outputs: Any, expected: dict) -> None:
    """Every layer of every scale, as `<scale>_<layer>`."""
    actual = {
        f"{i}_{j}": layer for i, s in enumerate(outputs) for j, layer in enumerate(s)
    }
    assert actual.keys() >= expected.keys()
    for name, array in expected.items():
        close(fixture, name, nchw(actual[name]), array)
