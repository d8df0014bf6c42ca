"""Packs a folder of images into ArrayRecord shards of raw pixels.

    python -m picjax.data.pack DIR --out=DIR [--size=266]
    python -m picjax.data.pack DIR --out=DIR --layout=ade20k [--held-out]
    python -m picjax.data.pack --check=DIR

Every image is resized to SIZE x SIZE (without keeping the aspect, as in training) and
stored as uint8, so that reading it is a copy: fast enough to feed a GPU from two cores.
With --layout, DIR has label maps (docs/inade.md), which are stored beside the pixels.
Train with --config.data.name=arrayrecord --config.data.path=OUT. Files that cannot be
used are skipped with a line that names them. OUT appears when everything is packed, with
a manifest; --check compares its shards with it. A command that was interrupted resumes
when it is given again. Of several processes, each packs its share of the shards.
"""

import contextlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from picjax import lock, sharding
from picjax.cli import Parser, UserError, run
from picjax.data import shards
from picjax.data.labelled import TREES, Files, find
from picjax.data.listing import list_images
from picjax.data.packing import Done, Job, pack, paths_of, read_done
from picjax.files import check_new

SIZE = 266  # load_size of the originals at 256 px: training crops without resampling
LARGEST = 8192  # pixels a side


def pack_together(job: Job) -> int:
    """`pack` of all processes, which together create the folder.

    Returns:
      The number of all images, of the first process; 0 of the others.

    Raises:
      UserError: if no image can be read, or another command packs into the folder.
    """
    with contextlib.ExitStack() as stack:
        if jax.process_index() == 0:
            create(job)
            stack.enter_context(lock.hold(job.partial, "--out"))
        sharding.wait_for_all("the folder exists")
        with sharding.finish_together("pack"):
            pack(job)
        if jax.process_index():
            return 0
        count = publish(job)
    job.partial.rmtree()
    if not count:
        raise UserError(f"DIR '{job.root}' holds no image that can be read; see above")
    return count


def create(job: Job) -> None:
    """Create the partial folder, unless an earlier run has.

    Raises:
      UserError: if it cannot be created.
    """
    try:
        job.folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(
            f"--out '{job.out}' cannot be created ({error.strerror}); choose another"
        ) from error


def publish(job: Job) -> int:
    """Write the manifest and give the folder its name, if it has any image.

    Returns:
      The number of images.

    Raises:
      UserError: if a shard is missing.
    """
    found = {number: read_done(job, number) for number in job.numbers}
    done = [x for x in found.values() if x]
    if len(done) < len(found):
        missing = ", ".join(str(n) for n, x in found.items() if x is None)
        raise UserError(
            f"--out '{job.out}': no process has packed the shards {missing}; give the "
            "same command again, in a folder that all processes share"
        )
    complete = [x.shard for x in done if x.shard]
    if not complete:
        return 0
    for path in job.folder.iterdir():  # of an earlier run on more images
        if path.name not in {shard.file for shard in complete}:
            path.unlink()
    shards.write_manifest(job.folder, complete, describe(job, done))
    if job.out.exists():
        job.out.rmdir()
    job.folder.rename(job.out.absolute())
    return sum(shard.records for shard in complete)


def describe(job: Job, done: Sequence[Done]) -> dict[str, Any]:
    """What the manifest says about the images; pixels are in [0, 1]."""
    counts = np.sum([x.levels for x in done], 0).reshape(3, 256)
    values, weights = np.arange(256) / 255, counts / counts.sum(1, keepdims=True)
    mean = weights @ values
    std = np.sqrt(weights @ values**2 - mean**2)
    skipped = [{"file": name, "reason": why} for x in done for name, why in x.skipped]
    first = job.files[0]
    return {
        "size": list(job.size),
        "layout": job.layout,
        "maps": ["label", "instance"][: len(paths_of(first)) - 1],
        "mean": np.round(mean, 6).tolist(),
        "std": np.round(std, 6).tolist(),
        "skipped": skipped,
    }


def parse(argv: Sequence[str] | None) -> Any:
    """Parse the command line."""
    parser = Parser(
        prog="python -m picjax.data.pack",
        description="Packs a folder of images into ArrayRecord shards of raw pixels.",
        epilog="example: python -m picjax.data.pack photos/ --out=photos-packed",
        allow_abbrev=False,
        buckets=("check",),
    )
    parser.add_argument(
        "dir", nargs="?", metavar="DIR", help="images: a folder or a .txt list"
    )
    parser.add_argument("--out", metavar="DIR", help="a new folder")
    parser.add_argument(
        "--size", type=int, default=SIZE, help=f"pixels a side ({SIZE})"
    )
    parser.add_argument(
        "--layout", default="", metavar="NAME", help=f"with maps: {', '.join(TREES)}"
    )
    parser.add_argument(
        "--held-out", action="store_true", help="the layout's held-out part"
    )
    parser.add_argument(
        "--check", metavar="DIR", help="compare packed shards with their checksums"
    )
    args = parser.parse_args(argv)
    if args.check is None and not (args.dir and args.out):
        parser.error("DIR and --out are required")
    if not 8 <= args.size <= LARGEST:
        raise UserError(f"--size is {args.size}; give 8 to {LARGEST} pixels")
    return args


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command; see the module's docstring.

    Raises:
      UserError: if there is nothing to pack, `--out` is not empty, or shards that are
        checked have changed.
    """
    args = parse(argv)
    if args.check is not None:
        found = shards.verify(args.check, "--check")
        count = sum(shard.records for shard in found)
        print(f"{len(found)} shards with {count} images are as they were packed")
        return
    out = Path(args.out)
    check_new(out)
    files: Sequence[Path | Files] = (
        find(args.dir, "DIR", args.layout, args.held_out)
        if args.layout
        else list_images(args.dir, "DIR")
    )
    jax.config.update("jax_platforms", "cpu")  # accelerators are left to others
    sharding.join_cluster()
    job = Job(files, Path(args.dir), (args.size, args.size), args.layout, out)
    count = pack_together(job)
    if jax.process_index() == 0:
        print(f"{count} images of {args.size}x{args.size} in {out}")


if __name__ == "__main__":
    run(main)
