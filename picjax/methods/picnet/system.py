"""PICNet (CVPR 2019): two paths through one conditional VAE-GAN.

The reconstructive path decodes a draw of the posterior p(z | complement), the generative
path a draw of the learnt prior q(z | visible part), both with the visible part's
features. `discriminator` judges the generative path's images; `discriminator_rec`
compares the reconstruction with the truth. Completion draws z from q.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from picjax.layers.encoder_decoder import VisibleFeatures
from picjax.layers.interleave import interleave, separate
from picjax.layers.residual import UPSAMPLE
from picjax.losses import adversarial, reconstruction
from picjax.methods.picnet.divergence import KL_REC, Latent, divergences
from picjax.methods.picnet.net import Encoder, ResGenerator, networks
from picjax.methods.vae_gan import Judged, VaeGan, optimisers
from picjax.optim import adam
from picjax.system import (
    Batch,
    Config,
    Metrics,
    State,
    Tree,
    apply,
    check_choices,
    composite,
    draw_many,
    image_shape,
    infer,
    initial_state,
    split_keys,
    update,
)

# Each judges the images of one path: the reconstructions, then the generated ones.
DISCRIMINATORS = ("discriminator_rec", "discriminator")
OWNED = {  # optimiser -> its nets, as in the official code
    "discriminator": DISCRIMINATORS,
    "generator": ("encoder", "generator"),
}


class Outputs(NamedTuple):
    """What the losses of encoder and generator read.

    Attributes:
      p: the posterior.
      q: the learnt prior.
      images: coarse to fine [2b ..], decoded from p and interleaved with those decoded
        from q.
    """

    p: Latent
    q: Latent
    images: list[Float[Array, "n _h _w 3"]]


class Visible(NamedTuple):
    """What all completions of a batch share, computed once."""

    q: Latent
    features: VisibleFeatures


@dataclass(frozen=True, kw_only=True, eq=False)
class PICNet(VaeGan):
    """Pluralistic image completion.

    Attributes:
      discriminator_rec: the network that judges reconstructions.
      two_paths: whether the reconstructive path is trained, or the prior alone.
      kl_rec: direction of the posterior's divergence, an entry of `KL_REC`.
      least_std: added to both standard deviations; the official code has no floor.

    References:
      Zheng, Cham, Cai, CVPR 2019, arXiv 1903.04227.
    """

    counts_draws: ClassVar[bool] = True
    meanings: ClassVar[Mapping[str, str]] = {
        "app_g": "L1 of the generative path, weighted",
        "app_rec": "L1 of the reconstructive path, weighted",
        "ad_g": "adversarial loss of the generative path, weighted",
        "ad_rec": (
            "adversarial loss of the reconstructive path (matched scores), weighted"
        ),
        "kl_g": "KL divergence of the learnt prior from the posterior, weighted",
        "kl_rec": "KL divergence of the posterior from the standard normal, weighted",
        "ad_d": "loss of the generative path's discriminator",
        "ad_d_rec": "loss of the reconstructive path's discriminator",
    }

    encoder: Encoder
    generator: ResGenerator
    discriminator_rec: Any
    two_paths: bool
    kl_rec: str
    least_std: float

    @classmethod
    def from_config(cls, config: Config) -> "PICNet":
        """The method of a config (configs/picnet.py).

        Raises:
          UserError: for an unknown name, or a size that does not halve often enough.
        """
        check_choices(
            config,
            {
                "model.discriminator": ("res", "patch"),
                "model.upsample": UPSAMPLE,
                "loss.paths": ("two", "one"),
                "loss.kl_rec": KL_REC,
                "loss.gan_mode": adversarial.GAN,
            },
        )
        nets, loss = networks(config.model, image_shape(config)), config.loss
        return cls(
            **nets,
            opts=optimisers(adam(config), **OWNED),
            gan_mode=loss.gan_mode,
            rec_weight=loss.rec,
            adversarial_weight=loss.adversarial,
            fill=config.model.fill,
            kl_weight=loss.kl * nets["generator"].output_scale,
            two_paths=loss.paths == "two",
            kl_rec=loss.kl_rec,
            least_std=config.model.least_std,
        )

    def init(self, batch: Batch, key: PRNGKeyArray) -> State:
        """Initial parameters with the distributions of the official code."""
        keys = split_keys(key, "encoder", "generator", *DISCRIMINATORS)
        image = batch["image"]
        ((z, _), _, features), encoder = self.encoder.init_with_output(
            keys["encoder"], image
        )
        visible = self.visible_features(features, batch)
        variables = {
            "encoder": encoder,
            "generator": self.generator.init(keys["generator"], z, visible),
        }
        for name in DISCRIMINATORS:
            variables[name] = getattr(self, name).init(keys[name], image)
        return initial_state(self.opts, variables)

    # ---- step ----

    def draw_noise(
        self, state: State, batch: Batch, key: PRNGKeyArray
    ) -> dict[str, Array]:
        """The noise of one step.

        `p` and `q` [b i j z] are standard normal, `penalty` [2 b] is uniform in [0, 1).
        """
        del state
        keys = split_keys(key, "p", "q", "penalty")
        b, h, w, _ = batch["image"].shape
        halvings = self.encoder.layers
        shape = b, h >> halvings, w >> halvings, self.encoder.z_nc
        return {
            "p": jax.random.normal(keys["p"], shape),
            "q": jax.random.normal(keys["q"], shape),
            "penalty": jax.random.uniform(keys["penalty"], (2, b)),
        }

    def step(
        self, state: State, batch: Batch, key: PRNGKeyArray
    ) -> tuple[State, Metrics]:
        """Update both discriminators, then encoder and generator.

        Spectral norm makes as many power iterations as the official code has calls, so
        that with converged vectors the numbers are the same.
        """
        noise = self.draw_noise(state, batch, key)

        def forward(params: Mapping[str, Tree]) -> Any:
            return self.forward(params, state.stats, batch, noise)

        owned = {n: state.params[n] for n in ("encoder", "generator")}
        out, pull, stats = jax.vjp(forward, owned, has_aux=True)
        state = state.replace(stats=stats)
        fakes = separate(jax.lax.stop_gradient(out.images[-1]), 2)
        judged = Judged(batch["image"], fakes, noise["penalty"])
        state, d_metrics = self.update_discriminators(state, judged)
        d_out, (stats, metrics) = jax.grad(
            partial(self.generator_loss, state, batch), has_aux=True
        )(out)
        (grads,) = pull(d_out)
        state = state.replace(step=state.step + 1, stats=stats)
        return update(self.opts, "generator", state, grads), metrics | d_metrics

    def forward(
        self,
        params: Mapping[str, Tree],
        stats: Mapping[str, Tree],
        batch: Batch,
        noise: Mapping[str, Array],
    ) -> tuple[Outputs, dict[str, Tree]]:
        """All that the losses read, and the new stats."""
        p, q, visible, stats = self.encode(params, stats, batch)
        from_p = p.mu + noise["p"] * p.std, visible
        from_q = q.mu + noise["q"] * q.std, visible
        inputs = interleave(from_p, from_q)
        images, stats = apply(
            self.generator, params, stats, *inputs, power_iterations=1
        )
        return Outputs(p, q, images), stats

    def encode(
        self, params: Mapping[str, Tree], stats: Mapping[str, Tree], batch: Batch
    ) -> tuple[Latent, Latent, VisibleFeatures, dict[str, Tree]]:
        """Posterior, learnt prior and visible features of a batch, and the new stats."""
        image, mask = batch["image"], batch["mask"]
        parts = image * mask, image * (1 - mask)
        (q, p, features), stats = apply(
            self.encoder, params, stats, *parts, power_iterations=1
        )
        p, q = (Latent(mu, std + self.least_std) for mu, std in (p, q))
        of_visible, _ = separate(features, 2)
        return p, q, self.visible_features(of_visible, batch), stats

    def update_discriminators(
        self, state: State, judged: Judged
    ) -> tuple[State, Metrics]:
        """Update both on the real images, each on the generated ones of its path."""
        paths = {
            name: Judged(judged.real, [fake], alpha[None])
            for name, fake, alpha in zip(
                DISCRIMINATORS, judged.fakes, judged.alpha, strict=True
            )
        }

        def losses(params: Mapping[str, Tree]) -> Any:
            stats, values = state.stats, {}
            for name, path in paths.items():
                values[name], stats = self.discriminator_loss(
                    getattr(self, name), params, stats, path, power_iterations=2
                )
            return sum(values.values(), jnp.zeros([])), (stats, values)

        owned = {name: state.params[name] for name in DISCRIMINATORS}
        grads, (stats, values) = jax.grad(losses, has_aux=True)(owned)
        state = update(self.opts, "discriminator", state.replace(stats=stats), grads)
        return state, {n.replace("discriminator", "ad_d"): v for n, v in values.items()}

    def generator_loss(
        self, state: State, batch: Batch, out: Outputs
    ) -> tuple[Float[Array, ""], tuple[dict[str, Tree], Metrics]]:
        """Loss of encoder and generator, new stats and metrics.

        With one path the reconstruction is not trained, and the images of the learnt
        prior are compared with the truth everywhere.
        """
        image, mask = batch["image"], batch["mask"]
        rec, gen = separate(out.images, 2)
        params = state.params
        scores, stats = apply(
            self.discriminator, params, state.stats, gen[-1], power_iterations=1
        )
        net = self.discriminator_rec
        rec_scores, _ = apply(net, params, stats, rec[-1], power_iterations=1)
        # Apart, since no gradient passes through it; with the iterations of both calls.
        real_scores, stats = apply(net, params, stats, image, power_iterations=2)
        targets = reconstruction.pyramid(image, len(gen))
        masks = reconstruction.pyramid(mask, len(gen)) if self.two_paths else None
        kl_rec, kl_g = divergences(out.p, out.q, mask, self.kl_rec, self.two_paths)
        ad_g = adversarial.GAN[self.gan_mode].generator(scores)
        metrics = {
            "app_g": self.rec_weight
            * reconstruction.multiscale_l1(gen, targets, masks),
            "ad_g": self.adversarial_weight * ad_g,
            "kl_g": self.kl_weight * kl_g,
        }
        if self.two_paths:
            match = adversarial.match_loss(rec_scores, real_scores)
            metrics |= {
                "app_rec": self.rec_weight * reconstruction.multiscale_l1(rec, targets),
                "ad_rec": self.adversarial_weight * match,
                "kl_rec": self.kl_weight * kl_rec,
            }
        metrics = {name: value.mean() for name, value in metrics.items()}
        return sum(metrics.values(), jnp.zeros([])), (stats, metrics)

    # ---- completion ----

    def encode_visible(self, variables: Tree, batch: Batch) -> Visible:
        """Encode the visible part."""
        visible = batch["image"] * batch["mask"]
        (mu, std), _, features = infer(self.encoder, variables, visible)
        q = Latent(mu, std + self.least_std)
        return Visible(q, self.visible_features(features, batch))

    def decode(
        self, variables: Tree, visible: Visible, z: Float[Array, "b i j z"]
    ) -> Float[Array, "b h w 3"]:
        """The image of a latent map, its known pixels as the generator draws them."""
        return infer(self.generator, variables, z, visible.features)[-1]

    def sample(
        self, variables: Tree, batch: Batch, key: PRNGKeyArray, n: int
    ) -> Float[Array, "b n h w 3"]:
        """n images per example; the i-th does not depend on n."""
        visible = self.encode_visible(variables, batch)

        def draw(i: Array) -> Array:
            eps = jax.random.normal(jax.random.fold_in(key, i), visible.q.mu.shape)
            return self.decode(variables, visible, visible.q.mu + eps * visible.q.std)

        return draw_many(draw, n, batch.get("count"))

    def evaluate(self, variables: Tree, batch: Batch, key: PRNGKeyArray) -> Metrics:
        """L1 of one completion, and the learnt prior's mean standard deviation."""
        image = self.complete(variables, batch, key, 1)[:, 0]
        visible = self.encode_visible(variables, batch)
        return {
            "l1": reconstruction.l1(image, batch["image"]),
            "std": visible.q.std.mean((1, 2, 3)),
        }

    def visualize(
        self, variables: Tree, batch: Batch, key: PRNGKeyArray
    ) -> dict[str, Float[Array, "b h w 3"]]:
        """The completion at the learnt prior's mean."""
        visible = self.encode_visible(variables, batch)
        mean = self.decode(variables, visible, visible.q.mu)
        return {"mean": composite(batch, mean)}
