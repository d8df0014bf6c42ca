"""PICMM's networks (Ren et al., NeurIPS 2022, arXiv 2205.09086).

They are PICNet's with a flat latent and a Gaussian mixture network between the visible
part's latent z_m and the complement's z_c. Flat vectors hold channels, then rows, then
columns, as in the official code. `log_std` is the log of the standard deviation.
"""

from typing import Any, Literal

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from picjax.layers.conv import Conv, average_pool, upsample
from picjax.layers.encoder_decoder import (
    ResDiscriminator,
    Size,
    VisibleFeatures,
    count_halvings,
    decode,
    encode,
    halvings,
)
from picjax.layers.norm import NORMS
from picjax.methods.vae_gan import check_widths
from picjax.system import Config


def poolings(size: Size, grid: int = 1) -> int:
    """How often the latent average-pools the map that `halvings` leaves.

    While every side is even and at least twice `grid`, at most twice. For 1, as
    published: 256 -> 8 -> a latent grid of 2; 128, 64 and 32 -> 4 -> a grid of 1;
    192 -> 6 -> a grid of 3.
    """
    left = 2 ** halvings(size)
    h, w = (size, size) if isinstance(size, int) else size
    return count_halvings((h // left, w // left), smallest=grid, most=2)


def flatten(x: Float[Array, "b h w c"]) -> Float[Array, "b d"]:
    """A map as flat vectors."""
    return x.transpose(0, 3, 1, 2).reshape(x.shape[0], -1)


def unflatten(x: Float[Array, "b d"], height: int, width: int) -> Array:
    """Flat vectors as maps [b height width c]."""
    return x.reshape(x.shape[0], -1, height, width).transpose(0, 2, 3, 1)


def _linear(
    features: int, name: str, dtype: Any = jnp.float32, gain: float = 0.02
) -> nn.Dense:
    orthogonal = nn.initializers.orthogonal(gain)
    return nn.Dense(features, dtype=dtype, kernel_init=orthogonal, name=name)


class Encoder(nn.Module):
    """Images (a visible part or a complement) to the Gaussian of their latent.

    Returns mu and log_std [n d] in float32, and the features, finest first; the caller
    draws z = mu + eps * exp(log_std). d is half of channels * grid * grid, where the grid
    is what `layers` halvings and `poolings` average pools leave of the image.
    `log_std_start` is added to log_std: the original starts with noise of width 1 around
    means near 0, from which nothing can be decoded until the encoder has learnt to
    shrink it. `gain` is that of the latent layer's initialisation.
    """

    ngf: int = 32
    img_f: int = 128
    layers: int = 5
    poolings: int = 2
    log_std_start: float = 0.0
    gain: float = 0.02
    dtype: Any = jnp.float32
    remat: bool = False

    @nn.compact
    def __call__(
        self, x: Float[Array, "n h w 3"], power_iterations: int = 0
    ) -> tuple[Float[Array, "n d"], Float[Array, "n d"], list[Array]]:
        features = encode(self, x, power_iterations)
        x = features[-1]
        for _ in range(self.poolings):
            x = average_pool(x)
        x = flatten(x)
        x = nn.leaky_relu(
            _linear(x.shape[-1], "down_fc", self.dtype, self.gain)(x), 0.2
        )
        mu, log_std = jnp.split(x.astype(jnp.float32), 2, -1)
        return mu, log_std + self.log_std_start, features


class Generator(nn.Module):
    """Both latents and the visible part's features to images in [-1, 1], coarse to fine.

    Channels of the latent map are z_m's, then z_c's; the same convolution doubles its
    size `poolings` times, initialised with `gain`. There are `output_scale` images, the last of full size.
    """

    ngf: int = 32
    img_f: int = 128
    layers: int = 5
    output_scale: int = 4
    poolings: int = 2
    depth: int = 0
    upsample: str = "transposed"
    gain: float = 0.02
    dtype: Any = jnp.float32
    remat: bool = False

    @nn.compact
    def __call__(
        self,
        z_m: Float[Array, "b d"],
        z_c: Float[Array, "b d"],
        visible: VisibleFeatures,
        power_iterations: int = 0,
    ) -> list[Float[Array, "b _h _w 3"]]:
        h, w = (side // 2**self.poolings for side in visible.f_m.shape[1:3])
        x = unflatten(jnp.concatenate([z_m, z_c], -1), h, w).astype(self.dtype)
        x = UpConv(self.poolings, self.gain, dtype=self.dtype, name="up_convfc")(x)
        return decode(self, x, visible, power_iterations)


class UpConv(nn.Module):
    """Doubles the size `times` times: nearest neighbour, one shared convolution, act."""

    times: int
    gain: float = 0.02
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "b i j c"]) -> Float[Array, "b _i _j c"]:
        conv = Conv(
            x.shape[-1],
            padding=1,
            spectral=False,
            kernel_init=nn.initializers.orthogonal(self.gain),
            dtype=self.dtype,
            name="conv",
        )
        for _ in range(self.times):
            x = nn.leaky_relu(conv(upsample(x)), 0.2)
        return x


class Head(nn.Module):
    """Linear, norm, ReLU, linear."""

    hidden: int
    features: int
    norm: Literal["batch", "layer"]

    @nn.compact
    def __call__(
        self, x: Float[Array, "b d"], train: bool = False
    ) -> Float[Array, "b e"]:
        x = _linear(self.hidden, "linear1")(x)
        x = NORMS[self.norm](name="norm")(x, train)
        return _linear(self.features, "linear2")(nn.relu(x))


class DynamicGMM(nn.Module):
    """The mixture p(z_c | z_m): `k` diagonal Gaussians of z_m's size.

    Returns the log weights before normalisation [b k], mu and log_std [b k d]. All of it
    is float32, whatever the dtype of the other networks: the heads are small, and their
    outputs are parameters of densities. `log_std_start` is the encoder's.
    """

    k: int = 4
    log_std_start: float = 0.0
    norm: Literal["batch", "layer"] = "batch"

    def __call__(
        self, z_m: Float[Array, "b d"], train: bool = False
    ) -> tuple[Float[Array, "b k"], Float[Array, "b k d"], Float[Array, "b k d"]]:
        logits, mu, log_std = self._heads(("alpha", "mu", "log_std"), z_m, train)
        return logits, mu, log_std

    def advance(
        self, z_c: Float[Array, "b d"], train: bool = False
    ) -> tuple[Float[Array, "b k d"], Float[Array, "b k d"]]:
        """mu and log_std of z_c.

        In training, the official code also runs these two heads on z_c, which blends
        their running statistics.
        """
        mu, log_std = self._heads(("mu", "log_std"), z_c, train)
        return mu, log_std

    @nn.compact
    def _heads(
        self, names: tuple[str, ...], z: Float[Array, "b d"], train: bool
    ) -> list[Array]:
        b, d = z.shape
        outputs = []
        for name in names:
            sizes = (d // 2, self.k) if name == "alpha" else (2 * d, self.k * d)
            x = Head(*sizes, norm=self.norm, name=name)(z, train)
            if name == "log_std":
                x = x + self.log_std_start
            outputs.append(x if name == "alpha" else x.reshape(b, self.k, d))
        return outputs


def networks(model: Config, image_size: tuple[int, int]) -> dict[str, Any]:
    """The four networks, each with its name; the image size gives their depth.

    Raises:
      UserError: for widths or a size that cannot work.
    """
    check_widths(model)
    layers = halvings(image_size)
    shared: Any = {"img_f": model.img_f, "layers": layers}
    shared |= {"dtype": model.dtype, "remat": model.remat}
    pools = poolings(image_size, model.latent_grid)
    return {
        "encoder": Encoder(
            ngf=model.ngf,
            poolings=pools,
            log_std_start=model.log_std_start,
            gain=model.latent_gain,
            name="encoder",
            **shared,
        ),
        "generator": Generator(
            ngf=model.ngf,
            poolings=pools,
            output_scale=min(model.output_scale, layers),
            upsample=model.upsample,
            gain=model.latent_gain,
            name="generator",
            **shared,
        ),
        "discriminator": ResDiscriminator(
            ngf=model.ndf, name="discriminator", **shared
        ),
        "mixture": DynamicGMM(
            k=model.mixture.k,
            norm=model.mixture.norm,
            log_std_start=model.log_std_start,
            name="mixture",
        ),
    }
