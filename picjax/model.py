"""A trained run, ready to complete images from Python.

    model = picjax.load("runs/demo-picmm")
    images = model.complete(image, mask, n=10, seed=0)   # uint8 [n h w 3]

An image of any size is resized to the model's (aspect not kept, as in training), its
hole completed, and the result resized back and pasted: known pixels stay the input's to
the last bit. A run on `aligned` pairs makes whole pictures: its image is the picture to
start from, and there is no mask.
"""

import ast
import contextlib
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jaxtyping import Array, UInt8
from ml_collections import ConfigDict
from PIL import Image

from picjax import checkpoints, masks, methods, sharding
from picjax.cli import UserError, check_choice
from picjax.completion import Drawn, make_draw, visible
from picjax.data.pipeline import to_float
from picjax.inputs import as_known, as_pixels
from picjax.system import Config, System, Tree, image_shape


class Model:
    """A trained system, ready to complete images.

    Attributes:
      config: the run's config.
      size: height and width at which the system works.
      step: the training step of the variables.
      has_likelihood: whether `evaluate` says how likely images are.
      translates: whether it makes whole pictures from others, without a mask.
    """

    def __init__(self, config: ConfigDict, system: System, variables: Tree, step: int):
        self.config = config
        self.size = image_shape(config)
        self.step = step
        self.translates = translates(config)
        self._mesh = sharding.make_mesh()
        self._remarks = system.mask_warnings
        self._variables = jax.device_put(variables, sharding.replicated(self._mesh))

        self._sample = jax.jit(make_draw(system), static_argnames=("n", "of", "raw"))
        self._can_rank = system.can_score

        def evaluate(variables: Tree, batch: dict[str, Array], key: Array):
            return system.evaluate(variables, to_float(batch), key)

        self._evaluate = jax.jit(evaluate)
        self.has_likelihood = system.has_likelihood

    def sample(
        self,
        images: UInt8[np.ndarray, "b h w 3"],
        known: UInt8[np.ndarray, "b h w 1"],
        n: int,
        seed: int,
        of: int | None = None,
        given: Mapping[str, np.ndarray] | None = None,
        raw: bool = False,
    ) -> Drawn:
        """n completions an image at the model's size, on the device, not waited for.

        Compiled once a batch size, n and `raw`.

        Args:
          images: what lies in the hole has no influence.
          known: 1 = known, 0 = hole.
          n: completions an image; they share one pass of the encoder.
          seed: another seed, other completions.
          of: draw that many and keep the n that the system scores highest, best first.
          given: what else the system is given, such as `condition` uint8 [b h w 3].
          raw: known pixels as the networks make them; else those of `images`.

        Raises:
          UserError: when `of` is below n, or the system scores nothing.
        """
        if of is not None and of < n:
            raise UserError(f"the best {n} of {of} cannot be kept; draw at least {n}")
        if of is not None and not self._can_rank:
            raise UserError(
                f"this run of {self.config.system} does not score its completions; "
                "leave the best-of out"
            )
        key = jax.random.key(seed % 2**32)
        batch = visible(images, known, given or {})
        even = len(images) % self._mesh.size == 0
        place = sharding.batch_sharding if even else sharding.replicated
        batch = jax.device_put(batch, place(self._mesh))
        # Images that do not split over the devices share them out by completions.
        with contextlib.nullcontext() if even else jax.set_mesh(self._mesh):
            return self._sample(self._variables, batch, key, n=n, of=of or n, raw=raw)

    def evaluate(
        self,
        images: UInt8[np.ndarray, "b h w 3"],
        known: UInt8[np.ndarray, "b h w 1"],
        seed: int,
        given: Mapping[str, np.ndarray] | None = None,
    ) -> dict[str, Array]:
        """What the system itself says of whole images: one number an image each."""
        batch = {"image": images, "mask": known, **(given or {})}
        return self._evaluate(self._variables, batch, jax.random.key(seed % 2**32))

    def complete(
        self,
        image: np.ndarray | Image.Image,
        mask: np.ndarray | Image.Image | str | None = None,
        n: int = 10,
        seed: int = 0,
        of: int | None = None,
    ) -> UInt8[np.ndarray, "n h w 3"]:
        """n completions of one image at its own size.

        The draws depend on the seed, the visible part and the mask alone.

        Args:
          image: uint8 [h w 3] or [h w], or a Pillow image of any mode. If the model
            translates: the picture to make others from.
          mask: a Pillow image is read as a mask file (white = hole); an array is the
            library's [h w] or [h w 1] of 1 = known, 0 = hole; a string names a mask,
            such as "center". None if the model translates, and only then.
          n: how many.
          seed: another seed, other completions.
          of: draw that many and keep the n that the system scores highest, best first
            (by its discriminator: the top 10 of 50 in PICNet's paper).

        Returns:
          uint8 [n h w 3]; known pixels are the input's.

        Raises:
          UserError: when the image or the mask is none of the above, n < 1 or of < n,
            or the model makes numbers that are not finite.
        """
        if n < 1:
            raise UserError(f"n is {n}; ask for 1 completion or more")
        refuse_mask(self.translates, mask)
        pixels = as_pixels(image)
        if mask is None:
            whole = np.ones(pixels.shape[:2], np.uint8)
            picture, _ = fit(pixels, whole, self.size)
            nothing = np.zeros_like(picture[None])
            given = {"condition": picture[None]}
            drawn = self.sample(nothing, nothing[..., :1], n, seed, of, given)
            refuse_nan(drawn, ["the image"])
            return paste(pixels, 0 * whole, np.asarray(drawn.pixels[0]))
        known, said = as_known(mask, pixels, seed)
        small, small_known = fit(pixels, known, self.size)
        for warning in (*said, *self._remarks(small_known)):
            warnings.warn(warning, stacklevel=2)
        drawn = self.sample(small[None], small_known[None, ..., None], n, seed, of)
        refuse_nan(drawn, ["the image"])
        return paste(pixels, known, np.asarray(drawn.pixels[0]))


def refuse_nan(drawn: Drawn, names: Sequence[str]) -> None:
    """Completions whose numbers are not finite would be black pixels, silently.

    Raises:
      UserError: naming the first of these images.
    """
    for name, finite in zip(names, np.asarray(drawn.finite), strict=True):
        if not finite:
            raise UserError(
                f"the completions of {name} hold numbers that are not finite; the "
                "run's networks are spoilt: train again with a lower config.opt.lr"
            )


def load(
    workdir: str | Path, sampler: str | Mapping[str, Any] = "", best: bool = False
) -> Model:
    """The model of a workdir, at its newest checkpoint.

    Args:
      workdir: a run's folder.
      sampler: one of the system's ways of drawing, instead of the run's, such as
        "fast" of painter; or keys of `config.sampler` with other values, such as
        {"preset": "fast", "label": 3}.
      best: take the checkpoint kept by `config.best` instead.

    Raises:
      UserError: when the folder is no workdir or holds no such checkpoint, or the
        system has no such choice.
    """
    if sampler:  # refused before the weights are read
        config = checkpoints.read_config(Path(workdir))
        use_sampler(config, sampler)
        methods.make(config)
    config, variables, step = checkpoints.restore_variables(workdir, best)
    if sampler:
        use_sampler(config, sampler)
    return Model(config, methods.make(config), variables, step)


def use_sampler(config: Config, sampler: str | Mapping[str, Any]) -> None:
    """Sets the way of drawing: the preset, or keys of `config.sampler`.

    Values may be the words of a command line.

    Raises:
      UserError: when the system has no such choice, key or kind of value.
    """
    if "sampler" not in config:
        raise UserError(f"{config.system} draws in one way; leave the sampler out")
    given = {"preset": sampler} if isinstance(sampler, str) else sampler
    for key, value in given.items():
        check_choice("config.sampler's key", key, list(config.sampler))
        before = config.sampler[key]
        try:
            if isinstance(value, str) and not isinstance(before, str):
                value = ast.literal_eval(value)
            config.sampler[key] = value
        except (SyntaxError, TypeError, ValueError):
            raise UserError(
                f"config.sampler.{key} '{value}' is no {type(before).__name__} as "
                f"{before} is; mend the value"
            ) from None


def translates(config: Config) -> bool:
    """Whether the runs of a config make whole pictures from others."""
    return config.data.name == "aligned"


def refuse_mask(translates: bool, mask: object) -> None:
    """Completing takes a mask, translating takes none.

    Raises:
      UserError: when it is otherwise.
    """
    if translates and mask is not None:
        raise UserError(
            "this run makes whole pictures from pairs; leave the mask out, or --compose"
        )
    if not translates and mask is None:
        raise UserError(
            "this run completes holes; give a mask (--mask): a file, a folder or one "
            f"of {', '.join(masks.NAMES)}"
        )


def fit(
    image: UInt8[np.ndarray, "H W 3"],
    known: UInt8[np.ndarray, "H W"],
    size: tuple[int, int],
) -> tuple[UInt8[np.ndarray, "h w 3"], UInt8[np.ndarray, "h w"]]:
    """Image and mask at the model's size, aspect not kept.

    A pixel that any part of the hole falls into is a hole, and a known pixel is the
    mean of known ones only: what the hole hides (an object to be removed) does not
    bleed into what the model sees.
    """
    if known.shape == size:
        return image, known
    box = (size[1], size[0])
    weight = known.astype(np.float32)
    whole = Image.fromarray(weight).resize(box, Image.Resampling.BOX)
    small = (np.asarray(whole) > 1 - 1e-4).astype(np.uint8)
    total = np.asarray(Image.fromarray(weight).resize(box, Image.Resampling.BILINEAR))
    channels = []
    for c in range(3):
        plane = Image.fromarray(image[..., c] * weight)
        colour = np.asarray(plane.resize(box, Image.Resampling.BILINEAR))
        channels.append(colour / np.maximum(total, 1e-6))
    mean = np.stack(channels, -1).round().clip(0, 255).astype(np.uint8)
    return mean * small[..., None], small


def paste(
    image: UInt8[np.ndarray, "H W 3"],
    known: UInt8[np.ndarray, "H W"],
    samples: UInt8[np.ndarray, "n h w 3"],
) -> UInt8[np.ndarray, "n H W 3"]:
    """Samples at the image's size (bicubic), known pixels the image's own."""
    height, width = known.shape
    out = np.empty((len(samples), height, width, 3), np.uint8)
    for i, sample in enumerate(samples):
        if sample.shape != image.shape:
            picture = Image.fromarray(sample)
            resized = picture.resize((width, height), Image.Resampling.BICUBIC)
            sample = np.asarray(resized)
        out[i] = np.where(known[..., None] == 1, image, sample)
    return out
