"""Several evaluations side by side: one table, with what differs beyond chance.

Where two evaluations are of the same images and masks, the difference of their means
has an interval by the paired bootstrap over images; else it has none, and that is said.
"""

import csv
import json
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

from picjax import files
from picjax.evaluation.metrics.suite import BETTER, Result, column_of, number
from picjax.evaluation.report import page, tables
from picjax.evaluation.report.gallery import FIRST
from picjax.evaluation.report.tables import html_text

RESAMPLES = 2000
LEVEL = 0.95
CHUNK = 50  # resamples drawn at once
ABOUT = (
    f"Below a value: its difference from the first column's, [{LEVEL:.0%} interval by "
    f"the paired bootstrap over images, {RESAMPLES} resamples]; better or worse where "
    "the interval excludes 0."
)
Key = tuple[str, str, str]  # metric, region, samples


class Evaluation(NamedTuple):
    """What a folder of an evaluation holds.

    Attributes:
      label: what it is called.
      protocol: of metrics.json.
      results: every number, in order.
      images: checksums of each image and mask.
      values: metric, region and choice of samples -> one number an image.
      figures: HTML of its first images.
    """

    label: str
    protocol: dict[str, Any]
    results: dict[Key, Result]
    images: list[tuple[str, str]]
    values: dict[Key, Float[np.ndarray, " n"]]
    figures: list[str]


def labels(sources: Sequence[str]) -> list[str]:
    """A short name for each folder, all different: as many last parts as that takes."""
    paths = [Path(os.path.abspath(source)).parts[1:] for source in sources]
    for count in range(1, max(map(len, paths)) + 1):
        short = ["-".join(parts[-count:]) for parts in paths]
        if len(set(short)) == len(short):
            return short
    return [f"{i}-{parts[-1]}" for i, parts in enumerate(paths)]


def read(folder: Path, label: str) -> Evaluation:
    """An evaluation from its files."""
    content = json.loads((folder / "metrics.json").read_text())
    results: dict[Key, Result] = {}
    for metric, by_region in content["results"].items():
        for region, by_samples in by_region.items():
            for samples, found in by_samples.items():
                results[metric, region, samples] = Result(
                    metric,
                    region,
                    samples,
                    _number(found["value"]),
                    _number(found["standard_error"]),
                    found["images"],
                    found["unit"],
                    found["interval"] and tuple(found["interval"]),
                )
    entries = json.loads((folder / "manifest.json").read_text())["images"]
    images = [(entry["truth"], str(entry["mask"])) for entry in entries]
    values = per_image(folder / "samples.csv", list(results))
    text = (folder / "report.html").read_text()
    # Those of the first shelf, which holds the first images.
    figures = re.findall(r"<figure.*?</figure>", text, re.DOTALL)
    figures = figures[: min(FIRST, len(images))]
    return Evaluation(label, content["protocol"], results, images, values, figures)


def _number(value: float | None) -> float:
    return float("nan") if value is None else value


def per_image(table: Path, keys: Sequence[Key]) -> dict[Key, np.ndarray]:
    """One number an image for every key whose metric has a column in the table."""
    found: dict[Key, list[float]] = {}
    rows: list[dict[str, str]] = []

    def close() -> None:
        for metric, region, samples in keys:
            column = column_of(metric, region)
            if rows and column in rows[0]:
                own = np.array([float(row[column]) for row in rows])
                chosen = [row["picnet"] for row in rows].index("1")
                value = pick(own, samples, chosen, BETTER.get(metric, ""))
                found.setdefault((metric, region, samples), []).append(value)

    with open(table, encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            if row["sample"] == "0":
                close()
                rows = []
            rows.append(row)
    close()
    return {key: np.array(values) for key, values in found.items()}


def pick(
    values: Float[np.ndarray, " n"], samples: str, chosen: int, better: str
) -> float:
    """An image's number by a key of MEANING, from those of its samples."""
    if samples == "first":
        return float(values[0])
    if samples == "picnet":
        return float(values[chosen])
    if samples == "best":
        return float(values.max() if better == "max" else values.min())
    return float(values.mean())


def difference(
    ours: Float[np.ndarray, " n"], theirs: Float[np.ndarray, " n"], seed: int = 0
) -> tuple[float, float, float]:
    """Mean of `theirs - ours` over images, and its bootstrap interval: low, high.

    Images where either is NaN are left out; without two others no interval (NaN).
    """
    both = theirs - ours
    both = both[np.isfinite(both)]
    if len(both) < 2:
        return (float(both[0]) if len(both) else np.nan, np.nan, np.nan)
    n, rng = len(both), np.random.default_rng(seed)
    means = [
        rng.multinomial(n, np.full(n, 1 / n), CHUNK) @ both / n
        for _ in range(RESAMPLES // CHUNK)
    ]
    tail = (1 - LEVEL) / 2
    low, high = np.quantile(np.concatenate(means), [tail, 1 - tail])
    return float(both.mean()), float(low), float(high)


def verdict(low: float, high: float, better: str) -> str:
    """Whether an interval of a difference says anything."""
    if not better or not (low > 0 or high < 0):
        return ""
    return "better" if (low > 0) == (better == "max") else "worse"


def shown(results: Mapping[Key, Result]) -> list[Key]:
    """The rows of the table: mean, best and all; others where there is nothing else."""
    rows = []
    for metric, region, samples in results:
        kinds = {s for m, r, s in results if (m, r) == (metric, region)}
        if samples not in ("first", "picnet") or kinds <= {"first", "picnet"}:
            rows.append((metric, region, samples))
    return rows


def table(
    found: Sequence[Evaluation],
) -> tuple[list[str], list[list[str]], dict[str, dict[str, tuple[float | None, ...]]]]:
    """Header and rows, and each difference from the first by row and label.

    A difference is its mean, low and high end; None where there is none.
    """
    first = found[0]
    rows = list(dict.fromkeys(key for e in found for key in shown(e.results)))
    cells: list[list[str]] = []
    differences: dict[str, dict[str, tuple[float | None, ...]]] = {}
    for key in rows:
        row = list(key)
        for e in found:
            text = number(e.results[key]) if key in e.results else ""
            paired = e is not first and e.images == first.images
            if paired and key in e.values and key in first.values:
                d, low, high = difference(first.values[key], e.values[key])
                if np.isfinite(low):
                    word = verdict(low, high, BETTER.get(key[0], ""))
                    text += f"\n{d:+.3g} [{low:+.3g}, {high:+.3g}] {word}".rstrip()
                elif np.isfinite(d):
                    text += f"\n{d:+.3g}, of a single image"
                known = tuple(x if np.isfinite(x) else None for x in (d, low, high))
                differences.setdefault("/".join(key), {})[e.label] = known
            row.append(text)
        unit = next(e.results[key].unit for e in found if key in e.results)
        cells.append([*row, unit])
    labels = [e.label for e in found]
    return ["metric", "region", "samples", *labels, "unit"], cells, differences


def write(folders: Sequence[Path], names: Sequence[str], out: Path) -> str:
    """Writes metrics.json, report.md and report.html of a comparison; its table.

    Args:
      folders: of finished evaluations; the first is what the others differ from.
      names: what to call them.
      out: where it goes.
    """
    found = [read(*pair) for pair in zip(folders, names, strict=True)]
    header, cells, differences = table(found)
    notes = differing(found)
    content = {
        "evaluations": {e.label: str(f) for e, f in zip(found, folders, strict=True)},
        "protocols": {e.label: e.protocol for e in found},
        "differences_from": names[0],
        "interval": f"{LEVEL:.0%}, paired bootstrap over images, {RESAMPLES} resamples",
        "differences": differences,
        "notes": notes,
    }
    files.write_text(out / "metrics.json", json.dumps(content, indent=2) + "\n")
    title = f"{' and '.join(names)} side by side"
    lines = [
        f"{e.label}: {e.protocol['what']}, {page.sentence(e.protocol)}" for e in found
    ]
    markdown = tables.markdown_table(header, cells)
    text = "".join(f"> {line}\n" for line in notes)
    text += f"\n{markdown}\n{ABOUT}\n\n" + "".join(f"- {line}\n" for line in lines)
    files.write_text(out / "report.md", f"# {title}\n\n{text}")
    parts = [
        *[f'<p class="note">{html_text(line)}</p>' for line in notes],
        f'<div class="wide">{tables.html_table(header, cells)}</div>',
        *pictures(found),
        "<h2>What was measured</h2><ul>",
        *[f"<li>{html_text(line)}</li>" for line in lines],
        "</ul>",
    ]
    files.write_text(out / "report.html", page.document(title, ABOUT, parts))
    return markdown + "".join(f"({line})\n" for line in [*notes, ABOUT])


def differing(found: Sequence[Evaluation]) -> list[str]:
    """Why some of the numbers do not compare, a sentence each."""
    first, notes = found[0], []
    for other in found[1:]:
        if other.images != first.images:
            sizes = [e.protocol["resolution"] for e in (other, first)]
            why = ""
            if sizes[0] != sizes[1]:
                why = f" ({sizes[0]} pixels, not {sizes[1]}; --real makes them equal)"
            notes.append(
                f"{other.label} was measured on other images or masks than "
                f"{first.label}{why}: the two do not compare"
            )
        ours, theirs = (e.protocol["samples_per_image"] for e in (first, other))
        if ours != theirs:
            notes.append(
                f"{other.label} has {theirs} completions an image, {first.label} "
                f"{ours}: the best of them do not compare"
            )
    return notes


def pictures(found: Sequence[Evaluation]) -> list[str]:
    """HTML of each image as every system completes it."""
    parts = ["<h2>Pictures</h2>", page.STAGE]
    for i in range(max(len(e.figures) for e in found)):
        rows = [labelled(e.figures[i], e.label) for e in found if i < len(e.figures)]
        parts.append(f'<h3>Image {i}</h3><div class="shelf">{"".join(rows)}</div>')
    return parts


def labelled(figure: str, label: str) -> str:
    """A figure of an evaluation's page under its system's name."""
    name = html_text(label)
    figure = figure.replace('data-name="', f'data-name="{name}: ', 1)
    caption = f"<figcaption>{name}</figcaption>"
    return re.sub(r"<figcaption>.*?</figcaption>", lambda _: caption, figure, count=1)
