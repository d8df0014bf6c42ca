"""The app as a person uses it, in Debian's Chromium: make test-app."""

import base64
import io
import json
import shlex
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NamedTuple

import httpx
import hypothesis
import numpy as np
import pytest
from helpers import hostile
from helpers.app import request_files
from helpers.browser import (
    CHROMIUM,
    OPTIONS,
    environment,
    missing,
    serving,
    stop,
    write_run,
)
from helpers.pictures import picture
from PIL import Image

from picjax.data.maps import palette

pytestmark = [
    pytest.mark.skipif(bool(missing()), reason=missing()),
    pytest.mark.filterwarnings("default"),
]
SLOW = 300_000  # milliseconds: the first images compile
SIZE = (72, 96)
WHITE = [255, 255, 255]  # an empty canvas
CLASSES = palette(
    4
).tolist()  # colours of the run `layouts`: background, disc, square, ...


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    folder = tmp_path_factory.mktemp("app")
    write_run(folder / "runs" / "walk", "painter")
    write_run(folder / "runs" / "layouts", "inade")
    write_run(folder / "runs" / "tiny", "pix2pix")
    Image.fromarray(picture(5, *SIZE)).save(folder / "photo.png")
    with serving(folder, "--max-pixels=400000") as (address, process):
        yield address, process, folder


@pytest.fixture(scope="module")
def chromium():
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=[*OPTIONS])
        yield browser
        browser.close()


def visit(chromium, server, tab="Complete"):
    """A tab in a new browser."""
    page = chromium.new_context(viewport={"width": 1280, "height": 1000}).new_page()
    page.set_default_timeout(SLOW)
    page.goto(server[0])
    page.get_by_role("tab", name=tab).click()
    return page


def opened(chromium, server):
    """A new browser's page with the photograph on its canvas, and the run `tiny`."""
    page = visit(chromium, server)
    page.wait_for_selector("#editor canvas")
    page.wait_for_function("document.querySelector('#complete-run input').value")
    choose(page, "complete-run", "tiny")
    with changed(page, "editor"):
        page.locator("#editor input[type=file]").first.set_input_files(
            server[2] / "photo.png"
        )
        page.wait_for_selector("#editor button[aria-label='Brush']")
        until(page, lambda: centre(page, "editor") != WHITE)
    return page


def until(page, condition: Callable[[], bool]) -> None:
    """Wait for what the browser cannot see."""
    end = time.monotonic() + SLOW / 1000
    while not condition():
        assert time.monotonic() < end
        page.wait_for_timeout(100)


@contextmanager
def changed(page, editor: str) -> Iterator[None]:
    """After the block, wait until the editor shows something else, and moves no more."""
    shots = [page.locator(f"#{editor}").screenshot()]
    yield

    def still() -> bool:
        shots.append(page.locator(f"#{editor}").screenshot())
        return shots[-1] == shots[-2] != shots[0]

    until(page, still)


@contextmanager
def another(page, picture: str) -> Iterator[None]:
    """After the block, wait until a picture is another one."""
    before = page.locator(f"#{picture} img").get_attribute("src")
    yield
    page.wait_for_function(
        """([name, before]) => {
            const picture = document.querySelector(`#${name} img`);
            return picture && picture.getAttribute("src") != before
                && picture.naturalWidth;
        }""",
        arg=[picture, before],
    )


def choose(page, field: str, option: str) -> None:
    page.locator(f"#{field} input").click()
    page.get_by_role("option", name=option, exact=True).click()


def name_mask(page, name: str) -> None:
    """Take a named mask, and wait until the canvas has it."""
    with changed(page, "editor"):
        choose(page, "named", name)
        page.wait_for_function(
            "document.querySelector('#complete-status').innerText.includes('the hole is')"
        )


def centre(page, editor: str) -> list[int]:
    """The colour in the middle of the canvas."""
    shot = page.locator(f"#{editor} canvas").first.screenshot()
    image = np.asarray(Image.open(io.BytesIO(shot)).convert("RGB"))
    return image[image.shape[0] // 2, image.shape[1] // 2].tolist()


def paint(page, editor="editor", below: int = 0) -> None:
    """A stroke across the middle of the canvas, or so many pixels below it."""
    box = page.locator(f"#{editor} canvas").first.bounding_box()
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2 + below
    page.mouse.move(x - 40, y)
    page.mouse.down()
    page.mouse.move(x + 40, y + 20, steps=8)
    page.mouse.up()


class Drawn(NamedTuple):
    """The content of a ZIP."""

    files: dict[str, bytes]
    command: str

    def __getitem__(self, name: str) -> np.ndarray:  # pyright: ignore
        return np.asarray(Image.open(io.BytesIO(self.files[name])))


def complete(page, tab="complete") -> Drawn:
    """Press the tab's button and wait for the ZIP."""
    page.locator(f"#{tab}-start").click()
    page.wait_for_function(
        f"document.querySelector('#{tab}-status').innerText.includes('seed')"
        f" && !document.querySelector('#{tab}-zip').disabled"
        f" && document.querySelector('#{tab}-command textarea').value"
    )
    with page.expect_download() as download:
        page.locator(f"#{tab}-zip").click()
    with zipfile.ZipFile(download.value.path()) as archive:
        files = {name: archive.read(name) for name in archive.namelist()}
    command = files.pop("command.txt").decode()
    assert page.locator(f"#{tab}-command textarea").input_value() == command.strip()
    return Drawn(files, command)


def repeat(drawn: Drawn, server, folder) -> None:
    """The printed command draws the same pixels from the files of the ZIP."""
    for name, content in drawn.files.items():
        (folder / name).write_bytes(content)
    words = shlex.split(drawn.command)
    run = next(word for word in words if word.startswith("--workdir="))
    words[words.index(run)] = f"--workdir={server[2]}/{run.partition('=')[2]}"
    done = subprocess.run(
        [sys.executable, *words[1:]], cwd=folder, env=environment(), check=False
    )
    assert done.returncode == 0
    for name in drawn.files:
        if "_out_" in name:
            repeated = np.asarray(Image.open(folder / "completions" / name))
            np.testing.assert_array_equal(repeated, drawn[name])


def check(drawn: Drawn, num: int) -> None:
    """Known pixels are the picture's, and the completions differ."""
    known = drawn["mask.png"] == 0
    assert 0.002 < 1 - known.mean() < 0.9
    samples = [drawn[f"image_out_{i}.png"] for i in range(num)]
    for sample in samples:
        np.testing.assert_array_equal(sample[known], drawn["image.png"][known])
        assert (sample[~known] != drawn["image.png"][~known]).any()


def test_paint_complete_choose_undo_and_repeat_by_the_command(
    server, chromium, tmp_path
):
    page = opened(chromium, server)
    paint(page)
    drawn = complete(page)
    np.testing.assert_array_equal(drawn["image.png"], picture(5, *SIZE))
    check(drawn, 6)
    assert page.locator("#complete-gallery button img").count() >= 6

    repeat(drawn, server, tmp_path)

    # Choose the third, go on painting on it, and undo.
    third = page.locator("#complete-gallery button img").nth(2)
    shown = page.locator(f"#complete-slider img[src='{third.get_attribute('src')}']")
    third.click()
    shown.first.wait_for(state="attached")
    with changed(page, "editor"):
        page.locator("#proceed").click()
        page.wait_for_function(
            "document.querySelector('#complete-status').innerText.includes('1 step(s) to undo')"
        )
    paint(page, below=30)  # the same hole would have the same completions
    further = complete(page)
    np.testing.assert_array_equal(further["image.png"], drawn["image_out_2.png"])
    check(further, 6)
    with changed(page, "editor"):
        page.locator("#undo").click()
        page.wait_for_function(
            "document.querySelector('#complete-status').innerText.includes('0 step(s) left')"
        )
    again = complete(page)
    np.testing.assert_array_equal(again["image.png"], drawn["image.png"])
    np.testing.assert_array_equal(again["mask.png"], drawn["mask.png"])
    np.testing.assert_array_equal(again["image_out_2.png"], drawn["image_out_2.png"])


def test_paint_a_layout_and_redraw_one_of_its_instances(server, chromium, tmp_path):
    page = visit(chromium, server, "Labels")
    page.wait_for_selector("#labels-instances img")
    until(page, lambda: centre(page, "labels-editor") == CLASSES[0])
    with changed(page, "labels-editor"):
        choose(page, "labels-class", "square")
    page.locator("#labels-editor button[aria-label='Brush']").click()
    paint(page, "labels-editor")
    until(page, lambda: centre(page, "labels-editor") == CLASSES[2])
    with another(page, "labels-instances"):
        page.locator("#labels-add").click()
    picture = page.locator("#labels-instances img")
    box = picture.bounding_box()
    middle = {"x": box["width"] / 2, "y": box["height"] / 2}
    picture.click(position=middle)
    page.get_by_text("1: square").first.wait_for()
    drawn = complete(page, "labels")
    label, instance = drawn["layout_label.png"], drawn["layout_instance.png"]
    assert set(np.unique(label)) == {0, 2} and set(np.unique(instance)) == {0, 1}
    assert 0.01 < (label == 2).mean() < 0.5
    np.testing.assert_array_equal(label == 2, instance == 1)
    assert "--redraw 1" in drawn.command
    images = [drawn[f"layout_out_{i}.png"] for i in range(6)]
    assert any((image != images[0]).any() for image in images[1:])
    repeat(drawn, server, tmp_path)


def test_compose_a_scene_and_paint_around_it(server, chromium, tmp_path):
    page = visit(chromium, server, "Compose")
    page.wait_for_function("document.querySelector('#compose-run input').value")
    choose(page, "compose-run", "walk")
    choose(page, "compose-sampler", "draft")
    picture = page.locator("#compose-canvas img")
    with another(page, "compose-canvas"):
        choose(page, "compose-example", "table")
    page.get_by_label("2: cup.png").wait_for()
    box = picture.bounding_box()
    with another(page, "compose-canvas"):
        picture.click(position={"x": box["width"] * 0.75, "y": box["height"] * 0.75})
    drawn = complete(page, "compose")
    scene = json.loads(drawn.files["scene.json"])
    assert [entry["file"] for entry in scene["objects"]] == ["cat.png", "cup.png"]
    assert np.abs(np.subtract(scene["objects"][1]["position"], 192)).max() <= 2
    assert drawn["scene_out_0.png"].shape == (256, 256, 3)
    repeat(drawn, server, tmp_path)


def test_two_browsers_and_named_masks(server, chromium):
    pages = [opened(chromium, server) for _ in range(2)]
    for page, name in zip(pages, ("center", "left"), strict=True):
        name_mask(page, name)
    holes = []
    for page in pages:
        drawn = complete(page)
        check(drawn, 6)
        holes.append(drawn["mask.png"] == 255)
    h, w = SIZE
    assert holes[0][h // 2, w // 2] and not holes[0][2, w // 2]
    assert holes[1][:, -1].all() and not holes[1][:, 0].any()


def test_a_mistake_is_one_sentence(server, chromium):
    page = opened(chromium, server)
    page.locator("#complete-start").click()
    toast = page.get_by_text("there is no hole yet; paint one")
    toast.wait_for()
    name_mask(page, "center")
    check(complete(page), 6)


def test_stop_and_refresh_in_the_middle_of_a_walk(server, chromium):
    def outcomes() -> str:
        return httpx.get(f"{server[0]}/metrics").text

    page = opened(chromium, server)
    choose(page, "complete-run", "walk")
    name_mask(page, "center")
    choose(page, "complete-sampler", "repaint")
    page.locator("#complete-start").click()
    page.locator("#complete-gallery button img").first.wait_for()  # on its way
    page.wait_for_function(
        "document.querySelector('#complete-status').innerText.includes('left')"
    )
    page.locator("#complete-stop").click()
    page.wait_for_function(
        "/seed|stopped/.test(document.querySelector('#complete-status').innerText)"
    )
    assert "6 of 6" not in page.locator("#complete-status").inner_text()
    assert 'outcome="cancelled"} 1.0' in outcomes()
    page.locator("#complete-start").click()
    page.wait_for_function(
        "document.querySelector('#complete-status').innerText.includes('left')"
    )
    page.reload()
    page.wait_for_selector("#editor canvas")
    until(page, lambda: 'outcome="cancelled"} 2.0' in outcomes())
    assert httpx.get(f"{server[0]}/ready").status_code == 200


def test_gradio_client_completes_files(server, tmp_path):
    from gradio_client import Client, handle_file

    files = request_files()
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
    client = Client(server[0], verbose=False, download_files=str(tmp_path / "got"))
    image, mask = (handle_file(str(tmp_path / name)) for name in ("image", "mask"))
    drawn = client.predict(image, mask, "tiny", 2, 7, api_name="/complete")
    data = {"run": "tiny", "num": "2", "seed": "7"}
    answer = httpx.post(
        f"{server[0]}/api/complete", files=files, data=data, timeout=120
    )
    for one, file in zip(drawn, answer.json()["completions"], strict=True):
        expected = Image.open(io.BytesIO(base64.b64decode(file)))
        np.testing.assert_array_equal(Image.open(one["image"]), expected)


def test_malformed_requests_leave_the_server_whole(server):
    address, process, folder = server
    files = request_files()
    statuses = []

    @hypothesis.settings(max_examples=300, derandomize=True, deadline=None)
    @hypothesis.given(
        hostile.recipes(), hostile.recipes(), hostile.NUMBERS, hostile.NAMES
    )
    def send(image, mask, number, name):
        name = name.encode("ascii", "ignore").decode() or "x"
        sent = {
            "image": (f"../../{name}", hostile.content(image)),
            "mask": (name, hostile.content(mask)),
        }
        data = {"run": "tiny", "num": str(number), "seed": str(number)}
        data = data if len(statuses) % 2 else {"run": "tiny", "num": "2"}
        endpoint = "complete"
        if len(statuses) % 3 == 0:
            sent = {"labels": sent["image"], "style": sent["mask"]}
            sent |= {"style_labels": sent["labels"]} if len(statuses) % 2 else {}
            data |= {"run": "layouts"}
            endpoint = "synthesise"
        answer = httpx.post(
            f"{address}/api/{endpoint}?format=zip", files=sent, data=data, timeout=120
        )
        statuses.append(answer.status_code)
        assert answer.status_code in (200, 400)
        if answer.status_code == 400:
            sentence = answer.json()["error"]
            assert len(sentence.splitlines()) == 1 and "Traceback" not in sentence
            assert str(folder) not in sentence and "site-packages" not in sentence

    send()
    assert statuses.count(200) > 20 and statuses.count(400) > 50
    assert process.poll() is None
    good = httpx.post(
        f"{address}/api/complete", files=files, data={"run": "tiny"}, timeout=120
    )
    assert good.status_code == 200
    assert "Traceback" not in (folder / "log").read_text()


def test_files_of_the_server_cannot_be_read(server):
    address, _, folder = server
    for path in (folder / "log", folder / "runs/tiny/config.json", "/etc/passwd"):
        for route in ("/gradio_api/file=", "/file=", "/gradio_api/file/"):
            answer = httpx.get(f"{address}{route}{path}", follow_redirects=True)
            assert answer.status_code >= 400 or b"<html" in answer.content
            assert b"root:" not in answer.content and b'"system"' not in answer.content


def test_sigterm_ends_the_server_and_its_files_while_a_page_is_open(server, chromium):
    _, process, folder = server
    visit(chromium, server).wait_for_function(
        "document.querySelector('#complete-run input')?.value"
    )
    assert stop(process) == 0
    assert not list((folder / "tmp").glob("picjax-app-*"))
    assert "Traceback" not in (folder / "log").read_text()
