"""Conditional normalisation: INADE, SPADE and CLADE, three choices for one place.

Each normalises without parameters, then scales and shifts every pixel by what the
layout says there. `NORMS[name](classes=..., name=...)` is called with the features, the
layout at any size, the style noise (INADE alone reads it) and `train`.

References:
  INADE: Tan et al., Diverse Semantic Image Synthesis via Probability Distribution
    Modeling, CVPR 2021, arXiv 2103.06878.
  SPADE: Park et al., Semantic Image Synthesis with Spatially-Adaptive Normalization,
    CVPR 2019, arXiv 1903.07291.
  CLADE: Tan et al., Efficient Semantic Image Synthesis via Class-Adaptive
    Normalization, TPAMI 2021, arXiv 2012.04644.
"""

from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int

from picjax.cli import UserError
from picjax.layers.conv import Conv
from picjax.layers.initialisers import kernel_init
from picjax.layers.norm import EPSILON, InstanceNorm
from picjax.methods.inade.layout import Layout

Statistics = Literal["batch", "instance"]
Noise = Float[Array, "b i 2 z"]  # index 0 of axis 2 feeds the scale, index 1 the shift

# Xavier normal of gain 0.02, std = 0.02 sqrt(2 / (fan_in + fan_out)).
XAVIER = kernel_init("xavier", 0.02)
XAVIER_DENSE = nn.initializers.variance_scaling(0.02**2, "fan_avg", "normal")


class BatchNorm(nn.Module):
    """PyTorch's batch norm without scale and bias.

    In training, the batch's own statistics normalise (biased variance) and move the
    running ones by 0.1 (unbiased variance). Under `jax.jit` the batch is that of all
    devices, so statistics are synchronised.

    Raises:
      UserError: in training with a single value per channel, which has no variance.
    """

    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"], train: bool) -> Array:
        channels = x.shape[-1]
        mean = self.variable("stats", "mean", jnp.zeros, (channels,))
        var = self.variable("stats", "var", jnp.ones, (channels,))
        # PyTorch's number of batches; the original stores it and never advances it.
        self.variable("stats", "count", jnp.zeros, (), jnp.int32)
        x = x.astype(jnp.float32)
        m, v = mean.value, var.value
        if train and not self.is_initializing():
            n = x.size // channels
            if n < 2:
                raise UserError(
                    "batch norm cannot train on a single value per channel; use a "
                    "larger batch or image size"
                )
            m = x.mean((0, 1, 2))
            v = jnp.square(x - m.reshape(1, 1, 1, -1)).mean((0, 1, 2))
            mean.value = 0.9 * mean.value + 0.1 * m
            var.value = 0.9 * var.value + 0.1 * v * (n / (n - 1))
        m, v = m.reshape(1, 1, 1, -1), v.reshape(1, 1, 1, -1)
        return ((x - m) / jnp.sqrt(v + EPSILON)).astype(self.dtype)


def _normalise(
    statistics: Statistics, dtype: Any, x: Float[Array, "b h w c"], train: bool
) -> Float[Array, "b h w c"]:
    """Called in a compact module, whose submodule `param_free_norm` it adds."""
    if statistics == "batch":
        return BatchNorm(dtype=dtype, name="param_free_norm")(x, train)
    return InstanceNorm(affine=False, dtype=dtype, name="param_free_norm")(x)


class LabelConv(nn.Module):
    """A convolution of the one-hot label map and the edges, with zero padding.

    Computed by gathers: each tap adds the kernel's row of the class under it.
    """

    features: int
    classes: int
    kernel: int = 3
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self, label: Int[Array, "b h w"], edges: Float[Array, "b h w 1"] | None
    ) -> Float[Array, "b h w d"]:
        size, pad = self.kernel, self.kernel // 2
        channels = self.classes + (edges is not None)
        kernel = self.param("kernel", XAVIER, (size, size, channels, self.features))
        bias = self.param("bias", nn.initializers.zeros_init(), (self.features,))
        kernel, bias = kernel.astype(self.dtype), bias.astype(self.dtype)
        # Class number `classes` is what lies outside the image: a row of zeros.
        outside = ((0, 0), (0, 0), (0, 1), (0, 0))
        table = jnp.pad(kernel[:, :, : self.classes], outside)
        h, w = label.shape[1:]
        border = ((0, 0), (pad, pad), (pad, pad))
        label = jnp.pad(label, border, constant_values=self.classes)
        y = bias.reshape(1, 1, 1, -1)
        for i in range(size):
            for j in range(size):
                y = y + table[i, j][label[:, i : i + h, j : j + w]]
        if edges is None:
            return y
        return y + lax.conv_general_dilated(
            edges.astype(self.dtype),
            kernel[:, :, self.classes :],
            (1, 1),
            ((pad, pad), (pad, pad)),
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
        )


class InadeModulation(nn.Module):
    """Scale and shift of every pixel: tables per class, applied to noise per instance.

    At a pixel of class c and instance i, with n_s and n_b one linear map of the
    instance's two noise vectors, the scale is weight[c, 0] n_s[i] + bias[c, 0] and the
    shift weight[c, 1] n_b[i] + bias[c, 1].
    """

    features: int
    classes: int
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self, layout: Layout, noise: Noise
    ) -> tuple[Float[Array, "b h w c"], Float[Array, "b h w c"]]:
        shape = (self.classes, self.features, 2)
        weight = self.param("weight", nn.initializers.uniform(1.0), shape)
        bias = self.param("bias", nn.initializers.zeros_init(), shape)
        linear = nn.Dense(
            self.features, dtype=self.dtype, kernel_init=XAVIER_DENSE, name="fc_noise"
        )
        style = linear(noise)  # b i 2 c
        at_pixel = jax.vmap(lambda rows, ids: rows[ids])(style, layout.instance)

        def of_class(table: Array) -> Float[Array, "b h w 2 c"]:
            return table.astype(self.dtype).swapaxes(1, 2)[layout.label]

        modulation = of_class(weight) * at_pixel + of_class(bias)
        return modulation[..., 0, :], modulation[..., 1, :]


class InadeNorm(nn.Module):
    """y = scale x^ + shift by `InadeModulation`; there is no 1 + in the scale.

    With `sketch`, features of the sketch are appended and a 1 x 1 convolution merges
    both.
    """

    classes: int
    statistics: Statistics = "batch"
    sketch: bool = False
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self, x: Float[Array, "b h w c"], layout: Layout, noise: Noise, train: bool
    ) -> Float[Array, "b h w c"]:
        channels = x.shape[-1]
        layout = layout.resize((x.shape[1], x.shape[2]))
        modulation = InadeModulation(
            channels, self.classes, self.dtype, name="modulation"
        )
        scale, shift = modulation(layout, noise)
        y = scale * _normalise(self.statistics, self.dtype, x, train) + shift
        if not self.sketch:
            return y
        if layout.sketch is None:
            raise ValueError("a sketch branch needs a sketch in the layout")
        lines = _conv(self, "sketch_conv", channels, 3)(layout.sketch, 0)
        merge = _conv(self, "merge_conv", channels, 1, use_bias=False)
        return merge(jnp.concatenate([y, lines], -1), 0)


class SpadeNorm(nn.Module):
    """Scale and shift by convolutions of the label map: y = (1 + scale) x^ + shift."""

    classes: int
    statistics: Statistics = "batch"
    kernel: int = 3
    hidden: int = 128
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "b h w c"],
        layout: Layout,
        noise: Noise | None,
        train: bool,
    ) -> Float[Array, "b h w c"]:
        del noise
        channels = x.shape[-1]
        layout = layout.resize((x.shape[1], x.shape[2]))
        shared = LabelConv(
            self.hidden, self.classes, self.kernel, self.dtype, name="mlp_shared"
        )
        hidden = nn.relu(shared(layout.label, layout.edges))
        scale = _conv(self, "mlp_gamma", channels, self.kernel)(hidden, 0)
        shift = _conv(self, "mlp_beta", channels, self.kernel)(hidden, 0)
        return (1 + scale) * _normalise(self.statistics, self.dtype, x, train) + shift


class CladeNorm(nn.Module):
    """Scale and shift from tables per class: y = weight[c] x^ + bias[c].

    With a position map both are multiplied by 1 + a 1 x 1 convolution of it. With edges,
    a 1 x 1 convolution of them is appended as one more channel.
    """

    classes: int
    statistics: Statistics = "batch"
    position: bool = False
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "b h w c"],
        layout: Layout,
        noise: Noise | None,
        train: bool,
    ) -> Float[Array, "b h w d"]:
        del noise
        layout = layout.resize((x.shape[1], x.shape[2]))
        shape = (self.classes, x.shape[-1])
        weight = self.param("weight", nn.initializers.uniform(1.0), shape)
        bias = self.param("bias", nn.initializers.zeros_init(), shape)
        scale = weight.astype(self.dtype)[layout.label]
        shift = bias.astype(self.dtype)[layout.label]
        if self.position:
            if layout.position is None:
                raise ValueError("CLADE's position branch needs a position map")
            zero = nn.initializers.zeros_init()
            scale = scale * (1 + _one(self, "dist_conv_w", zero)(layout.position, 0))
            shift = shift * (1 + _one(self, "dist_conv_b", zero)(layout.position, 0))
        y = scale * _normalise(self.statistics, self.dtype, x, train) + shift
        if layout.edges is None:
            return y
        edges = _one(self, "inst_conv", XAVIER)(layout.edges, 0)
        return jnp.concatenate([y, edges], -1)


NORMS = {"inade": InadeNorm, "spade": SpadeNorm, "clade": CladeNorm}


def _conv(
    module: Any, name: str, features: int, kernel: int, use_bias: bool = True
) -> Conv:
    """A plain convolution that keeps the size and starts by Xavier's rule."""
    return Conv(
        features,
        kernel,
        use_bias=use_bias,
        spectral=False,
        kernel_init=XAVIER,
        padding=kernel // 2,
        dtype=module.dtype,
        name=name,
    )


def _one(module: Any, name: str, init: Any) -> Conv:
    """A 1 x 1 convolution to one channel."""
    return Conv(1, 1, spectral=False, kernel_init=init, dtype=module.dtype, name=name)
