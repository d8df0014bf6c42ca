"""A perfect sampler scores perfectly; the usual failures are caught."""

import numpy as np
import pytest

from picjax.data import scenes
from picjax.evaluation.metrics import posterior

SIZE, IMAGES, N = 32, 120, 20


def measure(sampler, n=N, images=IMAGES):
    rng = np.random.default_rng(1)
    counts, classes = [], []
    for index in scenes.EVAL[:images]:
        found = scenes.sample(0, index, SIZE)
        scene, attributes = found["scene"], found["attributes"]
        completions = sampler(scene, attributes, n, rng)
        counts.append(posterior.count_modes(completions, scene, attributes))
        classes.append(scene)
    return posterior.summarise(counts, classes)


def true(scene, attributes, n, rng):
    return scenes.complete_true(scene, attributes, SIZE, n, rng)


def blurred(scene, attributes, n, rng):
    valid = scenes.modes(scene, attributes, SIZE).astype(float)
    mean = np.tensordot(scenes.probabilities(scene), valid, 1)
    return np.repeat(mean.round().astype(np.uint8)[None], n, 0)


def single(scene, attributes, n, rng):
    return np.repeat(scenes.modes(scene, attributes, SIZE)[:1], n, 0)


def test_the_true_posterior_scores_perfectly():
    result = measure(true)
    assert result["valid"] == {"value": 1, "low": 1, "high": 1}
    assert abs(result["modes_found"]["value"] - 1) < 0.03
    assert result["total_variation"]["value"] < 0.05
    for name in ("total_variation", "image_total_variation"):
        floor = result[f"{name}_floor"]
        assert floor["low"] <= result[name]["value"] <= floor["high"] * 1.1
    assert result["protocol"]["samples"] == N
    assert result["protocol"]["images"] == IMAGES


def test_small_noise_stays_valid():
    def noisy(*args):
        images = true(*args).astype(float)
        noise = np.random.default_rng(0).normal(0, 10, images.shape)
        return np.clip(images + noise, 0, 255).astype(np.uint8)

    assert measure(noisy, images=30)["valid"]["value"] == 1


def test_a_single_mode_is_caught():
    result = measure(single)
    assert result["valid"]["value"] == 1
    assert result["modes_found"]["value"] < 0.4
    assert result["total_variation"]["value"] > 0.3
    assert result["total_variation"]["low"] > 0.3


def test_a_blurred_sampler_is_caught():
    result = measure(blurred)
    assert result["valid"]["value"] < 0.3  # the class of one mode alone
    assert result["total_variation"]["value"] > 0.7
    assert result["modes_found"]["high"] < 0.3


def test_wrong_probabilities_are_caught():
    def uniform(scene, attributes, n, rng):
        valid = scenes.modes(scene, attributes, SIZE)
        return valid[rng.integers(len(valid), size=n)]

    result = measure(uniform)
    floor = result["total_variation_floor"]["high"]
    assert result["total_variation"]["low"] > 0.05 > floor
    assert result["modes_found"]["value"] >= 1


def test_another_class_is_caught():
    def unconditional(scene, attributes, n, rng):
        return np.concatenate(
            [true(int(rng.integers(6)), attributes, 1, rng) for _ in range(n)]
        )

    assert measure(unconditional, images=30)["valid"]["value"] < 0.35


def test_the_expectation_of_a_perfect_sampler_is_exact():
    p = scenes.probabilities(5)
    rng = np.random.default_rng(0)
    counts = rng.multinomial(4, posterior.true_probabilities(5), 4000)
    result = posterior.summarise(counts, [5] * 4000)
    assert result["modes_found"]["value"] == pytest.approx(1, abs=0.01)
    expected = (1 - (1 - p) ** 4).sum() / len(p)
    assert result["modes_found_raw"]["value"] == pytest.approx(expected, abs=0.01)


def test_the_interval_is_that_of_a_mean():
    """`valid` is a mean over images: its interval is close to the normal one."""
    invalid = np.random.default_rng(0).binomial(10, 0.3, 400)
    counts = np.zeros((400, posterior.MODES + 1), int)
    counts[:, 0], counts[:, -1] = 10 - invalid, invalid
    result = posterior.summarise(counts, [0] * 400)["valid"]
    half = 1.96 * invalid.std() / 10 / np.sqrt(400)
    assert result["value"] == pytest.approx(1 - invalid.mean() / 10)
    assert result["high"] - result["low"] == pytest.approx(2 * half, rel=0.1)


def test_summarise_is_seeded_and_refuses_unequal_counts():
    a = posterior.summarise(np.eye(7, dtype=int)[[0, 0]], [0, 0])
    assert a == posterior.summarise(np.eye(7, dtype=int)[[0, 0]], [0, 0])
    with pytest.raises(ValueError, match="one number"):
        posterior.summarise(
            np.array([[1, 0, 0, 0, 0, 0, 0], [2, 0, 0, 0, 0, 0, 0]]), [0, 0]
        )
