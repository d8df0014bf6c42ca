"""Determinism, exact resumption, sharing among processes, masks, evaluation."""

from itertools import islice

import jax
import numpy as np
import pytest
from ml_collections import ConfigDict
from PIL import Image

from picjax.cli import UserError
from picjax.data import pipeline, scenes
from picjax.images import to_float

SIZE, BATCH = 32, 4


def config(name="photos", **more):
    values = {
        "name": name,
        "path": "",
        "eval_path": "",
        "load_size": 0,
        "crop": "random",
        "flip": True,
        "rotation": 0.0,
        "masks": ("center", "freeform"),
        "hole_ratio": (0.2, 0.6),
        "mask_path": "",
        "threads": 2,
    }
    return ConfigDict(values | more)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """40 pictures; the name says the colour of all pixels."""
    path = tmp_path_factory.mktemp("folder")
    for i in range(40):
        Image.new("RGB", (20 + i, 30), (i, 2 * i, 200)).save(path / f"p{i:02}.png")
    return path


def take(data, n, batch=BATCH, seed=0, **more):
    batches = pipeline.train_batches(data, SIZE, batch, seed, **more)
    return list(islice(batches, n))


def same(a, b):
    assert len(a) == len(b) > 0
    for x, y in zip(a, b, strict=True):
        assert x.keys() == y.keys()
        for key in x:
            np.testing.assert_array_equal(x[key], y[key])


@pytest.mark.parametrize("name", ["photos", "scenes", "folder"])
def test_batches(name, folder):
    data = config(name, path=str(folder))
    batches = take(data, 3)
    for batch in batches:
        assert batch["image"].shape == (BATCH, SIZE, SIZE, 3)
        assert batch["mask"].shape == (BATCH, SIZE, SIZE, 1)
        assert batch["image"].dtype == batch["mask"].dtype == np.uint8
        assert set(np.unique(batch["mask"])) == {0, 1}
    assert ("scene_attributes" in batches[0]) == (name == "scenes")
    same(batches, take(data, 3))
    same(batches, take(config(name, path=str(folder), threads=1), 3))
    assert (take(data, 1, seed=1)[0]["image"] != batches[0]["image"]).any()
    (alone,) = take(data, 1, batch=1)
    np.testing.assert_array_equal(alone["image"], batches[0]["image"][:1])


@pytest.mark.parametrize("count", [1, 2, 4])
@pytest.mark.parametrize("name", ["photos", "scenes", "folder"])
def test_any_number_of_processes_goes_on_where_one_stopped(name, count, folder):
    data = config(name, path=str(folder), rotation=3.0)
    rest = take(data, 12)[5:]  # over the end of an epoch: 38 images are 9.5 batches

    def share(index):
        selection = slice(5 * count + index, None, count)
        return take(data, 7, batch=BATCH // count, selection=selection)

    shares = zip(*map(share, range(count)), strict=True)
    together = [jax.tree.map(lambda *x: np.concatenate(x), *parts) for parts in shares]
    same(rest, together)


def test_an_epoch_has_every_image_as_often(folder, monkeypatch):
    monkeypatch.setattr(pipeline, "MIN_SHUFFLED", 80)
    data = config("folder", path=str(folder), eval_path=str(folder))
    seen = np.concatenate([b["image"][:, 0, 0, 0] for b in take(data, 20)])
    assert (np.bincount(seen, minlength=40) == 2).all()


def test_training_and_held_out_files_are_disjoint(folder):
    data = config("folder", path=str(folder))
    seen = {int(x) for b in take(data, 30) for x in b["image"][:, 0, 0, 0]}
    held = next(pipeline.eval_batches(data, SIZE, 4, 4, 0))
    kept = {int(x) for x in held["image"][held["valid"], 0, 0, 0]}
    assert len(kept) == 2 and len(seen) == 38 and not seen & kept


def test_a_single_image_is_trained_and_evaluated_on(tmp_path):
    Image.new("RGB", (40, 40), (9, 8, 7)).save(tmp_path / "one.png")
    data = config("folder", path=str(tmp_path))
    assert (take(data, 2)[1]["image"] == [9, 8, 7]).all()
    assert next(pipeline.eval_batches(data, SIZE, 2, 8, 0))["name"][0] == "one"


@pytest.mark.parametrize("name", ["photos", "scenes"])
def test_evaluation_is_fixed_padded_and_named(name):
    data = config(name)
    batches = list(pipeline.eval_batches(data, SIZE, 4, 10, 0))
    assert [int(b["valid"].sum()) for b in batches] == [4, 4, 2]
    assert all(len(b["name"]) == 4 and b["image"].shape[0] == 4 for b in batches)
    names = [n for b in batches for n in np.array(b["name"])[b["valid"]]]
    assert len(set(names)) == 10
    same(batches, list(pipeline.eval_batches(data, SIZE, 4, 10, 0)))
    other = next(pipeline.eval_batches(data, SIZE, 4, 4, 1))
    np.testing.assert_array_equal(other["image"], batches[0]["image"])
    assert (other["mask"] != batches[0]["mask"]).any()
    # The masks do not depend on the size of batches.
    larger = next(pipeline.eval_batches(data, SIZE, 10, 10, 0))
    np.testing.assert_array_equal(larger["mask"][:4], batches[0]["mask"])


def test_scenes_can_be_rebuilt_from_the_batch():
    data = config("scenes", masks=("center",), flip=False)
    batch = next(pipeline.eval_batches(data, SIZE, 8, 8, 0))
    attributes = batch["scene_attributes"]
    for image, scene, a in zip(batch["image"], batch["scene"], attributes, strict=True):
        valid = scenes.modes(int(scene), a, SIZE)
        assert (valid == image).all((1, 2, 3)).sum() == 1
    rows, columns = scenes.hole(SIZE)
    assert not batch["mask"][:, rows, columns].any() and batch["mask"].mean() == 0.75


def test_to_float():
    image = np.arange(256, dtype=np.uint8).reshape(1, 8, 32, 1).repeat(3, -1)
    batch = {
        "image": image,
        "mask": image[..., :1] > 99,
        "scene": np.array([3], np.int32),
    }
    out = jax.jit(to_float)(batch)
    assert out["image"].min() == -1 and out["image"].max() == 1
    assert out["image"].dtype == out["mask"].dtype == np.float32
    np.testing.assert_array_equal(np.round((out["image"] + 1) * 127.5), image)
    assert out["scene"] == 3


# ---- pairs ----


@pytest.fixture(scope="module")
def pairs(tmp_path_factory):
    """Six files of A beside its negative B; the top of A is darker than 128."""
    path = tmp_path_factory.mktemp("pairs")
    for i in range(6):
        a = np.random.default_rng(i).integers(0, 128, (40, 50, 3), dtype=np.uint8)
        a[20:] += 128
        Image.fromarray(np.concatenate([a, 255 - a], 1)).save(path / f"{i}.png")
    return path


def test_pairs_are_augmented_alike_and_hidden_whole(pairs):
    data = config("aligned", path=str(pairs), masks=(), load_size=40, rotation=3.0)
    batches = take(data, 4)
    held = list(pipeline.eval_batches(data, SIZE, 2, 2, 0))
    for batch in [*batches, *held]:
        total = batch["condition"].astype(int) + batch["image"]
        assert np.abs(total - 255).max() <= 1  # rounding
        assert not batch["mask"].any() and batch["mask"].shape[1:] == (SIZE, SIZE, 1)
        assert batch["condition"][:, 0].mean() < 128 < batch["image"][:, 0].mean()
    assert (batches[0]["condition"][0] != batches[1]["condition"][0]).any()
    same(batches, take(data, 4))
    floats = jax.jit(to_float)(batches[0])
    np.testing.assert_allclose(floats["condition"], -floats["image"], atol=0.01)


def test_the_direction_of_pairs(pairs):
    ahead, back = (
        config("aligned", path=str(pairs), masks=(), direction=direction)
        for direction in ("AtoB", "BtoA")
    )
    for x, y in zip(take(ahead, 2), take(back, 2), strict=True):
        np.testing.assert_array_equal(x["condition"], y["image"])
        np.testing.assert_array_equal(x["image"], y["condition"])
    with pytest.raises(UserError, match="'atob' is neither AtoB nor BtoA"):
        take(config("aligned", path=str(pairs), masks=(), direction="atob"), 1)


# ---- masks from files ----


@pytest.fixture
def mask_files(tmp_path):
    """Hole on the left half in a.png and b.png, on the right one in p03.png."""
    for name, left in {"a": True, "b": True, "p03": False}.items():
        pixels = np.zeros((SIZE, SIZE), np.uint8)
        pixels[:, : SIZE // 2] = 255
        Image.fromarray(pixels if left else 255 - pixels).save(tmp_path / f"{name}.png")
    return tmp_path


def test_mask_files_at_random_in_training_by_name_or_index_else(folder, mask_files):
    paths = {
        "path": str(folder),
        "eval_path": str(folder),
        "mask_path": str(mask_files),
    }
    data = config("folder", masks=("files",), **paths)
    left_hidden = [b["mask"][:, 0, 0, 0] == 0 for b in take(data, 20)]
    assert 0.45 < np.mean(left_hidden) < 0.85
    batch = next(pipeline.eval_batches(data, SIZE, 6, 6, 0))
    known = batch["mask"][:, 0, 0, 0].tolist()
    # Indices 0 1 2 3 4 5 take files 0 1 2, then p03 its own, then 1 2.
    assert known == [0, 0, 1, 1, 0, 1]


@pytest.mark.parametrize(
    "change, words",
    [
        ({"name": "photo"}, "did you mean 'photos'"),
        ({"masks": ("centre",)}, "did you mean 'center'"),
        ({"masks": ()}, "config.data.masks"),
        ({"masks": ("files",)}, "config.data.mask_path"),
        ({"load_size": 16}, "config.data.load_size 16"),
        ({"crop": "middle"}, "config.data.crop"),
        ({"hole_ratio": (0.5, 0.1)}, "hole_ratio"),
        ({"name": "folder", "path": "/nowhere"}, "config.data.path '/nowhere'"),
        ({"name": "folder", "path": ""}, "config.data.path"),
        ({"name": "arrayrecord", "path": "/nowhere"}, "picjax.data.pack"),
        ({"name": "tfds", "path": "/nowhere"}, "config.data.path '/nowhere'"),
        ({"name": "aligned", "path": "/nowhere"}, "leave it empty for aligned pairs"),
        ({"name": "aligned", "path": "/nowhere", "masks": ()}, "'/nowhere' does not"),
    ],
)
def test_settings_that_cannot_work_are_said_at_once(change, words):
    with pytest.raises(UserError, match=words) as error:
        pipeline.train_batches(config(**change), SIZE, BATCH, 0)
    assert "\n" not in str(error.value)
