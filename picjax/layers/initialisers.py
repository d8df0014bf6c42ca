"""Pix2Pix's rules of initialisation.

Kernels are [kh kw in out], transposed or not. Fans are those of PyTorch's tensor, whose
first axis is `out`, or `in` if transposed: the "fan-in" of the latter is out kh kw.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array

Init = Callable[..., Array]
Rule = Literal["normal", "xavier", "kaiming", "orthogonal"]


def kernel_std(
    rule: Rule, shape: Sequence[int], gain: float = 0.02, transposed: bool = False
) -> float:
    """Standard deviation of a kernel's entries; `kaiming` ignores `gain`.

    Raises:
      KeyError: for `orthogonal`, whose entries are not independent.
    """
    kh, kw, fan_in, fan_out = shape
    if transposed:
        fan_in, fan_out = fan_out, fan_in
    fan_in, fan_out = kh * kw * fan_in, kh * kw * fan_out
    return {
        "normal": gain,
        "xavier": gain * math.sqrt(2 / (fan_in + fan_out)),
        "kaiming": math.sqrt(2 / fan_in),
    }[rule]


def kernel_init(rule: Rule, gain: float = 0.02, transposed: bool = False) -> Init:
    """The initialiser of kernels of a rule; `orthogonal` is on PyTorch's matrix."""
    if rule == "orthogonal":
        return nn.initializers.orthogonal(gain, column_axis=-2 if transposed else -1)

    def init(key: Any, shape: Sequence[int], dtype: Any = jnp.float32) -> Array:
        return kernel_std(rule, shape, gain, transposed) * _normal(key, shape, dtype)

    return init


def scale_init(gain: float = 0.02) -> Init:
    """The initialiser of a norm's scale: N(1, gain)."""

    def init(key: Any, shape: Sequence[int], dtype: Any = jnp.float32) -> Array:
        return 1 + gain * _normal(key, shape, dtype)

    return init


def _normal(key: Any, shape: Sequence[int], dtype: Any) -> Array:
    # Drawn flat: XLA compiles a draw of four axes five times slower on a CPU.
    return jax.random.normal(key, (math.prod(shape),), dtype).reshape(shape)
