"""What `picjax.eval` evaluates: a run on held-out images, or folders of images.

A task follows from the command's options, a manifest that is repeated, and a paper's
protocol.
"""

import json
import sys
from collections.abc import Iterable, Sequence
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import Any

import jax
from etils import epath
from ml_collections import ConfigDict

from picjax import __version__, masks
from picjax.buckets import AnyPath, is_remote
from picjax.checkpoints import read_config
from picjax.cli import UserError, check_choice
from picjax.data.sources import count_same, evaluation_files, training_files
from picjax.evaluation import baselines, examples, folders
from picjax.evaluation.baselines import Baseline
from picjax.evaluation.examples import Sampling
from picjax.evaluation.metrics import catalog
from picjax.evaluation.metrics.networks import Networks, Settings
from picjax.evaluation.metrics.results import Accumulator
from picjax.evaluation.options import Options
from picjax.evaluation.run import EvalTask
from picjax.evaluation.store import CompletionStore
from picjax.inputs import check_mask_given, translates
from picjax.model import Model, load
from picjax.system import Config, image_shape

IMAGES, NUM = 100, 10  # of a run, by default
PACKAGES = ("jax", "flax", "numpy", "pillow")
FEATURES = ("pipeline", "net", "version", "pairs", "luma")


def run_task(options: Options, workdir: str, label: str, out: AnyPath) -> EvalTask:
    """A workdir's model on its held-out images."""
    model = load(workdir, options.sampler or "", options.checkpoint or "newest")
    training = training_files(model.config.data)
    set_data(model, options)
    num, images = options.num or NUM, options.images or IMAGES
    sampling = Sampling(num, options.seed, options.best_of, not options.raw)
    settings = feature_settings(options)
    reasons = _run_reasons(options, model, num, images, settings.net)
    no_hole = "the whole image is generated" if without_masks(model) else ""
    metrics, beside, protocol = measured(options, settings, reasons, no_hole)
    drawing = run_protocol(options, model, workdir)
    checkpoint = epath.Path(workdir) / "checkpoints" / str(model.step)
    height, width = model.size
    store = CompletionStore(
        out / "completions",
        drawing | {"num": num, "raw": options.raw, "seed": options.seed},
        checkpoint,
        (num, height, width, 3),
    )
    create = examples.model_examples
    if options.own_size:
        create = examples.own_size_examples
    batch_size = min(examples.BATCH * jax.local_device_count(), images)
    return EvalTask(
        label=label,
        examples=partial(create, model, sampling, images, batch_size, store),
        total=images,
        metrics=metrics,
        protocol=drawing
        | protocol
        | {"num": num, "remarks": seen_in_training(model, training, images)},
        inputs=[checkpoint, *data_files(model.config.data), *stats_files(options)],
        out=out,
        expected=options.expected,
        store=store,
        baselines=beside,
    )


def set_data(model: Model, options: Options) -> None:
    """Sets the images and masks of a model's config to those that are asked for."""
    if options.repeated and "name" in options.repeated["protocol"]["data"]:
        with model.config.unlocked():
            model.config.data = ConfigDict(options.repeated["protocol"]["data"])
    if options.real:
        set_images(model.config, options.real)
    if model.translates:
        check_mask_given(True, options.mask)
    elif options.mask:
        set_masks(model.config, options.mask)
    elif options.preset and options.preset.masks and not options.repeated:
        set_masks(model.config, options.preset.masks)


def _run_reasons(
    options: Options, model: Model, num: int, images: int, net: str
) -> dict[str, str]:
    """Metrics that cannot be measured of a run -> why."""
    sizes, has_likelihood = {model.size}, model.has_likelihood
    if options.own_size:  # a likelihood is of the model's size
        named = examples.own_size_files(model, images)
        sizes, has_likelihood = examples.sizes(path for _, path in named), False
    data, reasons = model.config.data, {}
    for size in sizes:
        reasons |= catalog.inapplicable(data, has_likelihood, size, num, images, net)
    if without_masks(model):
        reasons["seam"] = "needs a hole, and the whole image is generated"
    return reasons


def seen_in_training(model: Model, training: Sequence[Path], images: int) -> list[str]:
    """What a report must state about images that the run was trained on."""
    if not training:
        return []
    count = count_same(evaluation_files(model.config.data)[:images], training)
    if not count:
        return []
    return [
        f"Trained on {count} of these images: the numbers are not those of held-out data"
    ]


def without_masks(model: Model) -> bool:
    """Whether a run generates whole images, from pairs or from label maps."""
    data: Any = model.config.data  # a ConfigDict's type does not know its keys
    return not data.masks


def run_protocol(options: Options, model: Model, workdir: str) -> dict[str, Any]:
    """What the protocol states about a run besides `common_protocol`."""
    config: dict[str, Any] = json.loads(model.config.to_json())
    data = config["data"]
    known = "as the system makes them" if options.raw else "pasted"
    height, width = model.size
    resized = f"resized from {width}x{height} to the image's own size (bicubic), "
    resized = resized if options.own_size else ""
    return {
        "what": f"{config['system']} ({workdir}, step {model.step})",
        "system": config["system"],
        "workdir": workdir,
        "step": model.step,
        "data_source": options.real or f"held-out part of {data['name']}",
        "data": data,
        "masks": ", ".join(data["masks"]) or "none, the whole image is generated",
        "best_of": options.best_of,
        "sampler": config.get("sampler"),
        "own_size": options.own_size,
        "pixels": f"Rounded to uint8, {resized}known pixels {known}",
    }


def work_at_different_sizes(workdirs: Sequence[str]) -> bool:
    """Whether runs that complete holes work at different sizes.

    Raises:
      UserError: if a folder is no workdir.
    """
    configs = [read_config(workdir) for workdir in workdirs]
    if any(translates(config) for config in configs):
        return False
    return len({image_shape(config) for config in configs}) > 1


def set_images(config: Config, folder: str) -> None:
    """Sets a config's held-out images to those of a folder."""
    name = "aligned" if config.data.name == "aligned" else "folder"
    change = {"data.name": name, "data.path": folder, "data.eval_path": folder}
    with config.ignore_type():
        config.update_from_flattened_dict(change)


def set_masks(config: ConfigDict, mask: str | Sequence[str]) -> None:
    """Sets a config's masks to one name, several names, or files.

    Raises:
      UserError: if a name is unknown.
    """
    if isinstance(mask, str) and Path(mask).exists():
        change = {"data.masks": (masks.FILES,), "data.mask_path": mask}
    else:
        names = (mask,) if isinstance(mask, str) else tuple(mask)
        for name in names:
            check_choice("mask", name, masks.NAMES)
        change = {"data.masks": names}
    with config.ignore_type():
        config.update_from_flattened_dict(change)


def folder_task(options: Options, fake: str, label: str, out: AnyPath) -> EvalTask:
    """The completions in one folder against the images in another."""
    real = options.real or ""
    pairs = folders.find_pairs(real, fake, options.num, options.pattern)
    if options.mask:
        pairs = folders.with_masks(pairs, options.mask, options.pair == "order")
    if options.expected is not None:
        names = [entry["name"] for entry in options.expected]
        pairs = folders.in_order(pairs, names)
    pairs = pairs[: options.images]
    composite = not options.raw and options.mask is not None
    reading = folders.Reading(options.seed, options.invert_mask, composite)
    remarks = folders.check_pixels(pairs, reading) if options.mask else []
    num, settings, reasons = len(pairs[0].fakes), feature_settings(options), {}
    for size in examples.sizes(pair.real for pair in pairs):
        reasons |= catalog.inapplicable(
            None, False, size, num, len(pairs), settings.net
        )
    no_hole = "" if options.mask else "the hole is unknown; give --mask"
    if no_hole:
        reasons["seam"] = f"cannot be measured: {no_hole}"
    metrics, beside, protocol = measured(options, settings, reasons, no_hole)
    protocol = {
        "what": f"{fake} against {real}",
        "data_source": real,
        "data": {"real": real, "fake": fake},
        "masks": options.mask or "not given",
        "pair": options.pair,
        "inverted": options.invert_mask,
        "pixels": "8-bit files "
        + ("with the truth's known pixels pasted" if composite else "as they are"),
        **protocol,
        "num": num,
        "remarks": remarks,
    }
    return EvalTask(
        label=label,
        examples=partial(folders.folder_examples, pairs, reading),
        total=len(pairs),
        metrics=metrics,
        protocol=protocol,
        inputs=[*folders.pair_files(pairs), *stats_files(options)],
        out=out,
        expected=options.expected,
        baselines=beside,
    )


def measured(
    options: Options, settings: Settings, reasons: dict[str, str], no_hole: str
) -> tuple[dict[str, Accumulator], list[Baseline], dict[str, Any]]:
    """The metrics, the baselines beside them, and what every protocol states.

    Args:
      options: of the command.
      settings: of metrics with networks.
      reasons: metrics that cannot be measured here -> why.
      no_hole: why there is no hole that a baseline could fill; empty if there is one.

    Raises:
      UserError: if something that is asked for by name cannot be measured.
    """
    networks = Networks(settings)
    metrics, left_out = choose_metrics(options, networks, reasons)
    if no_hole and options.baselines is None:
        left_out["baselines"] = no_hole
    beside = choose_baselines(options, networks, metrics, no_hole)
    protocol = {
        "asked": options.metrics,
        "raw": options.raw,
        "seed": options.seed,
        "stats": options.stats,
        "metrics": {name: metric.description for name, metric in metrics.items()},
        "left_out": left_out,
        "baselines": {b.name: b.method.description for b in beside},
        "versions": {"picjax": __version__, "python": sys.version.split()[0]}
        | {name: metadata.version(name) for name in PACKAGES},
    }
    return metrics, beside, protocol


def choose_metrics(
    options: Options, networks: Networks, reasons: dict[str, str]
) -> tuple[dict[str, Accumulator], dict[str, str]]:
    """The metrics to measure, and why others are left out.

    Raises:
      UserError: if a metric that is asked for by name cannot be measured.
    """
    if options.preset is not None or options.metrics in ("all", "basic"):
        preset = options.preset
        names = preset.metrics if preset else catalog.parse_names(options.metrics, "")
        applicable = [name for name in names if name not in reasons]
        metrics, left_out = catalog.create_available(applicable, networks)
        if options.metrics != "basic":
            left_out |= {name: reasons[name] for name in names if name in reasons}
        return metrics, left_out
    names = catalog.parse_names(options.metrics, "--metrics")
    for name in names:
        if name in reasons:
            raise UserError(f"--metrics {name} {reasons[name]}; leave it out")
    return catalog.create(names, networks), {}


def choose_baselines(
    options: Options, networks: Networks, metrics: Iterable[str], no_hole: str
) -> list[Baseline]:
    """The methods that learn nothing to measure beside the completions.

    Raises:
      UserError: if one is unknown, not installed, or asked for without a hole.
    """
    names = baselines.parse_names(options.baselines)
    if no_hole and names and options.baselines is not None:
        raise UserError(f"--baselines cannot be measured: {no_hole}, or leave it out")
    if no_hole:
        return []
    of_one = [name for name in metrics if name not in baselines.WITHOUT]
    limit = baselines.MOST_PIXELS if options.baselines is None else None
    return [
        Baseline(
            name,
            catalog.create(of_one, networks),
            options.baseline_folder,
            limit,
        )
        for name in names
    ]


def feature_settings(options: Options) -> Settings:
    """How metrics with networks are measured.

    Raises:
      UserError: if a setting is unknown.
    """
    features: dict[str, Any] = dict(options.preset.settings) if options.preset else {}
    for word in (options.feature or "").split(","):
        key, _, value = word.partition("=")
        if word:
            check_choice("--feature", key, FEATURES)
            features[key] = value
    settings = Settings(
        options.weights,
        options.allow_random_features,
        reference=options.stats,
        seed=options.seed,
        **features,
    )
    catalog.check(settings)
    return settings


def stats_files(options: Options) -> list[Path]:
    """The files of `--stats`, which is a file or a folder of two."""
    path = Path(options.stats) if options.stats else None
    return [path, path / "m.npy", path / "s.npy"] if path else []


def data_files(data: Config) -> list[AnyPath]:
    """The files of a config's held-out images and masks; in a bucket, their folder."""
    # TFDS: `eval_path` is the name of a split of the data set at `path`.
    paths = [p for p in (data.eval_path, data.path) if p]
    roots = [p for p in paths if is_remote(p) or Path(p).exists()][:1]
    if masks.FILES in data.masks:
        roots.append(data.mask_path)
    folders = [Path(root) for root in roots if not is_remote(root)]
    return [
        *(epath.Path(root) for root in roots),
        *(path for folder in folders for path in folder.rglob("*")),
    ]
