"""What `picjax.eval` measures: a run on its held-out images, or folders of images.

Each is made from the command's options, a manifest that it repeats and a paper's
preset, where there are any.
"""

import argparse
import hashlib
import json
import sys
from collections.abc import Sequence
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import Any

import jax
from ml_collections import ConfigDict

from picjax import __version__, masks
from picjax.checkpoints import read_config
from picjax.cli import UserError, check_choice
from picjax.data.decode import list_images
from picjax.evaluation import examples as groups
from picjax.evaluation import protocols
from picjax.evaluation.metrics import select, suite
from picjax.evaluation.metrics.networks import Settings
from picjax.evaluation.metrics.networks import check as check_settings
from picjax.evaluation.run import Subject
from picjax.model import Model, check_mask_given, load, translates
from picjax.system import Config, image_shape

IMAGES = 100  # of a run, where nothing else is said
NUM = 10
PACKAGES = ("jax", "flax", "numpy", "pillow")


def of_run(
    args: argparse.Namespace,
    manifest: dict[str, Any] | None,
    preset: protocols.Preset | None,
    workdir: str,
    label: str,
    out: Path,
) -> Subject:
    """A workdir's model on its held-out images."""
    model = load(workdir, args.sampler or "", args.checkpoint == "best")
    if manifest is not None and "name" in manifest["protocol"]["data"]:
        with model.config.unlocked():
            model.config.data = ConfigDict(manifest["protocol"]["data"])
    if args.real:
        use_images(model.config, args.real)
    if model.translates:
        check_mask_given(True, args.mask)
    elif args.mask:
        use_masks(model.config, args.mask)
    elif preset is not None and preset.masks and manifest is None:
        use_masks(model.config, preset.masks)
    num, images = args.num or NUM, args.images or IMAGES
    settings = feature_settings(args, preset)
    sizes, has_likelihood = {model.size}, model.has_likelihood
    if args.own_size:  # where a likelihood, which is of the model's size, has no place
        files = groups.own_size_files(model, images)
        sizes, has_likelihood = groups.sizes(path for _, path in files), False
    missing: dict[str, str] = {}
    for size in sizes:
        missing |= select.not_applying(
            model.config.data, has_likelihood, size, num, images, settings.net
        )
    metrics, left_out = pick(args, preset, settings, missing)
    protocol = run_protocol(args, model, workdir)
    protocol |= common_protocol(args, num, metrics, left_out)
    make = groups.own_size_groups if args.own_size else groups.model_groups
    batch_size = min(groups.BATCH * jax.device_count(), images)
    made = partial(
        make, model, num, images, args.seed, batch_size, args.best_of, args.raw
    )
    expected = manifest["images"] if manifest else None
    checkpoint = Path(workdir) / "checkpoints" / str(model.step)
    changed = stamps(args) | {
        "checkpoint": stamp(checkpoint),
        "files": listing(files_of(model.config.data)),
    }
    return Subject(label, made, images, metrics, protocol, changed, out, expected)


def run_protocol(
    args: argparse.Namespace, model: Model, workdir: str
) -> dict[str, Any]:
    """What the evaluation of a run states besides what all state."""
    config: dict[str, Any] = json.loads(model.config.to_json())
    data = config["data"]
    known = "as the system makes them" if args.raw else "pasted"
    return {
        "what": f"{config['system']} ({workdir}, step {model.step})",
        "system": config["system"],
        "workdir": workdir,
        "step": model.step,
        "data_source": args.real or f"held-out part of {data['name']}",
        "data": data,
        "masks": ", ".join(data["masks"]) or "none, the whole image is made",
        "best_of": args.best_of,
        "sampler": config.get("sampler"),
        "own_size": args.own_size,
        "pixels": f"Rounded to uint8, {resized(model)}known pixels {known}"
        if args.own_size
        else f"Rounded to uint8, known pixels {known}",
    }


def resized(model: Model) -> str:
    """How completions get to an image's own size."""
    height, width = model.size
    return f"resized from {width}x{height} to the image's own size (bicubic), "


def work_at_different_sizes(workdirs: Sequence[str]) -> bool:
    """Whether several runs complete holes at sizes of which one is not the others'.

    Raises:
      UserError: when a folder is no workdir.
    """
    configs = [read_config(Path(workdir)) for workdir in workdirs]
    if any(translates(config) for config in configs):
        return False
    return len({image_shape(config) for config in configs}) > 1


def use_images(config: Config, folder: str) -> None:
    """Sets a config's held-out images to those of a folder."""
    name = "aligned" if config.data.name == "aligned" else "folder"
    change = {"data.name": name, "data.path": folder, "data.eval_path": folder}
    with config.ignore_type():
        config.update_from_flattened_dict(change)


def use_masks(config: ConfigDict, mask: str | Sequence[str]) -> None:
    """Sets a config's masks to a named one, several, or to those of files.

    Raises:
      UserError: for a name that there is none of.
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


def of_folder(
    args: argparse.Namespace,
    manifest: dict[str, Any] | None,
    preset: protocols.Preset | None,
    fake: str,
    label: str,
    out: Path,
) -> Subject:
    """The completions in one folder against the images in another."""
    pairs = groups.find_pairs(args.real, fake, args.num, args.mask, args.pattern)
    if manifest is not None:
        pairs = in_order(pairs, [entry["name"] for entry in manifest["images"]])
    pairs = pairs[: args.images]
    num, settings = len(pairs[0].fakes), feature_settings(args, preset)
    missing: dict[str, str] = {}
    for size in groups.sizes(pair.real for pair in pairs):
        missing |= select.not_applying(None, False, size, num, len(pairs), settings.net)
    metrics, left_out = pick(args, preset, settings, missing)
    raw = args.raw or args.mask is None
    protocol = {
        "what": f"{fake} against {args.real}",
        "data_source": args.real,
        "data": {"real": args.real, "fake": fake},
        "masks": args.mask or "not given",
        "inverted": args.invert_mask,
        "pixels": "8-bit files "
        + ("as they are" if raw else "with the truth's known pixels pasted"),
        **common_protocol(args, num, metrics, left_out),
    }
    made = partial(_folder_from, pairs, args, raw)
    expected = manifest["images"] if manifest else None
    changed = stamps(args) | {"files": listing(groups.files_of(pairs))}
    return Subject(label, made, len(pairs), metrics, protocol, changed, out, expected)


def _folder_from(
    pairs: Sequence[groups.Pair], args: argparse.Namespace, raw: bool, start: int
):
    return groups.folder_groups(pairs[start:], args.seed, args.invert_mask, raw)


def in_order(pairs: Sequence[groups.Pair], names: Sequence[str]) -> list[groups.Pair]:
    """The pairs of these names, in their order.

    Raises:
      UserError: when one is not there.
    """
    by_name = {pair.stem: pair for pair in pairs}
    for name in names:
        if name not in by_name:
            raise UserError(
                f"--real holds no '{name}', which the manifest has; give all its images"
            )
    return [by_name[name] for name in names]


def pick(
    args: argparse.Namespace,
    preset: protocols.Preset | None,
    settings: Settings,
    missing: dict[str, str],
) -> tuple[dict[str, suite.Metric], dict[str, str]]:
    """The metrics to measure, and why others are left out.

    Args:
      args: of the command.
      preset: a paper's, which says which.
      settings: of metrics with networks.
      missing: those that cannot be measured here, and why.

    Raises:
      UserError: when one that is asked for by name cannot be measured.
    """
    if preset is not None or args.metrics in ("all", "basic"):
        names = preset.metrics if preset else select.parse_names(args.metrics, "")
        able = [name for name in names if name not in missing]
        metrics, left_out = select.make_available(able, settings)
        if args.metrics != "basic":
            left_out |= {name: missing[name] for name in names if name in missing}
        return metrics, left_out
    names = select.parse_names(args.metrics, "--metrics")
    for name in names:
        if name in missing:
            raise UserError(f"--metrics {name} {missing[name]}; leave it out")
    return select.make(names, settings), {}


def feature_settings(
    args: argparse.Namespace, preset: protocols.Preset | None
) -> Settings:
    """How metrics with networks are measured.

    Raises:
      UserError: for a setting that there is none of.
    """
    given: dict[str, Any] = dict(preset.settings) if preset else {}
    for word in (args.feature or "").split(","):
        key, _, value = word.partition("=")
        if word:
            check_choice(
                "--feature", key, ("pipeline", "net", "version", "pairs", "luma")
            )
            given[key] = value
    settings = Settings(
        args.weights,
        args.allow_random_features,
        reference=args.stats,
        seed=args.seed,
        **given,
    )
    check_settings(settings)
    return settings


def common_protocol(
    args: argparse.Namespace,
    num: int,
    metrics: dict[str, suite.Metric],
    left_out: dict[str, str],
) -> dict[str, Any]:
    """What every evaluation states."""
    return {
        "asked": args.metrics,
        "num": num,
        "raw": args.raw,
        "seed": args.seed,
        "stats": args.stats,
        "metrics": {name: metric.about for name, metric in metrics.items()},
        "left_out": left_out,
        "versions": {"picjax": __version__, "python": sys.version.split()[0]}
        | {name: metadata.version(name) for name in PACKAGES},
    }


def stamps(args: argparse.Namespace) -> dict[str, Any]:
    """When the statistics of `--stats`, a file or a folder of two, were changed."""
    if not args.stats:
        return {}
    path = Path(args.stats)
    return {"stats": [stamp(p) for p in (path, path / "m.npy", path / "s.npy")]}


def stamp(path: Path) -> int | None:
    """When a file was changed, in nanoseconds; None where there is none."""
    try:
        return path.stat().st_mtime_ns
    except OSError:
        return None


def files_of(data: Config) -> list[Path]:
    """The files that a config's held-out images and masks are in."""
    # TFDS: `eval_path` is the name of a part of what is at `path`.
    held_out = [p for p in (data.eval_path, data.path) if p and Path(p).exists()][:1]
    of_masks = [data.mask_path] if masks.FILES in data.masks else []
    found: list[Path] = []
    for place in (*held_out, *of_masks):
        if Path(place).is_dir():
            found += sorted(p for p in Path(place).rglob("*") if p.is_file())
        else:  # one, or a list of them
            found += [Path(place), *list_images(place, "config.data.path")]
    return found


def listing(paths: Sequence[Path]) -> str:
    """A checksum of files by name, size and time of change."""
    digest = hashlib.sha256()
    for path in paths:
        stat = path.stat()
        digest.update(f"{path} {stat.st_size} {stat.st_mtime_ns}\n".encode())
    return digest.hexdigest()[:16]
