"""INADE with SPADE and CLADE: layers, networks, losses, data and a training step."""

import re
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from fixture import Fixture, below, nchw, nhwc
from PIL import Image

from picjax.layers.conv import Conv
from picjax.methods.inade import encoder, losses, official, schedule, transforms
from picjax.methods.inade.discriminator import Discriminator, downsample
from picjax.methods.inade.layout import Layout, edge_map, semantics
from picjax.methods.inade.net import Generator, ResBlock, base_size
from picjax.methods.inade.norm import NORMS, BatchNorm
from picjax.methods.inade.system import INADE, Draw, LossWeights
from picjax.methods.inade.vgg import CONVS, Vgg19
from picjax.official import mapping
from picjax.system import Opt, State, initial_state

FORWARD, GRADIENT = 1e-5, 1e-4
# Gradients that are 0 but for rounding: a norm subtracts what these biases add.
CANCELLED = re.compile(r"(.*\.)?(conv_[01]|layer\d+|middle|up\d+)\.bias")


# ---- shared ----


def load(net: Any, tensors: dict, table: mapping.Table, *inputs: Any) -> Any:
    """The file's tensors as variables of a net that is called with these inputs."""
    shapes = jax.eval_shape(lambda: net.init(jax.random.key(0), *inputs))
    return mapping.from_official(tensors, shapes, table)


def close(
    fixture: Fixture, name: str, actual: Any, expected: Any, tol: float = FORWARD
):
    """Absolute where values are below 1, relative above."""
    expected = np.asarray(expected)
    scale = max(1.0, float(np.abs(expected).max())) if expected.size else 1.0
    fixture.assert_close(name, actual, expected, 0.0, tol * scale)


def close_gradients(
    fixture: Fixture, actual: dict, expected: dict, last_block: str = ""
) -> None:
    """Each to `GRADIENT` of its maximum; a cancelled one to 1e-5 of the network's."""
    largest = max(float(np.abs(x).max()) for x in expected.values())
    for name, array in expected.items():
        scale = GRADIENT * float(np.abs(array).max())
        if CANCELLED.fullmatch(name) and name != f"{last_block}conv_1.bias":
            scale = max(scale, 1e-5 * largest)
        fixture.assert_close(f"gradient of {name}", actual[name], array, 0.0, scale)


def close_state(fixture: Fixture, actual: dict, expected: dict, tol: float) -> None:
    """Running statistics and spectral vectors by their official names."""
    for name, array in expected.items():
        close(fixture, name, actual[name], array, tol)


def maps(array: np.ndarray) -> jax.Array:
    """An integer map of the file [b 1 h w] as [b h w]."""
    return jnp.asarray(array[:, 0]).astype(jnp.int32)


def layout_of(inputs: dict) -> Layout:
    """Label, instances, sketch and position map of a file; edges of the instances."""
    seg = inputs.get("seg")
    edges = None
    if seg is not None:
        edges = jnp.asarray(nhwc(seg[:, -1:])) if has_edges(seg) else None
        classes = seg if edges is None else seg[:, :-1]
        label = jnp.asarray(classes.argmax(1).astype(np.int32))
    else:
        label = maps(inputs["label"])
    instance = maps(inputs["instance"]) if "instance" in inputs else None
    if "instances" in inputs and instance is None:
        instance = jnp.asarray(inputs["instances"].argmax(1).astype(np.int32))
    optional = {
        name: jnp.asarray(nhwc(inputs[key])) if key in inputs else None
        for name, key in (("sketch", "sketch"), ("position", "dist"))
    }
    return Layout(label, instance, edges, **optional)


def has_edges(seg: np.ndarray) -> bool:
    """Whether the last channel holds edges: beside it, one class per pixel is 1."""
    return bool((seg[:, :-1].sum(1) == 1).all())


def padded(noise: np.ndarray, rows: int = 3) -> jax.Array:
    """Noise with more instances than there are, whose junk must not matter."""
    b, _, *rest = noise.shape
    junk = np.random.default_rng(0).normal(0, 50, (b, rows, *rest))
    return jnp.asarray(np.concatenate([noise, junk.astype(np.float32)], 1))


def noise_of(inputs: dict) -> jax.Array | None:
    return padded(inputs["noise"]) if "noise" in inputs else None


def check_train(
    fixture: Fixture,
    call: Any,
    variables: Any,
    x: tuple,
    table: mapping.Table,
    last_block: str = "",
    tol: float = FORWARD,
) -> tuple:
    """One forward and backward in training; returns the gradients of the inputs.

    Args:
      fixture: with `out/train_y` or `out/train_image`, and perhaps `out/train_state/*`,
        `in/cotangent`, `grad/*`.
      call: (variables, *x) -> output and new stats.
      variables: of the net.
      x: inputs that a gradient is wanted of.
      table: official names.
      last_block: prefix of the block whose second bias no norm cancels.
      tol: of the output and the state.
    """
    out = fixture.outputs
    cotangent = fixture.inputs.get("cotangent")
    stats = variables.get("stats", {})

    @jax.jit
    def run(params, x):
        def forward(params, *x):
            return call({"params": params, "stats": stats}, *x)

        y, pull, new = jax.vjp(forward, params, *x, has_aux=True)
        weights = jnp.ones_like(y) if cotangent is None else nhwc(cotangent)
        return y, new, pull(jnp.asarray(weights))

    y, new, (d_params, *d_x) = run(variables["params"], x)
    expected = out.get("train_y", out.get("train_image"))
    if expected is not None:
        close(fixture, "train", nchw(y), expected, tol)
    after = mapping.to_official({"stats": new.get("stats", {})}, table)
    close_state(fixture, after, below(out, "train_state/"), tol)
    if fixture.grads:
        named = mapping.to_official({"params": d_params}, table)
        close_gradients(fixture, named, fixture.grads, last_block)
    return tuple(d_x)


# ---- normalisation ----


def check_norm(fixture: Fixture, mode: str) -> None:
    hyper, inputs, out = fixture.hyper, fixture.inputs, fixture.outputs
    options = official.parse_norm_g(hyper["config"])
    layout, noise = layout_of(inputs), noise_of(inputs)
    seg = inputs.get("seg")
    classes = hyper.get("classes")
    if classes is None:
        classes = seg.shape[1] - (layout.edges is not None)
    extra: dict[str, Any] = {}
    if mode == "inade":
        extra["sketch"] = bool(hyper.get("sketch"))
    if mode == "spade":
        extra |= {"kernel": options.kernel, "hidden": hyper.get("hidden", 128)}
    if mode == "clade":
        extra["position"] = bool(hyper.get("add_dist", "dist" in inputs))
        if hyper.get("no_instance"):
            layout = layout._replace(edges=None)
    net = NORMS[mode](classes, options.statistics, **extra)
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


def scaled(expected: np.ndarray) -> tuple[np.ndarray, float, float]:
    """An expected gradient, and its tolerances: `GRADIENT` of its maximum."""
    return expected, 0.0, GRADIENT * float(np.abs(expected).max())


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
    start, n = variables["stats"], x.size // x.shape[-1]
    mean = (after["running_mean"] - 0.9 * start["mean"]) / 0.1
    var = (after["running_var"] - 0.9 * start["var"]) / 0.1 * (n - 1) / n
    close(fixture, "mean", mean, out["mean"])
    usual = out["inv_std"] < 0.99 / np.sqrt(1e-5)  # where nothing is clamped
    inverse = 1 / np.sqrt(np.asarray(var)[usual])
    fixture.assert_close("inv_std", inverse, out["inv_std"][usual], 1e-4, 0.0)
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


# ---- generator ----


def check_block(fixture: Fixture, mode: str) -> None:
    hyper, inputs, out = fixture.hyper, fixture.inputs, fixture.outputs
    layout, noise = layout_of(inputs), noise_of(inputs)
    classes = hyper["label_nc"] + hyper["dontcare"]
    options = official.parse_norm_g(hyper["norm_G"])
    net = ResBlock(hyper["fout"], norm_factory(mode, hyper, classes), options.spectral)
    table = official.generator_table(mode, options.spectral)
    x = jnp.asarray(nhwc(inputs["x"]))
    variables = load(net, fixture.params, table, x, layout, noise, False)
    y = jax.jit(net.apply, static_argnums=4)(variables, x, layout, noise, False)
    close(fixture, "eval_y", nchw(y), out["eval_y"])

    def call(variables, x):
        return net.apply(variables, x, layout, noise, True, mutable=["stats"])

    (d_x,) = check_train(fixture, call, variables, (x,), table, "")
    if "grad_x" in out:
        fixture.assert_close("grad_x", nchw(d_x), *scaled(out["grad_x"]))


def norm_factory(mode: str, hyper: Any, classes: int | None = None) -> Any:
    """The normalisation of a generator's or a block's hyper-parameters."""
    options = official.parse_norm_g(hyper["norm_G"])
    extra: dict[str, Any] = {"statistics": options.statistics}
    if mode == "inade":
        extra["sketch"] = bool(hyper.get("add_sketch"))
    if mode == "spade":
        extra["kernel"] = options.kernel
    if mode == "clade":
        extra["position"] = bool(hyper.get("add_dist"))
    if classes is not None:
        extra["classes"] = classes
    return partial(NORMS[mode], **extra)


def generator_of(hyper: Any) -> Generator:
    options = official.parse_norm_g(
        hyper.setdefault("norm_G", "spectralspadesyncbatch3x3")
    )
    upsampling = hyper.get("num_upsampling_layers", "normal")
    return Generator(
        norm_factory(hyper.get("norm_mode", "inade"), hyper),
        classes_of(hyper),
        base_size(hyper["crop_size"], hyper.get("aspect_ratio", 1.0), upsampling),
        upsampling,
        hyper["ngf"],
        options.spectral,
    )


def generator_table_of(hyper: Any, tensors: dict) -> mapping.Table:
    return official.generator_table(
        hyper.get("norm_mode", "inade"),
        official.parse_norm_g(hyper["norm_G"]).spectral,
        latent=tensors["fc.weight"].ndim == 2,
    )


def classes_of(hyper: Any) -> int:
    return hyper["label_nc"] + bool(hyper.get("contain_dontcare_label"))


def last_block(tensors: Any) -> str:
    """Prefix of the trunk's last block."""
    return max(m[0] for name in tensors if (m := re.match(r"up_\d+\.", name)))


def check_generator(fixture: Fixture) -> None:
    hyper, inputs, out = dict(fixture.hyper), fixture.inputs, fixture.outputs
    net = generator_of(hyper)
    table = generator_table_of(hyper, fixture.params)
    layout = layout_of(inputs)
    if hyper["norm_mode"] != "inade" and not hyper.get("no_instance"):
        layout = layout._replace(edges=edge_map(layout.instance))
    noise = latent = None
    if fixture.params["fc.weight"].ndim == 2:
        latent = jnp.asarray(inputs.get("noise_ins", inputs.get("z")))
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

    last = last_block(fixture.params)
    check_train(fixture, call, variables, (), table, last, 1e-4)


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
    net = encoder.InstanceEncoder(count + 3, hyper["noise_nc"], hyper["ngf"])
    table = official.INSTANCE_ENCODER
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
    for prefix in ("layer/", "pixel/"):
        for name, expected in below(out, prefix).items():
            close(fixture, name, nchw(inner[name]["__call__"][0]), expected)
    if "kld" in out:
        kl = [losses.kl_standard_normal(*y[i : i + 2]).sum() for i in (0, 2)]
        close(fixture, "kld", np.stack(kl), out["kld"])
    if fixture.grads:
        named = mapping.to_official({"params": d_params}, table)
        close_gradients(fixture, named, fixture.grads)
        fixture.assert_close("grad_image", nchw(d_image), *scaled(out["grad_image"]))


def check_image_encoder(fixture: Fixture) -> None:
    hyper, out = fixture.hyper, fixture.outputs
    spectral, norm = official.parse_norm(hyper.get("norm_E", "spectralinstance"))
    latent = len(fixture.params["fc_mu.bias"])
    depth = 6 if hyper["crop_size"] >= 256 else 5
    net = encoder.ImageEncoder(latent, depth, hyper["ngf"], norm, spectral)
    table = official.image_encoder_table(norm, spectral)
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
    hyper.setdefault("crop_size", layout.label.shape[2])
    generator = generator_of(hyper)
    noise = jnp.asarray(inputs["noise"])
    latent = jnp.asarray(inputs["noise_ins"])
    table = generator_table_of(hyper, tensors)
    variables = load(generator, tensors, table, layout, latent, noise, False)

    tensors, z = below(fixture.params, "IE/"), noise.shape[-1]
    names = ("z_ref_s_mu", "z_ref_s_std", "z_ref_b_mu", "z_ref_b_std")
    count = out[names[0]].shape[1]
    net = encoder.InstanceEncoder(count, z, hyper["ngf"])
    image, ids = jnp.asarray(nhwc(inputs["ref_image"])), maps(inputs["ref_instance"])
    reference = net.apply(
        load(net, tensors, official.INSTANCE_ENCODER, image, ids), image, ids
    )
    for name, value in zip(names, reference, strict=True):
        value = jnp.exp(0.5 * value) if "std" in name else value
        close(fixture, name, value, out[name])

    draw = jax.jit(
        lambda statistics: generator.apply(
            variables, layout, latent, statistics.remap(noise), False
        )
    )
    target, source = int(inputs["inst_id"]), int(inputs["ref_id"])
    prior = encoder.standard_statistics(*noise.shape[:2], z)
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


def discriminator_of(hyper: Any) -> tuple[Discriminator, mapping.Table]:
    spectral, norm = official.parse_norm(hyper.get("norm_D", "spectralinstance"))
    layers = hyper["n_layers_D"]
    net = Discriminator(hyper["num_D"], layers, hyper["ndf"], norm, spectral)
    return net, official.discriminator_table(layers, norm, spectral)


def check_outputs(fixture: Fixture, outputs: Any, expected: dict) -> None:
    """Every layer of every scale, as `<scale>_<layer>`."""
    actual = {
        f"{i}_{j}": layer for i, s in enumerate(outputs) for j, layer in enumerate(s)
    }
    assert actual.keys() >= expected.keys()
    for name, array in expected.items():
        close(fixture, name, nchw(actual[name]), array)


# ---- losses ----


def check_losses(fixture: Fixture) -> None:
    hyper, inputs, out = fixture.hyper, fixture.inputs, fixture.outputs
    fake, real = (pyramid(below(inputs, f"pred_{side}/")) for side in ("fake", "real"))
    roles = {"d_fake": ("fake", fake), "d_real": ("real", real)}
    roles["g"] = ("generator", fake)
    for name, expected in out.items():
        match = re.fullmatch(r"gan_([a-z]+)_(d_fake|d_real|g)", name)
        if match is None:
            continue
        part, outputs = roles[match[2]]
        loss = getattr(losses.GAN[match[1]], part)
        check_scalar(
            fixture,
            name,
            lambda x, loss=loss: losses.over_scales(loss, x).mean(),
            outputs,
            expected,
        )
    for mode, first in (("inade", 3), ("spade", 0)):
        name = f"feat_{mode}"
        if name in out:
            check_scalar(
                fixture,
                name,
                lambda x, first=first: (
                    hyper["lambda_feat"]
                    * losses.feature_matching(x, real, first).mean()
                ),
                fake,
                out[name],
            )
    check_kl(fixture)
    check_perceptual(fixture)


def pyramid(arrays: dict) -> list:
    """`<scale>_<layer>` -> array as lists of layers per scale."""
    places = sorted(tuple(map(int, name.split("_"))) for name in arrays)
    return [
        [jnp.asarray(nhwc(arrays[f"{s}_{j}"])) for s, j in places if s == scale]
        for scale in sorted({s for s, _ in places})
    ]


def check_scalar(fixture: Fixture, name: str, fn: Any, x: Any, expected: Any) -> None:
    """A loss of discriminator outputs and its gradients."""
    value, grads = jax.jit(jax.value_and_grad(fn))(x)
    expected = np.asarray(expected)
    close(fixture, name, np.reshape(value, expected.shape), expected)
    for key, array in below(fixture.outputs, f"grad/{name}/").items():
        scale, layer = map(int, key.split("_"))
        fixture.assert_close(key, nchw(grads[scale][layer]), *scaled(array))


def check_kl(fixture: Fixture) -> None:
    inputs, out = fixture.inputs, fixture.outputs
    if "kld" not in out:
        return
    value, grads = jax.value_and_grad(
        lambda mu, log_var: losses.kl_standard_normal(mu, log_var).sum(), (0, 1)
    )(jnp.asarray(inputs["mu"]), jnp.asarray(inputs["logvar"]))
    close(fixture, "kld", value, out["kld"])
    for name, grad in zip(("grad/kld_mu", "grad/kld_logvar"), grads, strict=True):
        if name in out:
            fixture.assert_close(name, grad, *scaled(out[name]))


def check_perceptual(fixture: Fixture) -> None:
    inputs, out = fixture.inputs, fixture.outputs
    x, y = (jnp.asarray(nhwc(inputs[name])) for name in ("img_x", "img_y"))
    net, variables = vgg_of(fixture.params, x)
    for index, expected in below(out, "vgg_feat/").items():
        feature = jax.jit(net.apply)(variables, x)[int(index)]
        close(fixture, f"feature {index}", nchw(feature), expected)
    for mode, weights in losses.VGG_WEIGHTS.items():
        name = f"vgg_{mode}"
        if name not in out:
            continue

        @jax.jit
        @jax.value_and_grad
        def loss(x, weights=weights):
            of_x, of_y = net.apply(variables, x), net.apply(variables, y)
            return losses.perceptual(of_x, of_y, weights).mean()

        value, grad = loss(x)
        close(fixture, name, value, out[name])
        if f"grad/{name}_x" in out:
            fixture.assert_close(name, nchw(grad), *scaled(out[f"grad/{name}_x"]))


def vgg_of(tensors: dict, image: jax.Array) -> tuple[Vgg19, Any]:
    """The file's narrow VGG19, whose tensors are called `slice<k>.<index>`."""
    stems = {name.rpartition(".")[0] for name in tensors}
    names = {int(stem.rpartition(".")[2]): stem for stem in stems}
    assert names.keys() == CONVS.keys()
    net = Vgg19(len(tensors[f"{names[0]}.bias"]))
    return net, load(net, tensors, official.vgg_table(names), image)


# ---- data ----


def check_preprocess(fixture: Fixture) -> None:
    inputs, out = fixture.inputs, fixture.outputs
    instance = maps(inputs["instance"])
    edges = edge_map(instance)
    np.testing.assert_array_equal(nchw(edges), out["edges"])
    for name, expected in out.items():
        case, _, what = name.rpartition("_")
        if what == "semantics":
            label = maps(inputs.get(f"{case}_label", inputs["label"]))
            with_edges = has_edges(expected)
            layout = Layout(label, edges=edges if with_edges else None)
            made = semantics(layout, expected.shape[1] - with_edges)
            np.testing.assert_array_equal(nchw(made), expected)
        elif what == "instances":
            # The networks read the map itself: the same as the file's one-hot maps.
            own = maps(inputs.get(f"{case}_instance", inputs["instance"]))
            assert expected.shape[1] == int(own.max()) + 1
            np.testing.assert_array_equal(own, expected.argmax(1))


def check_reidentify(fixture: Fixture) -> None:
    for name, raw in fixture.inputs.items():
        ranks = transforms.reidentify(raw)
        np.testing.assert_array_equal(ranks, fixture.outputs[name])
        # The original saves 8 bits, which wrap.
        np.testing.assert_array_equal(
            ranks.astype(np.uint8), fixture.outputs[f"{name}_png"]
        )


def check_transforms(fixture: Fixture) -> None:
    inputs, out = fixture.inputs, fixture.outputs
    image, label, ids = (
        Image.fromarray(inputs[name]) for name in ("image", "label", "instance")
    )
    label_nc = int(setting(fixture, "label_nc", r"label_nc \(here (\d+)\)"))
    cases = [n.removesuffix("_image") for n in out if n.endswith("_image")]
    for case in cases:
        geometry = transforms.Geometry(
            mode=case.removesuffix("_flip"),
            load_size=int(setting(fixture, "load_size", r"load (\d+)")),
            crop_size=int(setting(fixture, "crop_size", r"crop (\d+)")),
            aspect_ratio=setting(fixture, "aspect_ratio", r"aspect ([\d.]+\d|\d+)"),
            corner=tuple(int(i) for i in inputs[f"{case}_crop"]),
            flip=bool(inputs[f"{case}_flip"]),
        )
        pixels = transforms.read_image(image, geometry).transpose(2, 0, 1)
        fixture.assert_close(case, pixels, out[f"{case}_image"], 0.0, 1e-6)
        labels = transforms.read_label(label, geometry, label_nc)
        np.testing.assert_array_equal(labels[None], out[f"{case}_label"])
        instances = transforms.read_map(ids, geometry)
        np.testing.assert_array_equal(instances[None], out[f"{case}_instance"])
    if "ade20k_annotation" in inputs:
        raw = inputs["ade20k_annotation"]
        expected = out["ade20k_label"]
        same = transforms.Geometry("crop", 0, raw.shape[1])
        labels = transforms.read_label(Image.fromarray(raw), same, label_nc=150)
        np.testing.assert_array_equal(labels[None], expected)


def setting(fixture: Fixture, name: str, pattern: str) -> float:
    """A number of the file's hyper-parameters, or of its text."""
    if name in fixture.hyper:
        return fixture.hyper[name]
    match = re.search(pattern, fixture.meta["arrays"])
    assert match, f"{fixture.path}: meta does not say {name}"
    return float(match[1])


def check_output(fixture: Fixture) -> None:
    inputs, out = fixture.inputs, fixture.outputs
    made = transforms.to_uint8(inputs["x"].transpose(1, 2, 0))
    np.testing.assert_array_equal(made, out["uint8"])
    for name, expected in below(out, "colormap_").items():
        np.testing.assert_array_equal(transforms.palette(int(name)), expected)
    if "label_color" in out:
        classes = int(setting(fixture, "N", r"N\s*=\s*(\d+)"))
        coloured = transforms.colour(inputs["label"][0], classes)
        np.testing.assert_array_equal(coloured, out["label_color"])


def check_schedule(fixture: Fixture) -> None:
    for case, settings in fixture.inputs.items():
        niter, niter_decay, lr, no_ttur, first = settings
        expected = fixture.outputs[case]
        rates = schedule.ttur(lr, enabled=not no_ttur)
        # The original restarts at the full rate when it resumes; epochs from then on.
        constant = max(int(niter), int(first) - 1)
        factors = [
            schedule.decay_factor(int(first) + i, constant, int(niter_decay))
            for i in range(len(expected))
        ]
        fixture.assert_close(case, np.outer(factors, rates), expected, 1e-12, 1e-16)


# ---- training step ----

# The file's losses, and ours.
LOSSES = {
    "g_loss/KLD": "g_kl",
    "g_loss/GAN": "g_gan",
    "g_loss/GAN_Feat": "g_feature",
    "g_loss/VGG": "g_perceptual",
    "d_loss/D_Fake": "d_fake",
    "d_loss/D_real": "d_real",
}


def record() -> optax.GradientTransformation:
    """Keep the gradients of the last update in the optimiser's state."""
    return optax.GradientTransformation(
        init=lambda params: jax.tree.map(jnp.zeros_like, params),
        update=lambda updates, state, params=None: (updates, updates),
    )


def step_system(
    fixture: Fixture, batch: dict, instances: int
) -> tuple[INADE, dict[str, tuple[str, Any]]]:
    """The method of a file, and net -> its prefix in the file and its table."""
    hyper, params = dict(fixture.hyper), fixture.params
    mode = hyper.setdefault("norm_mode", "inade")
    discriminator, d_table = discriminator_of(hyper)
    generator = generator_of(hyper).clone(name="generator")
    g_table = generator_table_of(hyper, below(params, "G/"))
    places = {"generator": ("G/", g_table), "discriminator": ("D/", d_table)}
    nets: dict[str, Any] = {
        "generator": generator,
        "discriminator": discriminator.clone(name="discriminator"),
    }
    prefix = next((p for p in ("IE/", "E/") if below(params, p)), None)
    if prefix and mode == "inade":
        z = hyper["noise_nc"]
        nets["encoder"] = encoder.InstanceEncoder(instances, z, hyper["ngf"])
        places["encoder"] = (prefix, official.INSTANCE_ENCODER)
    elif prefix:
        spectral, norm = official.parse_norm(hyper.get("norm_E", "spectralinstance"))
        depth = 6 if hyper["crop_size"] >= 256 else 5
        latent = len(params[f"{prefix}fc_mu.bias"])
        args = latent, depth, hyper["ngf"], norm, spectral
        nets["encoder"] = encoder.ImageEncoder(*args)
        places["encoder"] = (prefix, official.image_encoder_table(norm, spectral))
    if prefix:
        nets["encoder"] = nets["encoder"].clone(name="encoder")
    if tensors := below(params, "vgg/"):
        vgg, variables = vgg_of(tensors, batch["image"])
        nets |= {"vgg": vgg.clone(name="vgg"), "vgg_params": variables["params"]}
    rates = schedule.ttur(hyper["lr"], not hyper.get("no_TTUR"))
    adams = [optax.adam(r, b1=hyper["beta1"], b2=hyper["beta2"]) for r in rates]
    owned = (("generator", "encoder") if prefix else ("generator",), ("discriminator",))
    system = INADE(
        **nets,
        opts={
            name: Opt(optax.chain(record(), adam), own)
            for name, adam, own in zip(
                ("generator", "discriminator"), adams, owned, strict=True
            )
        },
        gan=losses.GAN[hyper.get("gan_mode", "hinge")],
        weights=LossWeights(
            0.0 if hyper.get("no_ganFeat_loss") else hyper["lambda_feat"],
            hyper.get("lambda_vgg", 0.0),
            hyper.get("lambda_kld", 0.0),
        ),
        norm=mode,
        instances=instances,
        noise_nc=hyper["noise_nc"],
        z_dim=hyper["z_dim"],
        # The original counts layers from 3, however many there are.
        first_feature=3 if mode == "inade" else 0,
        edges=not hyper.get("no_instance"),
        kl_reduction="sum",
    )
    return system, places


def check_train_step(fixture: Fixture) -> None:
    inputs, out = fixture.inputs, fixture.outputs
    batch = {
        "image": jnp.asarray(nhwc(inputs["image"])),
        "label": maps(inputs["label"]),
        "instance": maps(inputs["instance"]),
    }
    if "sketch" in inputs:
        batch["sketch"] = jnp.asarray(nhwc(inputs["sketch"]))
    draws = [
        Draw(
            jnp.asarray(inputs[f"{player}_noise_ins"]),
            padded(inputs[f"{player}_noise"]),
        )
        for player in "gd"
    ]
    instances = draws[0].style.shape[1]
    system, places = step_system(fixture, batch, instances)
    shapes = jax.eval_shape(system.init, batch, jax.random.key(0))
    loaded = {
        net: mapping.from_official(
            below(fixture.params, prefix),
            {"params": shapes.params[net], "stats": shapes.stats[net]},
            table,
        )
        for net, (prefix, table) in places.items()
    }
    if system.vgg is not None:
        loaded["vgg"] = {"params": system.vgg_params}
    state = initial_state(system.opts, loaded)

    @jax.jit
    def run(state):
        layout = system.layout(batch)
        first, _ = system.generate(
            state.params, state.stats, batch["image"], layout, draws[0]
        )
        after_g, g_metrics = system.update_generator(state, batch, layout, draws[0])
        second, _ = system.generate(
            after_g.params, after_g.stats, batch["image"], layout, draws[1]
        )
        after, d_metrics = system.update_discriminator(after_g, batch, layout, draws[1])
        return first.image, second.image, after_g, after, g_metrics | d_metrics

    first, second, after_g, after, metrics = run(state)
    for name, ours in LOSSES.items():
        if name in out:
            expected = out[name].reshape(())
            fixture.assert_close(name, metrics[ours], expected, 1e-4, 1e-6)
    for player in "gd":
        total = sum(v for k, v in metrics.items() if k.startswith(f"{player}_"))
        if f"{player}_total" in out:
            expected = out[f"{player}_total"].reshape(())
            fixture.assert_close("total", total, expected, 1e-4, 1e-6)
    for name, image in (("fake_g", first), ("fake_d", second)):
        if name in out:
            close(fixture, name, nchw(image), out[name], 1e-4)
    check_updates(fixture, places, after_g, "generator", "after_g/")
    check_updates(fixture, places, after, "discriminator", "after_d/")
    for folder, late in (("after_g_buf/", after_g), ("after_d_buf/", after)):
        check_updates(fixture, places, late, None, folder)


def check_updates(
    fixture: Fixture, places: dict, state: State, player: str | None, folder: str
) -> None:
    """The file's tensors after an update, and the gradients that led there.

    Adam's first step is nearly lr sign(gradient): parameters are compared where the
    gradient is more than rounding noise.
    """
    expected = below(fixture.outputs, folder)
    largest = 0.0
    if player:
        # Recorded gradients are the first part of the optimiser's chained state.
        recorded = state.opt[player][0]
        grads = {}
        for net, tree in recorded.items():
            prefix, table = places[net]
            named = mapping.to_official({"params": tree}, table)
            grads |= {prefix + name: x for name, x in named.items()}
        wanted = {name: fixture.grads[name] for name in grads if name in fixture.grads}
        close_step_gradients(fixture, grads, wanted)
        largest = max(float(np.abs(x).max()) for x in wanted.values())
    for net, (prefix, table) in places.items():
        tree = {"params": state.params[net], "stats": state.stats[net]}
        actual = mapping.to_official(tree, table)
        for name, array in below(expected, prefix).items():
            gradient = fixture.grads.get(prefix + name)
            if gradient is None:
                close(fixture, folder + prefix + name, actual[name], array, 1e-4)
                continue
            clear = np.abs(gradient) > 1e-5 * largest
            if CANCELLED.fullmatch(name) and not name.startswith(
                last_block(below(fixture.params, "G/"))
            ):
                continue
            fixture.assert_close(
                folder + prefix + name, actual[name][clear], array[clear], 1e-6, 2e-6
            )


def close_step_gradients(fixture: Fixture, actual: dict, expected: dict) -> None:
    """`close_gradients` of each net, whose names have no prefix there."""
    for prefix in sorted({name.partition("/")[0] + "/" for name in expected}):
        last = last_block(below(fixture.params, prefix)) if prefix == "G/" else ""
        close_gradients(fixture, below(actual, prefix), below(expected, prefix), last)


CHECKS = {
    "INADE class/instance normalisation layer": partial(check_norm, mode="inade"),
    "SPADE normalisation (comparison variant)": partial(check_norm, mode="spade"),
    "CLADE normalisation (separate CLADE repository; not in the INADE code)": partial(
        check_norm, mode="clade"
    ),
    "synchronised batch norm statistics": check_sync_batchnorm,
    "spectrally normalised conv (one power iteration per train forward)": (
        check_spectral_norm
    ),
    "instance-aware 3x3 convolution": check_instance_conv,
    "inade residual block": partial(check_block, mode="inade"),
    "spade residual block": partial(check_block, mode="spade"),
    "clade residual block": partial(check_block, mode="clade"),
    "generator": check_generator,
    "instance-adaptive encoder": check_instance_encoder,
    "SPADE image encoder (comparison variant)": check_image_encoder,
    "exemplar-based control of one instance (demo path)": check_exemplar,
    "multi-scale PatchGAN discriminator": check_discriminator,
    "losses": check_losses,
    "preprocess": check_preprocess,
    "instance re-identification": check_reidentify,
    "image/label/instance transforms": check_transforms,
    "image and label-map saving": check_output,
    "learning-rate schedule": check_schedule,
    "one generator step then one discriminator step": check_train_step,
}
