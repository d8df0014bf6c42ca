"""Convolutions with PyTorch's numerics and the spectral norm of the originals.

A spectrally normalised kernel starts with PyTorch's uniform initialisation. Any other
starts with `kernel_init`, by default PICNet's orthogonal one of gain 0.02: the original
asks for it everywhere, but its spectral norm renames the parameter first, so that it
only reaches layers without.

The functions are the plain operations; on a CPU they take the form of
`picjax.layers.conv_cpu`.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float

from picjax.layers import conv_cpu
from picjax.layers.backend import on_cpu

Init = Callable[..., Array]

# ---- operations ----


def convolve(
    x: Float[Array, "b h w c"],
    kernel: Float[Array, "k l c d"],
    stride: int = 1,
    padding: tuple[int, int] = (0, 0),
) -> Float[Array, "b _h _w d"]:
    """A convolution with `padding` zeros beyond both ends of (rows, columns)."""
    if on_cpu():
        geometry = (*kernel.shape[:2], stride, *padding)
        if geometry in ((4, 4, 2, 1, 1), (4, 4, 2, 2, 2)):
            return conv_cpu.halve(x, kernel, padding[0])
        few = kernel.shape[-1] <= conv_cpu.FEW_CHANNELS
        if geometry == (3, 3, 1, 0, 0) and few:
            return conv_cpu.convolve_to_few(x, kernel)
        if stride == 1 and not few and conv_cpu.dense_is_faster(x, kernel):
            rows, columns = ((p, p) for p in padding)
            return conv_cpu.dense(x, kernel, rows, columns)
    return lax.conv_general_dilated(
        x,
        kernel.astype(x.dtype),
        (stride, stride),
        [(zeros, zeros) for zeros in padding],
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )


def convolve_and_pool(
    x: Float[Array, "b h w c"], kernel: Float[Array, "k k c d"]
) -> Float[Array, "b h2 w2 d"]:
    """A convolution that keeps the size, then `average_pool`."""
    if kernel.shape[0] == 1:  # the two commute
        return convolve(average_pool(x), kernel)
    if on_cpu() and kernel.shape[0] == 3:
        return conv_cpu.convolve_and_pool(x, kernel)
    half = kernel.shape[0] // 2
    return average_pool(convolve(x, kernel, padding=(half, half)))


def convolve_transposed(
    x: Float[Array, "b h w c"], kernel: Float[Array, "k k c d"]
) -> Float[Array, "b h2 w2 d"]:
    """PyTorch's transposed convolution of stride 2 and padding 1 that doubles the size.

    Raises:
      ValueError: unless the kernel has size 3 (with output padding 1) or 4 (without).
    """
    size = kernel.shape[0]
    if size not in (3, 4):
        raise ValueError(
            f"a kernel of size {size} does not double the size; use 3 or 4"
        )
    if on_cpu():
        return conv_cpu.convolve_transposed(x, kernel)
    padding = (size - 2, 2)
    return lax.conv_general_dilated(
        x,
        kernel[::-1, ::-1].astype(x.dtype),
        (1, 1),
        (padding, padding),
        lhs_dilation=(2, 2),
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )


def upsample_and_convolve(
    x: Float[Array, "b h w c"], kernel: Float[Array, "3 3 c d"]
) -> Float[Array, "b h2 w2 d"]:
    """`upsample`, then a 3 x 3 convolution that keeps the size."""
    if on_cpu():
        return conv_cpu.upsample_and_convolve(x, kernel)
    return convolve(upsample(x), kernel, padding=(1, 1))


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
    """Append the x and then the y position of each pixel, from -1 to 1 (CoordConv)."""
    b, h, w, _ = x.shape
    across = jnp.broadcast_to(jnp.linspace(-1, 1, w)[None, None, :, None], (b, h, w, 1))
    down = jnp.broadcast_to(jnp.linspace(-1, 1, h)[None, :, None, None], (b, h, w, 1))
    return jnp.concatenate([x, across.astype(x.dtype), down.astype(x.dtype)], -1)


def add_bias(
    y: Float[Array, "*b d"], bias: Float[Array, " d"] | None
) -> Float[Array, "*b d"]:
    """Add a bias to the last axis, if there is one."""
    return y if bias is None else y + bias.reshape((1,) * (y.ndim - 1) + (-1,))


# ---- spectral norm ----


def unit(x: Float[Array, " n"]) -> Float[Array, " n"]:
    """x / (|x| + 1e-12)."""
    return x / (jnp.linalg.norm(x) + 1e-12)


def power_iteration(
    matrix: Float[Array, "r c"], u: Float[Array, " r"]
) -> tuple[Float[Array, " r"], Float[Array, " c"]]:
    """One step towards the leading singular pair, without gradient: (u, v)."""
    matrix = lax.stop_gradient(matrix)
    v = unit(jnp.dot(matrix.T, u, precision=lax.Precision.HIGHEST))
    return unit(jnp.dot(matrix, v, precision=lax.Precision.HIGHEST)), v


# ---- layers ----


def uniform_init(fan_in: int) -> Init:
    """PyTorch's default initialiser of kernels and biases: U(-b, b), b = fan_in^-1/2."""
    bound = fan_in**-0.5

    def init(key: Any, shape: Sequence[int], dtype: Any = jnp.float32) -> Array:
        # Drawn flat: XLA compiles a draw of four axes five times slower on a CPU.
        flat = jax.random.uniform(key, (math.prod(shape),), dtype, -bound, bound)
        return flat.reshape(shape)

    return init


class _SpectralKernel(nn.Module):
    """A kernel [kh kw in out] and a bias; `u` and `v` in "stats" if `spectral`.

    Spectral norm divides the kernel by the largest singular value of the original's
    matrix: a row for each first channel of PyTorch's kernel (out, or in if transposed)
    and a column for each (other channel, kh, kw).
    """

    features: int
    kernel: int = 3
    use_bias: bool = True
    spectral: bool = True
    kernel_init: Init = nn.initializers.orthogonal(0.02)
    dtype: Any = jnp.float32

    def _weights(
        self, in_features: int, power_iterations: int, transposed: bool = False
    ) -> tuple[Array, Array | None]:
        """The effective kernel and the bias."""
        shape = (self.kernel, self.kernel, in_features, self.features)
        # PyTorch takes the second axis of the kernel for the fan-in, transposed or not.
        fan_in = self.kernel**2 * (self.features if transposed else in_features)
        uniform = uniform_init(fan_in)
        init = uniform if self.spectral else self.kernel_init
        kernel = self.param("kernel", init, shape)
        bias = None
        if self.use_bias:
            zeros = nn.initializers.zeros_init()
            init = uniform if self.spectral else zeros
            bias = self.param("bias", init, (self.features,)).astype(self.dtype)
        if self.spectral:
            axes = (2, 3, 0, 1) if transposed else (3, 2, 0, 1)
            kernel = self._normalise(kernel, axes, power_iterations)
        return kernel, bias

    def _normalise(
        self, kernel: Array, axes: tuple[int, ...], power_iterations: int
    ) -> Array:
        matrix = kernel.transpose(axes).reshape(kernel.shape[axes[0]], -1)
        u, v = (
            self.variable("stats", name, self._random_unit, size)
            for name, size in zip("uv", matrix.shape, strict=True)
        )
        # One iteration at initialisation, too: with two random vectors sigma is about 0,
        # and a fresh network could not be used frozen.
        for _ in range(1 if self.is_initializing() else power_iterations):
            u.value, v.value = power_iteration(matrix, u.value)
        row, column = lax.stop_gradient((u.value, v.value))
        sigma = jnp.dot(row, jnp.dot(matrix, column, precision=lax.Precision.HIGHEST))
        return kernel / sigma

    def _random_unit(self, size: int) -> Array:
        return unit(jax.random.normal(self.make_rng("params"), (size,)))


class Conv(_SpectralKernel):
    """A square convolution, optionally spectral-normalised.

    With `coord` it also sees the coordinates of each pixel; with `pool` a 2 x 2 average
    pool follows.
    """

    stride: int = 1
    padding: int = 0
    coord: bool = False
    pool: bool = False

    @nn.compact
    def __call__(
        self, x: Float[Array, "b h w c"], power_iterations: int = 0
    ) -> Float[Array, "b h2 w2 d"]:
        x = x.astype(self.dtype)
        if self.coord:
            x = add_coordinates(x)
        kernel, bias = self._weights(x.shape[-1], power_iterations)
        if self.pool:
            return add_bias(convolve_and_pool(x, kernel), bias)
        padding = (self.padding, self.padding)
        return add_bias(convolve(x, kernel, self.stride, padding), bias)


class ConvTranspose(_SpectralKernel):
    """PyTorch's transposed convolution of stride 2 that doubles the size.

    Its kernel has size 3 or 4.
    """

    @nn.compact
    def __call__(
        self, x: Float[Array, "b h w c"], power_iterations: int = 0
    ) -> Float[Array, "b h2 w2 d"]:
        x = x.astype(self.dtype)
        kernel, bias = self._weights(x.shape[-1], power_iterations, transposed=True)
        return add_bias(convolve_transposed(x, kernel), bias)


class UpsampleConv(_SpectralKernel):
    """Nearest-neighbour upsampling by 2 and a 3 x 3 convolution of padding 1.

    Every output pixel has the same number of inputs, so it draws no checkerboard, which
    a transposed convolution does.
    """

    @nn.compact
    def __call__(
        self, x: Float[Array, "b h w c"], power_iterations: int = 0
    ) -> Float[Array, "b h2 w2 d"]:
        x = x.astype(self.dtype)
        kernel, bias = self._weights(x.shape[-1], power_iterations)
        return add_bias(upsample_and_convolve(x, kernel), bias)
