"""Several evaluations side by side: one table, and what differs beyond chance.

If two evaluations cover the same images and masks, the difference of their means has an
interval by the paired bootstrap over images; otherwise it has none, with a note.
"""

import csv
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float
from scipy import stats

from picjax import files
from picjax.buckets import AnyPath
from picjax.cli import UserError, printable
from picjax.evaluation.metrics.results import (
    BETTER,
    RANDOM,
    Result,
    column_name,
    finite_or_none,
    format_result,
    from_json,
    read_samples,
)
from picjax.evaluation.report import page
from picjax.evaluation.report.gallery import Panel
from picjax.evaluation.report.tables import markdown_table

RESAMPLES = 2000
LEVEL = 0.95
BATCH = 50  # resamples drawn at once
INTERVAL = f"{LEVEL:.0%} interval by the paired bootstrap over images"
CAPTION = (
    f"Below a value: its difference from the first column's, [{INTERVAL}, {RESAMPLES} "
    "resamples]; better or worse if the interval excludes 0."
)
Key = tuple[str, str, str]  # metric, region, samples
Differences = dict[str, dict[str, tuple[float | None, ...]]]  # row -> label -> numbers


class Entry(NamedTuple):
    """A finished evaluation, read from its folder.

    Attributes:
      label: short name.
      protocol: of metrics.json.
      results: every number, in order.
      images: checksums of each image and mask.
      values: one value per image of every key that samples.csv has.
      panels: of its first images.
      baselines: name -> their numbers.
    """

    label: str
    protocol: dict[str, Any]
    results: dict[Key, Result]
    images: list[tuple[str, str]]
    values: dict[Key, Float[np.ndarray, " n"]]
    panels: list[Panel]
    baselines: dict[str, dict[Key, Result]]


def labels(sources: Sequence[str]) -> list[str]:
    """A short name per folder, all different: as few last parts as that takes."""
    paths = [Path(os.path.abspath(source)).parts[1:] for source in sources]
    for count in range(1, max(map(len, paths)) + 1):
        short = ["-".join(parts[-count:]) for parts in paths]
        if len(set(short)) == len(short):
            return short
    return [f"{i}-{parts[-1]}" for i, parts in enumerate(paths)]


def read(folder: AnyPath, label: str) -> Entry:
    """An evaluation from its files.

    Raises:
      UserError: if one is damaged.
    """
    try:
        content, manifest, panels = (
            files.read_json(folder / name)
            for name in ("metrics.json", "manifest.json", "panels.json")
        )
        results = by_key(content["results"])
        baselines = {name: by_key(x) for name, x in content["baselines"].items()}
        images = [(entry["truth"], str(entry["mask"])) for entry in manifest["images"]]
        values = image_values(folder / "samples.csv", results)
        shown = [Panel(**panel) for panel in panels]
        protocol = content["protocol"]
    except (LookupError, ValueError, TypeError, AttributeError, csv.Error) as error:
        raise UserError(
            f"the evaluation in '{folder}' is damaged ({error}); delete the folder, and "
            "it is measured again"
        ) from error
    return Entry(label, protocol, results, images, values, shown, baselines)


def by_key(tree: dict[str, Any]) -> dict[Key, Result]:
    """The numbers of metrics.json by metric, region and samples."""
    return {(r.metric, r.region, r.samples): r for r in from_json(tree)}


def image_values(table: AnyPath, keys: Mapping[Key, Result]) -> dict[Key, np.ndarray]:
    """One value per image of every key whose metric has a column in the table."""
    columns = read_samples(table)
    shape = -1, int(columns["sample"].max()) + 1  # image, sample
    chosen = columns["picnet"].reshape(shape).argmax(1)[:, None]
    values = {}
    for key, result in keys.items():
        metric, region, which = key
        column = column_name(metric, region, result.unit)
        if column in columns:
            samples = columns[column].reshape(shape)
            end = np.max if BETTER.get(metric) == "max" else np.min
            by_choice = {
                "first": samples[:, 0],
                "picnet": np.take_along_axis(samples, chosen, 1)[:, 0],
                "best": end(samples, axis=1),
            }
            values[key] = by_choice.get(which, samples.mean(1))
    return values


def difference(
    ours: Float[np.ndarray, " n"], theirs: Float[np.ndarray, " n"], seed: int = 0
) -> tuple[float, float, float]:
    """Mean of `theirs - ours` over images, and its bootstrap interval: low, high.

    Images where either is NaN are dropped; fewer than two have no interval (NaN).
    """
    paired = theirs - ours
    paired = paired[np.isfinite(paired)]
    if len(paired) < 2:
        return (float(paired[0]) if len(paired) else np.nan, np.nan, np.nan)
    interval = stats.bootstrap(
        (paired,),
        np.mean,
        n_resamples=RESAMPLES,
        batch=BATCH,
        confidence_level=LEVEL,
        method="percentile",
        rng=np.random.default_rng(seed),
    ).confidence_interval
    return float(paired.mean()), float(interval.low), float(interval.high)


def verdict(low: float, high: float, better: str | None) -> str:
    """`better`, `worse`, or nothing if the interval contains 0."""
    if not better or not (low > 0 or high < 0):
        return ""
    return "better" if (low > 0) == (better == "max") else "worse"


def table_keys(results: Mapping[Key, Result]) -> list[Key]:
    """The rows of the table: mean, best and all; others if there is nothing else."""
    rows = []
    for metric, region, samples in results:
        available = {s for m, r, s in results if (m, r) == (metric, region)}
        if samples not in ("first", "picnet") or available <= {"first", "picnet"}:
            rows.append((metric, region, samples))
    return rows


class Table(NamedTuple):
    """Evaluations side by side; after them the baselines, once for the same images.

    Attributes:
      header, rows: their texts.
      winners: the columns of each row whose evaluations are best.
      differences: from the first entry, by row and label: mean, low and high end; None
        for an end that does not exist.
    """

    header: list[str]
    rows: list[list[str]]
    winners: list[list[int]]
    differences: Differences


def table(entries: Sequence[Entry]) -> Table:
    """The table of some evaluations."""
    first, baselines = entries[0], baseline_columns(entries)
    cells: list[list[str]] = []
    best: list[list[int]] = []
    differences: Differences = {}
    for key in dict.fromkeys(key for e in entries for key in table_keys(e.results)):
        row = list(key)
        for e in entries:
            text = format_result(e.results[key]) if key in e.results else ""
            paired = e is not first and e.images == first.images
            if paired and key in e.values and key in first.values:
                numbers = difference(first.values[key], e.values[key])
                random = RANDOM in e.results[key].unit  # then neither end is better
                text += _difference_text(
                    numbers, None if random else BETTER.get(key[0])
                )
                by_label = differences.setdefault("/".join(key), {})
                by_label[e.label] = tuple(map(finite_or_none, numbers))
            row.append(text)
        numbers = (column.get(key) for column in baselines.values())
        row += ["" if x is None else format_result(x) for x in numbers]
        unit = next(e.results[key].unit for e in entries if key in e.results)
        cells.append([*row, unit])
        columns = enumerate(entries, len(key))
        best.append(
            winners({i: e.results[key] for i, e in columns if key in e.results})
        )
    names = [*(e.label for e in entries), *baselines]
    header = ["metric", "region", "samples", *names, "unit"]
    return Table(header, cells, best, differences)


def baseline_columns(entries: Sequence[Entry]) -> dict[str, dict[Key, Result]]:
    """Title -> numbers of each baseline of each set of images."""
    columns: dict[str, dict[Key, Result]] = {}
    for e in entries:
        for name, numbers in e.baselines.items():
            same = e.images == entries[0].images
            columns.setdefault(name if same else f"{name} ({e.label})", numbers)
    return columns


def winners(row: Mapping[int, Result]) -> list[int]:
    """The columns of a row that are best, all of equal ones.

    There is none if neither end is better, for a single number, and with random features.
    """
    better = BETTER.get(next(iter(row.values())).metric)
    random = any(RANDOM in r.unit for r in row.values())
    if not better or len(row) < 2 or random:
        return []
    extreme = (min if better == "min" else max)(r.value for r in row.values())
    return [column for column, r in row.items() if r.value == extreme]


def _difference_text(numbers: tuple[float, float, float], better: str | None) -> str:
    mean, low, high = numbers
    if np.isfinite(low):
        word = verdict(low, high, better)
        return f"\n{mean:+.3g} [{low:+.3g}, {high:+.3g}] {word}".rstrip()
    return f"\n{mean:+.3g}, of a single image" if np.isfinite(mean) else ""


def write(folders: Sequence[AnyPath], names: Sequence[str], out: AnyPath) -> str:
    """Writes metrics.json, report.md and report.html; returns the table.

    Args:
      folders: of finished evaluations; differences are from the first.
      names: their labels.
      out: folder of the files.
    """
    entries = [read(*pair) for pair in zip(folders, names, strict=True)]
    shown = table(entries)
    notes = comparison_notes(entries)
    content = {
        "evaluations": {name: str(f) for name, f in zip(names, folders, strict=True)},
        "protocols": {e.label: e.protocol for e in entries},
        "differences_from": names[0],
        "interval": f"{LEVEL:.0%}, paired bootstrap over images, {RESAMPLES} resamples",
        "differences": shown.differences,
        "notes": notes,
    }
    files.write_text(out / "metrics.json", json.dumps(content, indent=2) + "\n")
    legend = [
        f"{e.label}: {e.protocol['what']}, {page.sentence(e.protocol)}" for e in entries
    ]
    page.write_pages(
        out,
        title=f"{' and '.join(names)} side by side",
        lead=CAPTION,
        notes=notes,
        header=shown.header,
        rows=shown.rows,
        winners=shown.winners,
        sections=image_sections(entries),
        legend=legend,
    )
    text = markdown_table([printable(x) for x in shown.header], shown.rows)
    return text + "".join(f"({printable(line)})\n" for line in [*notes, CAPTION])


def comparison_notes(entries: Sequence[Entry]) -> list[str]:
    """Why some of the numbers do not compare, one sentence each."""
    first, notes = entries[0], []
    for other in entries[1:]:
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
                f"{other.label} has {theirs} completions per image, {first.label} "
                f"{ours}: the best of them do not compare"
            )
    return notes


def image_sections(entries: Sequence[Entry]) -> list[page.Section]:
    """Each of the first images as every system completes it."""
    sections = []
    for i in range(max(len(e.panels) for e in entries)):
        shown = [(e, e.panels[i]) for e in entries if i < len(e.panels)]
        panels = [(p, e.label, f"{e.label}: {p.name}") for e, p in shown]
        sections.append(page.Section(f"Image {i}", "", panels))
    return sections
