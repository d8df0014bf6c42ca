"""The one opener of image files: what it opens, what their pixels mean, what it lists."""

import json
import os
import struct

import numpy as np
import pytest
from helpers.colours import SRGB, rgb_profile
from helpers.fake_system import make_model
from helpers.pictures import half_mask, picture
from PIL import Image, ImageCms

from picjax import images, masks
from picjax.cli import UserError
from picjax.data import composition, decode, listing

EPS = """%!PS-Adobe-3.0 EPSF-3.0
%%BoundingBox: 0 0 40 40
%%EndComments
(MARKER) (w) file closefile
"""


@pytest.fixture(scope="module")
def model():
    return make_model()


# ---- formats ----


@pytest.mark.parametrize("kind", ["image", "mask", "cut-out", "training"])
def test_no_program_is_started(kind, tmp_path, monkeypatch):
    """A PostScript header in a .png makes Pillow run Ghostscript if it may."""
    path, marker = tmp_path / "photo.png", tmp_path / "started"
    path.write_text(EPS.replace("MARKER", str(marker)))
    program = tmp_path / "gs"
    program.write_text(f"#!/bin/sh\ntouch '{marker}'\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    scene = tmp_path / "scene.json"
    objects = [{"file": "photo.png", "position": [32, 32]}]
    scene.write_text(json.dumps({"width": 64, "height": 64, "objects": objects}))
    use = {
        "image": lambda: images.read_picture(path),
        "mask": lambda: masks.load_mask(path, (40, 40)),
        "cut-out": lambda: composition.compose(scene),
        "training": lambda: decode.decode(path),
    }
    with pytest.raises((UserError, decode.BadImage), match="it is no image"):
        use[kind]()
    assert not marker.exists()


def test_a_picture_of_another_format_is_refused_from_python(tmp_path, model):
    path = tmp_path / "a.png"
    path.write_text(EPS.replace("MARKER", str(tmp_path / "x")))
    with Image.open(path) as opened, pytest.raises(UserError, match="EPS is none of"):
        model.complete(opened, "center", n=1)


def test_a_pipe_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "a.png")
    with pytest.raises(decode.BadImage, match="it is no file"):
        decode.decode(tmp_path / "a.png")


# ---- more than 8 bits ----


RAMP = np.tile(np.arange(40, dtype=np.int64), (24, 1))  # 0 to 39


@pytest.mark.parametrize(
    ("values", "dtype", "tags", "top"),
    [
        (RAMP * 1600, np.uint16, {}, 65535),
        (RAMP * 6, np.int32, {}, 255),
        (RAMP * 1600, np.int32, {}, 65535),
        (RAMP * 100, np.uint16, {341: 4095}, 4095),  # SMaxSampleValue
        (RAMP * 100, np.int32, {341: 4095}, 4095),
        (RAMP * 0, np.uint16, {}, 65535),
    ],
)
def test_ranges(values, dtype, tags, top, tmp_path):
    path = tmp_path / "a.tiff"
    Image.fromarray(values.astype(dtype)).save(path, tiffinfo=tags)
    found = np.asarray(decode.decode(path)).astype(float)
    assert np.abs(found[..., 0] - values * (255 / top)).max() <= 0.5


@pytest.mark.parametrize(
    ("values", "dtype"),
    [
        (RAMP * 100, np.uint16),  # 12 bits in 16
        (RAMP * 100, np.int32),
        (RAMP * 2000, np.int32),
        (RAMP - 5, np.int32),
        (RAMP / 40, np.float32),
    ],
)
@pytest.mark.parametrize("kind", ["image", "mask"])
def test_unknown_ranges_are_not_black(values, dtype, kind, tmp_path):
    path = tmp_path / "a.tiff"
    Image.fromarray(values.astype(dtype)).save(path)
    with pytest.raises(UserError, match="their range is unknown: save it with 8 bits"):
        images.read_picture(path) if kind == "image" else masks.load_mask(
            path, (24, 40)
        )


def test_twelve_bits_in_a_colour_png(tmp_path):
    """Pillow keeps the upper byte, of which 12 bits fill 4."""
    import zlib

    def chunk(name: bytes, data: bytes) -> bytes:
        crc = struct.pack(">I", zlib.crc32(name + data))
        return struct.pack(">I", len(data)) + name + data + crc

    pixels = np.repeat((RAMP * 100).astype(">u2")[..., None], 3, 2)
    rows = b"".join(b"\0" + row.tobytes() for row in pixels)
    head = struct.pack(">IIBBBBB", 40, 24, 16, 2, 0, 0, 0)
    chunks = [(b"IHDR", head), (b"IDAT", zlib.compress(rows)), (b"IEND", b"")]
    path = tmp_path / "a.png"
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*x) for x in chunks))
    with pytest.raises(decode.BadImage, match="range is unknown"):
        decode.decode(path)


# ---- colours ----


def test_wide_colours_reach_the_model_as_srgb(tmp_path, model):
    """And the completion has the picture's own colours: known pixels untouched."""
    pixels, known, icc = picture(3), half_mask(), rgb_profile()
    Image.fromarray(pixels).save(tmp_path / "a.png", icc_profile=icc)
    read = images.read_picture(tmp_path / "a.png")
    np.testing.assert_array_equal(read.pixels, pixels)
    assert read.icc == icc
    # The same colours by an independent calculation, where sRGB has them.
    expected = ImageCms.profileToProfile(
        Image.fromarray(pixels),
        ImageCms.ImageCmsProfile(str(write(tmp_path / "p.icc", icc))),
        ImageCms.createProfile("sRGB"),
        renderingIntent=ImageCms.Intent.RELATIVE_COLORIMETRIC,
        outputMode="RGB",
    )
    np.testing.assert_array_equal(read.srgb, np.asarray(expected))
    assert np.abs(read.srgb.astype(int) - pixels).max() > 20
    np.testing.assert_array_equal(
        np.asarray(decode.decode(tmp_path / "a.png")), read.srgb
    )

    with Image.open(tmp_path / "a.png") as opened:
        samples = model.complete(opened, known, n=2)
    for sample in samples:
        np.testing.assert_array_equal(sample[known == 1], pixels[known == 1])
    # The model draws what it would for the sRGB picture, converted afterwards.
    srgb = model.complete(read.srgb, known, n=2)
    hole = known == 0
    back = read.in_own_colours(srgb)
    difference = np.abs(back[:, hole].astype(int) - samples[:, hole])
    assert difference.mean() < 1.5  # resized before the conversion, or after it


def write(path, data: bytes):
    path.write_bytes(data)
    return path


@pytest.mark.parametrize(
    "icc",
    [
        rgb_profile(SRGB, 2.2)[:90],
        b"no profile",
        ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes(),
    ],
)
def test_srgb_and_damaged_profiles_change_nothing(icc, tmp_path):
    Image.fromarray(picture(3)).save(tmp_path / "a.png", icc_profile=icc)
    read = images.read_picture(tmp_path / "a.png")
    assert read.profile is None and read.icc is None
    np.testing.assert_array_equal(read.srgb, picture(3))


# ---- listing ----


def test_links_list_nothing_twice(tmp_path):
    root = tmp_path / "root"
    for name in ("a.png", "b/c.png"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(picture(0)).save(root / name)
    (root / "b/loop").symlink_to(root)
    (root / "again").symlink_to(root / "b")
    (root / "0.png").symlink_to(root / "a.png")
    (root / "self.png").symlink_to(root / "self.png")
    found = listing.list_images(root, "key")
    names = [path.name for path in found]
    assert sorted(names) == ["a.png", "c.png", "self.png"]
    with pytest.raises(decode.BadImage, match="symbolic links"):
        decode.decode(root / "self.png")
    assert [p.name for p in listing.list_images(root, "key", deep=False)] == [
        "a.png",
        "self.png",
    ]


def test_a_list_that_is_no_text(tmp_path):
    (tmp_path / "list.txt").write_bytes(b"\xff\xfe\0a")
    with pytest.raises(UserError, match="no text in UTF-8"):
        listing.list_images(tmp_path / "list.txt", "key")
