"""Regions of the photographs, augmentation, TFDS, packed shards."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import skimage
from helpers import tiny_tfds
from ml_collections import ConfigDict
from PIL import Image

from picjax.cli import UserError
from picjax.data import pack, packing, photos, records, shards, sources, transforms

SIZE = (32, 32)


def rng(seed=0):
    return np.random.default_rng(seed)


def data(name, path, **more):
    values = {
        "name": name,
        "path": str(path),
        "eval_path": "",
        "load_size": 0,
        "crop": "random",
        "flip": False,
        "rotation": 0.0,
    }
    return ConfigDict(values | more)


# ---- photographs ----


def test_training_and_held_out_regions_share_no_pixel():
    """At full size both regions are one photograph cut in two."""
    large = (1000, 1000)
    train = dict(photos.photo_regions(False, large))
    held = dict(photos.photo_regions(True, large))
    assert train.keys() == held.keys() and len(train) == 9
    cuts = {name.partition(".")[0]: cut for _, name, cut in photos.PHOTOS}
    with Image.open(Path(skimage.__file__).parent / "data/astronaut.png") as file:
        whole = np.asarray(file)
    both = [np.asarray(x["astronaut"]) for x in (train, held)]
    np.testing.assert_array_equal(np.concatenate(both, 1), whole)
    for name, part in train.items():
        assert part.height == held[name].height
        share = part.width / (part.width + held[name].width)
        assert share == pytest.approx(max(cuts[name], 1 - cuts[name]), abs=0.01)


def test_photographs_are_real_pictures_of_both_parts():
    train = photos.Photos(transforms.augmentation(data("photos", ""), SIZE))
    held = photos.HeldOutPhotos(SIZE)
    for index in range(len(train)):
        assert train.read(index, rng())["image"].std() > 5
        first = held.read(index, rng(0))["image"]
        np.testing.assert_array_equal(first, held.read(index, rng(1))["image"])
        later = held.read(index + len(train), rng(0))["image"]
        assert (first != later).any()


def test_a_size_that_is_not_square():
    how = transforms.augmentation(data("photos", ""), (32, 64))
    assert photos.Photos(how).read(0, rng())["image"].shape == (32, 64, 3)


# ---- classes ----


def test_classes_of_digits_and_of_folders(tmp_path):
    digits = sources.training(data("digits", "", classes=10), SIZE)
    for index in (0, 1, 700):
        element = digits.read(index, rng())
        assert element["name"].startswith(f"digit{element['class']}_")
    for name in ("cat/x.png", "dog/b/x.png", "ant/x.png"):
        (tmp_path / name).parent.mkdir(parents=True)
        Image.fromarray(ramp(40, 40)).save(tmp_path / name)
    found = sources.folder(str(tmp_path), "path", SIZE, None, 3)
    elements = [found.read(i, rng()) for i in range(3)]
    assert {e["name"]: int(e["class"]) for e in elements} == {
        "ant_x": 0,
        "cat_x": 1,
        "dog_b_x": 2,
    }
    assert "class" not in sources.folder(str(tmp_path), "path", SIZE, None).read(
        0, rng()
    )


@pytest.mark.parametrize("name, count", [("digits", 9), ("photos", 2), ("folder", 2)])
def test_another_number_of_classes_is_refused(name, count, tmp_path):
    Image.fromarray(ramp(40, 40)).save(tmp_path / "a.png")
    with pytest.raises(UserError, match=f"config.data.classes is {count}, where"):
        sources.training(data(name, tmp_path, classes=count), SIZE)


# ---- augmentation ----


def ramp(h, w):
    y, x = np.mgrid[:h, :w]
    pixels = np.stack([x * 255 / (w - 1), y * 255 / (h - 1), 0 * x], -1)
    return np.round(pixels).astype(np.uint8)


def how(**more):
    return transforms.augmentation(data("folder", "", **more), SIZE)


def test_one_resampling_equals_resize_then_crop():
    picture = Image.fromarray(ramp(90, 120))
    settings = how(load_size=40)
    generator = rng(3)
    y, x = int(rng(3).integers(9)), 0
    got = transforms.augment(picture, settings, generator)
    generator = rng(3)
    y, x = int(generator.integers(9)), int(generator.integers(9))
    resized = picture.resize((40, 40), Image.Resampling.BILINEAR)
    expected = np.asarray(resized)[y : y + 32, x : x + 32]
    assert np.abs(got.astype(int) - expected).max() <= 1


def test_the_aspect_may_be_kept(tmp_path):
    """The middle square, in training and at evaluation, whatever the load size."""
    pixels = ramp(90, 150)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    config = data("folder", tmp_path, crop="aspect", flip=True, rotation=3.0)
    expected = transforms.middle_square(Image.fromarray(pixels), 32)
    held = sources.evaluation(config, SIZE).read(0, rng())
    np.testing.assert_array_equal(held["image"], expected)
    config.update(flip=False, rotation=0.0)
    seen = sources.training(config, SIZE).read(0, rng())
    np.testing.assert_array_equal(seen["image"], expected)
    # The middle 90 of 150 columns, which run from 0 to 255.
    assert (
        abs(int(expected[0, 0, 0]) - 53) < 4 and abs(int(expected[0, -1, 0]) - 202) < 4
    )
    with pytest.raises(UserError, match="gives squares, not 32x64"):
        sources.training(config, (32, 64))


def test_an_array_of_the_load_size_is_only_sliced():
    pixels = rng().integers(0, 256, (34, 34, 3), dtype=np.uint8)
    settings = how(load_size=34, crop="center")
    got = transforms.augment(pixels, settings, rng())
    np.testing.assert_array_equal(got, pixels[1:33, 1:33])


def test_half_of_the_images_are_flipped():
    settings = how(load_size=32, flip=True)
    pixels = ramp(32, 32)
    images = [transforms.augment(pixels, settings, rng(i)) for i in range(200)]
    flipped = [bool(image[0, 0, 0] > 128) for image in images]
    assert 0.4 < np.mean(flipped) < 0.6
    np.testing.assert_array_equal(transforms.mirror(pixels), pixels[:, ::-1])


def test_rotation_reflects_at_the_edges_and_keeps_the_middle():
    pixels = np.full((32, 32, 3), 200, np.uint8)
    settings = how(load_size=32, rotation=3.0)
    assert (transforms.augment(pixels, settings, rng()) == 200).all()
    turned = transforms.rotate(ramp(33, 33), 3.0)
    assert np.abs(turned[16, 16].astype(int) - ramp(33, 33)[16, 16]).max() <= 3
    # Counter-clockwise: the right edge's content moves up.
    assert turned[16, -1, 1] > ramp(33, 33)[16, -1, 1] + 2


# ---- TFDS ----


def test_a_prepared_tfds_data_set_needs_no_tensorflow(tmp_path):
    images = [rng(i).integers(0, 256, (34, 34, 3), dtype=np.uint8) for i in range(5)]
    path = tiny_tfds.write(tmp_path, {"train": images, "test": images[:2]})
    source = sources.training(data("tfds", path, eval_path="test"), SIZE)
    assert len(source) == 5
    settings = data("tfds", path, eval_path="test", load_size=34, crop="center")
    got = sources.training(settings, SIZE).read(3, rng())["image"]
    np.testing.assert_array_equal(got, images[3][1:33, 1:33])
    assert len(sources.evaluation(settings, SIZE)) == 2
    settings.classes = 3
    labels = [
        sources.training(settings, SIZE).read(i, rng())["class"] for i in range(5)
    ]
    assert labels == [0, 1, 2, 0, 1] and labels[0].dtype == np.int32
    settings.classes = 4
    with pytest.raises(UserError, match="classes is 4, where 3 are found"):
        sources.training(settings, SIZE)
    assert "tensorflow" not in sys.modules
    with pytest.raises(UserError, match="split 'no'"):
        sources.evaluation(data("tfds", path, eval_path="no"), SIZE)


# ---- packed ----


def test_pack_round_trip(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(packing, "SHARD", 4)
    folder = tmp_path / "in"
    (folder / "sub").mkdir(parents=True)
    pixels = [rng(i).integers(0, 256, (34, 34, 3), dtype=np.uint8) for i in range(9)]
    for i, p in enumerate(pixels):
        Image.fromarray(p).save(folder / "sub" / f"ü{i}.png")
    (folder / "bad.jpg").write_bytes(b"\xff\xd8\xff nothing")
    pack.main([str(folder), f"--out={tmp_path / 'out'}", "--size=34"])
    said = capsys.readouterr()
    assert "9 images of 34x34" in said.out
    assert "bad.jpg" in said.err and said.err.count("\n") == 1
    packed = shards.open_shards(str(tmp_path / "out"), "key")
    found = [records.unpack(packed[i]) for i in range(len(packed))]
    assert [name for _, name in found] == [f"sub/ü{i}.png" for i in range(9)]
    for (image, _), expected in zip(found, pixels, strict=True):
        np.testing.assert_array_equal(image, expected)
    assert len(list((tmp_path / "out").glob("*.array_record"))) == 3
    # Trained on: whole images where load_size is theirs.
    settings = data("arrayrecord", tmp_path / "out", load_size=34, crop="center")
    source = sources.training(settings, SIZE)
    assert len(source) == 8
    held = sources.evaluation(settings, SIZE)
    found = held.read(0, rng())
    assert len(held) == 1 and found["image"].shape == (*SIZE, 3)
    assert found["name"].startswith("sub_ü")
    assert {p.tobytes() for p in (x[1:33, 1:33] for x in pixels)} >= {
        source.read(i, rng())["image"].tobytes() for i in range(8)
    }


def test_packing_leaves_nothing_behind_when_it_fails(tmp_path):
    (tmp_path / "in").mkdir()
    out = f"--out={tmp_path / 'out'}"
    with pytest.raises(UserError, match="holds no image file"):
        pack.main([str(tmp_path / "in"), out])
    (tmp_path / "in" / "a.png").write_bytes(b"")
    with pytest.raises(UserError, match="can be read"):
        pack.main([str(tmp_path / "in"), out])
    assert [p.name for p in tmp_path.iterdir()] == ["in"]
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine").write_text("")
    with pytest.raises(UserError, match="exists already"):
        pack.main([str(tmp_path / "in"), out])


def test_shards_of_another_kind_are_refused(tmp_path):
    tiny_tfds.write(tmp_path, {"train": [np.zeros((8, 8, 3), np.uint8)]})
    shard = next((tmp_path / "tiny/1.0.0").glob("*array_record*"))
    shard.rename(tmp_path / "a.array_record")
    with pytest.raises(UserError, match="another kind"):
        shards.open_shards(str(tmp_path), "config.data.path")


def test_the_command_ends_with_one_line(tmp_path):
    command = [
        sys.executable,
        "-m",
        "picjax.data.pack",
        str(tmp_path / "no"),
        "--out=x",
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.startswith("picjax: ") and done.stderr.count("\n") == 1
