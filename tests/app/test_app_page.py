"""What the page does, called as Gradio calls it: no browser is needed."""

import asyncio
import io
import threading
import zipfile
from pathlib import Path

import gradio as gr
import numpy as np
import pytest
from gradio.components.image_editor import EditorData
from helpers.app import make_counting_model, make_runs, png
from helpers.pictures import half_mask, picture
from PIL import Image

from picjax.app import session as session_module
from picjax.app.page import build
from picjax.app.painting import Painting, editor_value, make_editor, read_painting
from picjax.app.session import Session
from picjax.app.tabs.base import integer, sentences
from picjax.app.tabs.complete import CompleteTab
from picjax.app.tabs.parts import call
from picjax.app.uploads import Limits
from picjax.app.worker import Worker
from picjax.cli import UserError
from picjax.model import Model, Part

LIMITS = Limits(bytes=10**6, pixels=100_000)
RUN = "one.safetensors"


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    folder = tmp_path_factory.mktemp("page")
    with pytest.MonkeyPatch.context() as patch:
        yield CompleteTab(Worker(make_runs(folder, patch)), LIMITS, folder)


def sent(painting: Painting) -> dict:
    """A painting as the editor sends it."""
    value = editor_value(painting)
    back = Image.fromarray(value["background"])
    layers = [Image.fromarray(layer) for layer in value["layers"]]
    return {"background": back, "layers": layers, "composite": None}


def painted(h: int = 40, w: int = 60) -> dict:
    return sent(Painting(picture(0, h, w), half_mask(h, w)))


def complete(page, session, value, *changes):
    """All updates of one click, merged."""
    choices = (3, 4, True, "", 0, *changes)
    updates = list(page.start(session, value, RUN, *choices))
    return {name: x for update in updates for name, x in update.items()}


# ---- completing ----


def test_completions_their_zip_and_their_comparison(page):
    session = Session()
    results = complete(page, session, painted())
    expected = make_counting_model().complete(
        picture(0, 40, 60), half_mask(40, 60), n=3, seed=4
    )
    np.testing.assert_array_equal(results["gallery"], expected)
    assert results["seed"] == 4 and "3 of 3" in results["status"]
    with zipfile.ZipFile(results["zip"]["value"]) as archive:
        drawn = np.asarray(Image.open(io.BytesIO(archive.read("image_out_2.png"))))
        assert archive.read("command.txt").decode().strip() == results["command"]
    np.testing.assert_array_equal(drawn, expected[2])
    before, after = page.comparison(session, 2)
    np.testing.assert_array_equal(after, expected[2])
    assert (before[half_mask() == 0] == 127).all()
    # The next request replaces the ZIP file.
    first = session.archive
    complete(page, session, painted())
    assert first is not None and not first.exists()
    session.close()
    assert session.archive is not None and not session.archive.exists()


def test_choosing_goes_on_with_a_completion_and_undo_goes_back(page):
    session = Session()
    with pytest.raises(UserError, match="no such completion"):
        page.proceed(session)
    samples = complete(page, session, painted())["gallery"]
    page.comparison(session, 1)
    chosen = page.proceed(session)["editor"]
    np.testing.assert_array_equal(chosen["background"], samples[1])
    assert chosen["layers"] == []
    before = read_painting(sent(Painting(samples[1], half_mask())))
    complete(page, session, sent(before))
    page.proceed(session)
    for picture_before in (samples[1], picture(0, 40, 60)):
        value = page.undo(session)["editor"]
        np.testing.assert_array_equal(value["background"], picture_before)
        np.testing.assert_array_equal(value["layers"][0][..., 3] == 0, half_mask() == 1)
    with pytest.raises(UserError, match="nothing to undo"):
        page.undo(session)


def test_a_closed_tab_cancels_its_job(page):
    session = Session()
    updates = page.start(session, painted(), RUN, 16, 0, True, "", 0)
    next(updates)
    assert "status" in next(updates) and session.job is not None
    updates.close()
    assert session.job.cancelled


def test_a_walk_is_shown_and_stopped_between_its_calls(page, monkeypatch):
    on_the_way = np.zeros((2, 8, 8, 3), np.uint8)
    steps, taken = threading.Semaphore(0), []

    def stream(*_):
        for i in range(1, 100):
            assert steps.acquire(timeout=60)
            taken.append(i)
            yield Part(on_the_way + np.uint8(i), i / 100)

    monkeypatch.setattr(Model, "stream", stream)
    monkeypatch.setattr(session_module, "POLL", 0.01)
    session = Session()
    updates = page.start(session, painted(), RUN, 3, 0, True, "", 0)
    steps.release()
    shown = next(update for update in updates if update.get("gallery"))
    np.testing.assert_array_equal(shown["gallery"], on_the_way + 1)
    assert shown["status"] == "0 of 3"
    steps.release()
    later = next(update for update in updates if "left" in update["status"])
    assert later["status"].startswith("0 of 3, about ")
    session.stop()
    steps.release(97)
    (*_, last) = updates
    assert last == {"status": "stopped before the first image", "gallery": []}
    assert len(taken) <= 3


def test_a_new_seed_is_editor_value(page):
    choices = (1, 4, False, "", 0)
    seeds = [
        next(page.start(Session(), painted(), RUN, *choices))["seed"] for _ in range(2)
    ]
    assert len({4, *seeds}) == 3


def test_mistakes_are_sentences(page):
    for value, word in [
        (None, "no picture"),
        ({"background": None, "layers": []}, "no picture"),
        (sent(Painting(picture(0), np.ones((40, 60), np.uint8))), "no hole yet"),
        (painted(4, 4), "smaller than 8 pixels"),
    ]:
        with pytest.raises(UserError, match=word):
            list(page.start(Session(), value, RUN, 3, 0, True, "", 0))
    for number in (float("nan"), float("inf"), "x"):
        with pytest.raises(UserError, match="no whole number"):
            integer("seed", number)
    with pytest.raises(UserError, match="num is 1000"):
        list(page.start(Session(), painted(), RUN, 1000, 0, True, "", 0))


def test_the_browser_sees_no_traceback_and_no_markup(caplog):
    with pytest.raises(gr.Error) as caught, sentences():
        raise ZeroDivisionError("/secret/path")
    assert "/secret" not in str(caught.value) and "/secret/path" in caplog.text
    with pytest.raises(gr.Error) as caught, sentences():
        raise UserError("run '<script>' is none of a; use one of them")
    assert "<script>" not in str(caught.value)


# ---- files ----


def test_a_picture_is_written_once_and_again_when_it_was_deleted(tmp_path, monkeypatch):
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path))
    one, other = picture(0), picture(1)
    event = call(lambda: {"a": [one, other], "b": gr.update(value=one)}, [], [])
    shown = event["fn"]()
    paths = [*map(Path, shown["a"])]
    assert shown["b"]["value"] == shown["a"][0] and len({*paths}) == 2
    for path, pixels in zip(paths, (one, other), strict=True):
        np.testing.assert_array_equal(Image.open(path), pixels)
    paths[0].write_bytes(b"what a browser is reading")
    paths[1].unlink()
    assert event["fn"]() == shown
    assert paths[0].read_bytes() == b"what a browser is reading"
    np.testing.assert_array_equal(Image.open(paths[1]), other)


# ---- the hole ----


def test_named_masks_are_those_of_training(page):
    value, line = page.name_mask(painted(), "center", RUN, 0)
    assert line == "the hole is 25% of the picture"
    hole = value["layers"][0][..., 3] > 0
    assert hole[20, 30] and not hole[2, 30] and abs(hole.mean() - 0.25) < 0.02


def test_outpainting_keeps_the_picture(page):
    value, _ = page.extend(painted(), 5, 0, 0, 7)
    assert value["background"].shape == (47, 65, 3)
    np.testing.assert_array_equal(value["background"][:40, 5:], picture(0, 40, 60))
    known = value["layers"][0][..., 3] == 0
    assert not known[:, :5].any() and not known[40:].any()
    np.testing.assert_array_equal(known[:40, 5:], half_mask() == 1)
    for sides, word in [
        ((0, 0, 0, 0), "no side"),
        ((-1, 0, 0, 0), "left is -1"),
        ((4000, 4000, 0, 0), "more than 100,000"),
        ((1e30, 0, 0, 0), "give 0 to 4096"),
    ]:
        with pytest.raises(UserError, match=word):
            page.extend(painted(), *sides)


def test_rectangles_inversion_and_mask_files(page):
    whole = sent(Painting(picture(0), np.ones((40, 60), np.uint8)))
    value, _ = page.add_rectangle(whole, 50, 30, 20, 20)
    hole = value["layers"][0][..., 3] > 0
    assert hole[30:, 50:].all() and hole.sum() == 100
    with pytest.raises(UserError, match="x is 60"):
        page.add_rectangle(whole, 60, 0, 1, 1)
    known = page.invert(painted())[0]["layers"][0][..., 3] == 0
    np.testing.assert_array_equal(known, half_mask() == 0)
    data = png(half_mask(20, 30) * np.uint8(255))
    value, line = page.load_mask(whole, data, True)
    known = value["layers"][0][..., 3] == 0
    np.testing.assert_array_equal(known, half_mask() == 1)
    assert "resized by nearest" in line


def test_examples_and_runs(page):
    value = page.take_example("cat")
    assert value["background"].shape == (256, 256, 3)
    update, sentence = page.list_runs()
    assert update["value"] == RUN and sentence == ""
    assert not page.choose_sampler(RUN)["visible"]


# ---- the editor ----


class Blob:
    """One drawing of a browser."""

    def __init__(self, name, kind, content, index=None):
        self.data = {"id": name, "type": kind, "index": index}
        self.files = [("file", content)]


def test_drawings_are_decoded_within_limits():
    editor = make_editor(LIMITS)
    editor.accept_blobs(Blob("a", "background", png(picture(0))))  # pyright: ignore
    mask = editor_value(Painting(picture(0), half_mask()))["layers"][0]
    editor.accept_blobs(Blob("a", "layer", png(mask), "0"))  # pyright: ignore
    editor.accept_blobs(Blob("a", "layer", png(mask), "999999999"))  # pyright: ignore
    value = editor.preprocess(EditorData(id="a"))
    painting = read_painting(dict(value or {}))
    np.testing.assert_array_equal(painting.picture, picture(0))
    np.testing.assert_array_equal(painting.mask, half_mask())
    for content in (b"", b"<svg/>", png(np.zeros((400, 400), np.uint8))):
        editor.accept_blobs(Blob("b", "background", content))  # pyright: ignore
        with pytest.raises(gr.Error, match="the drawing cannot be used"):
            editor.preprocess(EditorData(id="b"))
    for i in range(40):
        editor.accept_blobs(Blob(str(i), "background", b""))  # pyright: ignore
    assert len(editor.blob_storage) == 16


def test_the_page_can_be_built(page):
    async def build_in_loop():  # Gradio else makes loops, and leaves them open
        return build(page.worker, LIMITS, page.folder)

    blocks = asyncio.run(build_in_loop())
    functions = blocks.get_config_file()["dependencies"]  # pyright: ignore
    assert len(functions) > 10
    public = [f["api_name"] for f in functions if f["api_visibility"] == "public"]
    assert public == ["complete"]
