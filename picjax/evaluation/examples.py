"""Where an evaluation's groups come from: a model's completions, or files of anyone's.

A group is one image with its completions. Both sources are streams that can begin at
any image, so that an interrupted evaluation goes on.
"""

import re
from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from picjax.cli import UserError
from picjax.completion import Completions, check_finite
from picjax.data import pipeline, sources
from picjax.data.decode import list_images, say
from picjax.evaluation.metrics.suite import Group, choose
from picjax.images import check_unique, find_images, fit, paste, read_image
from picjax.masks import match_masks, resolve
from picjax.model import Model

BATCH = 8  # images completed at once on a device

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


# ---- of a model ----


def model_groups(
    model: Model,
    num: int,
    images: int,
    seed: int,
    batch_size: int,
    best_of: int | None = None,
    raw: bool = False,
    start: int = 0,
) -> Iterator[Group]:
    """Groups of a model's held-out images; the device works one batch ahead.

    Args:
      model: of a run.
      num: completions an image.
      images: how many, at most.
      seed: of masks and completions.
      batch_size: images completed at once.
      best_of: draw that many, keep `num`.
      raw: known pixels as the system makes them, not pasted.
      start: images that are done already.

    Raises:
      UserError: when a completion is not finite, or `best_of` cannot be.
    """
    batches = pipeline.eval_batches(
        model.config.data, model.size, batch_size, images, seed
    )
    pending: tuple[dict[str, Any], Completions] | None = None
    skip = start
    for batch in batches:
        if skip >= (valid := int(batch["valid"].sum())):
            skip -= valid
            continue
        batch["valid"][np.flatnonzero(batch["valid"])[:skip]] = False
        skip = 0
        drawn = model.sample(
            batch, num, seed, num_candidates=best_of, composite=not raw
        )
        if pending is not None:
            yield from _unpack(*pending)
        if model.has_likelihood:
            batch |= model.evaluate(batch, seed)
        pending = batch, drawn
    if pending is not None:
        yield from _unpack(*pending)


def _unpack(batch: dict[str, Any], drawn: Completions) -> Iterator[Group]:
    check_finite(drawn, [f"'{name}'" for name in batch["name"]])
    yield from batch_groups(batch, np.asarray(drawn.pixels))


def batch_groups(batch: dict[str, Any], samples: np.ndarray) -> Iterator[Group]:
    """The valid images of an evaluation batch with their completions [b n h w 3]."""
    known = {"image", "mask", "name", "valid"}
    for i in np.flatnonzero(batch["valid"]):
        truth = np.asarray(batch["image"][i])
        extra = {k: np.asarray(v[i]) for k, v in batch.items() if k not in known}
        yield Group(
            name=str(batch["name"][i]),
            truth=truth,
            mask=np.asarray(batch["mask"][i]),
            samples=samples[i],
            chosen=choose(samples[i], truth),
            extra=extra,
        )


def own_size_groups(
    model: Model,
    num: int,
    images: int,
    seed: int,
    batch_size: int,
    best_of: int | None = None,
    raw: bool = False,
    start: int = 0,
) -> Iterator[Group]:
    """Groups of a folder's images at their own size, completed as `Model.complete` does.

    Each is resized to the model's size, its completions are resized back, and the known
    pixels are pasted unless `raw`. Masks are drawn at the image's size, by seed and
    place. Arguments are those of `model_groups`.

    Raises:
      UserError: when an image cannot be read, a completion is not finite, or `best_of`
        cannot be.
    """
    data = model.config.data
    draw = lru_cache(partial(pipeline.mask_drawer, data))
    found = own_size_files(model, images)
    places = range(start, len(found))

    def read(place: int) -> tuple[str, np.ndarray, np.ndarray]:
        name, path = found[place]
        truth = read_image(path)
        rng = np.random.default_rng((seed % 2**32, place))
        return name, truth, draw(truth.shape[:2])(rng, name, place)

    for i in range(0, len(places), batch_size):
        read_ones = [read(place) for place in places[i : i + batch_size]]
        names, truths, knowns = zip(*read_ones, strict=True)
        fitted = [fit(*pair, model.size) for pair in zip(truths, knowns, strict=True)]
        # Filled up with the last, so that nothing compiles anew.
        fitted += fitted[-1:] * (batch_size - len(fitted))
        small, known = (np.stack(x) for x in zip(*fitted, strict=True))
        small_batch = {"image": small, "mask": known[..., None]}
        drawn = model.sample(
            small_batch, num, seed, num_candidates=best_of, composite=not raw
        )
        check_finite(drawn._replace(finite=drawn.finite[: len(names)]), names)
        pixels = np.asarray(drawn.pixels)
        for name, truth, known, made in zip(
            names, truths, knowns, pixels, strict=False
        ):
            samples = paste(truth, known * (not raw), made)
            mask, chosen = known[..., None], choose(samples, truth)
            yield Group(name, truth, mask, samples, chosen, {})


def own_size_files(model: Model, images: int) -> list[tuple[str, Path]]:
    """Name and file of the first held-out images, those of a folder."""
    data: Any = model.config.data  # a ConfigDict's type does not know its keys
    path = data.eval_path
    paths = list_images(path, "--real")
    return list(zip(sources.file_names(path, paths), paths, strict=True))[:images]


# ---- of files ----


class Pair(NamedTuple):
    """A real image, its completions in order, and its mask where one is given."""

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

    Where `real` holds `<stem>_truth.png`, as picjax.complete writes, only these are
    taken, and both folders may be the same one.

    Args:
      real: folder of the true images.
      fake: folder of their completions, or of a folder an image.
      num: completions to take of each; None for all there are.
      mask: file, folder or name, as in `match_masks`.
      pattern: how completions are called, such as `{stem}_out_{i}`; None for the first
        of PATTERNS that finds some of every image.

    Raises:
      UserError: when an image has no completion, or not as many as the others.
    """
    reals = find_images(real, "--real")
    truths = [path for path in reals if path.stem.endswith("_truth")]
    names = {path.stem.removesuffix("_truth"): path for path in truths or reals}
    if len(names) < len(truths or reals):
        check_unique([path.stem for path in truths or reals], "--real holds {} images")
    root = Path(fake)
    if not root.is_dir():
        raise UserError(f"--fake '{fake}' does not exist as a folder; give one")
    files = list_images(fake, "--fake")
    known = {path.resolve() for path in names.values()} if truths else set()
    files = [path for path in files if path.resolve() not in known]
    found = [match(files, root, p, names) for p in (pattern and [pattern]) or PATTERNS]
    fakes = max(found, key=len)  # the first of those that find most
    counts = {stem: len(fakes.get(stem, {})) for stem in names}
    wanted = num or max(counts.values())
    for stem, count in counts.items():
        if count < max(wanted, 1):
            raise UserError(
                f"--fake '{fake}' holds {count} of {max(wanted, 1)} completions of "
                f"'{stem}' (`{pattern or '{stem}_out_{i}'}`); make them again, set "
                "--num, or say with --pattern how they are called"
            )
    say_unused(files, {p for images in fakes.values() for p in images.values()}, fake)
    matched = match_masks(list(names), mask) if mask else [None] * len(names)
    return [
        Pair(stem, path, [fakes[stem][i] for i in sorted(fakes[stem])][:wanted], known)
        for (stem, path), known in zip(names.items(), matched, strict=True)
    ]


def match(
    files: Sequence[Path], root: Path, pattern: str, stems: dict[str, Path]
) -> dict[str, dict[int, Path]]:
    """The files that a pattern calls completions: stem -> number -> file.

    Raises:
      UserError: when the pattern has no {stem}.
    """
    if "{stem}" not in pattern:
        raise UserError(
            f"--pattern '{pattern}' has no {{stem}}; write {{stem}}_out_{{i}}"
        )
    suffix = Path(pattern).suffix
    is_image = suffix.lower() in Image.registered_extensions()
    written = pattern.removesuffix(suffix) if is_image else pattern
    regex = {"{stem}": "(?P<stem>.+)", "{i}": r"(?P<i>\d+)", "*": "[^/]*"}
    again = {"{stem}": "(?P=stem)", "{i}": "(?P=i)"}  # the same as before
    text = ""
    for part in re.split(r"(\{stem\}|\{i\}|\*)", written):
        text += regex.get(part, re.escape(part))
        regex |= {part: again[part]} if part in again else {}
    compiled = re.compile(text)
    found: dict[str, dict[int, Path]] = {}
    for path in files:
        name = path.relative_to(root).with_suffix("").as_posix()
        hit = compiled.fullmatch(name)
        if hit and hit["stem"] in stems:
            number = int(hit["i"]) if "{i}" in pattern else 0
            found.setdefault(hit["stem"], {})[number] = path
    return found


def say_unused(files: Sequence[Path], used: set[Path], fake: str) -> None:
    """Names what of a folder is measured against nothing; picjax's own extras aside."""
    own = ("_truth", "_mask", "_grid", "_condition")
    left = [p for p in files if p not in used and not p.stem.endswith(own)]
    left = [p for p in left if p.name != "grid.png"]  # an earlier evaluation's
    if left:
        say(
            f"{len(left)} of {len(files)} files in '{fake}' are no completion of an "
            f"image of --real and are left out (first '{left[0].name}')"
        )


def folder_groups(
    pairs: Sequence[Pair], seed: int, invert: bool, raw: bool
) -> Iterator[Group]:
    """Groups from files.

    Where there is a mask, the truth's known pixels are pasted into the completions
    unless `raw`. What may be wrong with a mask is said once.

    Raises:
      UserError: where an image and its completions differ in size.
    """
    said: set[str] = set()
    for pair in pairs:
        truth = read_image(pair.real)
        samples = [read_image(path) for path in pair.fakes]
        for path, sample in zip(pair.fakes, samples, strict=True):
            if sample.shape != truth.shape:
                raise UserError(
                    f"'{path}' is {size(sample)} but '{pair.real}' is {size(truth)}; "
                    "resize one of them, by a rule that you state"
                )
        mask, stack = None, np.stack(samples)
        if pair.mask is not None:
            known, warnings = resolve(pair.mask, truth, seed, invert=invert)
            for warning in dict.fromkeys(warnings):
                if warning not in said:
                    say(warning)
                    said.add(warning)
            mask = known[..., None]
            if not raw:
                stack = np.where(mask == 1, truth, stack)
        yield Group(pair.stem, truth, mask, stack, choose(stack, truth), {})


def sizes(paths: Iterable[Path]) -> set[tuple[int, int]]:
    """Height and width of images, from their headers."""
    found = set()
    for path in paths:
        with Image.open(path) as picture:
            found.add((picture.height, picture.width))
    return found


def size(image: np.ndarray) -> str:
    """`256x256`, width first."""
    return f"{image.shape[1]}x{image.shape[0]}"


def files_of(pairs: Sequence[Pair]) -> list[Path]:
    """Every file that pairs are of."""
    masks = [pair.mask for pair in pairs if isinstance(pair.mask, Path)]
    return [path for pair in pairs for path in (pair.real, *pair.fakes)] + masks
