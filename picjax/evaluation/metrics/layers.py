"""Layers of the measuring networks: forward only, float32, PyTorch's numerics.

A layer has its name in the original (`features.0`), so that a network states the names
and shapes of the released file (`shapes`), whose tensors `fold` turns into parameters.
"""

import functools
import re
from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
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


Params = Mapping[str, Mapping[str, Array]]  # layer -> kernel, and bias or norm
Pool = Callable[[Array], Array]
NORM = ("weight", "bias", "running_mean", "running_var")


class Conv(nn.Module):
    """A convolution with its bias; a batch norm after it is folded into both.

    Attributes:
      features: output channels.
      kernel: rows and columns.
      stride: of both axes.
      padding: zeros around rows and columns.
      bias: `bias`, or `norm` if it comes from a batch norm; None if there is none.
    """

    features: int
    kernel: tuple[int, int] = (1, 1)
    stride: int = 1
    padding: tuple[int, int] = (0, 0)
    bias: str | None = "bias"

    @nn.compact
    def __call__(
        self, x: Float[Array, "b h w c"], pool: Pool | None = None
    ) -> Float[Array, "b y x d"]:
        """The convolution; `pool` is applied before its bias is added."""
        init, shape = nn.initializers.zeros, (*self.kernel, x.shape[-1], self.features)
        y = convolve(x, self.param("kernel", init, shape), self.stride, self.padding)
        if pool is not None:
            y = pool(y)
        if self.bias is None:
            return y
        return y + self.param(self.bias, init, (self.features,)).reshape(1, 1, 1, -1)


def shapes(network: nn.Module, side: int) -> Shapes:
    """Names and shapes of a network's released state_dict, in PyTorch's layout.

    Args:
      network: of `Conv` and `nn.Dense`.
      side: pixels of an input that it takes.
    """
    image = jax.ShapeDtypeStruct((1, side, side, 3), jnp.float32)
    params: Any = jax.eval_shape(network.init, jax.random.key(0), image)["params"]
    table: dict[str, tuple[int, ...]] = {}
    for layer, weights in params.items():
        *kernel, inputs, outputs = weights["kernel"].shape
        table[f"{layer}.weight"] = (outputs, inputs, *kernel)
        if "bias" in weights:
            table[f"{layer}.bias"] = (outputs,)
        if "norm" in weights:
            table |= {f"{norm_name(layer)}.{kind}": (outputs,) for kind in NORM}
    return table


def apply(network: nn.Module, params: Params, x: Float[Array, "b h w 3"]) -> Any:
    """The network's output with parameters from `fold`."""
    return network.apply({"params": params}, x)


def norm_name(layer: str) -> str:
    """The batch norm after a convolution as torchvision names both: `conv1`, `bn1`."""
    layer = re.sub(r"\bconv(\d?)$", r"bn\1", layer)
    return re.sub(r"\bdownsample\.0$", "downsample.1", layer)


def fold(tensors: Tensors, eps: float = 1e-5) -> Params:
    """Parameters of a state_dict, every batch norm folded into its convolution.

    Args:
      tensors: name -> array in PyTorch's layout.
      eps: of the batch norms.
    """
    params = {}
    for name, tensor in tensors.items():
        layer, _, kind = name.rpartition(".")
        if kind != "weight" or tensor.ndim < 2:  # those of a norm have one axis
            continue
        kernel, norm = np.asarray(tensor, np.float64), norm_name(layer)
        weights = {}
        if f"{norm}.running_mean" in tensors:
            weight, shift, mean, variance = (
                np.asarray(tensors[f"{norm}.{x}"], np.float64) for x in NORM
            )
            scale = weight / np.sqrt(variance + eps)
            kernel = kernel * scale.reshape(-1, *[1] * (kernel.ndim - 1))
            weights["norm"] = shift - mean * scale
        elif f"{layer}.bias" in tensors:
            weights["bias"] = tensors[f"{layer}.bias"]
        axes = (2, 3, 1, 0) if kernel.ndim == 4 else (1, 0)
        weights["kernel"] = kernel.transpose(axes)
        params[layer] = {k: jnp.asarray(x, jnp.float32) for k, x in weights.items()}
    return params


def convolve(
    x: Float[Array, "b h w c"],
    kernel: Float[Array, "i j c d"],
    stride: int = 1,
    padding: tuple[int, int] = (0, 0),
) -> Float[Array, "b y x d"]:
    """A convolution; `padding` is (rows, columns)."""
    if kernel.shape[:2] == (1, 1) and stride == 1:
        return jnp.dot(x, kernel[0, 0], precision=HIGHEST)
    if _winograd_is_faster(x, kernel, stride):
        return winograd(x, kernel, padding)
    return lax.conv_general_dilated(
        x,
        kernel,
        (stride, stride),
        [(n, n) for n in padding],
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        precision=HIGHEST,
    )


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
