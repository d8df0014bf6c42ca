"""Intelligent Painter and RePaint: a diffusion model that completes any hole.

Training is guided-diffusion's: the network learns to predict the noise in whole images,
and masks play no part unless the network sees the known pixels (ours). Completion reverses
the process from noise, replacing the known pixels before every evaluation of the network
and resampling (`resampling.repaint`). A classifier that guides is trained beside the
network, on noised images of its own.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Int, Key, PRNGKeyArray, UInt8

from picjax.cli import UserError
from picjax.methods.painter import losses, process, settings, timesteps
from picjax.methods.painter.classifier import Classifier, Guidance, class_guidance
from picjax.methods.painter.net import UNet
from picjax.methods.painter.process import Denoiser, Noised, Parameterization, Schedule
from picjax.methods.painter.resampling import PRESETS, make_noise, repaint
from picjax.methods.painter.samplers.interface import denoise_with, measure
from picjax.methods.painter.samplers.presets import Walk
from picjax.methods.painter.settings import Sampler
from picjax.methods.painter.timesteps import LossHistory
from picjax.system import (
    Batch,
    Config,
    Metrics,
    Opt,
    State,
    System,
    Tree,
    draw_many,
    infer,
    initial_state,
    split_keys,
    update,
)

EVALUATED_STEPS = 4  # of the process, for each image in `evaluate`


@dataclass(frozen=True, kw_only=True, eq=False)
class Painter(System):
    """The method; configs/painter.py documents the settings.

    Attributes:
      unet: the denoising network.
      sees_known: whether its input also holds the known pixels and the mask (ours).
      classifier: guides the sampler; None: no guidance.
      opts: "adamw" of the UNet and, if it is trained, "classifier".
      schedule: of the process that is trained.
      parameterization: what the UNet's output means.
      loss: one of `losses.LOSSES`.
      timestep_sampler: one of `timesteps.TIMESTEP_SAMPLERS`.
      ema_decay: of the averaged parameters, per training step.
      sampler: how completions are drawn.
    """

    counts_draws: ClassVar[bool] = True
    meanings: ClassVar[Mapping[str, str]] = {
        "loss": "the training loss: mse, vb or their sum (config.loss.kind)",
        "mse": "squared error of the predicted noise, as the loss weights timesteps",
        "vb": "term of the variational bound, as the loss weights timesteps",
        "classifier": "the classifier's cross-entropy on noised images",
        "accuracy": "share of noised images that the classifier names correctly",
    }

    unet: UNet
    sees_known: bool
    classifier: Classifier | None
    opts: Mapping[str, Opt]
    schedule: Schedule
    parameterization: Parameterization
    loss: str
    timestep_sampler: str
    ema_decay: float
    sampler: Sampler

    @classmethod
    def from_config(cls, config: Config) -> "Painter":
        """The method that a config describes.

        Raises:
          UserError: for an invalid size, width, name or sampler.
        """
        settings.check(config)
        diffusion, opt = config.diffusion, config.opt
        return cls(
            unet=settings.make_unet(config),
            sees_known=config.model.sees_known,
            classifier=settings.make_classifier(config),
            opts=settings.make_optimizers(config),
            schedule=process.make_schedule(diffusion.schedule, diffusion.steps),
            parameterization=settings.parameterization(config),
            loss=config.loss.kind,
            timestep_sampler=config.loss.steps,
            ema_decay=opt.ema ** (1 / opt.accumulate),
            sampler=settings.make_sampler(config),
        )

    def mask_warnings(self, mask: UInt8[np.ndarray, "h w"]) -> Sequence[str]:
        """Warns that an empty canvas needs no resampling."""
        plan = self.sampler.plan
        plain = int(PRESETS["plain"].spacing)  # evaluations, as it has no jumps
        if mask.any() or plan.evaluations <= plain:
            return ()
        warning = (
            f"no pixel is known, so this sampler's {plan.forward_steps} steps back are "
            f"not needed; --sampler=plain takes {plain} evaluations of the network "
            f"instead of {plan.evaluations}"
        )
        return (warning,)

    # ---- training ----

    def init(self, batch: Batch, key: PRNGKeyArray) -> State:
        """The original's initial weights; the average starts as a copy of them."""
        keys = split_keys(key, "unet", "classifier")
        first = jax.tree.map(lambda x: x[:1], batch)
        x, t = first["image"], jnp.zeros(1, jnp.int32)
        y = t if self.unet.classes else None
        seen = beside(x, self.known(first))
        variables = {"unet": self.unet.init(keys["unet"], seen, t, y)}
        if self.classifier is not None:
            variables["classifier"] = self.classifier.init(keys["classifier"], x, t)
        state = initial_state(self.opts, variables)
        if self.timestep_sampler == "loss_second_moment":
            history = timesteps.empty_history(self.schedule.steps)
            state = state.replace(stats=state.stats | {"history": history._asdict()})
        # A copy, since the parameters' buffers are donated to the next step.
        return state.replace(ema={"unet": jax.tree.map(jnp.copy, state.params["unet"])})

    def step(
        self, state: State, batch: Batch, key: PRNGKeyArray
    ) -> tuple[State, Metrics]:
        """One update of the network, its average and, if it is trained, the classifier.

        Raises:
          UserError: if a network needs classes and the batch has none.
        """
        self._check_classes(batch)
        keys = split_keys(key, "steps", "noise", "dropout", "classifier")
        image = batch["image"]
        t, weights = self._sample_timesteps(state, keys["steps"], len(image))
        noise = jax.random.normal(keys["noise"], image.shape)
        noised = process.add_noise(self.schedule, image, t, noise)
        y = batch["class"] if self.unet.classes else None
        known = self.known(batch)

        def loss(params: Tree) -> tuple[Array, Metrics]:
            values = self.training_losses(params, noised, y, keys["dropout"], known)
            return (weights * values["loss"]).mean(), values

        grads, values = jax.grad(loss, has_aux=True)(state.params["unet"])
        state = update(self.opts, "adamw", state, {"unet": grads})
        if "history" in state.stats:
            history = LossHistory(**state.stats["history"])
            history = timesteps.record_losses(history, t, values["loss"])
            state = state.replace(stats=state.stats | {"history": history._asdict()})
        ema = optax.incremental_update(
            state.params["unet"], state.ema["unet"], 1 - self.ema_decay
        )
        metrics = {name: (weights * x).mean() for name, x in values.items()}
        if "classifier" in self.opts:
            state, own = self.update_classifier(state, batch, keys["classifier"])
            metrics |= own
        return state.replace(step=state.step + 1, ema={"unet": ema}), metrics

    def training_losses(
        self,
        params: Tree,
        noised: Noised,
        y: Int[Array, " b"] | None,
        dropout: PRNGKeyArray | None = None,
        known: Float[Array, "b h w 4"] | None = None,
    ) -> dict[str, Float[Array, " b"]]:
        """The losses of the UNet with these parameters, one value per example.

        Args:
          params: of the UNet.
          noised: images at steps of the training process.
          y: their classes, for a class-conditional network.
          dropout: key; None: no dropout.
          known: of `known`, for a network that sees it.
        """
        variables = {"params": {"unet": params}, "stats": {}}
        rngs = None if dropout is None else {"dropout": dropout}
        train = dropout is not None

        def network(x: Array, t: Array) -> Array:
            x = beside(x, known)
            return infer(self.unet, variables, x, t, y, train, rngs=rngs)

        denoiser = Denoiser(network, self.schedule, self.parameterization)
        output = denoiser.output(noised.x, noised.t)
        return losses.step_losses(
            self.schedule, self.parameterization, self.loss, noised, output
        )

    def update_classifier(
        self, state: State, batch: Batch, key: PRNGKeyArray
    ) -> tuple[State, Metrics]:
        """One update of the classifier on images noised to uniformly drawn steps."""
        assert self.classifier is not None
        net = self.classifier
        keys = split_keys(key, "steps", "noise")
        image, y = batch["image"], batch["class"]
        t = jax.random.randint(keys["steps"], (len(image),), 0, self.schedule.steps)
        noise = jax.random.normal(keys["noise"], image.shape)
        x = process.q_sample(self.schedule, image, t, noise)

        def loss(params: Tree) -> tuple[Array, Metrics]:
            original = jnp.asarray(self.schedule.timesteps, jnp.int32)[t]
            variables = {"params": {"classifier": params}, "stats": {}}
            logits = infer(net, variables, x, original)
            values = optax.softmax_cross_entropy_with_integer_labels(logits, y)
            correct = logits.argmax(-1) == y
            metrics = {"classifier": values.mean(), "accuracy": correct.mean()}
            return values.mean(), metrics

        grads, metrics = jax.grad(loss, has_aux=True)(state.params["classifier"])
        return update(self.opts, "classifier", state, {"classifier": grads}), metrics

    def _check_classes(self, batch: Batch) -> None:
        """Checks that the batch has classes where a network learns them."""
        needed = {"config.model.classes": self.unet.classes}
        if self.classifier is not None and "classifier" in self.opts:
            needed["config.model.classifier_classes"] = self.classifier.classes
        for name, count in needed.items():
            if count and "class" not in batch:
                raise UserError(
                    f"{name} is {count}, but the images come without classes; set "
                    "config.data.classes as well, or this to 0"
                )

    def _sample_timesteps(
        self, state: State, key: PRNGKeyArray, b: int
    ) -> tuple[Int[Array, " b"], Float[Array, " b"]]:
        """The steps that a batch is trained on, and their weights in the loss."""
        p = jnp.full(self.schedule.steps, 1 / self.schedule.steps)
        if "history" in state.stats:
            p = timesteps.probabilities(LossHistory(**state.stats["history"]))
        return timesteps.sample_timesteps(key, p, b)

    # ---- sampling ----

    def sample(
        self, variables: Tree, batch: Batch, key: PRNGKeyArray, n: int
    ) -> Float[Array, "b n h w 3"]:
        """n completions per image; each depends only on its image and its own key."""
        image, mask = batch["image"], batch["mask"]
        b, h, w, _ = image.shape
        keys = split_keys(key, "noise", "label")

        def draw(i: Array, x: Array | None = None) -> Array:
            own = {
                name: _key_per_image(jax.random.fold_in(k, i), b)
                for name, k in keys.items()
            }
            y = self._labels(self.sampler.label, own["label"], batch)
            if self.sampler.posterior is not None:
                return self._draw_posterior(variables, batch, own["noise"], y, x)
            noise = make_noise(own["noise"], (h, w))
            if x is not None:
                start = jnp.where(batch["calls"][0] > 0, x, noise.initial)
                noise = noise._replace(initial=start)
            images, _ = repaint(
                self.denoiser(variables, self.sampler.schedule, y, self.known(batch)),
                self.sampler.plan,
                image,
                mask,
                noise,
                eta=self.sampler.eta,
                guidance=self.guidance(variables, y),
                calls=batch.get("calls"),
            )
            return images

        if "walk" not in batch:
            return draw_many(draw, n, batch.get("count"))
        numbers = batch["count"][0] + jnp.arange(n)
        return jax.vmap(draw, (0, 1), 1)(numbers, batch["walk"])

    def _draw_posterior(
        self,
        variables: Tree,
        batch: Batch,
        keys: Key[Array, " b"],
        y: Int[Array, " b"] | None,
        x: Float[Array, "b h w 3"] | None = None,
    ) -> Float[Array, "b h w 3"]:
        """A completion per image by a sampler of the posterior, or a part of its walk."""
        preset, schedule = self.sampler.posterior, self.sampler.schedule
        assert preset is not None
        plan, particles = preset.plan(schedule), preset.step_cost.particles

        def of_image(
            image: Array, mask: Array, key: Array, label: Any, x: Any
        ) -> Array:
            y = None if label is None else jnp.full(particles, label)
            known = self.known({"image": image[None], "mask": mask[None]})
            denoise = denoise_with(self.denoiser(variables, schedule, y, known))
            measurement = measure(image[None], mask[None])
            part = () if x is None else (Walk(x[None], batch["calls"]),)
            return preset.draw(denoise, plan, measurement, key, *part)[0]

        return jax.vmap(of_image)(batch["image"], batch["mask"], keys, y, x)

    @property
    def walk_calls(self) -> int:
        """Evaluations of the network; 0: the sampler's walk cannot be divided."""
        preset = self.sampler.posterior
        return 0 if preset and not preset.divisible else self.sampler.plan.evaluations

    def sampling_cost(self) -> str:
        """The sampler's cost in evaluations of the network."""
        return str(self.sampler.cost)

    def denoiser(
        self,
        variables: Tree,
        schedule: Schedule,
        y: Int[Array, " b"] | None,
        known: Float[Array, "b h w 4"] | None = None,
    ) -> Denoiser:
        """The UNet on a schedule, conditioned on the classes y if it knows classes.

        Args:
          variables: of the method.
          schedule: of the process.
          y: classes.
          known: of `known`, for a network that sees it; of one image, it serves all.
        """
        condition = y if self.unet.classes else None

        def network(x: Array, t: Array) -> Array:
            return infer(self.unet, variables, beside(x, known), t, condition)

        return Denoiser(network, schedule, self.parameterization)

    def known(self, batch: Batch) -> Float[Array, "b h w 4"] | None:
        """The known pixels, 0 in the hole, and the mask; None if the UNet sees x alone."""
        if not self.sees_known:
            return None
        image, mask = batch["image"], batch["mask"]
        return jnp.concatenate([image * mask, mask], -1)

    def guidance(self, variables: Tree, y: Int[Array, " b"] | None) -> Guidance | None:
        """The classifier's gradient towards the classes y; None without guidance."""
        net, scale = self.classifier, self.sampler.guidance_scale
        if net is None or not scale or y is None:
            return None

        def classify(x: Array, t: Array) -> Array:
            return infer(net, variables, x, t)

        return class_guidance(classify, y, scale)

    def _labels(
        self, label: int, keys: Key[Array, " b"], batch: Batch
    ) -> Int[Array, " b"] | None:
        """The class to draw for each image; None if the networks know no classes.

        This is `label` unless it is -1, else the image's own class, else a random one.
        """
        classes = self.unet.classes
        if self.classifier is not None:
            classes = classes or self.classifier.classes
        if not classes:
            return None
        if label >= 0:
            return jnp.full(len(keys), label)
        if "class" in batch:
            return batch["class"]
        return jax.vmap(lambda key: jax.random.randint(key, (), 0, classes))(keys)

    # ---- evaluation ----

    def evaluate(self, variables: Tree, batch: Batch, key: PRNGKeyArray) -> Metrics:
        """Losses of whole images at a few steps, one from each part of the process.

        `mse` of the noise; `bound`: the variational bound in bits per dimension,
        estimated from those steps alone.
        """
        image = batch["image"]
        keys = split_keys(key, "steps", "noise", "label")
        denoiser = self._training_denoiser(variables, batch, keys["label"])
        schedule = self.schedule

        def part(i: Array) -> tuple[Array, Array]:
            key = jax.random.fold_in(keys["steps"], i)
            within = jax.random.uniform(key, (len(image),))
            t = ((i + within) / EVALUATED_STEPS * schedule.steps).astype(jnp.int32)
            key = jax.random.fold_in(keys["noise"], i)
            noise = jax.random.normal(key, image.shape)
            noised = process.add_noise(schedule, image, t, noise)
            output = denoiser.output(noised.x, t)
            vb, x0 = losses.bound_term(
                schedule, self.parameterization, noised, output, clip=False
            )
            epsilon = process.epsilon_from_x0(schedule, noised.x, t, x0)
            return vb, jnp.square(epsilon - noise).mean((1, 2, 3))

        vb, mse = jax.lax.map(part, jnp.arange(EVALUATED_STEPS))
        bound = vb.mean(0) * schedule.steps + losses.prior_bits(schedule, image)
        return {"mse": mse.mean(0), "bound": bound}

    def visualize(
        self, variables: Tree, batch: Batch, key: PRNGKeyArray
    ) -> dict[str, Float[Array, "b h w 3"]]:
        """The predicted x_0 of the true images at 20, 40 and 60 % of the process."""
        image = batch["image"]
        keys = split_keys(key, "noise", "label")
        noise = jax.random.normal(keys["noise"], image.shape)
        denoiser = self._training_denoiser(variables, batch, keys["label"])
        steps = [self.schedule.steps * k // 10 for k in (2, 4, 6)]

        def predict(step: Array) -> Array:
            t = jnp.full(len(image), step)
            x = process.q_sample(self.schedule, image, t, noise)
            return denoiser(x, t).x0

        images = jax.lax.map(predict, jnp.array(steps))
        return {f"from {t}": x for t, x in zip(steps, images, strict=True)}

    def _training_denoiser(
        self, variables: Tree, batch: Batch, key: PRNGKeyArray
    ) -> Denoiser:
        """The UNet on the training schedule, conditioned on the images' classes."""
        y = self._labels(-1, _key_per_image(key, len(batch["image"])), batch)
        return self.denoiser(variables, self.schedule, y, self.known(batch))


def beside(
    x: Float[Array, "b h w 3"], known: Float[Array, "k h w 4"] | None
) -> Float[Array, "b h w c"]:
    """x_t with what is known as further channels; known is of b images, or of one."""
    if known is None:
        return x
    known = jnp.broadcast_to(known, (len(x), *known.shape[1:]))
    return jnp.concatenate([x, known], -1)


def _key_per_image(key: PRNGKeyArray, b: int) -> Key[Array, " b"]:
    return jax.vmap(jax.random.fold_in, (None, 0))(key, jnp.arange(b))
