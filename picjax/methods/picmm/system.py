"""PICMM (NeurIPS 2022): a VAE-GAN with a Gaussian mixture over the hidden part's latent.

z_m is the latent of the visible part and z_c that of its complement. Training decodes
z_c itself and z_hat, a draw from the assigned component of p(z_c | z_m). The mixture
learns from its own losses alone. Completion draws z_c from the mixture.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int, PRNGKeyArray

from picjax.layers.interleave import separate
from picjax.layers.residual import UPSAMPLE
from picjax.losses import adversarial, gaussian, reconstruction
from picjax.methods.picmm import mixture as mixtures
from picjax.methods.picmm.mixture import Gaussian, Mixture
from picjax.methods.picmm.net import networks
from picjax.methods.picmm.passes import Latents, Networks
from picjax.methods.vae_gan import Judged, optimisers
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
    initial_state,
    split_keys,
    update,
)

OWNED = {  # optimiser -> its nets, as in the official code
    "discriminator": ("discriminator",),
    "generator": ("encoder", "generator"),
    "mixture": ("mixture",),
}


class Outputs(NamedTuple):
    """What the losses of encoder, generator and mixture read.

    Attributes:
      latents: of both parts.
      posterior: q_c as the mixture's loss reads it.
      mixture: p(z_c | z_m).
      images: coarse to fine [2b ..], decoded from z_c and interleaved with those
        decoded from z_hat.
    """

    latents: Latents
    posterior: Gaussian
    mixture: Mixture
    images: list[Float[Array, "n _h _w 3"]]


@dataclass(frozen=True, kw_only=True, eq=False)
class PICMM(Networks):
    """Pluralistic image completion with Gaussian mixture models.

    Attributes:
      assignment: how an example's component is assigned, in `mixture.ASSIGNMENTS`.
      component_loss: the loss of that component, in `mixture.COMPONENT_LOSSES`.
      weight_loss: the loss of the weights, in `mixture.WEIGHT_LOSSES`.
      clamp: bounds of log_std in the mixture's loss, or empty.
      train_mixture: whether the mixture learns at all.
      hole_weight: weight of the hole's pixels in the L1 of z_hat's image, from 0 to 1.
      prior_weight: weight with which the mixture's loss reaches the encoder.
      temperature: factor of a component's standard deviation in completion.
      least_weight: completion draws from no component with less weight.

    References:
      Ren et al., NeurIPS 2022, arXiv 2205.09086.
    """

    counts_draws: ClassVar[bool] = True
    meanings: ClassVar[Mapping[str, str]] = {
        "rec": "multi-scale L1 of the image from z_c, weighted",
        "ad_g": "the generator's adversarial loss, weighted",
        "ad_d": (
            "the discriminator's loss: 0 if it separates real from generated images"
        ),
        "bm": (
            "bm loss: distance of the mixture from the posterior of the hidden "
            "part, weighted"
        ),
        "freq": (
            "loss of the mixture weights alpha against how often components are "
            "assigned, weighted"
        ),
        "usage_max": (
            "share of the batch that the most used component gets: 1 if the "
            "mixture has collapsed"
        ),
    }

    assignment: str
    component_loss: str
    weight_loss: str
    clamp: tuple[float, ...]
    train_mixture: bool
    hole_weight: float
    prior_weight: float
    temperature: float
    least_weight: float

    @classmethod
    def from_config(cls, config: Config) -> "PICMM":
        """The method of a config (configs/picmm.py).

        Raises:
          UserError: for an unknown name, or a size that does not halve often enough.
        """
        check_choices(
            config,
            {
                "model.upsample": UPSAMPLE,
                "model.mixture.norm": ("batch", "layer"),
                "model.mixture.select": mixtures.ASSIGNMENTS,
                "model.mixture.loss": mixtures.COMPONENT_LOSSES,
                "model.mixture.gate": mixtures.WEIGHT_LOSSES,
                "model.mixture.given": ("mean", "sample"),
                "loss.gan_mode": adversarial.GAN,
            },
        )
        loss, mixture = config.loss, config.model.mixture
        return cls(
            **networks(config.model, image_shape(config)),
            opts=optimisers(adam(config), **OWNED),
            gan_mode=loss.gan_mode,
            rec_weight=loss.rec,
            adversarial_weight=loss.adversarial,
            fill=config.model.fill,
            kl_weight=loss.kl,
            condition=mixture.given,
            assignment=mixture.select,
            component_loss=mixture.loss,
            weight_loss=mixture.gate,
            clamp=tuple(mixture.clamp),
            train_mixture=mixture.trained,
            extra_calls=mixture.extra_calls,
            hole_weight=float(loss.hole),
            prior_weight=loss.prior,
            temperature=config.sampler.temperature,
            least_weight=config.sampler.least_weight,
        )

    def init(self, batch: Batch, key: PRNGKeyArray) -> State:
        """Initial parameters with the distributions of the official code."""
        keys = split_keys(key, "encoder", "generator", "discriminator", "mixture")
        image = batch["image"]
        (z, _, features), encoder = self.encoder.init_with_output(
            keys["encoder"], image
        )
        visible = self.visible_features(features, batch)
        variables = {
            "encoder": encoder,
            "generator": self.generator.init(keys["generator"], z, z, visible),
            "discriminator": self.discriminator.init(keys["discriminator"], image),
            "mixture": self.mixture.init(keys["mixture"], z),
        }
        return initial_state(self.opts, variables)

    # ---- step ----

    def draw_noise(
        self, state: State, batch: Batch, key: PRNGKeyArray
    ) -> dict[str, Array]:
        """The noise of one step.

        `encoder` [2 b d] and `components` [b k d] are standard normal, `penalty` [2 b]
        is uniform in [0, 1).
        """
        keys = split_keys(key, "encoder", "components", "penalty")
        b, k = batch["image"].shape[0], self.mixture.k
        d = state.params["encoder"]["down_fc"]["bias"].shape[0] // 2
        return {
            "encoder": jax.random.normal(keys["encoder"], (2, b, d)),
            "components": jax.random.normal(keys["components"], (b, k, d)),
            "penalty": jax.random.uniform(keys["penalty"], (2, b)),
        }

    def step(
        self, state: State, batch: Batch, key: PRNGKeyArray
    ) -> tuple[State, Metrics]:
        """Update the discriminator, then encoder and generator, then the mixture.

        One batched call of the generator and two of the discriminator stand for 2 and 7
        calls in the official code. Spectral norm makes as many power iterations as
        there, so that with converged vectors the numbers are the same.
        """
        noise = self.draw_noise(state, batch, key)

        def forward(params: Mapping[str, Tree]) -> Any:
            return self.forward(params, state.stats, batch, noise)

        owned = {n: state.params[n] for n in ("encoder", "generator", "mixture")}
        out, pull, (j, stats) = jax.vjp(forward, owned, has_aux=True)
        state = state.replace(stats=stats)
        fakes = separate(jax.lax.stop_gradient(out.images[-1]), 2)
        judged = Judged(batch["image"], fakes, noise["penalty"])
        state, d_metrics = self.update_discriminator(state, judged)

        def losses(out: Outputs) -> Any:
            generator, (stats, g_metrics) = self.generator_loss(
                state, batch, out.images, out.latents
            )
            mixture, m_metrics = self.mixture_loss(j, out.mixture, out.posterior)
            return generator + mixture, (stats, g_metrics | m_metrics)

        d_out, (stats, metrics) = jax.grad(losses, has_aux=True)(out)
        (grads,) = pull(d_out)
        state = state.replace(step=state.step + 1, stats=stats)
        state = update(self.opts, "generator", state, grads)
        if self.train_mixture:
            state = update(self.opts, "mixture", state, grads)
        return state, metrics | d_metrics

    def forward(
        self,
        params: Mapping[str, Tree],
        stats: Mapping[str, Tree],
        batch: Batch,
        noise: Mapping[str, Array],
    ) -> tuple[Outputs, tuple[Int[Array, " b"], dict[str, Tree]]]:
        """All that the losses read, the assigned components and the new stats."""
        latents, visible, stats = self.encode(params, stats, batch, noise["encoder"])
        # The mixture's loss reaches the encoder with this weight, by default not at all.
        attached: Any = optax.scale_gradient(latents, self.prior_weight)
        mixture, stats = self.mix(params, stats, attached)
        z_hat, j = self.assign(mixture, latents, noise["components"])
        images, stats = self.generate(
            params, stats, latents, jax.lax.stop_gradient(z_hat), visible
        )
        return Outputs(latents, attached.q_c, mixture, images), (j, stats)

    def assign(
        self, mixture: Mixture, latents: Latents, eps: Float[Array, "b k d"]
    ) -> tuple[Float[Array, "b d"], Int[Array, " b"]]:
        """A draw of the component assigned to each example, and its number."""
        draws = mixtures.sample(mixture, eps)
        assign = mixtures.ASSIGNMENTS[self.assignment]
        j = assign(mixture, latents.q_c, latents.z_c, draws)
        return mixtures.take(draws, j), j

    def update_discriminator(
        self, state: State, judged: Judged
    ) -> tuple[State, Metrics]:
        """Update on the real images and the images of z_c, and again of z_hat."""

        def loss(params: Tree) -> Any:
            own = {"discriminator": params}
            value, stats = self.discriminator_loss(
                self.discriminator, own, state.stats, judged, power_iterations=4
            )
            return 2 * value, stats  # the mean of both, twice

        (value, stats), grads = jax.value_and_grad(loss, has_aux=True)(
            state.params["discriminator"]
        )
        state = state.replace(stats=stats)
        grads = {"discriminator": grads}
        return update(self.opts, "discriminator", state, grads), {"ad_d": value}

    def generator_loss(
        self, state: State, batch: Batch, images: list[Array], latents: Latents
    ) -> tuple[Float[Array, ""], tuple[dict[str, Tree], Metrics]]:
        """Loss of encoder and generator, new stats and metrics.

        The images of z_c are compared with the truth everywhere; those of z_hat in their
        known pixels, and by how close their scores are to the real image's.
        """
        image, net, params = batch["image"], self.discriminator, state.params
        scores, stats = apply(net, params, state.stats, images[-1], power_iterations=2)
        # Apart from the others, since no gradient passes through it.
        real, stats = apply(net, params, stats, image, power_iterations=1)
        of_z_c, of_z_hat = separate(scores, 2)
        ad_g = adversarial.GAN[self.gan_mode].generator(of_z_c).mean()
        ad_g += adversarial.match_loss(of_z_hat, real).mean()

        targets = reconstruction.pyramid(image, len(images))
        masks = reconstruction.pyramid(batch["mask"], len(images))
        from_z_c, from_z_hat = separate(images, 2)
        rec = reconstruction.multiscale_l1(from_z_c, targets).mean()
        rec += reconstruction.multiscale_l1(
            from_z_hat,
            targets,
            [mask + self.hole_weight * (1 - mask) for mask in masks],
        ).mean()
        metrics = {"rec": self.rec_weight * rec, "ad_g": self.adversarial_weight * ad_g}
        if self.kl_weight:
            kl = gaussian.kl_standard_normal(*latents.q_m).mean()
            kl += gaussian.kl_standard_normal(*latents.q_c).mean()
            metrics["kl"] = self.kl_weight * kl
        return sum(metrics.values(), jnp.zeros([])), (stats, metrics)

    def mixture_loss(
        self, j: Int[Array, " b"], mixture: Mixture, posterior: Gaussian
    ) -> tuple[Float[Array, ""], Metrics]:
        """Distance of component j to the posterior of z_c, plus the weights' loss."""
        if self.clamp:
            mixture = mixtures.clamp(mixture, *self.clamp)
            posterior = mixtures.clamp(posterior, *self.clamp)
        component = mixtures.component(mixture, j)
        bm = mixtures.COMPONENT_LOSSES[self.component_loss](component, posterior).mean()
        freq = mixtures.WEIGHT_LOSSES[self.weight_loss](mixture.log_alpha, j).mean()
        usage = jax.nn.one_hot(j, mixture.mu.shape[1]).mean(0)
        return bm + freq, {"bm": bm, "freq": freq, "usage_max": usage.max()}

    # ---- completion ----

    def sample(
        self, variables: Tree, batch: Batch, key: PRNGKeyArray, n: int
    ) -> Float[Array, "b n h w 3"]:
        """n images per example; the i-th does not depend on n."""
        keys = split_keys(key, "visible", "draws")
        visible = self.encode_visible(variables, batch, keys["visible"])
        log_alpha = mixtures.without_light(visible.mixture.log_alpha, self.least_weight)

        def draw(i: Array) -> Array:
            own_key = jax.random.fold_in(keys["draws"], i)
            own = split_keys(own_key, "component", "normal")
            j = jax.random.categorical(own["component"], log_alpha)
            chosen = mixtures.component(visible.mixture, j.astype(jnp.int32))
            eps = self.temperature * jax.random.normal(own["normal"], chosen.mu.shape)
            z_c = chosen.mu + eps * jnp.exp(chosen.log_std)
            return self.decode(variables, visible, z_c)

        return draw_many(draw, n, batch.get("count"))

    def evaluate(self, variables: Tree, batch: Batch, key: PRNGKeyArray) -> Metrics:
        """L1 of one completion, and the effective number of components.

        `components` is exp(entropy of alpha): 1 if one component has all the weight, k
        if all weights are equal.
        """
        keys = split_keys(key, "visible", "complete")
        visible = self.encode_visible(variables, batch, keys["visible"])
        image = self.complete(variables, batch, keys["complete"], 1)[:, 0]
        log_alpha = visible.mixture.log_alpha
        entropy = -(jnp.exp(log_alpha) * log_alpha).sum(-1)
        return {
            "l1": reconstruction.l1(image, batch["image"]),
            "components": jnp.exp(entropy),
        }

    def visualize(
        self, variables: Tree, batch: Batch, key: PRNGKeyArray
    ) -> dict[str, Float[Array, "b h w 3"]]:
        """The completion at each component's mean."""
        visible = self.encode_visible(variables, batch, key)
        means = visible.mixture.mu.swapaxes(0, 1)
        return {
            f"component {i}": composite(batch, self.decode(variables, visible, mean))
            for i, mean in enumerate(means)
        }
