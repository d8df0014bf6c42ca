"""PixelCNN++'s network (Salimans et al., ICLR 2017, arXiv 1701.05517).

Two streams read the image: `u` all rows above a pixel, `ul` those and the pixels to its
left. The up pass takes both from full size through two halvings, the down pass back
again with a skip for every block. The output at a pixel depends on no pixel at or after
it in raster order.

Gains and biases are initialised from data (see `layers`): `init` needs real images, and
a `dropout` key if there is dropout.
"""

import re
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from picjax.cli import UserError
from picjax.methods.pixelcnn.layers import (
    Conv,
    Dense,
    Gated,
    Grow,
    shift_down,
    shift_right,
    with_ones,
)
from picjax.methods.pixelcnn.logistic import logit_count

LEVELS = 3


def check_size(height: int, width: int) -> None:
    """Refuse sizes whose levels do not fit together.

    Raises:
      UserError: unless both are positive multiples of 4.
    """
    if height % 4 or width % 4 or min(height, width) < 4:
        raise UserError(
            f"an image size of {height}x{width} cannot be halved twice; "
            "use multiples of 4 with PixelCNN++"
        )


# ---- topology ----

Layer = Callable[[str, Array], Array]
Block = Callable[[str, Array, Array | None], Array]


def down_blocks(blocks: int, level: int) -> int:
    """Number of gated blocks of a level in the down pass."""
    return blocks if level == LEVELS - 1 else blocks + 1


def level_of(name: str) -> int:
    """The level of the input of a layer with this name."""
    match = re.search(r"\d", name)
    assert match, name
    return int(match[0])


def walk(
    blocks: int,
    x: Array,
    block: Block,
    shrink: Layer,
    grow: Layer,
    levels: int = LEVELS,
    coarser: Array | None = None,
) -> Array:
    """Take a stream from its stem to its end: the topology of the whole network.

    It serves images, and in cached sampling rows and pixels, where the coarse levels
    may be idle: then `levels` counts the active ones, and `coarser` is the output of
    the first idle one. The output of `shrink` into an idle level is not used.

    Args:
      blocks: gated blocks per level in the up pass.
      x: the stem's output.
      block: (name, stream, skip) -> stream; there is no skip in the up pass.
      shrink: (name, stream) -> the stream at the next coarser level.
      grow: (name, stream) -> the stream at the next finer level.
      levels: number of active levels.
      coarser: where the down pass starts instead of at the end of the up pass.
    """
    skips = [x]
    for level in range(levels):
        for i in range(blocks):
            x = block(f"up{level}_{i}", x, None)
            skips.append(x)
        if level < LEVELS - 1:
            x = shrink(f"shrink{level}", x)
        if level < levels - 1:
            skips.append(x)
    x = skips.pop() if coarser is None else coarser
    for level in reversed(range(levels)):
        for i in range(down_blocks(blocks, level)):
            x = block(f"down{level}_{i}", x, skips.pop())
        if level:
            x = grow(f"grow{level}", x)
    return x


# ---- network ----


class PixelCNN(nn.Module):
    """Logits of each pixel's distribution given all pixels before it.

    Attributes:
      features: channels of both streams.
      blocks: gated blocks per level (`nr_resnet`); see `down_blocks`.
      mixtures: components of the distribution.
      channels: of the image, 3 or 1.
      nonlinearity: a key of NONLINEARITIES.
      dropout: share of the features dropped in training.
      dtype: dtype of computation.
      remat: whether the backward pass recomputes the blocks instead of storing them.
    """

    features: int = 160
    blocks: int = 5
    mixtures: int = 10
    channels: int = 3
    nonlinearity: str = "concat_elu"
    dropout: float = 0.5
    dtype: Any = jnp.float32
    remat: bool = False

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "b h w c"],
        train: bool,
        condition: Float[Array, "b k"] | None = None,
    ) -> Float[Array, "b h w m"]:
        """Logits as `logistic` reads them, for images in [-1, 1]."""
        check_size(x.shape[1], x.shape[2])
        x = with_ones(x)
        u_outputs: dict[str, Array] = {}  # of each block, the input of its twin in ul

        def block_u(name: str, u: Array, skip: Array | None) -> Array:
            u_outputs[name] = self.gated(f"{name}_u")(u, train, skip, condition)
            return u_outputs[name]

        def block_ul(name: str, ul: Array, skip: Array | None) -> Array:
            u = u_outputs[name]
            a = u if skip is None else jnp.concatenate([u, skip], -1)
            return self.gated(f"{name}_ul")(ul, train, a, condition)

        walk(
            self.blocks,
            shift_down(self.conv("stem_u", (2, 3))(x)),
            block_u,
            lambda name, u: self.conv(f"{name}_u", (2, 3), stride=2)(u),
            lambda name, u: self.grow(f"{name}_u", (2, 3))(u),
        )
        above = shift_down(self.conv("stem_above", (1, 3))(x))
        left = shift_right(self.conv("stem_left", (2, 1), right=True)(x))
        ul = walk(
            self.blocks,
            above + left,
            block_ul,
            lambda name, ul: self.conv(f"{name}_ul", (2, 2), stride=2, right=True)(ul),
            lambda name, ul: self.grow(f"{name}_ul", (2, 2))(ul),
        )
        logits = Dense(
            logit_count(self.mixtures, self.channels), dtype=self.dtype, name="head"
        )(nn.elu(ul))
        return logits.astype(jnp.promote_types(self.dtype, jnp.float32))

    @nn.nowrap
    def gated(self, name: str) -> Gated:
        """A gated block; those of the stream `ul` read pixels to the left as well."""
        block = nn.remat(Gated, static_argnums=(2,)) if self.remat else Gated
        return block(
            self.features,
            name.endswith("ul"),
            self.nonlinearity,
            self.dropout,
            self.dtype,
            name=name,
        )

    @nn.nowrap
    def conv(self, name: str, kernel: tuple[int, int], **options: Any) -> Conv:
        """A causal convolution."""
        return Conv(
            self.features, dtype=self.dtype, name=name, kernel=kernel, **options
        )

    @nn.nowrap
    def grow(self, name: str, kernel: tuple[int, int]) -> Grow:
        """A causal transposed convolution, which doubles the size."""
        return Grow(self.features, dtype=self.dtype, name=name, kernel=kernel)
