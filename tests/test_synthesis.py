"""Images of label maps: instances drawn alone, borrowed styles, files, refusals."""

import os

import jax.numpy as jnp
import numpy as np
import pytest
from helpers.configs import load_config
from helpers.fake_system import make_model
from helpers.layouts import LAYOUT_SIZE as SIZE
from helpers.layouts import layout, make_layout_model
from PIL import Image

import picjax
from picjax import complete, synthesis
from picjax.cli import UserError
from picjax.data import export
from picjax.methods.inade.system import INADE


@pytest.fixture(scope="module")
def model():
    with pytest.MonkeyPatch.context() as patch:
        yield make_layout_model(patch)


def colours(images, instance, identity):
    """Colour of an instance in each image; it has one."""
    pixels = images[:, instance == identity]
    inside = pixels[:, len(pixels[0]) // 3]
    return inside.astype(int)


def test_every_instance_has_a_style_of_its_own_and_the_seed_fixes_it(model):
    labels, instances = layout()
    images = model.synthesise(labels, instances, n=3, seed=1)
    assert images.shape == (3, *SIZE, 3) and images.dtype == np.uint8
    one, four = (colours(images, instances, i) for i in (1, 4))
    assert (one != four).any(-1).all() and (one[0] != one[1]).any()
    again = model.synthesise(labels, instances, n=2, seed=1)
    np.testing.assert_array_equal(images[:2], again)
    assert (model.synthesise(labels, instances, n=1, seed=2) != images[:1]).any()


def test_one_instance_drawn_again_leaves_the_others_alone(model):
    labels, instances = layout()
    free = model.synthesise(labels, instances, n=4)
    images = model.synthesise(labels, instances, n=4, redraw=4)
    np.testing.assert_array_equal(images[0], free[0])
    changed = (images != images[:1]).any((0, -1))
    assert not changed[:, : SIZE[1] // 2 - 5].any()
    assert changed[SIZE[0] // 4, SIZE[1] * 3 // 4]
    np.testing.assert_array_equal(
        colours(images, instances, 4), colours(free, instances, 4)
    )


def test_an_instance_takes_the_style_of_a_reference(model):
    labels, instances = layout()
    picture = np.full((*SIZE, 3), 10, np.uint8)
    picture[instances == 1] = (200, 100, 50)
    reference = picjax.Reference(picture, labels, instances)
    images = model.synthesise(labels, instances, n=3, styles={4: (reference, 1)})
    assert (np.abs(colours(images, instances, 4) - (200, 100, 50)) <= 2).all()
    free = model.synthesise(labels, instances, n=3)
    np.testing.assert_array_equal(
        colours(images, instances, 1), colours(free, instances, 1)
    )


def test_the_encoder_is_compiled_once_for_all_references(model, monkeypatch):
    traced = []

    def encode_styles(self, variables, batch):
        traced.append(batch["image"].shape)
        return jnp.zeros((1, 6, 4, 8))

    monkeypatch.setattr(INADE, "encode_styles", encode_styles)
    fresh = picjax.Model(model.config, INADE.from_config(model.config), {}, 0)
    for level in (10, 20):
        picture = np.full((*SIZE, 3), level, np.uint8)
        synthesis.encode(fresh, picjax.Reference(picture, *layout()))
    assert len(traced) == 1


def test_known_pixels_are_kept_and_need_no_label(model):
    labels, instances = layout()
    picture = np.random.default_rng(0).integers(0, 256, (*SIZE, 3), dtype=np.uint8)
    mask = (instances != 4).astype(np.uint8)
    unlabelled = np.where(mask == 1, 255, labels).astype(np.uint8)
    images = model.synthesise(unlabelled, instances, n=2, image=picture, mask=mask)
    for image in images:
        np.testing.assert_array_equal(image[mask == 1], picture[mask == 1])
    assert (images[0] != images[1]).any()


def test_maps_may_be_pillow_images_and_ids_sparse(model):
    labels, instances = layout()
    sparse = instances.astype(np.uint16) * 7000
    picture = Image.fromarray(labels).convert("P")
    images = model.synthesise(picture, Image.fromarray(sparse), n=2, redraw=28000)
    assert (images[0] != images[1]).any()
    by_class = model.synthesise(labels, n=2, redraw=1)
    np.testing.assert_array_equal(by_class[0][-1], by_class[1][-1])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"labels": layout()[0] * 9}, "labels from 0 to 9, .* classes 0 to 3"),
        ({"labels": np.zeros((*SIZE, 3)) + [1, 2, 3]}, "not indices .h w."),
        ({"instances": layout((8, 8))[1]}, r"label map of \(40, 60\) and an instance"),
        ({"instances": np.arange(2400).reshape(SIZE)}, "room for 0 to 5"),
        ({"redraw": 3}, "redraw 3 is no instance of the map, which has 0, 1, 4"),
        ({"image": np.zeros((*SIZE, 3), np.uint8)}, "picture and its mask go together"),
        ({"n": 0}, "n is 0"),
    ],
)
def test_what_does_not_fit_is_refused(model, change, message):
    labels, instances = layout()
    options = {"labels": labels, "instances": instances} | change
    with pytest.raises(UserError, match=message):
        model.synthesise(**options)


def test_a_run_on_label_maps_is_not_completed_without(model):
    with pytest.raises(
        UserError, match="synthesises label maps; give them by --labels"
    ):
        model.complete(np.zeros((*SIZE, 3), np.uint8), "center")


def test_a_run_without_label_maps_does_not_draw_them():
    with pytest.raises(UserError, match="has no label maps"):
        make_model().synthesise(*layout())


# ---- files ----


def command(*words):
    complete.main([str(word) for word in words])


@pytest.fixture
def maps(tmp_path, model, monkeypatch):
    monkeypatch.setattr(complete, "load", lambda *_: model)
    labels, instances = layout()
    folder = tmp_path / "maps"
    folder.mkdir()
    for name in ("a", "b"):
        Image.fromarray(labels).save(folder / f"{name}_label.png")
        Image.fromarray(instances).save(folder / f"{name}_instance.png")
    return folder


def test_files_of_label_maps(tmp_path, model, maps):
    out = tmp_path / "out"
    command("--workdir", tmp_path, "--labels", maps, "--num", 2, "--out", out)
    names = ["grid", "labels", "out_0", "out_1"]
    expected = sorted(f"{stem}_{name}.png" for stem in "ab" for name in names)
    assert sorted(os.listdir(out)) == expected
    images = model.synthesise(*layout(), n=2)
    written = np.asarray(Image.open(out / "b_out_1.png"))
    np.testing.assert_array_equal(written, images[1])
    assert np.asarray(Image.open(out / "a_labels.png"))[0, 0].any()


def test_options_of_instances(tmp_path, model, maps):
    instances = layout()[1]
    picture = np.where(instances[..., None] == 1, (200, 100, 50), 10).astype(np.uint8)
    Image.fromarray(picture).save(tmp_path / "style.png")
    out = tmp_path / "out"
    single = ("--labels", maps / "a_label.png", "--instances", maps / "a_instance.png")
    style = ("--style", tmp_path / "style.png", "--style-labels", maps / "a_label.png")
    style += ("--style-instances", maps / "a_instance.png")
    command(
        *("--workdir", tmp_path, *single, "--out", out, "--num", 2),
        *(*style, "--style-of", "4:1", "--redraw", 1),
    )
    images = np.stack([np.asarray(Image.open(out / f"a_out_{i}.png")) for i in (0, 1)])
    assert (np.abs(colours(images, instances, 4) - (200, 100, 50)) <= 2).all()
    assert (colours(images, instances, 1)[0] != colours(images, instances, 1)[1]).any()
    # Without pairs, each instance takes the style of the same id.
    command("--workdir", tmp_path, *single, *style, "--out", out, "--num", 1)
    image = np.asarray(Image.open(out / "a_out_0.png"))[None]
    assert (np.abs(colours(image, instances, 1) - (200, 100, 50)) <= 2).all()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--redraw", 1), "--redraw needs --labels"),
        (("--labels", "{maps}", "--style-labels", "x"), "--style-labels needs --style"),
        (("--labels", "{maps}", "--style", "x"), "--style needs --style-labels"),
        (("--labels", "{maps}", "--mask", "center"), "--image and --mask go together"),
        (("--labels", "{maps}", "--redraw", 9), "redraw 9 is no instance"),
    ],
)
def test_options_that_do_not_fit_are_refused(tmp_path, model, maps, words, message):
    words = [str(word).format(maps=maps) for word in words]
    with pytest.raises(UserError, match=message):
        command("--workdir", tmp_path, *words)


def test_a_colour_map_is_refused_by_its_name(tmp_path, model, maps):
    colour = np.random.default_rng(0).integers(0, 256, (*SIZE, 3), dtype=np.uint8)
    Image.fromarray(colour).save(tmp_path / "c.png")
    with pytest.raises(UserError, match=r"c\.png' is uint8 .* not indices"):
        command("--workdir", tmp_path, "--labels", tmp_path / "c.png")


def test_exported_maps_are_indices(tmp_path, monkeypatch):
    config = load_config("inade", "tiny")
    monkeypatch.setattr(export, "read_config", lambda _: config)
    out = tmp_path / "held-out"
    assert export.export(tmp_path, 2, 0, out) == 2
    folder = tmp_path / "held-out-maps"
    names = [f"scene_0000{i}_{x}.png" for i in (0, 1) for x in ("instance", "label")]
    assert sorted(os.listdir(folder)) == names
    assert not (tmp_path / "held-out-masks").exists()
    label, instance = (
        np.asarray(Image.open(folder / f"scene_00000_{x}.png"))
        for x in ("label", "instance")
    )
    assert label.dtype == np.uint8 and label.max() < 4
    assert instance.dtype == np.uint16 and set(np.unique(instance)) == set(range(5))
