"""What PICMM and PICNet have in common besides their layers.

Both encode the visible part and its complement, decode latents of the complement with
features of the visible part, and train against one discriminator or two.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import optax
from jaxtyping import Array, Float

from picjax.cli import UserError
from picjax.layers.encoder_decoder import Known, VisibleFeatures
from picjax.layers.fill import smooth_fill
from picjax.layers.interleave import interleave, separate
from picjax.losses import adversarial
from picjax.losses.reconstruction import resize
from picjax.system import Batch, Config, Opt, System, Tree, apply, infer


class Judged(NamedTuple):
    """Images that a discriminator is trained on.

    Attributes:
      real: images.
      fakes: n batches of images generated for the same examples, without gradient.
      alpha: where the gradient penalty interpolates, uniform in [0, 1), one value per
        generated image.
    """

    real: Float[Array, "b h w 3"]
    fakes: Sequence[Float[Array, "b h w 3"]]
    alpha: Float[Array, "n b"]


@dataclass(frozen=True, kw_only=True, eq=False)
class VaeGan(System):
    """An encoder, a generator and a discriminator with the losses of both methods.

    Attributes:
      encoder, generator, discriminator: the networks, each named after its field.
      opts: the optimisers and the networks that each owns.
      gan_mode: the adversarial loss, an entry of `adversarial.GAN`.
      rec_weight: weight of the multi-scale L1 loss.
      adversarial_weight: weight of the generator's adversarial losses.
      kl_weight: weight of the latents' divergences.
      fill: whether the decoder reads the visible part at every scale and adds to a
        smooth fill of the hole; ours, not in the papers (docs/picmm.md).
    """

    encoder: Any
    generator: Any
    discriminator: Any
    opts: Mapping[str, Opt]
    gan_mode: str
    rec_weight: float
    adversarial_weight: float
    kl_weight: float
    fill: bool

    @property
    def can_score(self) -> bool:
        return True

    def score(
        self, variables: Tree, images: Float[Array, "n h w 3"]
    ) -> Float[Array, " n"]:
        """The discriminator's mean score of each image."""
        return adversarial.mean(infer(self.discriminator, variables, images))

    def visible_features(self, features: list[Array], batch: Batch) -> VisibleFeatures:
        """What the generator reads, from the encoder's features of the visible part.

        The attention's mask is resized to the map attended to, fractional at its edges.
        """
        image, mask = batch["image"], batch["mask"]
        f_e = features[self.generator.layers - 3]
        small = resize(mask, (f_e.shape[1], f_e.shape[2]))
        known = None
        if self.fill:
            known = Known(smooth_fill(image, mask), mask, tuple(features))
        return VisibleFeatures(features[-1], f_e, small, known)

    def discriminator_loss(
        self,
        net: Any,
        params: Mapping[str, Tree],
        stats: Mapping[str, Tree],
        judged: Judged,
        power_iterations: int,
    ) -> tuple[Float[Array, ""], dict[str, Tree]]:
        """The loss of a discriminator on real and generated images, and its new stats."""
        gan, n = adversarial.GAN[self.gan_mode], len(judged.fakes)
        images = interleave(judged.real, *judged.fakes)
        scores, new = apply(
            net, params, stats, images, power_iterations=power_iterations
        )
        real, *fakes = separate(scores, 1 + n)
        loss = gan.real(real).mean() + sum(gan.fake(fake).mean() for fake in fakes) / n
        loss *= 0.5
        if gan.penalty:
            frozen = {"params": params, "stats": stats}
            penalty = adversarial.gradient_penalty(
                lambda x: infer(net, frozen, x),
                interleave(*[judged.real] * n),
                interleave(*judged.fakes),
                interleave(*judged.alpha),
            )
            loss += gan.penalty * penalty.mean()
        return loss, new


def optimisers(
    tx: optax.GradientTransformation, **nets: tuple[str, ...]
) -> dict[str, Opt]:
    """The same optimiser for each group of networks, by the group's name."""
    return {name: Opt(tx, group) for name, group in nets.items()}


def check_widths(model: Config) -> None:
    """Check that the widest part of each network is no narrower than its first.

    Raises:
      UserError: naming both keys.
    """
    for key in ("ngf", "ndf"):
        if not 0 < model[key] <= model.img_f:
            raise UserError(
                f"config.model.{key} {model[key]} does not lie between 1 and "
                f"config.model.img_f {model.img_f}; change one of them"
            )
