"""Measures trained systems, or folders of images from anywhere.

    python -m picjax.eval --workdir=runs/picmm --num=10
    python -m picjax.eval --real=DIR --fake=DIR --mask=DIR
    python -m picjax.eval --workdir=runs/picmm --workdir=runs/picnet --out=DIR

A run is measured on its config's held-out data with masks fixed by the seed, n
completions per image, known pixels pasted (--raw: as the system makes them), everything
rounded to uint8 first. Writes metrics.json (numbers and the whole protocol), report.md,
report.html (with pictures), samples.csv (one row per sample), manifest.json (which
images were measured, to repeat it), panels.json and grid.png. Several runs give a table
side by side. An interrupted evaluation of a run resumes with the completions that it
has drawn. Of several processes all draw completions, and the first one measures them. See
docs/evaluation.md.
"""

import argparse
import json
import shutil
import tempfile
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import jax
from etils import epath

from picjax import files, sharding, signals
from picjax.buckets import is_remote
from picjax.cli import Parser, run, say
from picjax.evaluation import compare, protocols
from picjax.evaluation.metrics import fid, results
from picjax.evaluation.metrics.features import Fid
from picjax.evaluation.options import Options, check, resolve
from picjax.evaluation.report import page, tables
from picjax.evaluation.run import EvalTask, Evaluation, draw_share, evaluate
from picjax.evaluation.store import make_folder
from picjax.evaluation.tasks import folder_task, run_task, work_at_different_sizes

BASELINES = "beside: biharmonic,mean (default), telea, or none"


def parse(argv: Sequence[str] | None) -> Options:
    """The command line."""
    parser = Parser(
        prog="python -m picjax.eval",
        usage="python -m picjax.eval --workdir DIR | --real DIR --fake DIR [options]",
        epilog="example: python -m picjax.eval --workdir=runs/demo-picmm --num=10",
        allow_abbrev=False,
        formatter_class=partial(argparse.HelpFormatter, max_help_position=28),
        buckets=("workdir", "out"),
    )
    add = parser.add_argument
    add("--workdir", action="append", metavar="DIR", help="a run; several: compared")
    add("--checkpoint", metavar="C", help="of a run: newest, best or a step")
    add("--real", metavar="DIR", help="true images; with a run: instead of its own")
    add("--fake", action="append", metavar="DIR", help="completions; several: compared")
    add("--pattern", metavar="P", help="their names, such as {stem}_out_{i}")
    add("--mask", metavar="PATH|NAME", help="masks (white = hole) for the run's own")
    add("--invert-mask", action="store_true", help="with --fake: black = hole")
    add("--pair", default="name", metavar="HOW", help="masks by name, or in order")
    add("--raw", action="store_true", help="do not paste known pixels")
    add("--num", type=int, metavar="N", help="completions per image (10, or all)")
    add("--best-of", type=int, metavar="M", help="of a run: as in picjax.complete")
    add("--sampler", metavar="NAME", help="of a run: as in picjax.complete")
    add("--images", type=int, metavar="N", help="how many (100 of a run, or all)")
    add("--seed", type=int, help="of masks and completions (0)")
    add("--metrics", metavar="A,B", help="names, all, paper:NAME (without networks)")
    add("--baselines", metavar="A,B", help=BASELINES)
    add("--weights", metavar="DIR", help="weights of the measuring networks")
    add("--allow-random-features", action="store_true", help="use untrained networks")
    features = "pipeline, net, version, pairs or luma of networks"
    add("--feature", metavar="K=V,..", help=features)
    add("--stats", metavar="FILE", help="FID against these statistics")
    add("--save-stats", metavar="FILE", help="write the truths' statistics")
    add("--manifest", metavar="FILE", help="repeat the evaluation that wrote it")
    add("--out", metavar="DIR", help="output (WORKDIR/eval, or FAKE/eval)")
    return parser.parse_args(argv, Options())


def main(argv: Sequence[str] | None = None) -> None:
    """The command; see the module's docstring.

    Raises:
      UserError: for everything that the user can correct.
    """
    options = parse(argv)
    check(options)
    resolve(options)
    sharding.join_cluster()
    sources = options.fake or options.workdir or []
    labels = compare.labels(sources)
    outs = out_folders(options, sources, labels)
    for out in outs:
        files.check_writable(out, "--out")
    if options.workdir and options.real and len(sources) > 1:
        options.own_size |= work_at_different_sizes(sources)
    options.baseline_folder = baseline_folder(epath.Path(options.out or outs[0]))
    create = folder_task if options.fake else run_task
    for source, label, out in zip(sources, labels, outs, strict=True):
        task = create(options, source, label, out)
        if len(sources) > 1 and task.is_finished():
            say(f"{label} is measured already, in {out}")
            continue
        with sharding.finish_together(f"evaluate {out}"):
            evaluate_together(options, task)
        if task.store is not None and jax.process_index() == 0:
            task.store.remove()
    if jax.process_index():
        return
    shutil.rmtree(options.baseline_folder, ignore_errors=True)
    if len(sources) > 1:
        print(compare.write(outs, labels, outs[0].parent), end="")
        print(f"all of it: {outs[0].parent}/report.html")


def baseline_folder(out: epath.Path) -> Path:
    """Where the fills of baselines are kept until the end; it is on a disk."""
    if is_remote(out):
        return Path(tempfile.mkdtemp(prefix="picjax-"))
    return Path(out) / "baselines"


def evaluate_together(options: Options, task: EvalTask) -> None:
    """Evaluates a task; all processes draw, the first one measures and writes."""
    index, count = jax.process_index(), jax.process_count()
    make_folder(task.out)
    if task.store is not None:
        if index == 0:  # which drops completions of another evaluation
            task.store.open(task.total)
        sharding.wait_for_all(f"open {task.out}")
        if index:
            task.store.open(task.total)
    if index:
        draw_share(task, index, count)
        return
    evaluation = evaluate(task)
    with signals.deferred():
        write(options, task, evaluation)


def out_folders(
    options: Options, sources: Sequence[str], labels: Sequence[str]
) -> list[epath.Path]:
    """Output folder of each source."""
    if len(sources) == 1:
        return [epath.Path(options.out or epath.Path(sources[0]) / "eval")]
    top = epath.Path(options.out or epath.Path(sources[0]).parent / "comparison")
    return [top / label for label in labels]


def write(options: Options, task: EvalTask, evaluation: Evaluation) -> None:
    """Writes metrics.json and the reports of an evaluation, and prints its table."""
    protocol = task.protocol | evaluation.facts
    by_method = evaluation.by_method(task.label)
    # A description is complete only after all examples.
    protocol["metrics"] = {n: m.description for n, m in task.metrics.items()}
    metric = task.metrics.get("fid")
    if options.save_stats and isinstance(metric, Fid):
        with files.open_atomic(options.save_stats) as file:
            fid.save(file, metric.real.stats())
        print(f"statistics of the true images: {options.save_stats}")
    if options.preset is not None:
        by_method = {
            name: protocols.reported(options.preset, numbers)
            for name, numbers in by_method.items()
        }
        protocol |= protocols.statement(options.preset, protocol)
    page.write(task.out, protocol, by_method, evaluation.gallery)
    numbers, *others = (results.to_json(x) for x in by_method.values())
    content = {
        "protocol": protocol,
        "samples": results.SAMPLES,
        "results": numbers,
        "baselines": dict(zip(evaluation.baselines, others, strict=True)),
    }
    text = json.dumps(content, indent=2) + "\n"
    files.write_text(task.out / "metrics.json", text)
    header, cells = results.table_cells(by_method)  # the units are in the report
    print(f"{protocol['what']}: {page.sentence(protocol)}")
    for note in page.notes(protocol):
        print(f"({note})")
    print(tables.markdown_table(header[:-1], [row[:-1] for row in cells]), end="")
    print(f"protocol and numbers: {task.out}/metrics.json")
    print(f"report with pictures: {task.out}/report.html")


if __name__ == "__main__":
    run(main)
