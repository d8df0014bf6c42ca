"""Writes n completions of each image.

    python -m picjax.complete --workdir=runs/demo-picmm --image=a.jpg --mask=center
    python -m picjax.complete --workdir=runs/demo-picmm --compose scene.json
    python -m picjax.complete --workdir=runs/demo-inade --labels=maps/

Of several processes, each completes its share of the images. From Python: `picjax.load`
(picjax/model.py).
"""

import argparse
import warnings
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np
from etils import epath
from jaxtyping import UInt8
from rich.console import Console

from picjax import checkpoints, complete_labels, files, images, masks, sharding
from picjax.buckets import AnyPath
from picjax.cli import Parser, UserError, check_choice, run, say
from picjax.compose import compose
from picjax.data.listing import list_images
from picjax.images import Picture
from picjax.inputs import check_mask_given, check_no_maps, translates
from picjax.log import progress_bar
from picjax.model import EMBEDDED, Model, is_folder, load

COLUMNS = 6  # completions per row of a grid
SETTING = "--config.sampler."


class Job(NamedTuple):
    """An image to complete, or a scene (.json), which has its own mask.

    Attributes:
      image: the file.
      mask: a mask file, the name of a mask, or None.
    """

    image: Path
    mask: Path | str | None


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command; see the module's docstring.

    Raises:
      UserError: for anything that the user can fix, before the first compilation where
        possible.
    """
    args = parse(argv)
    complete_labels.check(args)
    sharding.join_cluster()
    out = epath.Path(args.out or default_out(args.workdir))
    if args.labels:
        synthesise_all(args, out)
        return
    jobs = find_jobs(args)
    if args.image and Path(out).resolve() == jobs[0].image.parent.resolve():
        raise UserError(
            f"--out '{out}' is the folder of the images; choose another, so that a "
            "second run does not complete the first one's outputs"
        )
    check_readable(jobs, args)
    files.check_writable(out, "--out")
    model = load(args.workdir, args.sampler, args.checkpoint)
    check_no_maps(model.config)
    check_mask_given(model.translates, args.compose or args.mask)
    if model.sampling_cost:
        print(
            f"{model.sampling_cost}, {args.best_of or args.num} per image", flush=True
        )
    with sharding.finish_together("complete"):
        complete_all(model, sharding.own_share(jobs), args, out)
    if jax.process_index() == 0:
        print(f"{args.num} completions of {len(jobs)} image(s) in {out}")


def default_out(workdir: str) -> epath.Path:
    """`completions/` in the workdir, or here if the model is a file or downloaded."""
    folder = epath.Path("completions")
    return epath.Path(workdir) / folder if is_folder(workdir) else folder


def find_jobs(args: argparse.Namespace) -> list[Job]:
    """The images or scenes of a command line, matched with their masks.

    Raises:
      UserError: if something is missing, unreadable, or does not match.
    """
    if args.num < 1:
        raise UserError(f"--num is {args.num}; ask for 1 completion or more")
    if bool(args.image) == bool(args.compose):
        raise UserError(
            "--image and --compose exclude each other, and one is needed; give --image with "
            "--mask, or --compose"
        )
    if args.compose:
        if args.mask or args.invert_mask:
            raise UserError("a scene has its own mask; leave --mask out")
        return find_scenes(args.compose)
    if args.mask is None:
        config = checkpoints.read_config(args.workdir)
        check_mask_given(translates(config), None)
    paths = list_images(args.image, "--image", deep=False)
    stems = [path.stem for path in paths]
    images.check_unique(stems, f"'{args.image}' holds {{}} images")
    matched = [None] * len(stems)
    if args.mask is not None:
        check_choice("--pair", args.pair, masks.PAIRINGS)
        matched = masks.match_masks(stems, args.mask, args.pair == "order")
    return [Job(*pair) for pair in zip(paths, matched, strict=True)]


def find_scenes(scenes: Sequence[str]) -> list[Job]:
    """The scenes in files, each composed once to check it.

    Raises:
      UserError: if one cannot be composed, or two have the same name.
    """
    paths = [Path(scene) for scene in scenes]
    images.check_unique([path.stem for path in paths], "--compose has {} scenes")
    for path in paths:
        compose(path)
    return [Job(path, None) for path in paths]


def check_readable(jobs: Sequence[Job], args: argparse.Namespace) -> None:
    """Check that one of the jobs can be done, before a model is loaded.

    Raises:
      UserError: the first one's, if none can be read.
    """
    errors = []
    for job in jobs:
        try:
            read_job(job, args)
            return
        except UserError as error:
            errors.append(error)
    raise errors[0]


def read_job(
    job: Job, args: argparse.Namespace
) -> tuple[Picture, np.ndarray | str | None, list[str]]:
    """Read an image and its mask (or the mask's name), with warnings about the mask."""
    if args.compose:
        image, mask = compose(job.image)
        return Picture(image), mask[..., 0], []
    picture = images.read_picture(job.image)
    if job.mask is None or isinstance(job.mask, str):
        return picture, job.mask, []
    mask, remarks = masks.resolve(
        job.mask, picture.pixels, args.seed, invert=args.invert_mask
    )
    return picture, mask, remarks


def complete_all(
    model: Model, jobs: Sequence[Job], args: argparse.Namespace, out: epath.Path
) -> None:
    """Complete every image that can be read; each warning is printed once.

    Raises:
      UserError: at the end, if some images could not be read; each was named.
    """
    console = Console(stderr=True, highlight=False, soft_wrap=True)
    skipped = 0
    printed: set[str] = set()
    with progress_bar(console) as bar:
        for job in bar.track(jobs, description="images"):
            try:
                picture, mask, remarks = read_job(job, args)
            except UserError as error:
                say(f"skipped {error}")
                skipped += 1
                continue
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always")
                # Arrays are what was read from files, or the mask of a scene.
                warnings.simplefilter("ignore", masks.DoubtfulMask)
                samples = model.complete(
                    picture, mask, args.num, args.seed, args.best_of
                )
            remarks = {*remarks, *(str(warning.message) for warning in caught)}
            for warning in remarks - printed:
                say(warning)
            printed |= remarks
            if mask is not None:
                mask, _ = masks.resolve(mask, picture.pixels, args.seed, model.size)
            write(out, job.image.stem, picture, mask, samples)
    if skipped:
        raise UserError(
            f"{skipped} of {len(jobs)} images were skipped, the others are in '{out}'; "
            "replace those named above"
        )


def synthesise_all(args: argparse.Namespace, out: epath.Path) -> None:
    """Draw images of every label map of a command line."""
    jobs = complete_labels.find_jobs(args)
    files.check_writable(out, "--out")
    model = load(args.workdir, args.sampler, args.checkpoint)
    console = Console(stderr=True, highlight=False, soft_wrap=True)
    own = sharding.own_share(jobs)
    with sharding.finish_together("complete"), progress_bar(console) as bar:
        for job in bar.track(own, description="label maps"):
            inputs, samples = complete_labels.draw(model, job, args)
            shown = grid(inputs["labels"], samples, inputs.get("truth"))
            write_files(out, job.stem, inputs | {"grid": shown}, samples)
    if jax.process_index() == 0:
        print(f"{args.num} images of {len(jobs)} label map(s) in {out}")


def write(
    out: AnyPath,
    stem: str,
    picture: Picture,
    mask: UInt8[np.ndarray, "h w"] | None,
    samples: UInt8[np.ndarray, "n h w 3"],
) -> None:
    """Write `<stem>_truth.png`, `_mask.png`, `_out_<i>.png` and `_grid.png`.

    The mask is the image with a transparent hole: a picture, and a mask file. A
    translated image is written as `<stem>_condition.png` instead of the first two. All
    are in the picture's own colours. Completions of an earlier run with more of them
    are removed, so that a folder never mixes two runs.
    """
    image = picture.pixels
    contents = {"condition": image}
    if mask is not None:
        masked = np.where(mask[..., None] == 1, image, np.uint8(images.HOLE_GREY))
        contents = {"truth": image, "mask": masked}
    source = image if mask is None else contents["mask"]
    contents["grid"] = grid(source, samples, contents.get("truth"))
    if mask is not None:
        contents["mask"] = np.dstack([contents["mask"], 255 * mask])
    write_files(out, stem, contents, samples, picture.icc)


def write_files(
    out: AnyPath,
    stem: str,
    contents: Mapping[str, np.ndarray],
    samples: UInt8[np.ndarray, "n h w 3"],
    icc: bytes | None = None,
) -> None:
    """Write pictures as `<stem>_<name>.png` and the samples as `<stem>_out_<i>.png`."""
    contents = {**contents, **{f"out_{i}": x for i, x in enumerate(samples)}}
    with files.together(out) as folder, ThreadPoolExecutor() as pool:
        paths = [folder / f"{stem}_{name}.png" for name in contents]
        profiles = [icc] * len(paths)  # compression is slow, in one thread
        list(pool.map(images.write_png, paths, contents.values(), profiles))
    stale = len(samples)
    while (path := out / f"{stem}_out_{stale}.png").exists():
        path.unlink()
        stale += 1


def grid(
    source: UInt8[np.ndarray, "h w 3"],
    samples: UInt8[np.ndarray, "n h w 3"],
    truth: UInt8[np.ndarray, "h w 3"] | None = None,
) -> UInt8[np.ndarray, "y x 3"]:
    """The input, its completions under the numbers of their files, and the truth."""
    shown = [images.thumbnail(sample) for sample in samples]
    first, rest = shown[:COLUMNS], shown[COLUMNS:]
    last = {} if truth is None else {"truth": images.thumbnail(truth)}
    rows = [[images.thumbnail(source), *first, *last.values()]]
    blank = np.full_like(shown[0], images.WHITE)
    for i in range(0, len(rest), COLUMNS):
        rows.append([blank, *rest[i : i + COLUMNS]])
    return images.image_grid(rows, ["input", *map(str, range(len(first))), *last])


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """Parse the command line; `sampler` holds its settings of `config.sampler`."""
    parser = Parser(
        prog="python -m picjax.complete",
        usage="%(prog)s --workdir DIR --image PATH --mask PATH|NAME [...]\n"
        f"       %(prog)s ... {SETTING}KEY=VALUE (sampler options)",
        description="Completes images in N ways; or scenes (--compose), label maps (--labels).",
        epilog="example: "
        "python -m picjax.complete --workdir=RUN --image=a.jpg --mask=center",
        allow_abbrev=False,
        buckets=("workdir", "out"),
    )
    add = parser.add_argument
    embedded = f"a run of picjax.train, or {EMBEDDED}"
    add("--workdir", required=True, metavar="DIR", help=embedded)
    add("--checkpoint", default="newest", metavar="C", help="newest, best or a step")
    add("--image", metavar="PATH", help="an image, or a folder of them")
    add(
        "--mask",
        metavar="PATH|NAME",
        help="white = hole; a folder's are matched by name; "
        f"or one of {', '.join(masks.NAMES)}",
    )
    add("--pair", default="name", metavar="HOW", help="masks by name, or in order")
    add(
        "--compose",
        nargs="+",
        metavar="J",
        help="instead: JSON scenes of cut-outs (docs/composition.md)",
    )
    add("--num", type=int, default=10, metavar="N", help="completions per image (10)")
    add(
        "--best-of",
        type=int,
        metavar="M",
        help="draw M, keep the N that score highest",
    )
    presets = "preset of painter, such as fast or ddnm"
    add("--sampler", default="", metavar="NAME", help=presets)
    add("--seed", type=int, default=0, help="another seed gives other completions (0)")
    add("--out", metavar="DIR", help="output folder (WORKDIR/completions)")
    add("--invert-mask", action="store_true", help="mask files have black = hole")
    complete_labels.add_options(parser)
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
