"""Convolutions with PyTorch's numerics and the spectral norm of the originals.

A kernel that spectral norm divides keeps PyTorch's uniform start; one that it does not
gets `kernel_init`, by default PICNet's orthogonal with gain 0.02 (which is set for every
layer, but spectral norm renames the parameter first, so it reaches no other).
`update_stats` is the number of power iterations of a call; 0 leaves u and v as they are.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float

_HIGHEST = lax.Precision.HIGHEST


def unit(x: Float[Array, " n"]) -> Float[Array, " n"]:
    """x / (|x| + 1e-12)."""
    return x / (jnp.linalg.norm(x) + 1e-12)


def power_iteration(
    matrix: Float[Array, "r c"], u: Float[Array, " r"]
) -> tuple[Float[Array, " r"], Float[Array, " c"]]:
    """One step towards the leading singular pair, without gradient: (u, v)."""
    matrix = lax.stop_gradient(matrix)
    v = unit(jnp.dot(matrix.T, u, precision=_HIGHEST))
    return unit(jnp.dot(matrix, v, precision=_HIGHEST)), v


def average_pool(x: Float[Array, "b h w c"]) -> Float[Array, "b h2 w2 c"]:
    """Mean of each 2 x 2 block; an odd last row or column is dropped."""
    window = (1, 2, 2, 1)
    zero = np.zeros((), x.dtype)  # concrete, or it has no gradient
    return lax.reduce_window(x, zero, lax.add, window, window, "VALID") / 4


def upsample(x: Float[Array, "b h w c"]) -> Float[Array, "b h2 w2 c"]:
    """Each pixel as a block of 2 x 2."""
    b, h, w, c = x.shape
    blocks = jnp.broadcast_to(x[:, :, None, :, None], (b, h, 2, w, 2, c))
    return blocks.reshape(b, 2 * h, 2 * w, c)


def add_coordinates(x: Float[Array, "b h w c"]) -> Float[Array, "b h w c2"]:
    """Appends the x then the y position of each pixel, from -1 to 1 (CoordConv)."""
    b, h, w, _ = x.shape
    across = jnp.broadcast_to(jnp.linspace(-1, 1, w)[None, None, :, None], (b, h, w, 1))
    down = jnp.broadcast_to(jnp.linspace(-1, 1, h)[None, :, None, None], (b, h, w, 1))
    return jnp.concatenate([x, across.astype(x.dtype), down.astype(x.dtype)], -1)


def _uniform(fan_in: int) -> Callable[..., Array]:
    bound = fan_in**-0.5

    def init(key: Any, shape: Sequence[int], dtype: Any = jnp.float32) -> Array:
        # Drawn flat: XLA compiles a draw of four axes five times slower on a CPU.
        flat = jax.random.uniform(key, (math.prod(shape),), dtype, -bound, bound)
        return flat.reshape(shape)

    return init


class PlainConv(nn.Module):
    """PyTorch's convolution or linear layer as it comes; the kernel is [*window in out].

    Without a window it is a linear layer, with one of ones a product at each position; a
    larger one sees half of itself in zeros beyond every edge. Kernel and bias start as
    PyTorch's do, uniformly, or at `zero`. With `double` a 3 x 3 one sees the input as
    `upsample` makes it.
    """

    features: int
    window: tuple[int, ...] = (3, 3)
    stride: int = 1
    zero: bool = False
    double: bool = False
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "b *i c"]) -> Float[Array, "b *j d"]:
        shape = (*self.window, x.shape[-1], self.features)
        start = _uniform(math.prod(shape[:-1]))
        if self.zero:
            start = nn.initializers.zeros_init()
        whole = self.param("kernel", start, shape)
        kernel = whole.astype(self.dtype)
        bias = self.param("bias", start, shape[-1:]).astype(self.dtype)
        x = x.astype(self.dtype)
        if self.double:
            y = _doubled(x, whole)
        elif math.prod(self.window) == 1:
            y = x @ kernel.reshape(shape[-2:])
        else:
            y = lax.conv_general_dilated(
                x,
                kernel,
                (self.stride, self.stride),
                [(side // 2, side // 2) for side in self.window],
                dimension_numbers=("NHWC", "HWIO", "NHWC"),
            )
        return y + bias.reshape((1,) * (y.ndim - 1) + (-1,))


class _Kernel(nn.Module):
    """A kernel [kh kw in out] and a bias; `u`, `v` in "stats" when spectral.

    The matrix that spectral norm looks at has the axes of the original: a row for each
    first channel of PyTorch's kernel (out, or in when transposed) and a column for each
    (other channel, kh, kw).
    """

    features: int
    kernel: int = 3
    use_bias: bool = True
    spectral: bool = True
    kernel_init: Callable[..., Array] = nn.initializers.orthogonal(0.02)
    dtype: Any = jnp.float32

    def _weights(
        self, in_features: int, update_stats: int, transposed: bool = False
    ) -> tuple[Array, Array | None]:
        """The effective kernel and the bias."""
        shape = (self.kernel, self.kernel, in_features, self.features)
        # PyTorch takes the second axis of the kernel for the fan-in, transposed or not.
        fan_in = self.kernel**2 * (self.features if transposed else in_features)
        uniform = _uniform(fan_in)
        start = uniform if self.spectral else self.kernel_init
        kernel = self.param("kernel", start, shape)
        bias = None
        if self.use_bias:
            zeros = nn.initializers.zeros_init()
            init = uniform if self.spectral else zeros
            bias = self.param("bias", init, (self.features,)).astype(self.dtype)
        if self.spectral:
            axes = (2, 3, 0, 1) if transposed else (3, 2, 0, 1)
            kernel = self._normalise(kernel, axes, update_stats)
        return kernel, bias

    def _normalise(
        self, kernel: Array, axes: tuple[int, ...], update_stats: int
    ) -> Array:
        matrix = kernel.transpose(axes).reshape(kernel.shape[axes[0]], -1)
        u, v = (
            self.variable("stats", name, self._first_vector, size)
            for name, size in zip("uv", matrix.shape, strict=True)
        )
        # One step at the start as well: with two random vectors sigma is about 0, and a
        # fresh network could not be used frozen.
        for _ in range(1 if self.is_initializing() else update_stats):
            u.value, v.value = power_iteration(matrix, u.value)
        row, column = lax.stop_gradient((u.value, v.value))
        sigma = jnp.dot(row, jnp.dot(matrix, column, precision=_HIGHEST))
        return kernel / sigma

    def _first_vector(self, size: int) -> Array:
        return unit(jax.random.normal(self.make_rng("params"), (size,)))

    def _convolve(
        self,
        x: Array,
        kernel: Array,
        bias: Array | None,
        stride: int,
        down: tuple[int, int],
        across: tuple[int, int],
    ) -> Array:
        y = lax.conv_general_dilated(
            x,
            kernel.astype(self.dtype),
            (stride, stride),
            (down, across),
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
        )
        return y if bias is None else y + bias.reshape(1, 1, 1, -1)


class Conv(_Kernel):
    """A square convolution, optionally spectral-normalised.

    With `pool` the result is that of a 2 x 2 average pool after it, computed at the
    small size: a 1 x 1 convolution commutes with the pool, a larger one merges with it
    into one of stride 2 (16 products a pooled pixel for a 3 x 3 instead of 36).
    """

    stride: int = 1
    padding: int = 0
    coord: bool = False
    pool: bool = False

    @nn.compact
    def __call__(
        self, x: Float[Array, "b h w c"], update_stats: int
    ) -> Float[Array, "b h2 w2 d"]:
        x = x.astype(self.dtype)
        if self.coord:
            x = add_coordinates(x)
        kernel, bias = self._weights(x.shape[-1], update_stats)
        stride, padding = self.stride, (self.padding, self.padding)
        if self.pool and self.kernel == 1:
            x = average_pool(x)
        elif self.pool:
            kernel, stride = _average_taps(kernel), 2
        if (kernel.shape[0], stride, self.padding) == (4, 2, 1):
            return self._halve(x, kernel, bias)
        return self._convolve(x, kernel, bias, stride, padding, padding)

    def _halve(self, x: Array, kernel: Array, bias: Array | None) -> Array:
        """A 4 x 4 convolution of stride 2 and padding 1.

        The sum of 2 x 2 convolutions of the four input phases (even or odd row and
        column): XLA's CPU back end takes twice the time for the strided one's gradient.
        """
        size = x.shape[1] // 2, x.shape[2] // 2

        def phase(i: int, j: int) -> Array:
            part, taps = x[:, i::2, j::2], kernel[1 - i :: 2, 1 - j :: 2]
            down, across = (
                (low, out + 1 - low - rows)
                for low, out, rows in zip((i, j), size, part.shape[1:3], strict=True)
            )
            return self._convolve(part, taps, None, 1, down, across)

        y = phase(0, 0) + phase(0, 1) + phase(1, 0) + phase(1, 1)
        return y if bias is None else y + bias.reshape(1, 1, 1, -1)


def _average_taps(kernel: Array) -> Array:
    """The kernel, one tap wider, of a convolution followed by a 2 x 2 average."""
    ends = [(0, 0), (0, 0)]
    for axis in (0, 1):
        before, after = [[(0, 0), (0, 0)], [(0, 0), (0, 0)]]
        before[axis], after[axis] = (1, 0), (0, 1)
        kernel = jnp.pad(kernel, before + ends) + jnp.pad(kernel, after + ends)
    return kernel / 4


class ConvTranspose(_Kernel):
    """PyTorch's transposed convolution of stride 2 and padding 1 that doubles the size.

    Of kernel 3 (with output padding 1) or 4 (without). Each of the four output phases
    (even or odd row and column) is a convolution of its own with the taps that reach
    it, interleaved afterwards: no product with a zero, and XLA's weight gradient of the
    dilated form is many times slower on a CPU.
    """

    @nn.compact
    def __call__(
        self, x: Float[Array, "b h w c"], update_stats: int
    ) -> Float[Array, "b h2 w2 d"]:
        x = x.astype(self.dtype)
        kernel, bias = self._weights(x.shape[-1], update_stats, transposed=True)
        if self.kernel not in _PHASES:
            raise ValueError(f"ConvTranspose needs kernel 3 or 4, not {self.kernel}")
        phases = _PHASES[self.kernel]

        def phase(rows: _Phase, columns: _Phase) -> Array:
            taps = kernel[rows.taps, columns.taps]
            return self._convolve(x, taps, None, 1, rows.padding, columns.padding)

        y = _interleave([[phase(r, c) for c in phases] for r in phases])
        return y if bias is None else y + bias.reshape(1, 1, 1, -1)


class _Phase(NamedTuple):
    """Every second output along one axis: the taps, and the zeros at both ends."""

    taps: slice
    padding: tuple[int, int]


# Outputs 2i, then 2i + 1. Of kernel 3, output 2i reads tap 1 of input i; of kernel 4,
# taps 3 and 1 of inputs i - 1 and i; output 2i + 1 taps 2 and 0 of inputs i and i + 1.
_ODD = _Phase(slice(2, None, -2), (0, 1))
_PHASES = {
    3: (_Phase(slice(1, 2), (0, 0)), _ODD),
    4: (_Phase(slice(3, None, -2), (1, 0)), _ODD),
}


class UpsampleConv(_Kernel):
    """Nearest-neighbour upsampling by 2 and a 3 x 3 convolution with padding 1.

    Every output pixel has the same number of inputs, so it draws no checkerboard, which
    a transposed convolution does.
    """

    @nn.compact
    def __call__(
        self, x: Float[Array, "b h w c"], update_stats: int
    ) -> Float[Array, "b h2 w2 d"]:
        x = x.astype(self.dtype)
        kernel, bias = self._weights(x.shape[-1], update_stats)
        y = _doubled(x, kernel)
        return y if bias is None else y + bias.reshape(1, 1, 1, -1)


def _doubled(x: Array, kernel: Array) -> Array:
    """A 3 x 3 convolution of x upsampled, computed at the small size.

    Each output phase sees 2 x 2 inputs through the sums of the taps that fall on them:
    4 products where there would be 9.
    """
    if kernel.shape[:2] != (3, 3):
        raise ValueError(f"upsampled before a kernel of {kernel.shape[:2]}, not 3 x 3")

    def phase(row: int, column: int) -> Array:
        taps = jnp.einsum(
            "ar,bs,rsio->abio",
            _SUMS[row],
            _SUMS[column],
            kernel,
            precision=_HIGHEST,
        )
        return lax.conv_general_dilated(
            x,
            taps.astype(x.dtype),
            (1, 1),
            [(1 - i, i) for i in (row, column)],
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
        )

    return _interleave([[phase(r, c) for c in (0, 1)] for r in (0, 1)])


# Output 2i reads inputs i - 1 and i, output 2i + 1 inputs i and i + 1.
_SUMS = np.array([[[1, 0, 0], [0, 1, 1]], [[1, 1, 0], [0, 0, 1]]], np.float32)


def _interleave(phases: list[list[Array]]) -> Float[Array, "b h2 w2 d"]:
    """Of phases[i][j] [b h w d] the image whose pixels (2y + i, 2x + j) they hold."""
    b, h, w, d = phases[0][0].shape
    y = jnp.stack([jnp.stack(row, 3) for row in phases], 2)
    return y.reshape(b, 2 * h, 2 * w, d)
