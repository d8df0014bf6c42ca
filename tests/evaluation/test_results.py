"""Running means, regions, and which sample of an image counts."""

import json
import math

import numpy as np
import pytest
from helpers.evaluation import center, example
from helpers.fake_system import SIZE

from picjax.data import scenes
from picjax.evaluation.metrics import image
from picjax.evaluation.metrics.catalog import BASIC
from picjax.evaluation.metrics.results import (
    Example,
    Result,
    RunningMean,
    format_result,
    from_json,
    table_cells,
    to_json,
)


def test_running_mean_and_error():
    values = [3.0, math.nan, 5.0, 10.0]
    running = RunningMean()
    for value in values:
        running.add(value)
    result = running.result("l1", "whole", "mean", "")
    assert result.images == 3 and result.value == pytest.approx(6)
    assert result.error == pytest.approx(np.std([3, 5, 10], ddof=1) / math.sqrt(3))
    empty = RunningMean().result("l1", "whole", "mean", "")
    assert empty.images == 0 and math.isnan(empty.value)


def test_number_of_digits():
    def text(value, error, images=2, interval=None):
        return format_result(
            Result("l1", "hole", "mean", value, error, images, "", interval)
        )

    assert text(17.54034, 0.0637) == "17.540 ± 0.064"
    assert text(17.54034, 0.45) == "17.54 ± 0.45"
    assert text(1754.3, 23) == "1754 ± 23"
    assert text(17.54034, math.nan, 1) == "17.540"
    assert text(math.nan, math.nan, 0) == "none"
    assert text(0.00012345, math.nan) == "0.000123" and text(0, 0) == "0.000"
    assert text(0.5, math.nan, 2, (0.25, 0.75)) == "0.500 [0.250, 0.750]"


def test_which_sample_counts():
    metric = BASIC["psnr"]()
    both = [example(0), example(1)]
    for g in both:
        metric.add(g)
    by_hand = {"mean": [], "first": [], "best": [], "picnet": []}
    for g in both:
        values = [float(image.psnr(s, g.truth, g.mask)) for s in g.samples]
        score = [
            float(image.l1(s, g.truth) - image.psnr(s, g.truth) + image.tv(s))
            for s in g.samples
        ]
        by_hand["mean"].append(np.mean(values))
        by_hand["first"].append(values[0])
        by_hand["best"].append(max(values))
        by_hand["picnet"].append(values[int(np.argmin(score))])
    found = {r.samples: r for r in metric.results() if r.region == "hole"}
    for which, values in by_hand.items():
        assert found[which].value == pytest.approx(np.mean(values)), which
        assert found[which].images == 2


def test_composites_obey_the_hole_relation():
    """L1 over the image = share of the hole x L1 in the hole, if pixels are pasted."""
    metric = BASIC["l1"]()
    metric.add(example(0))
    found = {(r.region, r.samples): r.value for r in metric.results()}
    assert found["whole", "mean"] == pytest.approx(found["hole", "mean"] / 4)


def test_no_hole_counts_for_the_whole_image_alone():
    g = example(0)
    full = g._replace(mask=np.ones_like(center()))
    metric = BASIC["l1"]()
    metric.add(full)
    by_region = {r.region: r for r in metric.results()}
    assert by_region["whole"].images == 1 and by_region["hole"].images == 0
    unknown = BASIC["l1"]()
    unknown.add(g._replace(mask=None))
    assert {r.region for r in unknown.results()} == {"whole"}


def test_diversity():
    same = example(0)
    same = same._replace(samples=np.stack([same.samples[0]] * 3))
    metric = BASIC["diversity"]()
    metric.add(same)
    assert [r.value for r in metric.results()] == [0, 0]
    metric = BASIC["diversity"]()
    columns = metric.add(example(1))
    values = {r.region: r.value for r in metric.results()}
    assert values["hole"] == pytest.approx(4 * values["whole"]) and values["whole"] > 0
    assert columns["diversity_hole"].shape == (3,)


def test_likelihood_beside_the_entropy_of_scenes():
    truth = scenes.sample(0, 0, SIZE)["image"]
    extra = {name: np.asarray(1.0) for name in ("bits_per_dim", "bits_per_dim_hole")}
    metric, entropies = BASIC["likelihood"](), []
    for scene in range(len(scenes.CLASSES)):
        given = extra | {"scene": np.asarray(scene)}
        metric.add(Example("x", truth, center(), truth[None], 0, given))
        entropies.append(scenes.entropy(scene))
    found = {r.samples: r.value for r in metric.results() if r.region == "hole"}
    assert "entropy" in table_cells({"fake": metric.results()})[0]
    values = 3 * (SIZE // 2) ** 2  # missing
    assert found["entropy"] == pytest.approx(np.mean(entropies) / np.log(2) / values)
    other, given = BASIC["likelihood"](), extra | {"scene": np.asarray(0)}
    other.add(Example("x", truth, 1 - center(), truth[None], 0, given))
    assert "entropy" not in {result.samples for result in other.results()}


def test_results_survive_json():
    metric = BASIC["l1"]()
    metric.add(example(0))
    metric.add(example(1))
    interval = Result("x", "hole", "all", 0.5, math.nan, 2, "share", (0.25, 0.75))
    expected = [*metric.results(), interval]
    read = from_json(json.loads(json.dumps(to_json(expected))))
    assert [r._replace(error=0) for r in read] == [
        r._replace(error=0) for r in expected
    ]
    assert math.isnan(read[-1].error) and read[0].error == expected[0].error


@pytest.mark.parametrize("name", ["l1", "tv", "diversity"])
def test_a_reset_forgets_every_example(name):
    fresh, used = BASIC[name](), BASIC[name]()
    used.add(example(7))
    used.reset()
    for metric in (fresh, used):
        metric.add(example(0))
    assert used.results() == fresh.results()
