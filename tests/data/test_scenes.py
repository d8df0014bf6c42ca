"""The construction that docs/scenes.md promises."""

import numpy as np
import pytest

from picjax.data import scenes
from picjax.evaluation.metrics.posterior import hole_rms

SEEN = [scenes.sample(0, i, 32) for i in range(600)]


def test_classes_are_what_the_table_says():
    counts = [len(c.probabilities) for c in scenes.CLASSES]
    assert counts == [1, 2, 3, 4, 5, 6]
    for c in scenes.CLASSES:
        assert len(c.figures) == len(c.probabilities) == len(set(c.figures))
        assert sum(c.probabilities) == pytest.approx(1)
    figures = [f for c in scenes.CLASSES for f in c.figures]
    assert len(set(figures)) == len(figures), "a figure belongs to one class"
    assert scenes.entropy(0) == 0
    assert scenes.entropy(3) == pytest.approx(np.log(4))
    assert 0 < scenes.entropy() < np.log(6)


@pytest.mark.parametrize("size", [32, 64, (48, 80)])
def test_the_hidden_part_is_one_of_the_modes(size):
    for index in range(12):
        found = scenes.sample(3, index, size)
        valid = scenes.modes(found["scene"], found["attributes"], size)
        np.testing.assert_array_equal(found["image"], valid[found["mode"]])
        rows, columns = scenes.hole(size)
        valid[:, rows, columns] = 0
        assert (valid == valid[:1]).all(), "modes differ outside the hole"


def test_samples_are_a_function_of_seed_and_index():
    a, b = scenes.sample(0, 7, 32), scenes.sample(0, 7, 32)
    np.testing.assert_array_equal(a["image"], b["image"])
    assert (scenes.sample(1, 7, 32)["image"] != a["image"]).any()
    assert (scenes.sample(0, 8, 32)["image"] != a["image"]).any()
    assert not set(scenes.TRAIN[-2:]) & set(scenes.EVAL[:2])
    assert scenes.TRAIN.stop <= scenes.EVAL.start


def test_frequencies_are_the_probabilities():
    for k in range(len(scenes.CLASSES)):
        shown = [s["mode"] for s in SEEN if s["scene"] == k]
        assert len(shown) > 60
        p = scenes.probabilities(k)
        frequency = np.bincount(shown, minlength=len(p)) / len(shown)
        assert np.abs(frequency - p).max() < 3.5 * np.sqrt(0.25 / len(shown))


def test_nuisance_says_nothing_about_the_mode():
    """A visible number that correlated with the mode would change the posterior."""
    two = [s for s in SEEN if s["scene"] == 1]
    shown = np.array([s["mode"] for s in two], float)
    seen = np.stack([s["attributes"] for s in two])
    for column in seen.T:
        assert abs(np.corrcoef(shown, column)[0, 1]) < 4 / np.sqrt(len(two))


@pytest.mark.parametrize("size", [32, 64])
def test_modes_are_as_far_apart_as_the_threshold_needs(size):
    for index in range(40):
        found = scenes.sample(0, index, size)
        attributes = found["attributes"]
        every = [scenes.modes(k, attributes, size) for k in range(6)]
        for k, valid in enumerate(every):
            within = hole_rms(valid[:, None], valid[None])
            away = within[~np.eye(len(valid), dtype=bool)]
            assert (away > 3.4 * scenes.THRESHOLD).all()
            mean = np.tensordot(scenes.probabilities(k), valid.astype(float), 1)
            blurred = hole_rms(mean.round().astype(np.uint8)[None], valid)
            assert len(valid) == 1 or (blurred > 1.5 * scenes.THRESHOLD).all()
        for a in range(6):
            for b in range(a):
                other = hole_rms(every[a][:, None], every[b][None])
                assert (other > 1.5 * scenes.THRESHOLD).all()


def test_classes_can_be_told_apart_from_outside_the_hole():
    attributes = SEEN[0]["attributes"]
    images = [scenes.draw_visible(k, attributes, 32).astype(int) for k in range(6)]
    for a in range(6):
        for b in range(a):
            difference = np.abs(images[a] - images[b]).max(-1)
            difference[8:24, 8:24] = 0
            assert (difference > 80).sum() > 40
