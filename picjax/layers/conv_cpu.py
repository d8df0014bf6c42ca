"""Convolutions rewritten for XLA's CPU back end.

Each function equals the plain operation of the same name in `picjax.layers.conv`, which
accelerators use. Here a strided, dilated or unpadded convolution becomes a few dense ones
of stride 1, whose gradients XLA's CPU back end computes several times faster. Times are
of two cores.
"""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float

Padding = tuple[int, int]  # zeros before and after, along one axis
FEW_CHANNELS = 4
LARGE = 2**16  # pixels of an image


def _plain(x: Array, kernel: Array, rows: Padding, columns: Padding) -> Array:
    return lax.conv_general_dilated(
        x,
        kernel,
        (1, 1),
        (rows, columns),
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )


@partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def _dense(x: Array, kernel: Array, rows: Padding, columns: Padding) -> Array:
    return _plain(x, kernel, rows, columns)


def _dense_forward(
    x: Array, kernel: Array, rows: Padding, columns: Padding
) -> tuple[Array, tuple[Array, Array]]:
    return _plain(x, kernel, rows, columns), (x, kernel)


def _dense_backward(
    rows: Padding, columns: Padding, inputs: tuple[Array, Array], dy: Array
) -> tuple[Array, Array]:
    x, kernel = inputs
    (dx,) = jax.linear_transpose(lambda x: _plain(x, kernel, rows, columns), x)(dy)
    padded = lax.pad(
        x, jnp.zeros((), x.dtype), [(0, 0, 0), (*rows, 0), (*columns, 0), (0, 0, 0)]
    )
    h, w = dy.shape[1:3]

    def tap(i: int, j: int) -> Array:
        return jnp.einsum("bhwc,bhwd->cd", padded[:, i : i + h, j : j + w], dy)

    height, width = kernel.shape[:2]
    return dx, jnp.stack(
        [jnp.stack([tap(i, j) for j in range(width)]) for i in range(height)]
    )


_dense.defvjp(_dense_forward, _dense_backward)


def dense(
    x: Float[Array, "b h w c"],
    kernel: Float[Array, "k l c d"],
    rows: Padding,
    columns: Padding,
) -> Float[Array, "b _h _w d"]:
    """A convolution of stride 1 whose kernel's gradient is a product per tap.

    XLA's CPU back end computes that gradient as a convolution whose window is the image.
    From 256 to 512 channels, 4 x 4 taps, 32 px, that takes 3.0 instead of 0.05 s; from 128
    to 64 channels at 256 px 0.93 instead of 0.02 s for one tap, 1.0 instead of 0.5 s for
    3 x 3.
    """
    return _dense(x, kernel.astype(x.dtype), rows, columns)


def dense_is_faster(
    x: Float[Array, "b h w c"], kernel: Float[Array, "k l c d"]
) -> bool:
    """Whether `dense` is the faster form: with 3 x 3 taps only for large images."""
    large = x.shape[1] * x.shape[2] >= LARGE
    return kernel.shape[0] in (1, 4) or (kernel.shape[0] == 3 and large)


def halve(
    x: Float[Array, "b h w c"], kernel: Float[Array, "4 4 c d"], padding: int = 1
) -> Float[Array, "b h2 w2 d"]:
    """A 4 x 4 convolution of stride 2 with `padding` zeros beyond each border.

    The sum of 2 x 2 convolutions of the four input phases (even or odd rows and
    columns): the gradient of the strided form takes twice as long.
    """
    size = [(length + 2 * padding - 4) // 2 + 1 for length in x.shape[1:3]]

    def phase(i: int, j: int) -> Array:
        first = [(padding + k) % 2 for k in (i, j)]  # taps that meet this phase
        taps = kernel[first[0] :: 2, first[1] :: 2]
        part = x[:, i::2, j::2]
        lows = [(padding + k - tap) // 2 for k, tap in zip((i, j), first, strict=True)]
        rows, columns = (
            (low, out + 1 - low - length)
            for low, out, length in zip(lows, size, part.shape[1:3], strict=True)
        )
        return dense(part, taps, rows, columns)

    return phase(0, 0) + phase(0, 1) + phase(1, 0) + phase(1, 1)


def convolve_and_pool(
    x: Float[Array, "b h w c"], kernel: Float[Array, "3 3 c d"]
) -> Float[Array, "b h2 w2 d"]:
    """A 3 x 3 convolution of padding 1, then a 2 x 2 average pool.

    Merged into one 4 x 4 convolution of stride 2, 16 products per pooled pixel instead
    of 36: value and gradient at 64 px take 12 instead of 28 ms.
    """
    ends = [(0, 0), (0, 0)]
    for axis in (0, 1):
        before, after = [[(0, 0), (0, 0)], [(0, 0), (0, 0)]]
        before[axis], after[axis] = (1, 0), (0, 1)
        kernel = jnp.pad(kernel, before + ends) + jnp.pad(kernel, after + ends)
    return halve(x, kernel / 4)


class _Phase(NamedTuple):
    """Every second output along one axis: the taps that reach it, and the padding."""

    taps: slice
    padding: Padding


# Outputs 2i, then 2i + 1. With kernel 3, output 2i reads tap 1 of input i; with kernel 4
# it reads taps 3 and 1 of inputs i - 1 and i. Output 2i + 1 reads taps 2 and 0 of inputs
# i and i + 1.
_ODD = _Phase(slice(2, None, -2), (0, 1))
_PHASES = {
    3: (_Phase(slice(1, 2), (0, 0)), _ODD),
    4: (_Phase(slice(3, None, -2), (1, 0)), _ODD),
}


def convolve_transposed(
    x: Float[Array, "b h w c"], kernel: Float[Array, "k k c d"]
) -> Float[Array, "b h2 w2 d"]:
    """PyTorch's transposed convolution of kernel 3 or 4 that doubles the size.

    Each of the four output phases is a convolution with the taps that reach it: no
    product with a zero. Value and gradient at 128 px take 87 instead of 466 ms.
    """
    phases = _PHASES[kernel.shape[0]]

    def phase(rows: _Phase, columns: _Phase) -> Array:
        taps = kernel[rows.taps, columns.taps]
        return dense(x, taps, rows.padding, columns.padding)

    return _interleave([[phase(r, c) for c in phases] for r in phases])


# Output 2i reads inputs i - 1 and i, output 2i + 1 inputs i and i + 1.
_SUMS = np.array([[[1, 0, 0], [0, 1, 1]], [[1, 1, 0], [0, 0, 1]]], np.float32)


def upsample_and_convolve(
    x: Float[Array, "b h w c"], kernel: Float[Array, "3 3 c d"]
) -> Float[Array, "b h2 w2 d"]:
    """Nearest-neighbour upsampling by 2, then a 3 x 3 convolution of padding 1.

    Each output phase sees 2 x 2 inputs through the sums of the taps that fall on them, 4
    products instead of 9: at 4 x 32 x 32 x 128 the value takes 75 instead of 152 ms and
    the gradient 166 instead of 325 ms (one core).
    """

    def phase(row: int, column: int) -> Array:
        taps = jnp.einsum(
            "ar,bs,rsio->abio",
            _SUMS[row],
            _SUMS[column],
            kernel,
            precision=lax.Precision.HIGHEST,
        )
        return dense(x, taps, (1 - row, row), (1 - column, column))

    return _interleave([[phase(r, c) for c in (0, 1)] for r in (0, 1)])


def convolve_to_few(
    x: Float[Array, "b h w c"], kernel: Float[Array, "3 3 c d"]
) -> Float[Array, "b _h _w d"]:
    """A 3 x 3 convolution without padding to at most `FEW_CHANNELS` channels.

    With a border of zeros whose outputs are cut off again: the unpadded form takes
    twenty times as long.
    """
    y = _plain(x, kernel.astype(x.dtype), (1, 1), (1, 1))
    return y[:, 1:-1, 1:-1]


def _interleave(phases: list[list[Array]]) -> Float[Array, "b h2 w2 d"]:
    """The image whose pixels (2y + i, 2x + j) are phases[i][j], each [b h w d]."""
    b, h, w, d = phases[0][0].shape
    y = jnp.stack([jnp.stack(row, 3) for row in phases], 2)
    return y.reshape(b, 2 * h, 2 * w, d)
