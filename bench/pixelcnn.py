"""PixelCNN++'s three samplers: cached, fixed point and naive, in one run.

    python -m bench.pixelcnn [--batch 1,16,64] [--features 160] [--blocks 5]
    python -m bench.pixelcnn --workdir=runs/pixelcnn [--batch 1,16]

Whole images and lower halves of 32 x 32 pixels. With a workdir, its network completes
held-out images; otherwise it is one of the published width with random parameters. A
naive sampler's time is that of one pass of the network, as measured, times the number
of missing pixels: nobody waits for it. The fixed point's is measured where --fixed-point
allows it (how many passes it takes is up to the network).
"""

from collections.abc import Callable
from functools import partial
from math import prod
from statistics import median
from typing import Any, NamedTuple

from bench import table

SIZE = 32
KNOWN = {"image": 0, "half": SIZE // 2}  # rows


class Runs(NamedTuple):
    """Calls that do one thing each and wait for it.

    Attributes:
      cached: draws a batch.
      one_pass: runs the network once on the batch.
      fixed_point: draws a batch and says how many passes that took.
    """

    cached: Callable[[], object]
    one_pass: Callable[[], object]
    fixed_point: Callable[[], object]


def fresh_network(features: int, blocks: int) -> tuple[Any, Any, Any]:
    """A network of the published kind with random parameters, and images of noise."""
    import jax
    import jax.numpy as jnp

    from picjax.models.pixelcnn import PixelCNN

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

    A network that was told how images are turned is not told here.
    """
    from picjax import checkpoints
    from picjax.data import pipeline
    from picjax.systems import pixelcnn

    config, variables, _ = checkpoints.restore_variables(workdir)
    batches = pipeline.eval_batches(config.data, config.image_size, 8, 8, 0)
    image = pipeline.to_float(next(iter(batches)))["image"]
    net = pixelcnn.network(config.model)
    return net, variables["params"]["net"], pixelcnn.in_channels(net, image)


def make_runs(net: Any, params: Any, image: Any, batch: int) -> dict[str, Runs]:
    """The runs of a batch size for each of KNOWN, compiled once for all of them."""
    import jax
    import jax.numpy as jnp

    from picjax.sampling import cached, raster

    image = jnp.tile(image, (-(-batch // len(image)), 1, 1, 1))[:batch]
    _, height, width, channels = image.shape
    size = batch, height, width
    noise = raster.draw_noise(jax.random.key(2), size, net.mixtures, channels)
    each = jax.tree.map(lambda x: x[:, None], noise)

    @jax.jit
    def fast(params, known):
        return cached.sample(net, params, image, known, each, rounded=True)

    @jax.jit
    def one_pass(params):
        return net.apply({"params": params}, image, False)

    @jax.jit
    def fixed_point(params, known):
        logits = partial(net.apply, {"params": params}, train=False)
        return raster.jacobi(logits, image, known, noise, True)[1]

    def runs(rows: int) -> Runs:
        lines = jnp.arange(height)[None, :, None, None] < rows * height // SIZE
        known = jnp.broadcast_to(lines, (*size, 1))
        return Runs(
            lambda: jax.block_until_ready(fast(params, known)),
            lambda: jax.block_until_ready(one_pass(params)),
            lambda: int(fixed_point(params, known)),
        )

    return {what: runs(rows) for what, rows in KNOWN.items()}


def products(jaxpr: Any, loops: int) -> int:
    """Multiplications of a jaxpr's matrix products and convolutions.

    Args:
      jaxpr: what `jax.make_jaxpr` gives.
      loops: how often each `while` runs. Of a `cond`, the branch with least counts.
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
    """Products of one cached sample over those of one pass of the network."""
    import jax
    import jax.numpy as jnp

    from picjax.sampling import cached, raster

    x = jnp.zeros((1, size, size, net.channels))
    known = jnp.zeros((1, size, size, 1), bool)
    key = jax.random.key(0)
    noise = raster.draw_noise(key, (1, 1, size, size), net.mixtures, net.channels)
    sample = jax.make_jaxpr(partial(cached.sample, net))(params, x, known, noise)
    one = jax.make_jaxpr(lambda p: net.apply({"params": p}, x, False))(params)
    loops = size // cached.PERIOD
    return products(sample.jaxpr, loops) / products(one.jaxpr, 1)


def row(
    what: str, batch: int, missing: int, runs: Runs, rounds: int, fixed_point: bool
) -> table.Row:
    """One line of the table."""
    compared = {"cached": runs.cached, "one pass": runs.one_pass}
    if fixed_point:
        compared["fixed point"] = runs.fixed_point
    seconds = table.interleave(compared, rounds)
    fast, one = median(seconds["cached"]), median(seconds["one pass"])
    made: table.Row = {
        "draws": what,
        "batch": batch,
        "cached s": fast,
        "images/s": batch / fast,
        "pass s": one,
        "naive s": missing * one,
        "x naive": missing * one / fast,
    }
    if fixed_point:
        slow = median(seconds["fixed point"])
        made |= {"fixed s": slow, "passes": runs.fixed_point(), "x fixed": slow / fast}
    return made


def main() -> None:
    """The command; see the module's docstring."""
    parser = table.parser(__doc__)
    parser.add_argument("--batch", default="1,16")
    parser.add_argument("--features", type=int, default=160)
    parser.add_argument("--blocks", type=int, default=5)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--workdir", help="a run of configs/pixelcnn.py")
    parser.add_argument("--fixed-point", action="store_true", help="measure it, too")
    args = parser.parse_args()
    about = table.machine()
    if args.workdir:
        net, params, image = trained_network(args.workdir)
    else:
        net, params, image = fresh_network(args.features, args.blocks)
    height, width = image.shape[1:3]
    rows = []
    for batch in map(int, args.batch.split(",")):
        for what, runs in make_runs(net, params, image, batch).items():
            missing = (height - KNOWN[what] * height // SIZE) * width
            rows.append(row(what, batch, missing, runs, args.rounds, args.fixed_point))
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
