"""PixelCNN++'s official names: OpenAI's TensorFlow variables, and a PyTorch port's.

TensorFlow counts its layers by kind in the order of their creation, so the table depends
on the number of blocks (specification, section 14). `/` in its names is `.` here.
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
from picjax.methods.pixelcnn.layers import effective
from picjax.methods.pixelcnn.net import LEVELS, down_blocks
from picjax.official import files, tf_files
from picjax.official.mapping import Leaf, Site, Table
from picjax.system import Config

FILES = {"params": "net"}  # what is in a file: the one network
PREFIX = "model."
AVERAGE = "/ExponentialMovingAverage"  # what the name of an averaged variable ends with
LAYER = {f"params/{name}": Leaf(f".{name}") for name in ("V", "g", "b")}
CONDITION = {"params/hw": Leaf(".hw")}


def tables(config: Config) -> dict[str, Table]:
    """Net -> its table, for a config of PixelCNN++."""
    return {"net": table(config.model.blocks)}


def table(blocks: int, prefix: str = PREFIX) -> Table:
    """The sites of a network with `blocks` gated blocks a level, in creation order."""
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
    """TensorFlow's names with `.` for `/`, as `official.mapping` has them."""
    return {name.replace("/", "."): x for name, x in tensors.items()}


def read(path: Path, blocks: int) -> dict[str, Any]:
    """The weights of a network from a checkpoint, an .npz or the port's .pth.

    Averaged variables if there are any. The optimiser's, of which some have no names,
    are left out.

    Raises:
      UserError: when the file cannot be read or holds something else.
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
    """A network's variables -> the names to read: all averaged, or none is."""
    begin = PREFIX.replace(".", "/")
    own = [name for name in names if name.startswith(begin)]
    means = {n.removesuffix(AVERAGE): n for n in own if n.endswith(AVERAGE)}
    return means or {name: name for name in own}


# ---- the PyTorch port (pclucas14/pixel-cnn-pp) ----


def from_port(tensors: Mapping[str, Any], blocks: int) -> dict[str, Array]:
    """A state_dict of the port under the official names, layouts and norms.

    Its transposed convolutions are normalised for each input channel; theirs become
    the direction and its norm the gain, which is the same kernel (section 15).
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


def _port_path(layer: str) -> str:
    """Our path of a layer of the port."""
    fixed = {
        "u_init.conv": "stem_u",
        "ul_init.0.conv": "stem_above",
        "ul_init.1.conv": "stem_left",
        "nin_out.lin_a": "head",
    }
    if layer in fixed:
        return fixed[layer]
    parts = {"conv_input": "conv_a", "nin_skip": "nin", "conv_out": "conv_b"}
    block = re.fullmatch(
        r"(up|down)_layers\.(\d)\.(ul?)_stream\.(\d+)\.(\w+)\..*", layer
    )
    if block:
        way, level, stream, i, part = block.groups()
        if way == "down":
            level = LEVELS - 1 - int(level)
        return f"{way}{level}_{i}_{stream}/{parts[part]}"
    resize = re.fullmatch(r"(down|up)size_(ul?)_stream\.(\d)\.\w+", layer)
    if not resize:
        raise KeyError(f"{layer} is no layer of the port")
    way, stream, level = resize.groups()
    if way == "down":
        return f"shrink{level}_{stream}"
    return f"grow{LEVELS - 1 - int(level)}_{stream}"
