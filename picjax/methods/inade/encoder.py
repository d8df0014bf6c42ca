"""Encoders: style statistics per instance (INADE), a latent per image (SPADE)."""

from functools import partial
from typing import Any, Literal, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from picjax.layers.conv import Conv
from picjax.layers.norm import NORMS, InstanceNorm
from picjax.methods.inade.layout import resize_nearest
from picjax.methods.inade.norm import XAVIER, XAVIER_DENSE, Noise

PerInstance = Float[Array, "b i z"]
Ids = Int[Array, "b h w"]
HEADS = ("scale_conv_mu", "scale_conv_var", "bias_conv_mu", "bias_conv_var")


class StyleStatistics(NamedTuple):
    """Two diagonal Gaussians per instance: of the noise of scale and that of shift."""

    scale_mu: PerInstance
    scale_log_var: PerInstance
    shift_mu: PerInstance
    shift_log_var: PerInstance

    def remap(self, noise: Noise) -> Noise:
        """Standard normal noise as noise of these Gaussians."""
        mu = jnp.stack([self.scale_mu, self.shift_mu], 2)
        log_var = jnp.stack([self.scale_log_var, self.shift_log_var], 2)
        return noise * jnp.exp(0.5 * log_var) + mu

    def transfer(self, target: int, reference: "StyleStatistics", source: int):
        """These statistics with `target` styled as the reference's instance `source`.

        Instances are those of example 0.
        """
        pairs = zip(self, reference, strict=True)
        return StyleStatistics(*(a.at[0, target].set(b[0, source]) for a, b in pairs))


def standard_statistics(batch: int, instances: int, channels: int) -> StyleStatistics:
    """Those of the prior, N(0, 1)."""
    zeros = jnp.zeros((batch, instances, channels))
    return StyleStatistics(zeros, zeros, zeros, zeros)


# ---- INADE's instance encoder ----


def instance_taps(
    x: Float[Array, "b h w c"], instance: Int[Array, "b y x"], stride: int = 1
) -> list[Float[Array, "b h2 w2 c"]]:
    """What each tap of a 3 x 3 convolution reads, 0 outside the centre's instance.

    Row by row. The ids, at any size, are resized to the input's by nearest neighbour.
    """
    ids = resize_nearest(instance, (x.shape[1], x.shape[2]))
    centre = ids[:, ::stride, ::stride]
    rows, columns = centre.shape[1:]
    ids = jnp.pad(ids, ((0, 0), (1, 1), (1, 1)))
    x = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))

    def tap(x: Array, i: int, j: int) -> Array:
        last = (i + stride * (rows - 1), j + stride * (columns - 1))
        return x[:, i : last[0] + 1 : stride, j : last[1] + 1 : stride]

    return [
        tap(x, i, j) * (tap(ids, i, j) == centre)[..., None]
        for i in range(3)
        for j in range(3)
    ]


class _InstanceKernel(nn.Module):
    """Kernel and bias of an instance-aware 3 x 3 convolution."""

    features: int

    def _weights(
        self, channels: int
    ) -> tuple[Float[Array, "9 c d"], Float[Array, " d"]]:
        shape = (3, 3, channels, self.features)
        kernel = self.param("kernel", XAVIER, shape)
        bias = self.param("bias", nn.initializers.zeros_init(), shape[-1:])
        return kernel.reshape(9, *shape[2:]), bias


class InstanceConv(_InstanceKernel):
    """A 3 x 3 convolution whose taps count only inside the centre's instance.

    The sum is not divided by the number of such taps. Outside the image is zero.
    """

    stride: int = 1
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self, x: Float[Array, "b h w c"], instance: Int[Array, "b y x"]
    ) -> Float[Array, "b h2 w2 d"]:
        """The ids, at any size, are resized to the input's by nearest neighbour."""
        kernel, bias = self._weights(x.shape[-1])
        kernel, bias = kernel.astype(self.dtype), bias.astype(self.dtype)
        taps = instance_taps(x.astype(self.dtype), instance, self.stride)
        products = [tap @ part for tap, part in zip(taps, kernel, strict=True)]
        return sum(products, bias.reshape(1, 1, 1, -1))


class PooledConv(_InstanceKernel):
    """`instance_mean` of an `InstanceConv`, from the mean of its taps.

    Both are linear, so one product per instance replaces one per pixel.
    """

    @nn.compact
    def __call__(
        self, means: Float[Array, "9 b i c"], present: Float[Array, "b i"]
    ) -> PerInstance:
        """`present` is 0 for an instance without pixels, whose mean is 0, else 1."""
        kernel, bias = self._weights(means.shape[-1])
        weighted = jnp.einsum("tbic,tcd->bid", means, kernel)
        return weighted + present[..., None] * bias.reshape(1, 1, -1)


def instance_mean(
    x: Float[Array, "b h w c"], instance: Ids, instances: int
) -> Float[Array, "b i c"]:
    """Mean over each instance's pixels; 0 for an instance without pixels."""

    def of_example(pixels: Float[Array, "p c"], ids: Int[Array, " p"]) -> Array:
        total = jax.ops.segment_sum(pixels, ids, instances)
        count = jax.ops.segment_sum(jnp.ones(ids.shape), ids, instances)
        return total / jnp.maximum(count, 1)[:, None]

    b, h, w, c = x.shape
    pixels = x.astype(jnp.float32).reshape(b, h * w, c)
    return jax.vmap(of_example)(pixels, instance.reshape(b, h * w))


class InstanceEncoder(nn.Module):
    """Style statistics of every instance of an image.

    Four strided instance-aware convolutions, as many at doubling sizes with skips, and
    one head for each statistic, averaged over the pixels of each instance. Instances
    still mix through instance norm and bilinear upsampling, as in the original.

    Attributes:
      instances: size of the instance axis; rows of absent ids are 0.
      channels: of the style noise.
      width: features of the first layer.
    """

    instances: int
    channels: int
    width: int = 64
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self, image: Float[Array, "b h w 3"], instance: Ids
    ) -> StyleStatistics:
        """Height and width are multiples of 16."""

        def layer(name: str, x: Array, factor: int, stride: int) -> Array:
            conv = InstanceConv(factor * self.width, stride, self.dtype, name=name)
            norm = InstanceNorm(False, self.dtype, name=f"{name}_norm")
            return nn.leaky_relu(norm(conv(x, instance)), 0.2)

        x, skips = image, []
        for i, factor in enumerate((1, 2, 4, 8), 1):
            x = layer(f"layer{i}", x, factor, 2)
            skips.append(x)
        x = double(layer("middle", skips.pop(), 4, 1))
        for i, factor in enumerate((2, 1, 1), 1):
            x = jnp.concatenate([x, skips.pop()], -1)
            x = double(layer(f"up{i}", x, factor, 1))
        average = partial(instance_mean, instance=instance, instances=self.instances)
        means = jnp.stack([average(tap) for tap in instance_taps(x, instance)])
        present = average(jnp.ones((*x.shape[:3], 1)))[..., 0]
        heads = [PooledConv(self.channels, name=name) for name in HEADS]
        return StyleStatistics(*(head(means, present) for head in heads))


def double(x: Float[Array, "b h w c"]) -> Float[Array, "b h2 w2 c"]:
    """Bilinear upsampling by 2."""
    b, h, w, c = x.shape
    return jax.image.resize(x, (b, 2 * h, 2 * w, c), "bilinear", antialias=False)


# ---- SPADE's image encoder ----


class ImageEncoder(nn.Module):
    """Mean and log-variance of a latent per image, from the image at 256 x 256.

    Attributes:
      latent: size of the latent.
      depth: number of strided convolutions: 6, or 5 for crops below 256.
      width: features of the first layer.
      norm: one of "instance", "batch", "none"; convolutions have a bias with "none".
    """

    latent: int = 256
    depth: int = 6
    width: int = 64
    norm: Literal["instance", "batch", "none"] = "instance"
    spectral: bool = True
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self, image: Float[Array, "b h w 3"], train: bool
    ) -> tuple[Float[Array, "b z"], Float[Array, "b z"]]:
        b, h, w, c = image.shape
        x = image.astype(self.dtype)
        if (h, w) != (256, 256):
            x = jax.image.resize(x, (b, 256, 256, c), "bilinear", antialias=False)
        for i, factor in enumerate((1, 2, 4, 8, 8, 8)[: self.depth], 1):
            x = self._conv(f"layer{i}", factor * self.width)(x, int(train))
            x = self._norm(f"layer{i}_norm", x, train)
            x = nn.leaky_relu(x, 0.2)
        # The order of the original's columns: features, then height, then width.
        x = x.transpose(0, 3, 1, 2).reshape(b, -1)
        mu, log_var = (
            nn.Dense(
                self.latent, dtype=self.dtype, kernel_init=XAVIER_DENSE, name=name
            )(x).astype(jnp.float32)
            for name in ("fc_mu", "fc_var")
        )
        return mu, log_var

    def _conv(self, name: str, features: int) -> Conv:
        return Conv(
            features,
            use_bias=self.norm == "none",
            spectral=self.spectral,
            kernel_init=XAVIER,
            stride=2,
            padding=1,
            dtype=self.dtype,
            name=name,
        )

    def _norm(self, name: str, x: Array, train: bool) -> Array:
        if self.norm == "none":
            return x
        affine = {"affine": False} if self.norm == "instance" else {}
        return NORMS[self.norm](dtype=self.dtype, name=name, **affine)(x, train)
