"""Folders, shards and photographs with label and instance maps, and bad inputs."""

import numpy as np
import pytest
from helpers.configs import load_config
from PIL import Image

from picjax.cli import UserError
from picjax.data import clusters, instances, labelled, maps, pack, photos, sources

SIZE = (32, 32)
H, W = 40, 56
# Layout -> files of a training and of a held-out picture: image, label, instance.
FILES = {
    "plain": (
        ("images/a.jpg", "labels/a.png", "instances/a.png"),
        ("images/b.jpg", "labels/b.png", "instances/b.png"),
    ),
    "ade20k": (
        (
            "images/training/ADE_train_1.jpg",
            "annotations/training/ADE_train_1.png",
            "instances/training/ADE_train_1.png",
        ),
        (
            "images/validation/ADE_val_1.jpg",
            "annotations/validation/ADE_val_1.png",
            "instances/validation/ADE_val_1.png",
        ),
    ),
    "cityscapes": tuple(
        (
            f"leftImg8bit/{phase}/x/x_000_019_leftImg8bit.png",
            f"gtFine/{phase}/x/x_000_019_gtFine_labelIds.png",
            f"gtFine/{phase}/x/x_000_019_gtFine_instanceReIds.png",
        )
        for phase in ("train", "val")
    ),
    "celeba": tuple(
        (f"{phase}/images/1.jpg", f"{phase}/labels/1.png", f"{phase}/instances/1.png")
        for phase in ("train", "test")
    ),
    "deepfashion": tuple(
        (f"{phase}_img/1.jpg", f"{phase}_label/1.png", f"{phase}_inst/1.png")
        for phase in ("train", "test")
    ),
}


def indices(held_out: bool = False):
    """Labels 0 to 2 in columns; two instances of class 2, one above the other."""
    label = np.repeat(np.arange(4).clip(max=2), W // 4)[None].repeat(H, 0)
    instance = label.copy()
    instance[H // 2 :][label[H // 2 :] == 2] = 3
    return label.astype(np.uint8), (instance + held_out).astype(np.uint16)


def write(root, files, held_out=False, with_instances=True):
    label, instance = indices(held_out)
    shades = np.stack([label * 80] * 3, -1)
    contents = (shades, label, instance)
    for path, content in zip(files, contents[: 2 + with_instances], strict=False):
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(content).save(root / path)


def config_of(root, layout="plain", **changes):
    config = load_config("inade", "tiny")
    config.data.update(name="folder", path=str(root), load_size=36)
    config.data.maps.update({"layout": layout, **changes})
    return config.data


@pytest.fixture
def tree(tmp_path):
    for name in ("a", "b"):
        files = [x.replace("/a.", f"/{name}.") for x in FILES["plain"][0]]
        write(tmp_path, files)
    return tmp_path


@pytest.mark.parametrize("layout", FILES)
@pytest.mark.parametrize("with_instances", [True, False])
def test_pictures_of_a_layout_have_their_maps(tmp_path, layout, with_instances):
    for held_out in (False, True):
        write(tmp_path, FILES[layout][held_out], held_out, with_instances)
    config = config_of(tmp_path, layout)
    train, held_out = (f(config, SIZE) for f in (sources.training, sources.evaluation))
    assert len(train) == len(held_out) == 1
    element = train.read(0, np.random.default_rng(0))
    label, instance = element["label"], element["instance"]
    assert element["image"].shape == (*SIZE, 3) and label.shape == SIZE
    assert label.dtype == instance.dtype == np.int32
    # Picture and maps are cropped alike: shades follow labels but at the edges.
    shades = element["image"][..., 0].astype(float) / 80
    assert (np.abs(shades - label) < 0.2).mean() > 0.8
    assert len(np.unique(instance)) == 3 + with_instances
    whole = held_out.read(0, np.random.default_rng(0))
    np.testing.assert_array_equal(np.unique(whole["label"]), [0, 1, 2])
    assert whole["instance"].min() == with_instances  # as in the file, else ranks


def test_ade20k_s_labels_can_be_shifted(tmp_path):
    for held_out in (False, True):
        write(tmp_path, FILES["ade20k"][held_out], with_instances=False)
    config = config_of(tmp_path, "ade20k", shift=True, dontcare=True)
    label = sources.evaluation(config, SIZE).read(0, np.random.default_rng(0))["label"]
    np.testing.assert_array_equal(np.unique(label), [0, 1, config.maps.label_nc])


def test_more_ids_than_rows_become_ranks(tree):
    instance = indices()[1]
    for name in ("a", "b"):
        ids = instance.astype(np.uint16) * 26_001 % 65_000
        Image.fromarray(ids).save(tree / f"instances/{name}.png")
    element = sources.training(config_of(tree), SIZE).read(0, np.random.default_rng(0))
    assert element["instance"].max() < 4


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("label", r"labels from 0 to 7, where the model has classes 0 to 3"),
        ("unlabelled", r"labels from 0 to 255, .* config.model.dontcare"),
        ("colours", r"labels/b\.png' is uint8 .* not indices"),
        ("size", r"labels/b\.png' is 20x10 but '.*b\.jpg' is 56x40"),
        ("many", r"'b' has instances from 0 to 6, .* room for 0 to 5"),
        ("missing", r"b\.jpg' has no label map like labels"),
        ("half", r"b\.jpg' has no instance map like instances"),
        ("layout", "holds no image like"),
        ("name", "layout 'ade' .* did you mean"),
    ],
)
def test_what_is_bad_is_named_before_training(tree, change, message):
    label = indices()[0]
    config, path = config_of(tree), tree / "labels/b.png"
    if change == "label":
        Image.fromarray(np.where(label == 2, 7, label).astype(np.uint8)).save(path)
    elif change == "unlabelled":
        Image.fromarray(np.where(label == 2, 255, label).astype(np.uint8)).save(path)
    elif change == "colours":
        Image.fromarray(maps.colour(label.astype(np.int32), 4)).save(path)
    elif change == "size":
        Image.fromarray(label[:10, :20]).save(path)
    elif change == "many":
        ids = np.arange(H * W).reshape(H, W) % 7
        Image.fromarray(ids.astype(np.uint8)).save(tree / "instances/b.png")
    elif change == "missing":
        path.unlink()
    elif change == "half":
        (tree / "instances/b.png").unlink()
    elif change == "layout":
        config.maps.layout = "celeba"
    elif change == "name":
        config.maps.layout = "ade"
    with pytest.raises(UserError, match=message):
        sources.training(config, SIZE)


def test_crops_that_are_not_square_are_refused(tree):
    with pytest.raises(UserError, match="crops squares, not 32x64; use .*fixed"):
        sources.training(config_of(tree), (32, 64))
    element = sources.training(config_of(tree, mode="fixed"), (32, 64))
    assert element.read(0, np.random.default_rng(0))["label"].shape == (32, 64)


# ---- shards ----


def test_shards_carry_the_maps(tree, tmp_path_factory):
    out = tmp_path_factory.mktemp("packed") / "shards"
    pack.main([str(tree), f"--out={out}", "--size=36", "--layout=plain"])
    config = config_of(out)
    config.name = "arrayrecord"
    config.flip = False
    config.load_size = 36
    element = sources.training(config, SIZE).read(0, np.random.default_rng(3))
    folder = config_of(tree)
    folder.flip = False
    expected = sources.training(folder, SIZE).read(0, np.random.default_rng(3))
    for name in ("image", "label", "instance"):
        np.testing.assert_array_equal(element[name], expected[name])


def test_shards_without_maps_are_refused(tree, tmp_path_factory):
    out = tmp_path_factory.mktemp("packed") / "shards"
    pack.main([str(tree / "images"), f"--out={out}", "--size=36"])
    config = config_of(out)
    config.name = "arrayrecord"
    with pytest.raises(UserError, match="holds no label maps; pack them with"):
        sources.training(config, SIZE)


# ---- python -m picjax.data.instances ----


@pytest.mark.parametrize(("by", "count"), [("class", 3), ("region", 4)])
def test_instance_maps_are_made_beside_the_labels(tmp_path, capsys, by, count):
    label = np.repeat([0, 1, 2, 0], 10)[None].repeat(20, 0).astype(np.uint8) * 9
    for name in ("labels/x/a.png", "labels/b.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(label).save(tmp_path / name)
    instances.main([str(tmp_path / "labels"), f"--by={by}"])
    made = np.asarray(Image.open(tmp_path / "instances/x/a.png"))
    assert made.dtype == np.uint16
    np.testing.assert_array_equal(np.unique(made), range(count))
    assert (made[:, 0] == made[:, -1]).all() == (by == "class")
    assert f"at most {count} instances" in capsys.readouterr().out


def test_ids_become_ranks_beyond_8_bits(tmp_path):
    ids = (np.arange(900).reshape(30, 30) * 7).astype(np.uint16)
    Image.fromarray(ids).save(tmp_path / "x_gtFine_instanceIds.png")
    instances.main([str(tmp_path), "--by=id"])
    made = np.asarray(Image.open(tmp_path / "x_gtFine_instanceReIds.png"))
    np.testing.assert_array_equal(made.ravel(), np.arange(900))


# ---- photographs ----


def test_clusters_cover_a_photograph_and_are_few():
    picture = photos.HeldOutPhotos((48, 64)).read(1, np.random.default_rng(0))["image"]
    label, instance = clusters.segment(picture, 12)
    again = clusters.segment(picture, 12)
    np.testing.assert_array_equal(label, again[0])
    assert label.shape == instance.shape == (48, 64)
    assert set(np.unique(label)) <= set(range(clusters.CLASSES))
    assert 2 < len(np.unique(label)) and instance.max() < 12
    for i in np.unique(instance):
        assert len(np.unique(label[instance == i])) == 1
    few = clusters.segment(picture, 2)[1]
    assert few.max() == 1


def test_photos_with_maps_need_as_many_classes():
    config = load_config("inade", "demo")
    element = sources.training(config.data, (64, 64)).read(0, np.random.default_rng(0))
    assert {"image", "label", "instance"} <= element.keys()
    config.model.label_nc = 3
    with pytest.raises(UserError, match=r"label_nc is 3, where photographs have 8"):
        sources.training(config.data, (64, 64))
    config.data.name = "tfds"
    with pytest.raises(UserError, match="label maps.* 'tfds' is none of scenes"):
        sources.evaluation(config.data, (64, 64))


def test_regions_are_connected_by_sides():
    label = np.array([[0, 1, 0], [1, 0, 0]], np.int32)
    np.testing.assert_array_equal(maps.connected(label), [[0, 2, 1], [3, 1, 1]])


def test_every_layout_has_two_phases_or_none():
    assert all(len(tree.phases) in (0, 2) for tree in labelled.TREES.values())
