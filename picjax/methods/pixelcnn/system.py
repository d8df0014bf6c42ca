"""PixelCNN++ (arXiv 1701.05517): the exact likelihood of an image, pixel by pixel.

Training maximises the likelihood of whole images, where masks play no part, or that of
the missing pixels given those before each. Completion draws the missing pixels in raster
order, each given all before it: exactly the model's posterior if no known pixel comes
after the hole. A model trained with several orientations, of which its input names one,
completes each image in the orientation with the fewest known pixels after the hole.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Int, PRNGKeyArray, UInt8

from picjax.cli import UserError
from picjax.methods.pixelcnn import cached, logistic, raster
from picjax.methods.pixelcnn.build import adam, networks
from picjax.methods.pixelcnn.checks import check, complete_config
from picjax.methods.pixelcnn.net import PixelCNN
from picjax.methods.pixelcnn.orientation import (
    Oriented,
    best_orientation,
    known_after_hole,
    orient,
    restore,
    select,
)
from picjax.methods.pixelcnn.raster import Noise
from picjax.system import (
    Batch,
    Config,
    Metrics,
    Opt,
    State,
    System,
    Tree,
    image_shape,
    infer,
    initial_state,
    split_keys,
    update,
)


@dataclass(frozen=True, kw_only=True)
class PixelCNNPlusPlus(System):
    """PixelCNN++; configs/pixelcnn.py documents its settings.

    Attributes:
      net: the network, named `net`.
      opts: its optimiser, `adam`.
      form: of a bin's probability: `stable` or `official`.
      pixels: whose likelihood is trained: `all`, or the `missing` ones.
      ema: decay of the averaged parameters, per step.
      orientations: those that the model learns, a few of ORIENTATIONS.
      classes: number of classes of the images; 0: unconditional.
      label: the class of images that come without one.
      sampler: `cached` or `fixed_point`; both draw the same images.
      candidates: draws per completion, one of which is kept; see `importance_resample`.
      rounded: whether draws are rounded to the 256 values.
    """

    meanings: ClassVar[Mapping[str, str]] = {
        "bits_per_dim": (
            "negative log-likelihood of the pixels that are learnt, in bits per "
            "channel value"
        ),
    }

    has_likelihood: ClassVar[bool] = True

    net: PixelCNN
    opts: Mapping[str, Opt]
    form: str
    pixels: str
    ema: float
    orientations: tuple[str, ...]
    classes: int
    label: int
    sampler: str
    candidates: int
    rounded: bool

    @classmethod
    def from_config(cls, config: Config) -> "PixelCNNPlusPlus":
        """Build the method from a config.

        Raises:
          UserError: for a size, an orientation or an option that cannot work.
        """
        config = complete_config(config)
        check(config)
        model = config.model
        return cls(
            **networks(model, image_shape(config)),
            opts={"adam": Opt(adam(config), ("net",))},
            form=config.loss.form,
            pixels=config.loss.pixels,
            ema=config.opt.ema ** (1 / config.opt.accumulate),
            orientations=tuple(model.turns),
            classes=config.data.classes,
            label=model.label,
            sampler=model.sampler,
            candidates=model.candidates,
            rounded=model.rounded,
        )

    # ---- the network and its input ----

    def logits(
        self,
        params: Tree,
        image: Float[Array, "b h w c"],
        condition: Float[Array, "b k"] | None,
        dropout: PRNGKeyArray | None = None,
    ) -> Float[Array, "b h w m"]:
        """The network's output; with a key for `dropout`, as in training."""
        variables = {"params": params, "stats": {}}
        train = dropout is not None
        rngs = {"dropout": dropout} if train else None
        return infer(self.net, variables, image, train, condition, rngs=rngs)

    def log_likelihood(
        self,
        params: Tree,
        image: Float[Array, "b h w c"],
        condition: Float[Array, "b k"] | None,
        dropout: PRNGKeyArray | None = None,
    ) -> Float[Array, "b h w"]:
        """Log probability of each pixel given those before it, nats."""
        logits = self.logits(params, image, condition, dropout)
        return logistic.log_likelihood(image, logits, self.form)

    def in_channels(self, image: Float[Array, "b h w 3"]) -> Float[Array, "b h w c"]:
        """Images in the network's channels: colour, or grey on the same 256 values."""
        if self.net.channels == 3:
            return image
        return logistic.to_grid(image.mean(-1, keepdims=True))

    def orient(self, batch: Batch, index: Int[Array, " b"]) -> Oriented:
        """The batch with each image in the orientation that its index selects.

        Images without a class have the config's.
        """
        names, b = self.orientations, len(index)

        def oriented(x: Array) -> Array:
            return select(index, [orient(x, name) for name in names])

        parts = [jax.nn.one_hot(index, len(names))] if len(names) > 1 else []
        if self.classes:
            label = batch.get("class", jnp.full(b, self.label, jnp.int32))
            parts.append(jax.nn.one_hot(label, self.classes))
        return Oriented(
            index,
            oriented(self.in_channels(batch["image"])),
            oriented(batch["mask"]) > 0.5,
            jnp.concatenate(parts, -1) if parts else None,
        )

    def orient_best(self, batch: Batch) -> Oriented:
        """The batch with each image in the orientation that suits its mask best."""
        return self.orient(batch, best_orientation(self.orientations, batch["mask"]))

    def orient_randomly(self, batch: Batch, key: PRNGKeyArray) -> Oriented:
        """The batch with each image in one of the orientations, all equally likely."""
        b = batch["image"].shape[0]
        index = jax.random.randint(key, (b,), 0, len(self.orientations))
        return self.orient(batch, index)

    def restore(
        self, image: Float[Array, "b h w c"], index: Int[Array, " b"]
    ) -> Float[Array, "b i j 3"]:
        """The inverse of `orient`, in colour."""
        image = select(index, [restore(image, name) for name in self.orientations])
        return jnp.broadcast_to(image, (*image.shape[:-1], 3))

    # ---- training ----

    def init(self, batch: Batch, key: PRNGKeyArray) -> State:
        """Initialise gains and biases from the first batch; the average starts there."""
        keys = split_keys(key, "params", "dropout", "orientation")
        oriented = self.orient_randomly(batch, keys.pop("orientation"))
        variables = self.net.init(keys, oriented.image, True, oriented.condition)
        state = initial_state(self.opts, {"net": {"params": variables["params"]}})
        # A copy, since both are donated to the step.
        return state.replace(stats={}, ema=jax.tree.map(jnp.copy, state.params))

    def step(
        self, state: State, batch: Batch, key: PRNGKeyArray
    ) -> tuple[State, Metrics]:
        """One update on the negative log-likelihood, then the average.

        Raises:
          UserError: if the method has classes and the batch has none.
        """
        if self.classes and "class" not in batch:
            raise UserError(
                "the images come without classes; set config.data.classes to 0"
            )
        keys = split_keys(key, "dropout", "orientation")
        _, image, known, condition = self.orient_randomly(batch, keys["orientation"])
        trained = jnp.logical_not(known[..., 0]) | (self.pixels == "all")

        def loss(params: Tree) -> Float[Array, ""]:
            nets = {"net": params}
            nats = -self.log_likelihood(nets, image, condition, keys["dropout"])
            # A sum, not a mean: Adam's eps is meant for gradients of that size.
            return jnp.where(trained, nats, 0).sum()

        nats, grads = jax.value_and_grad(loss)(state.params["net"])
        state = update(self.opts, "adam", state, {"net": grads})
        ema = optax.incremental_update(state.params, state.ema, 1 - self.ema)
        dims = jnp.maximum(trained.sum(), 1) * self.net.channels
        metrics = {"bits_per_dim": logistic.bits(nats) / dims}
        return state.replace(step=state.step + 1, ema=ema), metrics

    # ---- completion ----

    def sample(
        self, variables: Tree, batch: Batch, key: PRNGKeyArray, n: int
    ) -> Float[Array, "b n h w 3"]:
        """n completions per image.

        Known pixels are already the input's, in grey if the network has one channel.
        """
        keys = split_keys(key, "draws", "choice")
        params, m = variables["params"], self.candidates
        oriented = self.orient_best(batch)
        b, height, width, channels = oriented.image.shape

        def draw_noise(i: Array) -> Noise:
            size = (b, m, height, width)
            own = jax.random.fold_in(keys["draws"], i)
            return raster.draw_noise(own, size, self.net.mixtures, channels)

        def flatten(x: Array) -> Array:
            """[n b m ..] as [b nm ..]."""
            return x.swapaxes(0, 1).reshape(b, n * m, *x.shape[3:])

        noise = jax.tree.map(flatten, jax.vmap(draw_noise)(jnp.arange(n)))
        drawn = self.draw(params, oriented, noise)
        if m > 1:
            drawn = self.importance_resample(params, oriented, drawn, keys["choice"])
        return jax.vmap(self.restore, (1, None), 1)(drawn, oriented.orientation)

    def draw(
        self, params: Tree, oriented: Oriented, noise: Noise
    ) -> Float[Array, "b n h w c"]:
        """The missing pixels from given noise [b n h w ..], by the config's sampler."""
        _, image, known, condition = oriented
        if self.sampler == "cached":
            inputs = cached.Inputs(image, known, noise)
            return cached.sample(
                self.net, params["net"], inputs, condition, self.rounded
            )
        b, n = noise.value.shape[:2]
        image, known = (jnp.repeat(x, n, 0) for x in (image, known))
        if condition is not None:
            condition = jnp.repeat(condition, n, 0)
        flat = jax.tree.map(lambda x: x.reshape(b * n, *x.shape[2:]), noise)

        def logits(x: Array) -> Array:
            return self.logits(params, x, condition)

        drawn, _ = raster.jacobi(logits, image, known, flat, self.rounded)
        return drawn.reshape(b, n, *drawn.shape[1:])

    def importance_resample(
        self,
        params: Tree,
        oriented: Oriented,
        drawn: Float[Array, "b nm h w c"],
        key: PRNGKeyArray,
    ) -> Float[Array, "b n h w c"]:
        """Keep one of each m candidates, by the likelihood of the known pixels.

        Sampling, importance resampling: as m grows, the one that is kept becomes a draw
        from the posterior given all known pixels, also those after the hole.
        """
        b, m = len(drawn), self.candidates

        def score(images: Float[Array, "b h w c"]) -> Float[Array, " b"]:
            each = self.log_likelihood(params, images, oriented.condition)
            return jnp.where(oriented.known[..., 0], each, 0).sum((1, 2))

        scores = jax.lax.map(score, drawn.swapaxes(0, 1)).T.reshape(b, -1, m)
        n = scores.shape[1]

        def pick(i: Array) -> Array:
            own = jax.random.fold_in(key, i)
            return jax.random.categorical(own, scores[:, i])

        picked = jax.vmap(pick)(jnp.arange(n)).T
        candidates = drawn.reshape(b, n, m, *drawn.shape[2:])
        return candidates[jnp.arange(b)[:, None], jnp.arange(n)[None], picked]

    # ---- evaluation ----

    @property
    def can_score(self) -> bool:
        """Whether known pixels are trained: without them, whole images have no score."""
        return self.pixels == "all"

    def score(
        self, variables: Tree, images: Float[Array, "n h w 3"]
    ) -> Float[Array, " n"]:
        """Log-likelihood of whole images, nats, in the first of the orientations."""
        batch = {"image": images, "mask": jnp.ones_like(images[..., :1])}
        oriented = self.orient(batch, jnp.zeros(len(images), jnp.int32))
        _, image, _, condition = oriented
        return self.log_likelihood(variables["params"], image, condition).sum((1, 2))

    def evaluate(self, variables: Tree, batch: Batch, key: PRNGKeyArray) -> Metrics:
        """Bits per dimension of the whole image and of its missing pixels.

        The latter is the likelihood of the hole given all known pixels where
        `known_after_hole` is 0; elsewhere, of each given the pixels before it.
        """
        del key
        _, image, known, condition = self.orient_best(batch)
        nats = -self.log_likelihood(variables["params"], image, condition)
        bits = logistic.bits(nats) / self.net.channels
        missing = jnp.logical_not(known[..., 0])
        return {
            "bits_per_dim": bits.mean((1, 2)),
            "bits_per_dim_hole": jnp.where(missing, bits, 0).sum((1, 2))
            / jnp.maximum(missing.sum((1, 2)), 1),
            "known_after_hole": known_after_hole(known).astype(jnp.float32),
        }

    def mask_warnings(self, mask: UInt8[np.ndarray, "h w"]) -> Sequence[str]:
        """A warning if no orientation makes the completion of this mask exact."""
        batch = jnp.asarray(mask, jnp.float32)[None, ..., None]
        fewest = min(
            int(known_after_hole(orient(batch, name) > 0.5)[0])
            for name in self.orientations
        )
        if not fewest:
            return ()
        share = fewest / max(int(mask.sum()), 1)
        warning = (
            f"{share:.0%} of the known pixels come after the hole's first pixel in every "
            f"order that this PixelCNN++ has learnt ({', '.join(self.orientations)}), so "
            "the completion ignores them; a hole at the end, as with --mask=top, is exact"
        )
        return (warning,)
