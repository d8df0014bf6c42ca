"""What the networks of INADE, SPADE and CLADE compute from a batch and its noise.

A pass in training also returns the new statistics of the networks.
"""

from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from picjax.cli import UserError
from picjax.layers.interleave import interleave, separate
from picjax.methods.inade import losses
from picjax.methods.inade.discriminator import Discriminator, Features
from picjax.methods.inade.encoder import ImageEncoder, InstanceEncoder
from picjax.methods.inade.layout import Layout, edge_map, semantics
from picjax.methods.inade.net import Generator
from picjax.methods.inade.noise import Draw, normals
from picjax.system import Batch, System, Tree, apply, split_keys


class Outputs(NamedTuple):
    """What the losses of the generator's side read.

    Attributes:
      image: generated images in [-1, 1].
      kl: divergence of the encoder's statistics from the prior, in nats; 0 without an
        encoder.
    """

    image: Float[Array, "b h w 3"]
    kl: Float[Array, " b"]


@dataclass(frozen=True, kw_only=True)
class Networks(System):
    """Generator, discriminator and perhaps an encoder, and how they are called.

    Attributes:
      generator, discriminator, encoder: networks, named after their keys in the state;
        an instance encoder for INADE, an image encoder for SPADE, or none.
      instances: size of the instance axis; ids are below it.
      noise_nc: channels of the style noise.
      z_dim: size of the latent.
      reads_latent: whether the generator's first layer reads the latent.
      edges: whether discriminator, SPADE and CLADE see the instances' edges.
    """

    generator: Generator
    discriminator: Discriminator
    encoder: InstanceEncoder | ImageEncoder | None = None
    instances: int
    noise_nc: int
    z_dim: int
    reads_latent: bool
    edges: bool

    # ---- passes ----

    def generate(
        self,
        params: Tree,
        stats: Tree,
        image: Float[Array, "b h w 3"],
        layout: Layout,
        draw: Draw,
    ) -> tuple[Outputs, Tree]:
        """Images in training, styled as the encoder finds `image` to be; new stats."""
        latent, style = draw
        kl = jnp.zeros(len(image))
        if self.encoder is not None:
            inputs = self.encoder_inputs(image, layout, True)
            encoded, stats = apply(self.encoder, params, stats, *inputs)
            if isinstance(self.encoder, InstanceEncoder):
                style = encoded.remap(style)
                each = [losses.kl_standard_normal(*encoded[i : i + 2]) for i in (0, 2)]
                kl = (each[0] + each[1]) / 2
            else:
                mu, log_var = encoded
                latent = mu + jnp.exp(0.5 * log_var) * latent
                kl = losses.kl_standard_normal(mu, log_var)
        inputs = layout, self.latent(latent), style, True
        fake, stats = apply(self.generator, params, stats, *inputs)
        return Outputs(fake, kl), stats

    def discriminate(
        self,
        params: Tree,
        stats: Tree,
        layout: Layout,
        fake: Float[Array, "b h w 3"],
        real: Float[Array, "b h w 3"],
    ) -> tuple[list[Features], list[Features], Tree]:
        """All layers' outputs for fake and real images, in one forward; new stats."""
        pairs = [self.pair(layout, image) for image in (fake, real)]
        outputs, stats = apply(
            self.discriminator, params, stats, interleave(*pairs), True
        )
        on_fake, on_real = separate(outputs, 2)
        return on_fake, on_real, stats

    # ---- inputs ----

    def pair(
        self, layout: Layout, image: Float[Array, "b h w 3"]
    ) -> Float[Array, "b h w c"]:
        """The discriminator's input: one-hot classes, edges, image."""
        return jnp.concatenate([semantics(layout, self.generator.classes), image], -1)

    def layout(self, batch: Batch) -> Layout:
        """The maps of a batch.

        Raises:
          UserError: if the data have no label and instance maps.
        """
        if "label" not in batch or "instance" not in batch:
            raise UserError(
                "config.data.name names a source without label and instance maps, which "
                f"{type(self).__name__} needs; choose one that has them"
            )
        label, instance = (batch[k].astype(jnp.int32) for k in ("label", "instance"))
        edges = edge_map(instance) if self.edges else None
        return Layout(label, instance, edges, batch.get("sketch"))

    def latent(self, latent: Float[Array, "b d"]) -> Float[Array, "b d"] | None:
        """The input of the first layer; without, it is a convolution of the labels."""
        return latent if self.reads_latent else None

    def encoder_inputs(
        self, image: Float[Array, "b h w 3"], layout: Layout, train: bool
    ) -> tuple[Any, Any]:
        """What either encoder is called with."""
        if isinstance(self.encoder, InstanceEncoder):
            return image, layout.instance
        return image, train

    def draw(self, key: PRNGKeyArray, batch_size: int) -> Draw:
        """Noise with a key per example and per instance.

        So a draw depends neither on the rest of the batch nor on the size of the
        instance axis.
        """
        keys = split_keys(key, "latent", "style")

        def style(example: Array) -> Float[Array, "i 2 z"]:
            own = jax.random.fold_in(keys["style"], example)
            return normals(own, self.instances, (2, self.noise_nc))

        return Draw(
            latent=normals(keys["latent"], batch_size, (self.z_dim,)),
            style=jax.vmap(style)(jnp.arange(batch_size)),
        )
