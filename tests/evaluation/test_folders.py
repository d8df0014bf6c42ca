"""Evaluation of folders of completions from anywhere."""

import numpy as np
import pytest
from helpers.evaluation import (
    center,
    evaluate,
    example,
    picture,
    read_metrics,
    save,
    write_folders,
)
from helpers.fake_system import SIZE
from PIL import Image

from picjax import images
from picjax.cli import UserError
from picjax.data.decode import ORIENTATION
from picjax.evaluation import examples, folders
from picjax.evaluation.metrics.catalog import BASIC


def test_folders(tmp_path):
    for stem in ("a", "a_b"):
        g = example(len(stem))
        save(tmp_path / f"real/{stem}.png", g.truth)
        for i, sample in enumerate(g.samples):
            save(tmp_path / f"fake/{stem}_out_{i}.png", sample)
        save(tmp_path / f"masks/{stem}.png", (1 - center()[..., 0]) * np.uint8(255))
    folders = ("--real", tmp_path / "real", "--fake", tmp_path / "fake")
    evaluate(*folders, "--mask", tmp_path / "masks")
    content = read_metrics(tmp_path / "fake/eval")
    assert content["protocol"]["images"] == 2
    assert content["protocol"]["samples_per_image"] == 3
    metric = BASIC["l1"]()
    for seed in (1, 3):
        metric.add(example(seed))
    for r in metric.results():
        found = content["results"]["l1"][r.region][r.samples]
        assert found["value"] == pytest.approx(r.value)
    evaluate(*folders, "--num=2", "--images=1", "--out", tmp_path / "two")
    content = read_metrics(tmp_path / "two")
    assert content["protocol"]["images"] == 1
    assert content["protocol"]["samples_per_image"] == 2
    assert "hole" not in content["results"]["l1"]  # no mask was given


def test_sizes_are_those_of_upright_images(tmp_path):
    for orientation in range(1, 9):
        path, exif = tmp_path / f"{orientation}.jpg", Image.Exif()
        exif[ORIENTATION] = orientation
        Image.fromarray(picture(0, 20, 30)).save(path, exif=exif)
        assert examples.sizes([path]) == {images.read_image(path).shape[:2]}


def test_completions_against_their_own_truths(tmp_path):
    """What picjax.complete wrote is measured where it lies; `_mask` is no candidate."""
    g = example(1)
    save(tmp_path / "x_truth.png", g.truth)
    save(tmp_path / "x_mask.png", g.truth)
    save(tmp_path / "x_grid.png", picture(0, 9, 9))
    for i in range(11):  # in numerical order: 10 comes last
        save(tmp_path / f"x_out_{i}.png", g.samples[0] if i < 10 else g.truth)
    pairs = folders.find_pairs(str(tmp_path), str(tmp_path))
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
    pairs = folders.find_pairs(real, fake, pattern=pattern)
    assert [p.stem for p in pairs] == ["a", "a_1"]
    ordered = [names[i] for i in (0, 2, 1)] if len(names) == 3 else names
    for p in pairs:
        expected = [tmp_path / f"fake/{name.format(p.stem)}.png" for name in ordered]
        assert p.fakes == expected


@pytest.mark.parametrize(
    ("name", "given", "fits"),
    [
        ("try3-{}", None, "try{i}-{stem}"),
        ("{}_sample_0", None, "{stem}_sample_{i}"),
        ("{}_x/{}_0", None, "{stem}_x/{stem}_{i}"),
        ("{}_out_0", "{stem}_result_{i}", "{stem}_out_{i}"),
    ],
)
def test_the_error_names_the_pattern_that_fits_the_files(name, given, fits, tmp_path):
    for stem in ("img7", "img8"):
        save(tmp_path / f"real/{stem}.png", picture(0))
        save(tmp_path / f"fake/{name.format(stem, stem)}.png", picture(1))
    real, fake = str(tmp_path / "real"), str(tmp_path / "fake")
    with pytest.raises(UserError) as caught:
        folders.find_pairs(real, fake, pattern=given)
    assert f"--pattern='{fits}'" in str(caught.value)
    assert len(folders.find_pairs(real, fake, pattern=fits)) == 2


def test_files_that_belong_to_no_image_are_named(tmp_path, capsys):
    for stem in ("a", "b"):
        save(tmp_path / f"fake/{stem}_out_0.png", picture(1))
    save(tmp_path / "real/a.png", picture(0))
    folders.find_pairs(str(tmp_path / "real"), str(tmp_path / "fake"))
    assert (
        "1 of 2 files" in (printed := capsys.readouterr().err) and "b_out_0" in printed
    )


@pytest.mark.parametrize("file", ["real/a.png", "fake/a_out_1.png", "masks/a.png"])
def test_an_image_with_a_damaged_file_is_skipped(file, tmp_path, capsys):
    for stem in ("a", "b"):
        save(tmp_path / f"real/{stem}.png", picture(0))
        save(tmp_path / f"masks/{stem}.png", center()[..., 0] * np.uint8(255))
        for i in range(2):
            save(tmp_path / f"fake/{stem}_out_{i}.png", picture(i))
    (tmp_path / file).write_bytes((tmp_path / file).read_bytes()[:60])
    folders = zip(("real", "fake", "mask"), ("real", "fake", "masks"), strict=True)
    words = [f"--{option}={tmp_path / name}" for option, name in folders]
    evaluate(*words, "--metrics=l1")
    assert read_metrics(tmp_path / "fake/eval")["protocol"]["images"] == 1
    assert f"{file}' cannot be" in capsys.readouterr().err


def test_known_pixels_are_pasted_unless_raw(tmp_path):
    """Composites obey L1 whole = hole share x L1 hole; raw outputs do not."""
    save(tmp_path / "real/a.png", picture(0))
    grey = (picture(0).mean(-1) // 2 + 60).astype(
        np.uint8
    )  # another mode than the truth's
    save(tmp_path / "fake/a.png", grey)
    words = ("--real", tmp_path / "real", "--fake", tmp_path / "fake")
    ratio = {}
    for raw in ((), ("--raw",)):
        evaluate(*words, "--mask=center", "--metrics=l1", *raw)
        content = read_metrics(tmp_path / "fake/eval")
        l1 = {r: x["mean"]["value"] for r, x in content["results"]["l1"].items()}
        ratio[raw] = l1["whole"] / l1["hole"]
        assert ("pasted" in content["protocol"]["pixels"]) == (not raw)
    assert ratio[()] == pytest.approx(0.25) and ratio["--raw",] > 0.5
    gap = np.abs(picture(0).astype(float) - grey[..., None])[8:24, 8:24]
    assert l1["hole"] == pytest.approx(gap.mean())


def test_equal_images_and_a_single_one(tmp_path):
    """Documented: L1 0, PSNR 100, SSIM 1, no error of a mean of one."""
    for folder in ("real", "fake"):
        save(tmp_path / f"{folder}/a.png", picture(0))
    evaluate("--real", tmp_path / "real", "--fake", tmp_path / "fake")
    results = read_metrics(tmp_path / "fake/eval")["results"]
    expected = {"l1": 0, "psnr": 100, "ssim": 1}
    assert "diversity" not in results and "seam" not in results
    for name, value in expected.items():
        (found,) = {x["value"] for x in results[name]["whole"].values()}
        assert found == pytest.approx(value)
        assert {x["standard_error"] for x in results[name]["whole"].values()} == {None}


def test_bad_folders(tmp_path):
    save(tmp_path / "real/a.png", picture(0))
    save(tmp_path / "real/b.png", picture(0))
    save(tmp_path / "fake/a_out_0.png", picture(0, 16, 16))
    real, fake = f"--real={tmp_path / 'real'}", f"--fake={tmp_path / 'fake'}"
    with pytest.raises(UserError, match="completions of 'b'"):
        evaluate(real, fake)
    save(tmp_path / "fake/b_out_0.png", picture(0))
    with pytest.raises(UserError, match="16x16"):
        evaluate(real, fake)
    assert not (tmp_path / "fake/eval/metrics.json").exists()
    assert not list((tmp_path / "fake/eval").glob("*.*"))
    with pytest.raises(UserError, match="together"):
        evaluate(fake)
    with pytest.raises(UserError, match="has no {stem}"):
        evaluate(real, fake, "--pattern=out_{i}")
    with pytest.raises(UserError, match="does not exist"):
        evaluate(real, "--fake=nowhere")
    with pytest.raises(UserError, match="--checkpoint goes with --workdir"):
        evaluate(real, fake, "--checkpoint=best")
    for option in ("--raw", "--invert-mask"):
        with pytest.raises(UserError, match=f"{option} is about masks"):
            evaluate(real, fake, option)
    save(tmp_path / "real/b.jpg", picture(0))
    with pytest.raises(UserError, match="2 images named 'b'"):
        evaluate(real, fake)


def test_an_image_without_a_hole_is_not_ranked(tmp_path, capsys):
    words = write_folders(tmp_path, images=3)[:2]
    for k in range(3):
        hole = 0 if k == 0 else 1 - center()[..., 0]
        save(
            tmp_path / f"masks/{k}.png",
            (hole * np.full((SIZE, SIZE), 255)).astype("u1"),
        )
    evaluate(*words, "--mask", tmp_path / "masks", "--metrics=l1,psnr", "--raw")
    printed = capsys.readouterr().err
    assert printed.count("--invert-mask") == 1 and "masks/0.png" in printed
    text = (tmp_path / "fake/eval/report.html").read_text()
    best = text.partition("<h3>Best")[2].partition("<h3>")[0]
    assert "by psnr_hole" in best and best.count("<figure") == 2
