"""PICMM's networks (Ren et al., NeurIPS 2022, arXiv 2205.09086).

They are PICNet's with a flat latent and a Gaussian mixture network between the visible
part's latent z_m and the complement's z_c. Flat vectors hold channels, then rows, then
columns, as in the official code. `log_std` is the log of the standard deviation.
"""

from typing import Any, Literal

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from picjax.layers.conv import Conv, average_pool
from picjax.layers.norm import NORMS
from picjax.methods.picnet import net as picnet
from picjax.methods.picnet.net import ResDiscriminator as Discriminator

__all__ = ["Discriminator", "DynamicGMM", "Encoder", "Generator"]


def flatten(x: Float[Array, "b h w c"]) -> Float[Array, "b d"]:
    """A map as flat vectors."""
    return x.transpose(0, 3, 1, 2).reshape(x.shape[0], -1)


def unflatten(x: Float[Array, "b d"], height: int, width: int) -> Array:
    """Flat vectors as maps [b height width c]."""
    return x.reshape(x.shape[0], -1, height, width).transpose(0, 2, 3, 1)


def _linear(features: int, name: str, dtype: Any) -> nn.Dense:
    orthogonal = nn.initializers.orthogonal(0.02)
    return nn.Dense(features, dtype=dtype, kernel_init=orthogonal, name=name)


class Encoder(nn.Module):
    """Images (a visible part or a complement) to the Gaussian of their latent.

    Returns mu, log_std [n d] in float32 and the features, the finest first; the caller
    draws z = mu + eps * exp(log_std). d is half of channels * grid * grid, the grid
    being what `layers` halvings and `poolings` average pools leave of the image.
    `log_std_start` is added to log_std: the officials start with noise of width 1 around
    means near 0, which nothing can be read from until the encoder has learnt to shrink
    it.
    """

    ngf: int = 32
    img_f: int = 128
    layers: int = 5
    poolings: int = 2
    log_std_start: float = 0.0
    dtype: Any = jnp.float32
    remat: bool = False

    @nn.compact
    def __call__(
        self, x: Float[Array, "n h w 3"], update_stats: int
    ) -> tuple[Float[Array, "n d"], Float[Array, "n d"], list[Array]]:
        features = picnet.trunk(self, x, update_stats)
        x = features[-1]
        for _ in range(self.poolings):
            x = average_pool(x)
        x = flatten(x)
        x = nn.leaky_relu(_linear(x.shape[-1], "down_fc", self.dtype)(x), 0.2)
        mu, log_std = jnp.split(x.astype(jnp.float32), 2, -1)
        return mu, log_std + self.log_std_start, features


class Generator(nn.Module):
    """Both latents and the visible part's features to images in [-1, 1], coarse to fine.

    Channels of the latent map are z_m's, then z_c's; it is doubled in size `poolings`
    times, always by the same convolution. `f_m`, `f_e`, `mask` and the number of images
    are those of `picnet.ResGenerator`.
    """

    ngf: int = 32
    img_f: int = 128
    layers: int = 5
    output_scale: int = 4
    poolings: int = 2
    depth: int = 0
    upsample: str = "transposed"
    dtype: Any = jnp.float32
    remat: bool = False

    @nn.compact
    def __call__(
        self,
        z_m: Float[Array, "b d"],
        z_c: Float[Array, "b d"],
        f_m: Float[Array, "b i j c"],
        f_e: Float[Array, "b p q e"],
        mask: Float[Array, "b p q 1"],
        update_stats: int,
    ) -> list[Float[Array, "b _h _w 3"]]:
        h, w = (side // 2**self.poolings for side in f_m.shape[1:3])
        x = unflatten(jnp.concatenate([z_m, z_c], -1), h, w).astype(self.dtype)
        x = UpConv(self.poolings, dtype=self.dtype, name="up_convfc")(x)
        return picnet.decode(self, x, f_m, f_e, mask, update_stats)


class UpConv(nn.Module):
    """Doubles the size `times` times: nearest neighbour, one shared convolution, act."""

    times: int
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "b i j c"]) -> Float[Array, "b _i _j c"]:
        conv = Conv(
            x.shape[-1], padding=1, spectral=False, dtype=self.dtype, name="conv"
        )
        for _ in range(self.times):
            x = x.repeat(2, 1).repeat(2, 2)
            x = nn.leaky_relu(conv(x, update_stats=False), 0.2)
        return x


class Head(nn.Module):
    """Linear, norm, ReLU, linear."""

    hidden: int
    features: int
    norm: Literal["batch", "layer"]
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self, x: Float[Array, "b d"], update_stats: int
    ) -> Float[Array, "b e"]:
        x = _linear(self.hidden, "linear1", self.dtype)(x)
        x = NORMS[self.norm](dtype=self.dtype, name="norm")(x, update_stats)
        x = _linear(self.features, "linear2", self.dtype)(nn.relu(x))
        return x.astype(jnp.float32)


class DynamicGMM(nn.Module):
    """The mixture p(z_c | z_m): `k` diagonal Gaussians of z_m's size.

    Returns the log weights before normalisation [b k], mu and log_std [b k d], float32.
    `log_std_start` is the encoder's.
    """

    k: int = 4
    log_std_start: float = 0.0
    norm: Literal["batch", "layer"] = "batch"
    dtype: Any = jnp.float32

    def __call__(
        self, z_m: Float[Array, "b d"], update_stats: int
    ) -> tuple[Float[Array, "b k"], Float[Array, "b k d"], Float[Array, "b k d"]]:
        alpha, mu, log_std = self._heads(("alpha", "mu", "log_std"), z_m, update_stats)
        return alpha, mu, log_std

    def advance(
        self, z_c: Float[Array, "b d"], update_stats: int
    ) -> tuple[Float[Array, "b k d"], Float[Array, "b k d"]]:
        """mu and log_std of z_c, in training: how the official trainer (only it) mixes
        the running statistics of those two heads.
        """
        mu, log_std = self._heads(("mu", "log_std"), z_c, update_stats)
        return mu, log_std

    @nn.compact
    def _heads(
        self, names: tuple[str, ...], z: Float[Array, "b d"], update_stats: int
    ) -> list[Array]:
        b, d = z.shape
        outputs = []
        for name in names:
            sizes = (d // 2, self.k) if name == "alpha" else (2 * d, self.k * d)
            head = Head(*sizes, norm=self.norm, dtype=self.dtype, name=name)
            x = head(z, update_stats)
            if name == "log_std":
                x = x + self.log_std_start
            outputs.append(x if name == "alpha" else x.reshape(b, self.k, d))
        return outputs
