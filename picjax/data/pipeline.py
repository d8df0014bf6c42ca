"""Batches for training and evaluation, on the host as uint8.

Training batch t of a run is a function of config, seed and t: not of threads, nor of
how many processes share it. `grain` keeps the position, so a checkpoint resumes to the
bit.
"""

from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grain
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, UInt8

from picjax import masks
from picjax.cli import UserError
from picjax.data import sources
from picjax.data.decode import core_count, list_images, say
from picjax.data.sources import DataConfig, Element

Size = tuple[int, int]
FILES = "files"  # in config.data.masks: those at config.data.mask_path
# What an image comes with, at completion too, besides its mask.
GIVEN = ("condition", "class")
AHEAD = 2  # batches kept ready besides those in the making, one a thread
# Images shuffled together, at least: several passes over a small set, since grain's
# shuffle takes 27 / n ms an image (2.8 ms, more than all the rest, for ten images).
SHUFFLED = 1000


def to_float(batch: Mapping[str, Any]) -> dict[str, Any]:
    """The batch on the device: `image` float32 in [-1, 1], `mask` float32, 1 = known.

    `condition`, where there is one, becomes as `image`; everything else passes
    unchanged. To be called inside jit.
    """
    floats = {
        # Compiled, x / 127.5 - 1 ends a bit above 1.
        name: (2 * jnp.asarray(batch[name]).astype(jnp.float32) - 255) / 255
        for name in ("image", "condition")
        if name in batch
    }
    mask = jnp.asarray(batch["mask"]).astype(jnp.float32)
    return {**batch, **floats, "mask": mask}


def to_uint8(
    image: Float[Array, "*b h w 3"], truncate: bool = False
) -> UInt8[Array, "*b h w 3"]:
    """[-1, 1] to 0..255, clipped and rounded to the nearest; see `truncate`.

    RePaint and guided-diffusion truncate, which is half a level darker on average
    (diffusion specification, section 6).
    """
    levels = (image + 1) * 127.5
    levels = levels if truncate else jnp.round(levels)
    return jnp.clip(levels, 0, 255).astype(jnp.uint8)


def train_batches(
    config: DataConfig,
    image_size: int | tuple[int, int],
    batch_size: int,
    seed: int,
    process_index: int = 0,
    process_count: int = 1,
) -> grain.DatasetIterator:
    """Endless shuffled batches: `image` uint8 [b h w 3], `mask` uint8 [b h w 1].

    Scenes add `scene` int32 [b] and `scene_attributes` float32 [b a]; aligned pairs
    `condition` uint8 [b h w 3], and their mask is 0: nothing of the image is known.
    With `config.classes` there is also `class` int32 [b].

    Args:
      config: the `data` part of a config.
      image_size: pixels, one number or height and width.
      batch_size: of this process.
      seed: of shuffling, augmentation and masks.
      process_index: this process's place. Batch t of all processes, put together in
        order, is batch t of a single process with the whole batch size.
      process_count: how many processes take part.

    Raises:
      UserError: when there is nothing to train on, or a setting cannot work.
    """
    size = as_size(image_size)
    draw = mask_drawer(config, size)
    source = sources.training(config, size)

    def read(index: int, rng: np.random.Generator) -> Element:
        element = source.read(index % len(source), rng)
        name = element.pop("name")
        return {**element, "mask": draw(rng, name, None)[..., None]}

    length = -(-SHUFFLED // len(source)) * len(source)
    batches = (
        grain.MapDataset.range(length)
        .seed(seed)
        .shuffle()
        # Endless: without a number, grain cannot count the batches of one image.
        .repeat(2**62 // length)
        .random_map(read)
        .batch(batch_size)
    )
    threads = thread_count(config)
    options = grain.ReadOptions(threads, threads + AHEAD)
    return iter(batches[process_index::process_count].to_iter_dataset(options))


def eval_batches(
    config: DataConfig,
    image_size: int | tuple[int, int],
    batch_size: int,
    num: int,
    seed: int,
    process_index: int = 0,
    process_count: int = 1,
) -> Iterator[dict[str, Any]]:
    """Up to `num` held-out images in order, each with a mask fixed by seed and index.

    As `train_batches`, and `name` (list of str) and `valid` (bool [b]): the last batch
    is filled up with copies of its last image, which are not valid. Images that cannot
    be read are left out.

    Raises:
      UserError: when there is no held-out image, or a setting cannot work.
    """
    size = as_size(image_size)
    draw = mask_drawer(config, size)
    source = sources.evaluation(config, size)

    def read(index: int) -> Element | None:
        rng = np.random.default_rng((seed % 2**32, index))
        element = source.try_read(index, rng)
        if element is None:
            return None
        mask = draw(rng, element["name"], index)[..., None]
        return {**element, "mask": mask}

    def batches() -> Iterator[dict[str, Any]]:
        waiting: list[Element] = []
        own = range(process_index, min(num, len(source)), process_count)
        with ThreadPoolExecutor(thread_count(config)) as pool:
            for start in range(0, len(own), batch_size):
                chunk = pool.map(read, own[start : start + batch_size])
                waiting += [element for element in chunk if element is not None]
                while len(waiting) >= batch_size:
                    yield collate(waiting[:batch_size], batch_size)
                    waiting = waiting[batch_size:]
        if waiting:
            yield collate(waiting, batch_size)

    return batches()


def collate(elements: list[Element], batch_size: int) -> dict[str, Any]:
    """Stacks elements, the last one repeated up to the batch size."""
    full = elements + elements[-1:] * (batch_size - len(elements))
    batch: dict[str, Any] = {
        key: np.stack([element[key] for element in full])
        for key in elements[0]
        if key != "name"
    }
    batch["name"] = [element["name"] for element in full]
    batch["valid"] = np.arange(batch_size) < len(elements)
    return batch


def as_size(image_size: int | tuple[int, int]) -> Size:
    """Height and width."""
    if isinstance(image_size, int):
        return image_size, image_size
    return int(image_size[0]), int(image_size[1])


def thread_count(config: DataConfig) -> int:
    """`config.threads`, but no more than twice the cores: more only wait for them."""
    return max(1, min(config.threads, 2 * core_count()))


# ---- masks of a config ----

Draw = Callable[
    [np.random.Generator, str, int | None], UInt8[np.ndarray, "h w"]
]  # generator, image's name, its index at evaluation (None in training)


def mask_drawer(config: DataConfig, size: Size) -> Draw:
    """One of `config.masks` an image, drawn uniformly.

    `files` takes those at `config.mask_path`: at random in training; at evaluation the
    one called as the image, or else the one at its index, counted around. Of aligned
    pairs everything is hidden, and there is no choice.

    Raises:
      UserError: for unknown names, none, or `files` without files; any, for pairs.
    """
    names = list(config.masks)
    if config.name == "aligned":
        if names:
            raise UserError(
                f"config.data.masks is {', '.join(names)}; leave it empty for aligned "
                "pairs, of which the whole image is made"
            )
        return lambda rng, image, index: np.zeros(size, np.uint8)
    if not names:
        raise UserError(
            f"config.data.masks is empty; give some of {', '.join(masks.NAMES)}, {FILES}"
        )
    low, high = config.hole_ratio
    for name in names:
        if name != FILES:
            masks.make(name, size, np.random.default_rng(0), (low, high))
    files = FileMasks(config.mask_path, size) if FILES in names else None

    def draw(
        rng: np.random.Generator, image: str, index: int | None
    ) -> UInt8[np.ndarray, "h w"]:
        name = names[int(rng.integers(len(names)))] if len(names) > 1 else names[0]
        if name == FILES and files is not None:
            return files.draw(rng, image, index)
        return masks.make(name, size, rng, (low, high))

    return draw


class FileMasks:
    """Mask files; what may not be meant is said once a file.

    Raises:
      UserError: when there is none.
    """

    def __init__(self, path: str, size: Size):
        self.size = size
        self.paths = list_images(path, "config.data.mask_path")
        self.places = {path.stem: i for i, path in enumerate(self.paths)}
        self.said: set[Path] = set()
        self.load(0)

    def load(self, place: int) -> UInt8[np.ndarray, "h w"]:
        """The mask at a place of the sorted list."""
        path = self.paths[place]
        mask, warnings = masks.load_mask(path, self.size)
        if path not in self.said:
            self.said.add(path)
            for warning in warnings:
                say(warning)
        return mask

    def draw(
        self, rng: np.random.Generator, image: str, index: int | None
    ) -> UInt8[np.ndarray, "h w"]:
        """At random where `index` is None, else by the image's name, else by index."""
        if index is None:
            return self.load(int(rng.integers(len(self.paths))))
        return self.load(self.places.get(image, index % len(self.paths)))
