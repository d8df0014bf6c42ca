"""What each sampler of the painter takes beyond its calls of the network.

    python -m bench.overhead [--samplers ddnm,pigdm] [--variant photos] [--json FILE]

A completion with the network of configs/painter.py:VARIANT (photos: 64 px; random weights),
alternating with a loop of the same calls of the network and gradients through it, and
nothing else. `overhead` is the sampler's seconds over the loop's, less 1.
"""

import dataclasses
import sys
from collections.abc import Callable
from statistics import median
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from bench import table
from bench.samplers import find_preset
from bench.unet import centre_mask
from picjax import methods
from picjax.cli import run
from picjax.methods.painter.samplers.presets import Cost
from picjax.methods.painter.settings import make_sampler
from picjax.system import inference_variables

SAMPLERS = "ddnm-fast,draft,ddnm,pigdm,fast"

Network = Callable[[Float[Array, "b h w 3"]], Float[Array, "b h w 3"]]


def bare_calls(network: Network, cost: Cost, x: Float[Array, "b h w 3"]) -> Any:
    """The result of as many calls and gradients as `cost` states, one after another."""
    calls, gradients = (n // cost.particles for n in cost[:2])
    x = jnp.repeat(x, cost.particles, 0)

    def call(x: Array, _: None) -> tuple[Array, None]:
        return network(x), None

    def gradient(x: Array, _: None) -> tuple[Array, None]:
        out, pull = jax.vjp(network, x)
        return pull(out)[0], None

    x, _ = jax.lax.scan(call, x, length=calls - gradients)
    return jax.lax.scan(gradient, x, length=gradients)[0]


def measure_sampler(config: Any, name: str, rounds: int) -> table.Row:
    """One row: seconds of a completion, and of its calls alone."""
    system: Any = methods.make(config)
    system = dataclasses.replace(
        system, sampler=make_sampler(config, find_preset(name))
    )
    size, batch, key = config.image_size, config.batch_size, jax.random.key(0)
    inputs = {
        "image": jax.random.uniform(key, (batch, size, size, 3), minval=-1.0),
        "mask": jnp.asarray(centre_mask(config)),
    }
    variables = inference_variables(jax.jit(system.init)(inputs, key))

    @jax.jit
    def sample(variables: Any, inputs: Any) -> Array:
        return system.sample(variables, inputs, key, 1)

    @jax.jit
    def bare(variables: Any, x: Array) -> Array:
        denoiser = system.denoiser(variables, system.sampler.schedule, None)
        t = jnp.full(len(x) * system.sampler.cost.particles, 500)

        def network(x: Array) -> Array:
            return denoiser.network(x, t)[..., :3]

        return bare_calls(network, system.sampler.cost, x)

    seconds = table.interleave(
        {
            "sampler": lambda: jax.block_until_ready(sample(variables, inputs)),
            "calls": lambda: jax.block_until_ready(bare(variables, inputs["image"])),
        },
        rounds,
    )
    cost = system.sampler.cost
    return {
        "sampler": name,
        "calls": cost.evaluations,
        "gradients": cost.gradients,
        "seconds": median(seconds["sampler"]),
        "of its calls": median(seconds["calls"]),
        "overhead": table.ratio(seconds["calls"], seconds["sampler"]) - 1,
    }


def main() -> None:
    """The command; see the module's docstring.

    Raises:
      UserError: for an unknown sampler.
    """
    from configs import painter

    parser = table.parser(__doc__)
    parser.add_argument("--samplers", default=SAMPLERS)
    parser.add_argument("--variant", default="photos")
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    config: Any = painter.get_config(args.variant)
    config.batch_size = args.batch
    rows = []
    for name in args.samplers.split(","):
        rows.append(measure_sampler(config, name, args.rounds))
        print(rows[-1], file=sys.stderr, flush=True)
    title = f"{config.image_size} px, {args.batch} at a time"
    table.report({title: rows}, table.machine(), args.json)


if __name__ == "__main__":
    run(main)
