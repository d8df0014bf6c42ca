"""Time of n completions of one image at 256 px beside the PyTorch peer.

    python -m bench.complete [--num 1,10,50] [--rounds 5] [--size 256] [--json FILE]

The encoder runs once: one more completion should cost one run of the decoder.
"""

from collections.abc import Callable
from statistics import median
from typing import Any

import numpy as np

from bench import step, table
from bench.step import Setting


def jax_runs(
    setting: Setting, numbers: list[int]
) -> tuple[dict[int, Callable[[], object]], dict[str, Callable[[], object]]]:
    """Calls that make n completions, and ones that run the encoder and the decoder."""
    import jax

    from picjax import systems
    from picjax.data import pipeline
    from picjax.system import inference_variables

    config = step.jax_config(setting)
    system, key = systems.make(config), jax.random.key(0)
    batch = jax.jit(pipeline.to_float)(jax.device_put(step.host_batch(setting)))
    variables = inference_variables(jax.jit(system.init)(key, batch))
    complete = jax.jit(system.complete, static_argnums=3)
    encoder, decoder = halves(setting, config)
    see = jax.jit(lambda variables: encoder(variables, batch))
    visible, z = see(variables)
    decode = jax.jit(lambda variables, z: decoder(variables, visible, z))

    def completing(n: int) -> Callable[[], object]:
        return lambda: jax.block_until_ready(complete(variables, batch, key, n))

    parts = {
        "encoder": lambda: jax.block_until_ready(see(variables)),
        "decoder": lambda: jax.block_until_ready(decode(variables, z)),
    }
    return {n: completing(n) for n in numbers}, parts


def halves(setting: Setting, config: Any) -> tuple[Any, Any]:
    """The system's encoder, which also gives a latent, and its decoder."""
    import jax

    from picjax.system import image_shape
    from picjax.systems import picmm, picnet

    if setting.system == "picmm":
        nets = picmm.networks(config.model, image_shape(config))
        given, key = config.model.mixture.given, jax.random.key(0)

        def see(variables: Any, batch: Any) -> tuple[Any, Any]:
            visible = picmm.see(nets, given, variables, batch, key)
            return visible, visible.z_m

        return see, lambda *inputs: picmm.decode(nets, *inputs)
    nets = picnet.networks(config.model, image_shape(config))

    def see_picnet(variables: Any, batch: Any) -> tuple[Any, Any]:
        visible = picnet.see(nets, 0.0, variables, batch)
        return visible, visible.q.mu

    return see_picnet, lambda *inputs: picnet.decode(nets, *inputs)


def torch_completing(setting: Setting, n: int) -> Callable[[], object]:
    """A call that makes n completions as the official test does."""
    peer, image, mask = step.torch_peer(setting)
    return lambda: np.asarray(peer.complete(image, mask, n).cpu())


def summarise(
    numbers: list[int], seconds: dict[str, list[float]], parts: list[str]
) -> tuple[list[table.Row], list[table.Row]]:
    """The rows of n completions, and of what one more costs."""
    middle = {name: median(found) for name, found in seconds.items()}
    rows: list[table.Row] = [
        {
            "completions": n,
            "picjax s": middle[f"ours {n}"],
            "torch s": middle[f"peer {n}"],
            "x torch": table.ratio(seconds[f"ours {n}"], seconds[f"peer {n}"]),
        }
        for n in numbers
    ]
    marginal = {
        who: table.slope(numbers, [middle[f"{who} {n}"] for n in numbers])
        for who in ("ours", "peer")
    }
    shares: list[table.Row] = [
        {"part": "one more completion", "ms": 1e3 * marginal["ours"]},
        {"part": "one more completion, torch", "ms": 1e3 * marginal["peer"]},
        *({"part": f"{part} alone", "ms": 1e3 * middle[part]} for part in parts),
    ]
    shares[0]["x decoder alone"] = marginal["ours"] / middle["decoder"]
    return rows, shares


def main() -> None:
    parser = table.parser(__doc__)
    parser.add_argument("--num", default="1,10,50")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--system", default="picmm", choices=step.VARIANTS)
    args = parser.parse_args()
    numbers = [int(n) for n in args.num.split(",")]
    setting = Setting(args.dtype, 1, args.size, args.system)
    about = table.machine()
    ours, parts = jax_runs(setting, numbers)
    peers = {n: torch_completing(setting, n) for n in numbers}
    runs = {f"ours {n}": ours[n] for n in numbers}
    runs |= {f"peer {n}": peers[n] for n in numbers} | parts
    seconds = table.interleave(runs, args.rounds)
    rows, shares = summarise(numbers, seconds, list(parts))
    title = f"{args.system}: completions of one image, {args.size} px, {args.dtype}"
    table.report({title: rows, "What one more costs": shares}, about, args.json)


if __name__ == "__main__":
    main()
