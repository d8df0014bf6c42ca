"""Evaluation during training: metrics of held-out images, with averaged weights.

Images, masks and draws are those of `picjax.eval` with seed 0 at every step, so numbers
are comparable over a run; the run's own data and randomness stay untouched.
"""

import math
from collections.abc import Callable, Collection

import jax
import numpy as np

from picjax import sharding
from picjax.cli import UserError
from picjax.completion import CONDITIONS, check_finite, make_draw, visible_part
from picjax.data import pipeline
from picjax.evaluation.examples import BATCH, batch_examples
from picjax.evaluation.metrics import catalog
from picjax.evaluation.metrics.networks import Networks, Settings
from picjax.evaluation.metrics.results import BETTER, Result, column_name
from picjax.images import to_float
from picjax.system import Config, State, System, image_shape, inference_variables

PREFIX = "eval/"
# Metrics that are logged under another name: logged -> name in config.eval.metrics.
CONFIG_NAMES = {"precision": "pr", "recall": "pr", "p_ids": "ids", "u_ids": "ids"}
HOLES = ("l1", "psnr", "ssim", "likelihood", "lpips")  # logged for the hole too


def check(config: Config, system: System) -> None:
    """Refuses settings of `config.eval` and `config.best` that cannot work.

    Raises:
      UserError: naming the key.
    """
    names = metric_names(config, system) if config.eval.every else []
    if config.best.startswith(PREFIX):
        _check_best(config, names)


def metric_names(config: Config, system: System) -> list[str]:
    """The metrics of `config.eval.metrics`; of `all` and `basic`, the applicable ones.

    Raises:
      UserError: if one is unknown or does not apply.
    """
    text, num, images = config.eval.metrics, config.eval.num, config.eval.images
    names = catalog.parse_names(text, "config.eval.metrics")
    reasons = catalog.inapplicable(
        config.data, system.has_likelihood, image_shape(config), num, images
    )
    if text in ("all", "basic"):
        return [name for name in names if name not in reasons]
    if num == 1:  # the default metrics serve methods with one completion, too
        names = [name for name in names if name != "diversity"]
    for name in names:
        if name in reasons:
            raise UserError(f"config.eval.metrics {name} {reasons[name]}; leave it out")
    return names


def _check_best(config: Config, names: Collection[str]) -> None:
    """Checks that the metric of the best checkpoint is measured at every save.

    Raises:
      UserError: if not, or if neither end of its scale is better.
    """
    column = config.best.removeprefix(PREFIX)
    metric = column.removesuffix("_hole")
    if metric not in (HOLES if column.endswith("_hole") else BETTER):
        raise UserError(
            f"config.best '{config.best}' is not a metric with a better end; take "
            f"{PREFIX} and one of {', '.join(BETTER)}, or of "
            f"{', '.join(f'{name}_hole' for name in HOLES)}"
        )
    if CONFIG_NAMES.get(metric, metric.split("/")[0]) not in names:
        raise UserError(
            f"config.best '{config.best}' is not measured; set config.eval.every and "
            f"name it in config.eval.metrics (now {config.eval.metrics} every "
            f"{config.eval.every} steps)"
        )
    if config.save_every % config.eval.every:
        raise UserError(
            f"config.save_every {config.save_every} is no multiple of "
            f"config.eval.every {config.eval.every}; make it one, so that every "
            f"checkpoint has its {config.best}"
        )


def make_monitor(
    config: Config, system: System, mesh: jax.sharding.Mesh
) -> Callable[[State], dict[str, float]]:
    """A function from a state to `eval/NAME` and `eval/NAME_hole`: means over images.

    With several samples per image, it is their mean; values that are not finite are
    dropped. Memory does not grow with `config.eval.images`.

    Raises:
      UserError: if the weights of a measuring network are unavailable.
    """
    num, images = config.eval.num, config.eval.images
    names = metric_names(config, system) if config.eval.every else []
    batch_size = min(BATCH * mesh.size, images)
    even = batch_size % mesh.size == 0
    layout = sharding.batch_sharding(mesh) if even else sharding.replicated(mesh)
    whole = sharding.replicated(mesh)  # every process measures all images
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

    # Created before training: the weights of a network may be unavailable.
    metrics = list(catalog.create(names, Networks(Settings())).values())

    def measure(state: State) -> dict[str, float]:
        variables = inference_variables(state)
        for metric in metrics:
            metric.reset()
        for batch in pipeline.eval_batches(config.data, size, batch_size, images, 0):
            visible = place(visible_part(batch))
            drawn = draw(variables, visible, key, n=num, num_candidates=num)
            check_finite(drawn, [f"'{name}'" for name in batch["name"]])
            if "likelihood" in names:
                names_shown = ("image", "mask", *CONDITIONS)
                shown = {name: batch[name] for name in names_shown if name in batch}
                batch |= jax.device_get(score(variables, place(shown)))
            for example in batch_examples(batch, np.asarray(drawn.pixels)):
                for metric in metrics:
                    metric.add(example)
        return columns([r for metric in metrics for r in metric.results()])

    return measure


def columns(results: list[Result]) -> dict[str, float]:
    """What is logged of an evaluation: one value per metric and region.

    The mean over an image's samples, or that of all samples together, or of one.
    """
    logged: dict[str, float] = {}
    for samples in ("picnet", "first", "all", "mean"):  # later ones take precedence
        for r in results:
            if r.samples == samples and math.isfinite(r.value):
                # The posterior's are of the hole alone and do not say so in their name.
                region = "whole" if "/" in r.metric else r.region
                logged[PREFIX + column_name(r.metric, region)] = r.value
    return logged
