"""PixelCNN++'s three samplers: cached, fixed point and naive, in one run.

    python -m bench.pixelcnn [--batch 1,16] [--features 160] [--blocks 5]
    python -m bench.pixelcnn --batch 64,256 --cold
    python -m bench.pixelcnn --fixed-point 4       # also that sampler, for 4 passes
    python -m bench.pixelcnn --workdir=runs/pixelcnn [--batch 1,16]

Whole images and lower halves of 32 x 32 pixels. With a workdir, its network completes
held-out images; otherwise it is one of the published width with random parameters.

The time of the naive sampler is estimated: the measured time of one pass of the network
times the number of missing pixels. The number of passes of the fixed point depends on
the network; --fixed-point limits it. `>` marks a lower bound, and `settled` is the share
of missing values that equal those of the cached sampler by then.

A batch that needs more than --memory is timed on a part of it (`at once`: images of a
cached draw, and of a pass), and its time is extrapolated.
"""

import sys
from collections.abc import Callable
from functools import partial
from math import prod
from statistics import median
from typing import Any, NamedTuple

from bench import table

SIZE = 32
KNOWN = {"image": 0, "half": SIZE // 2}  # rows


class Runs(NamedTuple):
    """Calls that do one thing each and block until it is done.

    Attributes:
      cached: draws `drawn` images.
      redraw: draws all pixels of `passed` images anew: one pass of the network.
      start: the images from which fixed-point iteration starts.
      drawn, passed: number of images of each.
      missing: number of missing pixels per image.
    """

    cached: Callable[[], Any]
    redraw: Callable[[Any], Any]
    start: Any
    drawn: int
    passed: int
    missing: int


def fresh_network(features: int, blocks: int) -> tuple[Any, Any, Any]:
    """The published network with random parameters, and images of noise."""
    import jax
    import jax.numpy as jnp

    from picjax.methods.pixelcnn.net import PixelCNN

    net = PixelCNN(features=features, blocks=blocks, dropout=0.0)
    key = jax.random.key(0)
    image = jax.random.uniform(key, (1, SIZE, SIZE, 3), minval=-1)
    shapes = jax.eval_shape(partial(net.init, train=False), key, image)["params"]

    def parameter(x: Any) -> Any:
        ones = jnp.ones(x.shape)  # gains and biases
        return ones if len(x.shape) == 1 else jax.random.normal(key, x.shape)

    return net, jax.tree.map(parameter, shapes), image


def trained_network(workdir: str) -> tuple[Any, Any, Any]:
    """The network of a run, its averaged parameters, and held-out images.

    A network with orientations does not get them here.
    """
    from picjax import checkpoints
    from picjax.data import pipeline
    from picjax.images import to_float
    from picjax.methods.pixelcnn.system import PixelCNNPlusPlus

    config, variables, _ = checkpoints.restore_variables(workdir)
    batches = pipeline.eval_batches(config.data, config.image_size, 8, 8, 0)
    image = to_float(next(iter(batches)))["image"]
    system = PixelCNNPlusPlus.from_config(config)
    return system.net, variables["params"]["net"], system.in_channels(image)


def fit(compiled: Callable[[int], Any], batch: int, most: float) -> tuple[Any, int]:
    """The program for a batch, or for the part of it that fits in `most` bytes."""
    whole = compiled(batch)
    needed = whole.memory_analysis().temp_size_in_bytes
    if needed <= most:
        return whole, batch
    count = max(1, int(batch * most / needed))
    return compiled(count), count


def make_runs(
    net: Any, params: Any, image: Any, batch: int, most: float
) -> dict[str, Runs]:
    """The runs of a batch size for each of KNOWN, which share compiled programs."""
    import jax
    import jax.numpy as jnp

    from picjax.methods.pixelcnn import cached, raster

    _, height, width, channels = image.shape

    def images(count: int) -> Any:
        return jnp.tile(image, (-(-count // len(image)), 1, 1, 1))[:count]

    def known(count: int, rows: int) -> Any:
        lines = jnp.arange(height)[None, :, None, None] < rows * height // SIZE
        return jnp.broadcast_to(lines, (count, height, width, 1))

    def noise(count: int) -> Any:
        def of_one(i: Any) -> Any:  # the same for any count
            key = jax.random.fold_in(jax.random.key(2), i)
            return raster.draw_noise(key, (1, height, width), net.mixtures, channels)

        return jax.vmap(of_one)(jnp.arange(count))

    @jax.jit
    def fast(params, image, known, noise):
        inputs = cached.Inputs(image, known, noise)
        return cached.sample(net, params, inputs, rounded=True)[:, 0]

    @jax.jit
    def redraw(params, x, image, known, noise):
        logits = partial(net.apply, {"params": params}, train=False)
        own = jax.tree.map(lambda u: u[:, 0], noise)
        return raster.redraw(logits, x, image, known, own, True)

    def compile_fast(count: int) -> Any:
        given = images(count), known(count, 0), noise(count)
        return fast.lower(params, *given).compile()

    def compile_redraw(count: int) -> Any:
        given = images(count), known(count, 0), noise(count)
        return redraw.lower(params, given[0], *given).compile()

    draw, drawn = fit(compile_fast, batch, most)
    again, passed = fit(compile_redraw, batch, most)

    def runs(rows: int) -> Runs:
        many = images(drawn), known(drawn, rows), noise(drawn)
        few = images(passed), known(passed, rows), noise(passed)
        return Runs(
            lambda: jax.block_until_ready(draw(params, *many)),
            lambda x: jax.block_until_ready(again(params, x, *few)),
            jnp.where(few[1], few[0], 0),
            drawn,
            passed,
            (height - rows * height // SIZE) * width,
        )

    return {what: runs(rows) for what, rows in KNOWN.items()}


def settle(redraw: Callable[[Any], Any], x: Any, most: int) -> tuple[Any, int, bool]:
    """The fixed point of `redraw`: images, passes, and whether it was reached.

    The last pass changes nothing; the iteration stops after `most` passes at the latest.
    """
    for passes in range(1, most + 1):
        new = redraw(x)
        if bool((new == x).all()):
            return x, passes, True
        x = new
    return x, most, False


def products(jaxpr: Any, loops: int) -> int:
    """Number of multiplications in a jaxpr's matrix products and convolutions.

    Of a `cond`, the branch with the fewest counts.

    Args:
      jaxpr: from `jax.make_jaxpr`.
      loops: number of iterations of each `while`.
    """
    total = 0
    for eqn in jaxpr.eqns:
        inner = [v for v in eqn.params.values() if hasattr(v, "eqns")]
        inner += [v.jaxpr for v in eqn.params.values() if hasattr(v, "jaxpr")]
        out = prod(eqn.outvars[0].aval.shape) if eqn.outvars else 0
        match eqn.primitive.name:
            case "dot_general":
                (contracted, _), _ = eqn.params["dimension_numbers"]
                shape = eqn.invars[0].aval.shape
                total += out * prod(shape[i] for i in contracted)
            case "conv_general_dilated":
                features = eqn.outvars[0].aval.shape[-1]
                total += out * prod(eqn.invars[1].aval.shape) // features
            case "scan":
                total += eqn.params["length"] * products(inner[0], loops)
            case "while":
                total += loops * products(eqn.params["body_jaxpr"].jaxpr, loops)
            case "cond":
                branches = eqn.params["branches"]
                total += min(products(b.jaxpr, loops) for b in branches)
            case _:
                total += sum(products(j, loops) for j in inner)
    return total


def work(net: Any, params: Any, size: int = SIZE) -> float:
    """Multiplications of one cached sample over those of one pass of the network."""
    import jax
    import jax.numpy as jnp

    from picjax.methods.pixelcnn import cached, raster

    x = jnp.zeros((1, size, size, net.channels))
    known = jnp.zeros((1, size, size, 1), bool)
    key = jax.random.key(0)
    noise = raster.draw_noise(key, (1, 1, size, size), net.mixtures, net.channels)
    inputs = cached.Inputs(x, known, noise)
    sample = jax.make_jaxpr(partial(cached.sample, net))(params, inputs)
    one = jax.make_jaxpr(lambda p: net.apply({"params": p}, x, False))(params)
    loops = size // cached.PERIOD
    return products(sample.jaxpr, loops) / products(one.jaxpr, 1)


def row(
    what: str, batch: int, runs: Runs, rounds: int, warmup: int, passes: int
) -> table.Row:
    """One line of the table.

    Args:
      what: a key of KNOWN.
      batch: number of images.
      runs: the calls to time.
      rounds: number of timed rounds.
      warmup: number of rounds before those, which do not count.
      passes: maximum of the fixed point; 0: it is not run.
    """
    kept: dict[str, Any] = {}

    def keep(name: str, value: Any) -> None:
        kept[name] = value

    compared: dict[str, Callable[[], object]] = {
        "cached": lambda: keep("drawn", runs.cached()),
        "pass": lambda: runs.redraw(runs.start),
    }
    if passes:
        compared["fixed point"] = lambda: keep(
            "settled", settle(runs.redraw, runs.start, passes)
        )
    seconds = table.interleave(compared, rounds, warmup)
    fast = median(seconds["cached"]) * batch / runs.drawn
    one = median(seconds["pass"]) * batch / runs.passed
    made: table.Row = {
        "draws": what,
        "batch": batch,
        "at once": f"{runs.drawn}, {runs.passed}",
        "cached s": fast,
        "images/s": batch / fast,
        "pass s": one,
        "naive s": runs.missing * one,
        "x naive": runs.missing * one / fast,
    }
    if passes:
        x, taken, reached = kept["settled"]
        slow = median(seconds["fixed point"]) * batch / runs.passed
        same = kept["drawn"][: len(x)] == x[: runs.drawn]
        size = runs.start.shape[1] * runs.start.shape[2]
        wrong = float(1 - same.mean()) * size / runs.missing
        more = "" if reached else "> "
        made |= {
            "fixed s": f"{more}{table.text(slow)}",
            "passes": f"{more}{taken}",
            "x fixed": f"{more}{table.text(slow / fast)}",
            "settled %": 100 * (1 - wrong),
        }
    return made


def main() -> None:
    """The command; see the module's docstring."""
    parser = table.parser(__doc__)
    parser.add_argument("--batch", default="1,16")
    parser.add_argument("--features", type=int, default=160)
    parser.add_argument("--blocks", type=int, default=5)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument(
        "--cold", action="store_true", help="no warm-up round, for large batches"
    )
    parser.add_argument("--workdir", help="a run of configs/pixelcnn.py")
    parser.add_argument(
        "--fixed-point",
        type=int,
        default=0,
        metavar="N",
        help="time it, at most N passes",
    )
    parser.add_argument(
        "--memory",
        type=float,
        default=4,
        metavar="GiB",
        help="limit for a call's arrays",
    )
    args = parser.parse_args()
    about = table.machine()
    if args.workdir:
        net, params, image = trained_network(args.workdir)
    else:
        net, params, image = fresh_network(args.features, args.blocks)
    height = image.shape[1]
    rows = []
    for batch in map(int, args.batch.split(",")):
        made = make_runs(net, params, image, batch, args.memory * 2**30)
        for what, runs in made.items():
            warmup = 0 if args.cold else 1
            rows.append(row(what, batch, runs, args.rounds, warmup, args.fixed_point))
            print(rows[-1], file=sys.stderr, flush=True)
    title = f"PixelCNN++, {net.features} filters, {net.blocks} blocks, {height} px"
    counted: list[table.Row] = [
        {
            "products of": "a cached sample / one pass",
            "ratio": work(net, params, height),
        }
    ]
    table.report({title: rows, "Work": counted}, about, args.json)


if __name__ == "__main__":
    main()
