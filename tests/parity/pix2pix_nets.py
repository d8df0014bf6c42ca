"""Pix2Pix's networks as reference files describe them."""

import re
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from picjax.methods.pix2pix.net import (
    PatchDiscriminator,
    PixelDiscriminator,
    ResnetGenerator,
    UnetGenerator,
)
from picjax.methods.pix2pix.official import table
from picjax.official.mapping import from_official

KEY = jax.random.key(0)
GENERATORS = (UnetGenerator, ResnetGenerator)
# Syncbatch is batch norm with statistics over several devices.
NORMS = {"batch": "batch", "syncbatch": "batch", "instance": "instance", "none": "none"}


def build(network: str, hyper: Mapping[str, Any]) -> Any:
    """The network with the original's class name and arguments."""
    kind = network.split()[0]
    norm: Any = NORMS[hyper.get("norm") or "none"]
    if kind in ("UnetGenerator", "ResnetGenerator"):
        shared: Any = {
            "name": "generator",
            "norm": norm,
            "width": hyper["ngf"],
            "dropout": "official" if hyper.get("use_dropout") else "none",
            "out": hyper.get("output_nc", 3),
        }
        if kind == "UnetGenerator":
            return UnetGenerator(levels=hyper["num_downs"], **shared)
        padding = hyper.get("padding_type", "reflect")
        return ResnetGenerator(blocks=hyper["n_blocks"], padding=padding, **shared)
    shared = {"name": "discriminator", "norm": norm, "width": hyper["ndf"]}
    if kind == "NLayerDiscriminator":
        return PatchDiscriminator(layers=hyper.get("n_layers", 3), **shared)
    assert kind == "PixelDiscriminator", kind
    return PixelDiscriminator(**shared)


def parse(text: str) -> dict[str, Any]:
    """The arguments in "UnetGenerator num_downs=5 ngf=2 batch norm" and the like."""
    found: dict[str, Any] = {n: int(x) for n, x in re.findall(r"(\w+)=(\d+)", text)}
    if norm := re.search(r"(\w+) norm|norm=(\w+)", text):
        found["norm"] = norm[1] or norm[2]
    if padding := re.search(r"reflect|replicate|zero", text):
        found["padding_type"] = padding[0]
    return found


def infer_network(shapes: Mapping[str, Sequence[int]]) -> Any:
    """The network whose state_dict has these names and shapes.

    Dropout of a U-Net leaves no trace in them.
    """
    weights = {n: s for n, s in shapes.items() if n.endswith(".weight")}
    kernels = {n: s for n, s in weights.items() if len(s) == 4}
    biases = {n for n in kernels if n.replace(".weight", ".bias") in shapes}
    norm = "none"
    if len(weights) > len(kernels):
        norm = "batch"
    elif biases == kernels.keys():
        norm = "instance"
    shared: Any = {"norm": norm, "width": next(iter(kernels.values()))[0]}
    if any(name.startswith("net.") for name in kernels):
        return PixelDiscriminator(**shared)
    if any(name.startswith("model.model.") for name in kernels):
        last: Any = kernels["model.model.3.weight"]
        levels = len(kernels) // 2
        return UnetGenerator(levels=levels, out=last[1], **shared)
    block = [
        int(match[1])
        for name in kernels
        if (match := re.match(r"model\.10\.conv_block\.(\d+)\.", name))
    ]
    if not block:
        return PatchDiscriminator(layers=len(kernels) - 2, **shared)
    first, second = sorted(block)
    blocks = len({name.split(".")[1] for name in kernels if "conv_block" in name})
    return ResnetGenerator(
        blocks=blocks,
        out=kernels[f"model.{17 + blocks}.weight"][0],
        padding="reflect" if first else "zero",
        dropout="official" if second - first - first == 4 else "none",
        **shared,
    )


def arguments(net: Any, x: Any, keep: Sequence[Any]) -> tuple[Any, ...]:
    """The network's inputs: an image, and dropout masks if it is a generator."""
    return (x, list(keep)) if isinstance(net, GENERATORS) else (x,)


def side(net: Any) -> int:
    """A side of images that fit any of the networks."""
    return 2 ** max(net.levels, 5) if isinstance(net, UnetGenerator) else 128


def abstract(net: Any, shape: tuple[int, ...]) -> Any:
    """The shapes of the network's variables for images b h w c."""
    x = jax.ShapeDtypeStruct(shape, jnp.float32)
    return jax.eval_shape(partial(net.init, train=False), KEY, *arguments(net, x, []))


def load(net: Any, params: Mapping[str, np.ndarray], shape: tuple[int, ...]) -> Any:
    """Official tensors as {"params", "stats"} of the network."""
    loaded = from_official(params, abstract(net, shape), table(net))
    return {"stats": {}} | jax.tree.map(jnp.asarray, loaded)


def assert_near(name: str, actual: Any, expected: Any, share: float) -> None:
    """Every element to a share of the expected array's largest."""
    actual, expected = np.asarray(actual, np.float64), np.asarray(expected)
    assert actual.shape == expected.shape, (name, actual.shape, expected.shape)
    error, allowed = np.abs(actual - expected).max(), share * np.abs(expected).max()
    assert error <= allowed, f"{name}: off by {error:.3g}, {allowed:.3g} is allowed"


def wrong_gradients(
    expected: Mapping[str, Any], actual: Mapping[str, Any], norm: str
) -> dict[str, float]:
    """Name -> error, of gradients wrong by over 1e-4 of their array's largest element.

    The gradient of a bias in front of an instance norm is 0 but for rounding: its error
    is relative to the largest element of all arrays.
    """
    wrong = {}
    largest = max((np.abs(x).max() for x in expected.values()), default=0)
    for name, value in expected.items():
        only_rounding = norm == "instance" and name.endswith(".bias")
        size = largest if only_rounding else np.abs(value).max()
        error = np.abs(np.asarray(actual[name]) - value).max()
        if error > 1e-4 * size:
            wrong[name] = float(error / size) if size else float("inf")
    return wrong
