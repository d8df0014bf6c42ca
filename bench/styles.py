"""Whether runs of inade on `scenes` draw the styles of instances as they should.

    python -m bench.styles runs/inade-scenes runs/inade-scenes-spade [--picture FILE]

For each run, on held-out layouts: styles found, total variation and mutual information
with their floors (docs/inade.md), and what drawing one object again changes inside and
outside of it. The picture shows, for each run, the draws of one layout, and below them
the same layout with one object drawn again.
"""

from pathlib import Path
from typing import Any

import numpy as np

import picjax
from bench import table
from picjax.data import instance_scenes as scenes
from picjax.data import maps
from picjax.evaluation.metrics import styles
from picjax.images import image_grid, thumbnail, write_png

OBJECT = 1  # the instance that is drawn again
STATISTICS = ("valid", "styles_found", "total_variation", "mutual_information")


def layouts(count: int, size: tuple[int, int]) -> list[scenes.InstanceScene]:
    """The first held-out layouts."""
    return [scenes.sample(0, scenes.EVAL[i], size) for i in range(count)]


def measure(model: picjax.Model, count: int, num: int) -> table.Row:
    """The row of one run."""
    classes, shown, leaks = [], [], []
    for scene in layouts(count, model.size):
        label, instance = scene["label"], scene["instance"]
        images = model.synthesise(label, instance, n=num)
        classes.append(scenes.classes_of(label, instance))
        shown.append(styles.shown_styles(images, label, instance))
        redrawn = model.synthesise(label, instance, n=num, redraw=OBJECT)
        leaks.append(styles.leak(redrawn, instance, OBJECT))
    numbers = styles.summarise(classes, shown)
    row: table.Row = {"step": model.step}
    for name in STATISTICS:
        row[name] = numbers[name]["value"]
        if floor := numbers.get(f"{name}_floor"):
            row[f"{name} floor"] = floor["value"]
    means = {name: np.mean([leak[name] for leak in leaks]) for name in leaks[0]}
    return row | {f"redraw {name}": float(value) for name, value in means.items()}


def picture(models: dict[str, picjax.Model], num: int) -> np.ndarray:
    """Two rows per run: draws of a layout, and of one of its objects."""
    rows = []
    for model in models.values():
        (scene,) = layouts(1, model.size)
        label, instance = scene["label"], scene["instance"]
        data: Any = model.config.data  # a ConfigDict's type does not know its keys
        colours = maps.colour(label, maps.classes(data.maps))
        for redraw in (None, OBJECT):
            images = model.synthesise(label, instance, n=num, redraw=redraw)
            rows.append([thumbnail(x)[::2, ::2] for x in (colours, *images)])
    return image_grid(rows, ["labels", *map(str, range(num))])


def main() -> None:
    """The command; see the module's docstring."""
    parser = table.parser(__doc__)
    parser.add_argument("workdirs", nargs="+", help="runs on scenes")
    parser.add_argument("--layouts", type=int, default=48)
    parser.add_argument("--num", type=int, default=10, help="images per layout")
    parser.add_argument("--picture", metavar="FILE", help="a PNG of draws")
    args = parser.parse_args()
    models = {path: picjax.load(path) for path in args.workdirs}
    rows = [
        {"run": Path(path).name} | measure(model, args.layouts, args.num)
        for path, model in models.items()
    ]
    if args.picture:
        write_png(args.picture, picture(models, args.num))
    title = f"scenes of instances: {args.layouts} layouts, {args.num} images each"
    table.report({title: rows}, table.machine(), args.json)


if __name__ == "__main__":
    main()
