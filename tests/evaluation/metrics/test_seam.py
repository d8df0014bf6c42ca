"""The seam: steps across the hole's edge over those of the truth."""

import math

import numpy as np
import pytest
from helpers.evaluation import center, picture

from picjax.evaluation.metrics.results import Example
from picjax.evaluation.metrics.seam import RunningRatio, Seam, edge_step


def test_the_step_is_of_neighbours_across_the_edge_alone():
    image = np.zeros((6, 5, 3), np.uint8)
    mask = np.ones((6, 5, 1), np.uint8)
    image[2:4, 1:3], mask[2:4, 1:3] = 30, 0  # a bright hole in black: all steps are 30
    assert edge_step(image, mask) == 30
    image[2, 2] = 60  # its corner has two of the eight neighbours across the edge
    assert edge_step(image, mask) == pytest.approx((6 * 30 + 2 * 60) / 8)
    image[0, 0] = 255  # not at the edge
    assert edge_step(image, mask) == pytest.approx(37.5)
    assert math.isnan(edge_step(image, 0 * mask)) and math.isnan(
        edge_step(image, 0 * mask + 1)
    )


def seam(examples):
    metric = Seam()
    for truth, samples, mask in examples:
        metric.add(Example("x", truth, mask, samples, 0, {}))
    return {r.samples: r for r in metric.results()}


def test_the_truth_has_a_seam_of_one_and_a_square_a_larger_one():
    row = np.arange(32, dtype=np.uint8)[:, None, None]
    truth = np.broadcast_to(4 * row, (32, 32, 3))
    square = np.where(center() == 1, truth, np.uint8(250))
    assert seam([(truth, np.stack([truth]), center())])["mean"].value == 1
    found = seam([(truth, np.stack([truth, square]), center())])
    assert found["first"].value == 1 < found["mean"].value
    assert found["mean"].unit == "1 = as the truth" and found["mean"].region == "hole"
    assert seam([(truth, np.stack([truth]), None)]) == {}


def test_the_ratio_is_of_the_sums_over_images():
    """An image with an edge of nearly the same colour has a ratio of its own beyond all."""
    ratio, pairs = RunningRatio(), [(2.0, 1.0), (3.0, 0.01), (4.0, 5.0)]
    for pair in pairs:
        ratio.add(*pair)
    ratio.add(math.nan, 1.0)
    value, error = ratio.result()
    a, b = np.array(pairs).T
    assert value == pytest.approx(a.sum() / b.sum()) and ratio.count == 3
    residual = a - value * b
    assert error == pytest.approx(residual.std(ddof=1) / math.sqrt(3) / b.mean())


def test_columns_are_of_every_sample():
    truth, samples = picture(0), np.stack([picture(1), picture(2)])
    columns = Seam().add(Example("x", truth, center(), samples, 1, {}))
    np.testing.assert_allclose(columns["edge_step"], edge_step(samples, center()))
    assert columns["edge_step_truth"].tolist() == [edge_step(truth, center())] * 2
