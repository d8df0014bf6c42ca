"""What a workdir holds: `config.json`, and `checkpoints/<step>/` written by orbax.

Reading them; `picjax.saving` writes checkpoints. The checksums of a checkpoint's files
are compared before it is restored.
"""

import errno
import json
import logging
import math
import os
import re
import shlex
import sys
from collections.abc import Mapping
from importlib import metadata
from typing import Any

import jax
from etils import epath
from orbax.checkpoint import v1 as ocp

from picjax import buckets, checksums, files, methods, settings
from picjax.buckets import is_remote
from picjax.checksums import Damaged
from picjax.cli import UserError, check_choice, say
from picjax.evaluation.metrics.results import BETTER
from picjax.files import read_json, write_text
from picjax.flags import flatten
from picjax.system import Config, State, Tree, image_shape, inference_variables

# Keys that may change when a run is resumed; all others change its numbers.
FREE_KEYS = ("steps", "log_every", "save_every", "sample_every", "samples", "keep")
FREE_KEYS += ("best", "eval", "log", "mesh", "sampler")
# Keys that describe an imported run's networks.
NETWORK_KEYS = {"system", "model", "image_size", "diffusion"}
PACKAGES = ("jax", "flax", "optax", "orbax-checkpoint", "grain", "numpy")
# What fails is reported in one line, not also by Orbax in hundreds.
logging.getLogger("absl").addFilter(lambda record: "orbax" not in record.pathname)
DISK_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EIO)
STEP_NAME = re.compile(r"0|[1-9]\d*")
COMMITTED = "commit_success.txt"  # in a bucket, the last file of a checkpoint


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


def read_config(workdir: epath.PathLike) -> Config:
    """Read the config of a workdir, perhaps of an older version.

    Raises:
      UserError: if the folder is no workdir, or a value is invalid.
    """
    buckets.check(workdir, "--workdir")
    path = epath.Path(workdir) / "config.json"
    try:
        config = methods.saved_config(read_json(path)["config"])
    except (FileNotFoundError, NotADirectoryError):
        raise UserError(
            f"'{workdir}' is not a workdir (it has no config.json); "
            "point --workdir to a folder that picjax.train wrote"
        ) from None
    except (ValueError, KeyError, TypeError, AttributeError):
        raise UserError(
            f"'{path}' is damaged; restore it, or train into another --workdir"
        ) from None
    try:
        settings.check(config)
    except UserError as error:
        raise UserError(
            f"'{path}' is damaged, or of another version of picjax: {error}"
        ) from None
    return config


def differing_keys(ours: Config, theirs: Config, untrained: bool = False) -> list[str]:
    """Describe the keys that differ and may not: `batch_size (8, was 4)`.

    Args:
      ours: the new config.
      theirs: the config of the run to resume.
      untrained: whether the run is imported and not yet trained; then only its networks
        are fixed.

    If the learning rate decays towards the last step, `steps` may not change either.
    """
    free = set(FREE_KEYS) - ({"steps"} if ours.opt.get("decay", 0.0) else set())
    if untrained:
        free = set(ours.keys()) - NETWORK_KEYS
    now = flatten(json.loads(ours.to_json()))
    then = flatten(json.loads(theirs.to_json()))
    return [
        f"{key} ({now.get(key, 'absent')}, was {then.get(key, 'absent')})"
        for key in sorted(now.keys() | then.keys())
        if key.split(".")[0] not in free and now.get(key) != then.get(key)
    ]


def check_same_config(config: Config, workdir: epath.PathLike) -> None:
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


def is_untrained(workdir: epath.PathLike) -> bool:
    """Whether a run was imported and not trained: step 0 is its only checkpoint."""
    return saved_steps(workdir) == [0]


def saved_steps(workdir: epath.PathLike) -> list[int]:
    """The steps of a workdir's checkpoints, damaged ones included, ascending."""
    folder = epath.Path(workdir) / "checkpoints"
    names = [path.name for path in folder.iterdir()] if folder.is_dir() else []
    names = [name for name in names if STEP_NAME.fullmatch(name)]
    if is_remote(folder):  # where an unfinished one has its final name
        names = [name for name in names if (folder / name / COMMITTED).exists()]
    return sorted(map(int, names))


def restore_variables(
    workdir: epath.PathLike, checkpoint: int | str = "newest"
) -> tuple[Config, Tree, int]:
    """Restore what completion needs: config, inference variables, and their step.

    Args:
      workdir: the run's folder.
      checkpoint: "newest"; "best", the one with the best `config.best`; or a step. If
        it is damaged, a line names it and the next newest (or best) one is restored;
        not if it was given as a step.

    Raises:
      UserError: if the folder is no workdir or holds no such checkpoint that is whole.
    """
    config = read_config(workdir)
    if not saved_steps(workdir):
        raise UserError(
            f"'{workdir}' holds no checkpoint yet; train until the first save "
            f"(config.save_every is {config.save_every}) or save more often"
        )
    candidates = choose(workdir, config.best, checkpoint)
    abstract = abstract_state(config).replace(opt={})
    for step, following in zip(candidates, [*candidates[1:], None], strict=True):
        path = epath.Path(workdir) / "checkpoints" / str(step)
        try:
            has_checksums = checksums.verify(path)
            state = load_step(path, abstract, ignored=("opt",))
            if not has_checksums:
                say(without_checksums(path))
            return config, inference_variables(state), step
        except Damaged as error:
            problem = describe_damage(path, error)
        if following is None:
            raise UserError(f"{problem}; restore it from a copy, or train again")
        say(f"{problem}; step {following} is used instead: {removal(path)}")
    raise AssertionError("there is no candidate")


def choose(workdir: epath.PathLike, best: str, checkpoint: int | str) -> list[int]:
    """The steps of a workdir to restore: the wanted one, then its substitutes.

    Args:
      workdir: the run's folder.
      best: the metric that checkpoints are ranked by, if any.
      checkpoint: "newest", "best" or a step.

    Raises:
      UserError: if there is no such checkpoint.
    """
    steps = saved_steps(workdir)
    if STEP_NAME.fullmatch(str(checkpoint)):
        if int(checkpoint) not in steps:
            raise UserError(
                f"'{workdir}' has no checkpoint {checkpoint}; take one of "
                f"{', '.join(map(str, steps))}"
            )
        return [int(checkpoint)]
    check_name(checkpoint)
    if checkpoint == "newest":
        return steps[::-1]
    if not best:
        raise UserError("this run kept no best checkpoint; train it with --config.best")
    metrics = {
        step: read_metrics(epath.Path(workdir) / "checkpoints" / str(step))
        for step in steps
    }
    scored = [step for step in steps if best in metrics[step]]
    if not scored:
        raise UserError(
            f"no checkpoint of this run has the metric '{best}'; train it with "
            "--config.best"
        )
    return sorted(scored, key=lambda step: badness(best, metrics[step]))


def check_name(checkpoint: int | str) -> None:
    """Check that a checkpoint is "newest", "best" or a step.

    Raises:
      UserError: otherwise.
    """
    if not STEP_NAME.fullmatch(str(checkpoint)):
        check_choice("--checkpoint", str(checkpoint), ("newest", "best", "a step"))


def read_metrics(path: epath.Path) -> dict[str, float]:
    """The metrics that were saved with a checkpoint; empty if they cannot be read."""
    try:
        content = json.loads((path / "metrics" / "metrics").read_bytes())
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def load_step(
    path: epath.Path, abstract: State, ignored: tuple[str, ...] = ()
) -> State:
    """Load a checkpoint.

    Args:
      path: its folder.
      abstract: shapes, dtypes and shardings of the state.
      ignored: fields of the state that are not read.

    Raises:
      Damaged: if it has no checksums and cannot be read.
      UserError: if its arrays do not match `abstract`.
    """
    path = files.absolute(path)  # orbax reads nothing at a relative path
    try:
        stored: Any = ocp.metadata(path).metadata
        check_match(path, stored, abstract, ignored)
        blank = {k: jax.tree.map(lambda _: ocp.PLACEHOLDER, stored[k]) for k in ignored}
        wanted: dict[str, Any] = {"state": abstract.replace(**blank)}
        return ocp.load_checkpointables(path, wanted)["state"]
    except UserError:
        raise
    except Exception as error:
        if (path / checksums.FILE).exists():  # so its files are as they were written
            raise
        raise Damaged(f"it cannot be read: {summary(error)}") from error


def describe_damage(path: epath.Path, error: Damaged) -> str:
    """Name a damaged checkpoint."""
    return f"checkpoint {path.name} in '{path.parent}' is damaged ({error})"


def removal(path: epath.Path) -> str:
    """How to remove a folder, as a part of a sentence."""
    command = "gcloud storage rm -r" if is_remote(path) else "rm -r"
    return f"remove it with {command} {shlex.quote(str(path))}"


def without_checksums(path: epath.Path) -> str:
    """Report a checkpoint that is not verified."""
    return (
        f"checkpoint {path.name} in '{path.parent}' has no {checksums.FILE}, as those of "
        "earlier versions; it is used without a check"
    )


def summary(error: BaseException) -> str:
    """One line about an exception."""
    # tensorstore has the reason at the end of a long message.
    for reason in map(os.strerror, DISK_ERRORS):
        if reason in str(error):
            return reason
    lines = str(error).split("\n")
    return f"{type(error).__name__}: {lines[0][:200]}" if lines[0] else repr(error)


def abstract_state(config: Config) -> State:
    """Shapes and dtypes of a config's state on one device, without computing it."""
    system = methods.make(config)
    abstract = jax.eval_shape(system.init, abstract_batch(config), jax.random.key(0))
    device = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    return jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=device), abstract
    )


def abstract_batch(config: Config, size: int = 2) -> dict[str, jax.ShapeDtypeStruct]:
    """Shapes and dtypes of a batch with the entries that methods read."""
    pixels = (size, *image_shape(config))
    shapes = {"image": ((*pixels, 3), "float32"), "mask": ((*pixels, 1), "float32")}
    if config.data.name == "aligned":
        shapes |= {"condition": ((*pixels, 3), "float32")}
    if config.data.get("maps"):
        shapes |= {"label": (pixels, "int32"), "instance": (pixels, "int32")}
    if config.data.get("classes"):
        shapes |= {"class": ((size,), "int32")}
    return {name: jax.ShapeDtypeStruct(*x) for name, x in shapes.items()}


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


def check_match(
    path: epath.Path, stored: Tree, abstract: State, ignored: tuple[str, ...] = ()
) -> None:
    """Compare names and shapes of a checkpoint with the expected ones.

    Args:
      path: of the checkpoint.
      stored: metadata of its state.
      abstract: the expected state.
      ignored: fields that are not compared.

    Raises:
      UserError: listing names on one side only and differing shapes.
    """
    stored = {name: tree for name, tree in stored.items() if name not in ignored}
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
            f"checkpoint {path.name} in '{path.parent}' does not fit the config "
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
