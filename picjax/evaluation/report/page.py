"""The reports of an evaluation for people: report.md, report.html, grid.png.

The page is one file: pictures, style and script are inside it, and nothing is fetched.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jinja2
import numpy as np
from markupsafe import Markup

from picjax import files, images
from picjax.buckets import AnyPath
from picjax.evaluation.metrics.results import (
    RANDOM,
    SAMPLES,
    Result,
    columns_used,
    read_samples,
    table_cells,
)
from picjax.evaluation.report.gallery import Gallery, Panel, pixels
from picjax.evaluation.report.tables import escape, markdown_table
from picjax.evaluation.report.training import training_curves
from picjax.masks import NAMES

FOLDER = Path(__file__).parent
BINS = 32  # of a histogram
ENVIRONMENT = jinja2.Environment(
    loader=jinja2.FileSystemLoader(FOLDER),
    autoescape=True,
    trim_blocks=True,
    lstrip_blocks=True,
    undefined=jinja2.StrictUndefined,
)


class Section(NamedTuple):
    """Pictures under a title: (panel, caption, name on the stage) each."""

    title: str
    remark: str
    panels: Sequence[tuple[Panel, str, str]]


def render(**context: Any) -> str:
    """The page of an evaluation or a comparison.

    Args:
      context: `title`, `lead`, `notes`, `header` and `rows` of the table, `sections`,
        `legend`, and perhaps `winners` (the columns of each row that are best),
        `histograms`, `curves` and `protocol`.
    """
    assets = {
        "style": Markup((FOLDER / "style.css").read_text(encoding="utf-8")),
        "script": Markup((FOLDER / "script.js").read_text(encoding="utf-8")),
    }
    defaults: dict[str, Any] = {"histograms": [], "protocol": ""}
    defaults |= {"curves": [], "winners": []}
    return ENVIRONMENT.get_template("template.html").render(defaults | assets | context)


def write(
    out: AnyPath,
    protocol: dict[str, Any],
    by_method: Mapping[str, Sequence[Result]],
    gallery: Gallery,
) -> None:
    """Writes the reports, grid.png and panels.json beside `samples.csv` in `out`.

    Args:
      out: folder of the files.
      protocol: of the evaluation.
      by_method: name -> results, of what is evaluated and then of the baselines.
      gallery: pictures.
    """
    every = [r for results in by_method.values() for r in results]
    header, cells = table_cells(by_method)
    first = gallery.panels("first")
    grid = [
        [images.thumbnail(pixels(x)) for x in panel.frames.values()] for panel in first
    ]
    images.write_png(out / "grid.png", images.image_grid(grid, list(first[0].frames)))
    panels = json.dumps([panel._asdict() for panel in first])
    files.write_text(out / "panels.json", panels + "\n")
    write_pages(
        out,
        "\n![completions](grid.png)\n",
        title=f"Evaluation of {protocol['what']}",
        lead=sentence(protocol),
        notes=notes(protocol),
        header=header,
        rows=cells,
        sections=gallery_sections(gallery),
        histograms=histograms(out / "samples.csv"),
        curves=training_curves(protocol),
        legend=legend(protocol, columns_used(every)),
        protocol=json.dumps(protocol, indent=2),
    )


def write_pages(out: AnyPath, tail: str = "", **context: Any) -> None:
    """Writes report.html, and report.md with `tail`; `context` is that of `render`."""
    table = markdown_table([escape(x) for x in context["header"]], context["rows"])
    text = f"# {escape(context['title'])}\n\n{escape(context['lead'])}\n\n"
    text += "".join(f"> {escape(note)}\n" for note in context["notes"])
    text += f"\n{table}\n"
    text += "".join(f"- {escape(line)}\n" for line in context["legend"])
    files.write_text(out / "report.md", text + tail)
    files.write_text(out / "report.html", render(**context))


def gallery_sections(gallery: Gallery) -> list[Section]:
    """The sections of a gallery, with what they are ranked by."""
    sections = []
    for title in gallery.sections:
        column = gallery.columns.get(title)
        remark = f"by {column}, mean over an image's samples" if column else ""
        panels = []
        for panel in gallery.panels(title):
            caption = f"{panel.place}: {panel.name}"
            if column:
                caption += f" ({column} {panel.numbers[column]:.4g})"
            panels.append((panel, caption, panel.name))
        sections.append(Section(title.capitalize(), remark, panels))
    return sections


def sentence(protocol: Mapping[str, Any]) -> str:
    """The protocol for people; metrics.json holds all of it."""
    hole, candidates = protocol["mean_hole_share"], protocol.get("best_of")
    best = f", the best of {candidates} by the system's own score" if candidates else ""
    share = "" if hole is None else f" (mean hole {100 * hole:.1f} %)"
    drawn = "workdir" in protocol or protocol["masks"] in NAMES
    seed = f" (seed {protocol['seed']})" if drawn else ""
    return (
        f"{protocol['images']} images ({protocol['data_source']}), "
        f"{protocol['samples_per_image']} completions each{best}{seed}, "
        f"{protocol['resolution']} pixels, "
        f"masks: {protocol['masks']}{share}. {protocol['pixels']}."
    )


def notes(protocol: Mapping[str, Any]) -> list[str]:
    """What a reader of any of the numbers must know."""
    sentences = []
    if "paper" in protocol:
        sentences.append(f"Protocol: {protocol['paper']}")
        if protocol["unlike_the_paper"]:
            differences = "; ".join(protocol["unlike_the_paper"])
            sentences.append(f"Unlike the paper: {differences}")
    names: dict[str, list[str]] = {}
    for name, reason in protocol["left_out"].items():
        names.setdefault(reason, []).append(name)
    if names:
        reasons = [f"{', '.join(x)} ({reason})" for reason, x in names.items()]
        sentences.append(f"Left out: {'; '.join(reasons)}")
    untrained = [name for name, x in protocol["metrics"].items() if RANDOM in x]
    if untrained:
        sentences.append(
            f"{', '.join(untrained)}: of untrained networks ({RANDOM}), the numbers "
            "mean nothing"
        )
    return [*sentences, *protocol["remarks"]]


def legend(protocol: Mapping[str, Any], columns: Sequence[str]) -> list[str]:
    """What each metric, baseline, column of the table and interval is."""
    lines = [f"{name}: {text}" for name, text in protocol["metrics"].items()]
    lines += [f"method {name}: {text}" for name, text in protocol["baselines"].items()]
    lines += [f"column {name}: {SAMPLES[name]}" for name in columns]
    return [*lines, "value ± standard error of the mean over images, or [interval]"]


# ---- distributions ----


class Histogram(NamedTuple):
    """The distribution of one column, and its geometry in pixels."""

    column: str
    counts: list[int]
    low: float
    high: float
    mean: float
    width: int = 240
    height: int = 72

    def bars(self) -> Iterator[tuple[float, float, float, float, int]]:
        """x, y, width, height and count of every bar that is not empty."""
        step, tallest = self.width / len(self.counts), max(self.counts)
        for i, count in enumerate(self.counts):
            tall = self.height * count / tallest
            if count:
                place = i * step, self.height - tall, step - 1, tall
                yield *(round(x, 1) for x in place), count  # pyright: ignore

    def mean_x(self) -> float:
        """Where the mean lies."""
        spread = self.high - self.low
        return round(
            self.width * (self.mean - self.low) / spread if spread else self.width / 2,
            1,
        )


def histograms(table: AnyPath) -> list[Histogram]:
    """The distribution of every column of a table of samples, without NaN."""
    found = []
    for column, values in read_samples(table).items():
        x = values[np.isfinite(values)]
        if column not in ("sample", "picnet") and len(x):
            counts, _ = np.histogram(x, BINS)
            ends = float(x.min()), float(x.max())
            found.append(Histogram(column, counts.tolist(), *ends, float(x.mean())))
    return found
