"""What the painter's samplers buy: distance of presets from `scenes`' posterior.

    python -m picjax.train --config=configs/painter.py:scenes
    python -m bench.painter --workdir runs/painter-scenes --walks draft,fast
    python -m bench.painter --draw PICTURE.png FILE [FILE ...]

One network, several samplers, one row each: evaluations of the network per completion,
share of modes found, total variation from the true probabilities, and share of valid
completions (docs/scenes.md). A sampler is a preset or a changed one, as in
`bench.samplers`, where the network is exact and all error the sampler's. `--draw` plots
total variation over evaluations from files that `--json` of either wrote.
"""

import dataclasses
import itertools
import json
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

import jax
import numpy as np

from bench import table
from bench.samplers import AnyPreset, find_preset
from picjax import checkpoints, methods
from picjax.cli import UserError, run
from picjax.evaluation.examples import BATCH, Sampling, model_examples
from picjax.evaluation.metrics import posterior
from picjax.methods.painter.resampling import PRESETS
from picjax.methods.painter.samplers.presets import POSTERIOR_PRESETS
from picjax.methods.painter.settings import make_sampler
from picjax.model import Model
from picjax.system import Config, Tree

METRICS = ("modes_found", "total_variation", "total_variation_floor", "valid")


def measure_run(
    config: Config,
    variables: Tree,
    preset: AnyPreset,
    images: int,
    num: int,
) -> table.Row:
    """One row: held-out images, `num` completions each."""
    system: Any = methods.make(config)
    system = dataclasses.replace(system, sampler=make_sampler(config, preset))
    model = Model(config, system, variables, 0)
    start = time.perf_counter()
    counts, classes = [], []
    batch = min(BATCH * jax.device_count(), images)
    for example in model_examples(model, Sampling(num), images, batch):
        scene = int(example.extra["scene"])
        attributes = example.extra["scene_attributes"]
        counts.append(posterior.count_modes(example.samples, scene, attributes))
        classes.append(scene)
    evaluations = system.sampler.cost.evaluations
    return make_row(evaluations, counts, classes, start)


def make_row(
    evaluations: int, counts: list[np.ndarray], classes: list[int], start: float
) -> table.Row:
    """The metrics of docs/scenes.md, and the minutes since `start`."""
    summary: dict[str, Any] = posterior.summarise(counts, classes)
    row: table.Row = {"calls": evaluations, "images": len(counts)}
    row |= {"completions": int(counts[0].sum())}
    row |= {name: round(summary[name]["value"], 3) for name in METRICS}
    return row | {"minutes": round((time.perf_counter() - start) / 60, 1)}


# ---- the curve ----


def draw(path: Path, tables: dict[str, list[table.Row]]) -> None:
    """Plot total variation over evaluations, one line per network and preset.

    The horizontal line is a table's floor: the total variation of as many draws from the
    true probabilities.

    Raises:
      UserError: if matplotlib is not installed.
    """
    try:
        import matplotlib
    except ImportError as error:
        raise UserError("--draw needs matplotlib; pip install -e '.[bench]'") from error
    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(7.5, 4.5), layout="constrained")
    styles = itertools.cycle(("-", ":", "--", "-."))
    for title, style, rows in zip(tables, styles, tables.values(), strict=False):
        network = title.removeprefix("scenes, ")
        for i, preset in enumerate((*PRESETS, *POSTERIOR_PRESETS)):
            color = f"C{i}"
            own = [row for row in rows if row["walk"].partition("/")[0] == preset]
            own.sort(key=lambda row: row["calls"])
            if not own:
                continue
            calls = [row["calls"] for row in own]
            shares = [row["total_variation"] for row in own]
            # A larger dot marks the preset itself.
            sizes = [70 if row["walk"] == preset else 15 for row in own]
            axes.plot(calls, shares, style, color=color, label=f"{preset}, {network}")
            axes.scatter(calls, shares, sizes, color)
        floor = median(row["total_variation_floor"] for row in rows)
        draws = f"{rows[0]['images']} x {rows[0]['completions']}"
        axes.axhline(floor, color="grey", ls=style, lw=1)
        axes.text(22, floor, f"floor, {network}: {draws} draws", size=8, va="bottom")
    axes.set(
        xscale="log", xlabel="evaluations of the network", ylabel="total variation"
    )
    ticks = [20, 50, 100, 200, 500, 1000, 2000]
    axes.set_xticks(ticks, [f"{tick:,}" for tick in ticks])
    axes.minorticks_off()
    axes.set_ylim(bottom=0)
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)
    figure.savefig(path, dpi=110)


def read_tables(files: Sequence[str]) -> dict[str, list[table.Row]]:
    """The tables in files that `--json` wrote; rows of one title are concatenated.

    Raises:
      UserError: if a file holds no tables.
    """
    tables: dict[str, list[table.Row]] = {}
    for file in files:
        try:
            content = json.loads(Path(file).read_text())["tables"]
        except (OSError, ValueError, KeyError) as error:
            raise UserError(
                f"'{file}' holds no tables; give a file that bench.painter --json wrote"
            ) from error
        for title, rows in content.items():
            tables.setdefault(title, []).extend(rows)
    return tables


def main() -> None:
    """The command; see the module's docstring.

    Raises:
      UserError: for anything that the user can fix.
    """
    parser = table.parser(__doc__)
    parser.add_argument("--workdir", default="runs/painter-scenes")
    parser.add_argument("--walks", default="draft,fast,painter,repaint")
    parser.add_argument("--images", type=int, default=96)
    parser.add_argument("--num", type=int, default=10)
    parser.add_argument(
        "--draw", nargs="+", metavar="FILE", help="PNG, then JSON files"
    )
    args = parser.parse_args()
    if args.draw:
        draw(Path(args.draw[0]), read_tables(args.draw[1:]))
        return
    names = args.walks.split(",")
    presets = [find_preset(name) for name in names]
    config, variables, step = checkpoints.restore_variables(args.workdir)
    each = args.images, args.num
    rows = [measure_run(config, variables, preset, *each) for preset in presets]
    network = f"{step:,} steps of training"
    rows = [{"walk": n} | row for n, row in zip(names, rows, strict=True)]
    table.report({f"scenes, {network}": rows}, table.machine(), args.json)


if __name__ == "__main__":
    run(main)
