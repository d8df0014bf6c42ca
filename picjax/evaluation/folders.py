"""Folders of completions from anywhere: which files belong together, and their pixels.

Files are matched by their names. Numbers of files that do not belong together look like
any others, so a few are compared before anything is measured.
"""

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Float32

from picjax.cli import UserError, say
from picjax.data.listing import extensions, list_images
from picjax.evaluation.examples import size_text
from picjax.evaluation.metrics.image import picnet_choice
from picjax.evaluation.metrics.results import Example
from picjax.images import check_unique, read_image
from picjax.masks import match_masks, resolve

PROBED = 8  # images that are compared before anything is measured
PROBED_PIXELS = 100_000  # of each of them
EQUAL = 4.0  # grey levels that a JPEG file may differ from the truth
INVERTED = 0.2  # of the difference of known pixels that missing ones reach
SAME = 0.5  # correlation of known pixels with the truth's

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


class Pair(NamedTuple):
    """A real image, its completions in order, and its mask if there is one."""

    stem: str
    real: Path
    fakes: list[Path]
    mask: Path | str | None = None


class Reading(NamedTuple):
    """How files become examples.

    Attributes:
      seed: of masks that are drawn by name.
      invert: whether black means hole in mask files.
      composite: whether the truth's known pixels are pasted into the completions.
    """

    seed: int = 0
    invert: bool = False
    composite: bool = True


# ---- which files belong together ----


def find_pairs(
    real: str, fake: str, num: int | None = None, pattern: str | None = None
) -> list[Pair]:
    """Matches the images of two folders by their names.

    If `real` holds `<stem>_truth.png`, which picjax.complete writes, only these are
    used, and both folders may be the same.

    Args:
      real: folder of the true images.
      fake: folder of their completions, or of a folder an image.
      num: completions of each image; None for all.
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
    return [
        Pair(stem, path, [fakes[stem][i] for i in sorted(fakes[stem])][:wanted])
        for stem, path in names.items()
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


def with_masks(pairs: Sequence[Pair], mask: str, order: bool) -> list[Pair]:
    """The pairs with their masks.

    Args:
      pairs: without masks.
      mask: file, folder or name, as in `match_masks`.
      order: whether the files of a folder are taken in order; which is printed.

    Raises:
      UserError: if a pair has no mask.
    """
    matched = match_masks([pair.stem for pair in pairs], mask, order)
    return [pair._replace(mask=mask) for pair, mask in zip(pairs, matched, strict=True)]


def in_order(pairs: Sequence[Pair], names: Sequence[str]) -> list[Pair]:
    """The pairs with these names, in their order.

    Raises:
      UserError: if one is missing.
    """
    by_name = {pair.stem: pair for pair in pairs}
    for name in names:
        if name not in by_name:
            raise UserError(
                f"--real holds no '{name}', which the manifest has; give all its images"
            )
    return [by_name[name] for name in names]


def pair_files(pairs: Sequence[Pair]) -> list[Path]:
    """Every file of these pairs."""
    masks = [pair.mask for pair in pairs if isinstance(pair.mask, Path)]
    return [path for pair in pairs for path in (pair.real, *pair.fakes)] + masks


# ---- pixels ----


def read(pair: Pair, reading: Reading) -> tuple[Example, list[str]] | None:
    """A pair's files as they are, and warnings about its mask.

    None, with a line, if one of them cannot be used.

    Raises:
      UserError: if a completion has another size than the image.
    """
    mask, warnings = None, []
    try:
        truth = read_image(pair.real)
        samples = [read_image(path) for path in pair.fakes]
        if pair.mask is not None:
            mask, warnings = resolve(
                pair.mask, truth, reading.seed, invert=reading.invert
            )
            mask = mask[..., None]
    except UserError as error:
        say(f"skipped the image '{pair.stem}': {error}")
        return None
    for path, sample in zip(pair.fakes, samples, strict=True):
        if sample.shape != truth.shape:
            raise UserError(
                f"'{path}' is {size_text(sample)} but '{pair.real}' is "
                f"{size_text(truth)}; resize one of them, by a rule that you state"
            )
    return Example(pair.stem, truth, mask, np.stack(samples), 0, {}), warnings


def folder_examples(pairs: Sequence[Pair], reading: Reading) -> Iterator[Example]:
    """Examples from files; each warning about a mask is printed once.

    An image is skipped if one of its files cannot be used.

    Raises:
      UserError: if an image and a completion differ in size.
    """
    printed: set[str] = set()
    for pair in pairs:
        found = read(pair, reading)
        if found is None:
            continue
        example, warnings = found
        for warning in dict.fromkeys(warnings):
            if warning not in printed:
                say(warning)
                printed.add(warning)
        samples = example.samples
        if example.mask is not None and reading.composite:
            samples = np.where(example.mask == 1, example.truth, samples)
        chosen = picnet_choice(samples, example.truth)
        yield example._replace(samples=samples, chosen=chosen)


def check_pixels(pairs: Sequence[Pair], reading: Reading) -> list[str]:
    """Compares the files of the first pairs, which must have masks.

    Returns:
      What a report must state about the known pixels.

    Raises:
      UserError: if the completions equal the truth inside the hole and differ outside
        it; or if known pixels are pasted and the files show something else there.
    """
    probed = pairs[:PROBED]
    read_pairs = (read(pair, reading) for pair in probed)
    values = [_values(found[0]) for found in read_pairs if found is not None]
    if not values:
        return []
    known, missing = (np.concatenate(x, axis=1) for x in zip(*values, strict=True))
    (outside, equal_outside), (inside, equal_inside) = _gap(known), _gap(missing)
    if outside > EQUAL and (
        inside <= INVERTED * outside or equal_inside > max(0.5, equal_outside + 0.05)
    ):
        if isinstance(probed[0].mask, str):
            fix = "give the masks that they were completed with"
        else:
            fix = "leave out --invert-mask" if reading.invert else "give --invert-mask"
        raise UserError(
            "the completions equal the truth inside the hole of --mask and differ "
            f"outside it (by {inside:.1f} and {outside:.1f} grey levels), so "
            f"the masks are inverted or not theirs; {fix}"
        )
    if not reading.composite or not outside > EQUAL:
        return []
    spread = known.std(axis=1)
    same = np.corrcoef(known)[0, 1] if spread.all() else 0.0
    if same < SAME:
        raise UserError(
            f"the known pixels of '{probed[0].fakes[0]}' and others are not the truth's "
            f"(correlation {same:.2f}); give completions of the same crop and size and "
            "their masks, or --raw to measure the files as they are"
        )
    remark = (
        f"Known pixels of the files differ from the truth's by {outside:.1f} grey "
        f"levels (first {len(probed)} images) and were replaced by these: outputs of "
        "networks, or another mask, crop or size"
    )
    return [remark]


def _values(example: Example) -> tuple[np.ndarray, np.ndarray]:
    """Known and missing values of (truth, sample 0), float32 [2 k] each."""
    if example.mask is None:
        raise ValueError("pixels are compared inside and outside a mask")
    step = -(-example.mask.size // PROBED_PIXELS)
    both = np.stack([example.truth, example.samples[0]]).reshape(2, -1, 3)[:, ::step]
    flat = example.mask.reshape(-1)[::step]
    known, missing = (
        both[:, flat == value].reshape(2, -1).astype(np.float32) for value in (1, 0)
    )
    return known, missing


def _gap(values: Float32[np.ndarray, "2 k"]) -> tuple[float, float]:
    """Mean difference in grey levels, and share of equal values; NaN without a pixel."""
    gap = np.abs(values[0] - values[1])
    return (
        (float(gap.mean()), float((gap == 0).mean())) if gap.size else (np.nan, np.nan)
    )
