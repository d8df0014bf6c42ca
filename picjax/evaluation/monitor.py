"""Evaluation during training: metrics of held-out images, drawn with averaged weights.

The images, masks and draws are those of `picjax.eval` with seed 0 at every step, so the
numbers compare over a run; nothing of it touches the run's own data or randomness.
"""

import math
from collections.abc import Callable, Collection

import jax
import numpy as np

from picjax import sharding
from picjax.cli import UserError
from picjax.completion import CONDITIONS, check_finite, make_draw, visible_part
from picjax.data import pipeline
from picjax.evaluation.examples import BATCH, batch_groups
from picjax.evaluation.metrics import select, suite
from picjax.evaluation.metrics.networks import Settings
from picjax.images import to_float
from picjax.system import Config, State, System, image_shape, inference_variables

PREFIX = "eval/"
# Metrics that are logged under other names than their own: logged -> asked for.
ASKED = {"precision": "pr", "recall": "pr", "p_ids": "ids", "u_ids": "ids"}
HOLES = ("l1", "psnr", "ssim", "likelihood", "lpips")  # are logged of the hole, too


def check(config: Config, system: System) -> None:
    """Refuses settings of `config.eval` and `config.best` that cannot work.

    Raises:
      UserError: naming the key.
    """
    watch = config.eval
    if watch.every < 0:
        raise UserError("config.eval.every is negative; 0 switches evaluation off")
    for key in ("images", "num"):
        if watch[key] < 1:
            raise UserError(f"config.eval.{key} is below 1; make it at least 1")
    names = metric_names(config, system) if watch.every else []
    if config.best.startswith(PREFIX):
        refuse_missing(config, names)


def metric_names(config: Config, system: System) -> list[str]:
    """The metrics of `config.eval.metrics`; of `all` and `basic` those that apply.

    Raises:
      UserError: for one that there is none of, or that does not apply.
    """
    watch = config.eval
    names = select.parse_names(watch.metrics, "config.eval.metrics")
    missing = select.not_applying(
        config.data, system.has_likelihood, image_shape(config), watch.num, watch.images
    )
    if watch.metrics in ("all", "basic"):
        return [name for name in names if name not in missing]
    for name in names:
        if name in missing:
            raise UserError(f"config.eval.metrics {name} {missing[name]}; leave it out")
    return names


def refuse_missing(config: Config, names: Collection[str]) -> None:
    """The metric that the best checkpoint is kept by is there at every save.

    Raises:
      UserError: when it is not, or neither of its ends is better.
    """
    column = config.best.removeprefix(PREFIX)
    metric = column.removesuffix("_hole")
    if metric not in (HOLES if column.endswith("_hole") else suite.BETTER):
        raise UserError(
            f"config.best '{config.best}' says nothing of what is better; take "
            f"{PREFIX} and one of {', '.join(suite.BETTER)}, or of "
            f"{', '.join(f'{name}_hole' for name in HOLES)}"
        )
    if ASKED.get(metric, metric.split("/")[0]) not in names:
        raise UserError(
            f"config.best '{config.best}' is not measured; set config.eval.every and "
            f"name it in config.eval.metrics (now {watch_text(config)})"
        )
    if config.save_every % config.eval.every:
        raise UserError(
            f"config.save_every {config.save_every} is no multiple of "
            f"config.eval.every {config.eval.every}; make it one, so that every "
            f"checkpoint has its {config.best}"
        )


def watch_text(config: Config) -> str:
    """`l1,psnr every 500 steps`."""
    return f"{config.eval.metrics} every {config.eval.every} steps"


def make_watcher(
    config: Config, system: System, mesh: jax.sharding.Mesh
) -> Callable[[State], dict[str, float]]:
    """A function from a state to `eval/NAME` and `eval/NAME_hole`: means over images.

    Of several samples an image it is their mean; numbers that are not finite are left
    out. Memory does not grow with `config.eval.images`.

    Raises:
      UserError: when weights of a network that measures are not to be had.
    """
    num, images = config.eval.num, config.eval.images
    names = metric_names(config, system) if config.eval.every else []
    batch_size = min(BATCH * mesh.size, images)
    even = batch_size % mesh.size == 0
    layout = sharding.batch_sharding(mesh) if even else sharding.replicated(mesh)
    whole = sharding.replicated(mesh)  # every process counts all of it
    key = jax.random.key(0)
    static = ("n", "num_candidates", "composite")
    draw = jax.jit(make_draw(system), static_argnames=static, out_shardings=whole)
    size = image_shape(config)

    def evaluate(variables, batch):
        return system.evaluate(variables, to_float(batch), key)

    score = jax.jit(evaluate, out_shardings=whole)

    def place(batch: dict[str, np.ndarray]) -> dict[str, jax.Array]:
        return {
            name: jax.make_array_from_callback(x.shape, layout, x.__getitem__)
            for name, x in batch.items()
        }

    # Before hours of training go by: a network may have no weights here.
    metrics = list(select.make(names, Settings()).values())
    empty = [metric.state() for metric in metrics]

    def watch(state: State) -> dict[str, float]:
        variables = inference_variables(state)
        for metric, nothing in zip(metrics, empty, strict=True):
            metric.restore(nothing)
        for batch in pipeline.eval_batches(config.data, size, batch_size, images, 0):
            visible = place(visible_part(batch))
            drawn = draw(variables, visible, key, n=num, num_candidates=num)
            check_finite(drawn, [f"'{name}'" for name in batch["name"]])
            if "likelihood" in names:
                names_shown = ("image", "mask", *CONDITIONS)
                shown = {name: batch[name] for name in names_shown if name in batch}
                batch |= jax.device_get(score(variables, place(shown)))
            for group in batch_groups(batch, np.asarray(drawn.pixels)):
                for metric in metrics:
                    metric.add(group)
        return columns([r for metric in metrics for r in metric.results()])

    return watch


def columns(results: list[suite.Result]) -> dict[str, float]:
    """What is logged of an evaluation: one number a metric and region.

    The mean over an image's samples, or that of all together, or else of one.
    """
    found: dict[str, float] = {}
    for samples in ("picnet", "first", "all", "mean"):  # the last there is, counts
        for r in results:
            if r.samples == samples and math.isfinite(r.value):
                # Posterior's numbers are of the hole alone, and are not called so.
                region = "whole" if "/" in r.metric else r.region
                found[PREFIX + suite.column_of(r.metric, region)] = r.value
    return found
