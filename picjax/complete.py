"""n completions of each image, on disk.

    python -m picjax.complete --workdir=runs/demo-picmm --image=a.jpg --mask=center
    python -m picjax.complete --workdir=runs/demo-picmm --compose scene.json

From Python: `picjax.load` (model.py).
"""

import argparse
import warnings
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import UInt8
from rich.console import Console

from picjax import checkpoints, images, masks
from picjax.cli import Parser, UserError, run
from picjax.compose import compose
from picjax.inputs import (
    find_images,
    match_masks,
    read_image,
    read_known,
    refuse_same,
)
from picjax.model import Model, load, refuse_mask, translates
from picjax.progress import progress_bar

COLUMNS = 6  # completions in a row of a grid
SETTING = "--config.sampler."


class Job(NamedTuple):
    """One image to complete; `mask` is a file or the name of a mask, or None.

    A .json among images is a scene, which has a mask of its own.
    """

    image: Path
    mask: Path | str | None


def find_jobs(image: str, mask: str | None) -> list[Job]:
    """Pairs the images at a path with masks, where there are any; see `match_masks`.

    Raises:
      UserError: when something is missing, unreadable, or does not pair.
    """
    images = find_images(image, "--image")
    stems = [path.stem for path in images]
    refuse_same(stems, f"'{image}' holds {{}} images")
    matched = [None] * len(stems) if mask is None else match_masks(stems, mask)
    return [Job(*pair) for pair in zip(images, matched, strict=True)]


def find_scenes(files: Sequence[str]) -> list[Job]:
    """The scenes in files, each of which is composed once to see that it can be.

    Raises:
      UserError: when one cannot, or two have the same name.
    """
    paths = [Path(file) for file in files]
    refuse_same([path.stem for path in paths], "--compose has {} scenes")
    for path in paths:
        compose(path)
    return [Job(path, None) for path in paths]


def main(argv: Sequence[str] | None = None) -> None:
    """The command; see the module's docstring.

    Raises:
      UserError: for anything the user can mend, before the first compile where it
        can be seen by then.
    """
    args = parse(argv)
    if args.num < 1:
        raise UserError(f"--num is {args.num}; ask for 1 completion or more")
    if bool(args.image) == bool(args.compose):
        raise UserError("give either --image, with --mask, or --compose")
    if args.compose and (args.mask or args.invert_mask):
        raise UserError("a scene says itself what is known; leave --mask out")
    masked = args.compose or args.mask
    if masked is None:
        refuse_mask(translates(checkpoints.read_config(Path(args.workdir))), None)
    if args.compose:
        jobs = find_scenes(args.compose)
    else:
        jobs = find_jobs(args.image, args.mask)
    out = Path(args.out) if args.out else Path(args.workdir) / "completions"
    if args.image and out.resolve() == jobs[0].image.parent.resolve():
        raise UserError(
            f"--out '{out}' is the folder of the images; choose another, so that a "
            "second run does not complete the first one's outputs"
        )
    if args.image and len(jobs) == 1:  # a damaged one among several is left out
        read_job(jobs[0], args)
    model = load(args.workdir, args.sampler)
    refuse_mask(model.translates, masked)
    complete_all(model, jobs, args, out)
    print(f"{args.num} completions of {len(jobs)} image(s) in {out}")


def read_job(
    job: Job, args: argparse.Namespace
) -> tuple[np.ndarray, np.ndarray | None, list[str]]:
    """The image, its mask where it has one, and warnings about that."""
    if args.compose:
        image, known = compose(job.image)
        return image, known[..., 0], []
    image = read_image(job.image)
    if job.mask is None:
        return image, None, []
    return image, *read_known(job.mask, image, args.seed, args.invert_mask)


def complete_all(
    model: Model, jobs: Sequence[Job], args: argparse.Namespace, out: Path
) -> None:
    """Completes every image that can be read; each warning is said once.

    Raises:
      UserError: after the others are done, when some could not be read.
    """
    console = Console(stderr=True, highlight=False, soft_wrap=True)
    failed: list[UserError] = []
    said: set[str] = set()
    with progress_bar(console) as bar:
        for job in bar.track(jobs, description="images"):
            try:
                image, known, about = read_job(job, args)
            except UserError as error:
                failed.append(error)
                continue
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always")
                num, seed, best_of = args.num, args.seed, args.best_of
                samples = model.complete(image, known, num, seed, best_of)
            about = {*about, *(str(warning.message) for warning in caught)}
            for warning in about - said:
                console.print(f"picjax: {warning}", markup=False)
            said |= about
            write(out, job.image.stem, image, known, samples)
    if failed:
        raise UserError(
            f"{len(failed)} of {len(jobs)} images were left out, the others are in "
            f"'{out}': {failed[0]}"
        )


def write(
    out: Path,
    stem: str,
    image: UInt8[np.ndarray, "h w 3"],
    known: UInt8[np.ndarray, "h w"] | None,
    samples: UInt8[np.ndarray, "n h w 3"],
) -> None:
    """Writes `<stem>_truth.png`, `_mask.png`, `_out_<i>.png` and `_grid.png`.

    Without a mask the image is no truth: `<stem>_condition.png` instead of the first
    two. Outputs of an earlier run with more completions are removed: a folder holds one
    run's completions of an image, never a mixture.
    """
    files = {"condition": image}
    if known is not None:
        masked = np.where(known[..., None] == 1, image, np.uint8(images.HOLE_GREY))
        files = {"truth": image, "mask": masked}
    files["grid"] = grid(list(files.values()), samples)
    files |= {f"out_{i}": sample for i, sample in enumerate(samples)}
    with ThreadPoolExecutor() as pool:  # packing a PNG takes long and one core
        paths = [out / f"{stem}_{name}.png" for name in files]
        list(pool.map(images.write_png, paths, files.values()))
    stale = len(samples)
    while (path := out / f"{stem}_out_{stale}.png").exists():
        path.unlink()
        stale += 1


def grid(
    inputs: Sequence[UInt8[np.ndarray, "h w 3"]],
    samples: UInt8[np.ndarray, "n h w 3"],
) -> UInt8[np.ndarray, "y x 3"]:
    """Truth where there is one, input and completions, each no larger than `images.CELL`."""
    shown = [images.thumbnail(sample) for sample in samples]
    first, rest = shown[:COLUMNS], shown[COLUMNS:]
    rows = [[*map(images.thumbnail, inputs), *first]]
    blanks = [np.full_like(shown[0], 255)] * len(inputs)
    for i in range(0, len(rest), COLUMNS):
        rows.append([*blanks, *rest[i : i + COLUMNS]])
    titles = ["truth", "input"][-len(inputs) :]
    return images.image_grid(rows, [*titles, *map(str, range(len(first)))])


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = Parser(
        prog="python -m picjax.complete",
        usage="%(prog)s --workdir DIR --image PATH --mask PATH|NAME [...]\n"
        "       %(prog)s --workdir DIR --compose JSON [JSON ...] [...]\n"
        f"       %(prog)s ... {SETTING}KEY=VALUE (how it draws)",
        description="Completes the hole of each image in n different ways.",
        epilog="example: "
        "python -m picjax.complete --workdir=RUN --image=a.jpg --mask=center",
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("--workdir", required=True, metavar="DIR", help="a run of picjax.train")
    add("--image", metavar="PATH", help="an image, or a folder of them")
    add(
        "--mask",
        metavar="PATH|NAME",
        help="white = hole; a folder's masks match by stem, or else by order; "
        f"or one of {', '.join(masks.NAMES)}; none for a run on aligned pairs",
    )
    add(
        "--compose",
        nargs="+",
        metavar="J",
        help="instead: JSON files of cut-outs (docs/composition.md)",
    )
    add("--num", type=int, default=10, metavar="N", help="completions an image (10)")
    add(
        "--best-of",
        type=int,
        metavar="M",
        help="draw M, keep the N that the system scores highest",
    )
    walks = "painter's walk: repaint, painter, fast, draft, plain"
    add("--sampler", default="", metavar="NAME", help=walks)
    add("--seed", type=int, default=0, help="another seed, other completions (0)")
    add("--out", metavar="DIR", help="where they go (WORKDIR/completions)")
    add("--invert-mask", action="store_true", help="mask files have black = hole")
    args, rest = parser.parse_known_args(argv)
    settings = [word.removeprefix(SETTING).split("=", 1) for word in rest]
    for word, setting in zip(rest, settings, strict=True):
        if not word.startswith(SETTING) or len(setting) < 2:
            parser.error(f"unrecognized arguments: {word}")
    preset = {"preset": args.sampler} if args.sampler else {}
    args.sampler = preset | dict(settings)
    return args


if __name__ == "__main__":
    run(main)
