"""The measures on instance scenes: a perfect sampler, and those they must catch."""

import numpy as np
import pytest

from picjax.data import instance_scenes as scenes
from picjax.evaluation.metrics import styles
from picjax.evaluation.metrics.results import Example

N, LAYOUTS = 10, 40
SCENES = [scenes.sample(0, i, 32) for i in range(LAYOUTS)]
CLASSES = [scenes.classes_of(s["label"], s["instance"]) for s in SCENES]


def independent(classes, rng):
    return styles.perfect_draws(classes, (N,), rng)


def one_style_per_picture(classes, rng):
    """As from a latent of the whole image: instances of one class look alike."""
    drawn = independent(np.arange(styles.CLASSES), rng)
    return drawn[:, classes]


def one_style_per_class(classes, rng):
    return np.zeros((N, len(classes)), int)


def one_draw_per_layout(classes, rng):
    return np.repeat(independent(classes, rng)[:1], N, 0)


def measure(sampler, seed=0):
    rng = np.random.default_rng(seed)
    shown = [sampler(classes, rng) for classes in CLASSES]
    numbers = styles.summarise(CLASSES, shown)
    return {name: entry["value"] for name, entry in numbers.items()}, numbers


def test_a_perfect_sampler_scores_perfectly():
    value, numbers = measure(independent)
    assert value["valid"] == 1
    assert value["styles_found"] == pytest.approx(1, abs=0.05)
    for name in ("total_variation", "mutual_information"):
        floor = numbers[f"{name}_floor"]
        assert value[name] <= floor["high"] * 1.3
        assert value[name] < 2 * floor["value"]
    assert value["total_variation"] < 0.1


def test_one_style_per_picture_is_caught():
    value, numbers = measure(one_style_per_picture)
    assert value["styles_found"] == pytest.approx(1, abs=0.1)
    assert value["mutual_information"] > 20 * value["mutual_information_floor"]
    assert value["mutual_information"] > 0.8
    assert numbers["mutual_information"]["low"] > 0.5


def test_one_style_per_class_is_caught():
    value, _ = measure(one_style_per_class)
    assert value["styles_found"] < 0.6
    assert value["total_variation"] > 0.4
    assert value["mutual_information"] == pytest.approx(0, abs=1e-9)


def test_one_draw_per_layout_finds_too_few_styles():
    value, _ = measure(one_draw_per_layout)
    assert value["styles_found"] < 0.6


def test_invalid_instances_count_against_every_number():
    def half_invalid(classes, rng):
        drawn = independent(classes, rng)
        return np.where(rng.random(drawn.shape) < 0.5, styles.INVALID, drawn)

    value, _ = measure(half_invalid)
    assert value["valid"] == pytest.approx(0.5, abs=0.05)
    assert value["total_variation"] > 0.4 and value["styles_found"] < 0.95


def test_styles_are_read_from_pixels():
    scene, rng = SCENES[3], np.random.default_rng(0)
    label, instance = scene["label"], scene["instance"]
    drawn = independent(CLASSES[3], rng)
    images = np.stack([scenes.render(label, instance, x) for x in drawn])
    np.testing.assert_array_equal(styles.shown_styles(images, label, instance), drawn)
    noise = rng.normal(0, 15, images.shape)
    noisy = np.clip(images + noise, 0, 255).astype(np.uint8)
    np.testing.assert_array_equal(styles.shown_styles(noisy, label, instance), drawn)
    grey = np.full_like(images, 128)
    shown = styles.shown_styles(grey, label, instance)
    assert (shown == styles.INVALID).all()


def test_mutual_information_is_that_of_the_table():
    half = np.array([[0.5, 0], [0, 0.5]])
    assert styles.mutual_information(half) == pytest.approx(np.log(2))
    assert styles.mutual_information(np.ones((3, 3))) == pytest.approx(0)
    assert styles.mutual_information(np.zeros((3, 3))) == 0


def test_pairs_are_of_two_instances_of_one_class():
    counts = styles.count(np.array([0, 1, 1, 2]), np.array([[0, 1, 2, 0]]))
    expected = np.zeros((styles.CLASSES, styles.STYLES + 1, styles.STYLES + 1))
    expected[1, 1, 2] = expected[1, 2, 1] = 1
    np.testing.assert_array_equal(counts.pairs, expected)


def test_a_leak_is_measured_by_distance():
    scene = SCENES[0]
    images = np.repeat(scene["image"][None], 4, 0).astype(int)
    inside = scene["instance"] == 1
    images[1:, inside] = (images[1:, inside] + 60) % 256
    clean = styles.leak(images.astype(np.uint8), scene["instance"], 1)
    assert clean["inside"] > 30
    assert clean["outside"] == 0 and clean["reach"] == 0
    rows, columns = np.nonzero(inside)
    near = (slice(rows.min(), rows.max()), slice(columns.max() + 1, columns.max() + 4))
    images[1:, near[0], near[1]] = (images[1:, near[0], near[1]] + 99) % 256
    leaking = styles.leak(images.astype(np.uint8), scene["instance"], 1)
    assert leaking["outside"] > 0 and 1 <= leaking["reach"] <= 8


def test_the_metric_reads_the_layout_of_an_example():
    metric = styles.Styles()
    rng = np.random.default_rng(0)
    for scene, classes in zip(SCENES[:8], CLASSES, strict=False):
        label, instance = scene["label"], scene["instance"]
        drawn = independent(classes, rng)
        images = np.stack([scenes.render(label, instance, x) for x in drawn])
        extra = {"label": label, "instance": instance}
        mask = np.zeros((32, 32, 1), np.uint8)
        metric.add(Example("a", scene["image"], mask, images, 0, extra))
    results = {r.metric: r for r in metric.results()}
    assert results["styles/valid"].value == 1
    assert results["styles/mutual_information"].unit == "nats"
    assert results["styles/styles_found"].images == 8
