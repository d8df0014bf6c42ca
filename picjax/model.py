"""A trained model that completes images from Python.

    model = picjax.load("runs/demo-picmm")
    images = model.complete(image, mask, n=10, seed=0)   # uint8 [n h w 3]

An image of any size is resized to the model's (without keeping the aspect, as in
training), its hole completed, and the result resized back and pasted: known pixels are
the input's, bit-exactly. A run on `aligned` pairs translates whole pictures: its image
is the input picture, and there is no mask.
"""

import ast
import contextlib
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jaxtyping import Array, UInt8
from ml_collections import ConfigDict
from PIL import Image

from picjax import cache, checkpoints, masks, methods, sharding
from picjax.cli import UserError, check_choice
from picjax.completion import (
    CONDITIONS,
    Completions,
    check_finite,
    make_draw,
    visible_part,
)
from picjax.images import Picture, as_picture, fit, paste, to_float
from picjax.system import Config, System, Tree, image_shape


class Model:
    """A trained model.

    Attributes:
      config: the run's config.
      size: height and width at which the model works.
      step: the training step of the checkpoint.
      has_likelihood: whether `evaluate` returns likelihoods.
      sampling_cost: of one completion, in words; empty for one pass of a network.
      translates: whether it generates whole pictures from others, without a mask.
    """

    def __init__(self, config: ConfigDict, system: System, variables: Tree, step: int):
        self.config = config
        self.size = image_shape(config)
        self.step = step
        self.translates = translates(config)
        self.has_likelihood = system.has_likelihood
        self.sampling_cost = system.sampling_cost()
        self._mask_warnings = system.mask_warnings
        self._can_score = system.can_score
        self._mesh = sharding.make_mesh()
        self._variables = jax.device_put(variables, sharding.replicated(self._mesh))
        self._draw = jax.jit(
            make_draw(system), static_argnames=("n", "num_candidates", "composite")
        )

        def evaluate(variables: Tree, batch: dict[str, Array], key: Array):
            return system.evaluate(variables, to_float(batch), key)

        self._evaluate = jax.jit(evaluate)

    def sample(
        self,
        batch: Mapping[str, Any],
        n: int,
        seed: int,
        *,
        num_candidates: int | None = None,
        composite: bool = True,
    ) -> Completions:
        """Draw n completions per image at the model's size, dispatched asynchronously.

        Compiled once per batch size and choice of the static arguments (all but the
        batch and the seed).

        Args:
          batch: `image` uint8 [b h w 3], `mask` uint8 [b h w 1], 1 = known, and the
            method's conditions; other entries are ignored. What lies in the hole has no
            influence.
          n: completions per image; they share whatever does not depend on the draw.
          seed: another seed gives other completions.
          num_candidates: draw this many and keep the n that the method scores highest,
            best first.
          composite: whether known pixels are the input's; otherwise the networks'.

        Raises:
          UserError: if `num_candidates` is below n, or the method cannot score images.
        """
        if num_candidates is not None and num_candidates < n:
            raise UserError(
                f"the best {n} of {num_candidates} cannot be kept; draw at least {n}"
            )
        if num_candidates is not None and not self._can_score:
            raise UserError(
                f"this run of {self.config.system} does not score its completions; "
                "leave the best-of out"
            )
        key = jax.random.key(seed % 2**32)
        visible = visible_part(batch)
        divides = len(visible["image"]) % self._mesh.size == 0
        layout = sharding.batch_sharding if divides else sharding.replicated
        visible = jax.device_put(visible, layout(self._mesh))
        # A batch that does not divide over the devices shares out its completions.
        with contextlib.nullcontext() if divides else jax.set_mesh(self._mesh):
            return self._draw(
                self._variables,
                visible,
                key,
                n=n,
                num_candidates=num_candidates or n,
                composite=composite,
            )

    def evaluate(self, batch: Mapping[str, Any], seed: int) -> dict[str, Array]:
        """The method's own metrics of whole images, one value per image.

        Args:
          batch: as for `sample`.
          seed: of what the metrics draw at random.
        """
        names = ("image", "mask", *CONDITIONS)
        inputs = {name: batch[name] for name in names if name in batch}
        return self._evaluate(self._variables, inputs, jax.random.key(seed % 2**32))

    def complete(
        self,
        image: np.ndarray | Image.Image | Picture,
        mask: np.ndarray | Image.Image | str | None = None,
        n: int = 10,
        seed: int = 0,
        num_candidates: int | None = None,
    ) -> UInt8[np.ndarray, "n h w 3"]:
        """Draw n completions of one image at its own size.

        They depend on the seed, the visible part and the mask only.

        Args:
          image: uint8 [h w 3] or [h w], or a Pillow image of any mode. If the model
            translates: the input picture. One with a colour profile is completed in its
            own colours.
          mask: an array [h w] or [h w 1] with 1 = known, 0 = hole; a Pillow image,
            read like a mask file (white = hole); or the name of a mask, such as
            "center", drawn at the model's size. None only if the model translates.
          n: number of completions.
          seed: another seed gives other completions.
          num_candidates: draw this many and keep the n that the method scores highest,
            best first (in PICNet's paper the top 10 of 50 by its discriminator).

        Returns:
          uint8 [n h w 3]; known pixels are the input's.

        Raises:
          UserError: if the image or the mask is none of the above, n < 1 or
            num_candidates < n, or the completions are not finite.
        """
        if n < 1:
            raise UserError(f"n is {n}; ask for 1 completion or more")
        check_mask_given(self.translates, mask)
        picture = image if isinstance(image, Picture) else as_picture(image)
        pixels = picture.srgb
        if mask is None:
            everything = np.ones(pixels.shape[:2], np.uint8)
            condition = fit(pixels, everything, self.size)[0][None]
            nothing = np.zeros_like(condition)
            batch = {"image": nothing, "mask": nothing[..., :1], "condition": condition}
            full_mask = 0 * everything
        else:
            own = picture.pixels  # a random mask depends on them
            full_mask, remarks = masks.resolve(mask, own, seed, self.size)
            target = None
            if isinstance(mask, str):
                target = masks.named(mask, own, seed, self.size)
            small, small_mask = fit(pixels, full_mask, self.size, target)
            for warning in (*remarks, *self._mask_warnings(small_mask)):
                warnings.warn(warning, stacklevel=2)
            batch = {"image": small[None], "mask": small_mask[None, ..., None]}
        drawn = self.sample(batch, n, seed, num_candidates=num_candidates)
        check_finite(drawn, ["the image"])
        samples = picture.in_own_colours(np.asarray(drawn.pixels[0]))
        return paste(picture.pixels, full_mask, samples)


def load(
    workdir: str | Path, sampler: str | Mapping[str, Any] = "", best: bool = False
) -> Model:
    """Load the model of a workdir at its newest checkpoint.

    Args:
      workdir: a run's folder.
      sampler: a preset of the method's sampler, such as "fast" of painter, or values
        for keys of `config.sampler`, such as {"preset": "fast", "label": 3}, to use
        instead of the run's.
      best: load the checkpoint kept by `config.best` instead.

    Raises:
      UserError: if the folder is no workdir or holds no such checkpoint, or the method
        has no such sampler.
    """
    cache.enable()
    if sampler:  # refused before the weights are read
        config = checkpoints.read_config(Path(workdir))
        set_sampler(config, sampler)
        methods.make(config)
    config, variables, step = checkpoints.restore_variables(workdir, best)
    if sampler:
        set_sampler(config, sampler)
    return Model(config, methods.make(config), variables, step)


def set_sampler(config: Config, sampler: str | Mapping[str, Any]) -> None:
    """Set the preset of the sampler, or keys of `config.sampler`.

    Values may be strings from a command line.

    Raises:
      UserError: if the method has no sampler options, no such key or preset, or the
        value has another type.
    """
    if "sampler" not in config:
        raise UserError(f"{config.system} draws in one way; leave the sampler out")
    settings = {"preset": sampler} if isinstance(sampler, str) else sampler
    for key, value in settings.items():
        check_choice("config.sampler's key", key, list(config.sampler))
        current = config.sampler[key]
        try:
            if isinstance(value, str) and not isinstance(current, str):
                value = ast.literal_eval(value)
            config.sampler[key] = value
        except (SyntaxError, TypeError, ValueError):
            raise UserError(
                f"config.sampler.{key} '{value}' is no {type(current).__name__} as "
                f"{current} is; change the value"
            ) from None


def translates(config: Config) -> bool:
    """Whether runs of a config generate whole pictures from others."""
    return config.data.name == "aligned"


def check_mask_given(translates: bool, mask: object) -> None:
    """Check that there is a mask for completion and none for translation.

    Raises:
      UserError: otherwise.
    """
    if translates and mask is not None:
        raise UserError(
            "this run generates whole pictures from pairs; leave the mask out, or "
            "--compose"
        )
    if not translates and mask is None:
        raise UserError(
            "this run completes holes; add a mask (--mask): a file, a folder or one "
            f"of {', '.join(masks.NAMES)}"
        )
