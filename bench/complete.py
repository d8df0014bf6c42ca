"""Time of n completions of each image at 256 px beside the PyTorch peer.

    python -m bench.complete [--system picmm] [--num 1,10,50] [--size 256] [--json FILE]
    python -m bench.complete --batches 1,8 --dtypes float32,bfloat16 --num 50

The encoder runs once: each further completion should cost one run of the decoder. Pix2Pix
is a single network; its completions differ by dropout alone. INADE's are images of one
layout in styles of the prior. bfloat16 in PyTorch is `torch.autocast`. Memory is XLA's
count for the largest number of completions, without weights and results.
"""

from collections.abc import Callable
from statistics import median
from typing import Any, NamedTuple

import numpy as np

from bench import step, table
from bench.step import Setting
from bench.unet import Compiled, compile_call


class Runs(NamedTuple):
    """Calls that return when their result is ready.

    Attributes:
      completing: n -> a call that draws n completions of each image.
      parts: calls of the parts of a completion; the last one is needed by each draw.
      temporary: MiB for the largest number, without weights and results.
    """

    completing: dict[int, Callable[[], object]]
    parts: dict[str, Callable[[], object]]
    temporary: float


class Prepared(NamedTuple):
    """A method with random weights, and a batch on the device."""

    config: Any
    system: Any
    variables: Any
    batch: Any


def prepare(setting: Setting) -> Prepared:
    """What our calls need."""
    import jax

    from picjax import methods
    from picjax.images import to_float
    from picjax.system import inference_variables

    config = step.jax_config(setting)
    system = methods.make(config)
    batch = jax.jit(to_float)(jax.device_put(step.host_batch(setting)))
    state = jax.jit(system.init)(batch, jax.random.key(0))
    return Prepared(config, system, inference_variables(state), batch)


def compile_completions(made: Prepared, n: int) -> Compiled:
    """A call that draws n completions of each image."""
    import jax

    def complete(variables: Any, batch: Any, key: Any) -> Any:
        return made.system.complete(variables, batch, key, n)

    return compile_call(complete, made.variables, made.batch, jax.random.key(0))


def jax_runs(setting: Setting, numbers: list[int]) -> Runs:
    """Our calls."""
    made = prepare(setting)
    compiled = {n: compile_completions(made, n) for n in numbers}
    alone = {"pix2pix": generator_alone, "inade": synthesis_alone}
    find = alone.get(setting.system, halves_alone)
    return Runs(
        {n: compiled[n].run for n in numbers},
        find(setting, made.config, made.variables, made.batch),
        compiled[max(numbers)].temporary / 2**20,
    )


def halves_alone(
    setting: Setting, config: Any, variables: Any, batch: Any
) -> dict[str, Callable[[], object]]:
    """A run of the encoder, and one of the decoder."""
    import jax

    encoder, decoder = halves(setting, config)
    encode = jax.jit(lambda variables: encoder(variables, batch))
    visible, z = encode(variables)
    decode = jax.jit(lambda variables, z: decoder(variables, visible, z))
    return {
        "encoder": lambda: jax.block_until_ready(encode(variables)),
        "decoder": lambda: jax.block_until_ready(decode(variables, z)),
    }


def generator_alone(
    setting: Setting, config: Any, variables: Any, batch: Any
) -> dict[str, Callable[[], object]]:
    """A run of Pix2Pix's generator."""
    import jax

    from picjax.methods.pix2pix.system import Pix2Pix

    system = Pix2Pix.from_config(config)
    condition = system.condition(batch)
    size = (setting.batch, setting.size, setting.size)
    keep = system.draw_dropout(size, jax.random.key(0))
    run = jax.jit(system.generate)
    return {
        "generator": lambda: jax.block_until_ready(run(variables, condition, keep)),
    }


def synthesis_alone(
    setting: Setting, config: Any, variables: Any, batch: Any
) -> dict[str, Callable[[], object]]:
    """A run of INADE's generator."""
    import jax

    from picjax.methods.inade.system import INADE
    from picjax.system import infer

    system = INADE.from_config(config)
    draw = system.draw(jax.random.key(0), setting.batch)

    @jax.jit
    def run(variables: Any) -> jax.Array:
        inputs = system.layout(batch), system.latent(draw.latent), draw.style, False
        return infer(system.generator, variables, *inputs)

    return {"generator": lambda: jax.block_until_ready(run(variables))}


def halves(setting: Setting, config: Any) -> tuple[Any, Any]:
    """The method's encoder, which also returns a latent, and its decoder."""
    import jax

    from picjax.methods.picmm.system import PICMM
    from picjax.methods.picnet.system import PICNet

    if setting.system == "picmm":
        picmm = PICMM.from_config(config)

        def encode_picmm(variables: Any, batch: Any) -> tuple[Any, Any]:
            visible = picmm.encode_visible(variables, batch, jax.random.key(0))
            return visible, visible.z_m

        return encode_picmm, picmm.decode
    picnet = PICNet.from_config(config)

    def encode_picnet(variables: Any, batch: Any) -> tuple[Any, Any]:
        visible = picnet.encode_visible(variables, batch)
        return visible, visible.q.mu

    return encode_picnet, picnet.decode


def torch_completing(
    setting: Setting, n: int, compiled: bool = False
) -> Callable[[], object]:
    """A call that draws n completions as the official test does."""
    import torch  # pyright: ignore[reportMissingImports]

    peer, given = step.torch_peer(setting, compiled)
    bf16 = setting.dtype == "bfloat16"

    def run() -> object:
        with torch.autocast(given[0].device.type, torch.bfloat16, enabled=bf16):
            return np.asarray(peer.complete(*given, n).float().cpu())

    return run


def measure(
    setting: Setting, numbers: list[int], rounds: int
) -> tuple[list[table.Row], list[table.Row]]:
    """The rows of n completions, and of the cost of one more beside the last part."""
    ours = jax_runs(setting, numbers)
    runs = {f"ours {n}": ours.completing[n] for n in numbers}
    runs |= {f"peer {n}": torch_completing(setting, n) for n in numbers} | ours.parts
    seconds = table.interleave(runs, rounds)
    rows, more = summarise(numbers, seconds, list(ours.parts))
    rows[-1]["XLA temporary MiB"] = ours.temporary
    what = {"dtype, images": f"{setting.dtype}, {setting.batch}"}
    return [what | row for row in rows], [what | row for row in more]


def summarise(
    numbers: list[int], seconds: dict[str, list[float]], parts: list[str]
) -> tuple[list[table.Row], list[table.Row]]:
    """The rows of ascending numbers of completions, and of the cost of one more."""
    middle = {name: median(found) for name, found in seconds.items()}
    rows: list[table.Row] = [
        {
            "completions of each": n,
            "picjax s": middle[f"ours {n}"],
            "torch s": middle[f"peer {n}"],
            "x torch": table.ratio(seconds[f"ours {n}"], seconds[f"peer {n}"]),
            "XLA temporary MiB": None,
        }
        for n in numbers
    ]
    if len(numbers) < 2:
        return rows, []
    marginal = {
        who: table.slope(numbers, [middle[f"{who} {n}"] for n in numbers])
        for who in ("ours", "peer")
    }
    more: table.Row = {
        "one more, ms": 1e3 * marginal["ours"],
        "torch, ms": 1e3 * marginal["peer"],
        **{f"{part} alone, ms": 1e3 * middle[part] for part in parts},
        f"x {parts[-1]} alone": marginal["ours"] / middle[parts[-1]],
    }
    return rows, [more]


def main() -> None:
    parser = table.parser(__doc__)
    parser.add_argument("--num", default="1,10,50")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--batches", default="1", help="images")
    parser.add_argument("--dtypes", default="float32")
    parser.add_argument("--system", default="picmm", choices=step.PAIRED)
    args = parser.parse_args()
    numbers = sorted(int(n) for n in args.num.split(","))
    about = table.machine()
    times, shares = [], []
    for setting in step.settings(args):
        rows, more = measure(setting, numbers, args.rounds)
        times += rows
        shares += more
    title = f"{args.system}: completions, {args.size} px"
    tables = {title: times} | ({"What one more costs": shares} if shares else {})
    table.report(tables, about, args.json)


if __name__ == "__main__":
    main()
