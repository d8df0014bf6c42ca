"""Model.complete: known pixels untouched, seeds, best of many, translation."""

from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
from helpers.fake_system import SIZE, FakeSystem, ScoringSystem, make_model
from helpers.pictures import half_mask, picture
from ml_collections import ConfigDict
from PIL import Image

from picjax.cli import UserError
from picjax.model import Model, set_sampler


@pytest.fixture(scope="module")
def fake():
    return make_model()


@pytest.mark.parametrize("size", [(32, 32), (40, 60), (97, 31), (16, 200), (5, 4)])
def test_known_pixels_are_the_inputs_to_the_bit(size, fake):
    image = picture(0, *size)
    known = np.random.default_rng(1).integers(0, 2, size, dtype=np.uint8)
    out = fake.complete(image, known, n=3)
    assert out.shape == (3, *size, 3) and out.dtype == np.uint8
    for sample in out:
        np.testing.assert_array_equal(sample[known == 1], image[known == 1])
        assert (sample[known == 0] != image[known == 0]).any()


def test_samples_differ_and_the_seed_fixes_them(fake):
    image, known = picture(0), half_mask()
    first = fake.complete(image, known, n=4, seed=1)
    for i in range(4):
        for j in range(i):
            assert (first[i] != first[j]).any()
    np.testing.assert_array_equal(first, fake.complete(image, known, n=4, seed=1))
    assert (first != fake.complete(image, known, n=4, seed=2)).any()


def test_best_of_keeps_what_the_system_scores_highest(fake):
    """Scored by darkness, the best 2 of 6 are the darkest ones, darkest first."""
    system = ScoringSystem(lambda x: -x.mean((1, 2, 3)))
    ranking = Model(fake.config, system, {"scale": jnp.float32(0.3)}, 7)
    image, known = picture(0, SIZE, SIZE), half_mask(SIZE, SIZE)
    drawn = ranking.complete(image, known, n=6)
    best = ranking.complete(image, known, n=2, num_candidates=6)
    order = np.argsort(drawn.mean((1, 2, 3)))
    np.testing.assert_array_equal(best, drawn[order[:2]])
    with pytest.raises(UserError, match="best 7 of 6 cannot be kept"):
        ranking.complete(image, known, n=7, num_candidates=6)
    with pytest.raises(UserError, match="fake does not score its completions"):
        fake.complete(image, known, n=2, num_candidates=6)


def test_what_the_hole_hides_has_no_influence(fake):
    """Neither on the draws nor on the colours, at any size."""
    for h, w in [(SIZE, SIZE), (100, 75), (20, 24)]:
        known = half_mask(h, w)
        image = picture(0, h, w)
        other = np.where(known[..., None] == 1, image, np.uint8(255))
        np.testing.assert_array_equal(
            fake.complete(image, known, n=2),
            fake.complete(other, known, n=2),
        )


def test_pillow_image_and_mask_file_polarity(fake):
    image, known = picture(0), half_mask()
    white_is_hole = Image.fromarray((1 - known) * np.uint8(255))
    by_file = fake.complete(Image.fromarray(image), white_is_hole, n=2)
    by_array = fake.complete(image, known, n=2)
    np.testing.assert_array_equal(by_file, by_array)
    as_bool = fake.complete(image, known[..., None] == 1, n=2)
    np.testing.assert_array_equal(as_bool, by_array)


def test_named_mask(fake):
    out = fake.complete(picture(0, 32, 32), "center", n=2)
    changed = (out != picture(0, 32, 32)).any((0, 3))
    assert changed[8:24, 8:24].mean() > 0.9
    assert not changed[:8].any() and not changed[:, 24:].any()


def test_one_encoder_pass_and_one_compilation(fake):
    """`complete` is traced once, with batch 1, for images of all sizes."""
    seen = []

    class Spy(FakeSystem):
        def sample(self, variables, batch, key, n):
            seen.append((batch["image"].shape, n))
            return super().sample(variables, batch, key, n)

    model = Model(fake.config, Spy(), fake._variables, 0)
    for size in [(40, 60), (32, 32), (90, 20)]:
        model.complete(picture(0, *size), half_mask(*size), n=5)
    assert seen == [((1, SIZE, SIZE, 3), 5)]


def test_a_draw_does_not_depend_on_its_batch(fake):
    images = np.stack([picture(i, SIZE, SIZE) for i in range(3)])
    known = np.stack([half_mask(SIZE, SIZE)[..., None]] * 3)
    together = fake.sample({"image": images, "mask": known}, 2, seed=0)
    alone = fake.sample({"image": images[1:2], "mask": known[1:2]}, 2, seed=0)
    np.testing.assert_array_equal(together.pixels[1], alone.pixels[0])


@pytest.mark.parametrize(
    ("image", "mask", "n", "words"),
    [
        (np.zeros((8, 8, 3), np.float32), "center", 1, "uint8"),
        (np.zeros((8, 8, 2), np.uint8), "center", 1, "uint8"),
        (picture(0), half_mask(), 0, "n is 0"),
        (picture(0), half_mask(41, 60), 1, "40"),
        (picture(0), half_mask() * np.uint8(255), 1, "1 = known"),
        (picture(0), "centre", 1, "'center'"),
    ],
)
def test_wrong_calls(image, mask, n, words, fake):
    with pytest.raises(UserError, match=words):
        fake.complete(image, mask, n=n)


# ---- translating ----


@pytest.fixture(scope="module")
def translator():
    return make_model(scale=0.0, data="aligned")


def test_a_run_on_pairs_makes_whole_pictures_without_a_mask(translator):
    image = picture(0, SIZE, SIZE)
    made = translator.complete(image, n=2)
    np.testing.assert_array_equal(made, np.stack([image] * 2))  # of the fake system
    flat = np.full((40, 60, 3), 77, np.uint8)
    assert (translator.complete(Image.fromarray(flat), n=1) == 77).all()
    varied = make_model(data="aligned")
    first, again = (varied.complete(flat, n=2, seed=1) for _ in range(2))
    np.testing.assert_array_equal(first, again)
    assert (first[0] != first[1]).any()
    assert (first != varied.complete(flat, n=2, seed=2)).any()
    with pytest.raises(UserError, match="leave the mask out"):
        translator.complete(image, "center")


# ---- samplers ----


def test_keys_of_the_sampler_are_set_by_words_or_values():
    config: Any = ConfigDict({"system": "painter", "sampler": {"preset": "fast"}})
    config.sampler.update(label=-1, guidance=1.0, spacing="250")
    words = {"label": "3", "guidance": "2", "spacing": "100"}
    for given in (words, {"label": 3, "guidance": 2.0, "spacing": "100"}):
        set_sampler(config, given)
        expected = {"preset": "fast", "label": 3, "guidance": 2.0, "spacing": "100"}
        assert config.sampler.to_dict() == expected
    with pytest.raises(UserError, match="key 'labl' is none of .* mean 'label'"):
        set_sampler(config, {"labl": "3"})
    with pytest.raises(UserError, match="label 'three' is no int as 3 is"):
        set_sampler(config, {"label": "three"})
    with pytest.raises(UserError, match="draws in one way"):
        set_sampler(ConfigDict({"system": "picmm"}), {"label": "3"})
