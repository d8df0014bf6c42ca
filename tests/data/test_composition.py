"""Compositions: no fringes, exact where nothing is resampled, one-sentence errors."""

import numpy as np
import pytest
from helpers.cutouts import RED, disc, write_scene
from PIL import Image

from picjax.cli import UserError
from picjax.data import canvas
from picjax.data.canvas import Cutout, Scene
from picjax.data.composition import compose

GREY = 127


def noise(h: int, w: int, alpha: int = 255, seed: int = 0) -> np.ndarray:
    pixels = np.random.default_rng(seed).integers(0, 256, (h, w, 4), dtype=np.uint8)
    pixels[..., 3] = alpha
    return pixels


def at(pixels: np.ndarray, x: float, y: float, **more) -> Cutout:
    return Cutout(Image.fromarray(pixels), (x, y), **more)


# ---- drawing ----


@pytest.mark.parametrize("scale", [1.0, 0.37, 2.3])
@pytest.mark.parametrize("rotation", [0.0, 20.0])
def test_cutouts_have_no_fringes(scale, rotation):
    """Known pixels have the cut-out's colour; others lie between it and grey."""
    cutout = Cutout(disc(), (48, 48), scale, rotation)
    image, mask = compose(Scene((96, 96), [cutout]))
    known = mask[..., 0] == 1
    radius = scale * 31 - 3 * max(scale, 1) - 2
    assert known.sum() > np.pi * min(radius, 44) ** 2 * 0.9
    assert (np.abs(image[known].astype(int) - RED) <= 1).all()
    low, high = np.minimum(RED, GREY) - 1, np.maximum(RED, GREY) + 1
    assert ((image >= low) & (image <= high)).all()


def test_the_original_has_fringes():
    """Black enters from transparent pixels, and the mask is soft."""
    rgba = canvas.flatten(Scene((96, 96), [Cutout(disc(soft=0.1), (48, 48))]))
    assert (rgba[rgba[..., 3] == 0] == 0).all()
    image, mask = canvas.official_input(rgba, 40)
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
    rotated, mask = compose(Scene((20, 30), [at(pixels, 14, 9, rotation=90.0)]))
    rows, columns = (np.flatnonzero(mask[..., 0].any(axis)) for axis in (1, 0))
    part = rotated[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    np.testing.assert_array_equal(part, np.rot90(pixels[..., :3]))


def test_cutouts_may_extend_beyond_the_canvas():
    pixels = noise(8, 8)
    for x, y, there, rest in [
        (2, 20, np.s_[16:24, 0:6], np.s_[:, 2:]),
        (29, 31, np.s_[27:, 25:], np.s_[:5, :7]),
        (16, -2, np.s_[0:2, 12:20], np.s_[6:, :]),
    ]:
        image, mask = compose(Scene((32, 32), [at(pixels, x, y)]))
        np.testing.assert_array_equal(image[there], pixels[rest][..., :3])
        assert mask.sum() == pixels[rest][..., 0].size


def test_later_cutouts_lie_above_unless_z_differs():
    first, second = noise(6, 6, seed=1), noise(6, 6, seed=2)
    for z, above in [(0.0, second), (1.0, first)]:
        objects = [at(first, 8, 8, z=z), at(second, 8, 8)]
        image, _ = compose(Scene((16, 16), objects))
        np.testing.assert_array_equal(image[5:11, 5:11], above[..., :3])


def test_the_mask_is_where_all_layers_together_are_opaque():
    """A translucent layer over an opaque one is opaque; two translucent ones are not."""
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


def test_a_file_is_drawn_as_the_same_scene_from_python(tmp_path, monkeypatch):
    entry = {"file": "disc.png", "position": [25, 22.5], "scale": 0.4, "z": -1}
    entry |= {"rotation": 45, "flip": True}
    path = write_scene(tmp_path / "deep", objects=[entry], erode=1)
    cutout = Cutout(disc(), (25, 22.5), 0.4, 45.0, True, -1)
    expected = compose(Scene((40, 60), [cutout], erode=1))
    monkeypatch.chdir("/")
    for ours, array in zip(compose(path), expected, strict=True):
        np.testing.assert_array_equal(ours, array)


def one_object(**changes) -> dict:
    entry = {"file": "disc.png", "position": [30, 20]} | changes
    return {"objects": [{k: v for k, v in entry.items() if v is not None}]}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"widht": 3}, "'widht' is none of its keys .*; did you mean 'width'"),
        (one_object(scael=2), r"objects\[0\]: 'scael' is none .* did you mean 'scale'"),
        ({"width": 4.5}, "'width' is 4.5; give pixels, 8 to"),
        ({"width": True}, "'width' is true"),
        ({"objects": []}, r"'objects' is \[\]; give a list"),
        ({"objects": [3]}, r"objects\[0\]: it is not a JSON object"),
        (
            one_object(position=None),
            r"objects\[0\]: 'position' is missing; give \[x, y\]",
        ),
        (one_object(position=[3]), r"'position' is \[3\]; give \[x, y\]"),
        (one_object(position=[3, float("nan")]), r"'position' is \[3, NaN\]"),
        (one_object(scale=0), "'scale' is 0; give a number above 0"),
        (one_object(scale=500), r"objects\[0\] \('disc.png'\) is 32000 pixels long"),
        (
            one_object(file="cat.png"),
            r"\('cat.png'\) does not exist; paths are relative",
        ),
        (one_object(file="text.png"), r"\('text.png'\) cannot be read"),
        (one_object(file="flat.png"), r"\('flat.png'\) has no alpha"),
        (one_object(file="clear.png"), r"\('clear.png'\) is wholly transparent"),
        (
            one_object(position=[-40, 20]),
            r"wholly outside the canvas of 60x40 pixels; .*-40",
        ),
        (
            one_object(position=[-31, -12], scale=1.0),
            "wholly outside",
        ),  # but for its corner
        ({"erode": 64}, "nothing on the canvas is wholly opaque"),
        ({"erode": -1}, "'erode' is -1"),
        (one_object(scale=3), "everything on the canvas is opaque"),
        ({"background": "flat.png"}, r"background \('flat.png'\) has no alpha"),
    ],
)
def test_invalid_scenes_give_one_sentence(changes, message, tmp_path):
    path = write_scene(tmp_path, **changes)
    Image.new("RGB", (9, 9)).save(tmp_path / "flat.png")
    Image.new("RGBA", (9, 9)).save(tmp_path / "clear.png")
    (tmp_path / "text.png").write_text("hello")
    with pytest.raises(UserError, match=message) as error:
        compose(path)
    text = str(error.value)
    assert text.startswith(f"scene '{path}': ") and "\n" not in text
    assert text.count("scene '") == 1


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[1", "it is not JSON"),
        ("[1]", "it is not a JSON object"),
        (None, "cannot be read"),
    ],
)
def test_files_that_are_no_scene_are_rejected(text, message, tmp_path):
    path = tmp_path / "a.json"
    if text is not None:
        path.write_text(text)
    with pytest.raises(UserError, match=message):
        compose(path)
