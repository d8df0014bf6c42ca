"""Pix2Pix (Isola et al., CVPR 2017, arXiv 1611.07004) as a completion method.

A conditional GAN with 100 times L1. The condition is the visible part of the image (the
hole is mid grey; a mask channel distinguishes it from grey pixels), or the other picture
of a pair (`aligned` data). The only noise is dropout, so completions of one image differ
little.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PRNGKeyArray

from picjax.layers.fill import smooth_fill
from picjax.losses import adversarial
from picjax.losses.reconstruction import l1, multiscale_l1
from picjax.methods.pix2pix.build import CHOICES, check_fill, networks
from picjax.methods.pix2pix.net import Discriminator, Generator
from picjax.methods.pix2pix.pool import empty_pool, exchange
from picjax.optim import adam
from picjax.system import (
    Batch,
    Config,
    Metrics,
    Opt,
    State,
    System,
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


class Noise(NamedTuple):
    """The random numbers of one training step.

    Attributes:
      keep: dropout masks of the generator.
      penalty: uniform in [0, 1): where the gradient penalty is evaluated.
      swap, slot: see `pool.exchange`.
    """

    keep: list[Float[Array, "b _h _w _c"]]
    penalty: Float[Array, " b"]
    swap: Float[Array, " b"]
    slot: Int[Array, " b"]


@dataclass(frozen=True, kw_only=True)
class Pix2Pix(System):
    """Pix2Pix; configs/pix2pix.py documents its settings.

    Attributes:
      generator, discriminator: networks, named after their keys in the state.
      opts: one optimiser per network, under the same names.
      gan: the adversarial losses of both players.
      l1_weight, adversarial_weight: weights of the generator's losses.
      pool_size: number of earlier fakes that the discriminator may see again; 0: off.
      mask_channel: whether the condition contains the mask.
      dropout_at_test: whether completions are drawn with dropout.
      norm_at_test: statistics of batch norm outside training: those of each `image`,
        as in the original's test (batches of one, in training mode), or `running`.
    """

    counts_draws: ClassVar[bool] = True
    meanings: ClassVar[Mapping[str, str]] = {
        "g_gan": "the generator's adversarial loss, weighted",
        "g_l1": "L1 to the truth, weighted",
        "d_real": "the discriminator's loss on real images",
        "d_fake": "the discriminator's loss on generated images",
        "d_penalty": "gradient penalty of the discriminator, weighted",
    }

    generator: Generator
    discriminator: Discriminator
    opts: Mapping[str, Opt]
    gan: adversarial.Gan
    l1_weight: float
    adversarial_weight: float
    pool_size: int
    mask_channel: bool
    dropout_at_test: bool
    norm_at_test: str

    @classmethod
    def from_config(cls, config: Config) -> "Pix2Pix":
        """Build the method from a config.

        Raises:
          UserError: for an unknown option, or an image size that does not fit.
        """
        check_choices(config, CHOICES)
        check_fill(config)
        model, loss = config.model, config.loss
        nets = networks(model, image_shape(config))
        tx = adam(config)
        return cls(
            **nets,
            opts={name: Opt(tx, (name,)) for name in nets},
            gan=adversarial.GAN[loss.gan_mode],
            l1_weight=loss.l1,
            adversarial_weight=loss.adversarial,
            pool_size=loss.pool,
            mask_channel=model.mask_channel,
            dropout_at_test=model.dropout_at_test,
            norm_at_test=model.norm_at_test,
        )

    # ---- training ----

    def init(self, batch: Batch, key: PRNGKeyArray) -> State:
        """Parameters by the config's rule, and an empty pool."""
        keys = split_keys(key, "generator", "discriminator")
        condition = self.condition(batch)
        pair = jnp.concatenate([condition, batch["image"]], -1)
        generator = self.generator.init(keys["generator"], condition, (), False)
        discriminator = self.discriminator.init(keys["discriminator"], pair, False)
        variables: Any = {"generator": generator, "discriminator": discriminator}
        state = initial_state(self.opts, variables)
        if self.pool_size:
            pool = empty_pool(self.pool_size, pair.shape[1:])
            state = state.replace(stats=state.stats | {"pool": pool})
        return state

    def condition(self, batch: Batch) -> Float[Array, "b h w c"]:
        """The generator's input: the other picture of a pair, or the visible part.

        The hole is 0, mid grey, which is a legal colour: the mask may follow as a
        channel. With `fill`, the hole continues what is around it.
        """
        mask = batch["mask"]
        if "condition" in batch:
            condition = batch["condition"]
        elif self.generator.fill:
            condition = smooth_fill(batch["image"], mask)
        else:
            condition = batch["image"] * mask
        return (
            jnp.concatenate([condition, mask], -1) if self.mask_channel else condition
        )

    def draw_noise(self, batch: Batch, key: PRNGKeyArray) -> Noise:
        """The noise of one step; a test may override it."""
        keys = split_keys(key, "keep", "penalty", "swap", "index")
        b, h, w, _ = batch["image"].shape
        return Noise(
            keep=self.draw_dropout((b, h, w), keys["keep"]),
            penalty=jax.random.uniform(keys["penalty"], (b,)),
            swap=jax.random.uniform(keys["swap"], (b,)),
            slot=jax.random.randint(keys["index"], (b,), 0, max(self.pool_size, 1)),
        )

    def draw_dropout(
        self, size: tuple[int, int, int], key: PRNGKeyArray
    ) -> list[Array]:
        """The generator's dropout masks for `size` = (images, height, width)."""
        b, *sides = size
        shapes = self.generator.keep_shapes(*sides)
        keys = [jax.random.fold_in(key, i) for i in range(len(shapes))]
        return [
            jax.random.bernoulli(key, 0.5, (b, *shape)).astype(jnp.float32)
            for key, shape in zip(keys, shapes, strict=True)
        ]

    def step(
        self, state: State, batch: Batch, key: PRNGKeyArray
    ) -> tuple[State, Metrics]:
        """Update the discriminator, then the generator against the updated one.

        The generator runs forward once. Batch statistics are per call, so the
        discriminator's running statistics move three times.
        """
        noise = self.draw_noise(batch, key)

        def generate(params: Tree) -> tuple[Array, Tree]:
            nets = {**state.params, "generator": params}
            inputs = self.condition(batch), noise.keep, True
            return apply(self.generator, nets, state.stats, *inputs)

        fake, pullback, stats = jax.vjp(
            generate, state.params["generator"], has_aux=True
        )
        state = state.replace(stats=stats)
        state, d_metrics = self.update_discriminator(state, batch, fake, noise)
        d_fake, (stats, g_metrics) = jax.grad(self.generator_loss, has_aux=True)(
            fake, state, batch
        )
        (grads,) = pullback(d_fake)
        state = update(
            self.opts, "generator", state.replace(stats=stats), {"generator": grads}
        )
        return state.replace(step=state.step + 1), {**g_metrics, **d_metrics}

    def update_discriminator(
        self, state: State, batch: Batch, fake: Float[Array, "b h w d"], noise: Noise
    ) -> tuple[State, Metrics]:
        """The discriminator's step: half the sum of its losses on fakes and on images.

        With wgangp it includes the gradient penalty, which the original omits.
        """
        condition = self.condition(batch)
        fake = jax.lax.stop_gradient(fake)
        fake_pair = jnp.concatenate([condition, fake], -1)
        real_pair = jnp.concatenate([condition, batch["image"]], -1)
        stats = state.stats
        if self.pool_size:
            pool, fake_pair = exchange(stats["pool"], fake_pair, noise.swap, noise.slot)
            stats = {**stats, "pool": pool}

        def loss(params: Tree) -> tuple[Array, tuple[Tree, Metrics]]:
            nets = {**state.params, "discriminator": params}
            on_fake, after = apply(self.discriminator, nets, stats, fake_pair, True)
            on_real, after = apply(self.discriminator, nets, after, real_pair, True)
            metrics = {
                "d_fake": self.gan.fake(on_fake).mean(),
                "d_real": self.gan.real(on_real).mean(),
            }
            total = 0.5 * (metrics["d_fake"] + metrics["d_real"])
            if self.gan.penalty:
                variables = {"params": nets, "stats": after}
                penalty = self.gradient_penalty(variables, batch, fake, noise.penalty)
                metrics["d_penalty"] = self.gan.penalty * penalty
                total += metrics["d_penalty"]
            return total, (after, metrics)

        grads, (stats, metrics) = jax.grad(loss, has_aux=True)(
            state.params["discriminator"]
        )
        state = state.replace(stats=stats)
        return update(
            self.opts, "discriminator", state, {"discriminator": grads}
        ), metrics

    def gradient_penalty(
        self,
        variables: Tree,
        batch: Batch,
        fake: Float[Array, "b h w d"],
        alpha: Float[Array, " b"],
    ) -> Float[Array, ""]:
        """The penalty on the slope with respect to the image, not to the condition.

        Batch norm uses its running statistics here, since those of a batch would make
        the scores of its examples depend on each other.
        """
        condition = self.condition(batch)

        def score(image: Array) -> Array:
            pair = jnp.concatenate([condition, image], -1)
            return infer(self.discriminator, variables, pair, False)

        return adversarial.gradient_penalty(score, batch["image"], fake, alpha).mean()

    def generator_loss(
        self, fake: Float[Array, "b h w d"], state: State, batch: Batch
    ) -> tuple[Float[Array, ""], tuple[Tree, Metrics]]:
        """The adversarial loss of a generated image and L1 over all its pixels."""
        pair = jnp.concatenate([self.condition(batch), fake], -1)
        score, stats = apply(self.discriminator, state.params, state.stats, pair, True)
        metrics = {
            "g_gan": self.adversarial_weight * self.gan.generator(score).mean(),
            "g_l1": self.l1_weight * multiscale_l1([fake], [batch["image"]]).mean(),
        }
        return metrics["g_gan"] + metrics["g_l1"], (stats, metrics)

    # ---- completion and evaluation ----

    def sample(
        self, variables: Tree, batch: Batch, key: PRNGKeyArray, n: int
    ) -> Float[Array, "b n h w 3"]:
        """n images per condition, which differ by dropout.

        They are identical if the generator or the config has no dropout at test time.
        """
        condition = self.condition(batch)
        b, h, w, _ = condition.shape

        def draw(i: Array) -> Array:
            keep = []
            if self.dropout_at_test:
                keep = self.draw_dropout((b, h, w), jax.random.fold_in(key, i))
            return self.generate(variables, condition, keep)

        return draw_many(draw, n, batch.get("count"))

    def generate(
        self,
        variables: Tree,
        condition: Float[Array, "b h w c"],
        keep: list[Float[Array, "b _h _w _c"]],
    ) -> Float[Array, "b h w d"]:
        """The generator's image outside training; running statistics stay unchanged."""
        if self.generator.norm != "batch" or self.norm_at_test == "running":
            return infer(self.generator, variables, condition, keep, False)
        params, stats = variables["params"], variables["stats"]

        def generate_one(condition: Array, keep: list[Array]) -> Array:
            batch_of_one = jax.tree.map(lambda x: x[None], (condition, keep))
            return apply(self.generator, params, stats, *batch_of_one, True)[0][0]

        return jax.vmap(generate_one)(condition, keep)

    def evaluate(self, variables: Tree, batch: Batch, key: PRNGKeyArray) -> Metrics:
        """L1 of one completion over the whole image."""
        image = self.complete(variables, batch, key, 1)[:, 0]
        return {"l1": l1(image, batch["image"])}

    def visualize(
        self, variables: Tree, batch: Batch, key: PRNGKeyArray
    ) -> dict[str, Float[Array, "b h w 3"]]:
        """The completion without dropout."""
        del key
        image = self.generate(variables, self.condition(batch), [])
        return {"no dropout": composite(batch, image)}
