"""A trained model that completes images from Python.

    model = picjax.load("runs/demo-picmm")
    images = model.complete("photo.jpg", "center", n=10)   # uint8 [n h w 3]

An image of any size is resized to the model's (without keeping the aspect, as in
training), its hole completed, and the result resized back and pasted: known pixels are
the input's, bit-exactly. A run on `aligned` pairs translates whole pictures: its image
is the input picture, and there is no mask.
"""

import math
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, SupportsIndex, overload

import jax
import numpy as np
from etils import epath
from jaxtyping import Array, UInt8
from ml_collections import ConfigDict

from picjax import buckets, cache, checkpoints, methods
from picjax.buckets import AnyPath
from picjax.cli import UserError, check_integer
from picjax.completion import CONDITIONS, Completions, check_finite
from picjax.data.maps import MapLike
from picjax.images import paste, to_float
from picjax.inputs import (
    ImageLike,
    Input,
    MaskLike,
    check_mask_given,
    check_no_maps,
    one_for_each,
    read_input,
    translates,
)
from picjax.memory import check_memory
from picjax.programs import Programs, Request
from picjax.settings import set_sampler
from picjax.system import Config, System, Tree, image_shape

BATCH = 8  # images of a list that are completed at once, at most
EMBEDDED = "picjax://demo"  # the model that is installed with the package


class Part(NamedTuple):
    """Some of the completions of `Model.stream`.

    Attributes:
      samples: completions at the picture's size, or as they are on their way, at the
        model's.
      progress: share of the way that is behind them; 1: they are finished.
    """

    samples: UInt8[np.ndarray, "k h w 3"]
    progress: float = 1.0


class Model:
    """A trained model.

    Attributes:
      config: the run's config.
      size: height and width at which the model works.
      step: the training step of the checkpoint.
      has_likelihood: whether `evaluate` returns likelihoods.
      sampling_cost: of one completion, in words; empty for one pass of a network.
      translates: whether it generates whole pictures from others, without a mask.
      system: the method.
    """

    def __init__(self, config: ConfigDict, system: System, variables: Tree, step: int):
        self.config = config
        self.size = image_shape(config)
        self.step = step
        self.translates = translates(config)
        self.has_likelihood = system.has_likelihood
        self.sampling_cost = system.sampling_cost()
        self.system = system
        self._programs = Programs(system, variables)

        def evaluate(variables: Tree, batch: dict[str, Array], key: Array):
            return system.evaluate(variables, to_float(batch), key)

        self._evaluate = jax.jit(evaluate)

    def __repr__(self) -> str:
        height, width = self.size
        return f"<picjax.Model {self.config.system} {height}x{width}, step {self.step}>"

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
        if num_candidates is not None and not self.system.can_score:
            raise UserError(
                f"this run of {self.config.system} does not score its completions; "
                "leave the best-of out"
            )
        check_completions(len(batch["image"]) * (num_candidates or n), self.size)
        request = Request(n, num_candidates, composite)
        return self._programs.draw(batch, request, seed)

    @property
    def variables(self) -> Tree:
        """The networks' parameters and statistics, on the devices."""
        return self._programs.variables

    def synthesise(
        self,
        labels: MapLike,
        instances: MapLike | None = None,
        n: int = 10,
        seed: int = 0,
        **options: Any,
    ) -> UInt8[np.ndarray, "n h w 3"]:
        """Draw n images of a label map; see `picjax.synthesis.synthesise`."""
        from picjax.synthesis import synthesise  # which needs this module

        return synthesise(self, labels, instances, n, seed, **options)

    def evaluate(self, batch: Mapping[str, Any], seed: int) -> dict[str, Array]:
        """The method's own metrics of whole images, one value per image.

        Args:
          batch: as for `sample`.
          seed: of what the metrics draw at random.
        """
        names = ("image", "mask", *CONDITIONS)
        inputs = {name: batch[name] for name in names if name in batch}
        return self._evaluate(self.variables, inputs, jax.random.key(seed % 2**32))

    @overload
    def complete(
        self,
        image: ImageLike,
        mask: MaskLike | None = None,
        n: SupportsIndex = 10,
        seed: SupportsIndex = 0,
        num_candidates: SupportsIndex | None = None,
        invert_mask: bool = False,
    ) -> UInt8[np.ndarray, "n h w 3"]: ...

    @overload
    def complete(
        self,
        image: list[Any],
        mask: MaskLike | list[Any] | None = None,
        n: SupportsIndex = 10,
        seed: SupportsIndex = 0,
        num_candidates: SupportsIndex | None = None,
        invert_mask: bool = False,
    ) -> list[np.ndarray]: ...

    def complete(
        self,
        image: ImageLike | list[Any],
        mask: MaskLike | list[Any] | None = None,
        n: SupportsIndex = 10,
        seed: SupportsIndex = 0,
        num_candidates: SupportsIndex | None = None,
        invert_mask: bool = False,
    ) -> UInt8[np.ndarray, "n h w 3"] | list[np.ndarray]:
        """Draw n completions of each image at its own size.

        They depend on the seed, the visible part and the mask only. Several threads may
        call it.

        Args:
          image: a file, a Pillow image of any mode, or uint8 [h w 3] or [h w]; or a list
            of them, of any sizes, which are completed in batches. If the model
            translates: the input pictures. One with a colour profile is completed in
            its own colours.
          mask: which pixels are known (docs/masks.md). An array [h w] or [h w 1]:
            1 = known, 0 = hole. A file or a Pillow image: white = hole. The name of a
            mask, such as "center": drawn at the model's size. One for all images, or a
            list with one for each. None only if the model translates.
          n: number of completions.
          seed: another seed gives other completions.
          num_candidates: draw this many and keep the n that the method scores highest,
            best first (in PICNet's paper the top 10 of 50 by its discriminator).
          invert_mask: files and Pillow images have black = hole, arrays 1 = hole.

        Returns:
          uint8 [n h w 3], of a list of images a list of them; known pixels are the
          input's.

        Raises:
          UserError: if an image or a mask is none of the above, n < 1 or
            num_candidates < n, or the completions are not finite.
        """
        n, seed = check_integer("n", n, 1), check_integer("seed", seed)
        if num_candidates is not None:
            num_candidates = check_integer("num_candidates", num_candidates, 1)
        several = isinstance(image, list)
        images = image if isinstance(image, list) else [image]
        masks = one_for_each(images, mask)
        inputs = [
            self._read(one, its_mask, n, seed, invert_mask)
            for one, its_mask in zip(images, masks, strict=True)
        ]
        for remark in (remark for x in inputs for remark in x.remarks):
            warnings.warn(remark, stacklevel=2)
        completions = self._complete(inputs, n, seed, num_candidates)
        return completions if several else completions[0]

    def stream(
        self, image: ImageLike, mask: MaskLike | None = None, n: int = 10, seed: int = 0
    ) -> Iterator[Part]:
        """Draw what `complete` draws of one image, a few completions at a time.

        On a CPU a long walk is so shown, or stopped, every few calls of the network; an
        accelerator draws all at once.

        Args:
          image: as for `complete`.
          mask: as for `complete`.
          n: number of completions.
          seed: another seed gives other completions.

        Yields:
          The next completions, perhaps on their way first.

        Raises:
          UserError: as `complete`.
        """
        x = self._read(image, mask, n, seed, False)
        for remark in x.remarks:
            warnings.warn(remark, stacklevel=2)
        batch = {name: array[None] for name, array in x.arrays.items()}
        for drawn, progress in self._programs.draw_in_parts(batch, Request(n), seed):
            samples = x.picture.in_own_colours(np.asarray(drawn.pixels[0]))
            if progress == 1:
                check_finite(drawn, [x.name])
                samples = paste(x.picture.pixels, x.mask, samples)
            yield Part(samples, progress)

    def with_sampler(self, sampler: str | Mapping[str, Any]) -> "Model":
        """The same networks with another sampler, as `load` takes it.

        Raises:
          UserError: if the method has no such sampler.
        """
        config = ConfigDict(self.config.to_dict())
        set_sampler(config, sampler)
        return Model(config, methods.make(config), self.variables, self.step)

    def warmup(self, n: int = 10, batch: int = 1) -> None:
        """Compile what `complete` needs, so that its first call is as fast as others.

        Args:
          n: completions per image.
          batch: number of images.
        """
        height, width = self.size
        image = np.zeros((batch, height, width, 3), np.uint8)
        arrays = {"image": image, "mask": image[..., :1]}
        if self.translates:
            arrays["condition"] = image
        self._programs.prepare(arrays, Request(n))

    def _read(
        self,
        image: ImageLike,
        mask: MaskLike | None,
        n: int,
        seed: int,
        invert_mask: bool,
    ) -> Input:
        """An image and its mask for n completions, with all remarks about the mask.

        Raises:
          UserError: if one of them cannot be used.
        """
        check_no_maps(self.config)
        check_mask_given(self.translates, mask)
        x = read_input(image, mask, self.size, seed, invert_mask)
        check_completions(n, x.mask.shape)
        if mask is None:
            return x
        own = self.system.mask_warnings(x.arrays["mask"][..., 0])
        return x._replace(remarks=[*x.remarks, *map(UserWarning, own)])

    def _complete(
        self, inputs: Sequence[Input], n: int, seed: int, num_candidates: int | None
    ) -> list[UInt8[np.ndarray, "n _h _w 3"]]:
        """Completions in batches of one size, a power of two, so of one compilation."""
        completions: list[np.ndarray] = []
        size = 1 << (min(len(inputs), BATCH).bit_length() - 1) if inputs else 1
        for start in range(0, len(inputs), size):
            part = inputs[start : start + size]
            padded = [*part, *[part[-1]] * (size - len(part))]
            batch = {
                name: np.stack([x.arrays[name] for x in padded])
                for name in part[0].arrays
            }
            drawn = self.sample(batch, n, seed, num_candidates=num_candidates)
            check_finite(drawn, [x.name for x in padded])
            for x, samples in zip(part, np.asarray(drawn.pixels), strict=False):
                samples = x.picture.in_own_colours(samples)
                completions.append(paste(x.picture.pixels, x.mask, samples))
        return completions


def load(
    workdir: epath.PathLike,
    sampler: str | Mapping[str, Any] = "",
    checkpoint: int | str = "newest",
) -> Model:
    """Load the model of a workdir, or an exported one.

    Args:
      workdir: a run's folder, perhaps in a bucket (gs://); a .safetensors file of
        `picjax.export`; `hf://user/name`, a repository that `picjax.push` wrote; or
        `picjax://demo`, a small PICMM that is installed with picjax (docs/weights.md).
      sampler: a preset of the method's sampler, such as "fast" of painter, or values
        for keys of `config.sampler`, such as {"preset": "fast", "label": 3}, to use
        instead of the run's.
      checkpoint: "newest"; "best", the one kept by `config.best`; or a step. A damaged
        one is named in a line, and the next newest (or best) is loaded; a step is not
        replaced.

    Raises:
      UserError: if the folder is no workdir or holds no such checkpoint, the file or
        repository cannot be read, or the method has no such sampler.
    """
    cache.enable()
    workdir = locate(workdir)
    if sampler and workdir.is_dir():  # refused before the weights are read
        config = checkpoints.read_config(workdir)
        set_sampler(config, sampler)
        methods.make(config)
    config, variables, step = read(workdir, checkpoint)
    model = Model(config, methods.make(config), variables, step)
    return model.with_sampler(sampler) if sampler else model


def locate(source: epath.PathLike) -> AnyPath:
    """The workdir or file of what `load` takes; `hf://user/name` is downloaded.

    Raises:
      UserError: if a repository cannot be read, or a bucket is of an unknown kind.
    """
    if str(source) == EMBEDDED:
        return Path(__file__).with_name("demo.safetensors")
    if not str(source).startswith("hf://"):
        buckets.check(source, "--workdir")
        return epath.Path(source) if buckets.is_remote(source) else Path(source)
    from picjax.hub import download

    return download(str(source))


def is_folder(source: str) -> bool:
    """Whether what `load` takes is a workdir, which has checkpoints and takes outputs.

    Otherwise it is one model: a file, a repository of the Hub, or the embedded one.
    """
    if buckets.is_remote(source):
        return source.startswith(buckets.SCHEME)
    return not source.endswith(".safetensors")


def read(path: AnyPath, checkpoint: int | str = "newest") -> tuple[Config, Tree, int]:
    """Config, inference variables and step of a workdir or a .safetensors file.

    Raises:
      UserError: if it is neither, or holds no such checkpoint.
    """
    if path.suffix != ".safetensors":
        return checkpoints.restore_variables(path, checkpoint)
    if checkpoint != "newest":
        raise UserError(f"'{path}' holds one checkpoint; do not choose another")
    from picjax.export import read_weights

    return read_weights(Path(path))


def check_completions(count: int, size: tuple[int, ...]) -> None:
    """Refuse more completions than the memory holds.

    Raises:
      UserError: with the estimate.
    """
    what = f"{count} completions of {size[0]}x{size[1]} pixels"
    check_memory(what, 3.0 * count * math.prod(size), "ask for fewer")
