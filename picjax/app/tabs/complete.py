"""The first tab: paint a hole into a picture, complete it, choose, go on."""

from functools import partial
from typing import Any

import gradio as gr
import numpy as np

from picjax import masks
from picjax.app import examples
from picjax.app.painting import (
    Painting,
    editor_value,
    extended,
    make_editor,
    read_painting,
    with_rectangle,
)
from picjax.app.requests import MAX_NUM, CompletionRequest
from picjax.app.session import Session
from picjax.app.tabs import parts as common
from picjax.app.tabs.base import (
    Number,
    Tab,
    Updates,
    as_sentences,
    integer,
    settings,
)
from picjax.app.tabs.parts import Parts, call, call_by_name
from picjax.app.uploads import Limits, read_mask, read_picture
from picjax.cli import UserError
from picjax.images import Picture


class CompleteTab(Tab):
    """Functions of the tab."""

    # ---- the hole ----

    def take_example(self, name: str) -> Any:
        """A photograph to paint on."""
        picture = examples.photo(name)
        return editor_value(Painting(picture, np.ones(picture.shape[:2], np.uint8)))

    def name_mask(
        self, value: Any, name: str, run: str | None, seed: Number
    ) -> tuple[Any, str]:
        """A named mask as in training: drawn at the size of the run."""
        painting = read_painting(value)
        size = self.worker.runs.info(run).size if run else None
        seed = integer("seed", seed)
        mask, _ = masks.resolve(name, painting.picture, seed, size)
        return with_hole(painting._replace(mask=mask))

    def load_mask(self, value: Any, data: bytes, invert: bool) -> tuple[Any, str]:
        """A mask file, with what is doubtful about it."""
        painting = read_painting(value)
        mask, warnings = read_mask(data, painting.mask.shape, self.limits, invert)
        editor, line = with_hole(painting._replace(mask=mask))
        return editor, f"{line}. {as_sentences(warnings)}"

    def extend(self, value: Any, *sides: Number) -> tuple[Any, str]:
        """Outpainting: the picture with a border of hole."""
        left, top, right, bottom = (integer("pixels", side) for side in sides)
        painting = read_painting(value)
        return with_hole(extended(painting, (left, top, right, bottom), self.limits))

    def add_rectangle(self, value: Any, *numbers: Number) -> tuple[Any, str]:
        """A rectangle added to the hole."""
        x, y, width, height = (integer("the rectangle", n) for n in numbers)
        painting = read_painting(value)
        return with_hole(with_rectangle(painting, (x, y), (width, height)))

    def invert(self, value: Any) -> tuple[Any, str]:
        """Hole and known part exchanged."""
        painting = read_painting(value)
        return with_hole(painting._replace(mask=1 - painting.mask))

    # ---- completions ----

    def start(self, session: Session, *fields: Any) -> Updates:
        """Completions as they are drawn."""
        value, run, num, seed, fixed, sampler, best_of = fields
        painting = read_painting(value)
        if not painting.has_hole:
            raise UserError("there is no hole yet; paint one, or take a named mask")
        request = CompletionRequest(
            **settings(run, num, seed, fixed, sampler),
            picture=Picture(painting.picture),
            mask=painting.mask,
            best_of=integer("best of", best_of) or None,
        )
        return self.generate(session, request, painting)

    def proceed(self, session: Session) -> dict[str, Any]:
        """The chosen completion becomes the picture."""
        painting = session.proceed()
        back = len(session.history)
        line = f"painting on the chosen completion; {back} step(s) to undo"
        return {"editor": editor_value(painting), "status": line, "gallery": []}

    def undo(self, session: Session) -> dict[str, Any]:
        """The picture and hole before the last choice."""
        painting = session.undo()
        line = f"back; {len(session.history)} step(s) left to undo"
        return {"editor": editor_value(painting), "status": line}

    # ---- programs ----

    def complete_files(
        self, image: bytes, mask: bytes, run: str, num: Number, seed: Number
    ) -> list[np.ndarray]:
        """Completions of files: the endpoint `/complete` of gradio_client."""
        picture = read_picture(image or b"", self.limits)
        size = picture.pixels.shape[:2]
        known, warnings = read_mask(mask or b"", size, self.limits)
        request = CompletionRequest(
            run=run,
            num=integer("num", num),
            seed=integer("seed", seed),
            warnings=warnings,
            picture=picture,
            mask=known,
        )
        job = self.worker.submit(request)
        job.wait()
        return job.samples


def with_hole(painting: Painting) -> tuple[Any, str]:
    """The editor's value, and how large the hole is."""
    share = 1 - painting.mask.mean()
    return editor_value(painting), f"the hole is {share:.0%} of the picture"


# ---- layout ----


def build(tab: CompleteTab, session: gr.State, blocks: gr.Blocks) -> None:
    """Lay out the tab and connect its events."""
    add_endpoint(tab)
    parts = common.two_columns(
        left=[partial(canvas, tab.limits), results],
        right=[controls, partial(common.comparisons, "complete")],
    )
    common.connect_runs(tab, blocks, parts)
    connect_canvas(tab, parts)
    connect_results(tab, session, parts)


def add_endpoint(tab: CompleteTab) -> None:
    """What programs call by name; nobody sees its components."""
    with gr.Group(visible=False):
        inputs = [
            gr.File(type="binary", label="image"),
            gr.File(type="binary", label="mask"),
            gr.Textbox(label="run"),
            gr.Number(6, precision=0, label="num"),
            gr.Number(0, precision=0, label="seed"),
        ]
        images = gr.Gallery(format="png", label="completions")
        button = gr.Button()
    arguments = call(tab.complete_files, inputs, images)
    arguments |= {"api_visibility": "public", "api_name": "complete"}
    button.click(**arguments)


def canvas(limits: Limits) -> Parts:
    """The editor and what fills it."""
    editor = make_editor(
        limits, label="Picture and hole", height=460, elem_id="editor", show_label=False
    )
    with gr.Row():
        shown = gr.Dropdown(
            [*examples.PHOTOS],
            value=None,
            label="Example",
            min_width=120,
            elem_id="example",
        )
        named = gr.Dropdown(
            [*masks.NAMES],
            value=None,
            label="Named mask",
            min_width=120,
            elem_id="named",
        )
    with gr.Accordion("Outpainting, rectangle, mask file", open=False):
        with gr.Row():
            names = ("Left", "Top", "Right", "Bottom")
            sides = [common.number(name, 0) for name in names]
            extend = gr.Button("Extend by these pixels", min_width=120)
        with gr.Row():
            names = ("x", "y", "Width", "Height")
            box = [common.number(name, 0) for name in names]
            rectangle = gr.Button("Add rectangle", min_width=120)
        with gr.Row():
            inverted = gr.Checkbox(False, label="black = hole", min_width=120)
            file = gr.UploadButton("Mask file (white = hole)", type="binary")
            invert = gr.Button("Invert the hole")
    return {
        "editor": editor,
        "example": shown,
        "named": named,
        "sides": sides,
        "extend": extend,
        "box": box,
        "rectangle": rectangle,
        "inverted": inverted,
        "file": file,
        "invert": invert,
    }


def controls() -> Parts:
    """Which run, how it draws, and the buttons."""
    parts = common.run_controls("complete")
    parts |= common.sampler("complete")
    best_of = gr.Slider(0, MAX_NUM, 0, step=1, label="Best of (0: keep all)")
    parts["best_of"] = best_of
    return parts | common.buttons("complete", "Complete")


def results() -> Parts:
    """The completions and what can be done with one or all."""
    parts = common.gallery("complete", "Completions: click one to choose it")
    with gr.Row():
        proceed = gr.Button(
            "Go on with the chosen one", min_width=240, elem_id="proceed"
        )
        undo = gr.Button("Undo", min_width=80, elem_id="undo")
    return parts | {"proceed": proceed, "undo": undo} | common.download("complete")


def connect_canvas(tab: CompleteTab, parts: Parts) -> None:
    """Events that change the picture or its hole."""
    p, editor = parts, parts["editor"]
    changed = [editor, p["status"]]
    p["example"].input(**call(tab.take_example, [p["example"]], [editor]))
    inputs = [editor, p["named"], p["run"], p["seed"]]
    p["named"].input(**call(tab.name_mask, inputs, changed))
    p["extend"].click(**call(tab.extend, [editor, *p["sides"]], changed))
    p["rectangle"].click(**call(tab.add_rectangle, [editor, *p["box"]], changed))
    p["invert"].click(**call(tab.invert, [editor], changed))
    inputs = [editor, p["file"], p["inverted"]]
    p["file"].upload(**call(tab.load_mask, inputs, changed))


def connect_results(tab: CompleteTab, session: gr.State, parts: Parts) -> None:
    """Events that draw completions, or go on with one."""
    p = parts
    fields = ("editor", "run", "num", "seed", "fixed", "sampler", "best_of")
    common.connect_results(tab, session, p, [p[name] for name in fields])
    names = ("editor", "status", "gallery")
    p["proceed"].click(**call_by_name(tab.proceed, [session], names, p))
    p["undo"].click(**call_by_name(tab.undo, [session], names, p))
