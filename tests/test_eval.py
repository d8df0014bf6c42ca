"""Evaluation: numbers equal to those computed by hand, whole protocol, files, errors."""

import csv
import json
import math
import os
import re
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from fake_system import SIZE, make_model
from PIL import Image

from picjax import eval as module
from picjax.cli import UserError, run
from picjax.data import scenes
from picjax.metrics import image as measures
from picjax.metrics.suite import METRICS, Group, Result, Running, choose, number


def picture(seed: int, h: int = SIZE, w: int = SIZE) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (h, w, 3), dtype=np.uint8)


def center() -> np.ndarray:
    mask = np.ones((SIZE, SIZE, 1), np.uint8)
    mask[8:24, 8:24] = 0
    return mask


def group(seed: int, n: int = 3) -> Group:
    truth = picture(seed)
    samples = np.stack([picture(100 * seed + i + 1) for i in range(n)])
    samples = np.where(center() == 1, truth, samples)
    return Group(str(seed), truth, center(), samples, choose(samples, truth), {})


def held_out(data, image_size, batch_size, num, seed):
    """Stands in for the pipeline: `num` images, the last batch padded."""
    for start in range(0, num, batch_size):
        count = min(batch_size, num - start)
        index = [start + min(i, count - 1) for i in range(batch_size)]
        yield {
            "image": np.stack([picture(i) for i in index]),
            "mask": np.stack([center()] * batch_size),
            "name": [f"image{i}" for i in index],
            "valid": np.arange(batch_size) < count,
        }


def test_pairs_are_given_and_shown_their_condition(monkeypatch):
    def pairs(*args):
        for batch in held_out(*args):
            condition = np.full_like(batch["image"], 77)
            yield batch | {"condition": condition, "mask": 0 * batch["mask"]}

    monkeypatch.setattr(module.pipeline, "eval_batches", pairs)
    model = make_model(scale=0.0, data="aligned")
    (found,) = module.model_groups(model, 2, 1, 0, 1)
    assert (found.samples == 77).all() and found.samples.shape[0] == 2
    shown = module.pictures(found)
    assert (shown[1] == 77).all() and (shown[0][:: len(shown[0]) // SIZE] != 77).any()


@pytest.fixture
def model(monkeypatch):
    fake = make_model()
    monkeypatch.setattr(module, "load", lambda *_: fake)
    monkeypatch.setattr(module.pipeline, "eval_batches", held_out)
    return fake


def command(*words: object) -> None:
    module.main([str(word) for word in words])


# ---- streams ----


def test_running_mean_and_error():
    values = [3.0, math.nan, 5.0, 10.0]
    running = Running()
    for value in values:
        running.add(value)
    result = running.result("l1", "whole", "mean", "")
    assert result.images == 3 and result.value == pytest.approx(6)
    assert result.error == pytest.approx(np.std([3, 5, 10], ddof=1) / math.sqrt(3))
    empty = Running().result("l1", "whole", "mean", "")
    assert empty.images == 0 and math.isnan(empty.value)


def test_number_of_digits():
    def text(value, error, images=2, interval=None):
        return number(Result("l1", "hole", "mean", value, error, images, "", interval))

    assert text(17.54034, 0.0637) == "17.540 ± 0.064"
    assert text(17.54034, 0.45) == "17.54 ± 0.45"
    assert text(1754.3, 23) == "1754 ± 23"
    assert text(17.54034, math.nan, 1) == "17.540"
    assert text(math.nan, math.nan, 0) == "none"
    assert text(0.5, math.nan, 2, (0.25, 0.75)) == "0.500 [0.250, 0.750]"


def test_which_sample_counts():
    metric = METRICS["psnr"]()
    groups = [group(0), group(1)]
    for g in groups:
        metric.add(g)
    by_hand = {"mean": [], "first": [], "best": [], "picnet": []}
    for g in groups:
        values = [float(measures.psnr(s, g.truth, g.mask)) for s in g.samples]
        score = [
            float(measures.l1(s, g.truth) - measures.psnr(s, g.truth) + measures.tv(s))
            for s in g.samples
        ]
        by_hand["mean"].append(np.mean(values))
        by_hand["first"].append(values[0])
        by_hand["best"].append(max(values))
        by_hand["picnet"].append(values[int(np.argmin(score))])
    found = {r.samples: r for r in metric.results() if r.region == "hole"}
    for which, values in by_hand.items():
        assert found[which].value == pytest.approx(np.mean(values)), which
        assert found[which].images == 2


def test_composites_obey_the_hole_relation():
    """L1 over the image = share of the hole x L1 in the hole, only with known pixels."""
    metric = METRICS["l1"]()
    metric.add(group(0))
    found = {(r.region, r.samples): r.value for r in metric.results()}
    assert found["whole", "mean"] == pytest.approx(found["hole", "mean"] / 4)


def test_no_hole_counts_for_the_whole_image_alone():
    g = group(0)
    full = g._replace(mask=np.ones_like(center()))
    metric = METRICS["l1"]()
    metric.add(full)
    by_region = {r.region: r for r in metric.results()}
    assert by_region["whole"].images == 1 and by_region["hole"].images == 0
    unknown = METRICS["l1"]()
    unknown.add(g._replace(mask=None))
    assert {r.region for r in unknown.results()} == {"whole"}


def test_diversity():
    same = group(0)
    same = same._replace(samples=np.stack([same.samples[0]] * 3))
    metric = METRICS["diversity"]()
    metric.add(same)
    assert [r.value for r in metric.results()] == [0, 0]
    metric = METRICS["diversity"]()
    columns = metric.add(group(1))
    values = {r.region: r.value for r in metric.results()}
    assert values["hole"] == pytest.approx(4 * values["whole"]) and values["whole"] > 0
    assert columns["diversity_hole"].shape == (3,)


# ---- a run ----


def test_files_of_a_run(tmp_path, model, capsys):
    command("--workdir", tmp_path, "--num=3", "--images=10", "--seed=5")
    out = tmp_path / "eval"
    names = ["grid.png", "metrics.json", "report.html", "report.md", "samples.csv"]
    assert sorted(os.listdir(out)) == names
    content = json.loads((out / "metrics.json").read_text())
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
    groups = list(module.model_groups(model, 2, 3, seed=4, batch_size=2))
    assert [g.name for g in groups] == ["image0", "image1", "image2"]
    for i, g in enumerate(groups):
        expected = model.complete(picture(i), center(), n=2, seed=4)
        np.testing.assert_array_equal(g.samples, expected)


def test_memory_does_not_grow(model):
    """No more than two batches of groups are alive, however many images there are."""
    alive: list[jax.Array] = []
    sample = model.sample

    def counted(*args):
        alive.append(sample(*args))
        return alive[-1]

    model.sample = counted
    groups = module.model_groups(model, 1, 64, seed=0, batch_size=2)
    for i, _ in enumerate(groups):
        assert len(alive) <= i // 2 + 2  # one batch ahead of what is looked at


def test_metrics_can_be_chosen(tmp_path, model):
    command("--workdir", tmp_path, "--num=2", "--images=2", "--metrics=ssim,tv")
    content = json.loads((tmp_path / "eval/metrics.json").read_text())
    assert list(content["results"]) == ["ssim", "tv"]
    assert "best" not in content["results"]["tv"]["whole"]  # neither end is better


def test_other_masks_than_the_runs(tmp_path, model):
    words = ("--workdir", tmp_path, "--num=1", "--images=1", "--metrics=l1")
    command(*words, "--mask=left")
    content = json.loads((tmp_path / "eval/metrics.json").read_text())
    assert content["protocol"]["masks"] == "left"
    assert content["protocol"]["data"]["masks"] == ["left"]
    save(tmp_path / "m.png", center()[..., 0])
    command(*words, "--mask", tmp_path / "m.png")
    assert model.config.data.mask_path == str(tmp_path / "m.png")
    with pytest.raises(UserError, match="did you mean 'left'"):
        command(*words, "--mask=lefft")
    with pytest.raises(UserError, match="--invert-mask"):
        command(*words, "--invert-mask")


def test_likelihood_where_the_system_says_it(tmp_path, model):
    def evaluate(variables, batch, key):
        bright = batch["image"].astype(jnp.float32).mean((1, 2, 3))
        return {"bits_per_dim": bright, "bits_per_dim_hole": 5 + 0 * bright}

    model._evaluate, model.has_likelihood = jax.jit(evaluate), True
    command("--workdir", tmp_path, "--num=1", "--images=3", "--metrics=likelihood")
    content = json.loads((tmp_path / "eval/metrics.json").read_text())
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

    monkeypatch.setattr(module.pipeline, "eval_batches", batches)
    model.config.data.name = "scenes"
    command("--workdir", tmp_path, "--num=2", "--images=16", "--metrics=posterior")
    content = json.loads((tmp_path / "eval/metrics.json").read_text())
    found = content["results"]["posterior/valid"]["hole"]["all"]
    assert found["value"] == 0 and found["images"] == 16

    perfect = METRICS["posterior"]()
    rng = np.random.default_rng(0)
    for i in range(200):
        d = scenes.sample(1, scenes.EVAL[i], SIZE)
        extra = {"scene": np.asarray(d["scene"]), "scene_attributes": d["attributes"]}
        true = scenes.complete_true(d["scene"], d["attributes"], SIZE, 4, rng)
        perfect.add(Group("x", d["image"], center(), true, 0, extra))
    values = {r.metric: r for r in perfect.results()}
    assert values["posterior/valid"].value == 1
    floor = values["posterior/total_variation_floor"].interval
    assert floor and floor[0] <= values["posterior/total_variation"].value <= floor[1]


# ---- folders ----


def save(path, array) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path)


def test_folders(tmp_path):
    for stem in ("a", "a_b"):
        g = group(len(stem))
        save(tmp_path / f"real/{stem}.png", g.truth)
        for i, sample in enumerate(g.samples):
            save(tmp_path / f"fake/{stem}_out_{i}.png", sample)
        save(tmp_path / f"masks/{stem}.png", (1 - center()[..., 0]) * np.uint8(255))
    folders = ("--real", tmp_path / "real", "--fake", tmp_path / "fake")
    command(*folders, "--mask", tmp_path / "masks")
    content = json.loads((tmp_path / "fake/eval/metrics.json").read_text())
    assert content["protocol"]["images"] == 2
    assert content["protocol"]["samples_per_image"] == 3
    metric = METRICS["l1"]()
    for seed in (1, 3):
        metric.add(group(seed))
    for r in metric.results():
        found = content["results"]["l1"][r.region][r.samples]
        assert found["value"] == pytest.approx(r.value)
    command(*folders, "--num=2", "--images=1", "--out", tmp_path / "two")
    content = json.loads((tmp_path / "two/metrics.json").read_text())
    assert content["protocol"]["images"] == 1
    assert content["protocol"]["samples_per_image"] == 2
    assert "hole" not in content["results"]["l1"]  # no mask was given


def test_completions_against_their_own_truths(tmp_path):
    """What picjax.complete wrote is measured where it lies; `_mask` is no candidate."""
    g = group(1)
    save(tmp_path / "x_truth.png", g.truth)
    save(tmp_path / "x_mask.png", g.truth)
    save(tmp_path / "x_grid.png", picture(0, 9, 9))
    for i in range(11):  # in numerical order: 10 comes last
        save(tmp_path / f"x_out_{i}.png", g.samples[0] if i < 10 else g.truth)
    pairs = module.find_pairs(str(tmp_path), str(tmp_path), None, None)
    assert [p.stem for p in pairs] == ["x"]
    assert [p.name for p in pairs[0].fakes] == [f"x_out_{i}.png" for i in range(11)]


def test_one_completion_of_the_same_name(tmp_path):
    save(tmp_path / "real/a.png", picture(0))
    save(tmp_path / "fake/a.png", picture(1))
    (pair,) = module.find_pairs(
        str(tmp_path / "real"), str(tmp_path / "fake"), None, None
    )
    assert pair.fakes == [tmp_path / "fake/a.png"]


@pytest.mark.parametrize(
    ("words", "what"),
    [
        ("--metrics=psnrr", "did you mean 'psnr'"),
        ("--metrics=zzz", "none of l1"),
        ("--metrics=", "empty"),
        ("--num=0", "--num"),
        ("--images=-1", "--images"),
        ("--real=real", "either"),
        ("--metrics=l1,posterior", "scenes"),
        ("--metrics=likelihood", "pixelcnn"),
        ("--speed=3", "--speed"),
    ],
)
def test_bad_words_are_one_line(words, what, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(module, "load", lambda *_: make_model())
    monkeypatch.setattr(module, "evaluate", lambda *_: pytest.fail("not refused"))
    with pytest.raises(SystemExit) as caught:
        run(lambda: module.main([f"--workdir={tmp_path}", *words.split()]))
    assert caught.value.code == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and what in error


def test_bad_folders(tmp_path):
    save(tmp_path / "real/a.png", picture(0))
    save(tmp_path / "real/b.png", picture(0))
    save(tmp_path / "fake/a_out_0.png", picture(0, 16, 16))
    real, fake = f"--real={tmp_path / 'real'}", f"--fake={tmp_path / 'fake'}"
    with pytest.raises(UserError, match="completions of 'b'"):
        command(real, fake)
    save(tmp_path / "fake/b_out_0.png", picture(0))
    with pytest.raises(UserError, match="16x16"):
        command(real, fake)
    assert not (tmp_path / "fake/eval/metrics.json").exists()
    with pytest.raises(UserError, match="together"):
        command(real)
    with pytest.raises(UserError, match="does not exist"):
        command(real, "--fake=nowhere")


def test_help_fits_a_screen():
    done = subprocess.run(
        [sys.executable, "-m", "picjax.eval", "--help"],
        check=True,
        capture_output=True,
        text=True,
        env=os.environ | {"COLUMNS": "80"},
    )
    assert re.search("example: python -m picjax.eval", done.stdout)
    assert len(done.stdout.splitlines()) <= 24
