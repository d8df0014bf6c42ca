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
    """Calls that make n completions, and one that runs the decoder alone on a batch."""
    import jax

    from picjax import systems
    from picjax.data import pipeline
    from picjax.system import inference_variables
    from picjax.systems import picmm

    config = step.jax_config(setting)
    system, key = systems.make(config), jax.random.key(0)
    batch = jax.jit(pipeline.to_float)(jax.device_put(step.host_batch(setting)))
    variables = inference_variables(jax.jit(system.init)(key, batch))
    complete = jax.jit(system.complete, static_argnums=3)
    nets = picmm.networks(config.model, config.image_size)
    see = jax.jit(lambda variables: picmm.see(nets, variables, batch, key))
    visible = see(variables)

    @jax.jit
    def decode(variables, z_c):
        return picmm.decode(nets, variables, batch, visible, z_c)

    def completing(n: int) -> Callable[[], object]:
        return lambda: jax.block_until_ready(complete(variables, batch, key, n))

    parts = {
        "encoder and mixture": lambda: jax.block_until_ready(see(variables)),
        "decoder": lambda: jax.block_until_ready(decode(variables, visible.z_m)),
    }
    return {n: completing(n) for n in numbers}, parts


def torch_completing(setting: Setting, n: int) -> Callable[[], object]:
    """A call that makes n completions as the official test does."""
    import torch  # pyright: ignore[reportMissingImports]

    from bench.torch_picmm import Picmm

    device = "cuda" if torch.cuda.is_available() else "cpu"
    peer = Picmm(size=setting.size, device=device)
    arrays: Any = step.host_batch(setting)
    image = torch.from_numpy(arrays["image"]).permute(0, 3, 1, 2) / 127.5 - 1
    mask = torch.from_numpy(arrays["mask"]).permute(0, 3, 1, 2).float()
    image, mask = image.to(device), mask.expand_as(image).to(device)
    return lambda: np.asarray(peer.complete(image, mask, n).cpu())


def main() -> None:
    parser = table.parser(__doc__)
    parser.add_argument("--num", default="1,10,50")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--dtype", default="float32")
    args = parser.parse_args()
    numbers = [int(n) for n in args.num.split(",")]
    setting = Setting(args.dtype, 1, args.size)
    about = table.machine()
    ours, parts = jax_runs(setting, numbers)
    rows, times = [], []
    for n in numbers:
        runs = {"ours": ours[n], "peer": torch_completing(setting, n)}
        seconds = table.interleave(runs, args.rounds)
        times.append(median(seconds["ours"]))
        rows.append(
            {
                "completions": n,
                "picjax s": times[-1],
                "torch s": median(seconds["peer"]),
                "x torch": table.ratio(seconds["ours"], seconds["peer"]),
            }
        )
    alone = {k: median(v) for k, v in table.interleave(parts, args.rounds).items()}
    marginal = table.slope(numbers, times)
    shares = [
        {"part": "one more completion", "ms": 1e3 * marginal},
        *({"part": f"{part} alone", "ms": 1e3 * s} for part, s in alone.items()),
        {"part": "one more / decoder alone", "ms": marginal / alone["decoder"]},
    ]
    title = f"Completions of one image, {args.size} px, {args.dtype}"
    table.report({title: rows, "What one more costs": shares}, about, args.json)


if __name__ == "__main__":
    main()
