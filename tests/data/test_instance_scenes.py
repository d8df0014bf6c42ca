"""The construction that docs/inade.md promises."""

import numpy as np
import pytest
from helpers.configs import load_config

from picjax.data import instance_scenes as scenes
from picjax.data import pipeline

SEEN = [scenes.sample(0, i, 32) for i in range(400)]


def test_probabilities_sum_to_one():
    for c in scenes.CLASSES:
        assert len(c.styles) == len(c.probabilities) == len(set(c.styles))
        assert sum(c.probabilities) == pytest.approx(1)


@pytest.mark.parametrize("size", [32, 64, (48, 80)])
def test_an_image_is_a_function_of_maps_and_styles(size):
    scene = scenes.sample(3, 5, size)
    label, instance, styles = (scene[k] for k in ("label", "instance", "styles"))
    assert set(np.unique(instance)) == set(range(scenes.INSTANCES))
    np.testing.assert_array_equal(
        scene["image"], scenes.render(label, instance, styles)
    )
    every = scenes.candidates(label, instance)
    shown = np.take_along_axis(every, styles[instance][None, ..., None], 0)[0]
    np.testing.assert_array_equal(scene["image"], shown)


def test_each_instance_has_one_class():
    for scene in SEEN[:50]:
        classes = scenes.classes_of(scene["label"], scene["instance"])
        np.testing.assert_array_equal(classes[scene["instance"]], scene["label"])
        assert classes[0] == 0 and (classes[1:] > 0).all()


def test_styles_are_independent_draws_of_their_class():
    """Frequencies are the probabilities, also given an instance of the same class."""
    drawn = [(scenes.classes_of(s["label"], s["instance"]), s["styles"]) for s in SEEN]
    for c in range(len(scenes.CLASSES)):
        p = scenes.probabilities(c)
        shown = np.concatenate([styles[classes == c] for classes, styles in drawn])
        frequency = np.bincount(shown, minlength=len(p)) / len(shown)
        assert np.abs(frequency - p).max() < 3.5 * np.sqrt(0.25 / len(shown))
        pairs = [styles[classes == c][:2] for classes, styles in drawn]
        pairs = np.array([pair for pair in pairs if len(pair) == 2]).reshape(-1, 2)
        same = float((pairs[:, 0] == pairs[:, 1]).mean()) if len(pairs) else 0
        expected = float(np.square(p).sum())
        assert not len(pairs) or abs(same - expected) < 4 * 0.5 / len(pairs) ** 0.5


@pytest.mark.parametrize("size", [32, 64])
def test_styles_are_as_far_apart_as_the_threshold_needs(size):
    for index in range(30):
        scene = scenes.sample(0, index, size)
        every = scenes.candidates(scene["label"], scene["instance"]).astype(float)
        for i, c in enumerate(scenes.classes_of(scene["label"], scene["instance"])):
            p = scenes.probabilities(c)
            looks = every[: len(p), scene["instance"] == i]

            def rms(x):
                return np.sqrt(np.square(x).mean((-1, -2)))

            apart = rms(looks[:, None] - looks[None])[~np.eye(len(p), dtype=bool)]
            assert apart.min() > 2 * scenes.THRESHOLD
            blurred = np.tensordot(p, looks, 1)
            assert rms(blurred - looks).min() > scenes.THRESHOLD


def test_batches_have_maps_and_no_known_pixel():
    config = load_config("inade", "tiny")
    batch = next(pipeline.train_batches(config.data, 32, 2, 0))
    assert batch["label"].shape == batch["instance"].shape == (2, 32, 32)
    assert batch["label"].dtype == batch["instance"].dtype == np.int32
    assert not batch["mask"].any()
    held_out = next(pipeline.eval_batches(config.data, 32, 2, 2, 0))
    assert held_out["instance"].max() == scenes.INSTANCES - 1


def test_training_and_held_out_scenes_differ():
    assert scenes.TRAIN.stop <= scenes.EVAL.start
    assert (scenes.sample(1, 7, 32)["image"] != SEEN[7]["image"]).any()
    np.testing.assert_array_equal(scenes.sample(0, 7, 32)["image"], SEEN[7]["image"])
