"""What the painter's calls buy: how near each preset comes to `scenes`' posterior.

    python -m picjax.train --config=configs/painter.py:scenes
    python -m bench.painter --workdir runs/painter-scenes --walks draft,fast
    python -m bench.painter --exact --walks painter/4,painter --json FILE
    python -m bench.painter --draw PICTURE.png FILE [FILE ...]

One network, several ways of walking (picjax/sampling/walk.py): a row each, with the
calls of the network that a completion takes, the share of modes found, total variation
from the true probabilities, and the share of valid completions (docs/scenes.md). A walk
is a preset; `painter/4` walks each of its stretches 4 times. With `--exact` no network
is trained: the noise expected from one scene a class is computed, so that what is wrong
is the walk's fault alone. `--draw` measures nothing: it draws total variation over
calls from what `--json` wrote before.
"""

import itertools
import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from bench import table
from picjax import checkpoints, methods
from picjax.cli import UserError, check_choice, run
from picjax.data import scenes
from picjax.data.pipeline import to_uint8
from picjax.evaluation.examples import BATCH, Sampling, model_examples
from picjax.evaluation.metrics import posterior
from picjax.methods.painter import process as diffusion
from picjax.methods.painter import resampling as walk
from picjax.methods.painter.process import Kind
from picjax.methods.painter.resampling import PRESETS, Preset
from picjax.methods.painter.system import make_sampler
from picjax.model import Model
from picjax.system import Config, Tree

NUMBERS = ("modes_found", "total_variation", "total_variation_floor", "valid")


def find(name: str) -> Preset:
    """A preset, or one whose jumps are taken another number of times.

    Raises:
      UserError: for a name that is none.
    """
    base, _, times = name.partition("/")
    check_choice("--walks", base, PRESETS)
    preset = PRESETS[base]
    if not times:
        return preset
    if not times.isdecimal() or not int(times):
        raise UserError(f"--walks '{name}' has no number of times; write {base}/4")
    return preset._replace(jumps=preset.jumps._replace(times=int(times)))


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
    model = Model(config, methods.make(config), variables, 0)
    began = time.perf_counter()
    counts, classes = [], []
    batch = min(BATCH * jax.device_count(), images)
    for example in model_examples(model, Sampling(num), images, batch):
        scene = int(example.extra["scene"])
        attributes = example.extra["scene_attributes"]
        counts.append(posterior.count_modes(example.samples, scene, attributes))
        classes.append(scene)
    calls = make_sampler(config).walk.calls
    return made_row(calls, counts, classes, began)


def made_row(
    calls: int, counts: list[np.ndarray], classes: list[int], began: float
) -> table.Row:
    """The numbers of docs/scenes.md."""
    found: dict[str, Any] = posterior.summarise(counts, classes)
    row: table.Row = {"calls": calls, "images": len(counts)}
    row |= {"completions": int(counts[0].sum())}
    row |= {name: round(found[name]["value"], 3) for name in NUMBERS}
    return row | {"minutes": round((time.perf_counter() - began) / 60, 1)}


# ---- without a network ----

SIZE = (32, 32)
WIDTH = 0.02  # of the noise that each template is given, of 2


def exact_network(
    templates: Float[Array, "k h w 3"], chances: Float[Array, " k"]
) -> Callable[[Array, Array], Array]:
    """The expected noise of an image that is one of the templates."""
    flat = templates.reshape(len(templates), -1)
    whole = jnp.asarray(diffusion.tables("linear", 1000).abar, jnp.float32)

    def network(x: Array, t: Array) -> Array:
        abar = whole[t][:, None]
        root, spread = jnp.sqrt(abar), 1 - abar + abar * WIDTH**2
        pixels = x.reshape(len(x), -1)
        square = jnp.square(pixels).sum(1, keepdims=True)
        distance = square - 2 * root * (pixels @ flat.T)
        distance = distance + abar * jnp.square(flat).sum(1)[None]
        weights = jax.nn.softmax(jnp.log(chances)[None] - distance / (2 * spread))
        centre = root * (weights @ flat)
        x0 = centre / root + root * WIDTH**2 / spread * (pixels - centre)
        epsilon = (pixels - root * x0) / jnp.sqrt(1 - abar)
        # -1: the lower bound of the variance.
        return jnp.concatenate([epsilon.reshape(x.shape), -jnp.ones_like(x)], -1)

    return network


def measure_exact(preset: Preset, num: int) -> table.Row:
    """One row: a scene of each class on the same background, `num` completions each."""
    attributes = scenes.sample(0, 0, SIZE)["attributes"]
    classes = list(range(len(scenes.CLASSES)))
    valid = [scenes.modes(c, attributes, SIZE) for c in classes]
    chances = np.concatenate([scenes.probabilities(c) for c in classes])
    templates = jnp.asarray(np.concatenate(valid), jnp.float32) / 127.5 - 1
    network = exact_network(templates, jnp.asarray(chances / len(classes), jnp.float32))
    tables = diffusion.tables("linear", 1000, preset.spacing)
    plan = walk.plan(tables.steps, preset.jumps)
    known = np.ones((*SIZE, 1), np.float32)
    known[scenes.hole(SIZE)] = 0
    first = np.stack([modes[0] for modes in valid]).astype(np.float32) / 127.5 - 1
    image = jnp.asarray(np.repeat(first * known, num, 0))

    @jax.jit
    def complete(keys: Array) -> Array:
        start, draw = walk.draw_noise(keys, SIZE)
        masks = jnp.broadcast_to(jnp.asarray(known), (len(keys), *known.shape))
        given = tables, plan, Kind(), start, image, masks, draw
        return to_uint8(walk.run(network, *given, eta=preset.eta)[0])

    began = time.perf_counter()
    made = np.asarray(complete(jax.random.split(jax.random.key(0), len(image))))
    counts = [
        posterior.count_modes(own, c, attributes)
        for c, own in zip(classes, np.split(made, len(classes)), strict=True)
    ]
    return made_row(plan.calls, counts, classes, began)


# ---- the curve ----

COLORS = ("tab:purple", "tab:green", "tab:orange", "tab:blue", "tab:red")  # of PRESETS


def draw(path: Path, tables: dict[str, list[table.Row]]) -> None:
    """Total variation over calls: a line a network and a family of walks.

    A table's floor, what as many draws from the true probabilities would have, is
    dashed.

    Raises:
      UserError: when matplotlib is not installed.
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
        for preset, color in zip(PRESETS, COLORS, strict=True):
            own = [row for row in rows if row["walk"].partition("/")[0] == preset]
            own.sort(key=lambda row: row["calls"])
            if not own:
                continue
            calls = [row["calls"] for row in own]
            shares = [row["total_variation"] for row in own]
            # A larger dot for the preset itself.
            sizes = [70 if row["walk"] == preset else 15 for row in own]
            axes.plot(calls, shares, style, color=color, label=f"{preset}, {network}")
            axes.scatter(calls, shares, sizes, color)
        floor = median(row["total_variation_floor"] for row in rows)
        draws = f"{rows[0]['images']} x {rows[0]['completions']}"
        axes.axhline(floor, color="grey", ls=style, lw=1)
        axes.text(22, floor, f"floor, {network}: {draws} draws", size=8, va="bottom")
    axes.set(xscale="log", xlabel="calls of the network", ylabel="total variation")
    ticks = [20, 50, 100, 200, 500, 1000, 2000]
    axes.set_xticks(ticks, [f"{tick:,}" for tick in ticks])
    axes.minorticks_off()
    axes.set_ylim(bottom=0)
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)
    figure.savefig(path, dpi=110)


def read_tables(files: Sequence[str]) -> dict[str, list[table.Row]]:
    """The tables in files that `--json` wrote; rows under one title are put together.

    Raises:
      UserError: for a file that is none.
    """
    tables: dict[str, list[table.Row]] = {}
    for file in files:
        try:
            found = json.loads(Path(file).read_text())["tables"]
        except (OSError, ValueError, KeyError) as error:
            raise UserError(
                f"'{file}' holds no tables; give what bench.painter --json wrote"
            ) from error
        for title, rows in found.items():
            tables.setdefault(title, []).extend(rows)
    return tables


def main() -> None:
    """The command; see the module's docstring.

    Raises:
      UserError: for anything the user can mend.
    """
    parser = table.parser(__doc__)
    parser.add_argument("--workdir", default="runs/painter-scenes")
    parser.add_argument("--walks", default="draft,fast,painter,repaint")
    parser.add_argument("--images", type=int, default=96)
    parser.add_argument("--num", type=int, default=10)
    parser.add_argument("--exact", action="store_true", help="without a network")
    parser.add_argument(
        "--draw", nargs="+", metavar="FILE", help="PNG, then JSON files"
    )
    args = parser.parse_args()
    if args.draw:
        draw(Path(args.draw[0]), read_tables(args.draw[1:]))
        return
    names = args.walks.split(",")
    walks = [find(name) for name in names]
    if args.exact:
        rows = [measure_exact(preset, args.num) for preset in walks]
        network = "the exact network"
    else:
        config, variables, step = checkpoints.restore_variables(args.workdir)
        each = args.images, args.num
        rows = [measure(config, variables, preset, *each) for preset in walks]
        network = f"{step:,} steps of training"
    rows = [{"walk": n} | row for n, row in zip(names, rows, strict=True)]
    table.report({f"scenes, {network}": rows}, table.machine(), args.json)


if __name__ == "__main__":
    run(main)
