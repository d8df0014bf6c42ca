"""What the checks of INADE's files share: loading, tolerances, networks."""

import re
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from fixture import Fixture, below, nchw, nhwc

from picjax.methods.inade import encoder, official
from picjax.methods.inade.discriminator import Discriminator
from picjax.methods.inade.layout import Layout
from picjax.methods.inade.net import Generator, base_size
from picjax.methods.inade.norm import NORMS
from picjax.methods.inade.vgg import CONVS, Vgg19
from picjax.official import mapping

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


def cancelled(name: str, tensors: dict) -> bool:
    """Whether a norm subtracts what this tensor of a network adds.

    Its gradient is 0 but for rounding. The last block's second bias, which no norm
    follows, is not. The first layer's bias is if there is one value per channel.
    """
    if name == "fc.bias":
        channels = tensors.get("head_0.conv_0.bias")
        return channels is not None and tensors[name].size == channels.size
    blocks = [m[0] for n in tensors if (m := re.match(r"up_\d+\.", n))]
    last = f"{max(blocks, default='')}conv_1.bias"
    return bool(CANCELLED.fullmatch(name)) and name != last


def close_gradients(fixture: Fixture, actual: dict, expected: dict) -> None:
    """Each to `GRADIENT` of its maximum; a cancelled one to 1e-5 of the network's."""
    largest = max((float(np.abs(x).max()) for x in expected.values()), default=0.0)
    for name, array in expected.items():
        scale = GRADIENT * float(np.abs(array).max())
        if cancelled(name, expected):
            scale = max(scale, 1e-5 * largest)
        fixture.assert_close(f"gradient of {name}", actual[name], array, 0.0, scale)


def close_state(fixture: Fixture, actual: dict, expected: dict, tol: float) -> None:
    """Running statistics and spectral vectors by their official names."""
    for name, array in expected.items():
        if not name.endswith("num_batches_tracked"):  # which nothing reads
            close(fixture, name, actual[name], array, tol)


def maps(array: np.ndarray) -> jax.Array:
    """An integer map of the file [b 1 h w] as [b h w]."""
    return jnp.asarray(array[:, 0]).astype(jnp.int32)


def layout_of(inputs: dict, classes: int | None = None) -> Layout:
    """Label, instances, sketch, position map of a file, and edges if it stores them.

    In `in/seg` edges are the channel after `classes`, if their number is known.
    """
    seg = inputs.get("seg")
    edges = None
    if seg is not None:
        with_edges = has_edges(seg) if classes is None else seg.shape[1] > classes
        edges = jnp.asarray(nhwc(seg[:, -1:])) if with_edges else None
        onehot = seg if edges is None else seg[:, :-1]
        label = jnp.asarray(onehot.argmax(1).astype(np.int32))
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
        close_gradients(fixture, named, fixture.grads)
    return tuple(d_x)


def norm_factory(mode: str, norm_g: str, tensors: dict) -> Any:
    """The normalisation that a network's tensors belong to."""
    options: dict[str, Any] = {"statistics": official.parse_norm_g(norm_g).statistics}
    if mode == "inade":
        options["sketch"] = any("sketch_conv." in name for name in tensors)
    if mode == "spade":
        shared = next(x for n, x in tensors.items() if n.endswith("shared.0.weight"))
        options |= {"hidden": shared.shape[0], "kernel": shared.shape[-1]}
    if mode == "clade":
        options["position"] = any("dist_conv_w." in name for name in tensors)
    return partial(NORMS[mode], **options)


def classes_of(mode: str, hyper: Any, tensors: dict) -> int:
    """Rows of the class tables; SPADE, which has none, relies on the file's options."""
    table = {"inade": r"(.*norm_\w\.)?weight", "clade": r".*specified_affine\.weight"}
    if mode in table:
        return next(len(x) for n, x in tensors.items() if re.fullmatch(table[mode], n))
    if "label_nc" in hyper:
        dontcare = hyper.get("contain_dontcare_label", hyper.get("dontcare", False))
        return hyper["label_nc"] + bool(dontcare)
    return hyper["classes"]


def generator_of(hyper: Any, tensors: dict) -> tuple[Generator, mapping.Table]:
    """The generator of a file's options and tensors, and its official names."""
    mode = hyper.get("norm_mode", "inade")
    norm_g = hyper.get("norm_G", "spectralspadesyncbatch3x3")
    upsampling = hyper.get("num_upsampling_layers", "normal")
    spectral = official.parse_norm_g(norm_g).spectral
    net = Generator(
        norm_factory(mode, norm_g, tensors),
        classes_of(mode, hyper, tensors),
        base_size(hyper["crop_size"], hyper.get("aspect_ratio", 1.0), upsampling),
        upsampling,
        hyper["ngf"],
        spectral,
    )
    latent = tensors["fc.weight"].ndim == 2
    return net, official.generator_table(mode, spectral, latent)


def encoder_of(hyper: Any, tensors: dict, instances: int) -> tuple[Any, mapping.Table]:
    """The instance encoder or the image encoder that the tensors belong to."""
    if "fc_mu.bias" not in tensors:
        channels = len(tensors["scale_conv_mu.bias"])
        net = encoder.InstanceEncoder(instances, channels, hyper["ngf"])
        return net, official.INSTANCE_ENCODER
    spectral, norm = official.parse_norm(hyper.get("norm_E", "spectralinstance"))
    depth = 6 if hyper["crop_size"] >= 256 else 5
    latent = len(tensors["fc_mu.bias"])
    net = encoder.ImageEncoder(latent, depth, hyper["ngf"], norm, spectral)
    return net, official.image_encoder_table(norm, spectral)


def discriminator_of(hyper: Any) -> tuple[Discriminator, mapping.Table]:
    spectral, norm = official.parse_norm(hyper.get("norm_D", "spectralinstance"))
    layers = hyper["n_layers_D"]
    net = Discriminator(hyper["num_D"], layers, hyper["ndf"], norm, spectral)
    return net, official.discriminator_table(layers, norm, spectral)


def vgg_of(tensors: dict, image: jax.Array) -> tuple[Vgg19, Any]:
    """The file's narrow VGG19, whose tensors are called `slice<k>.<index>`."""
    stems = {name.rpartition(".")[0] for name in tensors}
    names = {int(stem.rpartition(".")[2]): stem for stem in stems}
    assert names.keys() == CONVS.keys()
    net = Vgg19(len(tensors[f"{names[0]}.bias"]))
    return net, load(net, tensors, official.vgg_table(names), image)


def scaled(expected: np.ndarray) -> tuple[np.ndarray, float, float]:
    """An expected gradient, and its tolerances: `GRADIENT` of its maximum."""
    return expected, 0.0, GRADIENT * float(np.abs(expected).max())
