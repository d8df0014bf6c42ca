"""The app's scenes of cut-outs: placing, layering, the scene file, and over HTTP."""

import base64
import io
import json
import shlex
import zipfile

import gradio as gr
import numpy as np
import pytest
from helpers.app import client, make_counting_model, make_runs, options, png
from helpers.cutouts import disc
from PIL import Image

from picjax import complete
from picjax.app import scenes
from picjax.app.metrics import Metrics
from picjax.app.server import make_app
from picjax.app.session import Session
from picjax.app.tabs.compose import ComposeTab, Draft
from picjax.app.uploads import Limits
from picjax.app.worker import Worker
from picjax.cli import UserError
from picjax.data import composition

RUN = "one.safetensors"
LIMITS = Limits(10**6, 500_000)
DISC = png(np.asarray(disc()))
SCENE = {
    "width": 60,
    "height": 40,
    "objects": [
        {"file": "b/disc.png", "position": [30, 20], "scale": 0.4, "z": 2},
        {"file": "low.png", "position": [10, 10], "scale": 0.2},
    ],
}
FILES = {"disc.png": DISC, "low.png": png(np.asarray(disc(colour=(0, 200, 0))))}
# A canvas is mostly a hole, which `Model.complete` doubts of an array.
DOUBTFUL = pytest.mark.filterwarnings("ignore::picjax.masks.DoubtfulMask")


@pytest.fixture(scope="module")
def model():
    return make_counting_model()


@pytest.fixture(scope="module")
def tab(tmp_path_factory, model):
    folder = tmp_path_factory.mktemp("compose")
    with pytest.MonkeyPatch.context() as patch:
        runs = make_runs(folder, patch, make=lambda: model)
        yield ComposeTab(Worker(runs), LIMITS, folder)


@pytest.fixture
def web(tab):
    args = options("--max-pixels=300000")
    return client(make_app(tab.worker, Metrics(), args, page=False))


@pytest.fixture
def opened(tab, tmp_path):
    """A tab with SCENE, from its files."""
    (tmp_path / "scene.json").write_text(json.dumps(SCENE))
    for name, content in FILES.items():
        (tmp_path / name).write_bytes(content)
    draft = Draft()
    tab.add_files(draft, [str(path) for path in sorted(tmp_path.iterdir())])
    return draft


def test_a_scene_file_is_opened_with_the_lowest_first(opened):
    assert [entry["file"] for entry in opened.objects] == ["low.png", "disc.png"]
    assert all("z" not in entry for entry in opened.objects)
    assert opened.content["width"] == 60 and set(opened.files) == set(FILES)


def test_cutouts_are_added_in_the_middle_and_above(tab, tmp_path):
    draft = Draft()
    paths = []
    for name in ("a.png", "b.png"):
        paths.append(str(tmp_path / name))
        disc(400).save(paths[-1])
    updates = tab.add_files(draft, paths)
    assert updates["layers"]["choices"] == [("2: b.png", 1), ("1: a.png", 0)]
    assert (updates["x"], updates["y"], updates["scale"]) == (128, 128, 0.32)
    assert updates["preview"].shape == (512, 512, 3)


def test_the_chosen_cutout_is_placed_scaled_raised_and_removed(tab, opened):
    tab.place(opened, 0, 20, 30, 0.5, 45, True)
    expected = {"file": "low.png", "position": [20, 30], "scale": 0.5}
    assert opened.objects[0] == expected | {"rotation": 45, "flip": True}
    factor = 512 // 60
    click = gr.SelectData(None, {"index": [40 * factor, 10 * factor], "value": None})
    moved = tab.move(opened, 0, click)
    assert (moved["x"], moved["y"]) == (40, 10)
    updates = tab.shift(opened, 0, 1)
    assert updates["layers"]["value"] == 1 and opened.objects[1]["file"] == "low.png"
    tab.shift(opened, 1, 1)  # it is the uppermost already
    assert opened.objects[1]["file"] == "low.png"
    tab.remove(opened, 1)
    updates = tab.remove(opened, 0)
    assert opened.objects == [] and updates["layers"]["value"] is None
    with pytest.raises(UserError, match="no cut-out is chosen"):
        list(tab.start(Session(), opened, RUN, 1, 0, True, ""))


def test_the_chosen_one_has_a_frame_and_holes_are_chequered():
    scene = scenes.read(scenes.parse(json.dumps(SCENE)), FILES, LIMITS)
    plain, framed = scenes.preview(scene, None), scenes.preview(scene, 1)
    changed = (plain != framed).any(-1)
    assert (framed[changed] == scenes.FRAME).all() and 100 < changed.sum() < 3000
    corner = plain[-48:, -48:]
    assert set(np.unique(corner)) == {scenes.DARK, scenes.LIGHT}


def test_what_is_invalid_leaves_the_scene_as_it_was(tab, opened, tmp_path):
    before = json.dumps(opened.content)
    for change, message in [
        (lambda: tab.place(opened, 0, 900, 30, 1, 0, False), "lies wholly outside"),
        (lambda: tab.place(opened, 0, 20, 30, 60, 0, False), "at their scales"),
        (
            lambda: tab.place(opened, 0, 20, 30, float("nan"), 0, False),
            "'scale' is NaN",
        ),
        (lambda: tab.place(opened, 7, 20, 30, 1, 0, False), "no cut-out is chosen"),
        (lambda: tab.resize(opened, 0, 3, 40), "'width' is 3"),
        (lambda: tab.resize(opened, 0, 4000, 4000), "the canvas: 16,000,000"),
        (lambda: tab.add_files(opened, [str(tmp_path / "scene.json")]), "not among"),
    ]:
        with pytest.raises(UserError, match=message):
            change()
    assert json.dumps(opened.content) == before


def test_an_example_is_a_scene_of_photographs(tab):
    draft = Draft()
    updates = tab.take_example(draft, "visit")
    assert [entry["file"] for entry in draft.objects][-1] == "astronaut.png"
    assert updates["flip"] and updates["preview"].shape == (512, 512, 3)


@DOUBTFUL
def test_the_zip_has_the_scene_and_its_command_draws_the_same_pixels(
    tab, model, opened, tmp_path, monkeypatch
):
    session = Session()
    updates = list(tab.start(session, opened, RUN, 3, 5, True, ""))
    results = {name: value for update in updates for name, value in update.items()}
    out = tmp_path / "zip"
    with zipfile.ZipFile(results["zip"]["value"]) as archive:
        archive.extractall(out)
    image, mask = composition.compose(out / "scene.json")
    expected = model.complete(image, mask[..., 0], n=3, seed=5)
    np.testing.assert_array_equal(results["gallery"], expected)
    before, _ = results["slider"]
    np.testing.assert_array_equal(before[mask[..., 0] == 1], image[mask[..., 0] == 1])
    monkeypatch.setattr(complete, "load", lambda *_: model)
    monkeypatch.chdir(out)
    complete.main(shlex.split(results["command"])[3:])
    for i, sample in enumerate(expected):
        for file in (f"scene_out_{i}.png", f"completions/scene_out_{i}.png"):
            np.testing.assert_array_equal(np.asarray(Image.open(file)), sample)


# ---- over HTTP ----


def send(web, scene=SCENE, files=FILES, **data):
    text = scene if isinstance(scene, str) else json.dumps(scene)
    parts = [("scene", ("s.json", text))]
    parts += [("files", (f"../{name}", content)) for name, content in files.items()]
    return web.post("/api/compose", files=parts, data=data)


@DOUBTFUL
def test_the_endpoint_completes_scenes(web, model, opened):
    answer = send(web, num=2, seed=3)
    assert answer.status_code == 200, answer.text
    body = answer.json()
    drawn = [
        np.asarray(Image.open(io.BytesIO(base64.b64decode(file))))
        for file in body["completions"]
    ]
    scene = scenes.read(opened.content, opened.files, LIMITS)
    image, mask = composition.compose(scene)
    np.testing.assert_array_equal(drawn, model.complete(image, mask[..., 0], 2, 3))
    assert "--compose=scene.json" in body["command"] and body["size"] == [40, 60]


ENTRY = {"file": "disc.png", "position": [30, 20]}


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ("{", "not JSON"),
        ("[" * 10**5, "not JSON"),
        ({"width": 8192, "height": 8192}, "the canvas: 67,108,864 pixels"),
        ({"objects": [ENTRY | {"scale": 100}]}, "at their scales: 40,960,000"),
        ({"objects": [ENTRY] * 65}, "65 objects"),
        ({"objects": [ENTRY | {"file": "/etc/passwd"}]}, "is not among the files"),
        ({"objects": [ENTRY | {"position": [1e9, 0]}]}, "'position' is"),
        ({"objects": []}, "'objects' is []"),
        ({"background": "low.png", "colour": 3}, "none of its keys"),
        ({"objects": [ENTRY | {"scale": 0.01}]}, "nothing on the canvas"),
    ],
)
def test_a_wrong_scene_is_one_sentence(web, changes, word):
    answer = send(web, changes if isinstance(changes, str) else SCENE | changes)
    assert answer.status_code == 400
    sentence = answer.json()["error"]
    assert word in sentence and "\n" not in sentence and "Traceback" not in sentence


def test_a_file_that_is_no_cutout_is_one_sentence(web):
    for content, advice in (
        (b"x", "; give a PNG"),
        (png(np.zeros((9, 9, 3), np.uint8)), "has no alpha"),
        (
            png(np.zeros((900, 900), np.uint8)),
            "pixels are more than 295,904); make it smaller",
        ),
    ):
        answer = send(web, files=FILES | {"disc.png": content})
        sentence = answer.json()["error"]
        assert answer.status_code == 400 and "disc.png" in sentence
        assert advice in sentence
