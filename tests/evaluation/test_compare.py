"""Several evaluations side by side."""

import csv

import numpy as np
import pytest
from helpers.configs import load_config
from helpers.evaluation import (
    evaluate,
    picture,
    read_manifest,
    read_metrics,
    save,
    write_folders,
)
from helpers.fake_system import SIZE, make_model

from picjax import masks
from picjax.evaluation import compare, tasks
from picjax.evaluation.metrics.results import Result
from picjax.evaluation.run import checksum

REGIONS = ("hole", "whole")


def test_systems_side_by_side(tmp_path, capsys):
    words = write_folders(tmp_path, ("good", "bad"))
    evaluate(*words, "--out", tmp_path / "out")
    content = read_metrics(tmp_path / "out")
    mean, low, high = content["differences"]["l1/hole/mean"]["bad"]
    texts = [(tmp_path / f"out/{x}/samples.csv").read_text() for x in ("good", "bad")]
    tables = [csv.DictReader(text.splitlines()) for text in texts]
    good, bad = (np.array([float(r["l1_hole"]) for r in table]) for table in tables)
    paired = (bad - good).reshape(5, 2).mean(1)
    assert mean == pytest.approx(paired.mean(), rel=1e-4)
    assert paired.min() <= low < mean < high <= paired.max() and low > 0
    printed = capsys.readouterr()
    assert "worse" in printed.out and not content["notes"]
    text = (tmp_path / "out/report.html").read_text()
    assert text.count("<figure") == 10 and "good: 0" in text
    # What is measured already is not measured again; other images do not compare.
    save(tmp_path / "real/0.png", picture(9))
    evaluate(*words[:2], words[3], words[4], "--out", tmp_path / "out/good")
    capsys.readouterr()
    evaluate(*words, "--out", tmp_path / "out")
    assert "good is measured already" in capsys.readouterr().err


def test_other_images_do_not_compare(tmp_path):
    for name, images in (("a", 3), ("b", 2)):
        evaluate(
            *write_folders(tmp_path / name, images=images), "--out", tmp_path / name
        )
    compare.write([tmp_path / "a", tmp_path / "b"], ["a", "b"], tmp_path)
    content = read_metrics(tmp_path)
    assert content["notes"] == [
        "b was measured on other images or masks than a: the two do not compare"
    ]
    assert not content["differences"]


def test_systems_of_different_sizes_are_compared_at_the_images_own(
    tmp_path, monkeypatch
):
    """Each as `Model.complete` completes the image; alone, a run keeps to its size."""
    models = {"a": make_model(SIZE), "b": make_model(16, 0.1)}
    for name, fake in models.items():
        fake.config.data = load_config("picmm", "tiny").data
        (tmp_path / name).mkdir()
    named = {str(tmp_path / name): fake for name, fake in models.items()}
    monkeypatch.setattr(tasks, "load", lambda workdir, *_: named[workdir])
    monkeypatch.setattr(tasks, "read_config", lambda path: named[str(path)].config)
    for k in range(3):
        save(tmp_path / f"real/{k}.png", picture(k, 24 + k, 40))
    words = [f"--real={tmp_path / 'real'}", "--mask=center", "--num=2", "--metrics=l1"]
    both = [f"--workdir={tmp_path / name}" for name in models]
    evaluate(*both, *words, "--seed=5", "--out", tmp_path / "out")
    table = read_metrics(tmp_path / "out")
    assert not table["notes"] and "b" in table["differences"]["l1/hole/mean"]
    mask = masks.center(np.random.default_rng(0), 24, 40)
    for name, fake in models.items():
        manifest = read_manifest(tmp_path / f"out/{name}")
        protocol = manifest["protocol"]
        assert protocol["resolution"] == "40x24, 40x25, 40x26"
        assert f"from {fake.size[0]}x{fake.size[1]} to" in protocol["pixels"]
        made = fake.complete(picture(0, 24, 40), mask, n=2, seed=5)
        assert manifest["images"][0]["completions"] == checksum(made)
        # The same again from the manifest; raw, the same draws.
        again = (both[0], "--manifest", tmp_path / f"out/{name}/manifest.json")
        evaluate(*again, "--raw", "--out", tmp_path / "raw")
        raw = read_metrics(tmp_path / "raw")
        hole, whole = (raw["results"]["l1"][x]["mean"]["value"] for x in REGIONS)
        assert whole > 1.5 * hole * raw["protocol"]["mean_hole_share"]
        assert raw["protocol"]["images"] == 3
    evaluate(both[1], *words, "--out", tmp_path / "alone")
    alone = read_metrics(tmp_path / "alone")
    assert alone["protocol"]["resolution"] == "16x16"


def test_a_single_image_has_no_interval():
    one, two = np.array([1.0, np.nan]), np.array([3.0, 4.0])
    mean, *interval = compare.difference(one, two)
    assert mean == 2 and np.isnan(interval).all()


def test_winners_are_the_best_of_each_row():
    def entry(label, *numbers):
        results = {
            (metric, "hole", "mean"): Result(metric, "hole", "mean", value, 0.1, 3, "")
            for metric, value in zip(("l1", "psnr", "tv"), numbers, strict=False)
        }
        return compare.Entry(label, {}, results, [], {}, [], {})

    entries = [entry("a", 2.0, 20.0, 1.0), entry("b", 1.0, 20.0, 2.0), entry("c", 3.0)]
    # Columns after metric, region and samples; neither end of tv is better.
    assert compare.table(entries).winners == [[4], [3, 4], []]
