"""Pix2Pix's networks (Isola et al., CVPR 2017, arXiv 1611.07004).

Generators map a condition [b h w c] to an image in [-1, 1]. Discriminators take the
condition and the image, concatenated in this order along the channels, and return a map
of scores without a final sigmoid.

The only noise is dropout, and its masks are arguments: `keep` holds one 0/1 mask per
dropout layer, in execution order, of the shapes that `keep_shapes` lists; with an empty
`keep` nothing is dropped. With `train`, batch norm uses the statistics of the batch.
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
_PAD_MODES = {"reflect": "reflect", "replicate": "edge", "zero": "constant"}
PAPER_DROPOUT_LEVELS = 3  # innermost decoder levels with dropout in the Lua original
MAX_LEVELS = 8


class _Net(nn.Module):
    """What the two generators and the two discriminators share.

    Attributes:
      width: channels of the first layer (ngf, ndf).
      norm: `instance` has neither scale nor bias; convolutions in front of a norm have
        a bias with `instance` only.
      bias: adds a bias to the convolutions that no norm follows and that have none in
        the original (all with norm `none`, the pixel discriminator's last with `batch`).
      rule, gain: how the weights are initialised.
      dtype: dtype of computation.
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
        """A convolution; `geometry` is (kernel, stride, padding)."""
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

    def _norm(self, x: Array, name: str, train: bool) -> Array:
        if self.norm == "none":
            return x
        if self.norm == "instance":
            return InstanceNorm(affine=False, dtype=self.dtype, name=name)(x)
        norm = BatchNorm(scale_init=scale_init(self.gain), dtype=self.dtype, name=name)
        return norm(x, train)


# ---- generators ----


def _drop(x: Array, keep: Array) -> Array:
    """Dropout with rate 1/2."""
    return 2 * x * keep.astype(x.dtype)


class _Generator(_Net):
    """What the two generators share.

    Attributes:
      out: channels of the image.
      fill: the condition is an image without a hole and its mask; the output is added to
        that image in the hole. Ours, not in the paper (docs/pix2pix.md).
    """

    out: int = 3
    fill: bool = False

    def _image(
        self, condition: Float[Array, "b h w c"], x: Float[Array, "b h w d"]
    ) -> Float[Array, "b h w d"]:
        """The image of the last layer's output."""
        image = jnp.tanh(x.astype(jnp.float32))
        if not self.fill:
            return image
        filled, mask = condition[..., :-1], condition[..., -1:]
        return jnp.clip(filled + (1 - mask) * image, -1, 1)


class UnetGenerator(_Generator):
    """Halves the image `levels` times and doubles it again, with a skip at each size.

    The innermost level has no norm before its activation.

    Attributes:
      levels: number of halvings.
      dropout: which decoder levels have dropout. `official`: those of the PyTorch code,
        the levels of full width except the innermost (none with 5 levels, three with
        8). `paper`: the three innermost, as in the Lua code of the paper.
    """

    levels: int = 8
    dropout: Dropout = "official"

    def widths(self) -> list[int]:
        """Channels after each halving."""
        return [self.width * min(2**i, 8) for i in range(self.levels)]

    def dropout_levels(self) -> list[int]:
        """Decoder levels with dropout, innermost first; level 0 is the outermost."""
        last = self.levels - 1
        if self.dropout == "official":
            return list(range(last - 1, 3, -1))
        if self.dropout == "paper":
            return list(range(last, max(last - PAPER_DROPOUT_LEVELS, 0), -1))
        return []

    def keep_shapes(self, height: int, width: int) -> list[tuple[int, int, int]]:
        """(height, width, channels) of each dropout mask for images of this size."""
        channels = self.widths()
        return [
            (height >> i, width >> i, channels[i - 1]) for i in self.dropout_levels()
        ]

    @nn.compact
    def __call__(
        self, x: Float[Array, "b h w c"], keep: Keep, train: bool
    ) -> Float[Array, "b h w d"]:
        condition, last, widths, skips = x, self.levels - 1, self.widths(), []
        for i, features in enumerate(widths):
            normed = 0 < i < last
            x = nn.leaky_relu(x, 0.2) if i else x
            x = self._conv(x, f"down{i}", features, (4, 2, 1), self._has_bias(normed))
            x = self._norm(x, f"down{i}_norm", train) if normed else x
            skips.append(x)
        masks = dict(zip(self.dropout_levels(), keep, strict=bool(keep)))
        x = skips.pop()
        for i in range(last, 0, -1):
            use_bias = self._has_bias(True)
            x = self._up(nn.relu(x), f"up{i}", widths[i - 1], 4, use_bias)
            x = self._norm(x, f"up{i}_norm", train)
            x = _drop(x, masks[i]) if i in masks else x
            x = jnp.concatenate([skips.pop(), x], -1)
        return self._image(condition, self._up(nn.relu(x), "up0", self.out, 4, True))


class ResnetGenerator(_Generator):
    """Two halvings, residual blocks and two doublings, without long skips.

    Attributes:
      blocks: number of residual blocks.
      dropout: every value except `none` puts dropout into each block.
      padding: of the blocks; both 7 x 7 convolutions always use reflection.
    """

    blocks: int = 9
    dropout: Dropout = "official"
    padding: Padding = "reflect"

    def keep_shapes(self, height: int, width: int) -> list[tuple[int, int, int]]:
        """(height, width, channels) of each dropout mask for images of this size."""
        shape = (height // 4, width // 4, 4 * self.width)
        return [] if self.dropout == "none" else [shape] * self.blocks

    @nn.compact
    def __call__(
        self, x: Float[Array, "b h w c"], keep: Keep, train: bool
    ) -> Float[Array, "b h w d"]:
        condition, use_bias, width = x, self._has_bias(True), self.width
        x = self._conv(_pad(x, 3, "reflect"), "first", width, (7, 1, 0), use_bias)
        x = nn.relu(self._norm(x, "first_norm", train))
        for i in (1, 2):
            x = self._conv(x, f"down{i}", width << i, (3, 2, 1), use_bias)
            x = nn.relu(self._norm(x, f"down{i}_norm", train))
        masks = dict(enumerate(keep))
        for i in range(self.blocks):
            x = x + self._block(x, f"block{i}", masks.get(i), train)
        for i in (2, 1):
            x = self._up(x, f"up{i}", width << (i - 1), 3, use_bias)
            x = nn.relu(self._norm(x, f"up{i}_norm", train))
        x = self._conv(_pad(x, 3, "reflect"), "last", self.out, (7, 1, 0), True)
        return self._image(condition, x)

    def _block(self, x: Array, name: str, keep: Array | None, train: bool) -> Array:
        features, use_bias = x.shape[-1], self._has_bias(True)
        for i in (1, 2):
            x = _pad(x, 1, self.padding)
            x = self._conv(x, f"{name}_conv{i}", features, (3, 1, 0), use_bias)
            x = self._norm(x, f"{name}_norm{i}", train)
            if i == 1:
                x = nn.relu(x)
                x = x if keep is None else _drop(x, keep)
        return x


def _pad(x: Array, by: int, padding: Padding) -> Array:
    return jnp.pad(x, ((0, 0), (by, by), (by, by), (0, 0)), _PAD_MODES[padding])


# ---- discriminators ----


class PatchDiscriminator(_Net):
    """Scores overlapping patches.

    Attributes:
      layers: number of halvings; with 3, the default, a patch is 70 pixels wide.
    """

    layers: int = 3

    def map_side(self, side: int) -> int:
        """Number of scores along a side of the image; 0 or less: it is too small."""
        return (side >> self.layers) - 2

    @nn.compact
    def __call__(
        self, x: Float[Array, "b h w c"], train: bool
    ) -> Float[Array, "b i j 1"]:
        x = nn.leaky_relu(self._conv(x, "conv0", self.width, (4, 2, 1), True), 0.2)
        for i in range(1, self.layers + 1):
            features, stride = self.width * min(2**i, 8), 2 if i < self.layers else 1
            geometry = (4, stride, 1)
            x = self._conv(x, f"conv{i}", features, geometry, self._has_bias(True))
            x = nn.leaky_relu(self._norm(x, f"norm{i}", train), 0.2)
        x = self._conv(x, f"conv{self.layers + 1}", 1, (4, 1, 1), True)
        return x.astype(jnp.float32)


class PixelDiscriminator(_Net):
    """Scores each pixel independently of the others."""

    @nn.compact
    def __call__(
        self, x: Float[Array, "b h w c"], train: bool
    ) -> Float[Array, "b h w 1"]:
        pointwise = (1, 1, 0)
        x = nn.leaky_relu(self._conv(x, "conv0", self.width, pointwise, True), 0.2)
        x = self._conv(x, "conv1", 2 * self.width, pointwise, self._has_bias(True))
        x = nn.leaky_relu(self._norm(x, "norm1", train), 0.2)
        x = self._conv(x, "conv2", 1, pointwise, self._has_bias(False))
        return x.astype(jnp.float32)


Generator = UnetGenerator | ResnetGenerator
Discriminator = PatchDiscriminator | PixelDiscriminator


def max_levels(height: int, width: int) -> int:
    """How often a U-Net can halve an image: while both sides stay even, at most 8."""
    count = 0
    while count < MAX_LEVELS and height % 2 == width % 2 == 0:
        height, width, count = height // 2, width // 2, count + 1
    return count
