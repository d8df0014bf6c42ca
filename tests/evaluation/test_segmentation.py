"""Predicted label maps against the layouts, and diversity by class and instance."""

import json

import numpy as np
import pytest
from PIL import Image

from picjax.cli import UserError
from picjax.evaluation import segmentation
from picjax.evaluation.metrics.layout import LayoutDiversity
from picjax.evaluation.metrics.results import Example

TRUTH = np.repeat([0, 1, 2, 255], 4)[None].repeat(8, 0).astype(np.uint8)


@pytest.fixture
def folders(tmp_path):
    for folder in ("maps", "predicted"):
        (tmp_path / folder).mkdir()
    Image.fromarray(TRUTH).save(tmp_path / "maps/a_label.png")
    return tmp_path


def run(folders):
    words = [f"--labels={folders}/maps", f"--predictions={folders}/predicted"]
    segmentation.main(words)
    return json.loads((folders / "predicted/segmentation.json").read_text())


def test_scores_leave_unlabelled_pixels_out(folders, capsys):
    wrong = np.where(TRUTH == 2, 1, TRUTH)
    for i, values in enumerate((TRUTH, wrong)):
        Image.fromarray(values).save(folders / f"predicted/a_out_{i}.png")
    numbers = run(folders)
    assert numbers["maps"] == 2
    assert numbers["accuracy"] == pytest.approx(5 / 6)
    # Class 1 is half of what was called so in the second map, class 2 is missed there.
    assert numbers["miou"] == pytest.approx((1 + 2 / 3 + 1 / 2) / 3)
    assert "2 predictions" in capsys.readouterr().out


def test_what_is_missing_or_of_another_size_is_named(folders):
    Image.fromarray(TRUTH).save(folders / "predicted/b.png")
    with pytest.raises(UserError, match="holds no map of .*a_label.png"):
        run(folders)
    Image.fromarray(TRUTH[:4]).save(folders / "predicted/a.png")
    with pytest.raises(UserError, match=r"a\.png' is \(4, 16\)"):
        run(folders)


def test_diversity_counts_each_class_and_instance_once():
    label = np.zeros((8, 8), np.int32)
    label[:, 7] = 1  # a small class that alone varies
    samples = np.zeros((3, 8, 8, 3), np.uint8)
    samples[1, :, 7] = 30
    extra = {"label": label, "instance": np.arange(64).reshape(8, 8)}
    example = Example("a", samples[0], None, samples, 0, extra)
    for entry, expected in (("label", 20 / 2), ("instance", 20 / 8)):
        metric = LayoutDiversity(entry)
        metric.add(example)
        (result,) = metric.results()
        assert result.value == pytest.approx(expected)
