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
import math
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils

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
    signals,
)
from picjax import checkpoints as ckpt
from picjax.cli import UserError
from picjax.completion import make_grid
from picjax.data import pipeline
from picjax.evaluation import monitor
from picjax.images import to_float
from picjax.init_from import Source, compare, take
from picjax.log import Log, announce
from picjax.model import locate, read
from picjax.system import Config, State, image_shape, purpose_key


def train(config: Config, workdir: Path, init_from: str = "") -> State:
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
    settings.check(config)
    if config.log.wandb:
        cli.require("wandb", "wandb")
    height, width = image_shape(config)
    memory.check_memory(
        f"a batch of {config.batch_size} images of {height}x{width} pixels",
        16.0 * config.batch_size * height * width,  # of float32
        "make config.batch_size or config.image_size smaller",
    )
    mesh = sharding.make_mesh(**config.mesh)
    per_process = sharding.local_batch_size(mesh, config.batch_size)
    if any((workdir / "checkpoints").glob("[0-9]*")):
        ckpt.check_same_config(config, workdir)
        init_from = ""  # the run has its own weights
    source = initial_weights(init_from)
    system = methods.make(config)
    monitor.check(config, system)
    evaluate = monitor.make_monitor(config, system, mesh)

    # ---- data ----
    def batches():
        return pipeline.train_batches(
            config.data,
            config.image_size,
            per_process,
            config.seed,
            jax.process_index(),
            jax.process_count(),
        )

    first = sharding.global_batch(mesh, next(batches()))
    data = batches()
    root = purpose_key(jax.random.key(config.seed), "train")

    # ---- method ----
    def init(batch) -> State:
        return system.init(to_float(batch), init_key(config.seed))

    abstract = jax.eval_shape(init, first)
    shardings = sharding.state_shardings(mesh, abstract)
    placed = jax.tree.map(
        lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s),
        abstract,
        shardings,
    )

    @partial(jax.jit, donate_argnums=0, out_shardings=(shardings, None))
    def step(state, batch):
        key = jax.random.fold_in(root, state.step)
        return system.step(state, to_float(batch), key)

    program = step.trace(abstract, first).jaxpr  # raises its errors before compilation
    check_program(config, abstract, program)
    taken = compare(abstract, source) if source is not None else []
    with contextlib.ExitStack() as stack:
        saved = saving.Checkpoints(workdir, config.keep, config.best)
        saved = stack.enter_context(saved)
        if jax.process_index() == 0:
            ckpt.write_config(workdir, config)
        state = saved.restore(placed, data)
        if state is None:
            with announce("compiling the initial state"):
                state = jax.jit(init, out_shardings=shardings, **fast_compile())(first)
            if source is not None:
                state = take(state, source)
        log = None
        if jax.process_index() == 0:
            log = Log(workdir, int(state.step), config, system.meanings)
            log = stack.enter_context(log)
            log.say(f"{describe(state, mesh)}; everything goes to {workdir}/")
            for line in taken:
                log.say(line)
            if saved.latest is not None:
                log.say(f"resuming from step {int(state.step)}")
        draw_grid = make_grid(config, system, mesh)
        stop_requested = stack.enter_context(stop_on_signal())
        run = Run(
            config, mesh, data, step, saved, log, draw_grid, evaluate, stop_requested
        )
        try:
            state = loop(run, state)
        except OSError as error:
            raise UserError(f"{cli.describe_os_error(error)}; {saved.kept}") from error
        if int(state.step) < config.steps:
            raise signals.Interrupted(
                f"stopped by {signals.name()} and saved at step {int(state.step)}; "
                "the same command resumes from here"
            )
        signals.forget()
        return state


# ---- loop ----

COMPILING = "compiling the training step"


class Run(NamedTuple):
    """What the loop needs besides the state.

    Attributes:
      config: the run's config.
      mesh: all devices.
      data: batches of this process.
      step: (state, batch) -> (state, metrics), compiled.
      checkpoints: of the workdir.
      log: None on all processes but the first.
      draw_grid: state -> grid of completions.
      evaluate: state -> metrics of held-out images.
      stop_requested: whether to stop after this step.
    """

    config: Config
    mesh: jax.sharding.Mesh
    data: Iterator[dict[str, np.ndarray]]
    step: Callable[..., tuple[State, dict[str, jax.Array]]]
    checkpoints: saving.Checkpoints
    log: Log | None
    draw_grid: Callable[[State], np.ndarray]
    evaluate: Callable[[State], dict[str, float]]
    stop_requested: Callable[[int], bool]


class Meter:
    """Reads the metrics of a step while the next one runs, so the device never waits.

    Args:
      run: the run.
      start: completed steps.
    """

    def __init__(self, run: Run, start: int):
        self.config, self.log = run.config, run.log
        self.last_saved = start if run.checkpoints.latest is not None else -1
        self.pending: tuple[int, dict[str, jax.Array]] | None = None
        self.waited, self.since = 0.0, time.perf_counter()

    def read(self, evaluated: dict[str, float]) -> dict[str, float]:
        """The pending metrics, checked and, if due, logged.

        Args:
          evaluated: metrics of an evaluation to log with them; if any, they are due.

        Raises:
          UserError: if one is not finite.
        """
        if self.pending is None:
            return {}
        step, metrics = self.pending
        self.pending = None
        values = {name: float(value) for name, value in metrics.items()}
        check_finite(step, values, self.last_saved)
        values |= evaluated
        if self.log is None:
            return values
        logged = bool(evaluated) or due(step, self.config.log_every, self.config)
        if logged:
            now = time.perf_counter()
            share = self.waited / (now - self.since)
            self.log.metrics(step, values | {"data_wait": round(share, 4)})
            self.waited, self.since = 0.0, now
        self.log.progress(step, evaluated | values, logged)
        return values

    @contextlib.contextmanager
    def compiling(self) -> Iterator[None]:
        """Exclude a block from the rate, and let signals interrupt it."""
        with self.untimed(COMPILING), signals.interruptible():
            yield

    @contextlib.contextmanager
    def untimed(self, activity: str) -> Iterator[None]:
        """Exclude a block from the rate; its activity is shown the first time."""
        start = time.perf_counter()
        with self.log.announce(activity) if self.log else contextlib.nullcontext():
            yield
        if self.log:
            self.log.leave_out(time.perf_counter() - start)


def loop(run: Run, state: State) -> State:
    """Train from `state.step` to `config.steps`, or until a stop is requested.

    Every step checks that the workdir is still this run's and that nothing failed to be
    saved. A signal may interrupt the first step, which compiles for minutes.
    """
    config, start = run.config, int(state.step)
    meter = Meter(run, start)
    for step in range(start + 1, config.steps + 1):
        asked = time.perf_counter()
        batch = sharding.global_batch(run.mesh, next(run.data))
        meter.waited += time.perf_counter() - asked
        compiles = step == start + 1
        with meter.compiling() if compiles else contextlib.nullcontext():
            state, metrics = run.step(state, batch)
        run.checkpoints.poll()
        meter.read({})
        meter.pending = (step, metrics)
        evaluated: dict[str, float] = {}
        if config.eval.every and due(step, config.eval.every, config):
            with meter.untimed("compiling and running the first evaluation"):
                evaluated = run.evaluate(state)
        stopping = run.stop_requested(step)
        saves = stopping or due(step, config.save_every, config)
        if evaluated or saves:
            values = meter.read(evaluated)
            if saves:
                check_finite_state(step, state, meter.last_saved)
                run.checkpoints.save(state, run.data, values)
                meter.last_saved = step
        if stopping:
            break
        if config.sample_every and due(step, config.sample_every, config):
            with meter.untimed("compiling and drawing the first grid"):
                grid = run.draw_grid(state)
                if run.log:
                    run.log.grid(step, grid)
    run.checkpoints.wait()
    return state


def due(step: int, every: int, config: Config) -> bool:
    """Whether it is the turn of what happens every so many steps and at the end."""
    return step % every == 0 or step == config.steps


def init_key(seed: int) -> jax.Array:
    """The key of a run's initial state; its steps draw from the key "train"."""
    return purpose_key(jax.random.key(seed), "init")


def initial_weights(source: str) -> Source | None:
    """The weights that a new run starts from; None for an empty string.

    Raises:
      UserError: if they cannot be read.
    """
    if not source:
        return None
    _, variables, step = read(locate(source))
    return Source(source, variables, step)


def fast_compile() -> dict[str, Any]:
    """Compiler options for what runs once.

    XLA's CPU back end takes a minute to optimise some hundred random draws, and seconds
    without optimisation.
    """
    if jax.default_backend() != "cpu":
        return {}
    return {"compiler_options": {"xla_backend_optimization_level": 0}}


# ---- checks ----


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


def check_finite(step: int, values: dict[str, float], last_saved: int) -> None:
    """Stop a run whose metrics are no longer finite.

    Raises:
      UserError: with the step, the metrics and the last good checkpoint.
    """
    bad = [name for name, value in values.items() if not math.isfinite(value)]
    if bad:
        kept = f"checkpoint {last_saved} is kept" if last_saved >= 0 else "none is kept"
        raise UserError(
            f"{', '.join(bad)} is not finite at step {step}; {kept}: lower "
            "config.opt.lr, or resume in float32 if config.model.dtype is bfloat16"
        )


@jax.jit
def all_finite(tree: Any) -> jax.Array:
    """Whether every number of a tree is finite."""
    leaves = [jnp.isfinite(x).all() for x in jax.tree.leaves(tree)]
    return jnp.stack(leaves).all()


def check_finite_state(step: int, state: State, last_saved: int) -> None:
    """Stop before saving parameters that are not finite, even if the losses were."""
    values = {} if all_finite(state.params) else {"a parameter": math.nan}
    check_finite(step, values, last_saved)


@contextlib.contextmanager
def stop_on_signal() -> Iterator[Callable[[int], bool]]:
    """Yield a function of the step that returns whether to stop after it.

    On several hosts, JAX's preemption service makes them agree on the step of a SIGTERM.
    """
    if jax.process_count() > 1:
        yield lambda step: multihost_utils.reached_preemption_sync_point(step)
        return
    with signals.deferred() as received:
        yield lambda step: received()


def describe(state: State, mesh: jax.sharding.Mesh) -> str:
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
