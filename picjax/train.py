"""Trains any method: python -m picjax.train --config=configs/NAME.py[:VARIANT]

  --config=configs/picmm.py:scenes   the config; the file lists its variants
  --config.KEY=VALUE                 changes one setting, such as --config.batch_size=8
  --workdir=DIR                      output folder; default runs/NAME-VARIANT
  --init-from=RUN                    starts a new run from another one's weights

Without a checkout, --config=picmm:scenes finds the installed config. If the workdir
holds a checkpoint, training resumes from it bit-exactly. SIGTERM and Ctrl-C save a
checkpoint and stop (exit 75); a second Ctrl-C stops at once.

Example: python -m picjax.train --config=configs/picmm.py --config.steps=2000
"""

import contextlib
import sys
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import numpy as np
from etils import epath
from jax.sharding import Mesh

from picjax import (
    cache,
    cli,
    files,
    flags,
    memory,
    methods,
    saving,
    settings,
    sharding,
)
from picjax import checkpoints as ckpt
from picjax.cli import UserError
from picjax.completion import make_grid
from picjax.data import pipeline
from picjax.evaluation import monitor
from picjax.images import to_float
from picjax.init_from import Source, compare, take
from picjax.log import Log, announce
from picjax.loop import Run, loop
from picjax.model import locate, read
from picjax.system import (
    Batch,
    Config,
    Metrics,
    State,
    System,
    image_shape,
    purpose_key,
)


def train(config: Config, workdir: epath.PathLike, init_from: str = "") -> State:
    """Train `config.system` in `workdir` up to `config.steps` and return the state.

    Args:
      config: of the run.
      workdir: its folder; a checkpoint there is resumed from.
      init_from: a run whose weights a new one starts from, as `picjax.load` takes it.

    Raises:
      UserError: for settings that cannot work, before anything is compiled; if a
        metric is no longer finite; and if the workdir can no longer be written to.
      Interrupted: if a signal stopped the run before its last step.
    """
    check_settings(config)
    mesh = sharding.make_mesh(**config.mesh)
    per_process = sharding.local_batch_size(mesh, config.batch_size)
    if ckpt.saved_steps(workdir):
        ckpt.check_same_config(config, workdir)
        init_from = ""  # the run has its own weights
    source = initial_weights(init_from)
    system = methods.make(config)
    monitor.check(config, system)
    evaluate = monitor.make_monitor(config, system, mesh)
    first = sharding.global_batch(mesh, next(open_data(config, per_process, 0)))
    functions = make_functions(config, system, mesh, first)
    taken = compare(functions.state, source) if source is not None else []
    with contextlib.ExitStack() as stack:
        saved = saving.Checkpoints(workdir, config.keep, config.best)
        saved = stack.enter_context(saved)
        if jax.process_index() == 0:
            ckpt.write_config(workdir, config)
        state = saved.restore(functions.state)
        if state is None:
            state = untrained_state(functions, first, source)
        log = None
        if jax.process_index() == 0:
            log = Log(workdir, int(state.step), config, system.meanings)
            log = stack.enter_context(log)
            log.say(f"{describe(state, mesh)}; everything goes to {workdir}/")
            for line in taken:
                log.say(line)
            if saved.latest is not None:
                log.say(f"resuming from step {saved.latest}")
        data = open_data(config, per_process, int(state.step))
        draw_grid = make_grid(config, system, mesh)
        run = Run(config, mesh, data, functions.step, saved, log, draw_grid, evaluate)
        try:
            return loop(run, state)
        except OSError as error:
            raise UserError(f"{cli.describe_os_error(error)}; {saved.kept}") from error


# ---- setup ----


def check_settings(config: Config) -> None:
    """Refuse a config that cannot work, as far as its values alone show.

    Raises:
      UserError: naming the key.
    """
    settings.check(config)
    if config.log.wandb:
        cli.require("wandb", "wandb")
    height, width = image_shape(config)
    memory.check_memory(
        f"a batch of {config.batch_size} images of {height}x{width} pixels",
        16.0 * config.batch_size * height * width,  # of float32
        "make config.batch_size or config.image_size smaller",
    )


def initial_weights(source: str) -> Source | None:
    """The weights that a new run starts from; None for an empty string.

    Raises:
      UserError: if they cannot be read.
    """
    if not source:
        return None
    _, variables, step = read(locate(source))
    return Source(source, variables, step)


def open_data(
    config: Config, per_process: int, step: int
) -> Iterator[dict[str, np.ndarray]]:
    """This process's share of the batches after a step.

    Raises:
      UserError: if there is nothing to train on, or a setting cannot work.
    """
    index, count = jax.process_index(), jax.process_count()
    return pipeline.train_batches(
        config.data,
        config.image_size,
        per_process,
        config.seed,
        slice(step * count + index, None, count),
    )


# ---- functions ----


class Functions(NamedTuple):
    """What the devices compute.

    Attributes:
      init: batch -> the state before the first step, compiled when called.
      step: (state, batch) -> (state, metrics), compiled when called; the old state's
        memory is given to the new one.
      state: shapes, dtypes and layouts of the state.
    """

    init: Callable[[Batch], State]
    step: Callable[[State, Batch], tuple[State, Metrics]]
    state: State


def make_functions(
    config: Config, system: System, mesh: Mesh, batch: Batch
) -> Functions:
    """Trace the functions of a run, which raises their errors before any compilation.

    Raises:
      UserError: if the method cannot work on such batches, or the memory is too small.
    """

    def init(batch: Batch) -> State:
        return system.init(to_float(batch), init_key(config.seed))

    abstract = jax.eval_shape(init, batch)
    step, placed = make_step(config, system, mesh, abstract)
    check_program(config, abstract, step.trace(placed, batch).jaxpr)
    shardings = jax.tree.map(lambda x: x.sharding, placed)
    init = jax.jit(init, out_shardings=shardings, **fast_compile())
    return Functions(init, step, placed)


def make_step(
    config: Config, system: System, mesh: Mesh, abstract: State
) -> tuple[Any, State]:
    """The training step for a mesh, to be compiled, and the state that it takes.

    A step's key is a function of its number, so a resumed run continues the sequence.

    Args:
      config: of the run.
      system: its method.
      mesh: of devices that need not be there.
      abstract: shapes and dtypes of the state.

    Returns:
      (state, batch) -> (state, metrics), and shapes, dtypes and layouts of the state.
    """
    root = purpose_key(jax.random.key(config.seed), "train")
    shardings = sharding.state_shardings(mesh, abstract)
    placed = jax.tree.map(
        lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s),
        abstract,
        shardings,
    )

    @partial(jax.jit, donate_argnums=0, out_shardings=(shardings, None))
    def step(state: State, batch: Batch) -> tuple[State, Metrics]:
        key = jax.random.fold_in(root, state.step)
        return system.step(state, to_float(batch), key)

    return step, placed


def init_key(seed: int) -> jax.Array:
    """The key of a run's initial state; its steps draw from the key "train"."""
    return purpose_key(jax.random.key(seed), "init")


def fast_compile() -> dict[str, Any]:
    """Compiler options for what runs once.

    XLA's CPU back end takes a minute to optimise some hundred random draws, and seconds
    without optimisation.
    """
    if jax.default_backend() != "cpu":
        return {}
    return {"compiler_options": {"xla_backend_optimization_level": 0}}


def check_program(config: Config, state: State, program: Any) -> None:
    """Refuse a step whose arrays are many times larger than the memory.

    Args:
      config: of the run.
      state: abstract.
      program: the jaxpr of a step.

    Raises:
      UserError: with the estimate.
    """
    size = memory.tree_bytes(state) + memory.largest_array(program)
    memory.check_memory(
        "a training step",
        float(size),
        "make config.batch_size, config.image_size or the networks of config.model "
        "smaller",
    )


def untrained_state(functions: Functions, batch: Batch, source: Source | None) -> State:
    """The state before the first step, with another run's weights if there are any."""
    with announce("compiling the initial state"):
        state = functions.init(batch)
    return state if source is None else take(state, source)


def describe(state: State, mesh: Mesh) -> str:
    """Describe a run, such as `encoder 1.05 M parameters on 8 cpu device(s)`."""
    sizes = {
        name: sum(x.size for x in jax.tree.leaves(params))
        for name, params in state.params.items()
    }
    nets = ", ".join(f"{name} {size / 1e6:.2f} M" for name, size in sizes.items())
    kind = mesh.devices.flat[0].device_kind
    return f"{nets} parameters on {mesh.size} {kind} device(s)"


# ---- command line ----

INIT_FROM = "--init-from="


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command; see the module's docstring.

    Raises:
      UserError: for anything that the user can fix.
    """
    words = sys.argv[1:] if argv is None else argv
    if not words or {"--help", "-h", "--helpfull"} & set(words):
        print(__doc__)
        return
    sources = [word for word in words if word.startswith(INIT_FROM)]
    config, workdir = flags.parse([word for word in words if word not in sources])
    files.check_writable(workdir, "--workdir")
    cache.enable()
    sharding.join_cluster()
    train(config, workdir, sources[-1].removeprefix(INIT_FROM) if sources else "")


if __name__ == "__main__":
    cli.run(main)
