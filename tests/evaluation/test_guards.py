"""Files that do not belong together are refused or noted, before anything is measured."""

import numpy as np
import pytest
from helpers.configs import load_config
from helpers.evaluation import center, evaluate, picture, read_metrics, save
from helpers.fake_system import SIZE

from picjax.cli import UserError
from picjax.evaluation import folders
from picjax.evaluation.folders import Pair

HOLE = center() == 0


def write(top, completion, suffix="", names=("a", "b", "c")):
    """Truths, a completion of each, and its mask; the options that evaluate them."""
    for k, name in enumerate(names):
        save(top / f"real/{name}.png", picture(k))
        save(top / f"fake/{name}.png", completion(k))
        save(top / f"masks/{name}{suffix}.png", np.uint8(255) * HOLE[..., 0])
    return [
        f"--{x}={top / y}" for x, y in (("real",) * 2, ("fake",) * 2, ("mask", "masks"))
    ]


def composite(k):
    return np.where(HOLE, picture(100 + k), picture(k))


def l1(folder):
    return read_metrics(folder)["results"]["l1"]["hole"]["mean"]["value"]


@pytest.mark.parametrize("raw", [(), ("--raw",)])
def test_inverted_masks_are_refused(tmp_path, raw):
    words = [*write(tmp_path, composite), "--metrics=l1", *raw]
    evaluate(*words)
    right = l1(tmp_path / "fake/eval")
    with pytest.raises(UserError, match="inverted or not theirs; leave out --invert"):
        evaluate(*words, "--invert-mask")
    for k, name in enumerate("abc"):
        save(tmp_path / f"masks/{name}.png", np.uint8(255) * ~HOLE[..., 0])
    with pytest.raises(UserError, match="; give --invert-mask"):
        evaluate(*words)
    evaluate(*words, "--invert-mask")
    assert l1(tmp_path / "fake/eval") == right
    with pytest.raises(UserError, match="give the masks that they were completed with"):
        evaluate(*words[:2], "--mask=outpaint", "--metrics=l1")


def test_lossy_files_of_inverted_masks_are_refused_too(tmp_path):
    noise = np.random.default_rng(0).integers(-4, 5, (SIZE, SIZE, 3))

    def compressed(k):
        return (composite(k) + noise).clip(0, 255).astype(np.uint8)

    words = [*write(tmp_path, compressed), "--metrics=l1"]
    with pytest.raises(UserError, match="inverted"):
        evaluate(*words, "--invert-mask")
    evaluate(*words)
    assert read_metrics(tmp_path / "fake/eval")["protocol"]["remarks"] == []


def test_completions_of_another_crop_are_refused(tmp_path):
    words = [*write(tmp_path, lambda k: np.roll(composite(k), 4, 1)), "--metrics=l1"]
    with pytest.raises(UserError, match="not the truth's .correlation.*same crop"):
        evaluate(*words)
    evaluate(*words, "--raw")


def test_known_pixels_of_networks_are_pasted_over_and_noted(tmp_path, capsys):
    def output(k):
        return (composite(k) * 0.8 + 25).astype(np.uint8)

    evaluate(*write(tmp_path, output), "--metrics=l1")
    printed = capsys.readouterr().out
    for text in (printed, (tmp_path / "fake/eval/report.html").read_text()):
        assert "differ from the truth" in text.replace("&#39;", "'")


@pytest.mark.parametrize("suffix", ["", "_mask", "_mask000"])
def test_masks_are_paired_by_documented_names(tmp_path, suffix):
    names = ("a", "b", "a_mask")  # the last is an image
    words = write(tmp_path, composite, suffix, names)
    (_, _, mask) = words
    pairs = [Pair(name, tmp_path, []) for name in names]
    found = folders.with_masks(pairs, mask.partition("=")[2], order=False)
    expected = [tmp_path / f"masks/{name}{suffix}.png" for name in names]
    assert [pair.mask for pair in found] == expected


def test_masks_of_other_names_are_paired_in_order_only_when_asked_for(tmp_path, capsys):
    words = [*write(tmp_path, composite), "--metrics=l1"]
    for i, name in enumerate("abc"):
        (tmp_path / f"masks/{name}.png").rename(tmp_path / f"masks/{i:03}.png")
    with pytest.raises(
        UserError, match="no file is named 'a_mask' or 'a'.*--pair=order"
    ):
        evaluate(*words)
    evaluate(*words, "--pair=order")
    printed = capsys.readouterr().err
    assert "mask of 'a': '000.png', by order" in printed
    assert read_metrics(tmp_path / "fake/eval")["protocol"]["pair"] == "order"
    (tmp_path / "masks/002.png").unlink()
    with pytest.raises(UserError, match="2 masks for 3 images"):
        evaluate(*words, "--pair=order")
    with pytest.raises(UserError, match="--pair 'odrer'"):
        evaluate(*words, "--pair=odrer")


def test_a_runs_masks_are_named_or_taken_in_order_aloud(tmp_path, model, capsys):
    from picjax.masks import FileMasks

    save(tmp_path / "m/0.png", np.uint8(255) * HOLE[..., 0])
    save(tmp_path / "m/x_mask.png", np.uint8(255) * ~HOLE[..., 0])
    masks, rng = FileMasks(str(tmp_path / "m"), (SIZE, SIZE)), np.random.default_rng(0)
    assert masks.draw(rng, "x", 0)[0, 0] == 0 and capsys.readouterr().err == ""
    assert masks.draw(rng, "y", 0)[0, 0] == masks.draw(rng, "z", 2)[0, 0] == 1
    assert capsys.readouterr().err.count("masks are taken in order") == 1


def test_images_that_were_trained_on_are_counted(tmp_path, model, capsys):
    for k in range(4):
        save(tmp_path / f"train/{k}.png", picture(k))
        save(tmp_path / f"copies/{k if k < 2 else k + 10}.png", picture(k))
    save(tmp_path / "copies/3.png", picture(9))  # the same name, another picture
    words = ("--workdir", tmp_path, "--num=1", "--images=9", "--metrics=l1")
    counts = {}
    for real in ("train", "copies"):
        model.config.data = load_config("picmm", "tiny").data
        model.config.data.update({"name": "folder", "path": str(tmp_path / "train")})
        model.config.data.eval_path = str(tmp_path / "elsewhere")
        evaluate(*words, "--real", tmp_path / real)
        counts[real] = read_metrics(tmp_path / "eval")["protocol"]["remarks"]
        assert "Trained on" in capsys.readouterr().out
    assert "Trained on 4 of" in counts["train"][0]
    assert "Trained on 2 of" in counts["copies"][0]


def test_numbers_of_untrained_networks_are_marked_everywhere(tmp_path, offline, capsys):
    words = write(tmp_path, composite, names=("a",))
    weights = ("--allow-random-features", "--feature=net=squeeze", "--baselines=none")
    evaluate(*words, "--metrics=lpips,l1", *weights)
    out = tmp_path / "fake/eval"
    printed = capsys.readouterr().out
    for text in (printed, (out / "report.md").read_text()):
        lines = [line for line in text.splitlines() if line.startswith("| lpips")]
        assert len(lines) == 2
        assert all(line.count("(random features)") >= 4 for line in lines)
    html = (out / "report.html").read_text()
    assert "lpips_hole (random features)" in html and "numbers mean nothing" in html
    header = (out / "samples.csv").read_text().partition("\n")[0].split(",")
    assert "lpips (random features)" in header and "l1" in header
    tree = read_metrics(out)["results"]
    units = {x["unit"] for y in tree["lpips"].values() for x in y.values()}
    assert units == {"distance (random features)"}
    assert not any("random" in line for line in printed.splitlines() if "| l1" in line)


def test_a_legend_is_of_what_is_there(tmp_path):
    evaluate(*write(tmp_path, composite), "--metrics=l1")
    text = (tmp_path / "fake/eval/report.md").read_text()
    assert "column mean" in text and "column entropy" not in text
    assert "column all" not in text and "seed" not in text
    evaluate(*write(tmp_path, composite)[:2], "--mask=center", "--metrics=l1")
    assert "seed 0" in (tmp_path / "fake/eval/report.md").read_text()
