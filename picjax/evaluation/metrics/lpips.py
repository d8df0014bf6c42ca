"""LPIPS: distances of deep features, with the released linear heads (Zhang et al., 2018).

Backbones are torchvision's AlexNet, VGG16 and SqueezeNet 1.1, tapped after their ReLUs.
Version 0.0 does not scale its input (a bug kept for old numbers), 0.1 does. Metrics
specification, section 7.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jaxtyping import Array, Float, Integer, Real

from picjax.evaluation.metrics import convnet
from picjax.evaluation.metrics.convnet import (
    Params,
    Shapes,
    Tensors,
    conv,
    max_pool,
    relu,
)
from picjax.evaluation.metrics.resize import resize

HEADS = Path(__file__).parent / "data" / "lpips_heads.npz"
VERSIONS = ("0.1", "0.0")
ARCHITECTURES = {"alex": "alexnet", "vgg": "vgg16", "squeeze": "squeezenet1_1"}
SMALLEST = {"alex": 31, "vgg": 16, "squeeze": 17}  # pixels a side
SHIFT, SCALE = (-0.030, -0.088, -0.188), (0.458, 0.448, 0.450)

# Index in torchvision's `features`, channels in and out.
VGG = (
    ((0, 3, 64), (2, 64, 64)),
    ((5, 64, 128), (7, 128, 128)),
    ((10, 128, 256), (12, 256, 256), (14, 256, 256)),
    ((17, 256, 512), (19, 512, 512), (21, 512, 512)),
    ((24, 512, 512), (26, 512, 512), (28, 512, 512)),
)
# Index, channels in, of the squeeze and of each half; a tap after every group.
FIRES = (
    ((3, 64, 16, 64), (4, 128, 16, 64)),
    ((6, 128, 32, 128), (7, 256, 32, 128)),
    ((9, 256, 48, 192),),
    ((10, 384, 48, 192),),
    ((11, 384, 64, 256),),
    ((12, 512, 64, 256),),
)
# Index, channels in and out, kernel, stride, padding.
ALEX = (
    (0, 3, 64, 11, 4, 2),
    (3, 64, 192, 5, 1, 2),
    (6, 192, 384, 3, 1, 1),
    (8, 384, 256, 3, 1, 1),
    (10, 256, 256, 3, 1, 1),
)


@struct.dataclass
class Lpips:
    """A measuring network.

    Attributes:
      net: alex, vgg or squeeze.
      version: 0.1 or 0.0.
      params: of the backbone.
      heads: of every tap, the weight [c] of each channel.
    """

    net: str = struct.field(pytree_node=False)
    version: str = struct.field(pytree_node=False)
    params: Params
    heads: list[Float[Array, " _"]]


Taps = list[Float[Array, "b _ _ _"]]


def make(tensors: Tensors, net: str = "alex", version: str = "0.1") -> Lpips:
    """LPIPS from torchvision's state_dict of a backbone and the released heads."""
    used = {name: tensors[name] for name in shapes(net)}
    with np.load(HEADS) as file:
        stem = f"v{version}/{net}/lin"
        heads = [
            jnp.asarray(file[f"{stem}{i}.model.1.weight"].reshape(-1))
            for i in range(sum(name.startswith(stem) for name in file.files))
        ]
    return Lpips(net, version, convnet.fold(used, {}), heads)


def shapes(net: str) -> Shapes:
    """Names and shapes of what is used of torchvision's state_dict."""
    found: dict[str, tuple[int, ...]] = {}
    for name, inputs, outputs, kernel in _layers(net):
        found[f"features.{name}.weight"] = outputs, inputs, kernel, kernel
        found[f"features.{name}.bias"] = (outputs,)
    return found


def _layers(net: str) -> Iterator[tuple[str, int, int, int]]:
    """Name, channels in and out, kernel."""
    if net == "alex":
        yield from ((str(i), a, b, kernel) for i, a, b, kernel, *_ in ALEX)
    elif net == "vgg":
        yield from ((str(i), a, b, 3) for block in VGG for i, a, b in block)
    else:
        yield "0", 3, 64, 3
        for i, inputs, squeeze, expand in (fire for group in FIRES for fire in group):
            yield f"{i}.squeeze", inputs, squeeze, 1
            yield f"{i}.expand1x1", squeeze, expand, 1
            yield f"{i}.expand3x3", squeeze, expand, 3


def backbone(params: Params, x: Float[Array, "b h w 3"], net: str) -> Taps:
    """Activations after the ReLUs at the taps of `net`; `x` as version 0.1 scales it."""
    return {"alex": _alex, "vgg": vgg, "squeeze": _squeeze}[net](params, x)


def _alex(params: Params, x: Array) -> Taps:
    taps = []
    for i, _, _, _, stride, padding in ALEX:
        if i in (3, 6):
            x = max_pool(x)
        x = relu(conv(x, params[f"features.{i}"], stride, (padding, padding)))
        taps.append(x)
    return taps


def vgg(params: Params, x: Float[Array, "b h w 3"]) -> Taps:
    """The end of each of VGG16's five blocks, before its pool."""
    taps = []
    for block in VGG:
        if taps:
            x = max_pool(x, 2)
        for i, *_ in block:
            x = relu(conv(x, params[f"features.{i}"], 1, (1, 1)))
        taps.append(x)
    return taps


def _squeeze(params: Params, x: Array) -> Taps:
    x = relu(conv(x, params["features.0"], 2))
    taps = [x]
    for group in FIRES:
        if len(taps) <= 3:
            x = max_pool(x, ceil=True)
        for i, *_ in group:
            name = f"features.{i}"
            x = relu(conv(x, params[f"{name}.squeeze"]))
            one = relu(conv(x, params[f"{name}.expand1x1"]))
            three = relu(conv(x, params[f"{name}.expand3x3"], 1, (1, 1)))
            x = jnp.concatenate([one, three], -1)
        taps.append(x)
    return taps


def embed(model: Lpips, images: Float[Array, "b h w 3"]) -> Taps:
    """Every tap divided by its norm over channels.

    Args:
      model: from `make`.
      images: [-1, 1]; values of 0..1 or 0..255 give other numbers, not an error.
    """

    def network(x: Array) -> Taps:
        if model.version == "0.1":
            shift, scale = (jnp.array(v).reshape(1, 1, 1, 3) for v in (SHIFT, SCALE))
            x = (x - shift) / scale
        taps = backbone(model.params, x, model.net)
        norms = (jnp.sqrt(jnp.square(f).sum(-1, keepdims=True)) for f in taps)
        return [f / (norm + 1e-10) for f, norm in zip(taps, norms, strict=True)]

    return convnet.by_image(network, images)


def compare(model: Lpips, a: Taps, b: Taps) -> list[Float[Array, "b y x"]]:
    """The weighted squared difference of every tap at every position."""
    return [
        jnp.einsum("bhwc,c->bhw", jnp.square(x - y), head, precision=convnet.HIGHEST)
        for x, y, head in zip(a, b, model.heads, strict=True)
    ]


def by_layer(
    model: Lpips, a: Float[Array, "b h w 3"], b: Float[Array, "b h w 3"]
) -> Float[Array, "layers b"]:
    """The part of every tap; images in [-1, 1]."""
    maps = compare(model, embed(model, a), embed(model, b))
    return jnp.stack([m.mean((1, 2)) for m in maps])


def distance(
    model: Lpips, a: Float[Array, "b h w 3"], b: Float[Array, "b h w 3"]
) -> Float[Array, " b"]:
    """LPIPS of each pair of images in [-1, 1]: 0 when equal, symmetric."""
    return by_layer(model, a, b).sum(0)


def spread(
    maps: Sequence[Float[Array, "b _ _"]], size: tuple[int, int]
) -> Float[Array, "b y x"]:
    """The sum of the maps of `compare`, each resized to the image (torch's bilinear)."""
    whole = [resize(m[..., None], size, "torch_bilinear")[..., 0] for m in maps]
    return jnp.stack(whole).sum(0)


def spatial(
    model: Lpips, a: Float[Array, "b h w 3"], b: Float[Array, "b h w 3"]
) -> Float[Array, "b h w"]:
    """LPIPS at every pixel."""
    maps = compare(model, embed(model, a), embed(model, b))
    return spread(maps, (a.shape[1], a.shape[2]))


def to_float(images: Real[Array, "*b h w 3"]) -> Float[Array, "*b h w 3"]:
    """0..255 grey levels to [-1, 1]."""
    return images.astype(jnp.float32) / 127.5 - 1


# ---- diversity: the distance between completions of one image ----


def consecutive(n: int) -> Integer[np.ndarray, "p 2"]:
    """The n - 1 neighbours (BicycleGAN)."""
    return np.stack([np.arange(n - 1), np.arange(1, n)], 1)


def all_pairs(n: int) -> Integer[np.ndarray, "p 2"]:
    """All n (n - 1) / 2."""
    return np.stack(np.triu_indices(n, 1), 1)


def random_pairs(
    n: int, count: int, rng: np.random.Generator
) -> Integer[np.ndarray, "p 2"]:
    """`count` pairs of two different samples, drawn with replacement (PICNet)."""
    first = rng.integers(0, n, count)
    return np.stack([first, (first + rng.integers(1, n, count)) % n], 1)


def pair_distances(
    model: Lpips,
    taps: Taps,
    pairs: Integer[Array, "p 2"],
    hole: Float[Array, "h w"],
) -> Float[Array, "2 p"]:
    """LPIPS of pairs of samples: (whole image, mean of the map over the hole).

    Args:
      model: from `make`.
      taps: of `embed`, so every sample passes the backbone once, however many pairs it
        is in.
      pairs: indices of samples.
      hole: 1 = hole; the second row is NaN where there is none.
    """

    def one(pair: Array) -> Array:
        a, b = ([tap[pair[i]][None] for tap in taps] for i in (0, 1))
        maps = compare(model, a, b)
        whole = jnp.stack([m.mean() for m in maps]).sum()
        return jnp.stack([whole, hole_mean(maps, hole[None])[0]])

    return jax.lax.map(one, pairs).T


def hole_mean(
    maps: Sequence[Float[Array, "b _ _"]], hole: Float[Array, "#b h w"]
) -> Float[Array, " b"]:
    """The mean over the hole (1 = hole) of the maps of `compare`, resized and summed."""
    whole = spread(maps, (hole.shape[1], hole.shape[2]))
    return (whole * hole).sum((1, 2)) / hole.sum((1, 2))


def box(mask: Real[np.ndarray, "h w 1"]) -> tuple[slice, slice] | None:
    """Rows and columns of the hole where it is one whole rectangle (1 = known)."""
    hole = mask[..., 0] < 0.5
    rows, columns = np.flatnonzero(hole.any(1)), np.flatnonzero(hole.any(0))
    if not len(rows):
        return None
    found = slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)
    return found if hole[found].all() else None
