"""What an evaluation measures: a model's completions, or files from anywhere.

Both sources are streams of examples, each one image with its completions.
"""

import contextlib
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from picjax.cli import UserError, say
from picjax.completion import check_finite, visible_part
from picjax.data import pipeline, stored
from picjax.data.decode import BadImage, open_image
from picjax.data.listing import extensions, list_images
from picjax.evaluation.metrics.image import picnet_choice
from picjax.evaluation.metrics.results import Example
from picjax.evaluation.store import CompletionStore
from picjax.images import check_unique, fit, paste, read_image
from picjax.masks import mask_drawer, match_masks, resolve
from picjax.model import Model

BATCH = 8  # images completed at once on a device
Batch = dict[str, Any]

# How published systems name the i-th completion of `stem`, tried in this order.
PATTERNS = (
    "{stem}_out_{i}",  # picjax, PICNet, PICMM
    "{stem}_inpainted_{i}",
    "{stem}_{i}",
    "{stem}-{i}",
    "{stem}/{i}",
    "{stem}/*_{i}",
    "{stem}_fake_B",  # pix2pix
    "{stem}_fake",
    "{stem}_inpainted",
    "{stem}_out",
    "{stem}",
)


# ---- completions of a model ----


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

    def read(index: int) -> Batch | None:
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
        return element | {"truth": truth, "full_mask": full_mask}

    def batches() -> Iterator[Batch]:
        for start in range(0, len(named), batch_size):
            chunk = range(len(named))[start : start + batch_size]
            elements = [e for e in map(read, chunk) if e is not None]
            if not elements:
                continue
            full = [{k: e[k] for k in ("image", "mask", "name")} for e in elements]
            originals = {"originals": elements}
            yield pipeline.collate(full, batch_size) | originals

    for batch, drawn in _draw_ahead(model, batches(), sampling, store):
        for element, pixels in zip(batch["originals"], drawn, strict=False):
            truth, full_mask = element["truth"], element["full_mask"]
            samples = paste(truth, full_mask * sampling.composite, pixels)
            chosen = picnet_choice(samples, truth)
            mask = full_mask[..., None]
            yield Example(element["name"], truth, mask, samples, chosen, {})


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
    """Batches with their completions; the device works one batch ahead."""
    pending: tuple[Batch, Callable[[], np.ndarray]] | None = None
    first = 0
    for batch in batches:
        wait = _dispatch(model, batch, sampling, store, first)
        first += int(batch["valid"].sum())
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


# ---- files ----


class Pair(NamedTuple):
    """A real image, its completions in order, and its mask if there is one."""

    stem: str
    real: Path
    fakes: list[Path]
    mask: Path | str | None


def find_pairs(
    real: str,
    fake: str,
    num: int | None = None,
    mask: str | None = None,
    pattern: str | None = None,
) -> list[Pair]:
    """Matches the images of two folders by their names.

    If `real` holds `<stem>_truth.png`, which picjax.complete writes, only these are
    used, and both folders may be the same.

    Args:
      real: folder of the true images.
      fake: folder of their completions, or of a folder an image.
      num: completions of each image; None for all.
      mask: file, folder or name, as in `match_masks`.
      pattern: of completions' names, such as `{stem}_out_{i}`; None for the one of
        PATTERNS that matches most images.

    Raises:
      UserError: if an image has no completion, or fewer than the others.
    """
    reals = list_images(real, "--real", deep=False)
    truths = [path for path in reals if path.stem.endswith("_truth")]
    names = {path.stem.removesuffix("_truth"): path for path in truths or reals}
    if len(names) < len(truths or reals):
        check_unique([path.stem for path in truths or reals], "--real holds {} images")
    root = Path(fake)
    if not root.is_dir():
        raise UserError(f"--fake '{fake}' does not exist as a folder; give one")
    files = list_images(fake, "--fake")
    own = {path.resolve() for path in names.values()} if truths else set()
    files = [path for path in files if path.resolve() not in own]
    patterns = (pattern,) if pattern else PATTERNS
    # The first of those that match most images.
    found = {p: match(files, root, p, names) for p in patterns}
    used = max(found, key=lambda p: len(found[p]))
    fakes = found[used]
    counts = {stem: len(fakes.get(stem, {})) for stem in names}
    wanted = num or max(counts.values())
    for stem, count in counts.items():
        if count < max(wanted, 1):
            hint = "complete the folder, or set --num"
            if not count:
                hint = _pattern_hint(files, root, names)
            raise UserError(
                f"--fake '{fake}' holds {count} of {max(wanted, 1)} completions of "
                f"'{stem}' (`{used}`); {hint}"
            )
    _report_unused(files, {p for x in fakes.values() for p in x.values()}, fake)
    matched = match_masks(list(names), mask) if mask else [None] * len(names)
    return [
        Pair(stem, path, [fakes[stem][i] for i in sorted(fakes[stem])][:wanted], mask)
        for (stem, path), mask in zip(names.items(), matched, strict=True)
    ]


def match(
    files: Sequence[Path], root: Path, pattern: str, stems: dict[str, Path]
) -> dict[str, dict[int, Path]]:
    """The files whose names match a pattern: stem -> number -> file.

    Raises:
      UserError: if the pattern has no {stem}.
    """
    if "{stem}" not in pattern:
        raise UserError(
            f"--pattern '{pattern}' has no {{stem}}; write {{stem}}_out_{{i}}"
        )
    suffix = Path(pattern).suffix
    is_image = suffix.lower() in extensions()
    written = pattern.removesuffix(suffix) if is_image else pattern
    regex = {"{stem}": "(?P<stem>.+)", "{i}": r"(?P<i>\d+)", "*": "[^/]*"}
    repeated = {"{stem}": "(?P=stem)", "{i}": "(?P=i)"}
    text = ""
    for part in re.split(r"(\{stem\}|\{i\}|\*)", written):
        text += regex.get(part, re.escape(part))
        regex |= {part: repeated[part]} if part in repeated else {}
    compiled = re.compile(text)
    matches: dict[str, dict[int, Path]] = {}
    for path in files:
        name = path.relative_to(root).with_suffix("").as_posix()
        hit = compiled.fullmatch(name)
        if hit and hit["stem"] in stems:
            number = int(hit["i"]) if "{i}" in pattern else 0
            matches.setdefault(hit["stem"], {})[number] = path
    return matches


def _pattern_hint(files: Sequence[Path], root: Path, stems: dict[str, Path]) -> str:
    """How to mend a folder whose completions do not match: the pattern that fits.

    If no known pattern fits, it is read off a file whose name contains an image's name.
    """
    fits = [p for p in PATTERNS if match(files, root, p, stems).keys() >= stems.keys()]
    for path in files:
        name = path.relative_to(root).with_suffix("").as_posix()
        for stem in sorted(stems, key=len, reverse=True):
            if stem in name:  # the last number outside the stem counts completions
                written = name.replace(stem, "{stem}")
                fits.append(re.sub(r"\d+(?!.*\d)", "{i}", written))
                break
    fits = [p for p in fits if match(files, root, p, stems).keys() >= stems.keys()]
    if fits:
        return f"its names fit --pattern='{fits[0]}'; give that"
    return (
        "complete the folder, or give the pattern of its names by --pattern, such as "
        "'{stem}_out_{i}'"
    )


def _report_unused(files: Sequence[Path], used: set[Path], fake: str) -> None:
    """Warns of files that belong to no image, except picjax's own extras."""
    own = ("_truth", "_mask", "_grid", "_condition")
    left = [p for p in files if p not in used and not p.stem.endswith(own)]
    left = [p for p in left if p.name != "grid.png"]  # an earlier evaluation's
    if left:
        say(
            f"{len(left)} of {len(files)} files in '{fake}' are no completion of an "
            f"image of --real and are ignored (first '{left[0].name}')"
        )


def folder_examples(
    pairs: Sequence[Pair], seed: int, invert: bool, composite: bool
) -> Iterator[Example]:
    """Examples from files.

    If there is a mask, the truth's known pixels are pasted into the completions, unless
    `composite` is False. Each warning about a mask is printed once. An image is skipped
    if one of its files cannot be used.

    Raises:
      UserError: if an image and a completion differ in size.
    """
    printed: set[str] = set()
    for pair in pairs:
        mask, warnings = None, []
        try:
            truth = read_image(pair.real)
            samples = [read_image(path) for path in pair.fakes]
            if pair.mask is not None:
                mask, warnings = resolve(pair.mask, truth, seed, invert=invert)
        except UserError as error:
            say(f"skipped the image '{pair.stem}': {error}")
            continue
        for path, sample in zip(pair.fakes, samples, strict=True):
            if sample.shape != truth.shape:
                raise UserError(
                    f"'{path}' is {size_text(sample)} but '{pair.real}' is "
                    f"{size_text(truth)}; resize one of them, by a rule that you state"
                )
        stack = np.stack(samples)
        for warning in dict.fromkeys(warnings):
            if warning not in printed:
                say(warning)
                printed.add(warning)
        if mask is not None:
            mask = mask[..., None]
            if composite:
                stack = np.where(mask == 1, truth, stack)
        chosen = picnet_choice(stack, truth)
        yield Example(pair.stem, truth, mask, stack, chosen, {})


def sizes(paths: Iterable[Path]) -> set[tuple[int, int]]:
    """Height and width of the images that can be opened, from their headers."""
    shapes = set()
    for path in paths:
        with contextlib.suppress(BadImage), open_image(path) as picture:
            shapes.add((picture.height, picture.width))
    return shapes


def size_text(image: np.ndarray) -> str:
    """`256x256`, width first."""
    return f"{image.shape[1]}x{image.shape[0]}"


def pair_files(pairs: Sequence[Pair]) -> list[Path]:
    """Every file of these pairs."""
    masks = [pair.mask for pair in pairs if isinstance(pair.mask, Path)]
    return [path for pair in pairs for path in (pair.real, *pair.fakes)] + masks
