"""Cut-outs on a canvas: no fringes, exact where nothing is resampled, one line an error."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from helpers.fake_system import make_model
from PIL import Image

from picjax import complete as completing
from picjax import compose as module
from picjax.cli import UserError
from picjax.compose import Cutout, Scene, compose
from picjax.data import cutouts

RED = (250, 30, 20)
GREY = 127


def disc(side: int = 64, colour=RED, soft: float = 3.0) -> Image.Image:
    """Of one colour with a soft edge; black where it is transparent."""
    y, x = np.mgrid[:side, :side] + 0.5 - side / 2
    alpha = np.clip((side / 2 - 1 - np.hypot(x, y)) / soft, 0, 1)
    colours = np.where(alpha[..., None] > 0, np.array(colour), 0)
    both = np.concatenate([colours, 255 * alpha[..., None]], -1)
    return Image.fromarray(np.round(both).astype(np.uint8))


def noise(h: int, w: int, alpha: int = 255, seed: int = 0) -> np.ndarray:
    pixels = np.random.default_rng(seed).integers(0, 256, (h, w, 4), dtype=np.uint8)
    pixels[..., 3] = alpha
    return pixels


def at(pixels: np.ndarray, x: float, y: float, **more) -> Cutout:
    return Cutout(Image.fromarray(pixels), (x, y), **more)


# ---- what is composed ----


@pytest.mark.parametrize("scale", [1.0, 0.37, 2.3])
@pytest.mark.parametrize("rotation", [0.0, 20.0])
def test_no_fringe(scale, rotation):
    """What is known has the cut-out's colour; what is not lies between it and grey."""
    cutout = Cutout(disc(), (48, 48), scale, rotation)
    image, mask = compose(Scene((96, 96), [cutout]))
    known = mask[..., 0] == 1
    radius = scale * 31 - 3 * max(scale, 1) - 2
    assert known.sum() > np.pi * min(radius, 44) ** 2 * 0.9
    assert (np.abs(image[known].astype(int) - RED) <= 1).all()
    low, high = np.minimum(RED, GREY) - 1, np.maximum(RED, GREY) + 1
    assert ((image >= low) & (image <= high)).all()


def test_the_original_has_fringes():
    """Black enters from where it is transparent, and half of a pixel is known."""
    rgba = module.flatten(Scene((96, 96), [Cutout(disc(soft=0.1), (48, 48))]))
    assert (rgba[rgba[..., 3] == 0] == 0).all()
    image, mask = module.official_input(rgba, 40)
    partly = (mask[..., 0] > 100) & (mask[..., 0] < 255)
    assert partly.any() and (image[partly][:, 0] < 230).any()


def test_pixels_are_exact_where_nothing_is_resampled():
    pixels = noise(5, 8)
    image, mask = compose(Scene((20, 30), [at(pixels, 14, 8.5)]))
    expected = np.zeros((20, 30), np.uint8)
    expected[6:11, 10:18] = 1
    np.testing.assert_array_equal(mask[..., 0], expected)
    np.testing.assert_array_equal(image[6:11, 10:18], pixels[..., :3])
    assert (image[expected == 0] == GREY).all()
    flipped, _ = compose(Scene((20, 30), [at(pixels, 14, 8.5, flip=True)]))
    np.testing.assert_array_equal(flipped[6:11, 10:18], pixels[:, ::-1, :3])
    turned, where = compose(Scene((20, 30), [at(pixels, 14, 9, rotation=90.0)]))
    rows, columns = (np.flatnonzero(where[..., 0].any(axis)) for axis in (1, 0))
    part = turned[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    np.testing.assert_array_equal(part, np.rot90(pixels[..., :3]))


def test_a_part_may_lie_outside():
    pixels = noise(8, 8)
    for x, y, there, rest in [
        (2, 20, np.s_[16:24, 0:6], np.s_[:, 2:]),
        (29, 31, np.s_[27:, 25:], np.s_[:5, :7]),
        (16, -2, np.s_[0:2, 12:20], np.s_[6:, :]),
    ]:
        image, mask = compose(Scene((32, 32), [at(pixels, x, y)]))
        np.testing.assert_array_equal(image[there], pixels[rest][..., :3])
        assert mask.sum() == pixels[rest][..., 0].size


def test_the_later_lies_above_unless_z_says_otherwise():
    first, second = noise(6, 6, seed=1), noise(6, 6, seed=2)
    for z, above in [(0.0, second), (1.0, first)]:
        objects = [at(first, 8, 8, z=z), at(second, 8, 8)]
        image, _ = compose(Scene((16, 16), objects))
        np.testing.assert_array_equal(image[5:11, 5:11], above[..., :3])


def test_known_is_what_is_wholly_opaque_also_together():
    """A soft one over an opaque one is opaque, two soft ones are not."""
    soft, hard = noise(4, 4, alpha=200), noise(4, 4, seed=1)
    for below, known in [(hard, 16), (soft, 0)]:
        objects = [at(below, 8, 8), at(soft, 8, 8), at(hard, 2, 2)]
        _, mask = compose(Scene((16, 16), objects))
        assert mask.sum() == 16 + known
    image, _ = compose(Scene((16, 16), [at(hard, 8, 8), at(soft, 8, 8)]))
    blend = (200 * soft[..., :3].astype(int) + 55 * hard[..., :3].astype(int)) / 255
    assert np.abs(image[6:10, 6:10] - blend).max() <= 0.51


def test_erosion_and_background():
    background = np.full((8, 8, 4), 200, np.uint8)
    background[:4, :, 3], background[4:, :, 3] = 0, 255
    scene = Scene((32, 32), [at(noise(9, 9), 16, 6)], Image.fromarray(background))
    for erode in (0, 2):
        image, mask = compose(scene._replace(erode=erode))
        inner = np.s_[2 + erode : 11 - erode, 12 + erode : 21 - erode]
        assert mask[inner].all() and mask[:12].sum() == mask[inner].size
        assert mask[18 + erode :].all() and (image[20:] == 200).all()


# ---- files ----


def write_scene(folder: Path, name: str = "a", **changes) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    disc().save(folder / "disc.png")
    content = {
        "width": 60,
        "height": 40,
        "objects": [{"file": "disc.png", "position": [30, 20], "scale": 0.4}],
    }
    path = folder / f"{name}.json"
    path.write_text(json.dumps(content | changes))
    return path


def test_a_file_says_the_same_as_python(tmp_path, monkeypatch):
    entry = {"file": "disc.png", "position": [25, 22.5], "scale": 0.4, "z": -1}
    entry |= {"rotation": 45, "flip": True}
    path = write_scene(tmp_path / "deep", objects=[entry], erode=1)
    cutout = Cutout(disc(), (25, 22.5), 0.4, 45.0, True, -1)
    expected = compose(Scene((40, 60), [cutout], erode=1))
    monkeypatch.chdir("/")
    for found, array in zip(compose(path), expected, strict=True):
        np.testing.assert_array_equal(found, array)


def one(**changes) -> dict:
    entry = {"file": "disc.png", "position": [30, 20]} | changes
    return {"objects": [{k: v for k, v in entry.items() if v is not None}]}


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"widht": 3}, "'widht' is none of its keys .*; did you mean 'width'"),
        (one(scael=2), r"objects\[0\]: 'scael' is none .* did you mean 'scale'"),
        ({"width": 4.5}, "'width' is 4.5; give pixels, 8 to"),
        ({"width": True}, "'width' is true"),
        ({"objects": []}, r"'objects' is \[\]; give a list"),
        ({"objects": [3]}, r"objects\[0\]: it is no JSON object"),
        (one(position=None), r"objects\[0\]: 'position' is missing; give \[x, y\]"),
        (one(position=[3]), r"'position' is \[3\]; give \[x, y\]"),
        (one(position=[3, float("nan")]), r"'position' is \[3, NaN\]"),
        (one(scale=0), "'scale' is 0; give a number above 0"),
        (one(scale=500), r"objects\[0\] \('disc.png'\) is 32000 pixels long"),
        (one(file="cat.png"), r"\('cat.png'\) does not exist; paths are relative"),
        (one(file="text.png"), r"\('text.png'\) cannot be read"),
        (one(file="flat.png"), r"\('flat.png'\) has no alpha"),
        (one(file="clear.png"), r"\('clear.png'\) is wholly transparent"),
        (one(position=[-40, 20]), r"wholly outside the canvas of 60x40 pixels; .*-40"),
        (one(position=[-31, -12], scale=1.0), "wholly outside"),  # but for its corner
        ({"erode": 64}, "nothing on the canvas is wholly opaque"),
        ({"erode": -1}, "'erode' is -1"),
        (one(scale=3), "everything on the canvas is opaque"),
        ({"background": "flat.png"}, r"background \('flat.png'\) has no alpha"),
    ],
)
def test_mistakes_are_one_sentence(changes, said, tmp_path):
    path = write_scene(tmp_path, **changes)
    Image.new("RGB", (9, 9)).save(tmp_path / "flat.png")
    Image.new("RGBA", (9, 9)).save(tmp_path / "clear.png")
    (tmp_path / "text.png").write_text("hello")
    with pytest.raises(UserError, match=said) as error:
        compose(path)
    text = str(error.value)
    assert text.startswith(f"scene '{path}': ") and "\n" not in text
    assert text.count("scene '") == 1


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[1", "it is no JSON"),
        ("[1]", "it is no JSON object"),
        (None, "cannot be read"),
    ],
)
def test_what_is_no_scene(text, said, tmp_path):
    path = tmp_path / "a.json"
    if text is not None:
        path.write_text(text)
    with pytest.raises(UserError, match=said):
        compose(path)


def test_examples(tmp_path, capsys):
    """Three scenes with soft edges, something known in each, much to be made."""
    module.main(["--examples", str(tmp_path / "scenes")])
    paths = capsys.readouterr().out.split()
    assert [Path(path).stem for path in paths] == list(cutouts.EXAMPLES)
    module.main([*paths, f"--out={tmp_path / 'out'}"])
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
        module.main([])


# ---- completing ----


@pytest.fixture(scope="module")
def fake():
    return make_model()


def command(*words: object) -> None:
    completing.main([str(word) for word in words])


def test_scenes_are_completed(tmp_path, fake, monkeypatch, capsys):
    """At the canvas's size, known pixels to the bit, and as from Python."""
    monkeypatch.setattr(completing, "load", lambda *_: fake)
    paths = [write_scene(tmp_path, name) for name in ("a", "b")]
    command("--workdir", tmp_path, "--compose", *paths, "--num=2")
    out = tmp_path / "completions"
    names = ["grid", "mask", "out_0", "out_1", "truth"]
    expected = [f"{stem}_{name}.png" for stem in "ab" for name in names]
    assert sorted(os.listdir(out)) == expected
    image, mask = compose(paths[0])
    known = mask[..., 0] == 1
    made = fake.complete(*compose(paths[0]), n=2)
    for i in range(2):
        written = np.asarray(Image.open(out / f"a_out_{i}.png"))
        np.testing.assert_array_equal(written, made[i])
        np.testing.assert_array_equal(written[known], image[known])
        assert (written[~known] != image[~known]).any(-1).mean() > 0.9
    assert "2 completions of 2 image(s)" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--compose", "a.json", "--image=x.png"], "either --image"),
        ([], "either --image"),
        (["--compose", "a.json", "--mask=top"], "leave --mask out"),
        (["--compose", "a.json", "bad.json"], "'bad.json': 'objects' is missing"),
        (["--compose", "a.json", "other/a.json"], "2 scenes named 'a'"),
        (["--compose", "none.json"], "'none.json': it cannot be read"),
    ],
)
def test_wrong_commands_are_said_before_anything_is_loaded(
    words, said, tmp_path, monkeypatch
):
    write_scene(tmp_path)
    write_scene(tmp_path / "other")
    (tmp_path / "bad.json").write_text('{"width": 9, "height": 9}')
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(completing, "load", lambda *_: pytest.fail("loaded"))
    with pytest.raises(UserError, match=said):
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
