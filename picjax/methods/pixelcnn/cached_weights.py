"""The network's weights in the shapes that cached sampling needs."""

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float

from picjax.methods.pixelcnn.layers import effective
from picjax.methods.pixelcnn.net import PixelCNN
from picjax.system import Tree


class Weights(NamedTuple):
    """Kernels and biases by path, such as `up0_0_ul/conv_a`.

    Attributes:
      kernel: of every layer.
      bias: [1 1 1 c], or [n 1 1 c] where it includes the condition.
      pixel: of ul's layers, [c d]: the tap at a pixel and the one that the pixel to its
        right uses, side by side; of `nin`, the part for the skip.
      nin_u: of ul's `nin`, the part for u.
    """

    kernel: dict[str, Array]
    bias: dict[str, Array]
    pixel: dict[str, Array]
    nin_u: dict[str, Array]


def prepare(
    net: PixelCNN, params: Tree, condition: Float[Array, "b k"] | None, n: int
) -> Weights:
    """Fold gains and conditions into kernels and biases, and split the kernels of ul.

    Args:
      net: the network.
      params: its parameters.
      condition: that of each image, if the network is conditional.
      n: samples per image, which share its condition.
    """
    weights = Weights({}, {}, {}, {})
    for name, module in params.items():
        layers = {name: module} if "V" in module else module
        for part, layer in layers.items():
            if part == "hw":
                continue
            path = name if part == name else f"{name}/{part}"
            axis = -2 if name.startswith("grow") else -1
            kernel = effective(layer["V"], layer["g"], axis).astype(net.dtype)
            weights.kernel[path] = kernel
            weights.bias[path] = layer["b"].astype(net.dtype)[None, None, None]
            if name.endswith("_ul"):
                _split(weights, path, net.features)
        if condition is not None and "hw" in module:
            shift = jnp.repeat(condition @ module["hw"], n, 0)[:, None, None]
            path = f"{name}/conv_b"
            weights.bias[path] = weights.bias[path] + shift.astype(net.dtype)
    return weights


def _split(weights: Weights, path: str, features: int) -> None:
    """Add the parts of one of ul's kernels that pixels need."""
    kernel = weights.kernel[path]
    if path.endswith("nin"):
        out = kernel.shape[-1]
        if path.startswith("up"):
            weights.nin_u[path] = kernel
            return
        # Rows: u, skip and, with concat_elu, -u, -skip.
        parts = kernel.reshape(-1, 2, features, out)
        weights.nin_u[path] = parts[:, 0].reshape(-1, out)
        weights.pixel[path] = parts[:, 1].reshape(-1, out)
    elif path.startswith("grow"):
        taps = kernel[0].transpose(0, 2, 1)
        weights.pixel[path] = jnp.concatenate([taps[0], taps[1]], -1)
    else:
        weights.pixel[path] = jnp.concatenate([kernel[1, 1], kernel[1, 0]], -1)
