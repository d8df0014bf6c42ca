"""What a training run costs on a cluster: python -m picjax.plan --config=... --topology=...

  --config=configs/picmm.py:places2   the config; --config.KEY=VALUE changes a setting
  --topology=v5e:16x16                chip and shape of a TPU slice, or chip and number of
                                      GPUs, such as h100:8
  --compile                           compiles the training step for a TPU slice
  --complete=N                        and N completions of one image on each chip
  --search                            and steps with other batches, dtypes, remat and fsdp:
                                      says what fits and is quickest

No accelerator is needed. Without --compile the memory is that of the parameters and the
optimisers' state, on top of which come activations, and the time that of the arithmetic
alone at the chip's stated peak in bfloat16: no run is faster. Compiling takes minutes, once,
and needs the extra `tpu`; the time is then the longest of arithmetic, memory and network.

Example: python -m picjax.plan --config=configs/picmm.py:places2 --topology=v5e:4x4
"""

import argparse
import math
import re
import sys
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
from jax.sharding import AbstractMesh

from picjax import aot, checkpoints, cli, flags, methods, search, settings, sharding
from picjax.cli import UserError
from picjax.hlo import sent_share
from picjax.layers import backend
from picjax.system import Config, State


class Chip(NamedTuple):
    """A chip's stated numbers.

    Attributes:
      peak: FLOP/s of dense bfloat16 matrix products.
      memory: bytes.
      platform: JAX's name of its back end.
      bandwidth: bytes per second from and to its memory.
      network: bytes per second that it sends over all its links to other chips.
      peak_float32: FLOP/s of float32 matrix products as XLA computes them unless told
        otherwise: TF32 on GPUs, one pass of bfloat16 on TPUs.
      kinds: JAX's names of its devices.
    """

    peak: float
    memory: float
    platform: str
    bandwidth: float
    network: float
    peak_float32: float
    kinds: tuple[str, ...]


# Per chip. TPUs: cloud.google.com/tpu/docs/v4, v5e, v5p, v6e; links are stated for both
# directions together there, v4's in Jouppi et al., arXiv 2304.01433 (six of 50 GB/s).
# GPUs: NVIDIA's data sheets, SXM, without sparsity; links are NVLink, half of both
# directions. The last three have none, but PCIe 4.0 x16; RTX 4090: Ada's white paper.
A100 = ("NVIDIA A100-SXM4-80GB", "NVIDIA A100-SXM4-40GB", "NVIDIA A100 80GB PCIe")
RTX4090 = ("NVIDIA GeForce RTX 4090",)
CHIPS = {
    "v4": Chip(275e12, 32e9, "tpu", 1200e9, 300e9, 275e12, ("TPU v4",)),
    "v5e": Chip(197e12, 16e9, "tpu", 819e9, 200e9, 197e12, ("TPU v5 lite", "TPU v5e")),
    "v5p": Chip(459e12, 95e9, "tpu", 2765e9, 600e9, 459e12, ("TPU v5", "TPU v5p")),
    "v6e": Chip(918e12, 32e9, "tpu", 1638e9, 400e9, 918e12, ("TPU v6 lite", "TPU v6e")),
    "a100": Chip(312e12, 80e9, "gpu", 2039e9, 300e9, 156e12, A100),
    "h100": Chip(
        989e12, 80e9, "gpu", 3350e9, 450e9, 494e12, ("NVIDIA H100 80GB HBM3",)
    ),
    "h200": Chip(989e12, 141e9, "gpu", 4800e9, 450e9, 494e12, ("NVIDIA H200",)),
    "l4": Chip(121e12, 24e9, "gpu", 300e9, 32e9, 60e12, ("NVIDIA L4",)),
    "l40s": Chip(362e12, 48e9, "gpu", 864e9, 32e9, 183e12, ("NVIDIA L40S",)),
    "rtx4090": Chip(165e12, 24e9, "gpu", 1008e9, 32e9, 82.6e12, RTX4090),
}


SCALES = (8, 32, 128, 256)  # chips of the slices that weak scaling is printed for


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


def stated_peak(kind: str, dtype: str) -> float | None:
    """FLOP/s of products in `dtype` (float32 or bfloat16); None for an unknown device.

    Args:
      kind: JAX's name of the device.
      dtype: of the computation.
    """
    for chip in CHIPS.values():
        if kind in chip.kinds:
            return chip.peak if dtype == "bfloat16" else chip.peak_float32
    return None


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


# ---- compiled programs ----


def roofline(program: aot.Program, chip: Chip) -> dict[str, float]:
    """Seconds that a program takes at least for each of arithmetic, memory, network.

    References:
      Williams et al., "Roofline: an insightful visual performance model", 2009.
    """
    sent = sum(x.sent for x in program.collectives.values())
    return {
        "arithmetic": program.flops / chip.peak,
        "memory": program.traffic / chip.bandwidth,
        "network": sent / chip.network,
    }


def describe_compiled(program: aot.Program, plan: Plan, completions: int) -> list[str]:
    """A compiled program as lines of text.

    Args:
      program: a training step, or completions of one image on each chip.
      plan: of the run.
      completions: per image; 0: it is a step.
    """
    title = f"{completions} completions of an image per chip" if completions else "step"
    lines = [f"{title}, compiled in {program.seconds:,.1f} s:"]
    if program.excess:
        return [*lines, f"memory per chip  does not fit: {program.excess}"]
    limit, sizes = plan.chip.memory, [f"{x / 1e9:,.3f}" for x in program.memory]
    fits = "fits" if program.memory.peak <= limit else "does not fit"
    collectives = [
        f"{kind} {x.number} ({x.bytes / 1e6:,.3f} MB)"
        for kind, x in program.collectives.items()
    ]
    times = roofline(program, plan.chip)
    bound = max(times, key=lambda name: times[name])
    parts = ", ".join(f"{name} {1000 * x:,.3f}" for name, x in times.items())
    return [
        *lines,
        (
            f"memory per chip  {sizes[3]} of {limit / 1e9:.0f} GB, {fits}: arguments "
            f"{sizes[0]}, outputs {sizes[1]}, temporaries {sizes[2]}"
        ),
        f"collectives      {', '.join(collectives) or 'none'}",
        f"time             about {1000 * times[bound]:,.3f} ms, limited by {bound} ({parts})",
        f"utilisation      {times['arithmetic'] / times[bound]:.1%} of the stated peak",
        *describe_rate(times[bound], plan, completions),
        *([] if completions else describe_scaling(program, plan)),
    ]


def describe_scaling(program: aot.Program, plan: Plan) -> list[str]:
    """Images/s of slices of other sizes with as many images on each chip, as a line.

    The bytes sent alone depend on their number. Nothing is said of a sharded state, in
    whose collectives a part of the chips takes part.
    """
    if plan.chips == 1 or set(program.collectives) - {"all-reduce"}:
        return []
    whole = sent_share("all-reduce", plan.chips)
    times, rates = roofline(program, plan.chip), []
    for n in SCALES:
        share = sent_share("all-reduce", n) / whole
        seconds = max((times | {"network": share * times["network"]}).values())
        rates.append(f"{n} chips {n * plan.batch / plan.chips / seconds:,.0f}")
    return [f"weak scaling     {', '.join(rates)} images/s"]


def describe_rate(seconds: float, plan: Plan, completions: int) -> list[str]:
    """What a program that takes so long does per second, and what a run costs."""
    if completions:
        rate = plan.chips * completions / seconds
        return [f"speed            about {rate:,.1f} completions/s"]
    hours = plan.steps * seconds / 3600
    return [
        f"speed            about {plan.batch / seconds:,.0f} images/s",
        (
            f"run              about {hours:,.2f} h for {plan.steps:,} steps, "
            f"{hours * plan.chips:,.1f} chip-hours"
        ),
    ]


# ---- command line ----


def parse(words: Sequence[str]) -> tuple[argparse.Namespace, list[str]]:
    """This command's own options, and the words about the config.

    Raises:
      UserError: if an option is missing or cannot be used.
    """
    parser = cli.Parser(
        prog="python -m picjax.plan", add_help=False, allow_abbrev=False
    )
    parser.add_argument("--topology", default="")
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--complete", type=int, default=0)
    parser.add_argument("--search", action="store_true")
    options, rest = parser.parse_known_args(words)
    if not options.topology:
        raise UserError("--topology is missing; use --topology=v5e:4x4")
    cli.check_integer("--complete", options.complete, 0)
    for name in ("complete", "search"):
        if getattr(options, name) and not options.compile:
            raise UserError(f"--{name} compiles; add --compile, or leave it out")
    chip, _ = parse_topology(options.topology)
    if options.compile and chip.platform != "tpu":
        raise UserError(
            f"--compile needs the GPUs of '{options.topology}' themselves; leave it out, "
            "or plan for a slice of TPUs"
        )
    return options, rest


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command; see the module's docstring.

    Raises:
      UserError: for anything that the user can fix.
    """
    words = sys.argv[1:] if argv is None else argv
    if not words or {"--help", "-h"} & set(words):
        print(__doc__)
        return
    options, rest = parse(words)
    config, _ = flags.parse(rest)
    devices = []
    if options.compile:
        jax.config.update("jax_platforms", "cpu")  # chips that are there stay free
        _, chips = parse_topology(options.topology)
        devices = aot.tpu_devices(options.topology, chips)
    plan = make_plan(config, options.topology)
    print("\n".join(describe(plan, config)), flush=True)
    if not devices:
        return
    mesh = sharding.make_mesh(**config.mesh, devices=devices)
    for completions in dict.fromkeys([0, options.complete]):
        program = aot.compile_program(config, mesh, plan.topology, completions)
        lines = describe_compiled(program, plan, completions)
        print("\n".join(["", *lines]), flush=True)
    if options.search:
        print_search(config, devices, plan)


def print_search(config: Config, devices: Sequence[Any], plan: Plan) -> None:
    """Compile steps with other settings; print each, and the quickest."""

    def compile_step(changes: search.Changes) -> search.Trial:
        own = config.copy_and_resolve_references()
        own.update_from_flattened_dict(changes)
        mesh = sharding.make_mesh(**own.mesh, devices=devices)
        program = aot.compile_program(own, mesh, plan.topology)
        fits = not program.excess and program.memory.peak <= plan.chip.memory
        seconds = max(roofline(program, plan.chip).values())
        return search.Trial(changes, program, own.batch_size / seconds if fits else 0)

    print(flush=True)
    trials = []
    for trial in search.search(config, plan.chips, plan.state, compile_step):
        print(search.describe_trial(trial), flush=True)
        trials.append(trial)
    print(search.describe_best(trials))


if __name__ == "__main__":
    cli.run(main)
