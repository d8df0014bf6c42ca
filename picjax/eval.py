"""Measures trained systems, or folders of images made by anyone's.

    python -m picjax.eval --workdir=runs/picmm --num=10
    python -m picjax.eval --real=DIR --fake=DIR --mask=DIR
    python -m picjax.eval --workdir=runs/picmm --workdir=runs/picnet --out=DIR

A run is measured on its config's held-out data with masks fixed by the seed, n
completions an image, known pixels pasted, everything rounded to uint8 first. Writes
metrics.json (numbers and the whole protocol), report.md, report.html (pictures to look
at), samples.csv (one row a sample), manifest.json (what was measured, to be repeated)
and grid.png. Several runs give a table side by side. An interrupted evaluation goes on
where the same command is given again. See docs/evaluation.md.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import Any

import jax
from ml_collections import ConfigDict

from picjax import __version__, compare, groups, masks, page, protocols, report
from picjax.checkpoints import read_config
from picjax.cli import Parser, UserError, check_choice, run
from picjax.data import pipeline
from picjax.data.decode import say
from picjax.measure import (
    Measured,
    Subject,
    fingerprint,
    forget,
    measure,
    read_manifest,
)
from picjax.metrics import fid, select, suite
from picjax.metrics.feature_suite import FEATURE_METRICS, Fid, Settings
from picjax.metrics.feature_suite import check as check_settings
from picjax.metrics.suite import Result
from picjax.model import load, refuse_mask
from picjax.system import Config

IMAGES = 100  # of a run, where nothing else is said
NUM = 10
PACKAGES = ("jax", "flax", "numpy", "pillow")


# ---- command line ----


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = Parser(
        prog="python -m picjax.eval",
        usage="python -m picjax.eval --workdir DIR | --real DIR --fake DIR [options]",
        description="Measures runs on held-out images, or folders of completions.",
        epilog="example: python -m picjax.eval --workdir=runs/demo-picmm --num=10",
        allow_abbrev=False,
        formatter_class=partial(argparse.HelpFormatter, max_help_position=28),
    )
    add = parser.add_argument
    add("--workdir", action="append", metavar="DIR", help="a run; several: compared")
    add("--checkpoint", metavar="C", help="of a run: newest, or best")
    add("--real", metavar="DIR", help="true images; of a run: these, not its own")
    add("--fake", action="append", metavar="DIR", help="completions; several: compared")
    add("--pattern", metavar="P", help="their names, such as {stem}_out_{i}")
    add("--mask", metavar="PATH|NAME", help="masks (white = hole); not the run's")
    add("--invert-mask", action="store_true", help="with --fake: black = hole")
    add("--raw", action="store_true", help="with --fake: do not paste known pixels")
    add("--num", type=int, metavar="N", help="completions an image (10, or all found)")
    add("--best-of", type=int, metavar="M", help="of a run: as in picjax.complete")
    add("--sampler", metavar="NAME", help="of a run: as in picjax.complete")
    add("--images", type=int, metavar="N", help="how many (100 of a run, or all found)")
    add("--seed", type=int, help="of masks and completions (0)")
    add(
        "--metrics", metavar="A,B", help="names, all, paper:NAME; without: no networks'"
    )
    add("--weights", metavar="DIR", help="of the networks that measure (docs)")
    add("--allow-random-features", action="store_true", help="untrained ones will do")
    add(
        "--feature",
        metavar="K=V,..",
        help="pipeline, net, version, pairs, luma of them",
    )
    add("--stats", metavar="FILE", help="FID against these statistics, not the truths'")
    add("--save-stats", metavar="FILE", help="write the truths' statistics")
    add("--manifest", metavar="FILE", help="repeat the evaluation that wrote it")
    add("--out", metavar="DIR", help="where it goes (WORKDIR/eval, or FAKE/eval)")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> None:
    """The command; see the module's docstring.

    Raises:
      UserError: for anything the user can mend.
    """
    args = parse(argv)
    check(args)
    manifest = read_manifest(args.manifest) if args.manifest else None
    preset = settle(args, manifest)
    sources = args.fake or args.workdir
    labels = compare.labels(sources)
    outs = out_folders(args, sources, labels)
    if args.workdir and len(sources) > 1:
        for workdir in sources:  # before hours go into the first
            read_config(Path(workdir))
    for source, label, out in zip(sources, labels, outs, strict=True):
        make = folder_subject if args.fake else run_subject
        subject = make(args, manifest, preset, source, label, out)
        if len(sources) > 1 and is_finished(subject):
            say(f"{label} is measured already, in {out}")
            continue
        if args.save_stats and "fid" not in subject.metrics:
            raise UserError("--save-stats goes with --metrics=fid; name it")
        finish(args, subject, measure(subject), preset)
    if len(sources) > 1:
        print(compare.write(outs, labels, outs[0].parent), end="")
        print(f"all of it: {outs[0].parent}/report.html")


def check(args: argparse.Namespace) -> None:
    """Refuses options that do not go together.

    Raises:
      UserError: naming them.
    """
    for option in ("num", "images", "best_of"):
        if getattr(args, option) is not None and getattr(args, option) < 1:
            name = option.replace("_", "-")
            raise UserError(f"--{name} is below 1; give 1 or more")
    if args.checkpoint is not None:
        check_choice("--checkpoint", args.checkpoint, ("newest", "best"))
    if bool(args.workdir) == bool(args.fake):
        raise UserError("give either --workdir, or --real and --fake")
    if args.fake and not args.real:
        raise UserError("--real and --fake go together; give both folders")
    if args.stats and args.save_stats:
        raise UserError("--stats and --save-stats exclude each other; give one")
    of_fake = ("invert_mask", "raw", "pattern")
    of_run = ("best_of", "sampler", "checkpoint")
    for option in of_fake if args.workdir else of_run:
        if getattr(args, option):
            other = "--fake" if args.workdir else "--workdir"
            why = "; a run's completions keep known pixels" if option == "raw" else ""
            name = option.replace("_", "-")
            raise UserError(f"--{name} goes with {other}{why}; leave it out")
    for option in ("invert_mask", "raw"):
        if getattr(args, option) and not args.mask:
            name = option.replace("_", "-")
            raise UserError(f"--{name} is about masks; give them by --mask")
    if args.manifest:
        for option in ("num", "images", "seed", "best_of"):
            if getattr(args, option) is not None:
                name = option.replace("_", "-")
                raise UserError(f"--manifest says what --{name} is; leave it out")


def settle(
    args: argparse.Namespace, manifest: dict[str, Any] | None
) -> protocols.Preset | None:
    """Fills `args` with what a manifest or a paper's preset says, then with defaults.

    Raises:
      UserError: for a metric or a preset that there is none of.
    """
    if manifest is not None:
        before = manifest["protocol"]
        args.num, args.images = before["num"], len(manifest["images"])
        args.seed, args.best_of = before["seed"], before.get("best_of")
        args.metrics = args.metrics or before["asked"]
    args.metrics = args.metrics if args.metrics is not None else "basic"
    preset = None
    if args.metrics.startswith(protocols.PREFIX):
        preset = protocols.find(args.metrics)
        args.images = args.images or preset.images
        if args.workdir:
            args.num = args.num or preset.num
    names = preset.metrics if preset else select.parse_names(args.metrics, "--metrics")
    refuse_unused(args, names)
    args.seed = args.seed or 0
    return preset


def refuse_unused(args: argparse.Namespace, names: Sequence[str]) -> None:
    """Refuses options of networks where no metric named has one.

    Raises:
      UserError: naming the option.
    """
    for option in ("stats", "save_stats"):
        if getattr(args, option) and "fid" not in names:
            name = option.replace("_", "-")
            raise UserError(f"--{name} goes with --metrics=fid; name it")
    if any(name in FEATURE_METRICS for name in names):
        return
    for option in ("weights", "feature", "allow_random_features"):
        if getattr(args, option):
            name = option.replace("_", "-")
            raise UserError(
                f"--{name} is of metrics with networks, and none is measured; name one "
                "by --metrics, such as fid"
            )


def out_folders(
    args: argparse.Namespace, sources: Sequence[str], labels: Sequence[str]
) -> list[Path]:
    """Where each source's evaluation goes."""
    if len(sources) == 1:
        return [Path(args.out or Path(sources[0]) / "eval")]
    top = Path(args.out or Path(sources[0]).parent / "comparison")
    return [top / label for label in labels]


# ---- what is measured ----


def run_subject(
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
        refuse_mask(True, args.mask)
    elif args.mask:
        use_masks(model.config, args.mask)
    elif preset is not None and preset.masks and manifest is None:
        use_masks(model.config, preset.masks)
    config: dict[str, Any] = json.loads(model.config.to_json())
    data = config["data"]
    num, images = args.num or NUM, args.images or IMAGES
    settings = feature_settings(args, preset)
    missing = select.not_applying(
        model.config.data,
        model.has_likelihood,
        model.size,
        num,
        images,
        settings.net,
    )
    metrics, left_out = pick(args, preset, settings, missing)
    protocol = {
        "what": f"{config['system']} ({workdir}, step {model.step})",
        "system": config["system"],
        "workdir": workdir,
        "step": model.step,
        "data_source": args.real or f"held-out part of {data['name']}",
        "data": data,
        "masks": ", ".join(data["masks"]) or "none, the whole image is made",
        "best_of": args.best_of,
        "sampler": config.get("sampler"),
        "pixels": "Rounded to uint8, known pixels pasted",
        **common_protocol(args, num, metrics, left_out),
    }
    batch_size = min(groups.BATCH * jax.device_count(), images)
    made = partial(
        groups.model_groups, model, num, images, args.seed, batch_size, args.best_of
    )
    expected = manifest["images"] if manifest else None
    checkpoint = Path(workdir) / "checkpoints" / str(model.step)
    changed = stamps(args) | {"checkpoint": stamp(checkpoint)}
    return Subject(label, made, images, metrics, protocol, changed, out, expected)


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
        change = {"data.masks": (pipeline.FILES,), "data.mask_path": mask}
    else:
        names = (mask,) if isinstance(mask, str) else tuple(mask)
        for name in names:
            check_choice("mask", name, masks.NAMES)
        change = {"data.masks": names}
    with config.ignore_type():
        config.update_from_flattened_dict(change)


def folder_subject(
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
    for size in groups.sizes(pairs):
        missing |= select.not_applying(None, False, size, num, len(pairs), settings.net)
    metrics, left_out = pick(args, preset, settings, missing)
    raw = args.raw or args.mask is None
    protocol = {
        "what": f"{fake} against {args.real}",
        "data_source": args.real,
        "data": {"real": args.real, "fake": fake, "files": groups.listing(pairs)},
        "masks": args.mask or "not given",
        "inverted": args.invert_mask,
        "pixels": "8-bit files "
        + ("as they are" if raw else "with the truth's known pixels pasted"),
        **common_protocol(args, num, metrics, left_out),
    }
    made = partial(_folder_from, pairs, args, raw)
    expected = manifest["images"] if manifest else None
    changed = stamps(args)
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


# ---- what is written ----


def is_finished(subject: Subject) -> bool:
    """Whether the very same was measured before."""
    try:
        content = json.loads((subject.out / "metrics.json").read_text())
    except (OSError, ValueError):
        return False
    return content.get("fingerprint") == fingerprint(subject)


def save_stats(metric: suite.Metric, path: Path) -> None:
    """Writes the statistics of the true images that FID counted."""
    assert isinstance(metric, Fid)
    with report.open_atomic(path) as file:
        fid.save(file, metric.real.stats())
    print(f"statistics of the true images: {path}")


def finish(
    args: argparse.Namespace,
    subject: Subject,
    measured: Measured,
    preset: protocols.Preset | None,
) -> None:
    """Writes metrics.json and the reports of an evaluation, and prints its table."""
    protocol = subject.protocol | measured.facts
    # A metric may say more of itself after it has seen all.
    protocol["metrics"] = {n: metric.about for n, metric in subject.metrics.items()}
    results = measured.results
    if args.save_stats:
        save_stats(subject.metrics["fid"], Path(args.save_stats))
    if preset is not None:
        results = reported(results, preset)
        protocol["paper"] = preset.about
        protocol["unlike_the_paper"] = [
            *protocols.changes(
                preset,
                protocol["images"],
                protocol["num"],
                protocol["resolution"],
                protocol["masks"],
                set(subject.metrics),
            ),
            *preset.unlike,
        ]
    page.write(subject.out, protocol, results, measured.gallery)
    content = {
        "fingerprint": fingerprint(subject),
        "protocol": protocol,
        "samples": suite.MEANING,
        "results": suite.tree(results),
    }
    text = json.dumps(content, indent=2) + "\n"
    report.write_text(subject.out / "metrics.json", text)
    forget(subject.out)
    header, cells = suite.table_cells(results)  # the units are in the report
    print(f"{protocol['what']}: {page.sentence(protocol)}")
    for line in page.notes(protocol):
        print(f"({line})")
    print(report.markdown_table(header[:-1], [row[:-1] for row in cells]), end="")
    print(f"protocol and numbers: {subject.out}/metrics.json")
    print(f"to look at:           {subject.out}/report.html")


def reported(results: Sequence[Result], preset: protocols.Preset) -> list[Result]:
    """The numbers that a paper reports: its choice of samples, where a metric has it."""
    inside = [r for r in results if r.region in preset.regions]
    chosen = {r.metric for r in inside if r.samples in preset.samples}
    return [r for r in inside if r.samples in preset.samples or r.metric not in chosen]


if __name__ == "__main__":
    run(main)
