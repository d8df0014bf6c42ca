"""Evaluation: numbers equal to those computed by hand, whole protocol, files, errors."""

import csv
import json
import math
import os

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers.configs import load_config
from helpers.fake_system import SIZE, ScoringSystem, make_model
from PIL import Image

from picjax import eval as module
from picjax import masks
from picjax.cli import UserError, run
from picjax.data import scenes
from picjax.evaluation import examples as groups
from picjax.evaluation import run as measure
from picjax.evaluation import tasks as subjects
from picjax.evaluation.metrics import image as measures
from picjax.evaluation.metrics.suite import (
    METRICS,
    Group,
    Result,
    Running,
    choose,
    number,
    table_cells,
)
from picjax.evaluation.report import gallery
from picjax.model import Model

REGIONS = ("hole", "whole")


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

    monkeypatch.setattr(groups.pipeline, "eval_batches", pairs)
    model = make_model(scale=0.0, data="aligned")
    (found,) = groups.model_groups(model, 2, 1, 0, 1)
    assert (found.samples == 77).all() and found.samples.shape[0] == 2
    shown = {name: gallery.pixels(uri) for name, uri in gallery.frames(found).items()}
    assert list(shown) == ["input", "0", "1", "truth"]
    assert (shown["input"] == 77).all()
    np.testing.assert_array_equal(shown["truth"], picture(0))


@pytest.fixture
def model(monkeypatch):
    fake = make_model()
    monkeypatch.setattr(subjects, "load", lambda *_: fake)
    monkeypatch.setattr(groups.pipeline, "eval_batches", held_out)
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
    assert text(0.00012345, math.nan) == "0.000123" and text(0, 0) == "0.000"
    assert text(0.5, math.nan, 2, (0.25, 0.75)) == "0.500 [0.250, 0.750]"


def test_which_sample_counts():
    metric = METRICS["psnr"]()
    both = [group(0), group(1)]
    for g in both:
        metric.add(g)
    by_hand = {"mean": [], "first": [], "best": [], "picnet": []}
    for g in both:
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
    names = ["grid.png", "manifest.json", "metrics.json", "report.html", "report.md"]
    assert sorted(os.listdir(out)) == [*names, "samples.csv"]
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
    found = list(groups.model_groups(model, 2, 3, seed=4, batch_size=2))
    assert [g.name for g in found] == ["image0", "image1", "image2"]
    for i, g in enumerate(found):
        expected = model.complete(picture(i), center(), n=2, seed=4)
        np.testing.assert_array_equal(g.samples, expected)
    for start in (1, 2):  # within a batch, and after one
        later = list(groups.model_groups(model, 2, 3, 4, 2, start=start))
        assert [g.name for g in later] == ["image0", "image1", "image2"][start:]
        np.testing.assert_array_equal(later[0].samples, found[start].samples)


def test_a_run_is_measured_raw(tmp_path, model):
    """Known pixels as the system makes them, of the same draws; a manifest says so."""
    words = ("--workdir=run", "--num=2", "--images=2", "--metrics=l1")
    ratio, holes = [], []
    for raw in ((), ("--raw",)):
        out = tmp_path / "".join(raw)
        command(*words, *raw, "--out", out)
        content = json.loads((out / "metrics.json").read_text())
        l1 = {r: x["mean"]["value"] for r, x in content["results"]["l1"].items()}
        ratio.append(l1["whole"] / l1["hole"])
        holes.append(l1["hole"])
        assert ("pasted" in content["protocol"]["pixels"]) == (not raw)
    assert ratio[0] == pytest.approx(0.25) and ratio[1] > 0.5
    assert holes[0] == holes[1]
    manifest = tmp_path / "--raw/manifest.json"
    command("--workdir=run", "--manifest", manifest, "--out", tmp_path / "again")
    assert json.loads((tmp_path / "again/manifest.json").read_text()) == json.loads(
        manifest.read_text()
    )


def test_the_best_are_the_same_raw(model):
    """Of what is drawn the same are kept, by the score of what is otherwise measured."""
    system = ScoringSystem(lambda x: x.mean((1, 2, 3)))
    ranking = Model(model.config, system, model._variables, 7)
    kept, made = (
        next(groups.model_groups(ranking, 2, 1, 0, 1, best_of=5, raw=raw)).samples
        for raw in (False, True)
    )
    hole = np.broadcast_to(center() == 0, kept.shape)
    np.testing.assert_array_equal(kept[hole], made[hole])
    assert (kept != made).any()


def test_memory_does_not_grow(model):
    """No more than two batches of groups are alive, however many images there are."""
    alive = []
    sample = model.sample

    def counted(*args):
        alive.append(sample(*args))
        return alive[-1]

    model.sample = counted
    for i, _ in enumerate(groups.model_groups(model, 1, 32, seed=0, batch_size=2)):
        assert len(alive) <= i // 2 + 2  # one batch ahead of what is looked at


def test_numbers_that_are_not_finite_are_no_black_pixels(monkeypatch):
    monkeypatch.setattr(groups.pipeline, "eval_batches", held_out)
    spoilt = make_model(scale=math.nan)
    with pytest.raises(UserError, match="'image0' hold numbers that are not finite"):
        list(groups.model_groups(spoilt, 1, 2, 0, 2))
    with pytest.raises(UserError, match="not finite"):
        spoilt.complete(picture(0), center(), n=1)


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


def test_likelihood_beside_the_entropy_of_scenes():
    truth = scenes.sample(0, 0, SIZE)["image"]
    extra = {name: np.asarray(1.0) for name in ("bits_per_dim", "bits_per_dim_hole")}
    metric, entropies = METRICS["likelihood"](), []
    for scene in range(len(scenes.CLASSES)):
        given = extra | {"scene": np.asarray(scene)}
        metric.add(Group("x", truth, center(), truth[None], 0, given))
        entropies.append(scenes.entropy(scene))
    found = {r.samples: r.value for r in metric.results() if r.region == "hole"}
    assert "entropy" in table_cells(metric.results())[0]
    values = 3 * (SIZE // 2) ** 2  # missing
    assert found["entropy"] == pytest.approx(np.mean(entropies) / np.log(2) / values)
    other, given = METRICS["likelihood"](), extra | {"scene": np.asarray(0)}
    other.add(Group("x", truth, 1 - center(), truth[None], 0, given))
    assert "entropy" not in {result.samples for result in other.results()}


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

    monkeypatch.setattr(groups.pipeline, "eval_batches", batches)
    model.config.data.name = "scenes"
    command("--workdir", tmp_path, "--num=2", "--images=16", "--metrics=posterior")
    content = json.loads((tmp_path / "eval/metrics.json").read_text())
    found = content["results"]["posterior/valid"]["hole"]["all"]
    assert found["value"] == 0 and found["images"] == 16

    perfect = METRICS["posterior"]()
    rng = np.random.default_rng(0)
    for i in range(60):
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
    pairs = groups.find_pairs(str(tmp_path), str(tmp_path))
    assert [p.stem for p in pairs] == ["x"]
    assert [p.name for p in pairs[0].fakes] == [f"x_out_{i}.png" for i in range(11)]


@pytest.mark.parametrize(
    ("names", "pattern"),
    [
        (["{}_out_0", "{}_out_10", "{}_out_9"], None),
        (["{}_0", "{}_1"], None),
        (["{}/0", "{}/1"], None),
        (["{}/img_0", "{}/img_1"], None),
        (["{}_fake_B"], None),
        (["{}"], None),
        (["try1-{}"], "try{i}-{stem}.PNG"),
        (["{0}/{0}_0", "{0}/{0}_1"], "{stem}/{stem}_{i}"),
    ],
)
def test_completions_are_found_by_their_names(names, pattern, tmp_path):
    for stem in ("a", "a_1"):  # the second looks like a completion of the first
        save(tmp_path / f"real/{stem}.png", picture(0))
        for name in names:
            save(tmp_path / f"fake/{name.format(stem)}.png", picture(1))
    real, fake = str(tmp_path / "real"), str(tmp_path / "fake")
    pairs = groups.find_pairs(real, fake, pattern=pattern)
    assert [p.stem for p in pairs] == ["a", "a_1"]
    ordered = [names[i] for i in (0, 2, 1)] if len(names) == 3 else names
    for p in pairs:
        expected = [tmp_path / f"fake/{name.format(p.stem)}.png" for name in ordered]
        assert p.fakes == expected


def test_files_that_belong_to_no_image_are_named(tmp_path, capsys):
    for stem in ("a", "b"):
        save(tmp_path / f"fake/{stem}_out_0.png", picture(1))
    save(tmp_path / "real/a.png", picture(0))
    groups.find_pairs(str(tmp_path / "real"), str(tmp_path / "fake"))
    assert "1 of 2 files" in (said := capsys.readouterr().err) and "b_out_0" in said


def test_known_pixels_are_pasted_unless_raw(tmp_path):
    """Composites obey L1 whole = hole share x L1 hole; raw outputs do not."""
    save(tmp_path / "real/a.png", picture(0))
    grey = np.full((SIZE, SIZE), 90, np.uint8)  # another mode than the truth's
    save(tmp_path / "fake/a.png", grey)
    words = ("--real", tmp_path / "real", "--fake", tmp_path / "fake")
    ratio = {}
    for raw in ((), ("--raw",)):
        command(*words, "--mask=center", "--metrics=l1", *raw)
        content = json.loads((tmp_path / "fake/eval/metrics.json").read_text())
        l1 = {r: x["mean"]["value"] for r, x in content["results"]["l1"].items()}
        ratio[raw] = l1["whole"] / l1["hole"]
        assert ("pasted" in content["protocol"]["pixels"]) == (not raw)
    assert ratio[()] == pytest.approx(0.25) and ratio["--raw",] > 0.5
    truth = picture(0)[8:24, 8:24].astype(float)
    assert l1["hole"] == pytest.approx(np.abs(truth - 90).mean())


def test_equal_images_and_a_single_one(tmp_path):
    """Documented: L1 0, PSNR 100, SSIM 1, no error of a mean of one."""
    for folder in ("real", "fake"):
        save(tmp_path / f"{folder}/a.png", picture(0))
    command("--real", tmp_path / "real", "--fake", tmp_path / "fake")
    results = json.loads((tmp_path / "fake/eval/metrics.json").read_text())["results"]
    expected = {"l1": 0, "psnr": 100, "ssim": 1, "diversity": 0}
    for name, value in expected.items():
        (found,) = {x["value"] for x in results[name]["whole"].values()}
        assert found == pytest.approx(value)
        assert {x["standard_error"] for x in results[name]["whole"].values()} == {None}


@pytest.mark.parametrize(
    ("words", "what"),
    [
        ("--metrics=psnrr", "did you mean 'psnr'"),
        ("--metrics=zzz", "none of l1"),
        ("--metrics=", "empty"),
        ("--num=0", "--num"),
        ("--images=-1", "--images"),
        ("--fake=real", "either"),
        ("--raw --invert-mask", "--invert-mask goes with --fake"),
        ("--pattern={stem}", "--fake"),
        ("--metrics=paper:picnett", "did you mean 'paper:picnet'"),
        ("--manifest=nowhere", "cannot be read"),
        ("--checkpoint=worst", "none of newest, best"),
        ("--metrics=l1,posterior", "scenes"),
        ("--metrics=likelihood", "pixelcnn"),
        ("--stats=x.npz", "--stats goes with --metrics=fid"),
        ("--feature=net=vgg --metrics=l1", "--feature is of metrics with networks"),
        ("--feature=net=vgg16 --metrics=lpips", "--feature net 'vgg16'"),
        ("--speed=3", "--speed"),
    ],
)
def test_bad_words_are_one_line(words, what, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(subjects, "load", lambda *_: make_model())
    monkeypatch.setattr(module, "measure", lambda *_: pytest.fail("not refused"))
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
    assert not list((tmp_path / "fake/eval").glob("*.*"))
    with pytest.raises(UserError, match="together"):
        command(fake)
    with pytest.raises(UserError, match="has no {stem}"):
        command(real, fake, "--pattern=out_{i}")
    with pytest.raises(UserError, match="does not exist"):
        command(real, "--fake=nowhere")
    with pytest.raises(UserError, match="--checkpoint goes with --workdir"):
        command(real, fake, "--checkpoint=best")
    for option in ("--raw", "--invert-mask"):
        with pytest.raises(UserError, match=f"{option} is about masks"):
            command(real, fake, option)
    save(tmp_path / "real/b.jpg", picture(0))
    with pytest.raises(UserError, match="2 images named 'b'"):
        command(real, fake)


def test_help_fits_a_screen(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    with pytest.raises(SystemExit):
        command("--help")
    said = capsys.readouterr().out
    assert "example: python -m picjax.eval" in said
    assert len(said.splitlines()) <= 30


# ---- going on, repeating, comparing, papers ----


def folders(top, names=("fake",), images=5, size=SIZE) -> list[object]:
    """Writes images and two completions of each; the words of a command on them."""
    for k in range(images):
        save(top / f"real/{k}.png", picture(k, size, size))
        for j, fake in enumerate(names):
            noise = np.random.default_rng(k).normal(0, 20 + 30 * j, (2, size, size, 3))
            for i, sample in enumerate(picture(k, size, size) + noise):
                save(top / f"{fake}/{k}_{i}.png", sample.clip(0, 255).astype(np.uint8))
    words = [f"--real={top / 'real'}", *(f"--fake={top / name}" for name in names)]
    return [*words, "--mask=center", "--metrics=l1,diversity"]


class Interrupted(Exception):
    """Stands for a kill."""


def test_an_interrupted_evaluation_ends_like_an_undisturbed_one(
    tmp_path, monkeypatch, capsys
):
    words = folders(tmp_path)
    command(*words, "--out", tmp_path / "whole")
    monkeypatch.setattr(measure, "PAUSE", 0)
    monkeypatch.setattr(measure, "SHARE", math.inf)
    add, seen = measure.Pass.add, []

    def killed(self, group):
        seen.append(group.name)
        add(self, group)
        if len(seen) == 3:  # one image after the last save
            raise Interrupted

    monkeypatch.setattr(measure.Pass, "add", killed)
    with pytest.raises(Interrupted):
        command(*words, "--out", tmp_path / "out")
    assert os.listdir(tmp_path / "out") == [".partial"]
    monkeypatch.setattr(measure.Pass, "add", add)
    capsys.readouterr()
    command(*words, "--out", tmp_path / "out")
    assert "going on after 2 images" in capsys.readouterr().err
    for name in os.listdir(tmp_path / "whole"):
        ours, whole = ((tmp_path / d / name).read_bytes() for d in ("out", "whole"))
        assert ours == whole, name
    assert not (tmp_path / "out/.partial").exists()


def test_a_partial_evaluation_of_another_protocol_is_dropped(tmp_path, monkeypatch):
    words = folders(tmp_path)
    monkeypatch.setattr(measure, "write_manifest", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        command(*words)
    assert (tmp_path / "fake/eval/.partial/state.npz").exists()
    monkeypatch.undo()
    command(*words, "--num=1")
    content = json.loads((tmp_path / "fake/eval/metrics.json").read_text())
    assert content["protocol"]["images"] == 5
    assert content["protocol"]["samples_per_image"] == 1
    assert len((tmp_path / "fake/eval/samples.csv").read_text().splitlines()) == 6


def test_replaced_files_are_measured_anew(tmp_path, monkeypatch, capsys):
    """What was counted of images, masks or completions that are others by now."""
    fake = make_model()
    fake.config.data = load_config("picmm", "tiny").data
    monkeypatch.setattr(subjects, "load", lambda *_: fake)
    real, *_ = folders(tmp_path, images=2)
    for k in range(2):
        save(tmp_path / f"masks/{k}.png", (1 - center()[..., 0]) * np.uint8(255))
    words = [real, f"--mask={tmp_path / 'masks'}", "--metrics=l1"]
    of_run = [*words, f"--workdir={tmp_path / 'run'}", "--num=1"]
    of_files = [*words, f"--fake={tmp_path / 'fake'}"]
    changed = {
        "nothing": of_run,
        "real/1.png": of_run,
        "masks/1.png": of_run,
        "fake/1_1.png": of_files,
    }
    for name, words in changed.items():
        with monkeypatch.context() as patch:
            patch.setattr(module.page, "write", lambda *_: 1 / 0)
            with pytest.raises(ZeroDivisionError):
                command(*words)
        if name != "nothing":
            save(tmp_path / name, np.tile(picture(9)[:, :1], (1, SIZE, 1)))
        capsys.readouterr()
        command(*words)
        said = capsys.readouterr().err
        assert ("going on after 2" in said) == (name == "nothing")
        assert ("of other files or settings" in said) == (name != "nothing")


def test_nothing_is_lost_before_the_reports_are_there(tmp_path, monkeypatch, capsys):
    words = folders(tmp_path, images=2)
    for damaged in (False, True):  # a table that is gone cannot be gone on with
        with monkeypatch.context() as patch:
            patch.setattr(module.page, "write", lambda *_: 1 / 0)
            with pytest.raises(ZeroDivisionError):
                command(*words)
        capsys.readouterr()
        if damaged:
            (tmp_path / "fake/eval/.partial/samples.csv").unlink()
        command(*words)
        assert ("going on after 2" in capsys.readouterr().err) == (not damaged)
        assert len((tmp_path / "fake/eval/samples.csv").read_text().splitlines()) == 5
        assert not (tmp_path / "fake/eval/.partial").exists()


def test_what_the_numbers_depend_on_is_told_apart(tmp_path, model):
    """Masks inverted, another checkpoint of the same step, other statistics."""

    def found(out):
        return json.loads((out / "metrics.json").read_text())["fingerprint"]

    words = folders(tmp_path, images=1)[:2]
    seen = set()
    for more in ((), ("--invert-mask",)):
        save(tmp_path / "mask.png", center()[..., 0] * np.uint8(255))
        command(*words, "--mask", tmp_path / "mask.png", "--metrics=l1", *more)
        seen.add(found(tmp_path / "fake/eval"))
    checkpoint = tmp_path / "run/checkpoints/7"
    checkpoint.mkdir(parents=True)
    manifests = set()
    for changed in (1, 2):
        os.utime(checkpoint, ns=(changed, changed))
        command("--workdir", tmp_path / "run", "--images=1", "--num=1", "--metrics=l1")
        seen.add(found(tmp_path / "run/eval"))
        manifests.add((tmp_path / "run/eval/manifest.json").read_text())
    assert len(seen) == 4 and len(manifests) == 1
    args = module.parse([f"--stats={checkpoint}"])
    before = subjects.stamps(args)
    (checkpoint / "m.npy").write_bytes(b"")
    assert subjects.stamps(args) != before


def test_an_image_without_a_hole_is_not_ranked(tmp_path, capsys):
    words = folders(tmp_path, images=3)[:2]
    for k in range(3):
        hole = 0 if k == 0 else 1 - center()[..., 0]
        save(
            tmp_path / f"masks/{k}.png",
            (hole * np.full((SIZE, SIZE), 255)).astype("u1"),
        )
    command(*words, "--mask", tmp_path / "masks", "--metrics=l1,psnr", "--raw")
    said = capsys.readouterr().err
    assert said.count("--invert-mask") == 1 and "masks/0.png" in said
    text = (tmp_path / "fake/eval/report.html").read_text()
    best = text.partition("<h3>Best")[2].partition("<h3>")[0]
    assert "by psnr_hole" in best and best.count("<figure") == 2


def test_every_image_has_the_same_columns(tmp_path):
    class Ragged:
        about = ""

        def add(self, group):
            return {} if group.name == "1" else {"x": np.zeros(3)}

        def results(self):
            return []

        def state(self):
            return {}

        def restore(self, state):
            pass

    none = {"label": "", "groups": lambda start: iter([]), "total": 2}
    subject = measure.Subject(
        **none, metrics={"x": Ragged()}, protocol={}, stamps={}, out=tmp_path
    )
    table = measure.Pass(subject)
    table.add(group(0))
    with pytest.raises(ValueError, match="'1' has the columns"):
        table.add(group(1))
    table.close()
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be written to"):
        measure.Pass(subject._replace(out=tmp_path / "file/out"))


def test_a_manifest_repeats_an_evaluation(tmp_path, model):
    command("--workdir=run", "--num=2", "--images=3", "--seed=7", "--out", tmp_path)
    first = json.loads((tmp_path / "manifest.json").read_text())
    assert [entry["name"] for entry in first["images"]] == [
        "image0",
        "image1",
        "image2",
    ]
    again = ("--workdir=run", "--manifest", tmp_path / "manifest.json")
    command(*again, "--out", tmp_path / "again")
    second = json.loads((tmp_path / "again/manifest.json").read_text())
    assert second == first  # the completions' checksums, too
    with pytest.raises(UserError, match="--manifest says what --num is"):
        command(*again, "--num=3")
    (tmp_path / "old.json").write_text('{"protocol": {"num": 1}, "images": [{}]}')
    with pytest.raises(UserError, match="cannot be read as one"):
        command("--workdir=run", "--manifest", tmp_path / "old.json")
    other = first | {"images": first["images"][::-1]}
    (tmp_path / "other.json").write_text(json.dumps(other))
    with pytest.raises(UserError, match="image 2 of the manifest is 'image2', but the"):
        command("--workdir=run", "--manifest", tmp_path / "other.json")


def test_systems_side_by_side(tmp_path, capsys):
    words = folders(tmp_path, ("good", "bad"))
    command(*words, "--out", tmp_path / "out")
    content = json.loads((tmp_path / "out/metrics.json").read_text())
    mean, low, high = content["differences"]["l1/hole/mean"]["bad"]
    texts = [(tmp_path / f"out/{x}/samples.csv").read_text() for x in ("good", "bad")]
    tables = [csv.DictReader(text.splitlines()) for text in texts]
    good, bad = (np.array([float(r["l1_hole"]) for r in table]) for table in tables)
    paired = (bad - good).reshape(5, 2).mean(1)
    assert mean == pytest.approx(paired.mean(), rel=1e-4)
    assert paired.min() <= low < mean < high <= paired.max() and low > 0
    said = capsys.readouterr()
    assert "worse" in said.out and not content["notes"]
    text = (tmp_path / "out/report.html").read_text()
    assert text.count("<figure") == 10 and "good: 0" in text
    # What is measured already is not measured again; other images do not compare.
    save(tmp_path / "real/0.png", picture(9))
    command(*words[:2], words[3], words[4], "--out", tmp_path / "out/good")
    capsys.readouterr()
    command(*words, "--out", tmp_path / "out")
    assert "good is measured already" in capsys.readouterr().err


def test_other_images_do_not_compare(tmp_path):
    from picjax.evaluation import compare

    for name, images in (("a", 3), ("b", 2)):
        command(*folders(tmp_path / name, images=images), "--out", tmp_path / name)
    compare.write([tmp_path / "a", tmp_path / "b"], ["a", "b"], tmp_path)
    content = json.loads((tmp_path / "metrics.json").read_text())
    assert content["notes"] == [
        "b was measured on other images or masks than a: the two do not compare"
    ]
    assert not content["differences"]


def test_without_weights_the_others_are_measured(tmp_path, monkeypatch, capsys):
    def offline(*_, **__):
        raise OSError("no network")

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("PICJAX_WEIGHTS", raising=False)
    monkeypatch.setattr("urllib.request.urlopen", offline)
    words = folders(tmp_path, images=4)[:-1]
    command(*words, "--metrics=all")
    content = json.loads((tmp_path / "fake/eval/metrics.json").read_text())
    assert set(content["results"]) == {"l1", "psnr", "ssim", "tv", "diversity"}
    left_out = content["protocol"]["left_out"]
    assert (
        "no weights pt_inception" in left_out["fid"]
        and "two blocks" in left_out["niqe"]
    )
    (line,) = [x for x in capsys.readouterr().out.splitlines() if "Left out" in x]
    assert "fid, kid, pr (no weights pt_inception" in line
    assert "is (needs 10 images or more)" in line and "2,000 images" in left_out["ids"]
    with pytest.raises(UserError, match="--metrics is needs 10 images"):
        command(*words, "--metrics=l1,is")
    with pytest.raises(UserError, match="cannot be fetched"):
        command(*words, "--metrics=l1,fid")
    with pytest.raises(UserError, match="none of pipeline, net"):
        command(*words, "--metrics=lpips", "--feature=nett=vgg")
    with pytest.raises(UserError, match="holds no statistics"):
        command(*words, "--metrics=fid", "--allow-random-features", "--stats=no.npz")


def test_metrics_go_on_from_their_state():
    whole = [METRICS[name]() for name in ("l1", "tv", "diversity")]
    for metric in whole:
        for seed in range(3):
            metric.add(group(seed))
    for name, expected in zip(("l1", "tv", "diversity"), whole, strict=True):
        before, after = METRICS[name](), METRICS[name]()
        before.add(group(0))
        before.add(group(1))
        after.add(group(7))  # is replaced
        after.restore(before.state())
        after.add(group(2))
        assert after.results() == expected.results()


def test_a_papers_masks_are_not_for_pairs(tmp_path, monkeypatch):
    def pairs(*args):
        for batch in held_out(*args):
            yield batch | {"condition": batch["image"], "mask": 0 * batch["mask"]}

    monkeypatch.setattr(groups.pipeline, "eval_batches", pairs)
    monkeypatch.setattr(subjects, "load", lambda *_: make_model(data="aligned"))
    words = ("--workdir", tmp_path, "--images=1")
    command(*words, "--metrics=paper:halfimage")
    protocol = json.loads((tmp_path / "eval/metrics.json").read_text())["protocol"]
    assert protocol["data"]["masks"] == []
    with pytest.raises(UserError, match="leave the mask out"):
        command(*words, "--mask=top")


def test_systems_of_different_sizes_are_compared_at_the_images_own(
    tmp_path, monkeypatch
):
    """Each as `Model.complete` completes the image; alone, a run keeps to its size."""
    models = {"a": make_model(SIZE), "b": make_model(16, 0.1)}
    for name, fake in models.items():
        fake.config.data = load_config("picmm", "tiny").data
        (tmp_path / name).mkdir()
    named = {str(tmp_path / name): fake for name, fake in models.items()}
    monkeypatch.setattr(subjects, "load", lambda workdir, *_: named[workdir])
    monkeypatch.setattr(subjects, "read_config", lambda path: named[str(path)].config)
    for k in range(3):
        save(tmp_path / f"real/{k}.png", picture(k, 24 + k, 40))
    words = [f"--real={tmp_path / 'real'}", "--mask=center", "--num=2", "--metrics=l1"]
    both = [f"--workdir={tmp_path / name}" for name in models]
    command(*both, *words, "--seed=5", "--out", tmp_path / "out")
    table = json.loads((tmp_path / "out/metrics.json").read_text())
    assert not table["notes"] and "b" in table["differences"]["l1/hole/mean"]
    mask = masks.center(np.random.default_rng(0), 24, 40)
    for name, fake in models.items():
        manifest = json.loads((tmp_path / f"out/{name}/manifest.json").read_text())
        protocol = manifest["protocol"]
        assert protocol["resolution"] == "40x24, 40x25, 40x26"
        assert f"from {fake.size[0]}x{fake.size[1]} to" in protocol["pixels"]
        made = fake.complete(picture(0, 24, 40), mask, n=2, seed=5)
        assert manifest["images"][0]["completions"] == measure.checksum(made)
        # The same again from the manifest; raw, the same draws.
        again = (both[0], "--manifest", tmp_path / f"out/{name}/manifest.json")
        command(*again, "--raw", "--out", tmp_path / "raw")
        raw = json.loads((tmp_path / "raw/metrics.json").read_text())
        hole, whole = (raw["results"]["l1"][x]["mean"]["value"] for x in REGIONS)
        assert whole > 1.5 * hole * raw["protocol"]["mean_hole_share"]
        assert raw["protocol"]["images"] == 3
    later = groups.own_size_groups(models["a"], 2, 3, 5, 2, start=1)
    entries = json.loads((tmp_path / "out/a/manifest.json").read_text())["images"]
    assert [measure.checksum(g.samples) for g in later] == [
        entry["completions"] for entry in entries[1:]
    ]
    command(both[1], *words, "--out", tmp_path / "alone")
    alone = json.loads((tmp_path / "alone/metrics.json").read_text())
    assert alone["protocol"]["resolution"] == "16x16"


def test_a_single_image_has_no_interval():
    from picjax.evaluation import compare

    one, two = np.array([1.0, np.nan]), np.array([3.0, 4.0])
    mean, *interval = compare.difference(one, two)
    assert mean == 2 and np.isnan(interval).all()


def test_a_papers_protocol_says_what_is_not_its_own(tmp_path, model, capsys):
    command(
        "--workdir=run", "--metrics=paper:halfimage", "--images=2", "--out", tmp_path
    )
    content = json.loads((tmp_path / "metrics.json").read_text())
    assert content["protocol"]["masks"] == "top" and content["protocol"]["num"] == 1
    assert "2 images, not 50000" in content["protocol"]["unlike_the_paper"]
    assert "without likelihood" in content["protocol"]["unlike_the_paper"]
    assert set(content["results"]["l1"]["hole"]) == {"first"}
    assert "2 images, not 50000" in capsys.readouterr().out
