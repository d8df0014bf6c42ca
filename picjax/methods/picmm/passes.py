"""What PICMM's networks compute, in training and to complete: latents, mixture, images.

A pass in training also returns the new statistics of the networks.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from picjax.layers.encoder_decoder import VisibleFeatures
from picjax.layers.interleave import interleave, separate
from picjax.methods.picmm.mixture import Gaussian, Mixture
from picjax.methods.picmm.net import DynamicGMM, Encoder, Generator
from picjax.methods.vae_gan import VaeGan
from picjax.system import Batch, Tree, apply, infer


class Latents(NamedTuple):
    """Draws from, and the Gaussians of, the latents of the visible part and the rest."""

    z_m: Float[Array, "b d"]
    z_c: Float[Array, "b d"]
    q_m: Gaussian
    q_c: Gaussian


class Visible(NamedTuple):
    """What all completions of a batch share, computed once."""

    z_m: Float[Array, "b d"]
    features: VisibleFeatures
    mixture: Mixture


@dataclass(frozen=True, kw_only=True, eq=False)
class Networks(VaeGan):
    """Encoder, generator and mixture, and how they are called.

    Attributes:
      mixture: the network of p(z_c | z_m).
      condition: what the mixture is given of z_m, its "mean" or a "sample".
      extra_calls: whether z_c also moves the mixture's running statistics.
    """

    encoder: Encoder
    generator: Generator
    mixture: DynamicGMM
    condition: str
    extra_calls: bool

    # ---- in training ----

    def encode(
        self,
        params: Mapping[str, Tree],
        stats: Mapping[str, Tree],
        batch: Batch,
        eps: Float[Array, "2 b d"],
    ) -> tuple[Latents, VisibleFeatures, dict[str, Tree]]:
        """Encode both parts of the images, with noise of the visible part first."""
        image, mask = batch["image"], batch["mask"]
        parts = interleave(image * mask, image * (1 - mask))
        (mu, log_std, features), stats = apply(
            self.encoder, params, stats, parts, power_iterations=1
        )
        q_m, q_c = separate(Gaussian(mu, log_std), 2)
        z_m, z_c = (
            q.mu + noise * jnp.exp(q.log_std)
            for q, noise in zip((q_m, q_c), eps, strict=True)
        )
        of_visible, _ = separate(features, 2)
        visible = self.visible_features(of_visible, batch)
        return Latents(z_m, z_c, q_m, q_c), visible, stats

    def mix(
        self, params: Mapping[str, Tree], stats: Mapping[str, Tree], latents: Latents
    ) -> tuple[Mixture, dict[str, Tree]]:
        """The mixture p(z_c | z_m) in training."""
        z = latents.q_m.mu if self.condition == "mean" else latents.z_m
        (logits, mu, log_std), stats = apply(self.mixture, params, stats, z, train=True)
        if self.extra_calls:
            # The official code also runs two heads on z_c, and everything twice, so that
            # the running statistics become a blend of both latents.
            advance = {"train": True, "method": "advance"}
            z_c = latents.z_c
            _, stats = apply(self.mixture, params, stats, z_c, **advance)
            _, stats = apply(self.mixture, params, stats, z, train=True)
            _, stats = apply(self.mixture, params, stats, z_c, **advance)
        return Mixture(jax.nn.log_softmax(logits), mu, log_std), stats

    def generate(
        self,
        params: Mapping[str, Tree],
        stats: Mapping[str, Tree],
        latents: Latents,
        z_hat: Float[Array, "b d"],
        visible: VisibleFeatures,
    ) -> tuple[list[Array], dict[str, Tree]]:
        """Images, coarse to fine, from z_c interleaved with those from z_hat."""
        from_z_c = latents.z_m, latents.z_c, visible
        from_z_hat = latents.z_m, z_hat, visible
        inputs = interleave(from_z_c, from_z_hat)
        return apply(self.generator, params, stats, *inputs, power_iterations=2)

    # ---- to complete ----

    def encode_visible(
        self, variables: Tree, batch: Batch, key: PRNGKeyArray
    ) -> Visible:
        """Encode the visible part; z_m is drawn once, as in the official test."""
        visible = batch["image"] * batch["mask"]
        mu, log_std, features = infer(self.encoder, variables, visible)
        z_m = mu + jax.random.normal(key, mu.shape) * jnp.exp(log_std)
        z = mu if self.condition == "mean" else z_m
        logits, mu_hat, log_std_hat = infer(self.mixture, variables, z)
        mixture = Mixture(jax.nn.log_softmax(logits), mu_hat, log_std_hat)
        return Visible(z_m, self.visible_features(features, batch), mixture)

    def decode(
        self, variables: Tree, visible: Visible, z_c: Float[Array, "b d"]
    ) -> Float[Array, "b h w 3"]:
        """The image of a latent, its known pixels as the generator draws them."""
        inputs = visible.z_m, z_c, visible.features
        return infer(self.generator, variables, *inputs)[-1]
