"""Draws training curves of runs, or writes their evaluations as one table.

    python -m picjax.plot runs/a runs/b --out=curves.png
    python -m picjax.plot runs/a runs/b --table=latex

A curve is a metric of `metrics.jsonl`; docs/workdir.md lists what each name means. The
table holds the numbers of each run's `eval/metrics.json`, the best of a row in bold.
"""

import argparse
import csv
import io
import json
import math
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from picjax.cli import Parser, UserError, check_choice, require, run
from picjax.curves import TIMINGS, Curves, read_curves
from picjax.evaluation.compare import labels
from picjax.evaluation.metrics.results import BETTER, RANDOM, Result, from_json

COLUMNS = 3  # of the panels
TABLES = ("latex", "csv")


# ---- curves ----


def choose(runs: Mapping[str, Curves], wanted: str) -> list[str]:
    """The metrics to draw: those named, or all but timings.

    Raises:
      UserError: if no run has one of them.
    """
    known = list(dict.fromkeys(name for curves in runs.values() for name in curves))
    if not wanted:
        return [name for name in known if name not in TIMINGS]
    names = wanted.split(",")
    for name in names:
        check_choice("--metrics", name, known)
    return names


def draw(runs: Mapping[str, Curves], names: Sequence[str]) -> Any:
    """A figure with a panel per metric and a line per run."""
    figures: Any = require("matplotlib.figure", "plot")
    columns = min(COLUMNS, len(names))
    rows = -(-len(names) // columns)
    size = (4 * columns, 2.6 * rows)
    figure = figures.Figure(figsize=size, layout="constrained")
    panels = figure.subplots(rows, columns, squeeze=False).flat
    for panel, name in zip(panels, names, strict=False):
        for label, curves in runs.items():
            if name in curves:
                marker = "." if len(curves[name][0]) == 1 else None
                panel.plot(*curves[name], label=label, linewidth=1.2, marker=marker)
        panel.set_title(name, fontsize=10)
        panel.set_xlabel("step", fontsize=8)
        panel.tick_params(labelsize=8)
        panel.grid(alpha=0.25)
    for panel in list(figure.axes)[len(names) :]:
        panel.remove()
    if len(runs) > 1:
        handles, texts = figure.axes[0].get_legend_handles_labels()
        figure.legend(handles, texts, loc="outside upper center", ncols=len(runs))
    return figure


# ---- tables ----


def read_evaluation(folder: Path) -> dict[tuple[str, str, str], Result]:
    """The numbers of a run's evaluation, or of a folder that picjax.eval wrote.

    Raises:
      UserError: if there is none.
    """
    for path in (folder / "eval" / "metrics.json", folder / "metrics.json"):
        if path.is_file():
            results = from_json(json.loads(path.read_text())["results"])
            return {(r.metric, r.region, r.samples): r for r in results}
    raise UserError(f"'{folder}' has no evaluation; run picjax.eval first")


def table_rows(
    runs: Mapping[str, Mapping[tuple[str, str, str], Result]],
) -> list[list[Result | None]]:
    """One row per number that any of the runs has, one column per run."""
    keys = list(dict.fromkeys(key for results in runs.values() for key in results))
    return [[results.get(key) for results in runs.values()] for key in keys]


def csv_table(runs: Mapping[str, Mapping[tuple[str, str, str], Result]]) -> str:
    """A table of values and their standard errors, as CSV."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    sides = [f"{label}{x}" for label in runs for x in ("", " standard error")]
    writer.writerow(["metric", "region", "samples", "unit", *sides])
    for row in table_rows(runs):
        first = next(x for x in row if x is not None)
        cells: list[Any] = [first.metric, first.region, first.samples, first.unit]
        for x in row:
            numbers = [] if x is None else [x.value, x.error]
            cells += [number if math.isfinite(number) else "" for number in numbers]
            cells += [""] * (2 - len(numbers))
        writer.writerow(cells)
    return text.getvalue()


def latex_table(runs: Mapping[str, Mapping[tuple[str, str, str], Result]]) -> str:
    """A table for the package booktabs; the best value of a row is bold."""
    head = " & ".join(["metric", *map(escape, runs)])
    lines = [f"\\begin{{tabular}}{{l{'r' * len(runs)}}}", "\\toprule"]
    lines += [f"{head} \\\\", "\\midrule"]
    for row in table_rows(runs):
        first = next(x for x in row if x is not None)
        better = {"min": min, "max": max}.get(BETTER.get(first.metric, ""))
        values = [x.value for x in row if x is not None]
        best = better(values) if better and len(values) > 1 else None
        name = f"{first.metric}, {first.region}, {first.samples}"
        if RANDOM in first.unit:
            name, best = f"{name} ({RANDOM})", None
        cells = [latex_number(x, best) for x in row]
        lines.append(f"{' & '.join([escape(name), *cells])} \\\\")
    return "\n".join([*lines, "\\bottomrule", "\\end{tabular}", ""])


def latex_number(result: Result | None, best: float | None) -> str:
    """A value with its standard error; bold if it is the best."""
    if result is None:
        return "--"
    text = f"{result.value:.4g}"
    if result.value == best:
        text = f"\\textbf{{{text}}}"
    error = result.error
    return f"{text} $\\pm$ {error:.2g}" if math.isfinite(error) else text


def escape(text: str) -> str:
    """A text in which LaTeX finds no commands."""
    return "".join(f"\\{c}" if c in "_%&#$" else c for c in text)


# ---- command ----


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = Parser(
        prog="python -m picjax.plot",
        description="Draws training curves, or writes evaluations as one table.",
        epilog="example: python -m picjax.plot runs/a runs/b --metrics=rec,bm",
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("runs", nargs="+", metavar="RUN", help="folders of picjax.train")
    add("--metrics", default="", metavar="A,B", help="of metrics.jsonl (all)")
    add("--table", metavar="latex|csv", help="instead: a table of the evaluations")
    add("--out", metavar="FILE", help="(curves.png of the first run; a table: printed)")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command; see the module's docstring.

    Raises:
      UserError: for anything that the user can fix.
    """
    args = parse(argv)
    folders = dict(zip(labels(args.runs), map(Path, args.runs), strict=True))
    if args.table:
        check_choice("--table", args.table, TABLES)
        write = {"latex": latex_table, "csv": csv_table}[args.table]
        text = write({label: read_evaluation(x) for label, x in folders.items()})
        if args.out:
            Path(args.out).write_text(text)
        else:
            sys.stdout.write(text)
        return
    runs = {label: read_curves(folder) for label, folder in folders.items()}
    names = choose(runs, args.metrics)
    if not names:
        raise UserError(
            f"'{args.runs[0]}' has no metric yet; train until the first one"
        )
    out = Path(args.out or Path(args.runs[0]) / "curves.png")
    figure = draw(runs, names)
    formats = figure.canvas.get_supported_filetypes()
    check_choice("--out's extension", out.suffix.removeprefix("."), formats)
    figure.savefig(out, dpi=150)
    print(f"{len(names)} metrics of {len(runs)} run(s) in {out}")


if __name__ == "__main__":
    run(main)
