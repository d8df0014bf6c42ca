"""The residual encoder, decoder and discriminator that PICNet and PICMM share.

`ngf` is the first width and `img_f` the widest: a feature i halvings below the first has
ngf * min(2**i, img_f // ngf) channels. Lists of features begin with the finest, lists of
images with the coarsest. `power_iterations` is the number of power iterations of
spectral norm in a call: 1 in training, as many as the calls that one batched call stands
for, or 0 where its vectors may not change. With `remat` the backward pass recomputes
each block instead of storing it.
"""

from typing import Any, NamedTuple

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from picjax.cli import UserError
from picjax.layers.attention import AutoAttention
from picjax.layers.conv import Conv
from picjax.layers.residual import DecoderBlock, FirstBlock, Output, ResBlock
from picjax.losses.reconstruction import resize

Size = int | tuple[int, int]


class Known(NamedTuple):
    """The visible part at every scale: our addition, which no published decoder reads.

    Attributes:
      fill: the image with its hole filled smoothly.
      mask: of the image, 1 = known.
      features: the encoder's maps of the visible part, finest first.
    """

    fill: Float[Array, "b h w 3"]
    mask: Float[Array, "b h w 1"]
    features: tuple[Array, ...]


class VisibleFeatures(NamedTuple):
    """What the decoder reads of the visible part, besides latents.

    Attributes:
      f_m: the encoder's coarsest feature map, added to the latent map.
      f_e: its map at the size after two decoder blocks, for attention; None: without.
      mask: the mask at that size, 1 = known, fractional at edges.
      known: the visible part at every scale; None: without, as published.
    """

    f_m: Float[Array, "b i j c"]
    f_e: Float[Array, "b p q e"] | None
    mask: Float[Array, "b p q 1"] | None
    known: Known | None = None


def halvings(size: Size) -> int:
    """How often the networks halve an image of this size (a side, or height and width).

    They halve while every side stays even and at least 4 pixels wide, at most 5 times: 5
    at 256 and 128 (the published networks), 4 at 64, 3 at 32.

    Raises:
      UserError: if that is less than 3 times, which leaves no feature for the attention.
    """
    count = count_halvings(size, smallest=4, most=5)
    if count < 3:
        raise UserError(
            f"an image size of {size} halves only {count} times;"
            " use multiples of 8, at least 32"
        )
    return count


def count_halvings(size: Size, smallest: int, most: int) -> int:
    """How often a size halves while even and no side falls below `smallest`."""
    h, w = (size, size) if isinstance(size, int) else size
    count = 0
    while count < most and h % 2 == w % 2 == 0 and min(h, w) >= 2 * smallest:
        h, w, count = h // 2, w // 2, count + 1
    return count


def width(ngf: int, img_f: int, step: int) -> int:
    """Channels `step` halvings below the first feature."""
    return ngf * min(2**step, img_f // ngf)


def rematerialised(block: Any, remat: bool) -> Any:
    """The block class, recomputed in its backward pass if `remat`."""
    return nn.remat(block, static_argnums=(2,)) if remat else block


def encode(
    net: Any, x: Array, power_iterations: int, attention: bool = False
) -> list[Array]:
    """block0, encoder0, ...: the features of an encoder or discriminator, finest first.

    Args:
      net: the module in which the blocks are built; has `ngf`, `img_f`, `layers`,
        `dtype` and `remat`.
      x: images.
      power_iterations: of spectral norm.
      attention: whether self-attention precedes encoder2, if there is one.
    """
    first = rematerialised(FirstBlock, net.remat)
    x = first(net.ngf, dtype=net.dtype, name="block0")(x, power_iterations)
    features = [x]
    for i in range(net.layers - 1):
        if attention and i == 2:
            attend = rematerialised(AutoAttention, net.remat)
            x = attend(dtype=net.dtype, name="attn2")(x, power_iterations)
        down = rematerialised(ResBlock, net.remat)(
            width(net.ngf, net.img_f, i + 1),
            hidden=x.shape[-1],
            sample="down",
            dtype=net.dtype,
            name=f"encoder{i}",
        )
        x = down(x, power_iterations)
        features.append(x)
    return features


def decode(
    net: Any, z: Array, visible: VisibleFeatures, power_iterations: int
) -> list[Float[Array, "b _h _w 3"]]:
    """From a latent map of f_m's size to images, coarse to fine.

    With `visible.known`, each block also reads the visible part at its own size, and an
    image is the smooth fill plus what the networks add in the hole.

    Args:
      net: the module in which the blocks are built; has `ngf`, `img_f`, `depth`,
        `layers`, `output_scale`, `upsample`, `dtype` and `remat`.
      z: the latent map.
      visible: features of the visible part.
      power_iterations: of spectral norm.
    """
    first = rematerialised(ResBlock, net.remat)
    up = rematerialised(DecoderBlock, net.remat)
    x, c = z, width(net.ngf, net.img_f, net.layers - 1)
    for name in ("generator", *(f"generator{i}" for i in range(net.depth))):
        block = first(c, hidden=c, dtype=net.dtype, name=name)
        x = block(x, power_iterations)
    x = x + visible.f_m.astype(net.dtype)
    images = []
    for i in range(net.layers):
        if visible.known is not None:
            x = jnp.concatenate([x, _known_at(visible.known, x)], -1)
        c = width(net.ngf, net.img_f, net.layers - 1 - i)
        block = up(
            c, hidden=c, upsample=net.upsample, dtype=net.dtype, name=f"decoder{i}"
        )
        x = block(x, power_iterations)
        if i == 1 and visible.f_e is not None:
            attend = rematerialised(AutoAttention, net.remat)(
                dtype=net.dtype, name="attn1"
            )
            x = attend(x, power_iterations, visible.f_e, visible.mask)
        if i >= net.layers - net.output_scale:
            if visible.known is None:
                image = Output(dtype=net.dtype, name=f"out{i}")(x, power_iterations)
            else:
                image = _add_to_fill(x, visible.known, net.dtype, name=f"out{i}")
            images.append(image)
            x = jnp.concatenate([x, images[-1].astype(net.dtype)], -1)
    return images


def _add_to_fill(x: Array, known: Known, dtype: Any, name: str) -> Array:
    """The fill plus what the features `x` add to it in the hole; nothing before training.

    A head that starts with small random outputs would not do: training first shrinks
    them, and with them the gradients of all features and latents.
    """
    size = x.shape[1], x.shape[2]
    fill, mask = (resize(a, size) for a in known[:2])
    zeros = nn.initializers.zeros
    head = Conv(3, padding=1, spectral=False, kernel_init=zeros, dtype=dtype, name=name)
    x = jnp.concatenate([nn.leaky_relu(x, 0.1), fill, mask], -1)
    residual = head(x).astype(jnp.float32)
    return jnp.clip(fill + (1 - mask) * residual, -1, 1)


def _known_at(known: Known, x: Array) -> Float[Array, "b i j c"]:
    """Fill, mask and the encoder's features at the size of `x`."""
    size = x.shape[1], x.shape[2]
    (features,) = (f for f in known.features if f.shape[1:3] == size)
    parts = (resize(known.fill, size), resize(known.mask, size), features)
    return jnp.concatenate([part.astype(x.dtype) for part in parts], -1)


class ResDiscriminator(nn.Module):
    """Residual discriminator: a map of scores without sigmoid, float32.

    `layers` is at most `halvings(size)`: the last 3 x 3 convolution needs 3 pixels.
    """

    ngf: int = 32
    img_f: int = 128
    layers: int = 5
    attention: bool = True
    dtype: Any = jnp.float32
    remat: bool = False

    @nn.compact
    def __call__(
        self, x: Float[Array, "b h w 3"], power_iterations: int = 0
    ) -> Float[Array, "b i j 1"]:
        x = encode(self, x, power_iterations, self.attention)[-1]
        c = x.shape[-1]
        last = rematerialised(ResBlock, self.remat)
        x = last(c, hidden=c, dtype=self.dtype, name="block1")(x, power_iterations)
        x = nn.leaky_relu(x, 0.1)
        x = Conv(1, dtype=self.dtype, name="conv")(x, power_iterations)
        return x.astype(jnp.float32)
