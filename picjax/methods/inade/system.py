"""INADE (Tan et al., CVPR 2021, arXiv 2103.06878), with SPADE and CLADE as options.

Many images from one label map: every instance has style noise of its own, which scales
and shifts the generator's features where the instance is. In training an encoder
measures the style's mean and deviation on the real image; a KL term pulls them to the
prior N(0, 1), from which images are sampled.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
from jax.lax import stop_gradient
from jaxtyping import Array, Float, PRNGKeyArray

from picjax.cli import UserError
from picjax.losses import adversarial, reconstruction
from picjax.methods.inade import losses
from picjax.methods.inade.build import CHOICES, Vgg, find_vgg, networks, optimisers
from picjax.methods.inade.encoder import InstanceEncoder, StyleStatistics
from picjax.methods.inade.layout import Layout
from picjax.methods.inade.noise import Draw
from picjax.methods.inade.passes import Networks, Outputs
from picjax.system import (
    Batch,
    Config,
    Metrics,
    Opt,
    State,
    Tree,
    check_choices,
    composite,
    draw_many,
    image_shape,
    infer,
    initial_state,
    split_keys,
    update,
)


class LossWeights(NamedTuple):
    """Weights of the generator's losses beside the adversarial one."""

    feature: float
    perceptual: float
    kl: float
    pixel: float = 0.0


def none() -> None:
    """No network of a perceptual loss."""


@dataclass(frozen=True, kw_only=True, eq=False)
class INADE(Networks):
    """INADE, SPADE or CLADE; configs/inade.py documents the settings.

    Attributes:
      opts: one optimiser per player; the generator's owns the encoder, too.
      gan: the adversarial losses of both players.
      weights: weights of the other losses.
      norm: one of `norm.NORMS`.
      first_feature: index of the first layer whose features are matched.
      kl_reduction: `sum` over the batch, as the original, or `mean`.
      find_vgg: the network of the perceptual loss, or none; called when a step is traced,
        as nothing else needs it.
    """

    counts_draws: ClassVar[bool] = True
    meanings: ClassVar[Mapping[str, str]] = {
        "g_gan": "the generator's adversarial loss",
        "g_feature": (
            "L1 between the discriminator's features of real and generated "
            "images, weighted"
        ),
        "g_perceptual": (
            "L1 between VGG features of real and generated images, weighted"
        ),
        "g_pixel": "L1 between real and generated images, weighted",
        "g_kl": "KL divergence of the encoded styles from the prior, weighted",
        "d_real": "the discriminator's loss on real images",
        "d_fake": "the discriminator's loss on generated images",
    }

    opts: Mapping[str, Opt]
    gan: adversarial.Gan
    weights: LossWeights
    norm: str
    first_feature: int
    kl_reduction: str
    find_vgg: Callable[[], Vgg | None] = none

    @classmethod
    def from_config(cls, config: Config) -> "INADE":
        """Build the method from a config.

        Raises:
          UserError: for an unknown option, or an image size that does not fit.
        """
        check_choices(config, CHOICES)
        model, loss = config.model, config.loss
        nets: Any = networks(model, image_shape(config))
        return cls(
            **nets,
            find_vgg=partial(find_vgg, loss.vgg_path) if loss.perceptual else none,
            opts=optimisers(config, "encoder" in nets),
            gan=losses.GAN[loss.gan_mode],
            weights=LossWeights(loss.feature, loss.perceptual, loss.kl, loss.pixel),
            norm=model.norm,
            instances=model.instances,
            noise_nc=model.noise_nc,
            z_dim=model.z_dim,
            reads_latent=model.latent,
            # INADE matches the last features before the logits, SPADE all.
            first_feature=model.patch_layers - 1 if model.norm == "inade" else 0,
            edges=model.edges,
            kl_reduction=loss.kl_reduction,
        )

    # ---- training ----

    def init(self, batch: Batch, key: PRNGKeyArray) -> State:
        """Parameters as on the original's GPUs; every bias starts at 0."""
        keys = split_keys(key, "generator", "discriminator", "encoder", "draw")
        layout, draw = self.layout(batch), self.draw(keys["draw"], len(batch["image"]))
        inputs = layout, self.latent(draw.latent), draw.style, False
        pair = self.pair(layout, batch["image"])
        variables: Any = {
            "generator": self.generator.init(keys["generator"], *inputs),
            "discriminator": self.discriminator.init(
                keys["discriminator"], pair, False
            ),
        }
        if self.encoder is not None:
            inputs = self.encoder_inputs(batch["image"], layout, False)
            variables["encoder"] = self.encoder.init(keys["encoder"], *inputs)
        return initial_state(self.opts, zero_biases(variables))

    def step(
        self, state: State, batch: Batch, key: PRNGKeyArray
    ) -> tuple[State, Metrics]:
        """Update generator and encoder, then the discriminator on fresh images.

        The second images come from the updated generator, in training mode, so its
        running statistics and spectral vectors move twice per step.
        """
        layout = self.layout(batch)
        keys = split_keys(key, "generator", "discriminator")
        b = len(batch["image"])
        draw = self.draw(keys["generator"], b)
        state, g_metrics = self.update_generator(state, batch, layout, draw)
        draw = self.draw(keys["discriminator"], b)
        state, d_metrics = self.update_discriminator(state, batch, layout, draw)
        return state.replace(step=state.step + 1), g_metrics | d_metrics

    def update_generator(
        self, state: State, batch: Batch, layout: Layout, draw: Draw
    ) -> tuple[State, Metrics]:
        """One forward of encoder and generator, one backward, one Adam step."""
        owned = {net: state.params[net] for net in self.opts["generator"].nets}

        def forward(owned: Tree) -> tuple[Outputs, Tree]:
            params = {**state.params, **owned}
            return self.generate(params, state.stats, batch["image"], layout, draw)

        outputs, pullback, stats = jax.vjp(forward, owned, has_aux=True)
        state = state.replace(stats=stats)
        d_outputs, (stats, metrics) = jax.grad(self.generator_loss, has_aux=True)(
            outputs, state, batch, layout
        )
        (grads,) = pullback(d_outputs)
        state = state.replace(stats=stats)
        return update(self.opts, "generator", state, grads), metrics

    def update_discriminator(
        self, state: State, batch: Batch, layout: Layout, draw: Draw
    ) -> tuple[State, Metrics]:
        """The discriminator's step on new images of the updated generator."""
        outputs, stats = self.generate(
            state.params, state.stats, batch["image"], layout, draw
        )
        fake = stop_gradient(outputs.image)

        def loss(params: Tree) -> tuple[Array, tuple[Tree, Metrics]]:
            nets = {**state.params, "discriminator": params}
            on_fake, on_real, after = self.discriminate(
                nets, stats, layout, fake, batch["image"]
            )
            metrics = {
                "d_fake": losses.over_scales(self.gan.fake, on_fake).mean(),
                "d_real": losses.over_scales(self.gan.real, on_real).mean(),
            }
            return metrics["d_fake"] + metrics["d_real"], (after, metrics)

        grads, (stats, metrics) = jax.grad(loss, has_aux=True)(
            state.params["discriminator"]
        )
        state = state.replace(stats=stats)
        return (
            update(self.opts, "discriminator", state, {"discriminator": grads}),
            metrics,
        )

    def generator_loss(
        self, outputs: Outputs, state: State, batch: Batch, layout: Layout
    ) -> tuple[Float[Array, ""], tuple[Tree, Metrics]]:
        """Adversarial, feature-matching, KL and reconstruction losses, weighted."""
        real, weights = batch["image"], self.weights
        on_fake, on_real, stats = self.discriminate(
            state.params, state.stats, layout, outputs.image, real
        )
        matching = losses.feature_matching(on_fake, on_real, self.first_feature)
        kl = outputs.kl.sum() if self.kl_reduction == "sum" else outputs.kl.mean()
        metrics = {
            "g_gan": losses.over_scales(self.gan.generator, on_fake).mean(),
            "g_feature": weights.feature * matching.mean(),
        }
        if self.encoder is not None:
            metrics["g_kl"] = weights.kl * kl
        if weights.pixel:
            metrics["g_pixel"] = weights.pixel * jnp.abs(outputs.image - real).mean()
        if (vgg := self.find_vgg()) is not None:
            variables = {"params": vgg.params}
            of_fake: Any = vgg.net.apply(variables, outputs.image)
            of_real: Any = vgg.net.apply(variables, real)
            rule = losses.VGG_WEIGHTS["inade" if self.norm == "inade" else "spade"]
            perceptual = losses.perceptual(of_fake, of_real, rule)
            metrics["g_perceptual"] = weights.perceptual * perceptual.mean()
        total = sum(metrics.values(), jnp.zeros(()))
        return total, (stats, metrics)

    # ---- sampling ----

    def sample(
        self, variables: Tree, batch: Batch, key: PRNGKeyArray, n: int
    ) -> Float[Array, "b n h w 3"]:
        """n images per layout, with styles from the prior.

        The i-th depends neither on n nor on the other examples of the batch. The image
        of the batch is not read. What the batch may hold besides:

        redraw: bool [b i], instances whose style differs from image to image; all else
          is that of image 0.
        styles: float32 [b i 4 z], `StyleStatistics` of each instance, from which its
          style is drawn instead of the prior.
        """
        layout, b = self.layout(batch), len(batch["label"])

        def one(i: Array) -> Float[Array, "b h w 3"]:
            draw = self.draw(jax.random.fold_in(key, i), b)
            if "redraw" in batch:
                first = self.draw(jax.random.fold_in(key, 0), b)
                draw = first.redrawn(draw, batch["redraw"])
            if "styles" in batch:
                statistics = StyleStatistics(*jnp.moveaxis(batch["styles"], 2, 0))
                draw = draw._replace(style=statistics.remap(draw.style))
            inputs = layout, self.latent(draw.latent), draw.style, False
            return infer(self.generator, variables, *inputs)

        return draw_many(one, n, batch.get("count"))

    def encode_styles(self, variables: Tree, batch: Batch) -> Float[Array, "b i 4 z"]:
        """`styles` of a batch's images, for `sample`; 0 for an absent instance.

        Raises:
          UserError: if the method has no instance encoder.
        """
        if not isinstance(self.encoder, InstanceEncoder):
            raise UserError(
                "this run has no encoder of instances' styles; train inade with "
                "config.model.encoder=True"
            )
        layout = self.layout(batch)
        statistics = infer(self.encoder, variables, batch["image"], layout.instance)
        return jnp.stack(statistics, 2)

    def evaluate(self, variables: Tree, batch: Batch, key: PRNGKeyArray) -> Metrics:
        """L1 of one completion, over the whole image."""
        image = composite(batch, self.sample(variables, batch, key, 1)[:, 0])
        return {"l1": reconstruction.l1(image, batch["image"])}


def zero_biases(variables: Tree) -> Tree:
    """Every `bias` at 0, spectrally normalised layers' too, as the original has it."""

    def zero(path: Any, x: Array) -> Array:
        return jnp.zeros_like(x) if path[-1].key == "bias" else x

    return jax.tree_util.tree_map_with_path(zero, variables)
