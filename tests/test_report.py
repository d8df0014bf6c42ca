"""Grids keep every image's pixels; pages are self-contained; files are atomic."""

import base64
import io
import os
import re
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

import picjax
from picjax import complete, report


def picture(seed: int, h: int = 12, w: int = 12) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 250, (h, w, 3), dtype=np.uint8)


def test_grid_places_every_image_once():
    rows = [[picture(0), picture(1), picture(2)], [picture(3)]]
    grid = report.image_grid(rows)
    m = report.MARGIN
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
    grid = report.image_grid([[large, small]])
    y, x = report.MARGIN + 3, 2 * report.MARGIN + 20 + 6
    np.testing.assert_array_equal(grid[y : y + 6, x : x + 8], small)


def test_titles_only_add_a_line_at_the_top():
    rows = [[picture(0, 20, 40), picture(1, 20, 40)]]
    plain = report.image_grid(rows)
    titled = report.image_grid(rows, ["truth", "a title longer than its column"])
    extra = titled.shape[0] - plain.shape[0]
    assert extra == report.TITLE_HEIGHT
    np.testing.assert_array_equal(titled[extra:], plain)
    line = titled[:extra]
    assert (line < 128).any()  # something is written there
    gap = report.MARGIN + 40
    assert (line[:, gap : gap + report.MARGIN] == 255).all()  # cut at its column


@pytest.mark.parametrize(
    "rows",
    [[], [[]], [[np.zeros((4, 4, 3), np.float32)]], [[np.zeros((4, 4), np.uint8)]]],
)
def test_grid_refuses(rows):
    with pytest.raises(ValueError, match="image|uint8"):
        report.image_grid(rows)


def test_write_png_is_lossless_and_makes_the_folder(tmp_path):
    path = tmp_path / "new" / "a.png"
    report.write_png(path, picture(0))
    np.testing.assert_array_equal(np.asarray(Image.open(path)), picture(0))
    assert os.listdir(path.parent) == ["a.png"]


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch):
    path = tmp_path / "a.txt"
    report.write_text(path, "old")

    def fail(source, target):
        raise OSError("disk full")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(OSError, match="disk full"):
        report.write_text(path, "new")
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["a.txt"]


def test_tables():
    table = report.markdown_table(["metric", "value"], [["a|b", "1"], ["psnr", "20"]])
    lines = table.splitlines()
    assert lines[0].startswith("| metric |") and set(lines[1]) == {"|", "-"}
    assert "a\\|b" in lines[2]
    assert len({len(line) for line in lines}) == 1  # aligned
    assert "<td>&lt;b&gt;</td>" in report.html_table(["x"], [["<b>"]])


def test_page_carries_its_pictures():
    image = picture(0)
    page = report.html_page("a < b", [report.html_image(image, "grid")])
    assert "<h1>a &lt; b</h1>" in page
    (data,) = re.findall(r'src="data:image/png;base64,([^"]+)"', page)
    np.testing.assert_array_equal(
        np.asarray(Image.open(io.BytesIO(base64.b64decode(data)))), image
    )
    assert "http" not in page


def test_importing_picjax_does_not_import_jax():
    code = "import sys, picjax; assert 'jax' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_load_is_found_when_asked_for():
    assert picjax.load is complete.load and picjax.Model is complete.Model
    with pytest.raises(AttributeError, match="speed"):
        picjax.speed  # noqa: B018
