"""Grids keep every image's pixels; pages are self-contained; files are atomic."""

import json
import os
import re
import subprocess
import sys
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image

import picjax
from picjax import files, images, model
from picjax.evaluation.metrics.results import Example
from picjax.evaluation.report import gallery, page, training
from picjax.evaluation.report.tables import markdown_table


def picture(seed: int, h: int = 12, w: int = 12) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 250, (h, w, 3), dtype=np.uint8)


def test_grid_places_every_image_once():
    rows = [[picture(0), picture(1), picture(2)], [picture(3)]]
    grid = images.image_grid(rows)
    m = images.MARGIN
    assert grid.shape == (m + 2 * (12 + m), m + 3 * (12 + m), 3)
    for i, row in enumerate(rows):
        for j, image in enumerate(row):
            y, x = m + i * (12 + m), m + j * (12 + m)
            np.testing.assert_array_equal(grid[y : y + 12, x : x + 12], image)
    # All else is white: the margins and the two missing cells of the second row.
    assert (grid < 255).any(-1).sum() == 4 * 12 * 12
    assert (grid[m + 12 + m :, m + 12 + m :] == 255).all()


def test_grid_of_different_sizes_centres_the_smaller():
    small, large = picture(0, 6, 8), picture(1, 12, 20)
    grid = images.image_grid([[large, small]])
    y, x = images.MARGIN + 3, 2 * images.MARGIN + 20 + 6
    np.testing.assert_array_equal(grid[y : y + 6, x : x + 8], small)


def test_titles_only_add_a_line_at_the_top():
    rows = [[picture(0, 20, 40), picture(1, 20, 40)]]
    plain = images.image_grid(rows)
    titled = images.image_grid(rows, ["truth", "a title longer than its column"])
    extra = titled.shape[0] - plain.shape[0]
    assert extra == images.TITLE_HEIGHT
    np.testing.assert_array_equal(titled[extra:], plain)
    line = titled[:extra]
    assert (line < 128).any()  # something is written there
    gap = images.MARGIN + 40
    assert (line[:, gap : gap + images.MARGIN] == 255).all()  # cut at its column


@pytest.mark.parametrize(
    "rows",
    [[], [[]], [[np.zeros((4, 4, 3), np.float32)]], [[np.zeros((4, 4), np.uint8)]]],
)
def test_grid_refuses(rows):
    with pytest.raises(ValueError, match="image|uint8"):
        images.image_grid(rows)


def test_write_png_is_lossless_and_makes_the_folder(tmp_path):
    path = tmp_path / "new" / "a.png"
    images.write_png(path, picture(0))
    np.testing.assert_array_equal(np.asarray(Image.open(path)), picture(0))
    assert os.listdir(path.parent) == ["a.png"]


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch):
    path = tmp_path / "a.txt"
    files.write_text(path, "old")

    def fail(source, target):
        raise OSError("disk full")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(OSError, match="disk full"):
        files.write_text(path, "new")
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["a.txt"]


def test_markdown_tables_are_aligned():
    table = markdown_table(["metric", "value"], [["a|b", "1"], ["psnr", "20"]])
    lines = table.splitlines()
    assert lines[0].startswith("| metric |") and set(lines[1]) == {"|", "-"}
    assert "a\\|b" in lines[2]
    assert len({len(line) for line in lines}) == 1


def make_page(**changes):
    context = {"title": "a < b", "lead": "lead", "notes": [], "legend": []}
    context |= {"header": ["x"], "rows": [["<b>\n+1 [0, 2]"]], "sections": []}
    return page.render(**(context | changes))


def make_example(name, image, samples):
    return Example(name, image, None, samples, 0, {})


def test_page_is_self_contained():
    """Every picture is inside, names are text, and nothing is fetched."""
    truth = picture(0, 16, 16)
    samples = np.stack([picture(1, 16, 16), picture(2, 16, 16)])
    name = "<b>'x'&quot;"
    panels = gallery.Gallery()
    example = make_example(name, truth, samples)
    panels.add(0, example, {"psnr": np.array([1.0, 3.0])})
    text = make_page(sections=page.gallery_sections(panels)[-1:])
    found = Page()
    found.feed(text)
    assert (
        found.text["h1"] == "a < b" and found.attributes["figure"]["data-name"] == name
    )
    assert json.loads(found.attributes["figure"]["data-numbers"]) == [["psnr", "2"]]
    sources = [uri for uri in found.sources if uri]
    assert all(uri.startswith("data:image/png;base64,") for uri in sources)
    shown = [gallery.pixels(uri) for uri in sources]
    np.testing.assert_array_equal(shown, [*samples, truth])
    assert "http" not in text and "addEventListener" in text and "--ink:" in text
    assert "<td>&lt;b&gt;<small>+1 [0, 2]</small></td>" in text


class Page(HTMLParser):
    """What a browser would find in a page."""

    def __init__(self):
        super().__init__()
        self.text, self.attributes, self.sources, self.open = {}, {}, [], ""

    def handle_starttag(self, tag, attrs):
        self.open, self.attributes[tag] = tag, dict(attrs)
        if tag == "img":
            self.sources.append(dict(attrs).get("src"))

    def handle_data(self, data):
        self.text.setdefault(self.open, data)


def test_sections_hold_the_extremes_of_all():
    panels = gallery.Gallery()
    values = np.random.default_rng(0).permutation(40).astype(float)
    image = picture(0)
    for i, value in enumerate(values):
        columns = {"psnr": np.array([value]), "diversity": np.array([-value])}
        panels.add(i, make_example(str(i), image, image[None]), columns)

    def shown(title):
        return [panel.numbers["psnr"] for panel in panels.panels(title)]

    assert shown("best") == [39, 38, 37, 36] and shown("worst") == [0, 1, 2, 3]
    assert shown("most diverse") == [0, 1, 2, 3]
    assert [panel.place for panel in panels.panels("first")] == list(range(8))


def test_histograms_count_every_number(tmp_path):
    (tmp_path / "t.csv").write_text(
        "image,sample,l1,picnet\na,0,1,1\na,1,5,0\nb,0,nan,1\n"
    )
    text = make_page(histograms=page.histograms(tmp_path / "t.csv"))
    assert text.count("<rect") == 2 and "mean 3" in text and text.count("<svg") == 1
    assert text.count("<title>1 samples</title>") == 2


def test_the_best_of_a_row_are_bold_and_the_table_is_saved_as_csv():
    rows = [["l1", "3", "2"], ["tv", "1", "1"]]
    text = make_page(header=["metric", "a", "b"], rows=rows, winners=[[2], []])
    assert text.count('<td class="best">2</td>') == text.count('class="best"') == 1
    assert '<button class="csv"' in text and "text/csv" in text


def test_the_page_reads_on_a_narrow_and_on_a_dark_screen():
    text = make_page()
    assert 'name="viewport" content="width=device-width' in text
    assert "prefers-color-scheme: dark" in text and "(max-width: 30rem)" in text
    # The table scrolls inside its frame, below its header.
    assert ".wide { overflow: auto" in text and "thead th { position: sticky" in text
    fixed = re.findall(
        r"#[0-9a-f]{3,6}", text[text.index("* {") : text.index("</style>")]
    )
    assert set(fixed) == {"#d97706", "#fff", "#000"}  # else variables, for both schemes


def test_training_curves_are_lines_over_the_steps(tmp_path):
    lines = [
        {"step": s, "rec": v, "seconds": 1} for s, v in ((10, 4), (20, 1), (30, 2))
    ]
    text = "".join(json.dumps(line) + "\n" for line in lines)
    (tmp_path / "metrics.jsonl").write_text(text)
    (curve,) = training.training_curves({"workdir": str(tmp_path)})
    assert curve.points == "0.0,0.0 120.0,72.0 240.0,48.0"
    assert (curve.name, curve.first_step, curve.last_step) == ("rec", 10, 30)
    page_text = make_page(curves=[curve])
    assert f'<polyline points="{curve.points}"/>' in page_text and "last 2" in page_text
    assert "<polyline" not in make_page()
    for protocol in ({}, {"workdir": str(tmp_path / "none")}):
        assert training.training_curves(protocol) == []


def test_importing_picjax_does_not_import_jax():
    code = "import sys, picjax; assert 'jax' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_load_is_found_when_asked_for():
    assert picjax.load is model.load and picjax.Model is model.Model
    with pytest.raises(AttributeError, match="speed"):
        picjax.speed  # noqa: B018
