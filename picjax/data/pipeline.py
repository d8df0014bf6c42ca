"""Batches for training and evaluation, on the host as uint8.

Training batch t of a run is a function of config, seed and t, whatever the number of
threads and processes. So a run's step is its position in the data, on any number of
processes.
"""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grain
import numpy as np

from picjax.data import sources
from picjax.data.decode import core_count
from picjax.data.sources import DataConfig, Element
from picjax.masks import mask_drawer

Size = tuple[int, int]
PREFETCHED = 2  # finished batches that wait, besides one in progress per thread
# Smallest number of images that are shuffled together, several passes over a small set:
# grain's shuffle takes 27 / n ms per image (2.8 ms, more than all else, for n = 10).
MIN_SHUFFLED = 1000


def train_batches(
    config: DataConfig,
    image_size: int | tuple[int, int],
    batch_size: int,
    seed: int,
    selection: slice = slice(None),
) -> Iterator[dict[str, np.ndarray]]:
    """Endless shuffled batches: `image` uint8 [b h w 3], `mask` uint8 [b h w 1].

    Scenes add `scene` int32 [b] and `scene_attributes` float32 [b a]; aligned pairs add
    `condition` uint8 [b h w 3] and have mask 0: no pixel of the image is known. With
    `config.classes` there is also `class` int32 [b]; with `config.maps` there are `label`
    and `instance` int32 [b h w].

    Args:
      config: the `data` part of a config.
      image_size: pixels, one number or height and width.
      batch_size: batch size of this process.
      seed: seed of shuffling, augmentation and masks.
      selection: which batches of this size. From batch t of all n processes together on,
        process i reads `slice(t * n + i, None, n)`.

    Raises:
      UserError: if there is nothing to train on, or a setting cannot work.
    """
    size = as_size(image_size)
    draw = mask_drawer(config, size)
    source = sources.training(config, size)

    def read(index: int, rng: np.random.Generator) -> Element:
        element = source.read(index % len(source), rng)
        name = element.pop("name")
        return {**element, "mask": draw(rng, name, None)[..., None]}

    length = -(-MIN_SHUFFLED // len(source)) * len(source)
    batches = (
        grain.MapDataset.range(length)
        .seed(seed)
        .shuffle()
        # Endless; without a number, grain fails to count the batches of one image.
        .repeat(2**62 // length)
        .random_map(read)
        .batch(batch_size)
    )
    threads = thread_count(config)
    options = grain.ReadOptions(threads, threads + PREFETCHED)
    return iter(batches[selection].to_iter_dataset(options))


def eval_batches(
    config: DataConfig,
    image_size: int | tuple[int, int],
    batch_size: int,
    num: int,
    seed: int,
) -> Iterator[dict[str, Any]]:
    """Up to `num` held-out images in order, each with a mask fixed by seed and index.

    The entries are those of `train_batches`, `name` (list of str) and `valid` (bool
    [b]): the last batch is padded with copies of its last image, which are not valid.
    Images that cannot be read are skipped.

    Raises:
      UserError: if there is no held-out image, or a setting cannot work.
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
        own = range(min(num, len(source)))
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
    """Stack elements; the last one is repeated up to the batch size."""
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
    """Height and width of `image_size`, which is one number or both."""
    if isinstance(image_size, int):
        return image_size, image_size
    return int(image_size[0]), int(image_size[1])


def thread_count(config: DataConfig) -> int:
    """`config.threads`, but at most twice the number of cores, as more only wait."""
    return max(1, min(config.threads, 2 * core_count()))
