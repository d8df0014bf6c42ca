"""Pix2Pix's networks (Isola et al., CVPR 2017, arXiv 1611.07004; specification, 2, 3).

Generators take the condition [b h w c] and give an image in [-1, 1]; discriminators take
condition and image, concatenated in this order, and give a score map without a sigmoid.

The only noise is dropout. It is handed in: `keep` holds a mask of 0 and 1 for each layer
that drops, in the order in which they run, of the shapes `keep_shapes` says; an empty
`keep` drops nothing. With `update_stats` batch norm uses the batch's own statistics.
"""

from collections.abc import Sequence
from typing import Any, Literal

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from picjax.layers.conv import Conv, ConvTranspose
from picjax.layers.initialisers import Rule, kernel_init, scale_init
from picjax.layers.norm import BatchNorm, InstanceNorm

Norm = Literal["batch", "instance", "none"]
Padding = Literal["reflect", "replicate", "zero"]
Dropout = Literal["none", "official", "paper"]
Keep = Sequence[Float[Array, "b _h _w _c"]]
_PAD = {"reflect": "reflect", "replicate": "edge", "zero": "constant"}
PAPER_DROPS = 3  # the innermost decoder levels that drop in the paper's own code


class _Net(nn.Module):
    """What the four have in common.

    Attributes:
      width: channels of the first layer (ngf, ndf).
      norm: `instance` has neither scale nor bias; convolutions have a bias with it only.
      bias: gives one, too, to convolutions that no norm follows, where the original has
        none (all under norm `none`, the pixel discriminator's last under `batch`).
      rule, gain: how weights start.
    """

    width: int = 64
    norm: Norm = "batch"
    bias: bool = False
    rule: Rule = "normal"
    gain: float = 0.02
    dtype: Any = jnp.float32

    def _has_bias(self, normed: bool) -> bool:
        if self.norm == "instance":
            return True
        return self.bias and not (normed and self.norm == "batch")

    def _conv(
        self,
        x: Array,
        name: str,
        features: int,
        geometry: tuple[int, int, int],
        use_bias: bool,
    ) -> Array:
        """A convolution of (kernel, stride, padding)."""
        kernel, stride, padding = geometry
        conv = Conv(
            features,
            kernel,
            use_bias=use_bias,
            spectral=False,
            kernel_init=kernel_init(self.rule, self.gain),
            dtype=self.dtype,
            stride=stride,
            padding=padding,
            name=name,
        )
        return conv(x)

    def _up(
        self, x: Array, name: str, features: int, kernel: int, use_bias: bool
    ) -> Array:
        """A transposed convolution that doubles the size."""
        conv = ConvTranspose(
            features,
            kernel,
            use_bias=use_bias,
            spectral=False,
            kernel_init=kernel_init(self.rule, self.gain, transposed=True),
            dtype=self.dtype,
            name=name,
        )
        return conv(x)

    def _norm(self, x: Array, name: str, update_stats: int) -> Array:
        if self.norm == "none":
            return x
        if self.norm == "instance":
            return InstanceNorm(affine=False, dtype=self.dtype, name=name)(x)
        start = scale_init(self.gain)
        norm = BatchNorm(scale_init=start, dtype=self.dtype, name=name)
        return norm(x, bool(update_stats))


# ---- generators ----


def _drop(x: Array, keep: Array) -> Array:
    """Dropout of rate 1/2."""
    return 2 * x * keep.astype(x.dtype)


class UnetGenerator(_Net):
    """Halves the image `levels` times and doubles it again, with a skip at each size.

    The innermost level has no norm before its activation. `dropout` says which decoder
    levels drop: `official` those of the PyTorch code, all with the widest skips but the
    innermost (none with 5 levels, three with 8); `paper` the three innermost, as in the
    paper's own code.
    """

    levels: int = 8
    out: int = 3
    dropout: Dropout = "official"

    def widths(self) -> list[int]:
        """Channels after each halving."""
        return [self.width * min(2**i, 8) for i in range(self.levels)]

    def dropping(self) -> list[int]:
        """Levels whose decoder drops, innermost first; level 0 is the outermost."""
        last = self.levels - 1
        if self.dropout == "official":
            return list(range(last - 1, 3, -1))
        if self.dropout == "paper":
            return list(range(last, max(last - PAPER_DROPS, 0), -1))
        return []

    def keep_shapes(self, height: int, width: int) -> list[tuple[int, int, int]]:
        """Height, width, channels of each keep mask for images of a size."""
        channels = self.widths()
        return [(height >> i, width >> i, channels[i - 1]) for i in self.dropping()]

    @nn.compact
    def __call__(
        self, x: Float[Array, "b h w c"], keep: Keep, update_stats: int
    ) -> Float[Array, "b h w d"]:
        last, widths, skips = self.levels - 1, self.widths(), []
        for i, features in enumerate(widths):
            normed = 0 < i < last
            x = nn.leaky_relu(x, 0.2) if i else x
            x = self._conv(x, f"down{i}", features, (4, 2, 1), self._has_bias(normed))
            x = self._norm(x, f"down{i}_norm", update_stats) if normed else x
            skips.append(x)
        masks = dict(zip(self.dropping(), keep, strict=bool(keep)))
        x = skips.pop()
        for i in range(last, 0, -1):
            use_bias = self._has_bias(True)
            x = self._up(nn.relu(x), f"up{i}", widths[i - 1], 4, use_bias)
            x = self._norm(x, f"up{i}_norm", update_stats)
            x = _drop(x, masks[i]) if i in masks else x
            x = jnp.concatenate([skips.pop(), x], -1)
        x = self._up(nn.relu(x), "up0", self.out, 4, True)
        return jnp.tanh(x.astype(jnp.float32))


class ResnetGenerator(_Net):
    """Two halvings, residual blocks, two doublings; nothing bypasses the middle.

    Any `dropout` but `none` puts one into every block. `padding` is the blocks'; both
    7 x 7 convolutions always reflect.
    """

    blocks: int = 9
    out: int = 3
    dropout: Dropout = "official"
    padding: Padding = "reflect"

    def keep_shapes(self, height: int, width: int) -> list[tuple[int, int, int]]:
        """Height, width, channels of each keep mask for images of a size."""
        shape = (height // 4, width // 4, 4 * self.width)
        return [] if self.dropout == "none" else [shape] * self.blocks

    @nn.compact
    def __call__(
        self, x: Float[Array, "b h w c"], keep: Keep, update_stats: int
    ) -> Float[Array, "b h w d"]:
        use_bias, width = self._has_bias(True), self.width
        x = self._conv(_pad(x, 3, "reflect"), "first", width, (7, 1, 0), use_bias)
        x = nn.relu(self._norm(x, "first_norm", update_stats))
        for i in (1, 2):
            x = self._conv(x, f"down{i}", width << i, (3, 2, 1), use_bias)
            x = nn.relu(self._norm(x, f"down{i}_norm", update_stats))
        masks = dict(enumerate(keep))
        for i in range(self.blocks):
            x = x + self._block(x, f"block{i}", masks.get(i), update_stats)
        for i in (2, 1):
            x = self._up(x, f"up{i}", width << (i - 1), 3, use_bias)
            x = nn.relu(self._norm(x, f"up{i}_norm", update_stats))
        x = self._conv(_pad(x, 3, "reflect"), "last", self.out, (7, 1, 0), True)
        return jnp.tanh(x.astype(jnp.float32))

    def _block(
        self, x: Array, name: str, keep: Array | None, update_stats: int
    ) -> Array:
        features, use_bias = x.shape[-1], self._has_bias(True)
        for i in (1, 2):
            x = _pad(x, 1, self.padding)
            x = self._conv(x, f"{name}_conv{i}", features, (3, 1, 0), use_bias)
            x = self._norm(x, f"{name}_norm{i}", update_stats)
            if i == 1:
                x = nn.relu(x)
                x = x if keep is None else _drop(x, keep)
        return x


def _pad(x: Array, by: int, padding: Padding) -> Array:
    return jnp.pad(x, ((0, 0), (by, by), (by, by), (0, 0)), _PAD[padding])


# ---- discriminators ----


class PatchDiscriminator(_Net):
    """Scores overlapping patches: `layers` halvings, 70 pixels wide with the usual 3."""

    layers: int = 3

    def map_side(self, side: int) -> int:
        """Scores along a side of the image; below 1 the image is too small."""
        return (side >> self.layers) - 2

    @nn.compact
    def __call__(
        self, x: Float[Array, "b h w c"], update_stats: int
    ) -> Float[Array, "b i j 1"]:
        x = nn.leaky_relu(self._conv(x, "conv0", self.width, (4, 2, 1), True), 0.2)
        for i in range(1, self.layers + 1):
            features, stride = self.width * min(2**i, 8), 2 if i < self.layers else 1
            geometry = (4, stride, 1)
            x = self._conv(x, f"conv{i}", features, geometry, self._has_bias(True))
            x = nn.leaky_relu(self._norm(x, f"norm{i}", update_stats), 0.2)
        x = self._conv(x, f"conv{self.layers + 1}", 1, (4, 1, 1), True)
        return x.astype(jnp.float32)


class PixelDiscriminator(_Net):
    """Scores each pixel by itself."""

    @nn.compact
    def __call__(
        self, x: Float[Array, "b h w c"], update_stats: int
    ) -> Float[Array, "b h w 1"]:
        one = (1, 1, 0)
        x = nn.leaky_relu(self._conv(x, "conv0", self.width, one, True), 0.2)
        x = self._conv(x, "conv1", 2 * self.width, one, self._has_bias(True))
        x = nn.leaky_relu(self._norm(x, "norm1", update_stats), 0.2)
        x = self._conv(x, "conv2", 1, one, self._has_bias(False))
        return x.astype(jnp.float32)


def halvings(height: int, width: int) -> int:
    """How often a U-Net may halve an image: while both sides stay even, at most 8."""
    count = 0
    while count < 8 and height % 2 == width % 2 == 0:
        height, width, count = height // 2, width // 2, count + 1
    return count
