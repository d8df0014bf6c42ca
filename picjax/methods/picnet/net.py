"""PICNet's networks (Zheng, Cham, Cai, CVPR 2019, arXiv 1903.04227).

`ngf` is the first width and `img_f` the widest: a feature i halvings below the first
has ngf * min(2**i, img_f // ngf) channels. Lists of features begin with the finest,
lists of images with the coarsest. `update_stats` says how many power iterations spectral
norm makes: one in training (True; the caller makes "stats" mutable), as many as the
calls that one batched call stands for, none (False) where nothing may change. With
`remat` each block is computed again in the backward pass instead of being kept.
"""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from picjax.cli import UserError
from picjax.layers.attention import AutoAttention
from picjax.layers.conv import Conv
from picjax.layers.residual import DecoderBlock, FirstBlock, Output, ResBlock

Size = int | tuple[int, int]


def halvings(size: Size) -> int:
    """How often the networks halve an image of this size (a side, or height, width).

    They halve while every side stays even and at least 4 pixels wide, 5 times at most:
    5 at 256 and 128 (the published networks), 4 at 64, 3 at 32.

    Raises:
      UserError: for fewer than 3, which leaves no feature for the attention.
    """
    count = _count_halvings(size, smallest=4, most=5)
    if count < 3:
        raise UserError(
            f"an image size of {size} halves only {count} times;"
            " use multiples of 8, at least 32"
        )
    return count


def poolings(size: Size) -> int:
    """How often PICMM's latent average-pools what `halvings` leaves.

    While every side is even, twice at most: 256 -> 8 -> a latent grid of 2; 128, 64 and
    32 -> 4 -> a grid of 1; 192 -> 6 -> a grid of 3.
    """
    left = 2 ** halvings(size)
    h, w = (size, size) if isinstance(size, int) else size
    return _count_halvings((h // left, w // left), smallest=1, most=2)


def _count_halvings(size: Size, smallest: int, most: int) -> int:
    h, w = (size, size) if isinstance(size, int) else size
    count = 0
    while count < most and h % 2 == w % 2 == 0 and min(h, w) >= 2 * smallest:
        h, w, count = h // 2, w // 2, count + 1
    return count


def width(ngf: int, img_f: int, step: int) -> int:
    """Channels `step` halvings below the first feature."""
    return ngf * min(2**step, img_f // ngf)


def rematerialised(kind: Any, remat: bool) -> Any:
    """The block class, whose backward pass computes it again when `remat`."""
    return nn.remat(kind, static_argnums=(2,)) if remat else kind


def trunk(
    net: Any, x: Array, update_stats: int, attention: bool = False
) -> list[Array]:
    """block0, encoder0, ...: the features of encoders and discriminators, finest first.

    Makes its blocks inside `net`, a module with `ngf`, `img_f`, `layers`, `dtype` and
    `remat`. With `attention`, self-attention sits in front of encoder2, if there is one.
    """
    first = rematerialised(FirstBlock, net.remat)
    x = first(net.ngf, dtype=net.dtype, name="block0")(x, update_stats)
    features = [x]
    for i in range(net.layers - 1):
        if attention and i == 2:
            attn = rematerialised(AutoAttention, net.remat)
            x = attn(dtype=net.dtype, name="attn2")(x, update_stats)
        down = rematerialised(ResBlock, net.remat)(
            width(net.ngf, net.img_f, i + 1),
            hidden=x.shape[-1],
            sample="down",
            dtype=net.dtype,
            name=f"encoder{i}",
        )
        x = down(x, update_stats)
        features.append(x)
    return features


class Encoder(nn.Module):
    """`ResEncoder`: the prior from the visible part, the posterior from the rest.

    `depth` is the length of the chain of blocks that turns the visible part's feature
    into the prior (`L` in the original).
    """

    ngf: int = 32
    img_f: int = 128
    z_nc: int = 128
    depth: int = 6
    layers: int = 5
    dtype: Any = jnp.float32
    remat: bool = False

    @nn.compact
    def __call__(
        self,
        visible: Float[Array, "b h w 3"],
        complement: Float[Array, "b h w 3"] | None = None,
        *,
        update_stats: int,
    ) -> tuple[
        tuple[Float[Array, "b i j z"], Float[Array, "b i j z"]],
        tuple[Float[Array, "b i j z"], Float[Array, "b i j z"]] | None,
        list[Array],
    ]:
        """The prior's (mu, std), the posterior's or None, and the trunk's features.

        With a complement the features hold the visible half first, then the other.
        """
        x = visible
        if complement is not None:
            x = jnp.concatenate([visible, complement])
        features = trunk(self, x, update_stats)
        coarse = features[-1][: visible.shape[0]]
        kind = rematerialised(ResBlock, self.remat)

        def head(x: Array, name: str) -> tuple[Array, Array]:
            hidden = x.shape[-1]
            out = kind(2 * self.z_nc, hidden, dtype=self.dtype, name=name)
            mu, raw = jnp.split(out(x, update_stats).astype(jnp.float32), 2, -1)
            return mu, nn.softplus(raw)

        posterior = None
        if complement is not None or self.is_initializing():
            posterior = head(features[-1][-visible.shape[0] :], "posterior")
        for i in range(self.depth):
            c = coarse.shape[-1]
            infer = kind(c, c, dtype=self.dtype, name=f"infer_prior{i}")
            coarse = infer(coarse, update_stats)
        prior = head(coarse, "prior")
        return prior, posterior if complement is not None else None, features


def decode(
    net: Any,
    z: Array,
    f_m: Array,
    f_e: Array | None,
    mask: Array | None,
    update_stats: int,
) -> list[Array]:
    """From a latent map of f_m's size to images, coarse to fine.

    Makes its blocks inside `net`, a module with the fields of `ResGenerator`.
    """
    kind = rematerialised(ResBlock, net.remat)
    up = rematerialised(DecoderBlock, net.remat)
    x, c = z, width(net.ngf, net.img_f, net.layers - 1)
    for name in ("generator", *(f"generator{i}" for i in range(net.depth))):
        x = kind(c, hidden=c, dtype=net.dtype, name=name)(x, update_stats)
    x = x + f_m.astype(net.dtype)
    images = []
    for i in range(net.layers):
        c = width(net.ngf, net.img_f, net.layers - 1 - i)
        block = up(
            c, hidden=c, upsample=net.upsample, dtype=net.dtype, name=f"decoder{i}"
        )
        x = block(x, update_stats)
        if i == 1 and f_e is not None:
            attn = rematerialised(AutoAttention, net.remat)
            x = attn(dtype=net.dtype, name="attn1")(x, update_stats, f_e, mask)
        if i >= net.layers - net.output_scale:
            head = Output(dtype=net.dtype, name=f"out{i}")
            images.append(head(x, update_stats))
            x = jnp.concatenate([x, images[-1].astype(net.dtype)], -1)
    return images


class ResGenerator(nn.Module):
    """Decodes a latent map with the visible part's features; min(output_scale, layers)
    images in [-1, 1], the last of full size.

    `f_m` is the encoder's last feature, `f_e` the one of the size after two decoder
    blocks (`features[layers - 3]`), `mask` the mask at that size; without `f_e` there
    is no attention.
    """

    ngf: int = 32
    img_f: int = 128
    depth: int = 0
    layers: int = 5
    output_scale: int = 4
    upsample: str = "transposed"
    dtype: Any = jnp.float32
    remat: bool = False

    @nn.compact
    def __call__(
        self,
        z: Float[Array, "b i j z"],
        f_m: Float[Array, "b i j c"],
        f_e: Float[Array, "b p q e"] | None,
        mask: Float[Array, "b p q 1"] | None,
        update_stats: int,
    ) -> list[Float[Array, "b _h _w 3"]]:
        return decode(self, z, f_m, f_e, mask, update_stats)


class ResDiscriminator(nn.Module):
    """Residual discriminator: a map of scores without sigmoid, float32.

    `layers` is `halvings(size)` at most: the last 3 x 3 convolution needs 3 pixels.
    """

    ngf: int = 32
    img_f: int = 128
    layers: int = 5
    attention: bool = True
    dtype: Any = jnp.float32
    remat: bool = False

    @nn.compact
    def __call__(
        self, x: Float[Array, "b h w 3"], update_stats: int
    ) -> Float[Array, "b i j 1"]:
        x = trunk(self, x, update_stats, self.attention)[-1]
        c = x.shape[-1]
        last = rematerialised(ResBlock, self.remat)
        x = last(c, hidden=c, dtype=self.dtype, name="block1")(x, update_stats)
        x = nn.leaky_relu(x, 0.1)
        x = Conv(1, dtype=self.dtype, name="conv")(x, update_stats)
        return x.astype(jnp.float32)


class PatchDiscriminator(nn.Module):
    """Patch discriminator of 4 x 4 convolutions without bias: a map of scores, float32."""

    ngf: int = 32
    img_f: int = 128
    layers: int = 3
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self, x: Float[Array, "b h w 3"], update_stats: int
    ) -> Float[Array, "b i j 1"]:
        # The original reuses its loop index: the stride-1 layer keeps the last width.
        steps = [(width(self.ngf, self.img_f, i), 2) for i in range(self.layers)]
        steps += [(steps[-1][0], 1), (1, 1)]
        for i, (features, stride) in enumerate(steps):
            if i:
                x = nn.leaky_relu(x, 0.1)
            conv = Conv(
                features,
                4,
                use_bias=False,
                stride=stride,
                padding=1,
                dtype=self.dtype,
                name=f"conv{i}",
            )
            x = conv(x, update_stats)
        return x.astype(jnp.float32)
