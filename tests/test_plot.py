"""picjax.plot: curves of several runs, and evaluations as LaTeX or CSV."""

import csv
import json

import numpy as np
import pytest
from PIL import Image

from picjax import curves, plot
from picjax.cli import UserError


def write_run(folder, metrics, steps=5):
    folder.mkdir(parents=True)
    lines = [
        {"step": i}
        | {name: value * i for name, value in metrics.items()}
        | {"seconds": i}
        for i in range(1, steps + 1)
    ]
    text = "".join(json.dumps(line) + "\n" for line in lines)
    (folder / "metrics.jsonl").write_text(text)
    return folder


def write_evaluation(folder, l1, hypothetical=None):
    number = {"standard_error": 0.25, "interval": None, "images": 4, "unit": "levels"}
    results = {"l1": {"hole": {"mean": {"value": l1, **number}}}}
    if hypothetical is not None:
        results["tv"] = {"whole": {"mean": {"value": hypothetical, **number}}}
    (folder / "eval").mkdir()
    content = json.dumps({"protocol": {}, "results": results})
    (folder / "eval/metrics.json").write_text(content)


@pytest.fixture
def runs(tmp_path):
    a = write_run(tmp_path / "a", {"rec": 2.0, "bm": 1.0})
    b = write_run(tmp_path / "b_2", {"rec": 3.0})
    write_evaluation(a, 12.5, 3.0)
    write_evaluation(b, 11.0)
    return a, b


def test_each_metric_has_a_panel_and_each_run_a_line(runs):
    runs_curves = {path.name: curves.read_curves(path) for path in runs}
    names = plot.choose(runs_curves, "")
    assert names == ["rec", "bm"]  # timings only if they are named
    assert plot.choose(runs_curves, "seconds") == ["seconds"]
    figure = plot.draw(runs_curves, names)
    first, second = figure.axes
    assert [axis.get_title() for axis in (first, second)] == names
    a, b = first.lines
    np.testing.assert_array_equal(a.get_ydata(), 2.0 * np.arange(1, 6))
    np.testing.assert_array_equal(b.get_ydata(), 3.0 * np.arange(1, 6))
    assert len(second.lines) == 1
    assert [text.get_text() for text in figure.legends[0].texts] == ["a", "b_2"]


def test_long_logs_are_averaged(tmp_path):
    steps, values = curves.read_curves(write_run(tmp_path / "long", {"rec": 1.0}, 900))[
        "rec"
    ]
    assert len(steps) == 300
    np.testing.assert_allclose(values[:2], [2.0, 5.0])
    np.testing.assert_allclose(steps, values)


def test_the_picture_is_written(runs, tmp_path, capsys):
    plot.main([*map(str, runs), f"--out={tmp_path / 'x.png'}"])
    assert "2 metrics of 2 run(s)" in capsys.readouterr().out
    with Image.open(tmp_path / "x.png") as picture:
        assert picture.width == 1200  # two panels of 4 inches at 150 dots


def test_tables(runs, capsys):
    plot.main([*map(str, runs), "--table=csv"])
    rows = list(csv.reader(capsys.readouterr().out.splitlines()))
    assert rows[0][:5] == ["metric", "region", "samples", "unit", "a"]
    assert rows[1] == ["l1", "hole", "mean", "levels", "12.5", "0.25", "11.0", "0.25"]
    assert rows[2][4:] == ["3.0", "0.25", "", ""]
    plot.main([*map(str, runs), "--table=latex"])
    lines = capsys.readouterr().out.splitlines()
    assert lines[2] == r"metric & a & b\_2 \\"
    bold = r"\textbf{11} $\pm$ 0.25"
    assert lines[4] == rf"l1, hole, mean & 12.5 $\pm$ 0.25 & {bold} \\"
    assert lines[5].endswith(r"& -- \\") and "textbf" not in lines[5]


@pytest.mark.parametrize(
    ("words", "error"),
    [
        (("--metrics=recc",), "'recc' is none of rec, bm, seconds; did you mean 'rec'"),
        (("--table=tex",), "'tex' is none of latex, csv"),
        (("--out=a.xyz",), "extension 'xyz' is none of"),
    ],
)
def test_wrong_options_are_named(words, error, runs):
    with pytest.raises(UserError, match=error):
        plot.main([str(runs[0]), *words])


def test_folders_without_logs_are_refused(tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="has no metrics.jsonl"):
        plot.main([str(tmp_path / "empty")])
    with pytest.raises(UserError, match="has no evaluation"):
        plot.main([str(tmp_path / "empty"), "--table=csv"])
    (tmp_path / "empty/metrics.jsonl").write_text('{"step": 1}\n{"st')
    with pytest.raises(UserError, match="line 2 of .* is damaged"):
        plot.main([str(tmp_path / "empty")])
