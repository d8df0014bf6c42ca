"""Every kind of file that folders hold: used as it looks, or named and left out."""

import numpy as np
import pytest
from ml_collections import ConfigDict
from PIL import Image

from picjax.cli import UserError
from picjax.data import decode, listing, pipeline, sources

RED, GREEN = (250, 5, 5), (5, 250, 5)


@pytest.fixture
def picture():
    """40 wide, 24 high: red on the left, green on the right."""
    pixels = np.empty((24, 40, 3), np.uint8)
    pixels[:, :20], pixels[:, 20:] = RED, GREEN
    return Image.fromarray(pixels)


def close(image, size=(40, 24)):
    assert image.mode == "RGB" and image.size == size
    pixels = np.asarray(image).astype(int)
    w, h = size
    assert np.abs(pixels[h // 2, w // 4] - RED).max() < 40
    assert np.abs(pixels[h // 2, 3 * w // 4] - GREEN).max() < 40


@pytest.mark.parametrize(
    "mode, suffix",
    [
        ("RGB", "jpg"),
        ("CMYK", "jpg"),
        ("CMYK", "tiff"),
        ("P", "png"),
        ("RGBA", "png"),
        ("RGB", "webp"),
        ("RGB", "bmp"),
    ],
)
def test_colour_files(tmp_path, picture, mode, suffix):
    file = tmp_path / f"a.{suffix}"
    picture.convert(mode).save(file, quality=95)
    close(decode.decode(file))


def test_palette_with_transparency(tmp_path, picture):
    picture.convert("P").save(tmp_path / "a.png", transparency=bytes([255, 0, 128]))
    close(decode.decode(tmp_path / "a.png"))


def test_grey_and_bilevel(tmp_path):
    ramp = np.tile(np.arange(0, 240, 6, dtype=np.uint8), (24, 1))
    Image.fromarray(ramp).save(tmp_path / "a.png")
    found = np.asarray(decode.decode(tmp_path / "a.png"))
    np.testing.assert_array_equal(found, np.repeat(ramp[..., None], 3, 2))
    Image.fromarray(ramp > 100).save(tmp_path / "b.png")
    assert set(np.unique(np.asarray(decode.decode(tmp_path / "b.png")))) == {0, 255}


def test_sixteen_bits(tmp_path):
    ramp = np.tile(np.arange(40, dtype=np.uint16) * 1600, (24, 1))
    for name in ("a.png", "a.tiff"):
        Image.fromarray(ramp).save(tmp_path / name)
        found = np.asarray(decode.decode(tmp_path / name)).astype(float)
        assert np.abs(found[..., 0] - ramp / 257).max() <= 0.5


@pytest.mark.parametrize("suffix", ["gif", "png", "webp"])
def test_of_an_animation_the_first_frame(tmp_path, picture, suffix):
    frames = [picture, Image.new("RGB", picture.size, (0, 0, 255))]
    file = tmp_path / f"a.{suffix}"
    more = {"lossless": True} if suffix == "webp" else {}
    frames[0].save(file, save_all=True, append_images=frames[1:], **more)
    close(decode.decode(file))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_rotation(tmp_path, picture, orientation):
    """Files whose pixels are turned away and whose tag turns them back."""
    undo = {
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_90,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }
    stored = picture.transpose(undo[orientation]) if orientation > 1 else picture
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored.save(tmp_path / "a.jpg", exif=exif, quality=95)
    close(decode.decode(tmp_path / "a.jpg"))


def test_large_jpegs_are_read_smaller_but_never_too_small(tmp_path, picture):
    picture.resize((800, 480)).save(tmp_path / "a.jpg")
    assert decode.decode(tmp_path / "a.jpg", 100).size == (200, 120)
    assert decode.decode(tmp_path / "a.jpg", 130).size == (400, 240)
    assert decode.decode(tmp_path / "a.jpg").size == (800, 480)


@pytest.mark.parametrize(
    ("limit", "least", "reason"),
    [("MAX_PIXELS", 960, "40x24 pixels are more"), ("MAX_BYTES", 0, "bytes are more")],
)
def test_gigantic_files(limit, least, reason, tmp_path, picture, monkeypatch):
    """Nothing is decoded above the limits on pixels and bytes."""
    picture.save(tmp_path / "a.png")
    least = least or (tmp_path / "a.png").stat().st_size
    monkeypatch.setattr(decode, limit, least)
    close(decode.decode(tmp_path / "a.png"))
    monkeypatch.setattr(decode, limit, least - 1)
    monkeypatch.setattr(Image.Image, "load", lambda *_: pytest.fail("decoded"))
    with pytest.raises(decode.BadImage, match=reason):
        decode.decode(tmp_path / "a.png")


def damaged(folder, picture):
    """Writes one file of every bad kind; their names say which."""
    (folder / "empty.jpg").write_bytes(b"")
    (folder / "text.png").write_text("not an image")
    picture.resize((400, 240)).save(folder / "whole.jpg")
    whole = (folder / "whole.jpg").read_bytes()
    (folder / "cut.jpg").write_bytes(whole[: len(whole) // 2])
    (folder / "whole.jpg").unlink()
    picture.resize((400, 240)).save(folder / "whole.png")
    png = bytearray((folder / "whole.png").read_bytes())
    png[60:90] = bytes(30)
    (folder / "broken.png").write_bytes(bytes(png))
    (folder / "whole.png").unlink()
    Image.new("RGB", (1, 1)).save(folder / "tiny.png")
    Image.new("F", (20, 20), 0.5).save(folder / "float.tiff")
    (folder / "folder.png").mkdir()
    (folder / ".hidden.jpg").write_bytes(b"")
    (folder / "notes.doc").write_text("")
    return {
        "empty.jpg": "it is empty",
        "text.png": "it is no image",
        "cut.jpg": "truncated",
        "broken.png": "",
        "tiny.png": "1x1 pixels are too few",
        "float.tiff": "floating-point",
    }


def config(path, **more):
    values = {
        "name": "folder",
        "path": str(path),
        "eval_path": "",
        "load_size": 0,
        "crop": "random",
        "flip": True,
        "rotation": 3.0,
        "masks": ("center",),
        "hole_ratio": (0.2, 0.6),
        "mask_path": "",
        "threads": 2,
    }
    return ConfigDict(values | more)


def test_bad_files_are_named_once_and_replaced_by_the_next(tmp_path, picture, capsys):
    reasons = damaged(tmp_path, picture)
    (tmp_path / "deep" / "er").mkdir(parents=True)
    Image.new("RGB", (50, 60), RED).save(tmp_path / "deep" / "er" / "a.JPG")
    Image.new("RGB", (50, 60), GREEN).save(tmp_path / "zz.png")
    settings = config(tmp_path, eval_path=str(tmp_path))
    batches = pipeline.train_batches(settings, 32, 16, 0)
    found = [next(batches)["image"] for _ in range(4)]
    colours = np.concatenate(found)[:, 16, 16]
    assert {tuple((c // 100).tolist()) for c in colours} == {(2, 0, 0), (0, 2, 0)}
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == len(reasons)
    for name, reason in reasons.items():
        (line,) = [text for text in lines if f"{name}'" in text]
        assert line.startswith(f"picjax: skipped '{tmp_path}") and reason in line


def test_evaluation_leaves_bad_files_out(tmp_path, picture):
    damaged(tmp_path, picture)
    picture.save(tmp_path / "good.png")
    settings = config(tmp_path, eval_path=str(tmp_path))
    (batch,) = pipeline.eval_batches(settings, 32, 4, 100, 0)
    assert batch["name"][0] == "good" and batch["valid"].tolist() == [True] + 3 * [
        False
    ]


def test_nothing_usable_is_an_error_with_the_path(tmp_path, picture):
    with pytest.raises(UserError, match="holds no image file"):
        sources.training(config(tmp_path), (32, 32))
    damaged(tmp_path, picture)
    with pytest.raises(UserError, match=f"'{tmp_path}'"):
        sources.training(config(tmp_path), (32, 32))


def test_a_list_of_files(tmp_path, picture):
    (tmp_path / "images").mkdir()
    picture.save(tmp_path / "images" / "a.png")
    picture.save(tmp_path / "images" / "b.png")
    absolute = tmp_path / "images" / "b.png"
    (tmp_path / "list.txt").write_text(f"images/a.png\n\n{absolute}\nimages/gone.png\n")
    found = listing.list_images(tmp_path / "list.txt", "key")
    assert [path.name for path in found] == ["a.png", "b.png", "gone.png"]
    with pytest.raises(decode.BadImage, match="No such file"):
        decode.decode(found[2])
    (tmp_path / "list.txt").write_text("\n")
    with pytest.raises(UserError, match=r"list\.txt"):
        listing.list_images(tmp_path / "list.txt", "key")


def test_names_of_files_in_several_folders_differ(tmp_path, picture):
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        picture.save(tmp_path / folder / "1.png")
    settings = config(tmp_path, eval_path=str(tmp_path))
    (batch,) = pipeline.eval_batches(settings, 32, 2, 2, 0)
    assert batch["name"] == ["a_1", "b_1"]
