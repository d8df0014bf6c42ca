"""No report without the numbers of methods that learn nothing, and without the seam."""

import numpy as np
import pytest
from helpers.evaluation import (
    center,
    evaluate,
    example,
    picture,
    read_metrics,
    write_folders,
)
from skimage.restoration import inpaint_biharmonic

from picjax.cli import UserError
from picjax.evaluation import baselines
from picjax.evaluation.baselines import Baseline
from picjax.evaluation.metrics.catalog import BASIC


def rows(folder, metric):
    """The cells of a metric's rows in report.md, by method."""
    lines = (folder / "report.md").read_text().splitlines()
    cells = [
        [x.strip() for x in line.split("|")[1:-1]] for line in lines if "|" in line
    ]
    return {row[2]: row for row in cells if row[0] == metric and row[1] == "hole"}


def test_a_runs_report_contains_the_baselines_and_the_seam(tmp_path, model, capsys):
    evaluate("--workdir", tmp_path, "--num=2", "--images=3")
    out = tmp_path / "eval"
    content = read_metrics(out)
    hole = center()[..., 0] == 0
    smooth, flat = [], []
    for truth in map(picture, range(3)):
        flat.append(np.abs(truth[~hole].mean(0).round() - truth[hole]).mean())
        filled = 255 * inpaint_biharmonic(truth, hole, channel_axis=-1)
        smooth.append(np.abs(filled - truth)[hole].mean())
    measured = {
        name: content["baselines"][name]["l1"]["hole"]["first"]
        for name in ("biharmonic", "mean")
    }
    assert measured["mean"]["value"] == pytest.approx(np.mean(flat))
    assert measured["biharmonic"]["value"] == pytest.approx(np.mean(smooth), abs=0.5)
    assert measured["mean"]["images"] == 3
    assert content["results"]["seam"]["hole"]["mean"]["value"] > 0
    for metric in ("l1", "seam"):
        assert list(rows(out, metric)) == [tmp_path.name, "biharmonic", "mean"]
    html = (out / "report.html").read_text()
    for text in (
        "<td>biharmonic</td>",
        "<td>mean</td>",
        "<td>seam</td>",
        "across the hole",
    ):
        assert text in html
    printed = capsys.readouterr().out
    assert "| biharmonic" in printed and "| seam" in printed
    assert "diversity" not in content["baselines"]["mean"]
    assert not (out / "baselines").exists()


def test_folders_have_the_same_baselines_alone_and_side_by_side(tmp_path):
    words = write_folders(tmp_path, ("a", "b"), images=2)
    evaluate(*words[:2], *words[3:], "--out", tmp_path / "alone")
    evaluate(*words, "--out", tmp_path / "both")
    alone = read_metrics(tmp_path / "alone")["baselines"]
    for label in ("a", "b"):
        assert read_metrics(tmp_path / "both" / label)["baselines"] == alone
    header = (tmp_path / "both/report.md").read_text().partition("| metric")[2]
    names = [x.strip() for x in header.partition("\n")[0].split("|")[1:-1]]
    assert names[2:] == ["a", "b", "biharmonic", "mean", "unit"]


def test_baselines_are_chosen(tmp_path, monkeypatch):
    words = write_folders(tmp_path, images=1)
    evaluate(*words, "--baselines=mean")
    assert set(read_metrics(tmp_path / "fake/eval")["baselines"]) == {"mean"}
    evaluate(*words, "--baselines=none")
    assert read_metrics(tmp_path / "fake/eval")["baselines"] == {}
    with pytest.raises(UserError, match="did you mean 'biharmonic'"):
        evaluate(*words, "--baselines=biharmonik")
    monkeypatch.setattr(baselines.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match="pip install 'picjax\\[opencv\\]'"):
        evaluate(*words, "--baselines=telea,mean")
    unmasked = [*words[:2], "--metrics=l1"]
    evaluate(*unmasked)
    (line,) = [
        x
        for x in (tmp_path / "fake/eval/report.md").read_text().splitlines()
        if x[:1] == ">"
    ]
    assert "baselines (the hole is unknown; give --mask)" in line
    with pytest.raises(UserError, match="give --mask"):
        evaluate(*unmasked, "--baselines=mean")


def test_telea(tmp_path):
    pytest.importorskip("cv2")
    evaluate(*write_folders(tmp_path, images=1), "--baselines=telea")
    found = read_metrics(tmp_path / "fake/eval")["baselines"]["telea"]["l1"]
    assert found["whole"]["first"]["value"] == pytest.approx(
        found["hole"]["first"]["value"] / 4
    )


def test_slow_baselines_are_of_the_first_images_and_say_so(tmp_path, monkeypatch):
    monkeypatch.setattr(baselines, "MOST_PIXELS", 2 * 16 * 16)
    words = write_folders(tmp_path, images=5)
    evaluate(*words)
    content = read_metrics(tmp_path / "fake/eval")
    assert content["baselines"]["biharmonic"]["l1"]["hole"]["mean"]["images"] == 2
    assert content["baselines"]["mean"]["l1"]["hole"]["mean"]["images"] == 5
    for page in ("report.md", "report.html"):
        text = (tmp_path / "fake/eval" / page).read_text()
        assert "biharmonic: of 2 of 5 images; left out 3 after the first 512" in text
    evaluate(*words, "--baselines=biharmonic")
    content = read_metrics(tmp_path / "fake/eval")
    assert content["baselines"]["biharmonic"]["l1"]["hole"]["mean"]["images"] == 5
    monkeypatch.setattr(baselines, "LARGEST_HOLE", 16 * 16 - 1)
    evaluate(*words, "--baselines=biharmonic")
    content = read_metrics(tmp_path / "fake/eval")
    assert not content["baselines"] and "5 with holes of more than 255" in str(content)


def test_slow_completions_are_made_once(tmp_path, monkeypatch):
    """An interrupted evaluation and other runs on the same images use them again."""
    baseline = Baseline("biharmonic", {"l1": BASIC["l1"]()}, tmp_path)
    baseline.add(example(1))
    (result, *_) = baseline.results()
    method = baselines.METHODS["biharmonic"]._replace(
        fill=lambda *_: pytest.fail("again")
    )
    monkeypatch.setitem(baselines.METHODS, "biharmonic", method)
    again = Baseline("biharmonic", {"l1": BASIC["l1"]()}, tmp_path)
    again.add(example(1))
    assert again.results()[0] == result


def test_what_the_hole_hides_does_not_matter():
    truth, hole = picture(0), center()[..., 0] == 0
    other = np.where(hole[..., None], picture(1), truth)
    for name in baselines.DEFAULT:
        fill = baselines.METHODS[name].fill
        np.testing.assert_array_equal(fill(truth, hole), fill(other, hole))
        np.testing.assert_array_equal(fill(truth, hole)[~hole], truth[~hole])


def test_an_image_without_a_known_pixel_has_no_baseline(tmp_path):
    baseline = Baseline("mean", {"l1": BASIC["l1"]()}, tmp_path)
    hidden = example(1)._replace(mask=0 * center())
    baseline.add(hidden)
    assert baseline.results() == []
    assert (
        baseline.note()
        == "Baseline mean: of 0 of 1 images; left out 1 without a known pixel"
    )
