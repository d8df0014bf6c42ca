"""Pixel diversity against the double loop that defines it."""

import itertools

import numpy as np

from picjax.evaluation.metrics.image import pixel_diversity

RNG = np.random.default_rng(0)
IMAGES = RNG.integers(0, 256, (2, 5, 6, 7, 3), dtype=np.uint8)


def test_it_is_the_mean_over_pairs():
    pairs = itertools.combinations(range(5), 2)
    x = IMAGES.astype(float)
    distances = [np.abs(x[:, i] - x[:, j]).mean((1, 2, 3)) for i, j in pairs]
    np.testing.assert_allclose(pixel_diversity(IMAGES), np.mean(distances, axis=0))


def test_hole_diversity_times_its_share_is_the_composites():
    mask = np.ones((2, 6, 7, 1), np.float32)
    mask[:, 2:5, 1:4] = 0
    composite = np.where(mask[:, None] > 0, IMAGES[:, :1], IMAGES)
    np.testing.assert_allclose(
        pixel_diversity(composite), 9 / 42 * pixel_diversity(IMAGES, mask)
    )


def test_one_completion_and_equal_completions_have_none():
    assert (pixel_diversity(IMAGES[:, :1]) == 0).all()
    assert (pixel_diversity(np.repeat(IMAGES[:, :1], 4, axis=1)) == 0).all()
