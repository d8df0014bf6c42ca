"""PixelCNN++'s parameters in OpenAI's TensorFlow checkpoints and in a PyTorch port's.

TensorFlow numbers layers of one kind in the order of their creation, so the table
depends on the number of blocks. `/` in its names is `.` here.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from itertools import count
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from picjax.cli import UserError
from picjax.methods.pixelcnn import tf_files
from picjax.methods.pixelcnn.layers import effective
from picjax.methods.pixelcnn.net import LEVELS, down_blocks
from picjax.official import files
from picjax.official.mapping import Leaf, Shapes, Site, Table, check_original
from picjax.system import Config

FILES = {"params": "net"}  # suffix of a file -> its network: there is one
PREFIX = "model."
AVERAGE = "/ExponentialMovingAverage"  # suffix of an averaged variable's name
LAYER = {f"params/{name}": Leaf(f".{name}") for name in ("V", "g", "b")}
CONDITION = {"params/hw": Leaf(".hw")}


def tables(config: Config) -> dict[str, Table]:
    """Network -> its table, for a config of PixelCNN++."""
    return {"net": table(config.model.blocks)}


def settings_of(shapes: Mapping[str, Shapes]) -> dict[str, Any]:
    """The settings that names and shapes of the file determine, by dotted key."""
    named = shapes.get("net", {})
    layers = sum(bool(re.fullmatch(r"model\.conv2d_\d+\.V", name)) for name in named)
    settings: dict[str, Any] = {}
    if layers >= 39 and (layers - 15) % 24 == 0:  # 3 stems, 4 resized, 2 a gated block
        settings["model.blocks"] = (layers - 15) // 24
    if first := named.get("model.conv2d_0.V"):
        settings["model.features"] = first[-1]
    return settings


def table(blocks: int, prefix: str = PREFIX) -> Table:
    """The sites of a network with `blocks` gated blocks per level, as created."""
    counters = {kind: count() for kind in ("conv2d", "dense", "deconv2d", "cond")}

    def site(kind: str, path: str) -> Site:
        return Site(path, (f"{prefix}{kind}_{next(counters[kind])}",), LAYER)

    def gated(block: str, has_nin: bool) -> Iterator[Site]:
        yield site("conv2d", f"{block}/conv_a")
        if has_nin:
            yield site("dense", f"{block}/nin")
        yield site("conv2d", f"{block}/conv_b")
        name = f"{prefix}conditional_weights_{next(counters['cond'])}"
        yield Site(block, (name,), CONDITION)

    def sites() -> Iterator[Site]:
        for stem in ("stem_u", "stem_above", "stem_left"):
            yield site("conv2d", stem)
        for level in range(LEVELS):
            for i in range(blocks):
                yield from gated(f"up{level}_{i}_u", False)
                yield from gated(f"up{level}_{i}_ul", True)
            if level < LEVELS - 1:
                yield site("conv2d", f"shrink{level}_u")
                yield site("conv2d", f"shrink{level}_ul")
        for level in reversed(range(LEVELS)):
            for i in range(down_blocks(blocks, level)):
                yield from gated(f"down{level}_{i}_u", True)
                yield from gated(f"down{level}_{i}_ul", True)
            if level:
                yield site("deconv2d", f"grow{level}_u")
                yield site("deconv2d", f"grow{level}_ul")
        yield site("dense", "head")

    return tuple(sites())


def dotted(tensors: Mapping[str, Any]) -> dict[str, Any]:
    """TensorFlow's names with `.` for `/`, as in `official.mapping`."""
    return {name.replace("/", "."): x for name, x in tensors.items()}


def read_files(
    config: Config, sources: Sequence[str]
) -> tuple[dict[str, Path], dict[str, Any]]:
    """Network -> its file, and network -> official name -> array.

    Raises:
      UserError: if a file is missing, ambiguous or unreadable.
    """
    path = tf_files.find(sources)
    return {"net": path}, {"net": read(path, config.model.blocks)}


def read(path: Path, blocks: int) -> dict[str, Any]:
    """Read a network's weights from a checkpoint, an .npz or the port's .pth.

    Averaged variables are preferred. Those of the optimiser, some of which have no
    names, are ignored.

    Raises:
      UserError: if the file is unreadable or holds something else.
    """
    if path.suffix in (".pth", ".pt"):
        tensors = files.read(path)
        try:
            return from_port(tensors, blocks)
        except KeyError as error:
            raise UserError(
                f"'{path}' is no state_dict of the PyTorch port with "
                f"config.model.blocks={blocks} ({error}); check that they belong together"
            ) from error
    checkpoint = tf_files.open_checkpoint(path)
    names = averaged(checkpoint.names)
    if not names:
        raise UserError(
            f"'{path}' holds no variable whose name begins with model/ (but "
            f"{', '.join(list(checkpoint.names)[:5])}); give PixelCNN++'s checkpoint"
        )
    tensors = {ours: checkpoint.get(name) for ours, name in names.items()}
    for name, x in tensors.items():
        if not np.isfinite(x).all():
            raise UserError(f"'{path}': {name} is not finite; give a sound file")
    return dotted(tensors)


def averaged(names: Sequence[str]) -> dict[str, str]:
    """Variable -> the name to read it by: the averaged one, if any variable has one."""
    prefix = PREFIX.replace(".", "/")
    own = [name for name in names if name.startswith(prefix)]
    means = {n.removesuffix(AVERAGE): n for n in own if n.endswith(AVERAGE)}
    return means or {name: name for name in own}


# ---- the PyTorch port (pclucas14/pixel-cnn-pp) ----


def from_port(tensors: Mapping[str, Any], blocks: int) -> dict[str, Array]:
    """Convert a state_dict of the port to official names, layouts and norms.

    The port normalises its transposed convolutions per input channel: their kernels
    become directions, and the norms of these the gains, which gives the same kernel.
    Differentiable.
    """
    layers: dict[str, dict[str, Array]] = {}
    for name, x in tensors.items():
        layer, _, kind = name.removeprefix("module.").rpartition(".")
        layers.setdefault(layer, {})[kind] = jnp.asarray(x)
    names = {site.path: site.names[0] for site in table(blocks)}
    found: dict[str, Array] = {}
    for layer, tensor in layers.items():
        v, g, b = tensor["weight_v"], tensor["weight_g"].reshape(-1), tensor["bias"]
        if layer.endswith("deconv"):
            kernel = effective(v.transpose(2, 3, 1, 0), g, -1)
            v, g = kernel, jnp.sqrt(jnp.square(kernel).sum((0, 1, 3)))
        else:
            v = v.transpose(2, 3, 1, 0) if v.ndim == 4 else v.T
        official = names[_port_path(layer)]
        found |= {f"{official}.V": v, f"{official}.g": g, f"{official}.b": b}
    return found


def to_port(tensors: Mapping[str, Any], config: Config) -> dict[str, Any]:
    """Convert official tensors to a state_dict of the port: the way back.

    Raises:
      UserError: if the port does not have the config's network.
    """
    ours = {"turns": ("upright",), "nonlinearity": "concat_elu", "channels": 3}
    check_original(config, {f"model.{key}": value for key, value in ours.items()})
    if any(name.endswith(".hw") for name in tensors):
        raise UserError(
            "the network is conditioned on classes, which the PyTorch port does not "
            "know; only a run without classes can be converted"
        )
    found = {}
    for site in table(config.model.blocks):
        if site.leaves is CONDITION:
            continue
        v, g, b = (np.asarray(tensors[f"{site.names[0]}.{x}"]) for x in "Vgb")
        layer = _port_layer(site.path)
        if layer.endswith("deconv"):
            v = np.asarray(effective(jnp.asarray(v), jnp.asarray(g), -2))
            g = np.sqrt(np.square(v).sum((0, 1, 2)))
        v = v.transpose(3, 2, 0, 1) if v.ndim == 4 else v.T
        gain = g.reshape(-1, *[1] * (v.ndim - 1))
        named = {"bias": b, "weight_g": gain, "weight_v": v}
        found |= {f"{layer}.{x}": np.ascontiguousarray(y) for x, y in named.items()}
    return found


FIXED = {
    "u_init.conv": "stem_u",
    "ul_init.0.conv": "stem_above",
    "ul_init.1.conv": "stem_left",
    "nin_out.lin_a": "head",
}
PARTS = {"conv_input": "conv_a", "nin_skip": "nin", "conv_out": "conv_b"}


def _port_layer(path: str) -> str:
    """The port's name of a layer here: the inverse of `_port_path`."""
    for layer, fixed in FIXED.items():
        if path == fixed:
            return layer
    parts = {ours: theirs for theirs, ours in PARTS.items()}
    if block := re.fullmatch(r"(up|down)(\d)_(\d+)_(ul?)/(\w+)", path):
        way, level, i, stream, part = block.groups()
        level = int(level) if way == "up" else LEVELS - 1 - int(level)
        layer = f"{way}_layers.{level}.{stream}_stream.{i}.{parts[part]}"
        return f"{layer}.{'lin_a' if part == 'nin' else 'conv'}"
    way, level, stream = re.fullmatch(r"(shrink|grow)(\d)_(ul?)", path).groups()  # pyright: ignore
    if way == "shrink":
        return f"downsize_{stream}_stream.{level}.conv"
    return f"upsize_{stream}_stream.{LEVELS - 1 - int(level)}.deconv"


def _port_path(layer: str) -> str:
    """The path here of a layer of the port."""
    if layer in FIXED:
        return FIXED[layer]
    block = re.fullmatch(
        r"(up|down)_layers\.(\d)\.(ul?)_stream\.(\d+)\.(\w+)\..*", layer
    )
    if block:
        way, level, stream, i, part = block.groups()
        if way == "down":
            level = LEVELS - 1 - int(level)
        return f"{way}{level}_{i}_{stream}/{PARTS[part]}"
    resize = re.fullmatch(r"(down|up)size_(ul?)_stream\.(\d)\.\w+", layer)
    if not resize:
        raise KeyError(f"{layer} is no layer of the port")
    way, stream, level = resize.groups()
    if way == "down":
        return f"shrink{level}_{stream}"
    return f"grow{LEVELS - 1 - int(level)}_{stream}"
