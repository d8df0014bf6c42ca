"""The command: examples, composing, and completing scenes."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from helpers.cutouts import write_scene
from helpers.fake_system import make_model
from PIL import Image

from picjax import complete as complete_command
from picjax import compose as compose_command
from picjax.cli import UserError
from picjax.data import cutouts
from picjax.data.composition import compose
from picjax.masks import DoubtfulMask


def test_examples_are_written_and_composed(tmp_path, capsys):
    """Three scenes with soft edges; a third to two thirds of each is known."""
    compose_command.main(["--examples", str(tmp_path / "scenes")])
    paths = capsys.readouterr().out.split()
    assert [Path(path).stem for path in paths] == list(cutouts.EXAMPLES)
    compose_command.main([*paths, f"--out={tmp_path / 'out'}"])
    for path in map(Path, paths):
        image, mask = compose(path)
        assert image.shape == (256, 256, 3) and 0.3 < mask.mean() < 0.6
        assert image[mask[..., 0] == 1].std() > 30
        for file in path.parent.glob("*.png"):
            alpha = np.asarray(Image.open(file))[..., 3]
            soft = ((alpha > 0) & (alpha < 255)).mean()
            assert 0.01 < soft < (alpha == 255).mean()
        hole = np.asarray(Image.open(tmp_path / f"out/{path.stem}_hole.png"))
        np.testing.assert_array_equal(hole, 255 * (1 - mask[..., 0]))
    with pytest.raises(UserError, match="no scene is given"):
        compose_command.main([])


# ---- completing ----


@pytest.fixture(scope="module")
def fake():
    return make_model()


def command(*words: object) -> None:
    complete_command.main([str(word) for word in words])


def test_scenes_are_completed(tmp_path, fake, monkeypatch, capsys):
    """At the canvas's size, with exact known pixels, and as from Python."""
    monkeypatch.setattr(complete_command, "load", lambda *_: fake)
    paths = [write_scene(tmp_path, name) for name in ("a", "b")]
    command("--workdir", tmp_path, "--compose", *paths, "--num=2")
    out = tmp_path / "completions"
    names = ["grid", "mask", "out_0", "out_1", "truth"]
    expected = [f"{stem}_{name}.png" for stem in "ab" for name in names]
    assert sorted(os.listdir(out)) == expected
    image, mask = compose(paths[0])
    known = mask[..., 0] == 1
    with pytest.warns(DoubtfulMask):  # of an array; the command knows better
        completions = fake.complete(*compose(paths[0]), n=2)
    for i in range(2):
        written = np.asarray(Image.open(out / f"a_out_{i}.png"))
        np.testing.assert_array_equal(written, completions[i])
        np.testing.assert_array_equal(written[known], image[known])
        assert (written[~known] != image[~known]).any(-1).mean() > 0.9
    assert "2 completions of 2 image(s)" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--compose", "a.json", "--image=x.png"], "exclude each other"),
        ([], "exclude each other"),
        (["--compose", "a.json", "--mask=top"], "leave --mask out"),
        (["--compose", "a.json", "bad.json"], "'bad.json': 'objects' is missing"),
        (["--compose", "a.json", "other/a.json"], "2 scenes named 'a'"),
        (["--compose", "none.json"], "'none.json': it cannot be read"),
    ],
)
def test_invalid_commands_are_rejected_before_anything_is_loaded(
    words, message, tmp_path, monkeypatch
):
    write_scene(tmp_path)
    write_scene(tmp_path / "other")
    (tmp_path / "bad.json").write_text('{"width": 9, "height": 9}')
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(complete_command, "load", lambda *_: pytest.fail("loaded"))
    with pytest.raises(UserError, match=message):
        command("--workdir=run", *words)


def test_help_fits_a_screen():
    done = subprocess.run(
        [sys.executable, "-m", "picjax.compose", "--help"],
        check=True,
        capture_output=True,
        text=True,
        env=os.environ | {"COLUMNS": "80"},
    )
    assert "example: python -m picjax.compose" in done.stdout
    assert len(done.stdout.splitlines()) <= 24
