"""Several evaluations side by side: one table, and what differs beyond chance.

If two evaluations cover the same images and masks, the difference of their means has an
interval by the paired bootstrap over images; otherwise it has none, with a note.
"""

import csv
import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float
from scipy import stats

from picjax import files
from picjax.cli import UserError, printable
from picjax.evaluation.metrics.results import (
    BETTER,
    RANDOM,
    Result,
    column_name,
    finite_or_none,
    format_result,
    from_json,
)
from picjax.evaluation.report import page
from picjax.evaluation.report.gallery import Panel
from picjax.evaluation.report.tables import escape, markdown_table

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


def read(folder: Path, label: str) -> Entry:
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


def image_values(table: Path, keys: Mapping[Key, Result]) -> dict[Key, np.ndarray]:
    """One value per image of every key whose metric has a column in the table."""
    values: dict[Key, list[float]] = {}
    with open(table, encoding="utf-8", newline="") as file:
        for rows in rows_by_image(csv.DictReader(file)):
            chosen = [row["picnet"] for row in rows].index("1")
            for key, result in keys.items():
                column = column_name(key[0], key[1], result.unit)
                if column in rows[0]:
                    samples = np.array([float(row[column]) for row in rows])
                    value = image_value(samples, key[2], chosen, BETTER.get(key[0]))
                    values.setdefault(key, []).append(value)
    return {key: np.array(column) for key, column in values.items()}


def rows_by_image(rows: Iterable[dict[str, str]]) -> Iterator[list[dict[str, str]]]:
    """The rows of each image of a table of samples; names need not be unique."""
    image: list[dict[str, str]] = []
    for row in rows:
        if row["sample"] == "0" and image:
            yield image
            image = []
        image.append(row)
    if image:
        yield image


def image_value(
    samples: Float[np.ndarray, " n"], which: str, chosen: int, better: str | None
) -> float:
    """An image's value by a key of SAMPLES, from those of its samples."""
    if which == "first":
        return float(samples[0])
    if which == "picnet":
        return float(samples[chosen])
    if which == "best":
        return float(samples.max() if better == "max" else samples.min())
    return float(samples.mean())


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


def table(entries: Sequence[Entry]) -> tuple[list[str], list[list[str]], Differences]:
    """Header, rows, and differences from the first entry by row and label.

    The baselines follow the entries, once for entries of the same images. A difference
    is its mean, low and high end; None for an end that does not exist.
    """
    first, baselines = entries[0], baseline_columns(entries)
    cells: list[list[str]] = []
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
    columns = [*(e.label for e in entries), *baselines]
    return ["metric", "region", "samples", *columns, "unit"], cells, differences


def baseline_columns(entries: Sequence[Entry]) -> dict[str, dict[Key, Result]]:
    """Title -> numbers of each baseline of each set of images."""
    columns: dict[str, dict[Key, Result]] = {}
    for e in entries:
        for name, numbers in e.baselines.items():
            same = e.images == entries[0].images
            columns.setdefault(name if same else f"{name} ({e.label})", numbers)
    return columns


def winners(entries: Sequence[Entry]) -> list[list[int]]:
    """The columns of `table` whose runs are best in each row; all of equal ones.

    Baselines and numbers of random features do not compete.
    """
    best: list[list[int]] = []
    for key in dict.fromkeys(key for e in entries for key in table_keys(e.results)):
        better = {"min": min, "max": max}.get(BETTER.get(key[0], ""))
        found = {
            len(key) + i: e.results[key].value
            for i, e in enumerate(entries)
            if key in e.results
        }
        random = any(RANDOM in e.results[key].unit for e in entries if key in e.results)
        if better is None or len(found) < 2 or random:
            best.append([])
            continue
        extreme = better(found.values())
        best.append([column for column, value in found.items() if value == extreme])
    return best


def _difference_text(numbers: tuple[float, float, float], better: str | None) -> str:
    mean, low, high = numbers
    if np.isfinite(low):
        word = verdict(low, high, better)
        return f"\n{mean:+.3g} [{low:+.3g}, {high:+.3g}] {word}".rstrip()
    return f"\n{mean:+.3g}, of a single image" if np.isfinite(mean) else ""


def write(folders: Sequence[Path], names: Sequence[str], out: Path) -> str:
    """Writes metrics.json, report.md and report.html; returns the table.

    Args:
      folders: of finished evaluations; differences are from the first.
      names: their labels.
      out: folder of the files.
    """
    entries = [read(*pair) for pair in zip(folders, names, strict=True)]
    header, cells, differences = table(entries)
    notes = comparison_notes(entries)
    content = {
        "evaluations": {name: str(f) for name, f in zip(names, folders, strict=True)},
        "protocols": {e.label: e.protocol for e in entries},
        "differences_from": names[0],
        "interval": f"{LEVEL:.0%}, paired bootstrap over images, {RESAMPLES} resamples",
        "differences": differences,
        "notes": notes,
    }
    files.write_text(out / "metrics.json", json.dumps(content, indent=2) + "\n")
    title = f"{' and '.join(names)} side by side"
    legend = [
        f"{e.label}: {e.protocol['what']}, {page.sentence(e.protocol)}" for e in entries
    ]
    markdown = markdown_table([escape(text) for text in header], cells)
    text = "".join(f"> {escape(note)}\n" for note in notes)
    text += f"\n{markdown}\n{CAPTION}\n\n"
    text += "".join(f"- {escape(line)}\n" for line in legend)
    files.write_text(out / "report.md", f"# {escape(title)}\n\n{text}")
    html = page.render(
        title=title,
        lead=CAPTION,
        notes=notes,
        header=header,
        rows=cells,
        winners=winners(entries),
        sections=image_sections(entries),
        legend=legend,
    )
    files.write_text(out / "report.html", html)
    shown = markdown_table([printable(text) for text in header], cells)
    return shown + "".join(f"({printable(line)})\n" for line in [*notes, CAPTION])


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
