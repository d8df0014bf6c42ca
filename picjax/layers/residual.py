"""PICNet's residual blocks (Zheng et al., 2019, arXiv 1903.04227)."""

from functools import partial
from typing import Any, Literal

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from picjax.layers.conv import Conv, ConvTranspose, UpsampleConv, average_pool
from picjax.layers.norm import NORMS


def _norm(kind: str | None, name: str, x: Array, update_stats: int) -> Array:
    if kind is None:
        return x
    return NORMS[kind](dtype=x.dtype, name=name)(x, update_stats)


def pixel_shuffle(x: Float[Array, "b h w c4"]) -> Float[Array, "b h2 w2 c"]:
    """Four channels to a 2 x 2 block: channel c*4 + 2*i + j to row i, column j."""
    b, h, w, c = x.shape
    x = x.reshape(b, h, w, c // 4, 2, 2).transpose(0, 1, 4, 2, 5, 3)
    return x.reshape(b, 2 * h, 2 * w, c // 4)


class ResBlock(nn.Module):
    """[norm] act, conv1, [norm] act, conv2, plus the 1 x 1 `bypass` of the input.

    `sample` "down" average-pools the sum, "up" shuffles four times the channels into
    twice the size. `slope` is the negative slope of the leaky ReLU.
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
        self, x: Float[Array, "b h w c"], update_stats: int
    ) -> Float[Array, "b h2 w2 d"]:
        conv = partial(Conv, spectral=self.spectral, coord=self.coord, dtype=self.dtype)
        width = self.features * (4 if self.sample == "up" else 1)
        pool = self.sample == "down"
        x = x.astype(self.dtype)
        y = _norm(self.norm, "norm1", x, update_stats)
        y = nn.leaky_relu(y, self.slope)
        y = conv(self.hidden, padding=1, name="conv1")(y, update_stats)
        y = _norm(self.norm, "norm2", y, update_stats)
        y = nn.leaky_relu(y, self.slope)
        y = conv(width, padding=1, pool=pool, name="conv2")(y, update_stats)
        y = y + conv(width, 1, pool=pool, name="bypass")(x, update_stats)
        return pixel_shuffle(y) if self.sample == "up" else y


class FirstBlock(nn.Module):
    """`ResBlockEncoderOptimized`: conv1, act, conv2, average pool, plus the shortcut.

    The shortcut pools first, then takes the 1 x 1 `bypass`.
    """

    features: int
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self, x: Float[Array, "b h w c"], update_stats: int
    ) -> Float[Array, "b h2 w2 d"]:
        conv = partial(Conv, self.features, dtype=self.dtype)
        x = x.astype(self.dtype)
        y = nn.leaky_relu(conv(padding=1, name="conv1")(x, update_stats), 0.1)
        y = conv(padding=1, pool=True, name="conv2")(y, update_stats)
        return y + conv(kernel=1, name="bypass")(average_pool(x), update_stats)


UPSAMPLE = {"transposed": ConvTranspose, "nearest": UpsampleConv}


class DecoderBlock(nn.Module):
    """`ResBlockDecoder`: norm, act, conv1, norm, act, conv2, which doubles the size.

    The shortcut is the 3 x 3 `bypass` of the raw input. Both double the size as
    `upsample` says, `UPSAMPLE`.
    """

    features: int
    hidden: int
    norm: str | None = "instance"
    upsample: str = "transposed"
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self, x: Float[Array, "b h w c"], update_stats: int
    ) -> Float[Array, "b h2 w2 d"]:
        x = x.astype(self.dtype)
        y = _norm(self.norm, "norm1", x, update_stats)
        y = nn.leaky_relu(y, 0.1)
        conv1 = Conv(self.hidden, padding=1, dtype=self.dtype, name="conv1")
        y = conv1(y, update_stats)
        y = _norm(self.norm, "norm2", y, update_stats)
        y = nn.leaky_relu(y, 0.1)
        up = partial(UPSAMPLE[self.upsample], self.features, dtype=self.dtype)
        y = up(name="conv2")(y, update_stats)
        return y + up(name="bypass")(x, update_stats)


class Output(nn.Module):
    """Act, reflection pad, 3 x 3 convolution to RGB, tanh: float32 in [-1, 1]."""

    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self, x: Float[Array, "b h w c"], update_stats: int
    ) -> Float[Array, "b h w 3"]:
        x = nn.leaky_relu(x.astype(self.dtype), 0.1)
        x = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)), "reflect")
        # One zero more around it, and the border cut off again: XLA's CPU back end runs
        # a convolution to 3 channels without padding twenty times slower.
        x = Conv(3, padding=1, dtype=self.dtype, name="conv1")(x, update_stats)
        return jnp.tanh(x[:, 1:-1, 1:-1].astype(jnp.float32))
