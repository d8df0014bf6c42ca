"""What the painter's calls buy: how near each preset comes to `scenes`' posterior.

    python -m picjax.train --config=configs/painter.py:scenes
    python -m bench.painter --workdir runs/painter-scenes --presets draft,fast

One network, several ways of walking (picjax/sampling/walk.py): a row each, with the
calls of the network that a completion takes, the share of modes found, total variation
from the true probabilities, and the share of valid completions (docs/scenes.md).
"""

import time
from typing import Any

from bench import table
from picjax import checkpoints, systems
from picjax.complete import Model
from picjax.eval import BATCH, model_groups
from picjax.metrics import posterior
from picjax.sampling.walk import PRESETS, Preset
from picjax.system import Config, Tree
from picjax.systems.painter import make_sampler

NUMBERS = ("modes_found", "total_variation", "total_variation_floor", "valid")


def use(config: Config, preset: Preset) -> None:
    """Makes a config's sampler walk so."""
    jumps, eta = preset.jumps, -1.0 if preset.eta is None else preset.eta
    config.sampler.update(preset="own", spacing=preset.spacing, eta=eta)
    config.sampler.update(jump_length=jumps.length, jump_times=jumps.times)
    config.sampler.update(start=jumps.start, stop=jumps.stop)


def measure(
    config: Config, variables: Tree, preset: Preset, images: int, num: int
) -> table.Row:
    """One row: held-out images, `num` completions each."""
    use(config, preset)
    model = Model(config, systems.make(config), variables, 0)
    began = time.perf_counter()
    counts, classes = [], []
    for group in model_groups(model, num, images, 0, min(BATCH, images)):
        scene = int(group.extra["scene"])
        attributes = group.extra["scene_attributes"]
        counts.append(posterior.count_modes(group.samples, scene, attributes))
        classes.append(scene)
    found: dict[str, Any] = posterior.summarise(counts, classes)
    row: table.Row = {"calls": make_sampler(config).walk.calls}
    row |= {"images": len(counts), "completions": num}
    row |= {name: round(found[name]["value"], 3) for name in NUMBERS}
    return row | {"minutes": round((time.perf_counter() - began) / 60, 1)}


def main() -> None:
    """The command; see the module's docstring."""
    parser = table.parser(__doc__)
    parser.add_argument("--workdir", default="runs/painter-scenes")
    parser.add_argument("--presets", default="draft,fast,painter,repaint")
    parser.add_argument("--images", type=int, default=96)
    parser.add_argument("--num", type=int, default=10)
    args = parser.parse_args()
    config, variables, _ = checkpoints.restore_variables(args.workdir)
    rows = []
    for name in args.presets.split(","):
        row = measure(config, variables, PRESETS[name], args.images, args.num)
        rows.append({"preset": name} | row)
    table.report({f"scenes, {args.workdir}": rows}, table.machine(), args.json)


if __name__ == "__main__":
    main()
