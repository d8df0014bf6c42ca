"""Save and restore: state and data iterator together, so that a run goes on exactly.

A workdir holds `config.json` and `checkpoints/<step>/`, written by orbax: a step's
folder gets its final name only when it is whole, so a kill at any moment loses nothing
but the steps since the last save.
"""

import json
import math
import sys
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

import jax
from ml_collections import ConfigDict
from orbax.checkpoint import v1 as ocp

from picjax import methods
from picjax.cli import UserError
from picjax.evaluation.metrics.results import BETTER
from picjax.system import Config, State, Tree, image_shape, inference_variables

# What may change between a run and its continuation; everything else changes the
# numbers, so that going on would be neither the old run nor a new one.
FREE_KEYS = ("steps", "log_every", "save_every", "sample_every", "samples", "keep")
FREE_KEYS += ("best", "eval", "mesh", "sampler")
PACKAGES = ("jax", "flax", "optax", "orbax-checkpoint", "grain", "numpy")


def write_config(workdir: Path, config: Config) -> None:
    """Writes `config.json`: the resolved config, the command line, versions."""
    workdir.mkdir(parents=True, exist_ok=True)
    content = {
        "config": json.loads(config.to_json()),
        "command": sys.argv,
        "versions": {name: metadata.version(name) for name in PACKAGES},
    }
    partial = workdir / "config.json.partial"
    partial.write_text(json.dumps(content, indent=2) + "\n")
    partial.rename(workdir / "config.json")


def read_config(workdir: Path) -> Config:
    """The config that a workdir was made with.

    Raises:
      UserError: when the folder is no workdir.
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
    """Keys, free ones excepted, whose values differ: `batch_size (8, was 4)`.

    Where the learning rate falls towards the last step, the number of steps is not free.
    Of an imported run that is untrained as yet, only what its networks are is fixed.
    """
    free = set(FREE_KEYS) - ({"steps"} if ours.opt.decay else set())
    if untrained:
        free = set(ours.keys()) - {"system", "model", "image_size", "diffusion"}
    now = _flatten(json.loads(ours.to_json()))
    then = _flatten(json.loads(theirs.to_json()))
    return [
        f"{key} ({now.get(key, 'absent')}, was {then.get(key, 'absent')})"
        for key in sorted(now.keys() | then.keys())
        if key.split(".")[0] not in free and now.get(key) != then.get(key)
    ]


def flat_keys(config: Config) -> list[str]:
    """Every key of a config, dotted."""
    return list(_flatten(config.to_dict()))


def _flatten(tree: Any, prefix: str = "") -> dict[str, Any]:
    if not isinstance(tree, dict):
        return {prefix: tree}
    return {
        name: value
        for key, child in tree.items()
        for name, value in _flatten(child, f"{prefix}.{key}" if prefix else key).items()
    }


def is_untrained(workdir: Path) -> bool:
    """Whether a run is as it was imported: it holds step 0 and no other."""
    names = {path.name for path in workdir.glob("checkpoints/*")}
    return {name for name in names if name.isdigit()} == {"0"}


def open_checkpoints(workdir: Path, keep: int, best: str) -> ocp.training.Checkpointer:
    """The checkpoints of a workdir.

    Args:
      workdir: the run's folder.
      keep: how many of the newest steps to keep.
      best: a logged metric; the step where it was best is kept as well. That is
        lowest, unless the metrics' suite says otherwise. Empty: none.
    """
    policies: Any = ocp.training.preservation_policies
    kept: list[Any] = [policies.LatestN(keep)]
    if best:
        kept.append(
            policies.BestN(
                # A save without it, as after SIGTERM, is no candidate.
                get_metric_fn=lambda metrics: badness(best, metrics),
                reverse=True,
                n=1,
                keep_checkpoints_without_metrics=False,
            )
        )
    return ocp.training.Checkpointer(
        str((workdir / "checkpoints").absolute()),
        preservation_policy=policies.AnyPreservationPolicy(kept),
        cleanup_tmp_directories=True,
    )


def save(
    checkpoints: ocp.training.Checkpointer,
    state: State,
    data: Any,
    metrics: Mapping[str, float],
) -> Any:
    """Starts saving a step in the background; the answer's `result()` waits for it.

    Step 0, which an import writes, has no `data`: nothing was drawn yet.
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
    """The newest state, laid out as `abstract` says; `data` is set to go on with it.

    Returns None where nothing was saved yet. At step 0, of an imported run, `data`
    stays at its beginning.

    Raises:
      UserError: when the checkpoint's arrays are not those of `abstract`.
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
    """What completion needs from a workdir: config, variables, and their step.

    Args:
      workdir: the run's folder.
      best: take the step with the best `config.best` metric instead of the newest.

    Raises:
      UserError: when the folder is no workdir or holds no whole checkpoint.
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
        # The optimisers' states stay on disk, whatever they are.
        stored: Any = checkpoints.metadata(step).metadata
        opt = jax.tree.map(lambda _: ocp.PLACEHOLDER, stored["opt"])
        abstract = abstract_state(config).replace(opt={})
        check_match(checkpoints, step, abstract, but=("opt",))
        wanted = {"state": abstract.replace(opt=opt)}
        state = checkpoints.load_checkpointables(step, wanted)["state"]
    return config, inference_variables(state), step


def abstract_state(config: Config) -> State:
    """Shapes and dtypes of a config's state, on one device; nothing is computed."""
    try:
        system = methods.make(config)
    except AttributeError as error:  # ConfigDict's for a key that is not there
        raise UserError(
            f"the config lacks a key ({error}); the run was made by another version of "
            "picjax: add the key to its config.json, or train again"
        ) from None
    abstract = jax.eval_shape(system.init, abstract_batch(config), jax.random.key(0))
    device = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    return jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=device), abstract
    )


def abstract_batch(config: Config) -> dict[str, jax.ShapeDtypeStruct]:
    """Shapes and dtypes of the smallest batch that every system starts from."""
    height, width = image_shape(config)
    channels = {"image": 3, "mask": 1}
    return {
        name: jax.ShapeDtypeStruct((2, height, width, c), "float32")
        for name, c in channels.items()
    }


def badness(best: str, metrics: Mapping[str, float]) -> float:
    """How a checkpoint is ranked: lower is better; without the metric it is last."""
    metric = best.removeprefix("eval/").removesuffix("_hole")
    sign = -1 if BETTER.get(metric) == "max" else 1
    return sign * metrics[best] if best in metrics else math.inf


def _best_step(checkpoints: ocp.training.Checkpointer, best: str) -> int:
    if not best:
        raise UserError("this run kept no best checkpoint; train it with --config.best")
    scored: dict[int, Any] = {c.step: c.metrics for c in checkpoints.checkpoints}
    scored = {step: m for step, m in scored.items() if m and best in m}
    if not scored:
        raise UserError(f"no checkpoint of this run has the metric '{best}'; mend it")
    return min(scored, key=lambda step: badness(best, scored[step]))


def check_match(
    checkpoints: ocp.training.Checkpointer,
    step: int,
    abstract: State,
    but: tuple[str, ...] = (),
) -> None:
    """Compares names and shapes of a checkpoint with those expected.

    Args:
      checkpoints: of a workdir.
      step: which one.
      abstract: the state that the config makes.
      but: fields that are not compared.

    Raises:
      UserError: listing what only one side has, and what differs in shape.
    """
    metadata: Any = checkpoints.metadata(step).metadata
    stored = {name: tree for name, tree in metadata.items() if name not in but}
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
            f"({'; '.join(problems[:5])}{more}); use the config it was made with"
        )


def _shapes(tree: Any) -> dict[str, tuple[int, ...]]:
    leaves = jax.tree_util.tree_leaves_with_path(
        tree, is_leaf=lambda x: hasattr(x, "shape")
    )
    return {
        jax.tree_util.keystr(path, simple=True, separator="/"): tuple(leaf.shape)
        for path, leaf in leaves
    }
