"""PICNet's networks (Zheng, Cham, Cai, CVPR 2019, arXiv 1903.04227).

What they share with PICMM's, and the meaning of their fields, is in
`picjax.layers.encoder_decoder`.
"""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from picjax.layers.conv import Conv
from picjax.layers.encoder_decoder import (
    ResDiscriminator,
    VisibleFeatures,
    decode,
    encode,
    halvings,
    rematerialised,
    width,
)
from picjax.layers.interleave import interleave, separate
from picjax.layers.residual import ResBlock
from picjax.methods.vae_gan import check_widths
from picjax.system import Config


class Encoder(nn.Module):
    """`ResEncoder`: the prior from the visible part, the posterior from the rest.

    A chain of `depth` blocks (`L` in the original) turns the visible part's feature into
    the prior.
    """

    ngf: int = 32
    img_f: int = 128
    z_nc: int = 128
    depth: int = 6
    layers: int = 5
    dtype: Any = jnp.float32
    remat: bool = False

    @nn.compact
    def __call__(
        self,
        visible: Float[Array, "b h w 3"],
        complement: Float[Array, "b h w 3"] | None = None,
        power_iterations: int = 0,
    ) -> tuple[
        tuple[Float[Array, "b i j z"], Float[Array, "b i j z"]],
        tuple[Float[Array, "b i j z"], Float[Array, "b i j z"]] | None,
        list[Array],
    ]:
        """(mu, std) of the prior, of the posterior or None, and the features.

        With a complement, its features are interleaved with the visible part's.
        """
        parts = [visible] if complement is None else [visible, complement]
        features = encode(self, interleave(*parts), power_iterations)
        maps = separate(features[-1], len(parts))
        block = rematerialised(ResBlock, self.remat)

        def head(x: Array, name: str) -> tuple[Array, Array]:
            hidden = x.shape[-1]
            out = block(2 * self.z_nc, hidden, dtype=self.dtype, name=name)
            mu, raw = jnp.split(out(x, power_iterations).astype(jnp.float32), 2, -1)
            return mu, nn.softplus(raw)

        posterior = None
        if complement is not None or self.is_initializing():
            posterior = head(maps[-1], "posterior")
        coarse = maps[0]
        for i in range(self.depth):
            c = coarse.shape[-1]
            infer = block(c, c, dtype=self.dtype, name=f"infer_prior{i}")
            coarse = infer(coarse, power_iterations)
        prior = head(coarse, "prior")
        return prior, posterior if complement is not None else None, features


class ResGenerator(nn.Module):
    """A latent map and the visible part's features to images in [-1, 1], coarse to fine.

    There are `output_scale` images, the last of full size. `depth` is the number of
    further blocks of the latent map (`L` in the original's generator).
    """

    ngf: int = 32
    img_f: int = 128
    depth: int = 0
    layers: int = 5
    output_scale: int = 4
    upsample: str = "transposed"
    dtype: Any = jnp.float32
    remat: bool = False

    @nn.compact
    def __call__(
        self,
        z: Float[Array, "b i j z"],
        visible: VisibleFeatures,
        power_iterations: int = 0,
    ) -> list[Float[Array, "b _h _w 3"]]:
        return decode(self, z, visible, power_iterations)


class PatchDiscriminator(nn.Module):
    """Patch discriminator of 4 x 4 convolutions without bias: a map of scores, float32."""

    ngf: int = 32
    img_f: int = 128
    layers: int = 3
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self, x: Float[Array, "b h w 3"], power_iterations: int = 0
    ) -> Float[Array, "b i j 1"]:
        # The original reuses its loop index, so the stride-1 layer keeps the last width.
        steps = [(width(self.ngf, self.img_f, i), 2) for i in range(self.layers)]
        steps += [(steps[-1][0], 1), (1, 1)]
        for i, (features, stride) in enumerate(steps):
            if i:
                x = nn.leaky_relu(x, 0.1)
            conv = Conv(
                features,
                4,
                use_bias=False,
                stride=stride,
                padding=1,
                dtype=self.dtype,
                name=f"conv{i}",
            )
            x = conv(x, power_iterations)
        return x.astype(jnp.float32)


def networks(model: Config, image_size: tuple[int, int]) -> dict[str, Any]:
    """The four networks, each with its name; the image size gives their depth.

    Raises:
      UserError: for widths or a size that cannot work.
    """
    check_widths(model)
    layers = halvings(image_size)
    shared: Any = {"img_f": model.img_f, "dtype": model.dtype}
    deep: Any = {"layers": layers, "remat": model.remat, **shared}
    if model.discriminator == "res":
        discriminator = ResDiscriminator(ngf=model.ndf, **deep)
    else:
        discriminator = PatchDiscriminator(ngf=model.ndf, layers=3, **shared)
    return {
        "encoder": Encoder(
            ngf=model.ngf,
            z_nc=model.z_nc,
            depth=model.encoder_depth,
            name="encoder",
            **deep,
        ),
        "generator": ResGenerator(
            ngf=model.ngf,
            depth=model.generator_depth,
            output_scale=min(model.output_scale, layers),
            upsample=model.upsample,
            name="generator",
            **deep,
        ),
        "discriminator": discriminator.clone(name="discriminator"),
        "discriminator_rec": discriminator.clone(name="discriminator_rec"),
    }
