"""Draw the README's pictures from trained runs: `make pictures`.

    python docs/make_pictures.py [--runs=runs]

- `docs/images/completions.png`: completions by every run `RUNS/demo-METHOD`, which
  `make demo SYSTEM=METHOD` leaves behind.
- `docs/images/posterior.png`: the known posterior of two scenes, and what every run
  `RUNS/METHOD-scenes` draws for them
  (`python -m picjax.train --config=configs/METHOD.py:scenes`).

A method without such a run is shown by a kept grid of `picjax.complete` in docs/images,
where there is one. The label of each row names the training.
"""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from picjax import load, methods
from picjax.data import scenes

IMAGES = Path(__file__).parent / "images"
CELL, GAP, LABEL, LINE = 72, 4, 150, 18  # pixels
HOLE = 127  # grey level that a hole is shown as
DRAWS = 8  # completions per scene
DEMO_ROWS, DEMO_DRAWS = 2, 6  # images per method, completions per image
SCENES = (2, 4)  # held-out scenes that are shown: three valid completions, and five
SCENE_SIZE = 64  # pixels at which valid completions are drawn
TITLES = {
    "picmm": "PICMM",
    "picnet": "PICNet",
    "pix2pix": "Pix2Pix",
    "pixelcnn": "PixelCNN++",
    "painter": "Painter",
    "inade": "INADE",
}

Row = tuple[str, Sequence[Image.Image | None]]


class Grid(NamedTuple):
    """A kept grid of completions.

    Attributes:
      file: its name in docs/images.
      label: method and training.
      columns: of the input, the first completion and the truth.
      pitch: pixels from cell to cell.
    """

    file: str
    label: str
    columns: tuple[int, int, int]
    pitch: float

    def cell(self, row: int, column: int) -> Image.Image:
        """One cell, without the margin."""
        scale = self.pitch / 98  # grids are stored whole or reduced
        x, y = 2 * scale + self.pitch * column, 11 * scale + self.pitch * row
        with Image.open(IMAGES / self.file) as grid:
            box = [round(v) for v in (x, y, x + 96 * scale, y + 96 * scale)]
            return grid.convert("RGB").crop((box[0], box[1], box[2], box[3]))


KEPT_SCENES = {
    "picmm": Grid(
        "picmm_scenes.png", "PICMM (elbo)\n32 px\n1,000 steps", (1, 2, 0), 98
    ),
    "pixelcnn": Grid(
        "pixelcnn_scenes.png", "PixelCNN++\n16 px\n20,000 steps", (0, 1, 9), 98 * 2 / 3
    ),
}
KEPT_DEMOS = {
    "pixelcnn": Grid(
        "pixelcnn_digits.png", "PixelCNN++\ndigits, 8 px\n863 steps", (1, 2, 0), 98
    ),
}


def main() -> None:
    """The command; see the module's docstring."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--runs", type=Path, default=Path("runs"), metavar="DIR")
    runs = parser.parse_args().runs
    demos = [row for name in TITLES for row in demo_rows(runs, name)]
    titles = ["input", *map(str, range(1, DEMO_DRAWS + 1)), "truth"]
    draw_table(demos, titles).save(IMAGES / "completions.png", optimize=True)
    draw_posterior(runs).save(IMAGES / "posterior.png", optimize=True)


def demo_rows(runs: Path, method: str) -> list[Row]:
    """Completions of a method: by its demo's run, or kept ones, or none."""
    folder = runs / f"demo-{method}" / "completions"
    stems = sorted(path.name[: -len("_grid.png")] for path in folder.glob("*_grid.png"))
    labels = [run_label(folder.parent, method) if stems else "", *[""] * DEMO_ROWS]
    rows: list[Row] = []
    for label, stem in zip(labels, stems[:DEMO_ROWS], strict=False):
        names = [*(f"out_{i}" for i in range(DEMO_DRAWS)), "truth"]
        drawn = [read(folder / f"{stem}_{name}.png") for name in names]
        given = read(folder / f"{stem}_mask.png") or read(folder / f"{stem}_labels.png")
        rows.append((label, [given, *drawn]))
    if not rows and method in KEPT_DEMOS:
        grid = KEPT_DEMOS[method]
        source, first, truth = grid.columns
        columns = [source, *range(first, first + DEMO_DRAWS), truth]
        for label, row in zip((grid.label, ""), (1, 2), strict=True):
            rows.append((label, [grid.cell(row, column) for column in columns]))
    return rows


def draw_posterior(runs: Path) -> Image.Image:
    """Two scenes: valid completions with their probabilities above each method's."""
    blocks = []
    for row in SCENES:
        scene = scenes.sample(0, scenes.EVAL[row], SCENE_SIZE)
        valid = scenes.modes(scene["scene"], scene["attributes"], SCENE_SIZE)
        probabilities = scenes.probabilities(scene["scene"])
        hidden = scene["image"].copy()
        hidden[scenes.hole(SCENE_SIZE)] = HOLE
        cells = [Image.fromarray(image) for image in (hidden, *valid)]
        titles = ["input", *(f"{p:.0%}" for p in probabilities)]
        cells += [None] * (DRAWS - len(cells))
        rows: list[Row] = [("valid\ncompletions and\nprobabilities", cells)]
        rows += [r for name in methods.NAMES for r in scene_rows(runs, name, row)]
        blocks.append(draw_table(rows, titles))
    # The second block repeats the labels of the first: they are cut off.
    right = blocks[1].crop((LABEL - 3 * GAP, 0, *blocks[1].size))
    page = Image.new("RGB", (blocks[0].width + right.width, blocks[0].height), "white")
    page.paste(blocks[0], (0, 0))
    page.paste(right, (blocks[0].width, 0))
    return page


def scene_rows(runs: Path, method: str, row: int) -> list[Row]:
    """What a method draws for held-out scene `row`: by its run, or kept ones, or none."""
    workdir = runs / f"{method}-scenes"
    if workdir.is_dir():
        model = load(workdir)
        size = model.size[0]
        scene = scenes.sample(0, scenes.EVAL[row], size)
        images = model.complete(scene["image"], "center", n=DRAWS)
        cells = [Image.fromarray(np.asarray(image)) for image in images]
        return [(run_label(workdir, method), cells)]
    if method not in KEPT_SCENES:
        return []
    grid = KEPT_SCENES[method]
    first = grid.columns[1]
    return [(grid.label, [grid.cell(row, first + i) for i in range(DRAWS)])]


def run_label(workdir: Path, method: str) -> str:
    """Method, data and training of a run in three lines."""
    config = json.loads((workdir / "config.json").read_text())["config"]
    saved = (workdir / "checkpoints").glob("[0-9]*")
    step = max(int(path.name) for path in saved if path.name.isdigit())
    data, size = config["data"]["name"], config["image_size"]
    return f"{TITLES.get(method, method)}\n{data}, {size} px\n{step:,} steps"


def read(path: Path) -> Image.Image | None:
    """An image file, if it exists."""
    if not path.exists():
        return None
    with Image.open(path) as image:
        return image.convert("RGB")


def draw_table(rows: Sequence[Row], titles: Sequence[str]) -> Image.Image:
    """Rows of images with a label at the left, titles above the columns."""
    count = max(len(cells) for _, cells in rows)
    pitch = CELL + GAP
    size = (LABEL + count * pitch, LINE + len(rows) * pitch)
    page = Image.new("RGB", size, "white")
    brush, font = ImageDraw.Draw(page), ImageFont.load_default(size=13)
    for column, title in enumerate(titles):
        x = LABEL + column * pitch + CELL // 2
        brush.text((x, 1), title, fill="black", font=font, anchor="ma")
    for i, (label, cells) in enumerate(rows):
        y = LINE + i * pitch
        brush.multiline_text((GAP, y + 8), label, fill="black", font=font)
        for column, cell in enumerate(cells):
            if cell is not None:
                small = cell.width <= CELL
                how = Image.Resampling.NEAREST if small else Image.Resampling.BOX
                page.paste(cell.resize((CELL, CELL), how), (LABEL + column * pitch, y))
    return page


if __name__ == "__main__":
    main()
