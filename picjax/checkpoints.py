"""Checkpoints: state and data iterator together, so that a run resumes bit-exactly.

A workdir holds `config.json` and `checkpoints/<step>/`, written by orbax: a step's
folder gets its final name when it is complete, so that a kill at any moment only loses
the steps since the last save.
"""

import json
import math
import sys
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

import jax
from etils import epath
from ml_collections import ConfigDict
from orbax.checkpoint import v1 as ocp

from picjax import methods
from picjax.cli import UserError
from picjax.evaluation.metrics.results import BETTER
from picjax.files import write_text
from picjax.flags import flatten
from picjax.system import Config, State, Tree, image_shape, inference_variables

# Keys that may change when a run is resumed; all others change its numbers.
FREE_KEYS = ("steps", "log_every", "save_every", "sample_every", "samples", "keep")
FREE_KEYS += ("best", "eval", "log", "mesh", "sampler")
# Keys that describe an imported run's networks.
NETWORK_KEYS = {"system", "model", "image_size", "diffusion"}
PACKAGES = ("jax", "flax", "optax", "orbax-checkpoint", "grain", "numpy")


def write_config(workdir: epath.PathLike, config: Config) -> None:
    """Write `config.json`: the resolved config, the command line, versions."""
    content = {
        "config": json.loads(config.to_json()),
        "command": sys.argv,
        "versions": {name: metadata.version(name) for name in PACKAGES},
    }
    write_text(
        epath.Path(workdir) / "config.json", json.dumps(content, indent=2) + "\n"
    )


def read_config(workdir: Path) -> Config:
    """Read the config of a workdir.

    Raises:
      UserError: if the folder is no workdir.
    """
    path = workdir / "config.json"
    try:
        return ConfigDict(json.loads(path.read_text())["config"])
    except FileNotFoundError:
        raise UserError(
            f"'{workdir}' is not a workdir (it has no config.json); "
            "point --workdir to a folder that picjax.train wrote"
        ) from None
    except (json.JSONDecodeError, KeyError, TypeError):
        raise UserError(
            f"'{path}' is damaged; restore it, or train into another --workdir"
        ) from None


def differing_keys(ours: Config, theirs: Config, untrained: bool = False) -> list[str]:
    """Describe the keys that differ and may not: `batch_size (8, was 4)`.

    Args:
      ours: the new config.
      theirs: the config of the run to resume.
      untrained: whether the run is imported and not yet trained; then only its networks
        are fixed.

    If the learning rate decays towards the last step, `steps` may not change either.
    """
    free = set(FREE_KEYS) - ({"steps"} if ours.opt.decay else set())
    if untrained:
        free = set(ours.keys()) - NETWORK_KEYS
    now = flatten(json.loads(ours.to_json()))
    then = flatten(json.loads(theirs.to_json()))
    return [
        f"{key} ({now.get(key, 'absent')}, was {then.get(key, 'absent')})"
        for key in sorted(now.keys() | then.keys())
        if key.split(".")[0] not in free and now.get(key) != then.get(key)
    ]


def check_same_config(config: Config, workdir: Path) -> None:
    """Refuse to resume a run with another config, except for settings that may change.

    An imported run that is not yet trained may have any config of its networks.

    Raises:
      UserError: with the differing keys.
    """
    previous = read_config(workdir)
    differing = differing_keys(config, previous, is_untrained(workdir))
    if differing:
        raise UserError(
            f"'{workdir}' was trained with another config: {', '.join(differing)}; "
            "restore the old values, or use another --workdir"
        )


def is_untrained(workdir: Path) -> bool:
    """Whether a run was imported and not trained: step 0 is its only checkpoint."""
    names = {path.name for path in workdir.glob("checkpoints/*")}
    return {name for name in names if name.isdigit()} == {"0"}


def open_checkpoints(
    workdir: epath.PathLike, keep: int, best: str
) -> ocp.training.Checkpointer:
    """Open the checkpoints of a workdir.

    Args:
      workdir: the run's folder.
      keep: number of newest checkpoints to keep.
      best: a logged metric; the checkpoint where it was best (see `badness`) is kept as
        well. Empty: none.
    """
    policies: Any = ocp.training.preservation_policies
    kept: list[Any] = [policies.LatestN(keep)]
    if best:
        kept.append(
            policies.BestN(
                # A save without the metric, as after SIGTERM, is no candidate.
                get_metric_fn=lambda metrics: badness(best, metrics),
                reverse=True,
                n=1,
                keep_checkpoints_without_metrics=False,
            )
        )
    return ocp.training.Checkpointer(
        str((epath.Path(workdir) / "checkpoints").absolute()),
        preservation_policy=policies.AnyPreservationPolicy(kept),
        cleanup_tmp_directories=True,
    )


def save(
    checkpoints: ocp.training.Checkpointer,
    state: State,
    data: Any,
    metrics: Mapping[str, float],
) -> Any:
    """Start saving a step in the background; `result()` of the return value waits.

    Step 0, written by an import, has no data iterator.
    """
    step = int(state.step)
    return checkpoints.save_checkpointables_async(
        step,
        {"state": state, "data": data} if step else {"state": state},
        force=True,
        metrics=dict(metrics),
    )


def restore(
    checkpoints: ocp.training.Checkpointer, abstract: State, data: Any
) -> State | None:
    """Restore the newest state, and set the position of the data iterator.

    Args:
      checkpoints: of a workdir.
      abstract: shapes, dtypes and shardings of the state.
      data: the data iterator; at step 0, of an imported run, it stays at its start.

    Returns:
      The state, or None if there is no checkpoint.

    Raises:
      UserError: if the checkpoint's arrays do not match `abstract`.
    """
    if checkpoints.latest is None:
        return None
    step = checkpoints.latest.step
    check_match(checkpoints, step, abstract)
    wanted = {"state": abstract, "data": data} if step else {"state": abstract}
    return checkpoints.load_checkpointables(step, wanted)["state"]


def restore_variables(
    workdir: Path | str, best: bool = False
) -> tuple[Config, Tree, int]:
    """Restore what completion needs: config, inference variables, and their step.

    Args:
      workdir: the run's folder.
      best: restore the checkpoint with the best `config.best` instead of the newest.

    Raises:
      UserError: if the folder is no workdir or holds no complete checkpoint.
    """
    workdir = Path(workdir)
    config = read_config(workdir)
    with open_checkpoints(workdir, config.keep, config.best) as checkpoints:
        if checkpoints.latest is None:
            raise UserError(
                f"'{workdir}' holds no checkpoint yet; train until the first save "
                f"(config.save_every is {config.save_every}) or save more often"
            )
        step = _best_step(checkpoints, config.best) if best else checkpoints.latest.step
        # The optimiser states are not read.
        stored: Any = checkpoints.metadata(step).metadata
        opt = jax.tree.map(lambda _: ocp.PLACEHOLDER, stored["opt"])
        abstract = abstract_state(config).replace(opt={})
        check_match(checkpoints, step, abstract, ignored=("opt",))
        wanted = {"state": abstract.replace(opt=opt)}
        state = checkpoints.load_checkpointables(step, wanted)["state"]
    return config, inference_variables(state), step


def abstract_state(config: Config) -> State:
    """Shapes and dtypes of a config's state on one device, without computing it."""
    try:
        system = methods.make(config)
    except AttributeError as error:  # raised by ConfigDict for a missing key
        raise UserError(
            f"the config lacks a key ({error}); the run is of another version of "
            "picjax: add the key to its config.json, or train again"
        ) from None
    abstract = jax.eval_shape(system.init, abstract_batch(config), jax.random.key(0))
    device = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    return jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=device), abstract
    )


def abstract_batch(config: Config) -> dict[str, jax.ShapeDtypeStruct]:
    """Shapes and dtypes of a small batch with the entries that `init` may read."""
    height, width = image_shape(config)
    shapes = {"image": ((3,), "float32"), "mask": ((1,), "float32")}
    if config.data.get("maps"):
        shapes |= {"label": ((), "int32"), "instance": ((), "int32")}
    return {
        name: jax.ShapeDtypeStruct((2, height, width, *c), dtype)
        for name, (c, dtype) in shapes.items()
    }


def badness(best: str, metrics: Mapping[str, float]) -> float:
    """The rank of a checkpoint: lower is better; without the metric it is infinite.

    Args:
      best: the metric that checkpoints are ranked by; lower values are better unless
        the evaluation defines the opposite.
      metrics: of the checkpoint.
    """
    metric = best.removeprefix("eval/").removesuffix("_hole")
    sign = -1 if BETTER.get(metric) == "max" else 1
    return sign * metrics[best] if best in metrics else math.inf


def _best_step(checkpoints: ocp.training.Checkpointer, best: str) -> int:
    if not best:
        raise UserError("this run kept no best checkpoint; train it with --config.best")
    scored: dict[int, Any] = {c.step: c.metrics for c in checkpoints.checkpoints}
    scored = {step: m for step, m in scored.items() if m and best in m}
    if not scored:
        raise UserError(
            f"no checkpoint of this run has the metric '{best}'; train it with "
            "--config.best"
        )
    return min(scored, key=lambda step: badness(best, scored[step]))


def check_match(
    checkpoints: ocp.training.Checkpointer,
    step: int,
    abstract: State,
    ignored: tuple[str, ...] = (),
) -> None:
    """Compare names and shapes of a checkpoint with the expected ones.

    Args:
      checkpoints: of a workdir.
      step: of the checkpoint.
      abstract: the expected state.
      ignored: fields that are not compared.

    Raises:
      UserError: listing names on one side only and differing shapes.
    """
    metadata: Any = checkpoints.metadata(step).metadata
    stored = {name: tree for name, tree in metadata.items() if name not in ignored}
    theirs, ours = _shapes(stored), _shapes(abstract)
    problems = [
        f"{name}: {theirs.get(name, 'absent')} in the checkpoint, "
        f"{ours.get(name, 'absent')} in the config"
        for name in sorted(theirs.keys() | ours.keys())
        if theirs.get(name) != ours.get(name)
    ]
    if problems:
        more = f" and {len(problems) - 5} more" if len(problems) > 5 else ""
        raise UserError(
            f"checkpoint {step} in '{checkpoints.directory}' does not fit the config "
            f"({'; '.join(problems[:5])}{more}); use the config of its training"
        )


def _shapes(tree: Any) -> dict[str, tuple[int, ...]]:
    leaves = jax.tree_util.tree_leaves_with_path(
        tree, is_leaf=lambda x: hasattr(x, "shape")
    )
    return {
        jax.tree_util.keystr(path, simple=True, separator="/"): tuple(leaf.shape)
        for path, leaf in leaves
    }
