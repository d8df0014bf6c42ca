"""The app's label maps: painting, redrawing, styles, and the same over HTTP."""

import base64
import io
import shlex
import zipfile

import gradio as gr
import numpy as np
import pytest
from helpers.app import client, make_runs, options, png
from helpers.layouts import LAYOUT_SIZE, layout, make_layout_model
from PIL import Image

from picjax import Reference, complete
from picjax.app import examples, layouts
from picjax.app.layouts import LabelMaps
from picjax.app.metrics import Metrics
from picjax.app.requests import SynthesisRequest
from picjax.app.server import make_app
from picjax.app.session import Session
from picjax.app.tabs.labels import Draft, LabelsTab
from picjax.app.tabs.styles import Lender, Styles
from picjax.app.uploads import Limits
from picjax.app.worker import Worker
from picjax.cli import UserError
from picjax.data import maps

RUN = "one.safetensors"
PALETTE = maps.palette(4)
NOTHING = {"background": None, "layers": [], "composite": None}
LABELS, INSTANCES = layout()


@pytest.fixture(scope="module")
def model():
    with pytest.MonkeyPatch.context() as patch:
        yield make_layout_model(patch)


@pytest.fixture(scope="module")
def tab(tmp_path_factory, model):
    folder = tmp_path_factory.mktemp("labels")
    with pytest.MonkeyPatch.context() as patch:
        runs = make_runs(folder, patch, make=lambda: model)
        yield LabelsTab(Worker(runs), Limits(10**6, 100_000), folder)


@pytest.fixture(scope="module")
def styles(tab):
    return Styles(tab.info, tab.limits)


@pytest.fixture
def web(tab):
    args = options("--max-pixels=100000")
    return client(make_app(tab.worker, Metrics(), args, page=False))


def loaded(tab) -> Draft:
    """A tab with the layout of the helper, from its files."""
    draft = Draft()
    tab.choose_run(draft, RUN)
    tab.load_labels(draft, RUN, png(LABELS))
    tab.load_instances(draft, NOTHING, RUN, png(INSTANCES))
    return draft


def drawn(tab, draft, lender=None, *, editor=NOTHING, chosen=(), redraw=True, pairs=""):
    """The tab's session and all updates of one click, merged."""
    session = Session()
    numbers = (RUN, 3, 1, True)
    fields = (draft, lender or Lender(), editor, *numbers, list(chosen), redraw, pairs)
    updates = list(tab.start(session, *fields))
    return session, {name: x for update in updates for name, x in update.items()}


def click(x: int, y: int) -> gr.SelectData:
    """A click at a pixel of a picture."""
    return gr.SelectData(None, {"index": [x, y], "value": None})


def painted(*boxes: tuple[int, tuple[slice, slice]]) -> dict:
    """An editor with rectangles of classes, on a canvas of 160 x 240."""
    layer = np.zeros((160, 240, 4), np.uint8)
    for number, box in boxes:
        layer[box] = (*PALETTE[number], 255)
    return NOTHING | {"layers": [Image.fromarray(layer)]}


# ---- painting ----


def test_each_connected_stroke_of_a_class_is_an_instance():
    upper, lower = np.s_[8:40, 8:80], np.s_[80:120, 8:80]
    value = painted((1, upper), (1, lower), (2, np.s_[8:40, 80:160]))
    strokes = layouts.read_strokes(value, (40, 60), PALETTE)
    result = layouts.with_strokes(layouts.blank((40, 60)), strokes)
    assert layouts.classes_of(result) == {0: 0, 1: 1, 2: 1, 3: 2}
    np.testing.assert_array_equal(result.instance[2:10, 2:20], 1)
    np.testing.assert_array_equal(result.label[20:30, 2:20], 1)
    # A stroke beside an earlier one of its class is another instance.
    beside = layouts.read_strokes(painted((1, np.s_[40:80, 8:80])), (40, 60), PALETTE)
    assert layouts.classes_of(layouts.with_strokes(result, beside))[4] == 1


def test_mixed_colours_have_the_class_of_a_neighbour():
    value = painted((1, np.s_[:, :80]), (3, np.s_[:, 80:]))
    pixels = np.array(value["layers"][0])
    pixels[:, 79:81, :3] = PALETTE[2]  # is no mixture, but one of the classes
    pixels[:, 78:82, :3] = (PALETTE[1].astype(int) + PALETTE[3]) // 2
    pixels[:40, :, 3] = 100
    layers = [Image.fromarray(pixels)]
    strokes = layouts.read_strokes(NOTHING | {"layers": layers}, (160, 240), PALETTE)
    assert set(np.unique(strokes[40:])) == {1, 3} and (strokes[:40] == -1).all()


def test_a_run_has_an_empty_layout_its_classes_and_examples(tab, styles):
    draft = Draft()
    assert tab.choose_run(draft, None) == {"example": None} and draft.layout is None
    assert styles.choose_run(Lender(), None) == {"reference": None, "pairs": ""}
    updates = tab.choose_run(draft, RUN)
    assert updates["class"]["choices"][1] == ("disk", 1)
    assert updates["editor"]["value"]["background"].shape == (512, 512, 3)
    assert updates["editor"]["brush"].default_color == "#{:02x}{:02x}{:02x}".format(
        *PALETTE[3]
    )
    tab.take_example(draft, RUN, "scene 2")
    assert draft.layout is not None and draft.layout.instance.max() == 4
    updates = tab.add_strokes(draft, painted((2, np.s_[60:100, 90:150])), RUN, [4, 9])
    assert ("5: square", 5) in updates["chosen"]["choices"]
    assert updates["chosen"]["value"] == [4]
    tab.clear(draft, RUN)
    assert not draft.layout.label.any()


def test_clusters_make_layouts_of_photographs(tab):
    info = tab.info(RUN)._replace(data="photos", size=(32, 32), instances=6)
    picture, found = examples.read_layout(info, "cat")
    assert picture.shape == (256, 256, 3) and found.label.shape == (32, 32)
    assert 1 < len(layouts.classes_of(found)) <= 6


def test_a_click_chooses_an_instance_and_another_one_does_not(tab):
    draft = loaded(tab)
    factor = layouts.SIDE // 60
    upper_right = click(50 * factor, 5 * factor)
    assert tab.toggle(draft, [1], upper_right) == [1, 4]
    assert tab.toggle(draft, [1, 4], upper_right) == [1]
    pale, chosen = (tab.choose(draft, RUN, ids) for ids in ([], [4]))
    differ = (pale != chosen).any(-1)
    assert (
        differ[30 * factor, 5 * factor]
        and not differ[3, 35 * factor : 40 * factor].any()
    )


# ---- drawing ----


def test_images_of_a_layout_and_one_of_its_instances_drawn_again(tab, model):
    draft = loaded(tab)
    session, results = drawn(tab, draft)
    expected = model.synthesise(LABELS, INSTANCES, n=3, seed=1)
    np.testing.assert_array_equal(results["gallery"], expected)
    _, again = drawn(tab, draft, chosen=[4])
    images = model.synthesise(LABELS, INSTANCES, n=3, seed=1, redraw=[4])
    np.testing.assert_array_equal(again["gallery"], images)
    _, free = drawn(tab, draft, chosen=[4], redraw=False)
    np.testing.assert_array_equal(free["gallery"], expected)
    assert "--redraw 4" in again["command"] and "--redraw" not in free["command"]
    session.close()


def test_strokes_on_the_editor_are_drawn_too(tab):
    draft = loaded(tab)
    _, results = drawn(tab, draft, editor=painted((2, np.s_[100:140, 20:60])))
    assert draft.layout is not None and draft.layout.label[30, 10] == 2
    assert results["editor"]["value"]["layers"] == []
    assert ("5: square", 5) in results["chosen"]["choices"]


def test_an_instance_takes_the_style_of_the_one_that_was_clicked(tab, styles):
    draft, lender = loaded(tab), Lender()
    style = np.full((*LAYOUT_SIZE, 3), 10, np.uint8)
    style[INSTANCES == 1] = (200, 100, 50)
    styles.load(lender, RUN, png(style))
    with pytest.raises(UserError, match="needs a picture and its label map"):
        drawn(tab, draft, lender)
    with pytest.raises(UserError, match="has no label map yet"):
        styles.load_instances(lender, png(INSTANCES))
    styles.load_labels(lender, png(LABELS))
    styles.load_instances(lender, png(INSTANCES))
    pairs = styles.lend(lender, [4], "0:0 4:0", click(20, 20))
    assert pairs == "0:0 4:1"
    _, results = drawn(tab, draft, lender, pairs=pairs)
    colour = np.stack(results["gallery"])[:, 5, 45].astype(int)
    assert (np.abs(colour - (200, 100, 50)) <= 2).all()
    assert styles.choose_run(lender, RUN)["lender"]["choices"][0] == "scene 1"
    assert drawn(tab, draft, lender)[1]["command"].count("--style") == 0


def test_the_zip_and_its_command_draw_the_same_pixels(
    tab, styles, model, tmp_path, monkeypatch
):
    draft, lender = loaded(tab), Lender()
    styles.take_example(lender, RUN, "scene 1")
    _, results = drawn(tab, draft, lender, chosen=[1, 4], pairs="1:1 4:2")
    with zipfile.ZipFile(results["zip"]["value"]) as archive:
        archive.extractall(tmp_path)
    monkeypatch.setattr(complete, "load", lambda *_: model)
    monkeypatch.chdir(tmp_path)
    words = shlex.split(results["command"])
    assert {"--style-of", "1:1", "4:2", "--redraw", "1", "4"} <= set(words)
    complete.main(words[3:])
    for i, sample in enumerate(results["gallery"]):
        for file in (f"layout_out_{i}.png", f"completions/layout_out_{i}.png"):
            np.testing.assert_array_equal(np.asarray(Image.open(file)), sample)


def test_a_style_needs_a_reference():
    maps_of = {"labels": np.zeros((8, 8), np.int32), "run": RUN}
    with pytest.raises(UserError, match="style_of needs a reference"):
        SynthesisRequest(**maps_of, style_of=("1:1",))


def test_a_layout_of_many_pixels_is_shown_as_it_is():
    wide = LabelMaps(*(np.zeros((20, 1200), np.int32) for _ in range(2)))
    assert (
        layouts.outlined(np.zeros((20, 1200, 3), np.uint8), wide, ()).shape[1] == 1200
    )
    with pytest.raises(UserError, match="outside of the layout"):
        layouts.instance_at(wide, 3, 20)


# ---- over HTTP ----


def files(**changes) -> dict[str, bytes]:
    sent = {"labels": png(LABELS), "instances": png(INSTANCES), **changes}
    return {name: content for name, content in sent.items() if content}


def test_the_endpoint_draws_what_the_model_draws(web, model):
    style = np.full((*LAYOUT_SIZE, 3), 90, np.uint8)
    sent = files(style=png(style), style_labels=png(LABELS))
    data = {"num": 2, "seed": 3, "redraw": "4", "style_of": "4:1"}
    answer = web.post("/api/synthesise", files=sent, data=data)
    assert answer.status_code == 200, answer.text
    body = answer.json()
    images = [
        np.asarray(Image.open(io.BytesIO(base64.b64decode(file))))
        for file in body["images"]
    ]
    styles = {4: (Reference(style, LABELS), 1)}
    options = {"n": 2, "seed": 3, "redraw": [4], "styles": styles}
    expected = model.synthesise(LABELS, INSTANCES, **options)
    np.testing.assert_array_equal(images, expected)
    assert body["size"] == [*LAYOUT_SIZE] and "--style-of 4:1" in body["command"]
    assert web.get("/api/runs").json()[0]["classes"][1] == "disk"
    assert "/api/synthesise" in web.get("/openapi.json").json()["paths"]


@pytest.mark.parametrize(
    ("changes", "fields", "word"),
    [
        ({"labels": b"x"}, {}, "labels cannot be used"),
        ({"labels": png(LABELS * 9)}, {}, "labels from 0 to 9"),
        ({"labels": png(np.zeros((400, 400), np.uint8))}, {}, "are more than 100,000"),
        ({"instances": png(INSTANCES[:8])}, {}, "resize both"),
        (
            {"labels": png(np.dstack([LABELS, LABELS + 1, LABELS]))},
            {},
            "not its colours",
        ),
        ({}, {"redraw": "3"}, "redraw 3 is no instance"),
        ({}, {"redraw": "all"}, "no id of an instance"),
        ({}, {"style_of": "1:1"}, "style_of needs a reference"),
        ({"style": png(LABELS)}, {}, "go together"),
        ({}, {"num": "1000"}, "num"),
    ],
)
def test_a_wrong_map_or_field_is_one_sentence(web, changes, fields, word):
    answer = web.post("/api/synthesise", files=files(**changes), data=fields)
    assert answer.status_code == 400
    sentence = answer.json()["error"]
    assert word in sentence and "\n" not in sentence and "Traceback" not in sentence


def test_a_run_on_layouts_completes_no_pictures(web):
    sent = {"image": png(LABELS), "mask": png(LABELS)}
    answer = web.post("/api/complete", files=sent, data={"run": RUN})
    assert answer.status_code == 400 and "label maps" in answer.json()["error"]
