"""The UNet of guided-diffusion (Dhariwal and Nichol, arXiv 2105.05233).

RePaint and Intelligent Painter use it unchanged. `UNet` predicts the noise in an image
at any noise level; `Torso` is what it shares with the classifier (classifier.py).

Blocks consist of one to three modules, numbered as in the original: `in3_1` is module 1
of input block 3, `mid_0` to `mid_2` are the middle, `out0_0` begins the decoder. With a
`dtype` of bfloat16 the torso's convolutions and attention compute in it; norms, softmax,
embeddings and heads stay float32. With `remat` the backward pass recomputes each block.
"""

from collections.abc import Sequence
from typing import Any, Literal

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from picjax.cli import UserError
from picjax.layers.conv import average_pool, upsample
from picjax.layers.norm import GroupNorm
from picjax.methods.painter.layers import (
    PlainConv,
    QkvOrder,
    qkv_attention,
    timestep_embedding,
)

GROUPS = 32
Sample = Literal["none", "up", "down"]
Multiplier = int | float
Time = Float[Array, " b"] | Int[Array, " b"]


def attention_factors(
    image_size: int, sizes: Sequence[int], levels: int, key: str
) -> tuple[int, ...]:
    """The downsampling factors at which feature maps have these sizes.

    Raises:
      UserError: naming `config.model.<key>`, if no level has one of the sizes.
    """
    for size in sizes:
        factor = image_size // size if size > 0 else 0
        if factor not in (2**level for level in range(levels)) or image_size % size:
            raise UserError(
                f"config.model.{key} holds {size}, which is not {image_size}, the "
                f"image size, halved up to {levels - 1} times; give such sizes"
            )
    return tuple(image_size // size for size in sizes)


def channels(width: int, multiplier: Multiplier) -> int:
    """Channels of a level."""
    return int(multiplier * width)


def check_widths(
    width: int, mult: Sequence[Multiplier], head_width: int | None, heads: int
) -> None:
    """Check that norms and heads divide the channels of every level.

    Raises:
      UserError: naming the first level that they do not divide.
    """
    for multiplier in mult:
        c = channels(width, multiplier)
        if c < GROUPS or c % GROUPS:
            raise UserError(
                f"config.model.width {width} times {multiplier} of config.model.mult "
                f"gives {c} channels; make it a multiple of {GROUPS}"
            )
        if head_width and c % head_width:
            raise UserError(
                f"config.model.head_width {head_width} does not divide {c} channels; "
                "give a divisor of every level's, or 0 and config.model.heads"
            )
        if not head_width and (heads < 1 or c % heads):
            raise UserError(
                f"config.model.heads {heads} does not divide {c} channels; give a "
                "divisor of every level's"
            )


def check_size(height: int, width: int, levels: int, key: str = "mult") -> None:
    """Check that an image's size halves between all levels.

    Raises:
      UserError: naming the sizes that do.
    """
    step = 2 ** (levels - 1)
    if height % step or width % step:
        raise UserError(
            f"an image size of {height}x{width} does not halve {levels - 1} times; use "
            f"multiples of {step}, or fewer levels in config.model.{key}"
        )


class ResBlock(nn.Module):
    """A residual block conditioned on the embedding `emb` of the time step.

    Attributes:
      features: channels of the output.
      sample: doubles ("up") or halves ("down") the size between norm and convolution.
      scale_shift: the embedding scales and shifts the second norm's output; otherwise it
        is added to the norm's input.
      dropout: dropout rate in training.
      skip: side of the shortcut's kernel, where the channels differ.
      dtype: of the convolutions.
    """

    features: int
    sample: Sample = "none"
    scale_shift: bool = True
    dropout: float = 0.0
    skip: int = 1
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self, x: Float[Array, "b h w c"], emb: Float[Array, "b e"], train: bool
    ) -> Float[Array, "b h2 w2 d"]:
        f, dtype = self.features, self.dtype
        x = x.astype(dtype)
        h = nn.silu(GroupNorm(GROUPS, name="norm1")(x)).astype(dtype)
        up = self.sample == "up"  # then the convolution doubles h itself
        x, h = resample(x, self.sample), h if up else resample(h, self.sample)
        h = PlainConv(f, double=up, dtype=dtype, name="conv1")(h)
        emb = PlainConv(f * (1 + self.scale_shift), (), name="emb")(nn.silu(emb))
        emb = emb[:, None, None]
        norm = GroupNorm(GROUPS, name="norm2")
        if self.scale_shift:
            scale, shift = jnp.split(emb, 2, -1)
            h = norm(h) * (1 + scale) + shift
        else:
            h = norm(h + emb)
        h = nn.silu(h)
        if self.dropout:
            h = nn.Dropout(self.dropout, deterministic=not train, name="dropout")(h)
        h = PlainConv(f, zero=True, dtype=dtype, name="conv2")(h)
        if x.shape[-1] != f:
            x = PlainConv(f, (self.skip, self.skip), dtype=dtype, name="skip")(x)
        return x + h


def resample(x: Float[Array, "b h w c"], sample: Sample) -> Float[Array, "b h2 w2 c"]:
    """Nearest-neighbour upsampling by 2, 2 x 2 averaging, or x itself."""
    return {"none": lambda x: x, "up": upsample, "down": average_pool}[sample](x)


class Resample(nn.Module):
    """Doubles or halves the size, with or without a 3 x 3 convolution.

    Downsampling is a strided convolution, or 2 x 2 averaging without one.
    """

    sample: Literal["up", "down"]
    conv: bool = True
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h2 w2 c"]:
        if not self.conv:
            return resample(x, self.sample)
        up = self.sample == "up"
        options: Any = {"double": True} if up else {"stride": 2}
        return PlainConv(x.shape[-1], **options, dtype=self.dtype, name="conv")(x)


class Attention(nn.Module):
    """Self-attention over all positions, with a residual connection."""

    heads: int
    order: QkvOrder = "legacy"
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h w c"]:
        b, h, w, c = x.shape
        tokens = GroupNorm(GROUPS, self.dtype, name="norm")(x).reshape(b, h * w, c)
        qkv = PlainConv(3 * c, (1,), dtype=self.dtype, name="qkv")(tokens)
        y = qkv_attention(qkv, self.heads, self.order)
        y = PlainConv(c, (1,), zero=True, dtype=self.dtype, name="proj")(y)
        return x + y.reshape(x.shape)


class Torso(nn.Module):
    """What UNet and classifier share: time embedding, encoder and middle.

    Attributes:
      width: channels before multiplication (`model_channels`).
      mult: channel multiplier of each level; between levels the size halves.
      blocks: residual blocks per level (`num_res_blocks`).
      attention: downsampling factors of the levels with attention; see
        `attention_factors`.
      head_width: channels per attention head; 0 or None: there are `heads` heads.
      heads: number of heads; ignored with a `head_width`.
      qkv_order: see `layers.qkv_attention`.
      scale_shift: see `ResBlock`.
      resblock_updown: residual blocks change the size; otherwise `Resample` does.
      conv_resample: whether `Resample` has convolutions.
      dropout: dropout rate in training, which then needs a `dropout` key.
      dtype: of the torso's convolutions and attention.
      remat: whether the backward pass recomputes blocks instead of storing them.
    """

    width: int
    mult: tuple[Multiplier, ...]
    blocks: int
    attention: tuple[int, ...]
    head_width: int | None
    heads: int = 1
    qkv_order: QkvOrder = "legacy"
    scale_shift: bool = True
    resblock_updown: bool = True
    conv_resample: bool = True
    dropout: float = 0.0
    dtype: Any = jnp.float32
    remat: bool = False

    def _embed(self, t: Array) -> Array:
        e = 4 * self.width
        emb = PlainConv(e, (), name="time1")(timestep_embedding(t, self.width))
        return PlainConv(e, (), name="time2")(nn.silu(emb))

    def _res(
        self, name: str, x: Array, emb: Array, train: bool, c: int, sample: Sample
    ) -> Array:
        cls = nn.remat(ResBlock, static_argnums=(3,)) if self.remat else ResBlock
        block = cls(
            c,
            sample,
            self.scale_shift,
            self.dropout,
            dtype=self.dtype,
            name=name,
        )
        return block(x, emb, train)

    def _attend(self, name: str, x: Array, heads: int | None = None) -> Array:
        cls = nn.remat(Attention) if self.remat else Attention
        count = self._head_count(x.shape[-1], heads)
        return cls(count, self.qkv_order, self.dtype, name=name)(x)

    def _head_count(self, c: int, heads: int | None = None) -> int:
        return c // self.head_width if self.head_width else heads or self.heads

    def _resize(
        self,
        name: str,
        x: Array,
        emb: Array,
        train: bool,
        sample: Literal["up", "down"],
    ) -> Array:
        if self.resblock_updown:
            return self._res(name, x, emb, train, x.shape[-1], sample)
        return Resample(sample, self.conv_resample, self.dtype, name=name)(x)

    def _encode(self, x: Array, emb: Array, train: bool) -> list[Array]:
        """The output of every input block."""
        check_size(x.shape[1], x.shape[2], len(self.mult))
        x = x.astype(self.dtype)
        first = channels(self.width, self.mult[0])
        outputs = [PlainConv(first, dtype=self.dtype, name="in0_0")(x)]
        for level, multiplier in enumerate(self.mult):
            for _ in range(self.blocks):
                name, c = f"in{len(outputs)}", channels(self.width, multiplier)
                x = self._res(f"{name}_0", outputs[-1], emb, train, c, "none")
                if 2**level in self.attention:
                    x = self._attend(f"{name}_1", x)
                outputs.append(x)
            if level < len(self.mult) - 1:
                name = f"in{len(outputs)}_0"
                outputs.append(self._resize(name, outputs[-1], emb, train, "down"))
        return outputs

    def _middle(self, x: Array, emb: Array, train: bool) -> Array:
        c = x.shape[-1]
        x = self._res("mid_0", x, emb, train, c, "none")
        x = self._attend("mid_1", x)
        return self._res("mid_2", x, emb, train, c, "none")


class UNet(Torso):
    """Predicts the noise in an image, and the variance of the reverse step if learned.

    Attributes:
      classes: number of classes of the condition `y`; None: unconditional.
      out_channels: 3: the noise; 6: the noise, then the variance.
      heads_up: `heads` of the decoder, where they differ (`num_heads_upsample`).
    """

    classes: int | None = None
    out_channels: int = 6
    heads_up: int | None = None

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "b h w c"],
        t: Time,
        y: Int[Array, " b"] | None = None,
        train: bool = False,
    ) -> Float[Array, "b h w d"]:
        """The output, float32, for noised images x at the original steps t.

        Args:
          x: x_t, perhaps with further channels (`model.sees_known`); height and width
            must halve between all levels.
          t: steps of the process before respacing; may be fractional.
          y: classes, for a class-conditional network and no other.
          train: whether dropout is on.

        Raises:
          UserError: if the size does not halve between the levels.
          ValueError: if y is missing, or present without classes.
        """
        emb = self._embed(t)
        if (y is None) != (self.classes is None):
            condition = "without y" if y is None else "with y"
            raise ValueError(f"{condition}, a network of {self.classes} classes")
        if self.classes is not None:
            normal = nn.initializers.normal(1.0)
            labels = self.param("labels", normal, (self.classes, emb.shape[-1]))
            emb = emb + labels[y]
        skips = self._encode(x, emb, train)
        h = self._middle(skips[-1], emb, train)
        count = len(skips)
        for level in reversed(range(len(self.mult))):
            for i in range(self.blocks + 1):
                name, k = f"out{count - len(skips)}", 1
                h = jnp.concatenate([h, skips.pop()], -1)
                c = channels(self.width, self.mult[level])
                h = self._res(f"{name}_0", h, emb, train, c, "none")
                if 2**level in self.attention:
                    h = self._attend(f"{name}_{k}", h, self.heads_up)
                    k += 1
                if level and i == self.blocks:
                    h = self._resize(f"{name}_{k}", h, emb, train, "up")
        h = nn.silu(GroupNorm(GROUPS, name="norm")(h))
        return PlainConv(self.out_channels, zero=True, name="head")(h)
