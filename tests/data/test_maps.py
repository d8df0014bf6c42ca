"""Label and instance maps: ranges, files, colours."""

import numpy as np
import pytest
from PIL import Image

from picjax.cli import UserError
from picjax.data import maps


@pytest.mark.parametrize(
    ("label", "instance", "message"),
    [
        ([[0, 4]], [[0, 1]], "'a.png' has labels from 0 to 4, .* classes 0 to 3"),
        ([[0, 3]], [[0, 6]], "'a.png' has instances from 0 to 6, .* room for 0 to 5"),
        ([[0, -1]], [[0, 1]], "labels from -1"),
        (
            [[0, 3]],
            [[0], [1]],
            r"label map of \(1, 2\) and an instance map of \(2, 1\)",
        ),
    ],
)
def test_maps_that_would_be_misread_are_refused(label, instance, message):
    with pytest.raises(UserError, match=message):
        maps.check_maps(np.array(label), np.array(instance), 4, 6, "a.png")


def test_maps_within_range_are_accepted():
    maps.check_maps(np.array([[0, 3]]), np.array([[0, 5]]), 4, 6, "a.png")


# ---- files ----


def test_more_than_256_instances_stay_distinct():
    ids = np.arange(900, dtype=np.int32).reshape(30, 30) * 7
    np.testing.assert_array_equal(maps.reidentify(ids).ravel(), np.arange(900))


def test_a_map_and_its_picture_are_cropped_at_the_same_place():
    rng = np.random.default_rng(0)
    ids = rng.integers(0, 9, (20, 30)).astype(np.uint8)
    picture = Image.fromarray(np.repeat(ids[..., None] * 20, 3, 2))
    geometry = maps.Geometry("crop", 0, 8, corner=(5, 3), flip=True)
    pixels = maps.read_image(picture, geometry)
    instance = maps.read_map(Image.fromarray(ids), geometry)
    np.testing.assert_array_equal(instance, ids[3:11, 12:4:-1])
    np.testing.assert_allclose(pixels[..., 0], instance * 20 / 127.5 - 1, atol=1e-6)


def test_a_corner_lets_the_crop_fit():
    geometry = maps.Geometry("resize_and_crop", 12, 8)
    rng = np.random.default_rng(0)
    corners = {maps.draw_corner(geometry, (30, 20), rng) for _ in range(300)}
    assert corners == {(x, y) for x in range(5) for y in range(5)}


def test_16_bit_maps_are_not_scaled():
    ids = np.array([[0, 300], [65535, 256]], np.uint16)
    geometry = maps.Geometry("crop", 0, 2)
    np.testing.assert_array_equal(maps.read_map(Image.fromarray(ids), geometry), ids)


def test_255_is_the_dont_care_class():
    label = Image.fromarray(np.array([[0, 255], [150, 7]], np.uint8))
    geometry = maps.Geometry("crop", 0, 2)
    read = maps.read_label(label, geometry, label_nc=150)
    np.testing.assert_array_equal(read, [[0, 150], [150, 7]])


def test_an_unknown_transform_is_refused():
    geometry = maps.Geometry("resize", 12, 8)
    with pytest.raises(UserError, match="mode 'resize' is none of resize_and_crop"):
        maps.resized(geometry, (3, 4))


def test_labels_beyond_the_palette_are_black():
    coloured = maps.colour(np.array([[0, 5]]), 5)
    assert coloured[0, 0].any() and not coloured[0, 1].any()
