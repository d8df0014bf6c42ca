"""1 = known, everywhere; hole ratios; mask files as the contract has them."""

import numpy as np
import pytest
from helpers.pictures import picture
from PIL import Image

from picjax import masks
from picjax.cli import UserError
from picjax.images import fit

SIZES = [(64, 64), (32, 32), (48, 96), (65, 97)]


def rng(seed=0):
    return np.random.default_rng(seed)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("name", masks.NAMES)
def test_every_mask_has_known_and_hidden_pixels_and_is_a_function_of_the_seed(
    name, size
):
    if name == "irregular" and min(size) < 64:
        pytest.skip("its strokes would hide everything")
    mask = masks.make(name, size, rng())
    assert mask.shape == size and mask.dtype == np.uint8
    assert set(np.unique(mask)) == {0, 1}
    np.testing.assert_array_equal(mask, masks.make(name, size, rng()))


def test_center_is_the_official_hole():
    mask = masks.make("center", (65, 97), rng())
    assert not mask[16:48, 24:72].any()
    assert mask.sum() == 65 * 97 - 32 * 48


def test_the_side_that_is_named_is_known():
    for name, corner in {"left": (3, 0), "right": (3, -1), "top": (0, 3)}.items():
        mask = masks.make(name, (8, 8), rng())
        assert mask.mean() == 0.5 and mask[corner] == 1
    assert masks.make("bottom", (8, 8), rng())[-1].all()
    half = {masks.make("half", (8, 8), rng(i)).tobytes() for i in range(40)}
    named = {
        masks.make(n, (8, 8), rng()).tobytes()
        for n in ("left", "right", "top", "bottom")
    }
    assert half == named


def holes(name, size, n, **more):
    generator = rng(1)
    return np.array(
        [1 - masks.make(name, size, generator, **more).mean() for _ in range(n)]
    )


@pytest.mark.parametrize(
    "name, mean, deviation, quantiles",
    [
        ("rectangles", 0.311, 0.148, (0.09, 0.29, 0.59)),
        ("irregular", 0.527, 0.131, (0.30, 0.55, 0.70)),
    ],
)
def test_official_masks_hide_as_much_as_the_official_ones(
    name, mean, deviation, quantiles
):
    """As PICNet's own code over 1500 draws at 256 px."""
    found = holes(name, (256, 256), 400)
    assert abs(found.mean() - mean) < 0.025
    assert abs(found.std() - deviation) < 0.02
    assert np.abs(np.quantile(found, (0.05, 0.5, 0.95)) - quantiles).max() < 0.05


@pytest.mark.parametrize("ratio", [(0.1, 0.2), (0.2, 0.6), (0.5, 0.51)])
def test_freeform_holes_are_uniform_between_the_bounds(ratio):
    found = holes("freeform", (96, 96), 150, hole_ratio=ratio)
    low, high = ratio
    assert low <= found.min() and found.max() <= high + 0.001
    if high - low > 0.05:
        expected = np.linspace(low, high, 5)[1:-1]
        slack = 0.15 * (high - low)
        assert np.abs(np.quantile(found, (0.25, 0.5, 0.75)) - expected).max() < slack


def test_outpaint_keeps_a_window():
    for seed in range(20):
        mask = masks.make("outpaint", (40, 60), rng(seed))
        y, x = np.nonzero(mask)
        assert mask[y.min() : y.max() + 1, x.min() : x.max() + 1].all()
        assert 0.24 < mask.mean() < 0.66


def test_wrong_names_and_ratios_are_refused():
    with pytest.raises(UserError, match="did you mean 'center'"):
        masks.make("centre", (8, 8), rng())
    with pytest.raises(UserError, match="needs 64 pixels a side"):
        masks.make("irregular", (64, 32), rng())
    with pytest.raises(UserError, match="hole_ratio"):
        masks.make("freeform", (8, 8), rng(), (0.6, 0.2))


# ---- files ----


@pytest.fixture
def hole():
    """White on black, 24 x 16."""
    pixels = np.zeros((16, 24), np.uint8)
    pixels[4:10, 6:20] = 255
    return pixels


def read(tmp_path, picture, size=(16, 24), invert=False, name="m.png"):
    picture.save(tmp_path / name)
    return masks.load_mask(tmp_path / name, size, invert)


@pytest.mark.parametrize("mode", ["L", "1", "RGB", "P", "I;16", "CMYK"])
def test_white_is_hole_in_every_mode(tmp_path, hole, mode):
    if mode == "I;16":
        picture = Image.fromarray(hole.astype(np.uint16) * 257)
    else:
        picture = Image.fromarray(hole).convert("RGB").convert(mode)
    name = "m.tiff" if mode == "CMYK" else "m.png"
    mask, warnings = read(tmp_path, picture, name=name)
    np.testing.assert_array_equal(mask, hole == 0)
    assert not warnings
    inverted, _ = read(tmp_path, picture, invert=True, name=name)
    np.testing.assert_array_equal(inverted, hole == 255)


def test_transparent_is_hole_when_anything_is_transparent(tmp_path, hole):
    picture = Image.fromarray(np.full((16, 24, 3), 255, np.uint8))
    picture.putalpha(Image.fromarray(255 - hole))
    mask, warnings = read(tmp_path, picture)
    np.testing.assert_array_equal(mask, hole == 0)
    assert not warnings
    opaque = Image.fromarray(hole).convert("RGBA")
    np.testing.assert_array_equal(read(tmp_path, opaque)[0], hole == 0)


def test_doubtful_masks_come_with_a_warning_that_names_the_file(tmp_path, hole):
    grey = np.where(hole == 255, 200, 40).astype(np.uint8)
    mask, warnings = read(tmp_path, Image.fromarray(grey))
    np.testing.assert_array_equal(mask, hole == 0)
    assert len(warnings) == 1 and "grey" in warnings[0] and "m.png" in warnings[0]

    mask, warnings = read(tmp_path, Image.fromarray(hole), size=(32, 48))
    np.testing.assert_array_equal(mask, np.kron(hole == 0, np.ones((2, 2))))
    assert len(warnings) == 1 and "24x16" in warnings[0] and "nearest" in warnings[0]

    for value in (0, 255):
        _, warnings = read(tmp_path, Image.new("L", (24, 16), value))
        assert len(warnings) == 1 and "--invert-mask" in warnings[0]


def test_one_percent_of_grey_is_fine(tmp_path, hole):
    hole[0, :3] = 128  # 0.8 %
    assert not read(tmp_path, Image.fromarray(hole))[1]


def test_what_is_no_image_is_refused(tmp_path):
    (tmp_path / "m.png").write_bytes(b"nothing")
    with pytest.raises(UserError, match=r"m\.png"):
        masks.load_mask(tmp_path / "m.png", (8, 8))


# ---- masks of an image ----


def test_random_masks_follow_the_seed_and_the_image():
    def holes(image, seed):
        return masks.resolve("freeform", image, seed, (32, 32))[0]

    first = holes(picture(0), 1)
    assert first.shape == (40, 60) and 0.1 < 1 - first.mean() < 0.7
    np.testing.assert_array_equal(first, holes(picture(0), 1))
    assert (first != holes(picture(0), 2)).any()
    assert (first != holes(picture(1), 1)).any()


def drawn_and_fitted(name, image, size):
    """A mask as drawn at the model's size, and as a model gets it with the image."""
    target = masks.named(name, image, 0, size)
    full, warnings = masks.resolve(name, image, 0, size)
    assert full.shape == image.shape[:2] and not warnings
    return target, fit(image, full, size, target)[1]


@pytest.mark.parametrize("name", [n for n in masks.NAMES if n != "irregular"])
@pytest.mark.parametrize("size", [(32, 32), (64, 64), (50, 75), (100, 40)])
def test_a_model_gets_a_named_mask_as_in_training(name, size):
    """Whatever the size of the image, the mask is drawn at the model's size."""
    target, small = drawn_and_fitted(name, picture(0, *size), (32, 32))
    np.testing.assert_array_equal(small, target)


def test_a_small_image_has_no_more_known_pixels_than_it_shows():
    image = picture(0, 16, 16)
    target, small = drawn_and_fitted("rows", image, (32, 32))
    assert (small <= target).all()
    full, _ = masks.resolve("center", image, 0, (32, 32))
    np.testing.assert_array_equal(full, masks.make("center", (16, 16), rng()))
