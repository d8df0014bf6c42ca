"""How close the painter's samplers come to a known posterior, with an exact network.

    python -m bench.samplers --seeds 3 --json FILE
    python -m bench.samplers --samplers ddnm/quad100/0.5,tds/16 --mask half
    python -m bench.samplers --problem grid --copies 16 --samplers smcdiff/4,smcdiff/64
    python -m bench.samplers --unsure 4                # a network that is worse
    python -m bench.samplers --draw PICTURE.png FILE [FILE ...]

The images of a problem are a finite mixture of templates, so that the network's best
answer and the posterior are known in closed form, and all error is the sampler's. A
sampler is a preset, or a changed one: `painter/4` passes each stretch 4 times,
`ddnm/SPACING/ETA` and `ddnm/SPACING/ETA/JUMP/PASSES` are DDNM, `tds/P` and `smcdiff/P`
have P particles. Each row is the mean over seeds, with half of their range; `valid` is
the share of completions that show a template which the known pixels allow.
"""

import json
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from bench import table
from picjax.cli import UserError, check_choice, run, say
from picjax.data import scenes
from picjax.methods.painter import process
from picjax.methods.painter.process import Denoiser, Parameterization
from picjax.methods.painter.resampling import (
    PRESETS,
    Preset,
    Resampling,
    make_noise,
    make_plan,
    repaint,
)
from picjax.methods.painter.samplers.interface import denoise_with, measure
from picjax.methods.painter.samplers.presets import (
    POSTERIOR_PRESETS,
    PosteriorPreset,
    ddnm_preset,
    smcdiff_preset,
    tds_preset,
)

SAMPLERS = "ddnm-fast,ddnm,ddnm-fine,ddnm-travel,pigdm,dps,mcg,copaint,smcdiff,tds"
SAMPLERS += ",plain,draft,fast,painter,repaint"
AnyPreset = Preset | PosteriorPreset


# ---- samplers by name ----


def find_preset(name: str) -> AnyPreset:
    """A preset, or a changed one such as "painter/4" or "ddnm/quad100/0.5".

    Raises:
      UserError: if the name is unknown.
    """
    base, *numbers = name.split("/")
    check_choice("sampler", base, (*PRESETS, *POSTERIOR_PRESETS))
    if not numbers:
        return (PRESETS | POSTERIOR_PRESETS)[base]
    try:
        if base == "ddnm":
            spacing, eta, *jumps = numbers
            spacing = spacing.replace("+", ",")  # sections; commas part samplers
            return ddnm_preset(spacing, float(eta), Resampling(*map(int, jumps)))
        (number,) = map(int, numbers)
        if number < 1:
            raise ValueError(number)
        if base in ("tds", "smcdiff"):
            return {"tds": tds_preset, "smcdiff": smcdiff_preset}[base](number)
        preset = PRESETS[base]
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"sampler '{name}' cannot be read; write painter/4, ddnm/ddim250/0.5, "
            "ddnm/ddim100/0.85/10/3 or tds/16"
        ) from error
    resampling = preset.resampling._replace(jump_n_sample=number)
    return preset._replace(resampling=resampling)


# ---- problems ----


class Problem(NamedTuple):
    """Images to complete, whose posterior is known.

    Attributes:
      templates: what an image may be, in [-1, 1].
      p: of each template, before anything is known.
      width: standard deviation around a template.
      images: to complete, q of them.
      mask: 1 = known.
      valid: a completion shows the nearest template, if the RMS of their difference
        over the hole is below this number.
    """

    templates: Float[np.ndarray, "k h w c"]
    p: Float[np.ndarray, " k"]
    width: float
    images: Float[np.ndarray, "q h w c"]
    mask: Float[np.ndarray, "h w 1"]
    valid: float

    def posterior(self) -> Float[np.ndarray, "q k"]:
        """Probability of each template given the known pixels."""
        off = (self.images[:, None] - self.templates) * self.mask
        square = np.square(off).sum((2, 3, 4)) / (2 * self.width**2)
        weight = self.p * np.exp(square.min(1, keepdims=True) - square)
        return weight / weight.sum(1, keepdims=True)

    def shown(self, images: Float[np.ndarray, "q n h w c"]) -> np.ndarray:
        """Frequencies [q k+1] of the templates that n completions show; last: none."""
        hole = self.mask[..., 0] < 0.5
        all_pixels, of_hole = [], []
        for template in self.templates:
            square = np.square(images - template)
            all_pixels.append(square.mean((2, 3, 4)))
            of_hole.append(np.sqrt(square[:, :, hole].mean((2, 3))))
        nearest = np.stack(all_pixels, -1).argmin(-1)
        rms = np.take_along_axis(np.stack(of_hole, -1), nearest[..., None], -1)[..., 0]
        bins = np.where(rms < self.valid, nearest, len(self.templates))
        counts = [np.bincount(b, minlength=len(self.templates) + 1) for b in bins]
        return np.stack(counts) / images.shape[1]


def scene_problem(size: int, mask: str) -> Problem:
    """One scene of each class on the same background (docs/scenes.md)."""
    shape = (size, size)
    attributes = scenes.sample(0, 0, shape)["attributes"]
    classes = range(len(scenes.CLASSES))
    modes = [scenes.modes(c, attributes, shape) for c in classes]
    p = np.concatenate([scenes.probabilities(c) for c in classes]) / len(classes)
    return Problem(
        templates=np.concatenate(modes).astype(np.float32) / 127.5 - 1,
        p=p,
        width=0.02,
        images=np.stack([own[0] for own in modes]).astype(np.float32) / 127.5 - 1,
        mask=MASKS[mask](size),
        valid=scenes.THRESHOLD / 127.5,
    )


def _center(size: int) -> np.ndarray:
    mask = np.ones((size, size, 1), np.float32)
    mask[scenes.hole((size, size))] = 0
    return mask


def _half(size: int) -> np.ndarray:
    return np.repeat(np.arange(size)[:, None, None] < size // 2, size, 1).astype("f4")


def _thin(size: int) -> np.ndarray:
    """Every other row is known."""
    return np.repeat(np.arange(size)[:, None, None] % 2 == 0, size, 1).astype("f4")


def _border(size: int) -> np.ndarray:
    """The centre is known, the markers around it are missing."""
    return 1 - _center(size)


def _most(size: int) -> np.ndarray:
    """A tenth is known, at random."""
    known = np.random.default_rng(0).permutation(size * size) < 0.1 * size * size
    return known.reshape(size, size, 1).astype(np.float32)


MASKS = {"center": _center, "half": _half, "thin": _thin, "border": _border}
MASKS |= {"most": _most}
GRID = np.linspace(-0.8, 0.8, 5)


def grid_problem(copies: int) -> Problem:
    """2 x copies numbers (a, b, a, b, ..), each of a, b one of five; the first is known.

    Templates are 0.4 apart in each number, so they part late in the reverse process.
    """
    pairs = np.stack(np.meshgrid(GRID, GRID, indexing="ij"), -1).reshape(25, 2)
    templates = np.tile(pairs, copies).reshape(25, 1, 2 * copies, 1)
    mask = np.zeros((1, 2 * copies, 1), np.float32)
    mask[0, 0] = 1
    p = np.random.default_rng(3).dirichlet(np.full(25, 1.5))
    images = templates[::5]
    return Problem(templates, p, 0.06, images, mask, 0.2)


# ---- the exact network ----

TRAINED = process.make_schedule("linear", 1000)


def exact_network(problem: Problem, unsure: float) -> Callable[[Array, Array], Array]:
    """The expected noise in an image of the mixture.

    Args:
      problem: its templates.
      unsure: 0: exact; else templates are told apart as if the variance of the noise
        were 1 + unsure times as large.
    """
    flat = jnp.asarray(problem.templates.reshape(len(problem.templates), -1), "f4")
    log_p, width = jnp.log(jnp.asarray(problem.p, "f4")), problem.width
    alphas_cumprod = jnp.asarray(TRAINED.alphas_cumprod, "f4")

    def network(x: Array, t: Array) -> Array:
        alphas = alphas_cumprod[t][:, None]
        root, variance = jnp.sqrt(alphas), 1 - alphas + alphas * width**2
        pixels = x.reshape(len(x), -1)
        square = jnp.square(pixels).sum(1, keepdims=True)
        distance = square - 2 * root * (pixels @ flat.T)
        distance = distance + alphas * jnp.square(flat).sum(1)[None]
        weights = jax.nn.softmax(log_p[None] - distance / (2 * variance * (1 + unsure)))
        centre = root * (weights @ flat)
        x0 = centre / root + root * width**2 / variance * (pixels - centre)
        epsilon = (pixels - root * x0) / jnp.sqrt(1 - alphas)
        # -1: the lower bound of the variance.
        return jnp.concatenate([epsilon.reshape(x.shape), -jnp.ones_like(x)], -1)

    return network


# ---- measuring ----


def measure_preset(
    problem: Problem, preset: AnyPreset, num: int, seeds: int, unsure: float
) -> table.Row:
    """One row: `num` completions of each image for each seed."""
    schedule = process.make_schedule("linear", 1000, preset.spacing)
    network = exact_network(problem, unsure)
    parameterization = Parameterization("epsilon", "learned_range")
    denoiser = Denoiser(network, schedule, parameterization)
    images = jnp.asarray(np.repeat(problem.images * problem.mask, num, 0), "f4")
    masks = jnp.broadcast_to(
        jnp.asarray(problem.mask), (len(images), *problem.mask.shape)
    )
    complete = _repaint if isinstance(preset, Preset) else _draw_posterior
    draw = jax.jit(partial(complete, preset, denoiser, images, masks))
    posterior = np.append(problem.posterior(), np.zeros((len(problem.images), 1)), 1)
    start, distances, valid = time.perf_counter(), [], []
    for seed in range(seeds):
        drawn = draw(jax.random.split(jax.random.key(seed), len(images)))
        drawn = np.asarray(jnp.where(masks > 0.5, images, drawn))
        drawn = drawn.reshape(len(problem.images), num, *drawn.shape[1:])
        shown = problem.shown(drawn)
        distances.append(np.abs(shown - posterior).sum(1).mean() / 2)
        valid.append(np.where(posterior > 1e-6, shown, 0).sum(1).mean())
    row: table.Row = cost(preset, schedule)
    row |= {"total_variation": round(float(np.mean(distances)), 3)}
    row |= {"+-": round(float(np.ptp(distances) / 2), 3)}
    row |= {"total_variation_floor": round(floor(posterior, num), 3)}
    row |= {"valid": round(float(np.mean(valid)), 3), "images": len(problem.images)}
    row |= {"completions": num, "seeds": seeds}
    return row | {"minutes": round((time.perf_counter() - start) / 60, 1)}


def cost(preset: AnyPreset, schedule: process.Schedule) -> table.Row:
    """Evaluations and gradients of one completion."""
    if isinstance(preset, Preset):
        plan = make_plan(schedule.steps, preset.resampling)
        return {"calls": plan.evaluations, "gradients": 0}
    taken = preset.cost(schedule)
    return {"calls": taken.evaluations, "gradients": taken.gradients}


def floor(posterior: Float[np.ndarray, "q k"], num: int) -> float:
    """The mean total variation of as many draws of a perfect sampler."""
    rng = np.random.default_rng(0)
    drawn = np.stack([rng.multinomial(num, p / p.sum(), 1000) / num for p in posterior])
    return float(np.abs(drawn - posterior[:, None]).sum(2).mean() / 2)


def _repaint(
    preset: Any, denoiser: Denoiser, image: Array, mask: Array, keys: Array
) -> Array:
    plan = make_plan(denoiser.schedule.steps, preset.resampling)
    noise = make_noise(keys, (image.shape[1], image.shape[2]))
    return repaint(denoiser, plan, image, mask, noise, eta=preset.eta)[0]


def _draw_posterior(
    preset: Any, denoiser: Denoiser, image: Array, mask: Array, keys: Array
) -> Array:
    plan, denoise = preset.plan(denoiser.schedule), denoise_with(denoiser)

    def of_image(image: Array, mask: Array, key: Array) -> Array:
        measurement = measure(image[None], mask[None])
        return preset.draw(denoise, plan, measurement, key)[0]

    return jax.vmap(of_image)(image, mask, keys)


# ---- the picture ----


def draw(path: Path, tables: dict[str, list[table.Row]]) -> None:
    """Plot total variation over cost, a panel a table; a gradient counts as two calls.

    Raises:
      UserError: if matplotlib is not installed.
    """
    try:
        import matplotlib
    except ImportError as error:
        raise UserError("--draw needs matplotlib; pip install -e '.[bench]'") from error
    matplotlib.use("Agg")
    from matplotlib import pyplot

    size = 7.5 * len(tables), 5
    figure, panels = pyplot.subplots(
        1, len(tables), figsize=size, layout="constrained", squeeze=False
    )
    for axes, (title, rows) in zip(panels[0], tables.items(), strict=True):
        for row in rows:
            x, y = row["calls"] + 2 * row["gradients"], row["total_variation"]
            axes.errorbar(
                x,
                y,
                row.get("+-", 0),
                fmt="o",
                color="C0" if row["gradients"] else "C1",
            )
            axes.annotate(
                row["walk"], (x, y), (5, 4), textcoords="offset points", size=8
            )
        lowest = rows[0]["total_variation_floor"]
        axes.axhline(lowest, color="grey", lw=1)
        axes.text(25, lowest, "a perfect sampler", size=8, va="bottom")
        axes.set(title=title, xscale="log", ylabel="total variation", ylim=(0, None))
        axes.set_xlabel("network calls a completion (a gradient counts as two)")
        ticks = [20, 50, 100, 200, 500, 1000, 2000]
        axes.set_xticks(ticks, [f"{tick:,}" for tick in ticks])
        axes.minorticks_off()
        axes.grid(alpha=0.3)
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
                f"'{file}' holds no tables; give a file that a benchmark's --json wrote"
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
    parser.add_argument("--samplers", default=SAMPLERS, help="names, by commas")
    parser.add_argument("--problem", default="scenes", choices=("scenes", "grid"))
    parser.add_argument("--size", type=int, default=16, help="of scenes, pixels")
    parser.add_argument("--mask", default="center", choices=MASKS, help="of scenes")
    parser.add_argument("--copies", type=int, default=4, help="of grid's two numbers")
    parser.add_argument("--num", type=int, default=64, help="completions an image")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument(
        "--unsure", type=float, default=0.0, help="0: the exact network"
    )
    parser.add_argument(
        "--draw", nargs="+", metavar="FILE", help="PNG, then JSON files"
    )
    args = parser.parse_args()
    if args.draw:
        draw(Path(args.draw[0]), read_tables(args.draw[1:]))
        return
    if args.problem == "grid":
        problem, title = grid_problem(args.copies), f"{2 * args.copies} dimensions"
    else:
        problem = scene_problem(args.size, args.mask)
        title = f"scenes, the exact network, {args.size} px"
        title += f", mask {args.mask}" * (args.mask != "center")
    title += f", unsure {args.unsure:g}" * (args.unsure > 0)
    presets = {name: find_preset(name) for name in args.samplers.split(",")}
    rows = []
    for name, preset in presets.items():
        found = measure_preset(problem, preset, args.num, args.seeds, args.unsure)
        rows.append({"walk": name} | found)
        say(f"{name}: total variation {found['total_variation']}")
    table.report({title: rows}, table.machine(), args.json)


if __name__ == "__main__":
    run(main)
