"""What a training run costs on a cluster: python -m picjax.plan --config=... --topology=...

  --config=configs/picmm.py:places2   the config; --config.KEY=VALUE changes a setting
  --topology=v5e:16x16                chip and shape of a TPU slice, or chip and number of
                                      GPUs, such as h100:8

Nothing is compiled, and no accelerator is needed. Memory is that of the parameters and the
optimisers' state; activations come on top. Time is that of the arithmetic alone at the
chip's stated peak in bfloat16: no run is faster.

Example: python -m picjax.plan --config=configs/picmm.py:places2 --topology=v5e:4x4
"""

import math
import re
import sys
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
from jax.sharding import AbstractMesh

from picjax import checkpoints, cli, flags, methods, settings, sharding
from picjax.cli import UserError
from picjax.layers import backend
from picjax.system import Config, State


class Chip(NamedTuple):
    """A chip's stated numbers.

    Attributes:
      peak: FLOP/s of dense bfloat16 matrix products.
      memory: bytes.
      platform: JAX's name of its back end.
    """

    peak: float
    memory: float
    platform: str


# Per chip. TPUs: cloud.google.com/tpu/docs/v4, v5e, v5p, v6e. GPUs: NVIDIA's data sheets,
# SXM, without sparsity.
CHIPS = {
    "v4": Chip(275e12, 32e9, "tpu"),
    "v5e": Chip(197e12, 16e9, "tpu"),
    "v5p": Chip(459e12, 95e9, "tpu"),
    "v6e": Chip(918e12, 32e9, "tpu"),
    "a100": Chip(312e12, 80e9, "gpu"),
    "h100": Chip(989e12, 80e9, "gpu"),
    "h200": Chip(989e12, 141e9, "gpu"),
}


class Plan(NamedTuple):
    """The cost of a run.

    Attributes:
      topology: as given.
      chip: of which there are `chips`.
      chips: their number.
      parameters: net -> number of its parameters.
      state: length of the mesh's axis `fsdp` -> bytes of the state on each device.
      flops: of a training step per image.
      batch: images per step, on all devices.
      steps: of the run.
    """

    topology: str
    chip: Chip
    chips: int
    parameters: dict[str, int]
    state: dict[int, int]
    flops: float
    batch: int
    steps: int

    @property
    def seconds(self) -> float:
        """Of one step, at the stated peak."""
        return self.flops * self.batch / (self.chips * self.chip.peak)


def make_plan(config: Config, topology: str) -> Plan:
    """The cost of training a config on a slice, without compiling.

    Raises:
      UserError: if the topology is unknown, or the config does not fit it.
    """
    settings.check(config)
    chip, count = parse_topology(topology)
    mesh = make_mesh(count, **config.mesh)
    sharding.local_batch_size(mesh, config.batch_size)
    state = checkpoints.abstract_state(config)
    own = mesh.shape["fsdp"]
    parts = {1, own, *(n for n in (8, count) if count % n == 0)}
    return Plan(
        topology,
        chip,
        count,
        {
            net: sum(x.size for x in jax.tree.leaves(params))
            for net, params in state.params.items()
        },
        {n: state_bytes(state, make_mesh(count, -1, n)) for n in sorted(parts)},
        flops_per_image(config, state, chip.platform),
        config.batch_size,
        config.steps,
    )


def parse_topology(topology: str) -> tuple[Chip, int]:
    """The chip and the number of chips of `v5e:16x16` or `h100:8`.

    Raises:
      UserError: if either is unknown.
    """
    name, _, shape = topology.partition(":")
    if name not in CHIPS or not re.fullmatch(r"[1-9]\d*(x[1-9]\d*)*", shape):
        raise UserError(
            f"--topology '{topology}' is no chip and shape; use CHIP:SHAPE such as "
            f"v5e:16x16 or h100:8, with a chip of {', '.join(CHIPS)}"
        )
    return CHIPS[name], math.prod(map(int, shape.split("x")))


def make_mesh(count: int, data: int, fsdp: int) -> AbstractMesh:
    """A mesh of `count` devices that need not be there."""
    return AbstractMesh(sharding.mesh_shape(count, data, fsdp), ("data", "fsdp"))


def state_bytes(state: State, mesh: AbstractMesh) -> int:
    """Bytes of the state on each device of a mesh."""
    shardings = sharding.state_shardings(mesh, state)
    return sum(
        math.prod(s.shard_shape(x.shape)) * x.dtype.itemsize
        for x, s in zip(jax.tree.leaves(state), jax.tree.leaves(shardings), strict=True)
    )


def flops_per_image(config: Config, state: State, platform: str) -> float:
    """FLOPs of a training step per image, as XLA counts them before it optimises.

    The body of a loop counts once.
    """
    step = methods.make(config).step
    batch = checkpoints.abstract_batch(config, config.batch_size)
    with backend.tracing_for(platform):
        lowered = jax.jit(step).lower(state, batch, jax.random.key(0))
    analysis: Any = lowered.cost_analysis()
    return analysis["flops"] / config.batch_size


def describe(plan: Plan, config: Config) -> list[str]:
    """The plan as lines of text."""
    total = sum(plan.parameters.values())
    nets = ", ".join(f"{n} {size / 1e6:.2f} M" for n, size in plan.parameters.items())
    hours = plan.steps * plan.seconds / 3600
    lines = [
        (
            f"{config.system} on {plan.topology}: {plan.chips} chip(s), "
            f"{plan.chip.peak / 1e12:,.0f} TFLOP/s and {plan.chip.memory / 1e9:.0f} GB each"
        ),
        f"parameters       {total / 1e6:.2f} M ({nets})",
    ]
    for parts, size in plan.state.items():
        chosen = "  <- config.mesh" if parts == max(1, config.mesh.fsdp) else ""
        share = size / plan.chip.memory
        lines.append(
            f"state per chip   {size / 1e6:,.1f} MB with fsdp={parts}, "
            f"{share:.2%} of its memory{chosen}"
        )
    return [
        *lines,
        f"arithmetic       {plan.flops / 1e9:,.1f} GFLOP per image and training step",
        f"batch            {plan.batch} images, {plan.batch // plan.chips} per chip",
        (
            f"step             at least {1000 * plan.seconds:,.3f} ms: at most "
            f"{plan.batch / plan.seconds:,.0f} images/s"
        ),
        (
            f"run              at least {hours:,.2f} h for {plan.steps:,} steps, "
            f"{hours * plan.chips:,.1f} chip-hours"
        ),
    ]


TOPOLOGY = "--topology="


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command; see the module's docstring.

    Raises:
      UserError: for anything that the user can fix.
    """
    words = sys.argv[1:] if argv is None else argv
    if not words or {"--help", "-h"} & set(words):
        print(__doc__)
        return
    chosen = [word for word in words if word.startswith(TOPOLOGY)]
    if not chosen:
        raise UserError("--topology is missing; use --topology=v5e:4x4")
    config, _ = flags.parse([word for word in words if word not in chosen])
    plan = make_plan(config, chosen[-1].removeprefix(TOPOLOGY))
    print("\n".join(describe(plan, config)))


if __name__ == "__main__":
    cli.run(main)
