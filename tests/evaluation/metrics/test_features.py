"""Metrics with networks beyond the reference files: streams, files, errors, units."""

import jax.numpy as jnp
import numpy as np
import pytest

from picjax.cli import UserError
from picjax.evaluation.metrics import (
    catalog,
    distribution,
    features,
    fid,
    inception,
    lpips,
    networks,
    niqe,
    resize,
    weights,
)
from picjax.evaluation.metrics.networks import Networks, Settings
from picjax.evaluation.metrics.results import Accumulator, Example

RNG = np.random.default_rng(0)


def example(i: int, side: int = 32, n: int = 3, hole: bool = True) -> Example:
    """Noise, with a hole whose rectangle is smaller than LPIPS takes."""
    images = RNG.integers(0, 256, (n + 1, side, side, 3), dtype=np.uint8)
    mask = np.ones((side, side, 1), np.uint8)
    mask[8:20, 4:20] = 0
    images = np.where(mask == 1, images[:1], images)
    return Example(str(i), images[0], mask if hole else None, images[1:], 0, {})


@pytest.fixture(autouse=True)
def no_weights(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("PICJAX_WEIGHTS", raising=False)


@pytest.mark.parametrize("rows", [7, 40])
def test_a_stream_gives_the_moments_of_the_whole(rows):
    """With fewer rows than columns, and with more."""
    features = RNG.normal(3, 2, (rows, 12)).astype(np.float32)
    moments = fid.Moments()
    for part in np.array_split(features, 5):
        moments.add(part)
    found, x = moments.stats(), features.astype(np.float64)
    np.testing.assert_allclose(found.mean, x.mean(0), rtol=1e-12)
    np.testing.assert_allclose(found.covariance, np.cov(x.T), rtol=1e-9, atol=1e-12)
    assert found.count == rows


def test_statistics_come_back_from_every_kind_of_file(tmp_path):
    stats = fid.measure(RNG.normal(size=(30, 5)))
    other = fid.measure(RNG.normal(size=(30, 5)))
    fid.save(tmp_path / "ours.npz", stats)
    np.savez(tmp_path / "theirs.npz", mu=stats.mean, sigma=stats.covariance)
    np.save(tmp_path / "m.npy", stats.mean)
    np.save(tmp_path / "s.npy", stats.covariance)
    expected = fid.distance(stats, other)
    counts = {"ours.npz": 30, "theirs.npz": None, "": None}
    for name, count in counts.items():
        found = fid.load(tmp_path / name)
        assert found.count == count
        assert fid.distance(found, other) == pytest.approx(expected, rel=1e-9)


def test_files_that_hold_no_statistics_are_named(tmp_path):
    np.savez(tmp_path / "x.npz", mu=np.zeros(3))
    for name in ("x.npz", "none.npz"):
        with pytest.raises(UserError, match=f"{name}' holds no statistics"):
            fid.load(tmp_path / name)
    np.savez(tmp_path / "y.npz", mu=np.zeros(3), sigma=np.eye(4))
    with pytest.raises(UserError, match="give \\[d\\] and \\[d d\\]"):
        fid.load(tmp_path / "y.npz")
    (tmp_path / "z.npz").write_bytes(b"PK\x03\x04 and no more")
    (tmp_path / "m.npy").write_bytes(b"")
    for name in ("z.npz", ""):
        with pytest.raises(UserError, match="holds no statistics"):
            fid.load(tmp_path / name)
    fid.save(tmp_path / "small.npz", fid.measure(RNG.normal(size=(4, 3))))
    given = Settings(reference=str(tmp_path / "small.npz"))
    with pytest.raises(UserError, match="of 3 features, not of Inception's 2048"):
        catalog.create(["fid"], Networks(given))


def test_sets_drawn_alike_cannot_be_told_apart():
    real, fake = RNG.normal(size=(2, 400, 4))
    precision, recall = distribution.precision_recall(real, fake)
    assert min(precision, recall) > 0.8
    assert distribution.kid(real, fake, 20, 200).mean == pytest.approx(0, abs=0.02)
    ids = distribution.discriminate(real, fake)
    assert 0.4 < ids.u_ids < 0.6 > ids.p_ids > 0.4
    far = distribution.discriminate(real, fake + 10)
    assert far.u_ids == far.p_ids == 0
    assert distribution.precision_recall(real, fake + 10) == (0, 0)


def test_the_inception_score_runs_from_one_to_the_number_of_classes():
    logits = 1e3 * np.eye(4)[np.arange(40) % 4]
    same = np.tile(logits[:1], (40, 1))
    assert distribution.inception_score(same).mean == pytest.approx(1)
    assert distribution.inception_scores(logits, 2) == pytest.approx([4, 4])
    assert distribution.picnet_inception_score(logits, 20, 5).mean == pytest.approx(4)


def test_pairs_are_of_different_samples():
    assert len(lpips.all_pairs(10)) == 45
    np.testing.assert_array_equal(lpips.consecutive(3), [[0, 1], [1, 2]])
    pairs = lpips.random_pairs(3, 600, np.random.default_rng(0))
    assert (pairs[:, 0] != pairs[:, 1]).all()
    assert len(np.unique(pairs, axis=0)) == 6


def test_only_a_rectangular_hole_has_a_box():
    mask = np.ones((8, 8, 1), np.uint8)
    assert lpips.hole_box(mask) is None
    mask[2:5, 3:7] = 0
    assert lpips.hole_box(mask) == (slice(2, 5), slice(3, 7))
    mask[0, 0] = 0
    assert lpips.hole_box(mask) is None


def test_niqe_prefers_texture_of_photographs_and_refuses_small_images():
    from skimage import data

    photo = data.astronaut()[:192, 100:292]
    noise = RNG.integers(0, 256, photo.shape)
    model = niqe.released()
    sharp, noisy = (niqe.score(niqe.luma(x), model) for x in (photo, noise))
    assert sharp < 10 < noisy
    with pytest.raises(UserError, match="two blocks of 96x96 pixels"):
        niqe.score(np.zeros((192, 95)), model)
    assert np.isnan(niqe.score(np.full((192, 192), 7.0), model))


def test_a_metric_is_refused_without_weights(offline):
    for name in ("fid", "lpips", "hyperiqa", "nima"):
        with pytest.raises(UserError, match="cannot be fetched"):
            catalog.create([name], Networks(Settings()))


def test_settings_are_checked_by_name():
    for bad in ({"net": "alexnet"}, {"pairs": "0"}, {"pipeline": "picnet"}):
        with pytest.raises(UserError, match=f"{next(iter(bad))} '"):
            catalog.create([], Networks(Settings()._replace(**bad)))


def test_lpips_sees_the_hole_and_brands_random_numbers():
    settings = Settings(allow_random=True)
    made = catalog.create(["lpips", "lpips_diversity"], Networks(settings))
    assert all(isinstance(metric, Accumulator) for metric in made.values())
    same = example(0)
    same = same._replace(samples=np.stack([same.truth] * 3))
    columns = {}
    for seen in (same, example(1)):
        columns |= {
            (seen.name, k): v for m in made.values() for k, v in m.add(seen).items()
        }
    for region in ("", "_hole"):
        for name in ("lpips", "lpips_diversity"):
            column = f"{name}{region} (random features)"
            assert (columns["0", column] == 0).all()
            assert (columns["1", column] > 0).all()
    # What is known is equal, so the map is larger over the hole.
    hole, whole = (f"lpips{x} (random features)" for x in ("_hole", ""))
    assert (columns["1", hole] > columns["1", whole]).all()
    results = [r for metric in made.values() for r in metric.results()]
    assert {(r.metric, r.region) for r in results} == {
        (name, region) for name in made for region in ("whole", "hole")
    }
    assert all("random features" in r.unit and r.images == 2 for r in results)


def test_every_image_has_the_columns_of_lpips_diversity():
    """Of two sizes of box the first is measured, until a reset."""
    settings = Settings(allow_random=True, net="squeeze")
    (metric,) = catalog.create(["lpips_diversity"], Networks(settings)).values()
    columns = []
    for i, hole in enumerate([slice(4, 24), slice(4, 24), slice(4, 26), slice(0, 0)]):
        seen = example(i, n=2)
        mask = np.ones_like(seen.truth[..., :1])
        mask[hole, hole] = 0
        columns.append(metric.add(seen._replace(mask=mask)))
    assert len({tuple(found) for found in columns}) == 1
    box = "lpips_diversity_hole_box (random features)"
    boxes = [found[box][0] for found in columns]
    assert np.isfinite(boxes).tolist() == [True, True, False, False]
    results = {r.region: r.images for r in metric.results()}
    assert results == {"whole": 4, "hole": 3, "hole box": 2}
    metric.reset()
    assert metric.results() == []
    seen = example(9, n=2)
    mask = np.ones_like(seen.truth[..., :1])
    mask[:26, :26] = 0
    columns = metric.add(seen._replace(mask=mask))
    assert np.isfinite(columns[box]).all()


def test_one_pass_of_inception_serves_all():
    settings = Settings(allow_random=True, batch=2)
    made = catalog.create(["fid", "kid", "pr", "is", "ids"], Networks(settings))
    measured = [example(i, side=16) for i in range(4)]
    for seen in measured:
        for metric in made.values():
            assert metric.add(seen) == {}
    results = {r.metric: r for metric in made.values() for r in metric.results()}
    assert results.keys() == {"fid", "kid", "precision", "recall"}
    assert all(r.images == 4 and r.samples == "first" for r in results.values())
    assert results["fid"].value > 0
    assert "fewer than 2,048" in made["fid"].description
    assert (
        "left out" in made["is"].description and "left out" in made["ids"].description
    )
    # The same again after a reset, with an example in the queue.
    first = {name: metric.results() for name, metric in made.items()}
    made["fid"].add(example(9, side=16))
    for metric in made.values():
        metric.reset()
    for seen in measured:
        for metric in made.values():
            metric.add(seen)
    for name, metric in made.items():
        for again, before in zip(metric.results(), first[name], strict=True):
            assert again == before._replace(error=again.error), name


def test_picnets_score_is_of_its_choice_in_chunks(monkeypatch):
    """Of 2,003 images two whole chunks, on the network and the input of its own."""
    seen = set()

    def level_features(params, x, taps, variant):
        seen.add((taps, variant))
        level = x[:, 0, 0, :1]
        return {tap: jnp.concatenate([level % 7, level % 3], 1) for tap in taps}

    def for_inception(images, pipeline):
        seen.add(pipeline)
        return images.astype(jnp.float32)

    loaded = weights.Loaded({}, "some file")
    monkeypatch.setattr(networks.weights, "load", lambda *_: loaded)
    monkeypatch.setattr(inception, "prepare", lambda tensors: {})
    monkeypatch.setattr(inception, "features", level_features)
    monkeypatch.setattr(resize, "for_inception", for_inception)
    made = catalog.create(["picnet_is"], Networks(Settings(batch=500)))["picnet_is"]
    levels = RNG.integers(0, 256, (2003, 3), dtype=np.uint8)
    drawn = [np.broadcast_to(x[:, None, None, None], (3, 2, 2, 3)) for x in levels]
    for i, samples in enumerate(drawn):
        made.add(Example(str(i), samples[0], None, samples, i % 3, {}))
    chosen = levels[np.arange(2003), np.arange(2003) % 3].astype(float)
    logits = np.stack([chosen % 7, chosen % 3], 1)
    (result,) = made.results()
    expected = distribution.picnet_inception_score(logits[:2000]).mean
    assert result.value == pytest.approx(expected) and result.images == 2000
    assert (result.samples, result.region, result.unit) == ("picnet", "whole", "score")
    assert seen == {(inception.HEADS, "torchvision"), "picnet"}
    monkeypatch.setattr(features, "MOST", 2003)  # more images do not count
    made.add(Example("x", drawn[0][0], None, drawn[0], 0, {}))
    assert isinstance(made, features.PicnetInceptionScore) and made.count == 2003
    assert made.results() == [result]
