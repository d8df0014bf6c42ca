"""Measures trained systems, or folders of images made by anyone's.

    python -m picjax.eval --workdir=runs/picmm --num=10
    python -m picjax.eval --real=DIR --fake=DIR --mask=DIR
    python -m picjax.eval --workdir=runs/picmm --workdir=runs/picnet --out=DIR

A run is measured on its config's held-out data with masks fixed by the seed, n
completions an image, known pixels pasted (--raw: as the system makes them), everything
rounded to uint8 first. Writes metrics.json (numbers and the whole protocol), report.md,
report.html (pictures to look at), samples.csv (one row a sample), manifest.json (what
was measured, to be repeated) and grid.png. Several runs give a table side by side. An
interrupted evaluation goes on where the same command is given again. See
docs/evaluation.md.
"""

import argparse
import json
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from picjax import files
from picjax.cli import Parser, UserError, check_choice, run
from picjax.data.decode import say
from picjax.evaluation import compare, protocols
from picjax.evaluation import tasks as subjects
from picjax.evaluation.metrics import fid, select, suite
from picjax.evaluation.metrics.inception_suite import Fid
from picjax.evaluation.metrics.suite import Result
from picjax.evaluation.report import page, tables
from picjax.evaluation.run import (
    Measured,
    Subject,
    fingerprint,
    forget,
    measure,
    read_manifest,
)

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
    add("--raw", action="store_true", help="do not paste known pixels")
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
    if args.workdir and len(sources) > 1:  # before hours go into the first
        differ = subjects.work_at_different_sizes(sources)
        args.own_size |= differ and bool(args.real)
    for source, label, out in zip(sources, labels, outs, strict=True):
        make = subjects.of_folder if args.fake else subjects.of_run
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
    of_fake = ("invert_mask", "pattern")
    of_run = ("best_of", "sampler", "checkpoint")
    for option in of_fake if args.workdir else of_run:
        if getattr(args, option):
            other = "--fake" if args.workdir else "--workdir"
            name = option.replace("_", "-")
            raise UserError(f"--{name} goes with {other}; leave it out")
    for option in ("invert_mask", "raw"):
        if args.fake and getattr(args, option) and not args.mask:
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
    args.own_size = False
    if manifest is not None:
        before = manifest["protocol"]
        args.num, args.images = before["num"], len(manifest["images"])
        args.seed, args.best_of = before["seed"], before.get("best_of")
        args.raw = args.raw or before.get("raw", False)
        args.metrics = args.metrics or before["asked"]
        args.own_size = before.get("own_size", False)
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
    if any(name in select.FEATURE_METRICS for name in names):
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
    with files.open_atomic(path) as file:
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
    files.write_text(subject.out / "metrics.json", text)
    forget(subject.out)
    header, cells = suite.table_cells(results)  # the units are in the report
    print(f"{protocol['what']}: {page.sentence(protocol)}")
    for line in page.notes(protocol):
        print(f"({line})")
    print(tables.markdown_table(header[:-1], [row[:-1] for row in cells]), end="")
    print(f"protocol and numbers: {subject.out}/metrics.json")
    print(f"to look at:           {subject.out}/report.html")


def reported(results: Sequence[Result], preset: protocols.Preset) -> list[Result]:
    """The numbers that a paper reports: its choice of samples, where a metric has it."""
    inside = [r for r in results if r.region in preset.regions]
    chosen = {r.metric for r in inside if r.samples in preset.samples}
    return [r for r in inside if r.samples in preset.samples or r.metric not in chosen]


if __name__ == "__main__":
    run(main)
