"""PixelCNN++'s network (Salimans et al., ICLR 2017, arXiv 1701.05517).

Two streams see the image: `u` all rows above, `ul` those and the pixels to the left.
The up pass takes both from full size through two halvings, the down pass back again
with a skip for every block, and the output at a pixel depends on no pixel at or after it
in raster order.

Every layer is weight-normalised. Its gain and bias start from the first batch: where a
layer has none yet, it makes them so that its output has mean 0 and deviation
`init_scale` (specification, section 10). `init` therefore wants real images, and a
`dropout` key if there is dropout.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from picjax.cli import UserError
from picjax.methods.pixelcnn.logistic import logit_count

LEVELS = 3
Pad = tuple[tuple[int, int], tuple[int, int]]


def check_size(height: int, width: int) -> None:
    """Refuses sizes whose levels do not fit together.

    Raises:
      UserError: unless both are multiples of 4, from 4.
    """
    if height % 4 or width % 4 or min(height, width) < 4:
        raise UserError(
            f"an image size of {height}x{width} does not halve twice; "
            "use multiples of 4 with PixelCNN++"
        )


# ---- nonlinearities and shifts ----


def concat_elu(x: Float[Array, "*b c"]) -> Float[Array, "*b c2"]:
    """elu of x and -x side by side: twice as many channels."""
    positive = x > 0
    # One of the two is linear, so that one exponential serves both; a step on a CPU
    # takes a tenth less time, and a fifth less memory, than with elu of both.
    bent = jnp.expm1(jnp.where(positive, -x, x))
    return jnp.concatenate(
        [jnp.where(positive, x, bent), jnp.where(positive, bent, -x)], -1
    )


NONLINEARITIES: dict[str, Callable[[Array], Array]] = {
    "concat_elu": concat_elu,
    "elu": nn.elu,
    "relu": nn.relu,
}


def shift_down(x: Float[Array, "b h w c"]) -> Float[Array, "b h w c"]:
    """Each row where the next one was; the first is 0."""
    return jnp.pad(x[:, :-1], ((0, 0), (1, 0), (0, 0), (0, 0)))


def shift_right(x: Float[Array, "b h w c"]) -> Float[Array, "b h w c"]:
    """Each column where the next one was; the first is 0."""
    return jnp.pad(x[:, :, :-1], ((0, 0), (0, 0), (1, 0), (0, 0)))


def with_ones(x: Float[Array, "*b c"]) -> Float[Array, "*b d"]:
    """A channel of ones appended, which tells black from beyond the edge."""
    return jnp.concatenate([x, jnp.ones_like(x[..., :1])], -1)


# ---- weight-normalised layers ----


def convolve(x: Array, kernel: Array, stride: int, pad: Pad) -> Array:
    """A convolution, NHWC and HWIO."""
    numbers = ("NHWC", "HWIO", "NHWC")
    return lax.conv_general_dilated(
        x, kernel, (stride, stride), pad, dimension_numbers=numbers
    )


def transposed(x: Float[Array, "b h w c"], kernel: Float[Array, "2 n o c"]) -> Array:
    """full[2 i + a, 2 j + b] += x[i, j] kernel[a, b]: [b 2h+1 2w+n-1 o].

    The last row, and the last column, is reached by no input: 0.
    """
    b, h, w, _ = x.shape
    n, out = kernel.shape[1:3]
    taps = jnp.einsum("bhwc,yxoc->bhywxo", x, kernel)
    if n == 2:
        full = taps.reshape(b, 2 * h, 2 * w, out)
        return jnp.pad(full, ((0, 0), (0, 1), (0, 1), (0, 0)))
    ends = ((0, 0), (0, 0), (0, 0))
    left, middle, right = (taps[..., i, :] for i in range(3))
    even = jnp.pad(left, (*ends, (0, 1), (0, 0))) + jnp.pad(
        right, (*ends, (1, 0), (0, 0))
    )
    odd = jnp.pad(middle, (*ends, (0, 1), (0, 0)))
    full = jnp.stack([even, odd], 4).reshape(b, 2 * h, 2 * w + 2, out)
    return jnp.pad(full, ((0, 0), (0, 1), (0, 0), (0, 0)))


def direction(v: Array, out_axis: int) -> Array:
    """`v` with norm 1 for each output channel, which `out_axis` counts from the end."""
    axes = tuple(i for i in range(v.ndim) if i != v.ndim + out_axis)
    norm = jnp.square(v).sum(axes, keepdims=True)
    return v * lax.rsqrt(jnp.maximum(norm, 1e-12))


def along(x: Array, ndim: int, axis: int) -> Array:
    """A vector as an array of `ndim` axes that it varies along one of."""
    shape = [1] * ndim
    shape[axis] = -1
    return x.reshape(shape)


def effective(v: Array, g: Array, out_axis: int) -> Array:
    """The kernel that direction `v` and gain `g` stand for."""
    return direction(v, out_axis) * along(g, v.ndim, out_axis)


def _normal(key: Array, shape: Sequence[int]) -> Array:
    # Drawn flat: XLA compiles a draw of four axes five times slower on a CPU.
    return 0.05 * jax.random.normal(key, (math.prod(shape),)).reshape(shape)


class _Normalised(nn.Module):
    """A linear layer with kernel g V / |V| and bias b; `V`, `g`, `b` in "params"."""

    features: int
    init_scale: float = 1.0
    dtype: Any = jnp.float32

    def _linear(
        self, shape: tuple[int, ...], linear: Callable[[Array], Array], out_axis: int
    ) -> Array:
        """`linear` is the layer without gain and bias, from kernel to whole output."""
        v = self.param("V", _normal, shape)
        fresh = not self.has_variable("params", "g")
        raw = None
        scale, offset = jnp.ones(self.features), jnp.zeros(self.features)
        if fresh:
            raw = linear(direction(v, out_axis).astype(self.dtype))
            scale, offset = _whiten(raw, self.init_scale)
        g = self.param("g", lambda key: scale)
        b = self.param("b", lambda key: offset).astype(self.dtype)
        if raw is None:
            y = linear(effective(v, g, out_axis).astype(self.dtype))
        else:
            y = raw * along(g.astype(self.dtype), raw.ndim, -1)
        return y + along(b, y.ndim, -1)


def _whiten(y: Array, init_scale: float) -> tuple[Array, Array]:
    """Gain and bias after which each channel of y has mean 0 and that deviation."""
    axes = tuple(range(y.ndim - 1))
    mean, variance = y.mean(axes), y.var(axes)
    scale = init_scale / jnp.sqrt(variance + 1e-10)
    return scale, -mean * scale


class Conv(_Normalised):
    """Causal: sees its own row and those above and, if `right`, no column to the right.

    What it is given is kept in the collection `inputs`, where that is mutable: cached
    sampling begins from there.
    """

    kernel: tuple[int, int] = (2, 3)
    stride: int = 1
    right: bool = False

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b i j d"]:
        x = x.astype(self.dtype)
        self.sow("inputs", "x", x)
        rows, columns = self.kernel
        left, right = columns - 1, 0
        if not self.right:
            left = right = (columns - 1) // 2
        pad = ((rows - 1, 0), (left, right))
        shape = (rows, columns, x.shape[-1], self.features)
        return self._linear(shape, lambda w: convolve(x, w, self.stride, pad), -1)


class Grow(_Normalised):
    """A transposed convolution of stride 2; the kernel's axes are [2, n, out, in]."""

    kernel: tuple[int, int] = (2, 3)

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b i j d"]:
        x = x.astype(self.dtype)
        # The statistics of the first batch count the row and column that are cut off.
        full = self._linear(
            (*self.kernel, self.features, x.shape[-1]), lambda w: transposed(x, w), -2
        )
        return crop(full)


def crop(full: Float[Array, "b h w c"]) -> Float[Array, "b i j c"]:
    """What is kept of `transposed`: one less row and, left and right, column."""
    odd = full.shape[2] % 2
    return full[:, :-1, :-1] if odd else full[:, :-1, 1:-1]


class Dense(_Normalised):
    """A 1 x 1 convolution."""

    @nn.compact
    def __call__(self, x: Float[Array, "*b c"]) -> Float[Array, "*b d"]:
        x = x.astype(self.dtype)
        return self._linear((x.shape[-1], self.features), lambda w: x @ w, -1)


class Gated(nn.Module):
    """The residual block: x + value * sigmoid(gate) (specification, section 3)."""

    features: int
    right: bool
    nonlinearity: str = "concat_elu"
    dropout: float = 0.0
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "b h w c"],
        train: bool,
        a: Float[Array, "b h w d"] | None = None,
        condition: Float[Array, "b k"] | None = None,
    ) -> Float[Array, "b h w c"]:
        """`a` is what else the block sees at each pixel, `condition` at every one."""
        act, f = NONLINEARITIES[self.nonlinearity], self.features
        how: Any = {"kernel": (2, 2) if self.right else (2, 3), "right": self.right}
        c = Conv(f, dtype=self.dtype, name="conv_a", **how)(act(x))
        if a is not None:
            c = c + Dense(f, dtype=self.dtype, name="nin")(act(a))
        c = act(c)
        if self.dropout:
            c = nn.Dropout(self.dropout, deterministic=not train, name="dropout")(c)
        c = Conv(2 * f, 0.1, dtype=self.dtype, name="conv_b", **how)(c)
        if condition is not None:
            hw = self.param("hw", _normal, (condition.shape[-1], 2 * f))
            c = c + (condition @ hw)[:, None, None].astype(self.dtype)
        value, gate = jnp.split(c, 2, -1)
        return x + value * nn.sigmoid(gate)


# ---- network ----

Layer = Callable[[str, Array], Array]
Block = Callable[[str, Array, Array | None], Array]


def down_blocks(blocks: int, level: int) -> int:
    """Gated blocks of a level in the down pass."""
    return blocks if level == LEVELS - 1 else blocks + 1


def walk(
    blocks: int,
    x: Array,
    block: Block,
    shrink: Layer,
    grow: Layer,
    levels: int = LEVELS,
    coarser: Array | None = None,
) -> Array:
    """Takes a stream from its stem to its end; the network's whole topology.

    It serves images, and rows and pixels in cached sampling, where a coarse level may
    rest: then `levels` is less than all, and `coarser` what the first level at rest
    hands back. The output of `shrink` into a level at rest is not used.

    Args:
      blocks: gated blocks a level in the up pass.
      x: the stem's output.
      block: (name, stream, skip) -> stream; in the up pass there is no skip.
      shrink: (name, stream) -> the stream at the next coarser level.
      grow: (name, stream) -> the stream at the next finer level.
      levels: how many run.
      coarser: where the down pass begins instead of at the end of the up pass.
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


class PixelCNN(nn.Module):
    """Logits of each pixel's distribution given all pixels before it.

    Attributes:
      features: channels of both streams.
      blocks: gated blocks a level (`nr_resnet`); see `down_blocks`.
      mixtures: components of the distribution.
      channels: of the image, 3 or 1.
      nonlinearity: a key of NONLINEARITIES.
      dropout: share of the features left out in training.
      dtype: of computation.
      remat: computes blocks again in the backward pass instead of keeping them.
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
        """Logits as `losses.logistic` reads them, for images in [-1, 1]."""
        check_size(x.shape[1], x.shape[2])
        kind = nn.remat(Gated, static_argnums=(2,)) if self.remat else Gated

        def block(name: str, x: Array, a: Array | None = None) -> Array:
            made = kind(
                self.features,
                name.endswith("ul"),
                self.nonlinearity,
                self.dropout,
                self.dtype,
                name=name,
            )
            return made(x, train, a, condition)

        def conv(name: str, x: Array, kernel: tuple[int, int], **how: Any) -> Array:
            made = Conv(
                self.features, dtype=self.dtype, name=name, kernel=kernel, **how
            )
            return made(x)

        def grow(name: str, x: Array, kernel: tuple[int, int]) -> Array:
            made = Grow(self.features, dtype=self.dtype, name=name, kernel=kernel)
            return made(x)

        x = with_ones(x)
        seen: dict[str, Array] = {}  # u after each block, which ul's own looks at

        def block_u(name: str, u: Array, skip: Array | None) -> Array:
            seen[name] = block(f"{name}_u", u, skip)
            return seen[name]

        def block_ul(name: str, ul: Array, skip: Array | None) -> Array:
            u = seen[name]
            both = u if skip is None else jnp.concatenate([u, skip], -1)
            return block(f"{name}_ul", ul, both)

        walk(
            self.blocks,
            shift_down(conv("stem_u", x, (2, 3))),
            block_u,
            lambda name, u: conv(f"{name}_u", u, (2, 3), stride=2),
            lambda name, u: grow(f"{name}_u", u, (2, 3)),
        )
        above = shift_down(conv("stem_above", x, (1, 3)))
        left = shift_right(conv("stem_left", x, (2, 1), right=True))
        ul = walk(
            self.blocks,
            above + left,
            block_ul,
            lambda name, ul: conv(f"{name}_ul", ul, (2, 2), stride=2, right=True),
            lambda name, ul: grow(f"{name}_ul", ul, (2, 2)),
        )
        logits = Dense(
            logit_count(self.mixtures, self.channels), dtype=self.dtype, name="head"
        )(nn.elu(ul))
        return logits.astype(jnp.promote_types(self.dtype, jnp.float32))
