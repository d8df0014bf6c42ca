"""The reports of an evaluation for people: report.md, report.html, grid.png.

The page is one file without anything from elsewhere: pictures are inside it, and a
small script walks from the input through the completions to the truth.
"""

import csv
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from picjax import files, images
from picjax.evaluation.metrics.suite import MEANING, Result, table_cells
from picjax.evaluation.report import tables
from picjax.evaluation.report.gallery import Gallery, Shot, pixels
from picjax.evaluation.report.tables import html_text

BINS = 32  # of a histogram
WIDTH, HEIGHT = 240, 72  # of a histogram, pixels

STYLE = """
:root { --ink: #1d2329; --soft: #67727e; --line: #dfe3e8; --paper: #fff; --tint: #f4f6f8;
        --mark: #2563eb; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e6e9ec; --soft: #97a2ae; --line: #333b44; --paper: #14181c;
          --tint: #1d2329; --mark: #7aa7ff; } }
* { box-sizing: border-box; }
body { font: 15px/1.5 system-ui, sans-serif; margin: 0 auto; max-width: 76rem;
       padding: 2rem 1.25rem 4rem; color: var(--ink); background: var(--paper); }
h1 { font-size: 1.6rem; margin: 0 0 .25rem; overflow-wrap: anywhere; }
h2 { font-size: 1.15rem; margin: 2.2rem 0 .6rem; }
h3 { font-size: .95rem; margin: 1.2rem 0 .3rem; }
h3 small, .lead, figcaption, .note, dt { color: var(--soft); font-weight: 400; }
.lead { margin: 0; max-width: 60rem; }
.note { border-left: 3px solid #d97706; padding-left: .7rem; margin: .5rem 0; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; } th { text-align: left; font-weight: 600; }
td, th { border-bottom: 1px solid var(--line); padding: .3rem .9rem .3rem 0;
         white-space: nowrap; }
td { font-variant-numeric: tabular-nums; }
td small { display: block; color: var(--soft); }
tbody tr:hover { background: var(--tint); }
.stage { display: grid; grid-template-columns: minmax(0, 26rem) 1fr; gap: 1.5rem;
         background: var(--tint); border-radius: 12px; padding: 1.25rem; }
@media (min-height: 60rem) { .stage { position: sticky; top: .5rem; z-index: 1; } }
@media (max-width: 52rem) { .stage { grid-template-columns: 1fr; } }
.view { position: relative; line-height: 0; cursor: ew-resize; touch-action: none;
        border-radius: 6px; overflow: hidden; --cut: 0%; }
.view img { width: 100%; image-rendering: pixelated; user-select: none; }
.view .over { position: absolute; inset: 0; clip-path: inset(0 0 0 var(--cut)); }
.view .edge { position: absolute; inset: 0 auto 0 var(--cut); width: 2px;
              background: #fff; box-shadow: 0 0 3px #000; }
.stage input { width: 100%; accent-color: var(--mark); margin: .9rem 0 0; }
.stage .title { font-size: 1.1rem; font-weight: 600; overflow-wrap: anywhere; }
.stage dl { display: grid; grid-template-columns: max-content 1fr; gap: .1rem 1rem;
            margin: .7rem 0; font-variant-numeric: tabular-nums; }
.stage dd { margin: 0; }
.shelf { display: grid; gap: .6rem; }
figure { margin: 0; display: flex; gap: .35rem; align-items: end; flex-wrap: wrap; }
figure > div { width: 6.2rem; cursor: pointer; }
figure img { width: 100%; display: block; border-radius: 4px; outline-offset: 2px;
             image-rendering: pixelated; }
figure .on img { outline: 2px solid var(--mark); }
figure span { font-size: .75rem; color: var(--soft); }
figcaption { font-size: .8rem; width: 9rem; align-self: center;
             overflow-wrap: anywhere; }
.histograms { display: flex; flex-wrap: wrap; gap: 1rem 1.6rem; }
.histograms svg { display: block; overflow: visible; }
.histograms text { font-size: 11px; fill: var(--soft); }
.histograms rect { fill: var(--mark); opacity: .75; }
.histograms line { stroke: var(--ink); stroke-dasharray: 3 2; }
pre { background: var(--tint); padding: 1rem; border-radius: 8px; overflow-x: auto;
      font-size: .8rem; }
summary { cursor: pointer; }
"""

STAGE = """
<div class="stage" hidden>
  <div>
    <div class="view"><img class="under" alt="truth"><img class="over" alt="">
      <div class="edge"></div></div>
    <input type="range" min="0" value="0" aria-label="from the input to the truth">
  </div>
  <div><div class="title"></div><div class="frame lead"></div><dl></dl>
    <p class="lead">The slider and the keys &larr; &rarr; go from the input through the
    completions to the truth, &uarr; &darr; to another image. Move over the picture to
    uncover the truth on its left.</p></div>
</div>
"""

SCRIPT = """
const figures = [...document.querySelectorAll("figure")];
const stage = document.querySelector(".stage"), find = q => stage.querySelector(q);
const view = find(".view"), slider = find("input");
let at = 0, frame = 0;
const cells = () => [...figures[at].querySelectorAll("div")];
function show(i, j) {
  at = (i + figures.length) % figures.length;
  const all = cells(), images = all.map(cell => cell.querySelector("img"));
  frame = Math.max(0, Math.min(j, all.length - 1));
  slider.max = all.length - 1; slider.value = frame;
  find(".over").src = images[frame].src;
  find(".under").src = (images.find(image => image.alt == "truth") || images[0]).src;
  find(".title").textContent = figures[at].dataset.name;
  find(".frame").textContent = images[frame].alt;
  find("dl").replaceChildren(...JSON.parse(figures[at].dataset.numbers).flatMap(
    ([name, value]) => [["dt", name], ["dd", value]].map(([tag, text]) =>
      Object.assign(document.createElement(tag), { textContent: text }))));
  document.querySelectorAll("figure .on").forEach(cell => cell.classList.remove("on"));
  all[frame].classList.add("on");
}
const cut = part => view.style.setProperty("--cut", 100 * part + "%");
view.onpointermove = e => cut(e.offsetX / view.clientWidth);
view.onpointerleave = () => cut(0);
slider.oninput = () => show(at, +slider.value);
figures.forEach((figure, i) => figure.querySelectorAll("div").forEach((cell, j) =>
  cell.onclick = () => { show(i, j); stage.scrollIntoView({ block: "nearest" }); }));
addEventListener("keydown", e => {
  const step = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0],
                 ArrowDown: [1, 0] }[e.key];
  if (!step || !figures.length || e.target == slider && !step[0]) return;
  e.preventDefault(); show(at + step[0], frame + step[1]);
});
if (figures.length) { stage.hidden = false; show(0, 1); }
"""


def write(
    out: Path, protocol: dict[str, Any], results: Sequence[Result], gallery: Gallery
) -> None:
    """Writes report.md, report.html and grid.png beside `samples.csv` in `out`."""
    title = f"Evaluation of {protocol['what']}"
    header, cells = table_cells(results)
    first = gallery.shots("first")
    grid = [
        [images.thumbnail(pixels(x)) for x in shot.frames.values()] for shot in first
    ]
    images.write_png(out / "grid.png", images.image_grid(grid, list(first[0].frames)))
    said = notes(protocol)
    files.write_text(
        out / "report.md",
        f"# {title}\n\n{sentence(protocol)}\n\n"
        + "".join(f"> {line}\n" for line in said)
        + f"\n{tables.markdown_table(header, cells)}\n"
        + "".join(f"- {line}\n" for line in legend(protocol))
        + "\n![completions](grid.png)\n",
    )
    parts = [
        *[f'<p class="note">{html_text(line)}</p>' for line in said],
        "<h2>Numbers</h2>",
        f'<div class="wide">{tables.html_table(header, cells)}</div>',
        "<h2>Pictures</h2>",
        STAGE,
        *[shelf(title, gallery) for title in gallery.shelves],
        "<h2>Distributions over samples</h2>",
        histograms(out / "samples.csv"),
        "<h2>What the numbers are</h2>",
        "<ul>" + "".join(f"<li>{html_text(x)}</li>" for x in legend(protocol)),
        "</ul><details><summary>The whole protocol</summary><pre>",
        html_text(json.dumps(protocol, indent=2)) + "</pre></details>",
    ]
    files.write_text(out / "report.html", document(title, sentence(protocol), parts))


def document(title: str, lead: str, parts: Sequence[str]) -> str:
    """A page with the style and the script of all reports."""
    return tables.html_page(
        title,
        [f'<p class="lead">{html_text(lead)}</p>', *parts],
        STYLE,
        SCRIPT,
    )


def sentence(protocol: Mapping[str, Any]) -> str:
    """The protocol for people; metrics.json holds all of it."""
    hole, best_of = protocol["mean_hole_share"], protocol.get("best_of")
    return (
        f"{protocol['images']} images ({protocol['data_source']}), "
        f"{protocol['samples_per_image']} completions each"
        + (f", the best of {best_of} by the system's own score" if best_of else "")
        + f" (seed {protocol['seed']}), "
        f"{protocol['resolution']} pixels, masks: {protocol['masks']}"
        + ("" if hole is None else f" (mean hole {100 * hole:.1f} %)")
        + f". {protocol['pixels']}."
    )


def notes(protocol: Mapping[str, Any]) -> list[str]:
    """What a reader of any of the numbers must not overlook."""
    found = []
    if "paper" in protocol:
        found.append(f"Protocol: {protocol['paper']}")
        unlike = protocol["unlike_the_paper"]
        if unlike:
            found.append(f"Otherwise than the paper: {'; '.join(unlike)}")
    left_out = protocol["left_out"]
    if left_out:
        same: dict[str, list[str]] = {}
        for name, reason in left_out.items():
            same.setdefault(reason, []).append(name)
        why = [f"{', '.join(names)} ({reason})" for reason, names in same.items()]
        found.append(f"Left out: {'; '.join(why)}")
    return found


def legend(protocol: Mapping[str, Any]) -> list[str]:
    """What each metric, column and interval is."""
    lines = [f"{name}: {text}" for name, text in protocol["metrics"].items()]
    lines += [f"column {name}: {text}" for name, text in MEANING.items()]
    return [*lines, "value ± standard error of the mean over images, or [interval]"]


# ---- pictures ----


def shelf(title: str, gallery: Gallery) -> str:
    """A shelf's images, one row each."""
    by = gallery.by.get(title)
    small = f" <small>by {by}, mean over an image's samples</small>" if by else ""
    rows = "".join(figure(shot, by) for shot in gallery.shots(title))
    heading = f"<h3>{title.capitalize()}{small}</h3>"
    return f'{heading}<div class="shelf">{rows}</div>'


def figure(shot: Shot, by: str | None) -> str:
    """An image's pictures side by side: input, completions, truth."""
    numbers = [[name, f"{value:.4g}"] for name, value in shot.numbers.items()]
    caption = f"{shot.place}: {shot.name}"
    if by:
        caption += f" ({by} {shot.numbers[by]:.4g})"
    cells = "".join(
        f'<div><img alt="{name(frame)}" src="{uri}"><span>{frame}</span></div>'
        for frame, uri in shot.frames.items()
    )
    return (
        f'<figure data-name="{html_text(shot.name)}" '
        f"data-numbers='{html_text(json.dumps(numbers))}'>"
        f"<figcaption>{html_text(caption)}</figcaption>{cells}</figure>\n"
    )


def name(frame: str) -> str:
    """`input`, `truth`, or `completion 3`."""
    return f"completion {frame}" if frame.isdigit() else frame


# ---- distributions ----


def histograms(table: Path) -> str:
    """How the values of every column of a table of samples are distributed.

    The table is read twice and never held.
    """
    ranges: dict[str, tuple[float, float, int, float]] = {}
    for column, value in values_of(table):
        low, high, n, total = ranges.get(column, (math.inf, -math.inf, 0, 0.0))
        ranges[column] = min(low, value), max(high, value), n + 1, total + value
    counted = {column: np.zeros(BINS, np.int64) for column in ranges}
    for column, value in values_of(table):
        low, high = ranges[column][:2]
        place = int((value - low) / (high - low) * BINS) if high > low else BINS // 2
        counted[column][min(place, BINS - 1)] += 1
    drawn = [histogram(column, counted[column], *ranges[column]) for column in counted]
    return f'<div class="histograms">{"".join(drawn)}</div>'


def values_of(table: Path):
    """(column, value) of a table of samples, one after the other; no NaN."""
    with open(table, encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            for column, text in row.items():
                if column not in ("image", "sample", "picnet"):
                    value = float(text)
                    if math.isfinite(value):
                        yield column, value


def histogram(
    column: str, counts: np.ndarray, low: float, high: float, n: int, total: float
) -> str:
    """An inline SVG: bars, the mean as a line, both ends as numbers."""
    width = WIDTH / len(counts)
    tallest = max(int(counts.max()), 1)
    bars = ""
    for i, count in enumerate(counts.tolist()):
        if count:
            tall = HEIGHT * count / tallest
            bars += (
                f'<rect x="{i * width:.1f}" y="{HEIGHT - tall:.1f}" '
                f'width="{width - 1:.1f}" height="{tall:.1f}"><title>{count} samples'
                "</title></rect>"
            )
    mean = total / n
    x = WIDTH * (mean - low) / (high - low) if high > low else WIDTH / 2
    return (
        f"<div><b>{html_text(column)}</b>"
        f'<svg width="{WIDTH}" height="{HEIGHT + 18}" role="img">{bars}'
        f'<line x1="{x:.1f}" x2="{x:.1f}" y1="-4" y2="{HEIGHT}"/>'
        f'<text x="0" y="{HEIGHT + 13}">{low:.4g}</text>'
        f'<text x="{WIDTH / 2}" y="{HEIGHT + 13}" text-anchor="middle">'
        f"mean {mean:.4g}</text>"
        f'<text x="{WIDTH}" y="{HEIGHT + 13}" text-anchor="end">{high:.4g}</text>'
        "</svg></div>\n"
    )
