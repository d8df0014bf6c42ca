"""Training steps and completions compiled ahead of time, for devices that are not there.

What `picjax.plan --compile` knows of a program is read from the compiled one, and kept
in the cache: compiling takes minutes.
"""

import contextlib
import hashlib
import json
import math
import os
import time
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple

import jax
from jax.experimental import topologies
from jax.sharding import Mesh

from picjax import (
    cache,
    checkpoints,
    cli,
    files,
    hlo,
    log,
    memory,
    methods,
    sharding,
    train,
)
from picjax.cli import UserError
from picjax.completion import make_draw
from picjax.layers import backend
from picjax.system import Config, inference_variables

PACKAGES = ("jax", "jaxlib", "libtpu", "flax", "optax")
COMPILER_FLAGS = ("XLA_FLAGS", "LIBTPU_INIT_ARGS")
LIBTPU = {
    # Compiling uses no chip, so that another process may have them, or compile.
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
    # Of this machine, for which the library otherwise looks, and complains.
    "TPU_ACCELERATOR_TYPE": "v5litepod-4",
    "TPU_WORKER_HOSTNAMES": "localhost",
}


class Memory(NamedTuple):
    """Bytes on each device.

    Attributes:
      arguments: such as the state and the batch.
      outputs: those that do not take an argument's place.
      temporaries: such as activations.
      peak: of all at once, with the program's code.
    """

    arguments: int
    outputs: int
    temporaries: int
    peak: int


class Program(NamedTuple):
    """What a compiled program costs each device.

    Attributes:
      seconds: that its compilation took.
      excess: what the compiler says if the memory is too small; the rest is then 0.
      memory: that it needs.
      flops: FLOPs.
      traffic: bytes read from the main memory and written to it.
      collectives: by kind.
    """

    seconds: float
    excess: str
    memory: Memory
    flops: float
    traffic: float
    collectives: Mapping[str, hlo.Collectives]


def tpu_devices(topology: str, chips: int) -> Sequence[Any]:
    """The chips of a slice, to compile for: none needs to be there.

    Args:
      topology: such as `v5e:4x4`.
      chips: how many it has.

    Raises:
      UserError: if there is no compiler, or it cannot compile for the topology.
    """
    cli.require("libtpu", "tpu")
    for name, value in LIBTPU.items():
        os.environ.setdefault(name, value)
    try:
        devices = topologies.get_topology_desc(topology, "tpu").devices
    except Exception as error:  # of several types
        raise UserError(
            f"--topology '{topology}' is no slice that the compiler knows "
            f"({checkpoints.summary(error)}); use another shape, such as v5e:4x4"
        ) from error
    if len(devices) != chips:
        raise UserError(
            f"--compile takes each core of '{topology}' for a device of its own; leave it "
            "out, or plan for v5e, v5p or v6e"
        )
    return devices


def compile_program(
    config: Config, mesh: Mesh, topology: str, completions: int = 0
) -> Program:
    """Compile a program of a config, if the cache does not have it.

    Args:
      config: the config.
      mesh: of the devices to compile for.
      topology: their name.
      completions: of one image on each device; 0: the training step.
    """
    title = f"{completions} completions" if completions else "the training step"
    path = cache_path(describe_input(config, topology, title))
    program = path and read_program(path)
    if program is None:
        traced = (
            trace_completions(config, mesh, completions)
            if completions
            else trace_step(config, mesh)
        )
        program = measure(title, traced)
        if path:
            write_program(path, program)
    return program


# ---- programs ----


def trace_step(config: Config, mesh: Mesh) -> jax.stages.Traced:
    """Trace a training step as `picjax.train` runs it."""
    batch = abstract_batch(config, config.batch_size, mesh)
    abstract = checkpoints.abstract_state(config)
    step, state = train.make_step(config, methods.make(config), mesh, abstract)
    with backend.tracing_for(platform(mesh)):
        return step.trace(state, batch)


def trace_completions(config: Config, mesh: Mesh, n: int) -> jax.stages.Traced:
    """Trace n completions of one image on each device."""
    whole, split = sharding.replicated(mesh), sharding.batch_sharding(mesh)
    abstract = inference_variables(checkpoints.abstract_state(config))
    variables = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=whole), abstract
    )
    checksum = jax.ShapeDtypeStruct((mesh.size,), "uint32", sharding=split)
    batch = abstract_batch(config, mesh.size, mesh) | {"checksum": checksum}
    key = jax.eval_shape(lambda: jax.random.key(0))
    draw = jax.jit(
        make_draw(methods.make(config)), static_argnames=("n", "num_candidates")
    )
    with backend.tracing_for(platform(mesh)):
        return draw.trace(variables, batch, key, n=n, num_candidates=n)


def abstract_batch(
    config: Config, size: int, mesh: Mesh
) -> dict[str, jax.ShapeDtypeStruct]:
    """Shapes, dtypes and layouts of a batch as data come: pixels are uint8."""
    split = sharding.batch_sharding(mesh)
    return {
        name: jax.ShapeDtypeStruct(
            x.shape, "uint8" if x.dtype == "float32" else x.dtype, sharding=split
        )
        for name, x in checkpoints.abstract_batch(config, size).items()
    }


def platform(mesh: Mesh) -> str:
    """JAX's name of the devices' back end."""
    return mesh.devices.flat[0].platform


# ---- what they cost ----


def measure(title: str, traced: jax.stages.Traced) -> Program:
    """Compile a program and read what it costs.

    XLA counts the body of a loop once: its FLOPs are scaled by how much more arithmetic
    the loops of known length do. Its traffic includes what stays on the chip: that of the
    main memory is counted here.

    Args:
      title: shown while it is compiled.
      traced: the program.
    """
    passes = matrix_flops(traced.jaxpr) / max(matrix_flops(traced.jaxpr, True), 1)
    lowered = traced.lower()
    start = time.perf_counter()
    try:
        with log.announce_elapsing(f"compiling {title}"):
            compiled = lowered.compile()
    except jax.errors.JaxRuntimeError as error:
        if not cli.is_out_of_memory(error):
            raise
        seconds, excess = time.perf_counter() - start, describe_excess(error)
        return Program(seconds, excess, Memory(0, 0, 0, 0), 0.0, 0.0, {})
    seconds = time.perf_counter() - start
    analysis: Any = compiled.cost_analysis()
    text = compiled.as_text() or ""
    return Program(
        seconds,
        "",
        read_memory(compiled.memory_analysis()),
        analysis["flops"] * passes,
        hlo.memory_traffic(text),
        hlo.collectives(text),
    )


def read_memory(stats: Any) -> Memory:
    """The memory of a program from XLA's statistics of it."""
    arguments, temporaries = stats.argument_size_in_bytes, stats.temp_size_in_bytes
    outputs = stats.output_size_in_bytes - stats.alias_size_in_bytes
    code = stats.generated_code_size_in_bytes
    peak = arguments + outputs + temporaries + code
    return Memory(arguments, outputs, temporaries, peak)


def describe_excess(error: Exception) -> str:
    """What a compiler says about a memory that is too small, in one line."""
    reason = str(error).partition("RESOURCE_EXHAUSTED: ")[2]
    return reason.partition("\n")[0] or checkpoints.summary(error)


def matrix_flops(program: Any, once: bool = False) -> float:
    """FLOPs of a jaxpr's matrix products and convolutions.

    Args:
      program: the jaxpr.
      once: whether the body of a loop counts once; otherwise as often as it runs, where
        that is known.
    """
    total = 0.0
    for equation in getattr(program, "jaxpr", program).eqns:
        name, params = equation.primitive.name, equation.params
        inner = sum(matrix_flops(x, once) for x in memory.inner_programs(equation))
        total += inner * (params["length"] if name == "scan" and not once else 1)
        if name in ("dot_general", "conv_general_dilated"):
            left, right = (x.aval.shape for x in equation.invars)
            outputs = math.prod(equation.outvars[0].aval.shape)
            dimensions = params["dimension_numbers"]
            if name == "dot_general":
                products = math.prod(left[i] for i in dimensions[0][0])
            else:
                products = math.prod(right) // right[dimensions.rhs_spec[0]]
            total += 2.0 * outputs * products
    return total


# ---- the cache ----


def cache_path(inputs: Mapping[str, Any]) -> Path | None:
    """The file of the program of some inputs; None if the cache is switched off."""
    text, folder = json.dumps(inputs, sort_keys=True), cache.home()
    name = hashlib.sha256(text.encode()).hexdigest()[:32]
    return folder and folder / "plans" / f"{name}.json"


def read_program(path: Path) -> Program | None:
    """Read a program's costs; None if the file is absent or damaged."""
    try:
        content = files.read_json(path)
        found = {k: hlo.Collectives(*x) for k, x in content["collectives"].items()}
        read = {"memory": Memory(*content["memory"]), "collectives": found}
        return Program(**content | read)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def write_program(path: Path, program: Program) -> None:
    """Write a program's costs, if the folder can be written to."""
    with contextlib.suppress(OSError):
        files.write_text(path, json.dumps(program._asdict(), indent=1) + "\n")


def describe_input(config: Config, topology: str, title: str) -> dict[str, Any]:
    """All that a program depends on; the number of steps does not change it."""
    settings = {k: x for k, x in json.loads(config.to_json()).items() if k != "steps"}
    return {
        "program": title,
        "topology": topology,
        "config": settings,
        "versions": {name: metadata.version(name) for name in PACKAGES},
        "source": source_digest(),
        "flags": {name: os.environ.get(name, "") for name in COMPILER_FLAGS},
    }


def source_digest() -> str:
    """A digest of this package's code."""
    digest = hashlib.sha256()
    folder = Path(__file__).parent
    for path in sorted(folder.rglob("*.py")):
        digest.update(str(path.relative_to(folder)).encode() + path.read_bytes())
    return digest.hexdigest()
