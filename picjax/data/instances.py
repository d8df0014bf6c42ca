"""Makes instance maps from label maps, or renumbers those that a data set has.

    python -m picjax.data.instances DIR [--by=class|region|id] [--out=DIR]

By class, the instance of a pixel is the rank of its label among those of the image, as
INADE trains ADE20K, CelebAMask-HQ and DeepFashion; by region, the connected regions of
equal labels are numbered; by id, DIR holds instance ids, such as Cityscapes', which
become ranks. Files are PNGs of 16 bits below the output folder, with DIR's names and
subfolders; `_instanceIds` becomes `_instanceReIds`.
"""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from picjax.cli import Parser, UserError, check_choice, run
from picjax.data import maps
from picjax.data.decode import BadImage
from picjax.data.listing import list_images
from picjax.data.maps import Map
from picjax.images import write_png

LIMIT = 2**16  # ids that 16 bits hold
BY: dict[str, Callable[[Map], Map]] = {
    "class": maps.reidentify,
    "region": maps.connected,
    "id": maps.reidentify,
}
# Folders of label maps -> those of instance maps beside them.
FOLDERS = {"labels": "instances", "annotations": "instances"}
IDS, RANKS = "_instanceIds", "_instanceReIds"


def make(root: Path, out: Path, by: str) -> tuple[int, int]:
    """Write the instance map of every file below `root`.

    Returns:
      Their number, and the largest number of instances in one.

    Raises:
      UserError: if a file is no map of indices, or has too many instances.
    """
    paths = list_images(root, "DIR")
    if by == "id" and any(path.stem.endswith(IDS) for path in paths):
        paths = [path for path in paths if path.stem.endswith(IDS)]
    most = 0
    for path in paths:
        try:
            ids = BY[by](maps.read_indices(path))
        except BadImage as error:
            raise UserError(
                f"'{path}' cannot be used: {error}; restore it or move it away"
            ) from error
        if ids.max() >= LIMIT:
            raise UserError(
                f"'{path}' has {ids.max() + 1:,} instances, more than 16 bits hold; use "
                "--by=class"
            )
        most = max(most, int(ids.max()) + 1)
        name = path.relative_to(root).with_suffix(".png")
        name = name.with_name(name.name.replace(IDS, RANKS))
        write_png(out / name, ids.astype(np.uint16))
    return len(paths), most


def default_out(root: Path, by: str) -> Path:
    """Where the maps of a folder go: beside it, or in it if ids are renumbered."""
    if by == "id":
        return root
    parts = list(root.resolve().parts)
    for i in reversed(range(len(parts))):
        if parts[i] in FOLDERS:
            return Path(*parts[:i], FOLDERS[parts[i]], *parts[i + 1 :])
    name = root.name.replace("_label", "_inst")
    return root.with_name(name if name != root.name else f"{root.name}-instances")


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command; see the module's docstring.

    Raises:
      UserError: if there is no map, or one cannot be used.
    """
    parser = Parser(
        prog="python -m picjax.data.instances",
        description="Makes instance maps (16-bit PNG) from label maps.",
        epilog="example: python -m picjax.data.instances data/annotations/training",
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("dir", metavar="DIR", help="label maps, or instance ids with --by=id")
    add("--by", default="class", metavar="KIND", help="class (default), region or id")
    add("--out", metavar="DIR", help="output folder (instances/ beside labels/)")
    args = parser.parse_args(argv)
    check_choice("--by", args.by, list(BY))
    root = Path(args.dir)
    if not root.is_dir():
        raise UserError(f"DIR '{root}' does not exist as a folder; correct it")
    out = Path(args.out) if args.out else default_out(root, args.by)
    if args.by != "id" and out.resolve() == root.resolve():
        raise UserError(f"--out '{out}' holds the label maps; choose another folder")
    count, most = make(root, out, args.by)
    print(f"{count} instance map(s) with at most {most} instances in {out}")
    print(f"train with --config.model.instances={most} or more")


if __name__ == "__main__":
    run(main)
