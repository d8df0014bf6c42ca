"""Images: conversion, resizing to a model and back, thumbnails."""

import jax.numpy as jnp
import numpy as np
import pytest
from helpers.pictures import picture
from PIL import Image

from picjax import images
from picjax.images import fit, to_uint8


def test_rounding():
    levels = np.arange(256, dtype=np.uint8).repeat(3).reshape(16, 16, 3)
    exact = jnp.asarray(levels, jnp.float32) / 127.5 - 1
    np.testing.assert_array_equal(to_uint8(exact), levels)
    near = jnp.full((1, 1, 3), 100.6 / 127.5 - 1)
    assert (np.asarray(to_uint8(near)) == 101).all()  # not truncated
    wide = jnp.array([[[-1.5, 1.5, 0.0]]])
    np.testing.assert_array_equal(to_uint8(wide), [[[0, 255, 128]]])


@pytest.mark.parametrize(
    "mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr", "I;16", "I", "HSV"]
)
def test_image_modes(mode):
    if mode in ("I", "I;16"):
        image = Image.fromarray(np.full((10, 12), 200 * 257, np.uint16)).convert(mode)
    else:
        rgb = Image.fromarray(np.full((10, 12, 3), 200, np.uint8))
        image = rgb.convert(mode, palette=Image.Palette.ADAPTIVE)
    pixels = images.as_picture(image).pixels
    assert pixels.shape == (10, 12, 3)
    if mode != "1":  # that one is dithered
        np.testing.assert_allclose(pixels, 200, atol=2)


def test_exif_rotation():
    image = Image.fromarray(picture(0, 10, 20))
    exif = image.getexif()
    exif[0x0112] = 6  # shown turned by 90 degrees
    upright = images.as_picture(image).pixels
    assert upright.shape == (20, 10, 3)


def test_fit_keeps_the_hole_out():
    """Black known pixels stay black beside a white hole; a part of a hole is a hole."""
    image = np.zeros((64, 64, 3), np.uint8)
    known = np.ones((64, 64), np.uint8)
    known[10:33, 7:50] = 0
    image[known == 0] = 255
    small, mask = fit(image, known, (16, 16))
    assert small.max() == 0
    assert not mask[2:9, 1:13].any()
    assert (
        mask[:2].all() and mask[9:].all() and mask[:, :1].all() and mask[:, 13:].all()
    )


def test_fit_means_and_identity():
    image, known = picture(0, 32, 32), np.ones((32, 32), np.uint8)
    same, mask = fit(image, known, (32, 32))
    np.testing.assert_array_equal(same, image)
    flat = np.full((50, 70, 3), 77, np.uint8)
    small, mask = fit(flat, np.ones((50, 70), np.uint8), (16, 24))
    assert small.shape == (16, 24, 3) and (small == 77).all() and mask.all()


@pytest.mark.parametrize(
    ("size", "shown"),
    [((32, 32), (192, 192)), ((100, 60), (100, 60)), ((600, 300), (192, 96))],
)
def test_thumbnails(size, shown):
    image = picture(0, *size)
    small = images.thumbnail(image)
    assert small.shape == (*shown, 3)
    if size[0] < 192:
        k = shown[0] // size[0]
        np.testing.assert_array_equal(small[::k, ::k], image)
