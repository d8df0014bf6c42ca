"""PICNet's residual blocks (Zheng et al., 2019, arXiv 1903.04227).

`power_iterations` is how many power iterations spectral norm makes in this call; 0
leaves its vectors unchanged.
"""

from functools import partial
from typing import Any, Literal

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from picjax.layers.conv import Conv, ConvTranspose, UpsampleConv, average_pool
from picjax.layers.norm import NORMS

UPSAMPLE = {"transposed": ConvTranspose, "nearest": UpsampleConv}


def _normalise(kind: str | None, name: str, x: Array, train: bool = False) -> Array:
    if kind is None:
        return x
    return NORMS[kind](dtype=x.dtype, name=name)(x, train)


def pixel_shuffle(x: Float[Array, "b h w c4"]) -> Float[Array, "b h2 w2 c"]:
    """Four channels to a 2 x 2 block: channel c*4 + 2*i + j to row i, column j."""
    b, h, w, c = x.shape
    x = x.reshape(b, h, w, c // 4, 2, 2).transpose(0, 1, 4, 2, 5, 3)
    return x.reshape(b, 2 * h, 2 * w, c // 4)


class ResBlock(nn.Module):
    """[norm] act, conv1, [norm] act, conv2, plus the 1 x 1 `bypass` of the input.

    Attributes:
      features: channels of the output.
      hidden: channels between the convolutions.
      sample: "down" average-pools the sum; "up" shuffles four times the channels into
        twice the size.
      norm: an entry of `NORMS`, or None.
      slope: negative slope of the leaky ReLU.
      spectral: whether spectral norm divides the kernels.
      coord: whether the convolutions also see coordinates.
      dtype: of computation.
    """

    features: int
    hidden: int
    sample: Literal["none", "down", "up"] = "none"
    norm: str | None = None
    slope: float = 0.1
    spectral: bool = True
    coord: bool = False
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "b h w c"],
        power_iterations: int = 0,
        train: bool = False,
    ) -> Float[Array, "b h2 w2 d"]:
        conv = partial(Conv, spectral=self.spectral, coord=self.coord, dtype=self.dtype)
        width = self.features * (4 if self.sample == "up" else 1)
        pool = self.sample == "down"
        x = x.astype(self.dtype)
        y = nn.leaky_relu(_normalise(self.norm, "norm1", x, train), self.slope)
        y = conv(self.hidden, padding=1, name="conv1")(y, power_iterations)
        y = nn.leaky_relu(_normalise(self.norm, "norm2", y, train), self.slope)
        y = conv(width, padding=1, pool=pool, name="conv2")(y, power_iterations)
        y = y + conv(width, 1, pool=pool, name="bypass")(x, power_iterations)
        return pixel_shuffle(y) if self.sample == "up" else y


class FirstBlock(nn.Module):
    """`ResBlockEncoderOptimized`: conv1, [norm] act, conv2, average pool, plus shortcut.

    The shortcut pools first, then applies the 1 x 1 `bypass`.
    """

    features: int
    norm: str | None = None
    slope: float = 0.1
    spectral: bool = True
    coord: bool = False
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "b h w c"],
        power_iterations: int = 0,
        train: bool = False,
    ) -> Float[Array, "b h2 w2 d"]:
        conv = partial(
            Conv,
            self.features,
            spectral=self.spectral,
            coord=self.coord,
            dtype=self.dtype,
        )
        x = x.astype(self.dtype)
        y = conv(padding=1, name="conv1")(x, power_iterations)
        y = nn.leaky_relu(_normalise(self.norm, "norm", y, train), self.slope)
        y = conv(padding=1, pool=True, name="conv2")(y, power_iterations)
        return y + conv(kernel=1, name="bypass")(average_pool(x), power_iterations)


class DecoderBlock(nn.Module):
    """`ResBlockDecoder`: norm, act, conv1, norm, act, conv2, which doubles the size.

    The shortcut is the 3 x 3 `bypass` of the raw input. Both double the size with the
    layer that `UPSAMPLE` has for `upsample`.
    """

    features: int
    hidden: int
    norm: str | None = "instance"
    upsample: str = "transposed"
    slope: float = 0.1
    spectral: bool = True
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "b h w c"],
        power_iterations: int = 0,
        train: bool = False,
    ) -> Float[Array, "b h2 w2 d"]:
        shared: Any = {"spectral": self.spectral, "dtype": self.dtype}
        x = x.astype(self.dtype)
        y = nn.leaky_relu(_normalise(self.norm, "norm1", x, train), self.slope)
        y = Conv(self.hidden, padding=1, **shared, name="conv1")(y, power_iterations)
        y = nn.leaky_relu(_normalise(self.norm, "norm2", y, train), self.slope)
        up = partial(UPSAMPLE[self.upsample], self.features, **shared)
        y = up(name="conv2")(y, power_iterations)
        return y + up(name="bypass")(x, power_iterations)


class Output(nn.Module):
    """[norm] act, reflection pad, 3 x 3 convolution to RGB, tanh: float32 in [-1, 1]."""

    norm: str | None = None
    slope: float = 0.1
    spectral: bool = True
    coord: bool = False
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "b h w c"],
        power_iterations: int = 0,
        train: bool = False,
    ) -> Float[Array, "b h w 3"]:
        conv = Conv(
            3,
            spectral=self.spectral,
            coord=self.coord,
            dtype=self.dtype,
            name="conv1",
        )
        x = x.astype(self.dtype)
        x = nn.leaky_relu(_normalise(self.norm, "norm1", x, train), self.slope)
        x = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)), "reflect")
        return jnp.tanh(conv(x, power_iterations).astype(jnp.float32))
