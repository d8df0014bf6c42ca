"""What the painter's samplers buy: distance of presets from `scenes`' posterior.

    python -m picjax.train --config=configs/painter.py:scenes
    python -m bench.painter --workdir runs/painter-scenes --walks draft,fast

One network, several samplers, one row each: evaluations of the network per completion,
share of modes found, total variation from the true probabilities, and share of valid
completions (docs/scenes.md). A sampler is a preset or a changed one, as in
`bench.samplers`, where the network is exact and all error the sampler's, and which draws
the tables of both (`--draw`).
"""

import dataclasses
import time
from typing import Any

import jax

from bench import table
from bench.samplers import AnyPreset, find_preset
from picjax import checkpoints, methods
from picjax.cli import run
from picjax.evaluation.examples import BATCH, Sampling, model_examples
from picjax.evaluation.metrics import posterior
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
    cost = system.sampler.cost
    row: table.Row = {"calls": cost.evaluations, "gradients": cost.gradients}
    summary: dict[str, Any] = posterior.summarise(counts, classes)
    row |= {name: round(summary[name]["value"], 3) for name in METRICS}
    row |= {"images": len(counts), "completions": num}
    return row | {"minutes": round((time.perf_counter() - start) / 60, 1)}


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
    args = parser.parse_args()
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
