"""A model's completions of held-out images, as a stream of examples.

Each example is one image with its completions; `folders` has those of files.
"""

import contextlib
import itertools
from collections.abc import Callable, Iterable, Iterator
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from picjax.cli import UserError, say
from picjax.completion import check_finite, visible_part
from picjax.data import pipeline, stored
from picjax.data.decode import ORIENTATION, BadImage, open_image
from picjax.data.listing import list_images
from picjax.evaluation.metrics.image import picnet_choice
from picjax.evaluation.metrics.results import Example
from picjax.evaluation.store import CompletionStore
from picjax.images import fit, paste, read_image
from picjax.masks import mask_drawer
from picjax.model import Model

BATCH = 8  # images completed at once on a device
Batch = dict[str, Any]


class Sampling(NamedTuple):
    """How a model's completions are drawn.

    Attributes:
      num: completions per image.
      seed: of masks and completions.
      num_candidates: draw this many and keep the `num` that the system scores highest.
      composite: whether known pixels are the image's; otherwise the system's.
    """

    num: int
    seed: int = 0
    num_candidates: int | None = None
    composite: bool = True


def model_examples(
    model: Model,
    sampling: Sampling,
    images: int,
    batch_size: int,
    store: CompletionStore | None = None,
) -> Iterator[Example]:
    """A model's held-out images at its size, with completions.

    Args:
      model: of a run.
      sampling: how completions are drawn.
      images: number of images, at most.
      batch_size: images completed at once.
      store: completions that are already drawn; new ones are added.

    Raises:
      UserError: if a completion is not finite, or `num_candidates` is impossible.
    """
    batches = pipeline.eval_batches(
        model.config.data, model.size, batch_size, images, sampling.seed
    )
    for batch, samples in _draw_ahead(model, batches, sampling, store):
        if model.has_likelihood:
            batch |= model.evaluate(batch, sampling.seed)
        yield from batch_examples(batch, samples)


def own_size_examples(
    model: Model,
    sampling: Sampling,
    images: int,
    batch_size: int,
    store: CompletionStore | None = None,
) -> Iterator[Example]:
    """A folder's images at their own size, completed as `Model.complete` does.

    Each is resized to the model's size and its completions are resized back, with known
    pixels pasted if `sampling.composite`. Masks are drawn at the image's size, by seed
    and index. A file that cannot be used is skipped. Arguments are those of
    `model_examples`.

    Raises:
      UserError: if a completion is not finite, or `num_candidates` is impossible.
    """
    draw_mask = lru_cache(partial(mask_drawer, model.config.data))
    named = own_size_files(model, images)

    def read(index: int) -> tuple[Batch, tuple[str, np.ndarray, np.ndarray]] | None:
        name, path = named[index]
        try:
            truth = read_image(path)
        except UserError as error:
            say(f"skipped {error}")
            return None
        rng = np.random.default_rng((sampling.seed % 2**32, index))
        full_mask = draw_mask(truth.shape[:2])(rng, name, index)
        image, mask = fit(truth, full_mask, model.size)
        element = {"image": image, "mask": mask[..., None], "name": name}
        return element, (name, truth, full_mask)

    def batches() -> Iterator[Batch]:
        usable = filter(None, map(read, range(len(named))))
        while chunk := list(itertools.islice(usable, batch_size)):
            elements, originals = zip(*chunk, strict=True)
            batch = pipeline.collate(list(elements), batch_size)
            yield batch | {"originals": originals}

    for batch, drawn in _draw_ahead(model, batches(), sampling, store):
        for original, pixels in zip(batch["originals"], drawn, strict=False):
            name, truth, full_mask = original
            samples = paste(truth, full_mask * sampling.composite, pixels)
            chosen = picnet_choice(samples, truth)
            yield Example(name, truth, full_mask[..., None], samples, chosen, {})


def own_size_files(model: Model, images: int) -> list[tuple[str, Path]]:
    """Name and file of the first held-out images of a folder."""
    data: Any = model.config.data  # a ConfigDict's type does not know its keys
    path = data.eval_path
    paths = list_images(path, "--real")
    return list(zip(stored.file_names(path, paths), paths, strict=True))[:images]


def _draw_ahead(
    model: Model,
    batches: Iterable[Batch],
    sampling: Sampling,
    store: CompletionStore | None,
) -> Iterator[tuple[Batch, np.ndarray]]:
    """Batches with their completions; the device works one batch ahead.

    Those that are not of the store's share are left out.
    """
    pending: tuple[Batch, Callable[[], np.ndarray]] | None = None
    following = 0
    for batch in batches:
        first, following = following, following + int(batch["valid"].sum())
        if store is not None and store.share is not None and first not in store.share:
            continue
        wait = _dispatch(model, batch, sampling, store, first)
        if pending is not None:
            yield pending[0], pending[1]()
        pending = batch, wait
    if pending is not None:
        yield pending[0], pending[1]()


def _dispatch(
    model: Model,
    batch: Batch,
    sampling: Sampling,
    store: CompletionStore | None,
    first: int,
) -> Callable[[], np.ndarray]:
    """Starts drawing a batch; the returned function waits for uint8 [b n h w 3].

    `first` is the index of the batch's first image.
    """
    keys: list[str] = []
    if store is not None:
        checksums = visible_part(batch)["checksum"][batch["valid"]].tolist()
        keys = [f"{first + i:06d}-{x:08x}" for i, x in enumerate(checksums)]
        stored = store.load(keys)
        if stored is not None:
            return lambda: stored
    drawn = model.sample(
        batch,
        sampling.num,
        sampling.seed,
        num_candidates=sampling.num_candidates,
        composite=sampling.composite,
    )

    def wait() -> np.ndarray:
        check_finite(drawn, [f"'{name}'" for name in batch["name"]])
        pixels = np.asarray(drawn.pixels)
        if store is not None:
            store.save(keys, pixels)
        return pixels

    return wait


def batch_examples(batch: Batch, samples: np.ndarray) -> Iterator[Example]:
    """The valid images of an evaluation batch with their completions [b n h w 3]."""
    own = {"image", "mask", "name", "valid"}
    for i in np.flatnonzero(batch["valid"]):
        truth = np.asarray(batch["image"][i])
        yield Example(
            name=str(batch["name"][i]),
            truth=truth,
            mask=np.asarray(batch["mask"][i]),
            samples=samples[i],
            chosen=picnet_choice(samples[i], truth),
            extra={k: np.asarray(v[i]) for k, v in batch.items() if k not in own},
        )


def sizes(paths: Iterable[Path]) -> set[tuple[int, int]]:
    """Height and width of the upright images, from the headers of those that open."""
    shapes = set()
    for path in paths:
        with contextlib.suppress(BadImage), open_image(path) as picture:
            size = picture.height, picture.width
            sideways = picture.getexif().get(ORIENTATION, 1) >= 5
            shapes.add(size[::-1] if sideways else size)
    return shapes


def size_text(image: np.ndarray) -> str:
    """`256x256`, width first."""
    return f"{image.shape[1]}x{image.shape[0]}"
