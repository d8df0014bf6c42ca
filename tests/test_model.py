"""Model.complete: known pixels untouched, seeds, best of many, translation."""

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers.fake_system import SIZE, FakeSystem, ScoringSystem, make_model
from helpers.pictures import half_mask, picture
from ml_collections import ConfigDict
from PIL import Image

import picjax
from picjax import masks
from picjax.cli import UserError
from picjax.completion import make_draw, visible_part
from picjax.data.photos import HeldOutPhotos
from picjax.model import Model
from picjax.settings import set_sampler
from picjax.system import draw_many


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


def test_the_embedded_model_completes_a_photograph_in_several_ways():
    """Held out in training; the mean colour of the known pixels learns nothing."""
    model = picjax.load("picjax://demo")
    source, rng = HeldOutPhotos(model.size), np.random.default_rng(0)
    crops = [source.read(i, rng)["image"] for i in range(8)]
    known = masks.center(rng, *model.size)
    learnt, mean, spread = [], [], []
    for crop, drawn in zip(crops, model.complete(crops, known, n=4), strict=True):
        truth, found = crop[known == 0], drawn[:, known == 0].astype(float)
        learnt.append(np.abs(found - truth).mean())
        mean.append(np.abs(crop[known == 1].mean(0) - truth).mean())
        spread.append(found.std(0).mean())
    assert np.mean(learnt) < 0.8 * np.mean(mean)
    assert np.mean(spread) > 1  # grey level


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

    model = Model(fake.config, Spy(), fake.variables, 0)
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
        set_sampler(ConfigDict({"system": "picnet"}), {"label": "3"})
    picmm = ConfigDict({"system": "picmm", "sampler": {"temperature": 1.0}})
    with pytest.raises(UserError, match="picmm has no presets .* keys: temperature"):
        set_sampler(picmm, "fast")


# ---- what Python passes ----


def test_paths_pillow_images_and_arrays_are_the_same_image(fake, tmp_path):
    image, known = picture(0), half_mask()
    Image.fromarray(image).save(tmp_path / "a.png")
    Image.fromarray((1 - known) * np.uint8(255)).save(tmp_path / "m.png")
    expected = fake.complete(image, known, n=2)
    for given in (str(tmp_path / "a.png"), tmp_path / "a.png", Image.fromarray(image)):
        for mask in (str(tmp_path / "m.png"), tmp_path / "m.png", known == 1):
            np.testing.assert_array_equal(fake.complete(given, mask, n=2), expected)


def test_a_list_is_completed_in_batches_each_image_at_its_own_size(fake):
    sizes = [(40, 60), (32, 32), (20, 90), (33, 31), (64, 64)]
    images = [picture(i, *size) for i, size in enumerate(sizes)]
    together = fake.complete(images, "center", n=3)
    assert isinstance(together, list) and len(together) == 5
    for image, drawn in zip(images, together, strict=True):
        np.testing.assert_array_equal(drawn, fake.complete(image, "center", n=3))
    own: Any = [half_mask(*size) for size in sizes]
    (first, *_) = fake.complete(images, own, n=1)
    np.testing.assert_array_equal(first, fake.complete(images[0], own[0], n=1))
    assert fake.complete([], "center") == []
    with pytest.raises(UserError, match="2 masks are given for 5 images"):
        fake.complete(images, own[:2])
    with pytest.raises(UserError, match="5 masks are given for 1 images"):
        fake.complete(images[0], own)


def test_a_list_compiles_one_program(fake):
    model = Model(fake.config, FakeSystem(), fake.variables, 0)
    model.complete([picture(i, 32, 32) for i in range(7)], "center", n=1)
    assert len(model._programs.compiled) == 1


def test_inverted_masks(fake, tmp_path):
    image, known = picture(0), half_mask()
    expected = fake.complete(image, known, n=1)
    Image.fromarray(known * np.uint8(255)).save(tmp_path / "m.png")
    for mask in (1 - known, known == 0, tmp_path / "m.png", str(tmp_path / "m.png")):
        drawn = fake.complete(image, mask, n=1, invert_mask=True)
        np.testing.assert_array_equal(drawn, expected)
    with pytest.raises(UserError, match="leave invert_mask out"):
        fake.complete(image, "center", invert_mask=True)
    with pytest.raises(UserError, match="mask 'no.png' does not exist"):
        fake.complete(image, "no.png")


def test_doubtful_mask_arrays_are_warned_about(fake):
    """White = hole read as an array: all but the object to remove is a hole."""
    mask = np.zeros((40, 60), np.uint8)
    mask[10:20, 10:20] = 1
    with pytest.warns(UserWarning, match="96% of it is hole.*invert_mask=True"):
        fake.complete(picture(0), mask, n=1)
    with pytest.warns(UserWarning, match="nothing of it is hole"):
        fake.complete(picture(0), np.ones((40, 60)), n=1)


def test_warmup_compiles_what_complete_runs(fake):
    traced = []

    class Spy(FakeSystem):
        def sample(self, variables, batch, key, n):
            traced.append(n)
            return super().sample(variables, batch, key, n)

    model = Model(fake.config, Spy(), fake.variables, 0)
    model.warmup(3)
    assert traced == [3]
    model.complete(picture(0), half_mask(), n=3)
    assert traced == [3]


class CountingSystem(FakeSystem):
    """Draws by number, as methods do."""

    counts_draws = True

    def sample(self, variables, batch, key, n):
        def draw(i):
            noise = jax.random.normal(jax.random.fold_in(key, i), batch["image"].shape)
            return jnp.clip(variables["scale"] * noise, -1, 1)

        return draw_many(draw, n, batch.get("count"))


def test_one_program_draws_any_number_of_completions(fake):
    model = Model(fake.config, CountingSystem(), fake.variables, 0)
    image, known = picture(0, 32, 32), half_mask(32, 32)
    draws = {n: model.complete(image, known, n=n) for n in (16, 5, 1, 2)}
    assert len(model._programs.compiled) == 1
    model.complete(image, known, n=17)
    assert len(model._programs.compiled) == 2
    for n, samples in draws.items():
        assert len(samples) == n
        np.testing.assert_array_equal(samples, draws[16][:n])
    # In parts the same program draws the same.
    parts = list(model.stream(image, known, n=5))
    assert [len(part.samples) for part in parts] == [2, 2, 1]
    assert len(model._programs.compiled) == 2
    np.testing.assert_array_equal(np.concatenate([x.samples for x in parts]), draws[5])
    # The same as a program for that number.
    batch = visible_part({"image": image[None], "mask": known[None, ..., None]})
    batch = {name: jnp.asarray(x) for name, x in batch.items()}
    draw = make_draw(CountingSystem())
    fixed = draw(fake.variables, batch, jax.random.key(0), n=5, num_candidates=5)
    np.testing.assert_array_equal(draws[5], fixed.pixels[0])


def test_threads_share_one_program(fake):
    model = Model(fake.config, FakeSystem(), fake.variables, 0)
    images = [picture(i) for i in range(8)]
    with ThreadPoolExecutor(8) as pool:
        drawn = list(pool.map(lambda image: model.complete(image, half_mask()), images))
    assert len(model._programs.compiled) == 1
    for image, samples in zip(images, drawn, strict=True):
        np.testing.assert_array_equal(samples, model.complete(image, half_mask()))


def test_the_representation_and_the_public_names(fake):
    assert repr(fake) == "<picjax.Model fake 32x32, step 7>"
    assert picjax.UserError is UserError and picjax.Model is Model
    assert set(picjax.__all__) == {"Model", "Reference", "UserError", "load", "push"}
