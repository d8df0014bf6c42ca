"""Normalisation with PyTorch's statistics, always computed in float32."""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from picjax.cli import UserError

EPSILON = 1e-5
_ONES = nn.initializers.ones_init()


class InstanceNorm(nn.Module):
    """Each channel of each image to mean 0, variance 1, then scale and bias.

    Without `affine` there are neither scale nor bias.
    """

    affine: bool = True
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self, x: Float[Array, "b h w c"], update_stats: int = False
    ) -> Float[Array, "b h w c"]:
        del update_stats  # There are no running statistics.
        x = x.astype(jnp.float32)
        mean = x.mean((1, 2), keepdims=True)
        var = jnp.square(x - mean).mean((1, 2), keepdims=True)
        y = (x - mean) / jnp.sqrt(var + EPSILON)
        return _affine(self, y) if self.affine else y.astype(self.dtype)


class BatchNorm(nn.Module):
    """PyTorch's batch norm over all axes but the last.

    With `update_stats` the batch's own statistics normalise (biased variance) and move
    the running ones by 0.1 (unbiased variance); without it the running ones normalise.

    Raises:
      UserError: in training with a single value a channel, which has no variance.
    """

    scale_init: Callable[..., Array] = _ONES
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self, x: Float[Array, "... c"], update_stats: int
    ) -> Float[Array, "... c"]:
        features = x.shape[-1]
        mean = self.variable("stats", "mean", jnp.zeros, (features,))
        var = self.variable("stats", "var", jnp.ones, (features,))
        count = self.variable("stats", "count", jnp.zeros, (), jnp.int32)
        x = x.astype(jnp.float32)
        m, v = mean.value, var.value
        if update_stats and not self.is_initializing():
            n = x.size // features
            if n < 2:
                raise UserError(
                    "batch norm cannot train on a batch of 1; use a larger batch size"
                    " or layer norm"
                )
            axes = tuple(range(x.ndim - 1))
            m = x.mean(axes)
            v = jnp.square(x - _last_axis(m, x.ndim)).mean(axes)
            mean.value = 0.9 * mean.value + 0.1 * m
            var.value = 0.9 * var.value + 0.1 * v * (n / (n - 1))
            count.value = count.value + 1
        m, v = _last_axis(m, x.ndim), _last_axis(v, x.ndim)
        return _affine(self, (x - m) / jnp.sqrt(v + EPSILON), self.scale_init)


class LayerNorm(nn.Module):
    """Each row to mean 0, variance 1 over its last axis, then scale and bias."""

    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self, x: Float[Array, "... c"], update_stats: int = False
    ) -> Float[Array, "... c"]:
        del update_stats  # There are no running statistics.
        x = x.astype(jnp.float32)
        mean = x.mean(-1, keepdims=True)
        var = jnp.square(x - mean).mean(-1, keepdims=True)
        return _affine(self, (x - mean) / jnp.sqrt(var + EPSILON))


class GroupNorm(nn.Module):
    """Each group of neighbouring channels of an image to mean 0, variance 1.

    Then scale and bias. The number of channels is a multiple of `groups`.
    """

    groups: int = 32
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "b *i c"]) -> Float[Array, "b *i c"]:
        x = x.astype(jnp.float32)
        mean = _group_mean(x, self.groups)
        var = _group_mean(jnp.square(x - mean), self.groups)
        return _affine(self, x - mean, divisor=jnp.sqrt(var + EPSILON))


NORMS = {"instance": InstanceNorm, "batch": BatchNorm, "layer": LayerNorm}


def _group_mean(x: Array, groups: int) -> Array:
    """The mean of each channel's group, with an axis of 1 for each position."""
    b, c = x.shape[0], x.shape[-1]
    # Channel by channel first: the last axis stays whole, which XLA vectorises.
    each = x.mean(tuple(range(1, x.ndim - 1))).reshape(b, groups, c // groups)
    mean = jnp.broadcast_to(each.mean(-1, keepdims=True), each.shape)
    return mean.reshape((b,) + (1,) * (x.ndim - 2) + (c,))


def _last_axis(x: Array, ndim: int) -> Array:
    return x.reshape((1,) * (ndim - 1) + (-1,))


def _affine(
    module: Any,
    x: Array,
    scale_init: Callable[..., Array] = _ONES,
    divisor: Array | float = 1.0,
) -> Array:
    shape = (x.shape[-1],)
    scale = module.param("scale", scale_init, shape)
    bias = module.param("bias", nn.initializers.zeros_init(), shape)
    # Divided before it meets x: a division a channel and not one a number.
    y = x * (_last_axis(scale, x.ndim) / divisor) + _last_axis(bias, x.ndim)
    return y.astype(module.dtype)
