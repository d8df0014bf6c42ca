"""Evaluation of a run: the numbers, the protocol and the files."""

import csv
import json
import math
import os

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers.evaluation import (
    center,
    evaluate,
    example,
    held_out,
    picture,
    read_manifest,
    read_metrics,
    save,
)
from helpers.fake_system import SIZE, ScoringSystem, make_model

from picjax.cli import UserError
from picjax.data import scenes
from picjax.evaluation import examples, run
from picjax.evaluation.examples import Sampling
from picjax.evaluation.metrics.catalog import BASIC
from picjax.evaluation.metrics.results import Example
from picjax.evaluation.report import gallery
from picjax.model import Model


def test_pairs_are_completed_from_their_condition_and_show_it(monkeypatch):
    def pairs(*args):
        for batch in held_out(*args):
            condition = np.full_like(batch["image"], 77)
            yield batch | {"condition": condition, "mask": 0 * batch["mask"]}

    monkeypatch.setattr(examples.pipeline, "eval_batches", pairs)
    model = make_model(scale=0.0, data="aligned")
    (found,) = examples.model_examples(model, Sampling(2), 1, 1)
    assert (found.samples == 77).all() and found.samples.shape[0] == 2
    shown = {name: gallery.pixels(uri) for name, uri in gallery.frames(found).items()}
    assert list(shown) == ["input", "0", "1", "truth"]
    assert (shown["input"] == 77).all()
    np.testing.assert_array_equal(shown["truth"], picture(0))


def test_files_of_a_run(tmp_path, model, capsys):
    evaluate("--workdir", tmp_path, "--num=3", "--images=10", "--seed=5")
    out = tmp_path / "eval"
    names = ["grid.png", "manifest.json", "metrics.json", "panels.json"]
    assert sorted(os.listdir(out)) == [
        *names,
        "report.html",
        "report.md",
        "samples.csv",
    ]
    content = read_metrics(out)
    protocol = content["protocol"]
    expected = {
        "images": 10,
        "samples_per_image": 3,
        "seed": 5,
        "step": 7,
        "resolution": "32x32",
        "masks": "center",
        "system": "fake",
        "mean_hole_share": 0.25,
        "workdir": str(tmp_path),
    }
    assert {key: protocol[key] for key in expected} == expected
    assert protocol["data"]["name"] == "photos" and "jax" in protocol["versions"]
    # Ten images and not the 16 of two padded batches.
    l1 = content["results"]["l1"]["hole"]
    assert set(l1) == {"first", "mean", "best", "picnet"}
    assert l1["mean"]["images"] == 10
    assert l1["best"]["value"] < l1["mean"]["value"]

    with open(out / "samples.csv") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 30
    assert [r["image"] for r in rows[::3]] == [f"image{i}" for i in range(10)]
    mean = np.mean([float(r["l1_hole"]) for r in rows])
    assert l1["mean"]["value"] == pytest.approx(mean, rel=1e-5)
    assert sum(int(r["picnet"]) for r in rows) == 10

    for page in ("report.md", "report.html"):
        text = (out / page).read_text()
        for word in ("10 images", "3 completions", "32x32", "center", "seed 5"):
            assert word in text, (page, word)
    assert "data:image/png;base64" in (out / "report.html").read_text()
    assert "psnr" in capsys.readouterr().out


def test_a_run_gives_what_complete_gives(model):
    """Same seed, image and mask: same pixels, alone or in a batch."""
    found = list(examples.model_examples(model, Sampling(2, seed=4), 3, batch_size=2))
    assert [g.name for g in found] == ["image0", "image1", "image2"]
    for i, g in enumerate(found):
        expected = model.complete(picture(i), center(), n=2, seed=4)
        np.testing.assert_array_equal(g.samples, expected)


def test_a_run_is_measured_raw(tmp_path, model):
    """Known pixels as the system makes them, of the same draws; a manifest says so."""
    words = ("--workdir=run", "--num=2", "--images=2", "--metrics=l1")
    ratio, holes = [], []
    for raw in ((), ("--raw",)):
        out = tmp_path / "".join(raw)
        evaluate(*words, *raw, "--out", out)
        content = read_metrics(out)
        l1 = {r: x["mean"]["value"] for r, x in content["results"]["l1"].items()}
        ratio.append(l1["whole"] / l1["hole"])
        holes.append(l1["hole"])
        assert ("pasted" in content["protocol"]["pixels"]) == (not raw)
    assert ratio[0] == pytest.approx(0.25) and ratio[1] > 0.5
    assert holes[0] == holes[1]
    manifest = tmp_path / "--raw/manifest.json"
    evaluate("--workdir=run", "--manifest", manifest, "--out", tmp_path / "again")
    assert read_manifest(tmp_path / "again") == json.loads(manifest.read_text())


def test_the_best_are_the_same_raw(model):
    """The composites' scores decide in both cases, so the same draws are kept."""
    system = ScoringSystem(lambda x: x.mean((1, 2, 3)))
    ranking = Model(model.config, system, model.variables, 7)
    kept, made = (
        next(examples.model_examples(ranking, sampling, 1, 1)).samples
        for sampling in (Sampling(2, 0, 5), Sampling(2, 0, 5, composite=False))
    )
    hole = np.broadcast_to(center() == 0, kept.shape)
    np.testing.assert_array_equal(kept[hole], made[hole])
    assert (kept != made).any()


def test_memory_does_not_grow(model):
    """At most two batches are alive, however many images there are."""
    alive = []
    sample = model.sample

    def counted(*args, **options):
        alive.append(sample(*args, **options))
        return alive[-1]

    model.sample = counted
    for i, _ in enumerate(
        examples.model_examples(model, Sampling(1), 32, batch_size=2)
    ):
        assert len(alive) <= i // 2 + 2  # one batch ahead


def test_numbers_that_are_not_finite_are_no_black_pixels(monkeypatch):
    monkeypatch.setattr(examples.pipeline, "eval_batches", held_out)
    spoilt = make_model(scale=math.nan)
    with pytest.raises(UserError, match="'image0' hold numbers that are not finite"):
        list(examples.model_examples(spoilt, Sampling(1), 2, 2))
    with pytest.raises(UserError, match="not finite"):
        spoilt.complete(picture(0), center(), n=1)


def test_metrics_can_be_chosen(tmp_path, model):
    evaluate("--workdir", tmp_path, "--num=2", "--images=2", "--metrics=ssim,tv")
    content = read_metrics(tmp_path / "eval")
    assert list(content["results"]) == ["ssim", "tv"]
    assert "best" not in content["results"]["tv"]["whole"]  # neither end is better


def test_other_masks_than_the_runs(tmp_path, model):
    words = ("--workdir", tmp_path, "--num=1", "--images=1", "--metrics=l1")
    evaluate(*words, "--mask=left")
    content = read_metrics(tmp_path / "eval")
    assert content["protocol"]["masks"] == "left"
    assert content["protocol"]["data"]["masks"] == ["left"]
    save(tmp_path / "m.png", center()[..., 0])
    evaluate(*words, "--mask", tmp_path / "m.png")
    assert model.config.data.mask_path == str(tmp_path / "m.png")
    with pytest.raises(UserError, match="did you mean 'left'"):
        evaluate(*words, "--mask=lefft")
    with pytest.raises(UserError, match="--invert-mask"):
        evaluate(*words, "--invert-mask")


def test_likelihood_where_the_system_says_it(tmp_path, model):
    def likelihoods(variables, batch, key):
        bright = batch["image"].astype(jnp.float32).mean((1, 2, 3))
        return {"bits_per_dim": bright, "bits_per_dim_hole": 5 + 0 * bright}

    model._evaluate, model.has_likelihood = jax.jit(likelihoods), True
    evaluate("--workdir", tmp_path, "--num=1", "--images=3", "--metrics=likelihood")
    content = read_metrics(tmp_path / "eval")
    found = content["results"]["likelihood"]
    bright = np.mean([picture(i) for i in range(3)])
    assert found["whole"]["all"]["value"] == pytest.approx(bright, rel=1e-5)
    assert found["hole"]["all"]["value"] == 5
    assert found["hole"]["all"]["unit"] == "bits/dim"
    assert content["protocol"]["data_source"] == "held-out part of photos"


def test_posterior_of_scenes(tmp_path, model, monkeypatch):
    """A perfect sampler has a distance of its floor; noise is never valid."""

    def batches(data, image_size, batch_size, num, seed):
        for i in range(num // batch_size):
            drawn = [
                scenes.sample(0, scenes.EVAL[batch_size * i + j], SIZE)
                for j in range(batch_size)
            ]
            batch = {k: np.stack([d[k] for d in drawn]) for k in ("image", "scene")}
            batch["scene_attributes"] = np.stack([d["attributes"] for d in drawn])
            mask = np.stack([center()] * batch_size)
            extra = {"name": ["x"] * batch_size, "valid": np.ones(batch_size, bool)}
            yield batch | {"mask": mask} | extra

    monkeypatch.setattr(examples.pipeline, "eval_batches", batches)
    model.config.data.name = "scenes"
    evaluate("--workdir", tmp_path, "--num=2", "--images=16", "--metrics=posterior")
    content = read_metrics(tmp_path / "eval")
    found = content["results"]["posterior/valid"]["hole"]["all"]
    assert found["value"] == 0 and found["images"] == 16

    perfect = BASIC["posterior"]()
    rng = np.random.default_rng(0)
    for i in range(60):
        d = scenes.sample(1, scenes.EVAL[i], SIZE)
        extra = {"scene": np.asarray(d["scene"]), "scene_attributes": d["attributes"]}
        true = scenes.complete_true(d["scene"], d["attributes"], SIZE, 4, rng)
        perfect.add(Example("x", d["image"], center(), true, 0, extra))
    values = {r.metric: r for r in perfect.results()}
    assert values["posterior/valid"].value == 1
    floor = values["posterior/total_variation_floor"].interval
    assert floor and floor[0] <= values["posterior/total_variation"].value <= floor[1]


def test_every_image_has_the_same_columns():
    with run.temporary_text() as table:
        recorder = run.Recorder(table)
        recorder.add(example(0), {"x": np.zeros(3)})
        with pytest.raises(ValueError, match="'1' has the columns"):
            recorder.add(example(1), {})


def test_a_folder_that_cannot_be_written_to_is_named(tmp_path, model):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be written to"):
        evaluate("--workdir=run", "--images=1", "--out", tmp_path / "file/out")


def test_a_manifest_repeats_an_evaluation(tmp_path, model):
    evaluate("--workdir=run", "--num=2", "--images=3", "--seed=7", "--out", tmp_path)
    first = read_manifest(tmp_path)
    assert [entry["name"] for entry in first["images"]] == [
        "image0",
        "image1",
        "image2",
    ]
    again = ("--workdir=run", "--manifest", tmp_path / "manifest.json")
    evaluate(*again, "--out", tmp_path / "again")
    second = read_manifest(tmp_path / "again")
    assert second == first  # the completions' checksums, too
    with pytest.raises(UserError, match="--num is stated by --manifest"):
        evaluate(*again, "--num=3")
    (tmp_path / "old.json").write_text('{"protocol": {"num": 1}, "images": [{}]}')
    with pytest.raises(UserError, match="cannot be read as one"):
        evaluate("--workdir=run", "--manifest", tmp_path / "old.json")
    other = first | {"images": first["images"][::-1]}
    (tmp_path / "other.json").write_text(json.dumps(other))
    with pytest.raises(UserError, match="image 2 of the manifest is 'image2', but the"):
        evaluate("--workdir=run", "--manifest", tmp_path / "other.json")
