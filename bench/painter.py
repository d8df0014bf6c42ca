"""What the painter's samplers buy: distance of presets from `scenes`' posterior.

    python -m picjax.train --config=configs/painter.py:scenes
    python -m bench.painter --workdir runs/painter-scenes --walks draft,fast
    python -m bench.painter --exact --walks painter/4,painter --json FILE
    python -m bench.painter --draw PICTURE.png FILE [FILE ...]

One network, several samplers, one row each: evaluations of the network per completion,
share of modes found, total variation from the true probabilities, and share of valid
completions (docs/scenes.md). A sampler is a preset; `painter/4` passes each of its
stretches 4 times, `ddnm/250/0.5` is DDNM with 250 steps and eta 0.5. `--exact` replaces the trained network by the expected noise of one
scene per class, so that all error is the sampler's. `--draw` plots total variation over
evaluations from files that `--json` wrote.
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
from picjax.evaluation.examples import BATCH, Sampling, model_examples
from picjax.evaluation.metrics import posterior
from picjax.images import to_uint8
from picjax.methods.painter import process
from picjax.methods.painter.process import Denoiser, Parameterization
from picjax.methods.painter.resampling import (
    PRESETS,
    Preset,
    make_noise,
    make_plan,
    repaint,
)
from picjax.methods.painter.samplers.interface import denoise_with, measure
from picjax.methods.painter.samplers.presets import (
    POSTERIOR_PRESETS,
    PosteriorPreset,
    ddnm_preset,
)
from picjax.methods.painter.settings import make_sampler
from picjax.model import Model
from picjax.system import Config, Tree, composite

METRICS = ("modes_found", "total_variation", "total_variation_floor", "valid")


def find_preset(name: str) -> Preset | PosteriorPreset:
    """A preset, or a changed one such as "painter/4" or "ddnm/250/0.5".

    Raises:
      UserError: if the name is unknown.
    """
    base, _, numbers = name.partition("/")
    check_choice("--walks", base, (*PRESETS, *POSTERIOR_PRESETS))
    if base in POSTERIOR_PRESETS:
        return _posterior_preset(name, base, numbers)
    preset = PRESETS[base]
    if not numbers:
        return preset
    if not numbers.isdecimal() or not int(numbers):
        raise UserError(f"--walks '{name}' has no number of passes; write {base}/4")
    resampling = preset.resampling._replace(jump_n_sample=int(numbers))
    return preset._replace(resampling=resampling)


def _posterior_preset(name: str, base: str, numbers: str) -> PosteriorPreset:
    if not numbers:
        return POSTERIOR_PRESETS[base]
    steps, _, eta = numbers.partition("/")
    try:
        if base != "ddnm":
            raise ValueError
        return ddnm_preset(int(steps), float(eta))
    except ValueError as error:
        raise UserError(
            f"--walks '{name}': of these samplers ddnm alone takes numbers; write "
            "ddnm/250/0.5 for 250 steps and eta 0.5"
        ) from error


def set_sampler(config: Config, preset: Preset | PosteriorPreset) -> None:
    """Set a config's sampler to a preset.

    Raises:
      UserError: for a changed sampler of the posterior, which no config describes.
    """
    if isinstance(preset, PosteriorPreset):
        names = [name for name, p in POSTERIOR_PRESETS.items() if p is preset]
        if not names:
            raise UserError("ddnm takes numbers with --exact alone; leave them out")
        config.sampler.preset = names[0]
        return
    own, eta = preset.resampling, -1.0 if preset.eta is None else preset.eta
    config.sampler.update(preset="own", spacing=preset.spacing, eta=eta)
    config.sampler.update(jump_length=own.jump_length, jump_times=own.jump_n_sample)
    config.sampler.update(start=own.start_resampling, stop=own.stop_resampling)


def measure_run(
    config: Config,
    variables: Tree,
    preset: Preset | PosteriorPreset,
    images: int,
    num: int,
) -> table.Row:
    """One row: held-out images, `num` completions each."""
    set_sampler(config, preset)
    model = Model(config, methods.make(config), variables, 0)
    start = time.perf_counter()
    counts, classes = [], []
    batch = min(BATCH * jax.device_count(), images)
    for example in model_examples(model, Sampling(num), images, batch):
        scene = int(example.extra["scene"])
        attributes = example.extra["scene_attributes"]
        counts.append(posterior.count_modes(example.samples, scene, attributes))
        classes.append(scene)
    evaluations = make_sampler(config).cost.evaluations
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


# ---- the exact network ----

WIDTH = 0.02  # standard deviation around each template, for pixels in [-1, 1]


def exact_network(
    templates: Float[Array, "k h w 3"], p: Float[Array, " k"]
) -> Callable[[Array, Array], Array]:
    """The expected noise of images that are template k with probability p[k]."""
    flat = templates.reshape(len(templates), -1)
    trained = process.make_schedule("linear", 1000)
    alphas_cumprod = jnp.asarray(trained.alphas_cumprod, jnp.float32)

    def network(x: Array, t: Array) -> Array:
        alphas = alphas_cumprod[t][:, None]
        root, variance = jnp.sqrt(alphas), 1 - alphas + alphas * WIDTH**2
        pixels = x.reshape(len(x), -1)
        square = jnp.square(pixels).sum(1, keepdims=True)
        distance = square - 2 * root * (pixels @ flat.T)
        distance = distance + alphas * jnp.square(flat).sum(1)[None]
        weights = jax.nn.softmax(jnp.log(p)[None] - distance / (2 * variance))
        centre = root * (weights @ flat)
        x0 = centre / root + root * WIDTH**2 / variance * (pixels - centre)
        epsilon = (pixels - root * x0) / jnp.sqrt(1 - alphas)
        # -1: the lower bound of the variance.
        return jnp.concatenate([epsilon.reshape(x.shape), -jnp.ones_like(x)], -1)

    return network


def measure_exact(
    preset: Preset | PosteriorPreset, num: int, size: tuple[int, int], seed: int
) -> table.Row:
    """One row: a scene of each class on the same background, `num` completions each."""
    attributes = scenes.sample(0, 0, size)["attributes"]
    classes = list(range(len(scenes.CLASSES)))
    valid = [scenes.modes(c, attributes, size) for c in classes]
    p = np.concatenate([scenes.probabilities(c) for c in classes]) / len(classes)
    templates = jnp.asarray(np.concatenate(valid), jnp.float32) / 127.5 - 1
    denoiser = Denoiser(
        exact_network(templates, jnp.asarray(p, jnp.float32)),
        process.make_schedule("linear", 1000, preset.spacing),
        Parameterization("epsilon", "learned_range"),
    )
    mask = np.ones((*size, 1), np.float32)
    mask[scenes.hole(size)] = 0
    first = np.stack([modes[0] for modes in valid]).astype(np.float32) / 127.5 - 1
    image = jnp.asarray(np.repeat(first * mask, num, 0))
    masks = jnp.broadcast_to(jnp.asarray(mask), (len(image), *mask.shape))
    complete = _repaint if isinstance(preset, Preset) else _draw_posterior

    @jax.jit
    def draw(keys: Array) -> Array:
        images = complete(preset, denoiser, image, masks, keys)
        return to_uint8(composite({"image": image, "mask": masks}, images))

    start = time.perf_counter()
    drawn = np.asarray(draw(jax.random.split(jax.random.key(seed), len(image))))
    counts = [
        posterior.count_modes(own, c, attributes)
        for c, own in zip(classes, np.split(drawn, len(classes)), strict=True)
    ]
    if isinstance(preset, Preset):
        plan = make_plan(denoiser.schedule.steps, preset.resampling)
        return make_row(plan.evaluations, counts, classes, start)
    cost = preset.cost(denoiser.schedule.steps)
    return make_row(cost.evaluations, counts, classes, start)


def _repaint(
    preset: Any, denoiser: Denoiser, image: Array, mask: Array, keys: Array
) -> Array:
    plan = make_plan(denoiser.schedule.steps, preset.resampling)
    noise = make_noise(keys, (image.shape[1], image.shape[2]))
    return repaint(denoiser, plan, image, mask, noise, eta=preset.eta)[0]


def _draw_posterior(
    preset: Any, denoiser: Denoiser, image: Array, mask: Array, keys: Array
) -> Array:
    calls, denoise = preset.calls(denoiser.schedule), denoise_with(denoiser)

    def of_image(image: Array, mask: Array, key: Array) -> Array:
        measurement = measure(image[None], mask[None])
        return preset.draw(denoise, calls, measurement, key)[0]

    return jax.vmap(of_image)(image, mask, keys)


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
    parser.add_argument("--size", type=int, default=32, help="of --exact")
    parser.add_argument("--seed", type=int, default=0, help="of --exact")
    parser.add_argument(
        "--exact", action="store_true", help="replace the trained network"
    )
    parser.add_argument(
        "--draw", nargs="+", metavar="FILE", help="PNG, then JSON files"
    )
    args = parser.parse_args()
    if args.draw:
        draw(Path(args.draw[0]), read_tables(args.draw[1:]))
        return
    names = args.walks.split(",")
    presets = [find_preset(name) for name in names]
    if args.exact:
        size = args.size, args.size
        rows = [measure_exact(p, args.num, size, args.seed) for p in presets]
        network = f"the exact network, {args.size} px"
    else:
        config, variables, step = checkpoints.restore_variables(args.workdir)
        each = args.images, args.num
        rows = [measure_run(config, variables, preset, *each) for preset in presets]
        network = f"{step:,} steps of training"
    rows = [{"walk": n} | row for n, row in zip(names, rows, strict=True)]
    table.report({f"scenes, {network}": rows}, table.machine(), args.json)


if __name__ == "__main__":
    run(main)
