"""Layers of the measuring networks: forward only, float32, PyTorch's numerics.

Parameters are a flat dict from a layer's name in the original (`Mixed_5b.branch1x1`) to
its `Weights`; `fold` builds it from the tensors of the released file.
"""

import functools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Float

Shapes = Mapping[str, tuple[int, ...]]  # of a PyTorch state_dict
Tensors = Mapping[str, np.ndarray]
HIGHEST = lax.Precision.HIGHEST


class Weights(NamedTuple):
    """Weights of one layer.

    Attributes:
      kernel: [kh kw in out] of a convolution, [in out] of a linear layer.
      bias: [out].
    """

    kernel: Any
    bias: Any


Params = Mapping[str, Weights]


def fold(tensors: Tensors, norms: Mapping[str, str], eps: float = 1e-5) -> Params:
    """Parameters of a state_dict, every batch norm folded into its convolution.

    Args:
      tensors: name -> array in PyTorch's layout.
      norms: name of a convolution -> name of the batch norm that follows it.
      eps: of the batch norms.
    """
    params = {}
    norm_names = set(norms.values())
    for name, tensor in tensors.items():
        layer, _, kind = name.rpartition(".")
        if kind != "weight" or layer in norm_names:
            continue
        kernel = np.asarray(tensor, np.float64)
        bias = tensors.get(f"{layer}.bias", np.zeros(len(kernel)))
        if layer in norms:
            weight, shift, mean, variance = (
                np.asarray(tensors[f"{norms[layer]}.{x}"], np.float64)
                for x in ("weight", "bias", "running_mean", "running_var")
            )
            scale = weight / np.sqrt(variance + eps)
            kernel = kernel * scale.reshape(-1, *[1] * (kernel.ndim - 1))
            bias = shift + (bias - mean) * scale
        axes = (2, 3, 1, 0) if kernel.ndim == 4 else (1, 0)
        params[layer] = Weights(
            jnp.asarray(kernel.transpose(axes), jnp.float32),
            jnp.asarray(bias, jnp.float32),
        )
    return params


def conv(
    x: Float[Array, "b h w c"],
    weights: Weights,
    stride: int = 1,
    padding: tuple[int, int] = (0, 0),
) -> Float[Array, "b y x d"]:
    """A convolution with its bias; `padding` is (rows, columns)."""
    kernel, bias = weights
    if kernel.shape[:2] == (1, 1) and stride == 1:
        y = jnp.dot(x, kernel[0, 0], precision=HIGHEST)
    elif _winograd_is_faster(x, kernel, stride):
        y = winograd(x, kernel, padding)
    else:
        y = lax.conv_general_dilated(
            x,
            kernel,
            (stride, stride),
            [(n, n) for n in padding],
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
            precision=HIGHEST,
        )
    return y + bias.reshape(1, 1, 1, -1)


def _winograd_is_faster(x: Array, kernel: Array, stride: int) -> bool:
    """Whether Winograd's form takes less time: for wide convolutions on a CPU."""
    inputs, outputs = kernel.shape[2:]
    wide = inputs >= 32 and inputs >= min(outputs, 64) and min(x.shape[1:3]) >= 32
    shape = kernel.shape[:2] == (3, 3) and stride == 1
    return shape and wide and jax.default_backend() == "cpu"


# Maps the three taps of a kernel's row to the four factors of its products.
_G = np.array([[1, 0, 0], [0.5, 0.5, 0.5], [0.5, -0.5, 0.5], [0, 0, 1]], np.float32)


def winograd(
    x: Float[Array, "b h w c"],
    kernel: Float[Array, "3 3 c d"],
    padding: tuple[int, int],
) -> Float[Array, "b y x d"]:
    """A 3 x 3 convolution with 16 instead of 36 products per 2 x 2 outputs.

    Winograd's F(2 x 2, 3 x 3) (Lavin and Gray, 2016), exact up to rounding; for CPUs
    (`python -m bench.metrics` compares).
    """
    size = [n + 2 * p - 2 for n, p in zip(x.shape[1:3], padding, strict=True)]
    tiles = [-(-n // 2) for n in size]
    ends = [
        (p, 2 * t + 2 - n - p)
        for n, p, t in zip(x.shape[1:3], padding, tiles, strict=True)
    ]
    x = jnp.pad(x, [(0, 0), *ends, (0, 0)])

    def transform(x: Array, axis: int, count: int) -> list[Array]:
        last = 2 * count - 1
        a, b, c, d = (lax.slice_in_dim(x, i, i + last, 2, axis) for i in range(4))
        return [a - c, b + c, c - b, b - d]

    parts = [
        part
        for rows in transform(x, 1, tiles[0])
        for part in transform(rows, 2, tiles[1])
    ]
    inputs, outputs = kernel.shape[2:]
    sums = jnp.stack(parts).reshape(16, -1, inputs)
    taps = jnp.einsum("ai,bj,ijcd->abcd", _G, _G, kernel, precision=HIGHEST)
    products = jnp.einsum(
        "tnc,tcd->tnd", sums, taps.reshape(16, inputs, outputs), precision=HIGHEST
    ).reshape(4, 4, len(x), *tiles, outputs)

    def untransform(m: Any) -> tuple[Array, Array]:
        return m[0] + m[1] + m[2], m[1] - m[2] - m[3]

    rows = [jnp.stack(untransform(m), 3) for m in untransform(products)]
    y = jnp.stack(rows, 2).reshape(len(x), 2 * tiles[0], 2 * tiles[1], outputs)
    return y[:, : size[0], : size[1]]


def linear(x: Float[Array, "b c"], weights: Weights) -> Float[Array, "b d"]:
    """x W + b."""
    y = jnp.dot(x, weights.kernel, precision=HIGHEST)
    return y + weights.bias.reshape(1, -1)


def max_pool(
    x: Float[Array, "b h w c"],
    window: int = 3,
    stride: int = 2,
    padding: int = 0,
    ceil: bool = False,
) -> Float[Array, "b y x c"]:
    """Maximum of each window; with `ceil`, a last incomplete window counts too."""
    ends = [(padding, padding)] * 2
    if ceil:
        ends = [(padding, -(n + 2 * padding - window) % stride) for n in x.shape[1:3]]
    x = jnp.pad(x, [(0, 0), *ends, (0, 0)], constant_values=-np.inf)
    for axis in (1, 2):
        x = functools.reduce(jnp.maximum, _windows(x, window, stride, axis))
    return x


def mean_pool(
    x: Float[Array, "b h w c"], window: int, stride: int, padding: int = 0
) -> Float[Array, "b y x c"]:
    """Mean of each window, zeros of the padding included."""
    x = jnp.pad(x, [(0, 0), (padding, padding), (padding, padding), (0, 0)])
    for axis in (1, 2):
        x = functools.reduce(jnp.add, _windows(x, window, stride, axis))
    return x / window**2


def _windows(x: Array, window: int, stride: int, axis: int) -> list[Array]:
    """The i-th element of every window along an axis, for each i.

    XLA's CPU back end reduces windows five times slower than it combines slices.
    """
    count = (x.shape[axis] - window) // stride + 1
    last = stride * (count - 1) + 1
    return [lax.slice_in_dim(x, i, i + last, stride, axis) for i in range(window)]


def smooth(x: Float[Array, "b h w c"], count_padding: bool) -> Float[Array, "b h w c"]:
    """3 x 3 means at stride 1; at the edge over 9 values or over the existing ones."""
    y = mean_pool(x, 3, 1, 1)
    if count_padding:
        return y
    rows, columns = (
        (1 + np.minimum(np.arange(n), 1) + np.minimum(np.arange(n)[::-1], 1)) / 3
        for n in x.shape[1:3]
    )
    share = rows[:, None] * columns
    return y / share.astype(np.float32)[None, :, :, None]


def by_image(network: Callable[[Array], Any], images: Float[Array, "b h w c"]) -> Any:
    """`network(images)`; on a CPU one image at a time.

    The activations then stay in its cache: Inception becomes a quarter faster, wide
    layers twice as fast. Accelerators take the whole batch.
    """
    if jax.default_backend() != "cpu":
        return network(images)
    each = lax.map(lambda image: network(image[None]), images)
    return jax.tree.map(lambda x: x[:, 0], each)


def mesh() -> jax.sharding.Mesh:
    """This process's devices in a row; each process measures all of its own images."""
    devices = jax.local_devices()
    return jax.make_mesh((len(devices),), ("rows",), (AxisType.Auto,), devices=devices)


def everywhere(tree: Any) -> Any:
    """A copy of every array on each of this process's devices."""
    return jax.device_put(tree, NamedSharding(mesh(), P()))


def on_all_devices(network: Callable[[Any, Any], Any]) -> Callable[[Any, Any], Any]:
    """`network(shared, rows)`, compiled, its rows split over this process's devices.

    XLA runs most of a convolution on one CPU core, so a CPU gains from being several
    devices (JAX_NUM_CPU_DEVICES=2).

    Args:
      network: function of what all devices need and of arrays whose first axis is
        split. Rows are a multiple of `jax.local_device_count()`, in the output too.
    """
    split = P("rows")
    return jax.jit(
        jax.shard_map(network, mesh=mesh(), in_specs=(P(), split), out_specs=split)
    )


def fill_up(rows: np.ndarray, multiple: int) -> np.ndarray:
    """The rows, padded with copies of the last to a multiple."""
    return np.pad(
        rows, [(0, -len(rows) % multiple)] + [(0, 0)] * (rows.ndim - 1), "edge"
    )


def random_tensors(shapes: Shapes, seed: int = 0) -> dict[str, np.ndarray]:
    """An untrained state_dict: He's initialisation, batch norms that do nothing.

    For tests and rehearsals: numbers measured with it mean nothing.
    """
    rng = np.random.default_rng(seed)

    def draw(name: str, shape: tuple[int, ...]) -> np.ndarray:
        if len(shape) > 1:
            x = rng.normal(size=shape) * np.sqrt(2 / np.prod(shape[1:]))
        else:
            ones = name.endswith(("running_var", "weight"))
            x = np.full(shape, float(ones))
        return x.astype(np.float32)

    return {name: draw(name, shape) for name, shape in shapes.items()}


relu = jax.nn.relu
