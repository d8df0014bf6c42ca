"""Trains any system: python -m picjax.train --config=configs/NAME.py[:VARIANT]

  --config=configs/picmm.py:scenes   what to train; VARIANT as the file documents
  --config.KEY=VALUE                 changes one setting, such as --config.batch_size=8
  --workdir=DIR                      where everything goes; default runs/NAME-VARIANT

A workdir that holds a checkpoint is gone on with, to the bit. SIGTERM saves and ends.
Example: python -m picjax.train --config=configs/picmm.py --config.steps=2000
"""

import contextlib
import difflib
import math
import re
import signal
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags
from jax.experimental import multihost_utils
from ml_collections import config_flags

from picjax import checkpoints as ckpt
from picjax import cli, images, methods, sharding
from picjax.cli import UserError
from picjax.data import pipeline
from picjax.evaluation import monitor as watching
from picjax.log import Log
from picjax.system import Config, State, System, inference_variables


def train(config: Config, workdir: Path) -> State:
    """Trains `config.system` in `workdir` up to `config.steps` and returns the state.

    Raises:
      UserError: for settings that cannot work, before anything is compiled; and when a
        metric is no longer finite.
    """
    check_config(config)
    mesh = sharding.make_mesh(**config.mesh)
    per_process = sharding.local_batch_size(mesh, config.batch_size)
    if any((workdir / "checkpoints").glob("[0-9]*")):
        refuse_other_config(config, workdir)
    system = methods.make(config)
    watching.check(config, system)
    watch = watching.make_monitor(config, system, mesh)

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
    root = jax.random.key(config.seed)

    # ---- state ----
    def init(batch) -> State:
        return system.init(pipeline.to_float(batch), init_key(config.seed))

    abstract = jax.eval_shape(init, first)
    shardings = sharding.state_shardings(mesh, abstract)
    placed = jax.tree.map(
        lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s),
        abstract,
        shardings,
    )

    @partial(jax.jit, donate_argnums=0, out_shardings=(shardings, None))
    def step_fn(state, batch):
        key = jax.random.fold_in(root, state.step)
        return system.step(state, pipeline.to_float(batch), key)

    jax.eval_shape(step_fn, abstract, first)  # what it refuses, before it compiles
    if jax.process_index() == 0:
        ckpt.write_config(workdir, config)
    with contextlib.ExitStack() as stack:
        saved = stack.enter_context(
            ckpt.open_checkpoints(workdir, config.keep, config.best)
        )
        state = ckpt.restore(saved, placed, data)
        if state is None:
            state = jax.jit(init, out_shardings=shardings, **quick())(first)
        log = None
        if jax.process_index() == 0:
            log = stack.enter_context(
                Log(workdir, int(state.step), config.steps, config.batch_size)
            )
            log.say(f"{describe(state, mesh)}; everything goes to {workdir}/")
            if saved.latest is not None:
                log.say(f"going on from step {int(state.step)}")
        sample = make_sampler(config, system, mesh)
        asked_to_stop = stack.enter_context(stop_on_sigterm())
        state = loop(
            config, state, step_fn, data, mesh, saved, log, sample, watch, asked_to_stop
        )
    return state


def loop(
    config: Config,
    state: State,
    step_fn: Callable[..., tuple[State, dict[str, jax.Array]]],
    data: Iterator[dict[str, np.ndarray]],
    mesh: jax.sharding.Mesh,
    saved: Any,
    log: Log | None,
    sample: Callable[[State], np.ndarray],
    watch: Callable[[State], dict[str, float]],
    asked_to_stop: Callable[[int], bool],
) -> State:
    """Steps from `state.step` to `config.steps`.

    The numbers of a step are looked at while the next one runs, so that the device
    never waits for the host.
    """
    start = int(state.step)
    pending: tuple[int, dict[str, jax.Array]] | None = None
    waited, since = 0.0, time.perf_counter()
    last_saved = start if saved.latest is not None else -1

    def look(found: dict[str, float]) -> dict[str, float]:
        """The numbers of the pending step, checked, and logged when it is its turn.

        What an evaluation found is among them, and makes it their turn.
        """
        nonlocal waited, since
        if pending is None:
            return {}
        step, metrics = pending
        values = {name: float(value) for name, value in metrics.items()}
        refuse_nan(step, values, last_saved)
        values |= found
        if log and (found or step % config.log_every == 0 or step == config.steps):
            now = time.perf_counter()
            share = waited / (now - since)
            log.metrics(step, values | {"data_wait": round(share, 4)})
            waited, since = 0.0, now
        return values

    for step in range(start + 1, config.steps + 1):
        asked = time.perf_counter()
        batch = sharding.global_batch(mesh, next(data))
        called = time.perf_counter()
        waited += called - asked
        state, metrics = step_fn(state, batch)
        if log and step == start + 1:  # compiles
            log.leave_out(time.perf_counter() - called)
        look({})
        pending = (step, metrics)
        found: dict[str, float] = {}
        every = config.eval.every
        if every and (step % every == 0 or step == config.steps):
            began = time.perf_counter()
            found = watch(state)
            if log:
                log.leave_out(time.perf_counter() - began)
        stopping = asked_to_stop(step)
        last = step == config.steps or stopping
        if found or last or step % config.save_every == 0:
            values = look(found)
            pending = None
            if last or step % config.save_every == 0:
                refuse_nan_state(step, state, last_saved)
                ckpt.save(saved, state, data, values)
                last_saved = step
        due = step == config.steps or step % max(config.sample_every, 1) == 0
        if config.sample_every and due and not stopping:
            began = time.perf_counter()
            grid = sample(state)
            if log:
                log.grid(step, grid)
                log.leave_out(time.perf_counter() - began)
        if stopping and step < config.steps:
            if log:
                log.say(
                    f"stopped by SIGTERM and saved at step {step}; "
                    "the same command goes on from here"
                )
            break
    saved.wait()
    return state


def init_key(seed: int) -> jax.Array:
    """What a run's state is drawn from; its steps fold their numbers into the seed."""
    return jax.random.fold_in(jax.random.key(seed), 2**31)


def quick() -> dict[str, Any]:
    """Compiler options for what runs once: XLA's CPU back end takes a minute to
    optimise some hundred random draws, and seconds not to."""
    if jax.default_backend() != "cpu":
        return {}
    return {"compiler_options": {"xla_backend_optimization_level": 0}}


# ---- checks ----


def check_config(config: Config) -> None:
    """Refuses numbers that cannot work.

    Raises:
      UserError: naming the key.
    """
    for key in ("steps", "log_every", "save_every", "keep", "samples"):
        if config[key] < 1:
            raise UserError(f"config.{key} is {config[key]}; make it at least 1")
    if config.sample_every < 0:
        raise UserError("config.sample_every is negative; 0 switches the grids off")
    if config.opt.accumulate < 1:
        raise UserError("config.opt.accumulate is below 1; make it at least 1")


def refuse_other_config(config: Config, workdir: Path) -> None:
    """A run goes on only with the config that it began with.

    An imported one begins with any config of its networks.

    Raises:
      UserError: with the differing keys.
    """
    before = ckpt.read_config(workdir)
    differing = ckpt.differing_keys(config, before, ckpt.is_untrained(workdir))
    if differing:
        raise UserError(
            f"'{workdir}' was trained with another config: {', '.join(differing)}; "
            "give it the old values, or another --workdir"
        )


def refuse_nan(step: int, values: dict[str, float], last_saved: int) -> None:
    """Stops a run whose numbers are no longer finite.

    Raises:
      UserError: with the step, the metrics and the last good checkpoint.
    """
    bad = [name for name, value in values.items() if not math.isfinite(value)]
    if bad:
        kept = f"checkpoint {last_saved} is kept" if last_saved >= 0 else "none is kept"
        raise UserError(
            f"{', '.join(bad)} is not finite at step {step}; {kept}: lower "
            "config.opt.lr, or go on in float32 if config.model.dtype is bfloat16"
        )


@jax.jit
def all_finite(tree: Any) -> jax.Array:
    """Whether every number of a tree is finite."""
    leaves = [jnp.isfinite(x).all() for x in jax.tree.leaves(tree)]
    return jnp.stack(leaves).all()


def refuse_nan_state(step: int, state: State, last_saved: int) -> None:
    """A step may have finite losses and yet spoil the parameters; those are not saved."""
    values = {} if all_finite(state.params) else {"a parameter": math.nan}
    refuse_nan(step, values, last_saved)


@contextlib.contextmanager
def stop_on_sigterm() -> Iterator[Callable[[int], bool]]:
    """Gives a function of the step that says whether to stop after it.

    On several hosts, JAX's preemption service makes them agree on the step.
    """
    if jax.process_count() > 1:
        yield lambda step: multihost_utils.reached_preemption_sync_point(step)
        return
    asked = []
    before = signal.signal(signal.SIGTERM, lambda number, frame: asked.append(number))
    try:
        yield lambda step: bool(asked)
    finally:
        signal.signal(signal.SIGTERM, before)


# ---- samples ----


def make_sampler(
    config: Config, system: System, mesh: jax.sharding.Mesh
) -> Callable[[State], np.ndarray]:
    """A function from a state to a grid: input, truth, completions, the system's own.

    The same four held-out images and the same draws every time.
    """
    batch = next(iter(pipeline.eval_batches(config.data, config.image_size, 4, 4, 0)))
    arrays = {
        name: jax.make_array_from_process_local_data(sharding.replicated(mesh), value)
        for name, value in batch.items()
        if isinstance(value, np.ndarray)
    }
    key = jax.random.key(0)

    @partial(jax.jit, out_shardings=sharding.replicated(mesh))
    def draw(variables, arrays):
        floats = pipeline.to_float(arrays)
        images = system.complete(variables, floats, key, config.samples)
        extra = system.visualize(variables, floats, key)
        shown = floats.get("condition", floats["image"] * floats["mask"])
        columns = {"input": shown, "truth": floats["image"]}
        columns |= {str(i + 1): images[:, i] for i in range(config.samples)}
        return {title: pipeline.to_uint8(x) for title, x in (columns | extra).items()}

    def sample(state: State) -> np.ndarray:
        columns = jax.device_get(draw(inference_variables(state), arrays))
        titles = ["input", "truth", *map(str, range(1, config.samples + 1))]
        titles += sorted(columns.keys() - set(titles))
        rows = [list(row) for row in zip(*(columns[t] for t in titles), strict=True)]
        return images.image_grid(rows, titles)

    return sample


def describe(state: State, mesh: jax.sharding.Mesh) -> str:
    """`encoder 1.05 M, generator 2.52 M parameters on 8 cpu devices`."""
    sizes = {
        name: sum(x.size for x in jax.tree.leaves(params))
        for name, params in state.params.items()
    }
    nets = ", ".join(f"{name} {size / 1e6:.2f} M" for name, size in sizes.items())
    kind = mesh.devices.flat[0].device_kind
    return f"{nets} parameters on {mesh.size} {kind} device(s)"


# ---- command line ----

CONFIG = config_flags.DEFINE_config_file(
    "config", help_string="configs/NAME.py[:VARIANT]"
)
WORKDIR = flags.DEFINE_string("workdir", "", "where everything goes")


def main(argv: list[str]) -> None:
    """The command; see the module's docstring."""
    if {"--help", "-h", "--helpfull"} & set(argv) or len(argv) == 1:
        print(__doc__)
        return
    config, name = parse(argv)
    sharding.join_cluster()
    train(config, Path(WORKDIR.value or f"runs/{name}"))


def parse(argv: list[str]) -> tuple[Config, str]:
    """The config that a command line asks for, and the run's name.

    Raises:
      UserError: for a missing file, an unknown variant, key or flag, a wrong type.
    """
    given = [a.split("=", 1)[1] for a in argv[1:] if a.startswith("--config=")]
    if not given:
        raise UserError("--config is missing; give --config=configs/NAME.py[:VARIANT]")
    path, _, variant = given[-1].partition(":")
    if not Path(path).is_file():
        raise UserError(f"--config '{path}' does not exist; give configs/NAME.py")
    try:
        rest = flags.FLAGS(argv)
    except Exception as error:
        raise UserError(explain(argv, given[-1], error)) from error
    if len(rest) > 1:
        raise UserError(f"'{rest[1]}' is no flag; write --config.KEY=VALUE")
    name = Path(path).stem + (f"-{variant}" if variant else "")
    return CONFIG.value, name


def explain(argv: list[str], file: str, error: Exception) -> str:
    """What is wrong with a command line that did not parse."""
    try:
        config = config_flags.config_flags.ConfigFileFlagParser("config").parse(file)
    except Exception as broken:  # noqa: BLE001 (a config file may raise anything)
        why = str(broken).strip().splitlines()[-1].partition("Error: ")[2] or broken
        return f"--config={file} cannot be read: {why}; its first lines say how"
    keys = ckpt.flat_keys(config)
    for word in argv[1:]:
        match = re.match(r"--config\.([^=]+)(=.*)?$", word)
        if match and match[1] not in keys:
            near = difflib.get_close_matches(match[1], keys, 1, 0.5)
            hint = (
                f"did you mean --config.{near[0]}?" if near else "see the config file"
            )
            return f"--config.{match[1]} is no key of {file.split(':')[0]}; {hint}"
        if match and repr(match[1].split(".")[-1]) in str(error):
            return f"{word} does not fit its key ({error}); mend the value"
    return f"{error}; see python -m picjax.train --help"


if __name__ == "__main__":
    cli.run(lambda: main(sys.argv))
