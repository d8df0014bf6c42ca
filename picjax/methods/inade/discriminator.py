"""The multi-scale PatchGAN discriminator of pix2pixHD, as SPADE and INADE use it."""

from typing import Any, Literal

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from picjax.layers.conv import Conv
from picjax.layers.norm import NORMS
from picjax.methods.inade.norm import XAVIER

Features = list[Float[Array, "b _ _ _"]]
Norm = Literal["instance", "batch", "none"]


class PatchDiscriminator(nn.Module):
    """A PatchGAN that returns the output of every layer, the logits last.

    The first and the last convolution have neither norm nor spectral norm.
    """

    layers: int = 4
    width: int = 64
    norm: Norm = "instance"
    spectral: bool = True
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"], train: bool) -> Features:
        x = nn.leaky_relu(self._conv("model0", self.width, 2)(x, 0), 0.2)
        features = [x]
        for i in range(1, self.layers):
            width, stride = (
                min(self.width * 2**i, 512),
                1 if i == self.layers - 1 else 2,
            )
            x = self._conv(f"model{i}", width, stride, middle=True)(x, int(train))
            x = nn.leaky_relu(self._norm(f"model{i}_norm", x, train), 0.2)
            features.append(x)
        logits = self._conv(f"model{self.layers}", 1, 1)(x, 0)
        return [*features, logits.astype(jnp.float32)]

    def _conv(
        self, name: str, features: int, stride: int, middle: bool = False
    ) -> Conv:
        return Conv(
            features,
            4,
            use_bias=not middle or self.norm == "none",
            spectral=middle and self.spectral,
            kernel_init=XAVIER,
            stride=stride,
            padding=2,
            dtype=self.dtype,
            name=name,
        )

    def _norm(self, name: str, x: Array, train: bool) -> Array:
        if self.norm == "none":
            return x
        affine = {"affine": False} if self.norm == "instance" else {}
        return NORMS[self.norm](dtype=self.dtype, name=name, **affine)(x, train)


class Discriminator(nn.Module):
    """`scales` PatchGANs, each at half the size of the one before."""

    scales: int = 2
    layers: int = 4
    width: int = 64
    norm: Norm = "instance"
    spectral: bool = True
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"], train: bool) -> list[Features]:
        outputs = []
        for i in range(self.scales):
            x = downsample(x) if i else x
            patch = PatchDiscriminator(
                self.layers,
                self.width,
                self.norm,
                self.spectral,
                self.dtype,
                name=f"discriminator_{i}",
            )
            outputs.append(patch(x, train))
        return outputs


def downsample(x: Float[Array, "b h w c"]) -> Float[Array, "b h2 w2 c"]:
    """3 x 3 average pool of stride 2 whose padding does not count."""
    padding: Any = ((1, 1), (1, 1))  # annotated as a string in flax
    return nn.avg_pool(x, (3, 3), (2, 2), padding, count_include_pad=False)
