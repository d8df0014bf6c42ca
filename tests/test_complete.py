"""The command complete: files, masks matched with images, one line per error."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest
from etils import epath
from helpers.fake_system import make_model
from helpers.pictures import half_mask, picture
from PIL import Image

from picjax import complete as module
from picjax.cli import UserError, run
from picjax.masks import load_mask

# What every config.json holds.
RUN = {"system": "picmm", "image_size": 32, "keep": 3, "best": ""}
RUN |= {"data": {"name": "photos", "masks": ["center"]}}


@pytest.fixture(scope="module")
def fake():
    return make_model()


@pytest.fixture
def model(fake, monkeypatch):
    monkeypatch.setattr(module, "load", lambda *_: fake)
    return fake


def command(*words: object) -> None:
    module.main([str(word) for word in words])


def save(path, array) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path)


def read(path) -> np.ndarray:
    return np.asarray(Image.open(path))


def test_files_of_one_image(tmp_path, model, capsys):
    image, known = picture(0), half_mask()
    save(tmp_path / "in" / "a.png", image)
    save(tmp_path / "m.png", (1 - known) * np.uint8(255))
    out = tmp_path / "out"
    words = ("--image", tmp_path / "in/a.png", "--mask", tmp_path / "m.png")
    command("--workdir", tmp_path, *words, "--num", 3, "--out", out)
    names = ["a_grid", "a_mask", "a_out_0", "a_out_1", "a_out_2", "a_truth"]
    assert sorted(os.listdir(out)) == [f"{name}.png" for name in names]
    np.testing.assert_array_equal(read(out / "a_truth.png"), image)
    shown = read(out / "a_mask.png")
    np.testing.assert_array_equal(shown[known == 1, :3], image[known == 1])
    assert (shown[known == 0, :3] == 127).all()
    np.testing.assert_array_equal(load_mask(out / "a_mask.png", known.shape)[0], known)
    expected = model.complete(image, known, n=3)
    for i in range(3):
        np.testing.assert_array_equal(read(out / f"a_out_{i}.png"), expected[i])
    assert "3 completions of 1 image" in capsys.readouterr().out
    # Fewer completions later leave none of the earlier ones behind.
    command("--workdir", tmp_path, *words, "--num", 1, "--out", out)
    assert "a_out_0.png" in os.listdir(out) and "a_out_1.png" not in os.listdir(out)


def test_default_folder_and_a_name_for_a_mask(tmp_path, model):
    save(tmp_path / "a.png", picture(0))
    command("--workdir", tmp_path / "run", "--image", tmp_path / "a.png", "--mask=half")
    assert (tmp_path / "run/completions/a_out_9.png").exists()


def test_what_is_no_folder_is_completed_into_the_current_one(tmp_path):
    file = tmp_path / "a.safetensors"
    file.touch()
    for workdir in (str(file), "picjax://demo"):
        assert module.default_out(workdir) == epath.Path("completions")


def test_seeds_do_not_depend_on_the_folder(tmp_path, model):
    for name, seed in [("a", 0), ("b", 1), ("c", 2)]:
        save(tmp_path / "three" / f"{name}.png", picture(seed))
    save(tmp_path / "one" / "z.png", picture(1))
    for name in ("three", "one"):
        words = ("--image", tmp_path / name, "--mask", "center", "--num", 2)
        command("--workdir", tmp_path, *words, "--out", tmp_path / f"{name}-out")
    for i in range(2):
        np.testing.assert_array_equal(
            read(tmp_path / f"three-out/b_out_{i}.png"),
            read(tmp_path / f"one-out/z_out_{i}.png"),
        )


def test_masks_match_by_stem_or_in_order_if_asked_for(tmp_path, model):
    tall, wide = np.zeros((40, 60), np.uint8), np.zeros((40, 60), np.uint8)
    tall[:, :20], wide[:10] = 255, 255
    for name in ("a", "b"):
        save(tmp_path / "in" / f"{name}.png", picture(0))
    # By stem: b is tall although it comes second by name.
    save(tmp_path / "stems" / "b.png", tall)
    save(tmp_path / "stems" / "a.png", wide)
    save(tmp_path / "stems" / "unused.png", wide)
    # By order: x is for a.
    save(tmp_path / "order" / "x.png", tall)
    save(tmp_path / "order" / "y.png", wide)
    for folder, first, second in [("stems", wide, tall), ("order", tall, wide)]:
        out = tmp_path / f"{folder}-out"
        words = ("--image", tmp_path / "in", "--mask", tmp_path / folder, "--num=1")
        pair = ("--pair=order",) if folder == "order" else ()
        command("--workdir", tmp_path, *words, *pair, "--out", out)
        for name, hole in [("a", first), ("b", second)]:
            mask, _ = load_mask(out / f"{name}_mask.png", hole.shape)
            np.testing.assert_array_equal(mask == 0, hole == 255)


def test_invert_mask(tmp_path, model):
    known = half_mask()
    save(tmp_path / "in/a.png", picture(0))
    save(tmp_path / "m.png", known * np.uint8(255))  # white = known
    words = ("--image", tmp_path / "in", "--mask", tmp_path / "m.png", "--num=1")
    command("--workdir", tmp_path, *words, "--invert-mask")
    out = read(tmp_path / "completions/a_out_0.png")
    np.testing.assert_array_equal(out[known == 1], picture(0)[known == 1])


@pytest.mark.parametrize(
    ("mask", "word"),
    [
        (np.zeros((40, 60), np.uint8), "--invert-mask"),  # no hole at all
        (np.full((40, 60), 255, np.uint8), "--invert-mask"),
        (np.tile(np.arange(60, dtype=np.uint8) * 4, (40, 1)), "grey"),
        (np.tile(np.arange(80, dtype=np.uint8) // 40 * 255, (40, 1)), "80x40"),
    ],
)
def test_warnings_are_said_once(mask, word, tmp_path, model, capsys):
    for name in ("a", "b"):
        save(tmp_path / "in" / f"{name}.png", picture(0))
    save(tmp_path / "m.png", mask)
    words = ("--image", tmp_path / "in", "--mask", tmp_path / "m.png", "--num=1")
    command("--workdir", tmp_path, *words)
    error = capsys.readouterr().err
    assert error.count(word) == 1 and error.count("\n") == 1
    assert error.startswith("picjax: ") and "m.png" in error
    with pytest.warns(UserWarning, match=word):
        model.complete(picture(0), Image.fromarray(mask), n=1)


def test_what_the_system_says_of_a_mask_is_said_once(
    tmp_path, model, monkeypatch, capsys
):
    def remarks(_, known):
        assert known.shape == model.size and set(np.unique(known)) == {0, 1}
        return [f"{known.mean():.0%} is known"]

    monkeypatch.setattr(type(model.system), "mask_warnings", remarks)
    for name in ("a", "b"):
        save(tmp_path / "in" / f"{name}.png", picture(0))
    command("--workdir", tmp_path, "--image", tmp_path / "in", "--mask=top", "--num=1")
    assert capsys.readouterr().err == "picjax: 50% is known\n"
    with pytest.warns(UserWarning, match="50% is known"):
        model.complete(picture(0), "top", n=1)


@pytest.mark.parametrize("share", [0.5, 0.0])
def test_a_damaged_image_in_a_folder_is_skipped(share, tmp_path, model, capsys):
    for name in ("a", "b", "c"):
        save(tmp_path / "in" / f"{name}.png", picture(0))
    whole = (tmp_path / "in/b.png").read_bytes()
    (tmp_path / "in/b.png").write_bytes(whole[: int(share * len(whole))])
    with pytest.raises(UserError, match="1 of 3 images were skipped"):
        command("--workdir", tmp_path, "--image", tmp_path / "in", "--mask=half")
    lines = capsys.readouterr().err.splitlines()
    (line,) = [text for text in lines if text.startswith("picjax: skipped '")]
    assert "b.png' cannot be used" in line
    outputs = os.listdir(tmp_path / "completions")
    assert "c_out_9.png" in outputs and not [n for n in outputs if n.startswith("b")]


def prepare(path) -> None:
    config = {"config": RUN}
    (path / "run").mkdir()
    (path / "run/config.json").write_text(json.dumps(config))
    save(path / "a.png", picture(0))
    save(path / "two/a.png", picture(0))
    save(path / "two/b.png", picture(0))
    save(path / "same/a.png", picture(0))
    save(path / "same/a.bmp", picture(0))
    save(path / "masks1/x.png", picture(0))
    save(path / "masks2/a.png", picture(0))
    (path / "empty").mkdir()
    (path / "text.png").write_text("hello")
    whole = (path / "a.png").read_bytes()
    (path / "half.png").write_bytes(whole[: len(whole) // 2])


@pytest.mark.parametrize(
    ("words", "what"),
    [
        ("--image=none.png --mask=half", "none.png' does not exist"),
        ("--image=text.png --mask=half", "no image"),
        ("--image=half.png --mask=half", "half.png' cannot be used"),
        ("--image=empty --mask=half", "holds no image"),
        ("--image=a.png --mask=haalf", "did you mean 'half'"),
        ("--image=a.png --mask=no.png", "--mask 'no.png' does not exist"),
        ("--image=a.png --mask=text.png", "no image"),
        ("--image=a.png --mask=empty", "holds no image"),
        ("--image=a.png --mask=half --num=0", "--num is 0"),
        ("--image=a.png --mask=half --num=x", "invalid int"),
        ("--image=a.png", "--mask"),
        ("--image=a.png --mask=half --colour=red", "--colour"),
        ("--image=two --mask=masks1", "no mask for 2 of 2 images"),
        ("--image=two --mask=masks1 --pair=order", "1 masks for 2 images"),
        ("--image=two --mask=masks2", "no mask for 1 of 2"),
        ("--image=same --mask=half", "rename"),
        ("--image=two --mask=half --out=two", "--out"),
    ],
)
def test_bad_input_is_one_line_and_exit_2(words, what, tmp_path, monkeypatch, capsys):
    prepare(tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(module, "load", lambda *_: pytest.fail("loaded before checks"))
    with pytest.raises(SystemExit) as caught:
        run(lambda: module.main(["--workdir=run", *words.split()]))
    assert caught.value.code == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("\n") == 1 and captured.err.startswith("picjax: ")
    assert what in captured.err


def test_missing_workdir(tmp_path):
    save(tmp_path / "a.png", picture(0))
    words = ("--image", tmp_path / "a.png", "--mask=half")
    with pytest.raises(UserError, match="nowhere"):
        command("--workdir", tmp_path / "nowhere", *words)


def test_help_fits_a_screen():
    done = subprocess.run(
        [sys.executable, "-m", "picjax.complete", "--help"],
        check=True,
        capture_output=True,
        text=True,
        env=os.environ | {"COLUMNS": "80"},
    )
    assert "example: python -m picjax.complete" in done.stdout
    assert len(done.stdout.splitlines()) <= 24


def test_files_of_a_translation(tmp_path, monkeypatch):
    translator = make_model(scale=0.0, data="aligned")
    monkeypatch.setattr(module, "load", lambda *_: translator)
    config = {"config": RUN | {"data": {"name": "aligned", "masks": []}}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    save(tmp_path / "in/a.png", picture(0))
    words = ("--workdir", tmp_path, "--image", tmp_path / "in", "--num=2")
    command(*words)
    out = tmp_path / "completions"
    names = ["a_condition", "a_grid", "a_out_0", "a_out_1"]
    assert sorted(os.listdir(out)) == [f"{name}.png" for name in names]
    np.testing.assert_array_equal(read(out / "a_condition.png"), picture(0))
    with pytest.raises(UserError, match="leave the mask out"):
        command(*words, "--mask=center")


def test_only_the_sampler_is_changed_on_the_command_line():
    words = ["--workdir=x", "--image=y", "--mask=center", "--sampler=fast"]
    args = module.parse([*words, "--config.sampler.label=3"])
    assert args.sampler == {"preset": "fast", "label": "3"}
    for word in ("--config.seed=3", "--config.sampler.label", "--lable=3"):
        with pytest.raises(UserError, match=f"unrecognized arguments: {word}"):
            module.parse([*words, word])


def test_a_grid_shows_the_input_then_completions_then_the_truth():
    greys = [np.full((64, 64, 3), grey, np.uint8) for grey in (10, 20, 30, 40)]
    source, *samples, truth = greys
    row = module.grid(source, np.stack(samples), truth)[-10, :, 0]
    shown = [grey for grey in dict.fromkeys(row.tolist()) if grey < 255]
    assert shown == [10, 20, 30, 40]
