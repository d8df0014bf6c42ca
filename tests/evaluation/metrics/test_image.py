"""Image metrics against scikit-image and by hand."""

import numpy as np
import pytest
from skimage.metrics import structural_similarity

from picjax.evaluation.metrics import image as metrics

RNG = np.random.default_rng(0)
TRUTH = RNG.integers(0, 256, (2, 24, 32, 3), dtype=np.uint8)
IMAGE = np.clip(TRUTH + RNG.normal(0, 20, TRUTH.shape), 0, 255).astype(np.uint8)


def hole_mask(rows: slice, columns: slice) -> np.ndarray:
    mask = np.ones((2, 24, 32, 1), np.float32)
    mask[:, rows, columns] = 0
    return mask


def test_ssim_is_scikit_images():
    expected = [
        structural_similarity(
            truth,
            image,
            channel_axis=-1,
            gaussian_weights=True,
            sigma=1.5,
            use_sample_covariance=False,
            data_range=255,
        )
        for truth, image in zip(TRUTH, IMAGE, strict=True)
    ]
    np.testing.assert_allclose(metrics.ssim(IMAGE, TRUTH), expected, rtol=1e-12)


def test_equal_images_score_best():
    assert (metrics.l1(TRUTH, TRUTH) == 0).all()
    assert (metrics.psnr(TRUTH, TRUTH) == 100).all()
    np.testing.assert_allclose(metrics.ssim(TRUTH, TRUTH), 1)


def test_l1_and_psnr_do_not_wrap_unsigned_bytes():
    dark, bright = np.zeros((1, 4, 4, 3), np.uint8), np.full((1, 4, 4, 3), 51, np.uint8)
    assert metrics.l1(dark, bright) == 51
    assert metrics.psnr(dark, bright) == pytest.approx(20 * np.log10(5))


def test_tv_wraps_around():
    """A single bright column of height 1: two of four steps in a row are 8 long."""
    image = np.zeros((1, 4, 4, 1), np.uint8)
    image[:, :, 1] = 8
    assert metrics.tv(image) == pytest.approx(8 * 2 / 4)
    image = np.zeros((1, 4, 4, 1), np.uint8)
    image[:, :, -1] = 8  # one step inside, the other over the edge
    assert metrics.tv(image) == pytest.approx(8 * 2 / 4)


def test_hole_l1_times_its_share_is_the_composites_l1():
    mask = hole_mask(slice(4, 20), slice(8, 24))
    composite = np.where(mask > 0, TRUTH, IMAGE)
    share = 1 - mask.mean()
    np.testing.assert_allclose(
        metrics.l1(composite, TRUTH), share * metrics.l1(IMAGE, TRUTH, mask)
    )
    offset = -10 * np.log10(share)
    np.testing.assert_allclose(
        metrics.psnr(composite, TRUTH), metrics.psnr(IMAGE, TRUTH, mask) + offset
    )


def test_hole_metrics_read_the_hole_alone():
    mask = hole_mask(slice(0, 24), slice(0, 16))
    other = IMAGE.copy()
    other[:, :, 22:31] = 0  # farther from the hole than half a window, and no wrap
    for metric in (metrics.l1, metrics.psnr, metrics.ssim):
        np.testing.assert_array_equal(
            metric(IMAGE, TRUTH, mask), metric(other, TRUTH, mask)
        )
        assert (metric(IMAGE, TRUTH) != metric(other, TRUTH)).all()
    np.testing.assert_array_equal(metrics.tv(IMAGE, mask), metrics.tv(other, mask))


def test_no_hole_is_no_number():
    mask = np.ones((2, 24, 32, 1), np.float32)
    for metric in (metrics.l1, metrics.psnr, metrics.ssim):
        assert np.isnan(metric(IMAGE, TRUTH, mask)).all()


def test_ms_ssim_falls_with_noise_and_refuses_small_images():
    truth = RNG.integers(0, 256, (1, 177, 181, 3), dtype=np.uint8)
    little = np.clip(truth + RNG.normal(0, 5, truth.shape), 0, 255).astype(np.uint8)
    much = np.clip(truth + RNG.normal(0, 50, truth.shape), 0, 255).astype(np.uint8)
    assert metrics.ms_ssim(truth, truth) == pytest.approx(1)
    assert 1 > metrics.ms_ssim(little, truth) > metrics.ms_ssim(much, truth) > 0
    with pytest.raises(ValueError, match="176 pixels or more, not 24x32"):
        metrics.ms_ssim(IMAGE, TRUTH)


def test_best_of_finds_the_truth_wherever_it_stands():
    """Also at the end, where the original's loop never looks."""
    samples = np.stack([IMAGE, np.roll(TRUTH, 3, axis=1), TRUTH], axis=1)
    np.testing.assert_array_equal(metrics.best_of(samples, TRUTH), [2, 2])
    np.testing.assert_array_equal(metrics.best_of(samples[:, ::-1], TRUTH), [0, 0])
