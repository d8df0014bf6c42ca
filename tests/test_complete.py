"""Completing: known pixels untouched, seeds, pairing of files, one line an error."""

import json
import os
import subprocess
import sys
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
from helpers.fake_system import SIZE, FakeSystem, ScoringSystem, make_model
from ml_collections import ConfigDict
from PIL import Image

from picjax import complete as module
from picjax import images, masks
from picjax.cli import UserError, run
from picjax.images import fit, to_uint8
from picjax.model import Model, set_sampler


def picture(seed: int, h: int = 40, w: int = 60) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (h, w, 3), dtype=np.uint8)


def half_mask(h: int = 40, w: int = 60) -> np.ndarray:
    known = np.ones((h, w), np.uint8)
    known[:, w // 2 :] = 0
    return known


@pytest.fixture(scope="module")
def fake():
    return make_model()


@pytest.fixture
def model(fake, monkeypatch):
    monkeypatch.setattr(module, "load", lambda *_: fake)
    return fake


def command(*words: object) -> None:
    module.main([str(word) for word in words])


def save(path, array) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path)


def read(path) -> np.ndarray:
    return np.asarray(Image.open(path))


# ---- from Python ----


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
    """A system that likes dark images: its best 2 of 6 are the darkest, darkest first."""
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


def test_random_masks_follow_the_seed_and_the_image():
    def holes(image, seed):
        return masks.resolve("freeform", image, seed, (32, 32))[0]

    first = holes(picture(0), 1)
    assert first.shape == (40, 60) and 0.1 < 1 - first.mean() < 0.7
    np.testing.assert_array_equal(first, holes(picture(0), 1))
    assert (first != holes(picture(0), 2)).any()
    assert (first != holes(picture(1), 1)).any()


def test_one_encoder_pass_and_one_compilation(fake):
    """`complete` is traced once, with batch 1 and n samples, for images of all sizes."""
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


def test_rounding():
    levels = np.arange(256, dtype=np.uint8).repeat(3).reshape(16, 16, 3)
    exact = jnp.asarray(levels, jnp.float32) / 127.5 - 1
    np.testing.assert_array_equal(to_uint8(exact), levels)
    near = jnp.full((1, 1, 3), 100.6 / 127.5 - 1)
    assert (np.asarray(to_uint8(near)) == 101).all()  # not truncated
    wide = jnp.array([[[-1.5, 1.5, 0.0]]])
    np.testing.assert_array_equal(to_uint8(wide), [[[0, 255, 128]]])


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


@pytest.mark.parametrize(
    "mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr", "I;16", "I", "HSV"]
)
def test_image_modes(mode):
    if mode in ("I", "I;16"):
        image = Image.fromarray(np.full((10, 12), 200 * 257, np.uint16)).convert(mode)
    else:
        rgb = Image.fromarray(np.full((10, 12, 3), 200, np.uint8))
        image = rgb.convert(mode, palette=Image.Palette.ADAPTIVE)
    pixels = images.as_pixels(image)
    assert pixels.shape == (10, 12, 3)
    if mode != "1":  # that one is dithered
        np.testing.assert_allclose(pixels, 200, atol=2)


def test_exif_rotation():
    image = Image.fromarray(picture(0, 10, 20))
    exif = image.getexif()
    exif[0x0112] = 6  # shown turned by 90 degrees
    upright = images.as_pixels(image)
    assert upright.shape == (20, 10, 3)


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


def test_files_of_a_translation(tmp_path, translator, monkeypatch):
    monkeypatch.setattr(module, "load", lambda *_: translator)
    config = {"config": {"data": {"name": "aligned"}}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    save(tmp_path / "in/a.png", picture(0))
    words = ("--workdir", tmp_path, "--image", tmp_path / "in", "--num=2")
    command(*words)
    out = tmp_path / "completions"
    names = ["a_condition", "a_grid", "a_out_0", "a_out_1"]
    assert sorted(os.listdir(out)) == [f"{name}.png" for name in names]
    np.testing.assert_array_equal(read(out / "a_condition.png"), picture(0))
    with pytest.raises(UserError, match="leave the mask out"):
        command(*words, "--mask=center")


# ---- fit and paste ----


def test_fit_keeps_the_hole_out():
    """Black known pixels stay black beside a white hole; a part of a hole is a hole."""
    image = np.zeros((64, 64, 3), np.uint8)
    known = np.ones((64, 64), np.uint8)
    known[10:33, 7:50] = 0
    image[known == 0] = 255
    small, mask = fit(image, known, (16, 16))
    assert small.max() == 0
    assert not mask[2:9, 1:13].any()
    assert (
        mask[:2].all() and mask[9:].all() and mask[:, :1].all() and mask[:, 13:].all()
    )


def test_fit_means_and_identity():
    image, known = picture(0, 32, 32), np.ones((32, 32), np.uint8)
    same, mask = fit(image, known, (32, 32))
    np.testing.assert_array_equal(same, image)
    flat = np.full((50, 70, 3), 77, np.uint8)
    small, mask = fit(flat, np.ones((50, 70), np.uint8), (16, 24))
    assert small.shape == (16, 24, 3) and (small == 77).all() and mask.all()


@pytest.mark.parametrize(
    ("size", "shown"),
    [((32, 32), (192, 192)), ((100, 60), (100, 60)), ((600, 300), (192, 96))],
)
def test_thumbnails(size, shown):
    image = picture(0, *size)
    small = images.thumbnail(image)
    assert small.shape == (*shown, 3)
    if size[0] < 192:
        k = shown[0] // size[0]
        np.testing.assert_array_equal(small[::k, ::k], image)


# ---- the command ----


def test_files_of_one_image(tmp_path, model, capsys):
    image, known = picture(0), half_mask()
    save(tmp_path / "in" / "a.png", image)
    save(tmp_path / "m.png", (1 - known) * np.uint8(255))
    out = tmp_path / "out"
    words = ("--image", tmp_path / "in/a.png", "--mask", tmp_path / "m.png")
    command("--workdir", tmp_path, *words, "--num", 3, "--out", out)
    names = ["a_grid", "a_mask", "a_out_0", "a_out_1", "a_out_2", "a_truth"]
    assert sorted(os.listdir(out)) == [f"{name}.png" for name in names]
    np.testing.assert_array_equal(read(out / "a_truth.png"), image)
    shown = read(out / "a_mask.png")
    np.testing.assert_array_equal(shown[known == 1], image[known == 1])
    assert (shown[known == 0] == 127).all()
    expected = model.complete(image, known, n=3)
    for i in range(3):
        np.testing.assert_array_equal(read(out / f"a_out_{i}.png"), expected[i])
    assert "3 completions of 1 image" in capsys.readouterr().out
    # Fewer completions later leave none of the earlier ones behind.
    command("--workdir", tmp_path, *words, "--num", 1, "--out", out)
    assert "a_out_0.png" in os.listdir(out) and "a_out_1.png" not in os.listdir(out)


def test_default_folder_and_a_name_for_a_mask(tmp_path, model):
    save(tmp_path / "a.png", picture(0))
    command("--workdir", tmp_path / "run", "--image", tmp_path / "a.png", "--mask=half")
    assert (tmp_path / "run/completions/a_out_9.png").exists()


def test_seeds_do_not_depend_on_the_folder(tmp_path, model):
    for name, seed in [("a", 0), ("b", 1), ("c", 2)]:
        save(tmp_path / "three" / f"{name}.png", picture(seed))
    save(tmp_path / "one" / "z.png", picture(1))
    for name in ("three", "one"):
        words = ("--image", tmp_path / name, "--mask", "center", "--num", 2)
        command("--workdir", tmp_path, *words, "--out", tmp_path / f"{name}-out")
    for i in range(2):
        np.testing.assert_array_equal(
            read(tmp_path / f"three-out/b_out_{i}.png"),
            read(tmp_path / f"one-out/z_out_{i}.png"),
        )


def test_masks_match_by_stem_or_else_by_order(tmp_path, model):
    tall, wide = np.zeros((40, 60), np.uint8), np.zeros((40, 60), np.uint8)
    tall[:, :20], wide[:10] = 255, 255
    for name in ("a", "b"):
        save(tmp_path / "in" / f"{name}.png", picture(0))
    # By stem: b is tall although it comes second by name.
    save(tmp_path / "stems" / "b.png", tall)
    save(tmp_path / "stems" / "a.png", wide)
    save(tmp_path / "stems" / "unused.png", wide)
    # By order: x is for a.
    save(tmp_path / "order" / "x.png", tall)
    save(tmp_path / "order" / "y.png", wide)
    for folder, first, second in [("stems", wide, tall), ("order", tall, wide)]:
        out = tmp_path / f"{folder}-out"
        words = ("--image", tmp_path / "in", "--mask", tmp_path / folder, "--num=1")
        command("--workdir", tmp_path, *words, "--out", out)
        for name, hole in [("a", first), ("b", second)]:
            grey = (read(out / f"{name}_mask.png") == 127).all(-1)
            np.testing.assert_array_equal(grey, hole == 255)


def test_invert_mask(tmp_path, model):
    known = half_mask()
    save(tmp_path / "in/a.png", picture(0))
    save(tmp_path / "m.png", known * np.uint8(255))  # white = known
    words = ("--image", tmp_path / "in", "--mask", tmp_path / "m.png", "--num=1")
    command("--workdir", tmp_path, *words, "--invert-mask")
    out = read(tmp_path / "completions/a_out_0.png")
    np.testing.assert_array_equal(out[known == 1], picture(0)[known == 1])


@pytest.mark.parametrize(
    ("mask", "word"),
    [
        (np.zeros((40, 60), np.uint8), "--invert-mask"),  # no hole at all
        (np.full((40, 60), 255, np.uint8), "--invert-mask"),
        (np.tile(np.arange(60, dtype=np.uint8) * 4, (40, 1)), "grey"),
        (np.tile(np.arange(80, dtype=np.uint8) // 40 * 255, (40, 1)), "80x40"),
    ],
)
def test_warnings_are_said_once(mask, word, tmp_path, model, capsys):
    for name in ("a", "b"):
        save(tmp_path / "in" / f"{name}.png", picture(0))
    save(tmp_path / "m.png", mask)
    words = ("--image", tmp_path / "in", "--mask", tmp_path / "m.png", "--num=1")
    command("--workdir", tmp_path, *words)
    error = capsys.readouterr().err
    assert error.count(word) == 1 and error.count("\n") == 1
    assert error.startswith("picjax: ") and "m.png" in error
    with pytest.warns(UserWarning, match=word):
        model.complete(picture(0), Image.fromarray(mask), n=1)


def test_what_the_system_says_of_a_mask_is_said_once(tmp_path, model, capsys):
    def remarks(known):
        assert known.shape == model.size and set(np.unique(known)) == {0, 1}
        return [f"{known.mean():.0%} is known"]

    model._mask_warnings = remarks
    for name in ("a", "b"):
        save(tmp_path / "in" / f"{name}.png", picture(0))
    command("--workdir", tmp_path, "--image", tmp_path / "in", "--mask=top", "--num=1")
    assert capsys.readouterr().err == "picjax: 50% is known\n"
    with pytest.warns(UserWarning, match="50% is known"):
        model.complete(picture(0), "top", n=1)


def test_a_damaged_image_in_a_folder_is_left_out(tmp_path, model):
    for name in ("a", "b", "c"):
        save(tmp_path / "in" / f"{name}.png", picture(0))
    whole = (tmp_path / "in/b.png").read_bytes()
    (tmp_path / "in/b.png").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UserError, match=r"1 of 3 images were left out.*b\.png"):
        command("--workdir", tmp_path, "--image", tmp_path / "in", "--mask=half")
    outputs = os.listdir(tmp_path / "completions")
    assert "c_out_9.png" in outputs and not [n for n in outputs if n.startswith("b")]


def prepare(path) -> None:
    config = {"config": {"data": {"name": "photos"}}}
    (path / "run").mkdir()
    (path / "run/config.json").write_text(json.dumps(config))
    save(path / "a.png", picture(0))
    save(path / "two/a.png", picture(0))
    save(path / "two/b.png", picture(0))
    save(path / "same/a.png", picture(0))
    save(path / "same/a.bmp", picture(0))
    save(path / "masks1/x.png", picture(0))
    save(path / "masks2/a.png", picture(0))
    (path / "empty").mkdir()
    (path / "text.png").write_text("hello")
    whole = (path / "a.png").read_bytes()
    (path / "half.png").write_bytes(whole[: len(whole) // 2])


@pytest.mark.parametrize(
    ("words", "what"),
    [
        ("--image=none.png --mask=half", "none.png' does not exist"),
        ("--image=text.png --mask=half", "no image"),
        ("--image=half.png --mask=half", "half.png' cannot be used"),
        ("--image=empty --mask=half", "holds no image"),
        ("--image=a.png --mask=haalf", "did you mean 'half'"),
        ("--image=a.png --mask=no.png", "--mask 'no.png' does not exist"),
        ("--image=a.png --mask=text.png", "no image"),
        ("--image=a.png --mask=empty", "holds no image"),
        ("--image=a.png --mask=half --num=0", "--num is 0"),
        ("--image=a.png --mask=half --num=x", "invalid int"),
        ("--image=a.png", "--mask"),
        ("--image=a.png --mask=half --colour=red", "--colour"),
        ("--image=two --mask=masks1", "1 masks for 2 images"),
        ("--image=two --mask=masks2", "no mask for 1 of 2"),
        ("--image=same --mask=half", "rename"),
        ("--image=two --mask=half --out=two", "--out"),
    ],
)
def test_bad_input_is_one_line_and_exit_2(words, what, tmp_path, monkeypatch, capsys):
    prepare(tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(module, "load", lambda *_: pytest.fail("loaded before checks"))
    with pytest.raises(SystemExit) as caught:
        run(lambda: module.main(["--workdir=run", *words.split()]))
    assert caught.value.code == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("\n") == 1 and captured.err.startswith("picjax: ")
    assert what in captured.err


def test_missing_workdir(tmp_path):
    save(tmp_path / "a.png", picture(0))
    words = ("--image", tmp_path / "a.png", "--mask=half")
    with pytest.raises(UserError, match="nowhere"):
        command("--workdir", tmp_path / "nowhere", *words)


def test_help_fits_a_screen():
    done = subprocess.run(
        [sys.executable, "-m", "picjax.complete", "--help"],
        check=True,
        capture_output=True,
        text=True,
        env=os.environ | {"COLUMNS": "80"},
    )
    assert "example: python -m picjax.complete" in done.stdout
    assert len(done.stdout.splitlines()) <= 24


# ---- how a system draws ----


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


def test_only_the_sampler_is_changed_on_the_command_line():
    words = ["--workdir=x", "--image=y", "--mask=center", "--sampler=fast"]
    args = module.parse([*words, "--config.sampler.label=3"])
    assert args.sampler == {"preset": "fast", "label": "3"}
    for word in ("--config.seed=3", "--config.sampler.label", "--lable=3"):
        with pytest.raises(UserError, match=f"unrecognized arguments: {word}"):
            module.parse([*words, word])
