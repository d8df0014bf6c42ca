"""Writes a run's held-out images as files, for any tool that takes a folder.

    python -m picjax.data.export --workdir=runs/picmm --num=8 --out=held-out

Files have the names of the evaluation; their masks (white = hole) are written to a
folder beside them. Of aligned pairs, the input pictures are written. Label and instance
maps are written as indices to a folder of their own, instance maps with 16 bits.
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
    """Write `<name>.png` to `out`, its mask to `out`-masks, its maps to `out`-maps.

    Maps are `<name>_label.png` and `<name>_instance.png`; they replace the masks where
    no pixel is known.

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
    masks_out, maps_out = (beside(out, kind) for kind in ("masks", "maps"))
    count = 0
    for batch in pipeline.eval_batches(config.data, image_shape(config), 8, num, seed):
        for i in np.flatnonzero(batch["valid"]):
            name = batch["name"][i]
            images.write_png(out / f"{name}.png", batch[key][i])
            if config.data.masks or "label" not in batch:
                hole = np.repeat((1 - batch["mask"][i]) * np.uint8(255), 3, axis=-1)
                images.write_png(masks_out / f"{name}.png", hole)
            for entry, dtype in (("label", np.uint8), ("instance", np.uint16)):
                if entry in batch:
                    path = maps_out / f"{name}_{entry}.png"
                    images.write_png(path, batch[entry][i].astype(dtype))
            count += 1
    return count


def beside(out: Path, kind: str) -> Path:
    """The folder of the masks or maps of the images in `out`."""
    return out.with_name(f"{out.name}-{kind}")


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
    others = [kind for kind in ("masks", "maps") if beside(out, kind).exists()]
    folders = ", ".join(f"their {kind} in {beside(out, kind)}" for kind in others)
    print(f"{count} image(s) in {out}, {folders}")


if __name__ == "__main__":
    run(main)
