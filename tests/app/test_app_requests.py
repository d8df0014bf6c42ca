"""The app's runs, requests and results, without a server."""

import io
import shlex
import struct
import zipfile
import zlib

import numpy as np
import pytest
from helpers.app import make_counting_model, make_runs, png
from helpers.pictures import half_mask, picture
from PIL import Image

from picjax import complete
from picjax.app import runs
from picjax.app.requests import CompletionRequest
from picjax.app.results import command_line, deviation_map, zip_bytes
from picjax.app.uploads import Limits, read_mask, read_picture
from picjax.cli import UserError
from picjax.images import Picture

LIMITS = Limits(bytes=10**6, pixels=5000)


def request(**changes) -> CompletionRequest:
    given = {"run": "one", "picture": Picture(picture(0, 40, 60)), **changes}
    return CompletionRequest(**{"mask": half_mask(40, 60), **given})


# ---- runs ----


def test_runs_with_a_checkpoint_are_found_by_name(tmp_path):
    for name in ("a", "deep/b", "unsaved"):
        folder = tmp_path / name
        (folder / "checkpoints").mkdir(parents=True)
        (folder / "config.json").write_text("{}")
        if name != "unsaved":
            (folder / "checkpoints" / "10").mkdir()
    found = runs.discover(tmp_path)
    assert set(found) == {"a", "deep/b"}
    assert found["deep/b"] == f"{tmp_path}/deep/b"
    assert runs.discover(tmp_path / "none") == {"demo": "picjax://demo"}


def test_equal_names_are_told_apart(tmp_path):
    for name in ("x/run", "y/run", "z/other"):
        (tmp_path / name).mkdir(parents=True)
    folders = [str(tmp_path / name) for name in ("x/run", "y/run", "z/other")]
    assert list(runs.by_name(folders)) == [*folders[:2], "other"]
    with pytest.raises(UserError, match="does not exist"):
        runs.by_name([str(tmp_path / "none")])


def test_models_beyond_the_limit_are_dropped(tmp_path, monkeypatch):
    several = make_runs(tmp_path, monkeypatch, ("a", "b", "c"))
    names = several.names()
    first = several.model(names[0])
    assert several.model(names[0]) is first
    several.model(names[1])
    several.model(names[0])
    several.model(names[2])
    assert several.loaded() == [names[0], names[2]]
    with pytest.raises(UserError, match="did you mean 'a.safetensors'"):
        several.model("a.safetensor")


def test_an_error_of_a_run_names_no_path(tmp_path, caplog):
    (tmp_path / "broken").mkdir()
    broken = runs.Runs([str(tmp_path / "broken")])
    for ask in (broken.model, broken.info):
        with pytest.raises(UserError) as caught:
            ask("broken")
        assert str(tmp_path) not in str(caught.value)
    assert str(tmp_path) in caplog.text
    assert broken.infos() == {}


def test_samplers_of_a_request():
    assert runs.parse_sampler("") == {}
    assert runs.parse_sampler("fast") == {"preset": "fast"}
    chosen = {"preset": "fast", "label": "3"}
    assert runs.parse_sampler("preset=fast, label=3") == chosen
    with pytest.raises(UserError, match="jump_times"):
        runs.parse_sampler("jump_times=9999")


# ---- uploads ----


def test_pictures_are_decoded_without_metadata():
    exif = Image.Exif()
    exif[0x010F] = "a camera"
    exif[0x0112] = 6
    buffer = io.BytesIO()
    Image.fromarray(picture(0, 40, 60)).save(buffer, "png", exif=exif)
    read = read_picture(buffer.getvalue(), LIMITS)
    np.testing.assert_array_equal(read.pixels, np.rot90(picture(0, 40, 60), -1))
    asked = request(picture=read, mask=half_mask(60, 40))
    assert b"camera" not in zip_bytes(asked, [read.pixels], "")


def test_pixels_are_counted_before_decoding(monkeypatch):
    def load(self):
        raise AssertionError("decoded")

    monkeypatch.setattr(Image.Image, "load", load)
    header = png_header(9_000, 9_000)
    for read in (read_picture, lambda data, limits: read_mask(data, (9, 9), limits)):
        with pytest.raises(UserError, match="9000x9000 pixels are more than 5,000"):
            read(header, LIMITS)


def png_header(width: int, height: int) -> bytes:
    """The start of a PNG file that claims a size."""
    data = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    start = b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + data
    return start + struct.pack(">I", zlib.crc32(data)) + b"\0\0\0\0IDAT"


@pytest.mark.parametrize("data", [b"", b"%!PS-Adobe-3.0 EPSF-3.0\n", b"GIF89a", b"x"])
def test_other_files_are_refused_in_one_sentence(data):
    with pytest.raises(UserError, match="^the image cannot be used: [^\n]*$"):
        read_picture(data, LIMITS)


def test_masks_of_either_polarity_with_warnings():
    hole = png((1 - half_mask(40, 60)) * np.uint8(255))
    mask, warnings = read_mask(hole, (40, 60), LIMITS)
    np.testing.assert_array_equal(mask, half_mask(40, 60))
    assert not warnings
    inverted, _ = read_mask(hole, (40, 60), LIMITS, True)
    np.testing.assert_array_equal(inverted, 1 - mask)
    _, warnings = read_mask(hole, (20, 30), LIMITS)
    assert "resized by nearest" in warnings[0]


@pytest.mark.parametrize(
    "changes",
    [{"num": 0}, {"num": 65}, {"seed": -1}, {"seed": 2**32}, {"best_of": 2}],
)
def test_numbers_out_of_range_are_refused(changes):
    with pytest.raises(UserError, match=f"^{next(iter(changes))} is .*; give "):
        request(**changes)


# ---- results ----


def test_the_heat_map_is_black_where_completions_agree():
    samples = np.full((4, 8, 8, 3), 100, np.uint8)
    samples[:2, :4], samples[0, 0, 0] = 110, 130
    colours, largest = deviation_map(samples)
    np.testing.assert_allclose(largest, samples[:, 0, 0, 0].std(), rtol=1e-6)
    assert (colours[4:] == colours[7, 7]).all() and colours[7, 7].max() < 10
    assert colours[0, 0].min() > 150
    assert colours[1, 1].sum() > colours[7, 7].sum()


def test_the_zip_and_its_command_draw_the_same_pixels(tmp_path, monkeypatch):
    model = make_counting_model()
    asked = request(num=3, seed=5)
    samples = model.complete(asked.picture, asked.mask, 3, 5)
    command = command_line(asked, "runs/one", model.step)
    with zipfile.ZipFile(
        io.BytesIO(zip_bytes(asked, list(samples), command))
    ) as archive:
        archive.extractall(tmp_path)
        assert archive.read("command.txt").decode() == command + "\n"
    monkeypatch.setattr(complete, "load", lambda *_: model)
    monkeypatch.chdir(tmp_path)
    words = shlex.split(command)
    assert words[:3] == ["python", "-m", "picjax.complete"]
    complete.main(words[3:])
    for i, sample in enumerate(samples):
        for file in (f"image_out_{i}.png", f"completions/image_out_{i}.png"):
            np.testing.assert_array_equal(np.asarray(Image.open(file)), sample)


def test_the_command_names_every_choice():
    asked = request(num=2, best_of=8, sampler={"preset": "fast", "label": "3"})
    words = shlex.split(command_line(asked, "runs/a b", 40))
    assert {"--workdir=runs/a b", "--checkpoint=40", "--best-of=8"} <= set(words)
    assert "--config.sampler.preset=fast" in words
    assert "--config.sampler.label=3" in words
