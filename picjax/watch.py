"""Evaluation during training: metrics of held-out images, drawn with averaged weights.

The images, masks and draws are those of `picjax.eval` with seed 0 at every step, so the
numbers compare over a run; nothing of it touches the run's own data or randomness.
"""

import math
from collections.abc import Callable, Collection
from functools import cache

import jax
import numpy as np

from picjax import sharding
from picjax.cli import UserError
from picjax.complete import refuse_nan
from picjax.data import pipeline
from picjax.draw import make_draw, visible
from picjax.groups import batch_groups
from picjax.metrics import select, suite
from picjax.metrics.feature_suite import Settings
from picjax.system import Config, State, System, image_shape, inference_variables

PREFIX = "eval/"
BATCH = 8  # images completed at once on a device


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
    names = (
        select.parse_names(watch.metrics, "config.eval.metrics") if watch.every else []
    )
    for name, reason in select.not_applying(
        config.data, system.likelihood, image_shape(config), watch.num
    ).items():
        if name in names:
            raise UserError(f"config.eval.metrics {name} {reason}; leave it out")
    if config.best.startswith(PREFIX):
        refuse_missing(config, names)


def refuse_missing(config: Config, names: Collection[str]) -> None:
    """The metric that the best checkpoint is kept by is there at every save.

    Raises:
      UserError: when it is not.
    """
    column = config.best.removeprefix(PREFIX)
    if column.removesuffix("_hole").split("/")[0] not in names:
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
    """
    num, images = config.eval.num, config.eval.images
    names = select.parse_names(config.eval.metrics, "config.eval.metrics")
    batch_size = min(BATCH * mesh.size, images)
    even = batch_size % mesh.size == 0
    layout = sharding.batch_sharding(mesh) if even else sharding.replicated(mesh)
    whole = sharding.replicated(mesh)  # every process counts all of it
    key = jax.random.key(0)
    draw = jax.jit(make_draw(system), static_argnums=(3, 4), out_shardings=whole)
    size = image_shape(config)

    @jax.jit
    def score(variables, batch):
        return system.evaluate(variables, pipeline.to_float(batch), key)

    def place(batch: dict[str, np.ndarray]) -> dict[str, jax.Array]:
        return {
            name: jax.make_array_from_callback(x.shape, layout, x.__getitem__)
            for name, x in batch.items()
        }

    @cache
    def made() -> list[tuple[suite.Metric, dict[str, np.ndarray]]]:
        """Every metric with what it is when nothing was counted; networks load once."""
        found = select.make(names, Settings()).values()
        return [(metric, metric.state()) for metric in found]

    def watch(state: State) -> dict[str, float]:
        variables = inference_variables(state)
        for metric, empty in made():
            metric.restore(empty)
        metrics = [metric for metric, _ in made()]
        for batch in pipeline.eval_batches(config.data, size, batch_size, images, 0):
            given = {name: batch[name] for name in pipeline.GIVEN if name in batch}
            seen = place(visible(batch["image"], batch["mask"], given))
            drawn = draw(variables, seen, key, num, num)
            refuse_nan(drawn, [f"'{name}'" for name in batch["name"]])
            if "likelihood" in names:
                shown = {"image": batch["image"], "mask": batch["mask"], **given}
                batch |= jax.device_get(score(variables, place(shown)))
            for group in batch_groups(batch, np.asarray(drawn.pixels)):
                for metric in metrics:
                    metric.add(group)
        return columns([r for metric in metrics for r in metric.results()])

    return watch


def columns(results: list[suite.Result]) -> dict[str, float]:
    """What is logged of an evaluation: one number a metric and region.

    The mean over an image's samples, or that of all together, or else of the first.
    """
    found: dict[str, float] = {}
    for samples in ("first", "all", "mean"):  # the last there is, counts
        for r in results:
            if r.samples == samples and math.isfinite(r.value):
                # Posterior's numbers are of the hole alone, and are not called so.
                region = "whole" if "/" in r.metric else r.region
                found[PREFIX + suite.column_of(r.metric, region)] = r.value
    return found
