"""Writes a run's held-out images as files, for any tool that takes a folder.

    python -m picjax.data.export --workdir=runs/picmm --num=8 --out=held-out

Files have the names of the evaluation; their masks (white = hole) are written to a
folder beside them. Of aligned pairs, the input pictures are written.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from picjax import images
from picjax.checkpoints import read_config
from picjax.cli import Parser, UserError, run
from picjax.data import pipeline
from picjax.files import check_writable
from picjax.system import image_shape


def export(workdir: Path, num: int, seed: int, out: Path) -> int:
    """Write `<name>.png` to `out` and its mask to `out`-masks.

    Args:
      workdir: a run's folder.
      num: largest number of images.
      seed: seed of the masks.
      out: the output folder.

    Returns:
      The number of images.

    Raises:
      UserError: if the folder is no workdir or there is no held-out image.
    """
    config = read_config(workdir)
    key = "condition" if config.data.name == "aligned" else "image"
    masks_out = out.with_name(f"{out.name}-masks")
    count = 0
    for batch in pipeline.eval_batches(config.data, image_shape(config), 8, num, seed):
        for name, image, mask, valid in zip(
            batch["name"], batch[key], batch["mask"], batch["valid"], strict=True
        ):
            if valid:
                images.write_png(out / f"{name}.png", image)
                hole = np.repeat((1 - mask) * np.uint8(255), 3, axis=-1)
                images.write_png(masks_out / f"{name}.png", hole)
                count += 1
    return count


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """Parse the command line."""
    parser = Parser(
        prog="python -m picjax.data.export",
        description="Writes a run's held-out images, and their masks, as PNG files.",
        epilog="example: python -m picjax.data.export --workdir=runs/picmm --num=8",
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("--workdir", required=True, metavar="DIR", help="a run of picjax.train")
    add("--num", type=int, default=8, metavar="N", help="number of images (8)")
    add("--seed", type=int, default=0, help="seed of the masks (0)")
    add("--out", metavar="DIR", help="output folder (WORKDIR/held-out)")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command; see the module's docstring."""
    args = parse(argv)
    if args.num < 1:
        raise UserError(f"--num is {args.num}; ask for 1 image or more")
    out = Path(args.out) if args.out else Path(args.workdir) / "held-out"
    check_writable(out, "--out")
    count = export(Path(args.workdir), args.num, args.seed, out)
    print(f"{count} image(s) in {out}, their masks in {out}-masks")


if __name__ == "__main__":
    run(main)
