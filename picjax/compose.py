"""Cut-outs on a canvas, as an image and a mask for `picjax.complete`.

    python -m picjax.compose --examples scenes
    python -m picjax.complete --workdir=RUN --compose scenes/*/*.json

    image, mask = compose("scenes/garden/garden.json")
    images = model.complete(image, mask, n=10)   # generates all around the flowers

This is the input of Intelligent Painter (arXiv 2210.17106); see docs/composition.md.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

from picjax import images
from picjax.cli import Parser, UserError, run
from picjax.data.composition import compose
from picjax.inputs import refuse_same


def main(argv: Sequence[str] | None = None) -> None:
    """The command; see the module's docstring.

    Raises:
      UserError: for anything that the user can fix.
    """
    args = parse_arguments(argv)
    if not args.scenes and not args.examples:
        raise UserError("no scene is given; name a JSON file, or --examples DIR")
    if args.examples:
        from picjax.data.cutouts import write_examples

        for path in write_examples(Path(args.examples)):
            print(path)
    scenes = [Path(scene) for scene in args.scenes]
    if args.out:
        refuse_same([scene.stem for scene in scenes], "there are {} scenes")
    for scene in scenes:
        image, mask = compose(scene)
        out = Path(args.out) if args.out else scene.parent
        images.write_png(out / f"{scene.stem}_canvas.png", image)
        images.write_png(out / f"{scene.stem}_hole.png", 255 * (1 - mask[..., 0]))
        known = float(mask.mean())
        print(f"{out / scene.stem}_canvas.png, _hole.png: {known:.0%} is known")


def parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = Parser(
        prog="python -m picjax.compose",
        description="Draws cut-outs on a canvas as an image and a mask file (white = "
        "hole); picjax.complete --compose completes scenes directly.",
        epilog="example: python -m picjax.compose --examples scenes && "
        "python -m picjax.compose scenes/garden/garden.json",
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("scenes", nargs="*", metavar="SCENE.json", help="see docs/composition.md")
    add("--out", metavar="DIR", help="output folder (default: beside each scene)")
    add("--examples", metavar="DIR", help="writes three example scenes")
    return parser.parse_args(argv)


if __name__ == "__main__":
    run(main)
