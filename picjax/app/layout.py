"""The layout of the page, and which event calls which of its functions."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gradio as gr
from fastapi import FastAPI
from gradio import themes

from picjax import masks
from picjax.app.orders import MAX_NUM, Limits
from picjax.app.page import EXAMPLES, Page, sentences
from picjax.app.painting import make_editor
from picjax.app.session import Session
from picjax.app.worker import Worker

CLEAN_EVERY, CLEAN_AGE = 600, 3600  # seconds, of temporary files
Parts = dict[str, Any]  # name -> component


def build(worker: Worker, limits: Limits, folder: Path) -> gr.Blocks:
    """The page."""
    page = Page(worker, limits, folder)
    with gr.Blocks(
        title="picjax",
        analytics_enabled=False,
        fill_width=True,
        delete_cache=(CLEAN_EVERY, CLEAN_AGE),
    ) as blocks:
        session = gr.State(
            Session(), time_to_live=CLEAN_AGE, delete_callback=Session.close
        )
        gr.Markdown(
            "# picjax\nPaint over what is to be completed, draw several completions, "
            "choose one, go on.",
            elem_id="head",
        )
        with gr.Row():
            with gr.Column(scale=3, min_width=320):
                parts = canvas(limits)
            with gr.Column(scale=2, min_width=300):
                parts |= controls()
        with gr.Row():
            with gr.Column(scale=3, min_width=320):
                parts |= gallery()
            with gr.Column(scale=2, min_width=300):
                parts |= comparisons()
        connect(blocks, page, session, parts)
    blocks.queue(default_concurrency_limit=16, max_size=64, api_open=False)
    return blocks


def canvas(limits: Limits) -> Parts:
    """The editor and what fills it."""
    editor = make_editor(
        limits, label="Picture and hole", height=460, elem_id="editor", show_label=False
    )
    with gr.Row():
        example = gr.Dropdown(
            [*EXAMPLES], value=None, label="Example", min_width=120, elem_id="example"
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
            sides = [number(name, 0) for name in ("left", "top", "right", "bottom")]
            extend = gr.Button("Extend by these pixels", min_width=120)
        with gr.Row():
            box = [number(name, 0) for name in ("x", "y", "width", "height")]
            rectangle = gr.Button("Add rectangle", min_width=120)
        with gr.Row():
            inverted = gr.Checkbox(False, label="black = hole", min_width=120)
            file = gr.UploadButton("Mask file (white = hole)", type="binary")
            invert = gr.Button("Invert the hole")
    return {
        "editor": editor,
        "example": example,
        "named": named,
        "sides": sides,
        "extend": extend,
        "box": box,
        "rectangle": rectangle,
        "inverted": inverted,
        "file": file,
        "invert": invert,
    }


def number(label: str, value: int) -> gr.Number:
    """A field for a whole number."""
    return gr.Number(value, label=label, precision=0, min_width=80)


def controls() -> Parts:
    """Which run, how many, and the buttons."""
    run = gr.Dropdown([], label="Run", elem_id="run")
    num = gr.Slider(1, 16, 6, step=1, label="Completions", elem_id="num")
    with gr.Row():
        seed = gr.Number(0, label="Seed", precision=0, min_width=100, elem_id="seed")
        fixed = gr.Checkbox(True, label="keep the seed", min_width=100)
    sampler = gr.Dropdown(
        [""], label="Sampler", visible=False, allow_custom_value=True, elem_id="sampler"
    )
    best_of = gr.Slider(0, MAX_NUM, 0, step=1, label="Best of (0: all that are drawn)")
    with gr.Row():
        complete = gr.Button(
            "Complete", variant="primary", min_width=120, elem_id="complete"
        )
        stop = gr.Button("Stop", variant="stop", min_width=80, elem_id="stop")
    status = gr.Markdown(elem_id="status")
    return {
        "run": run,
        "num": num,
        "seed": seed,
        "fixed": fixed,
        "sampler": sampler,
        "best_of": best_of,
        "complete": complete,
        "stop": stop,
        "status": status,
    }


def gallery() -> Parts:
    """The completions and what can be done with one or all."""
    completions = gr.Gallery(
        label="Completions: click one to choose it",
        columns=3,
        height="auto",
        object_fit="contain",
        format="png",
        allow_preview=True,
        buttons=["download", "fullscreen"],
        interactive=False,
        elem_id="completions",
    )
    with gr.Row():
        proceed = gr.Button(
            "Go on with the chosen one", min_width=220, elem_id="proceed"
        )
        undo = gr.Button("Undo", min_width=80, elem_id="undo")
        archive = gr.DownloadButton(
            "ZIP", interactive=False, min_width=80, elem_id="zip"
        )
    command = gr.Textbox(
        label="The command that draws the files of the ZIP again",
        buttons=["copy"],
        interactive=False,
        elem_id="command",
    )
    return {
        "gallery": completions,
        "proceed": proceed,
        "undo": undo,
        "zip": archive,
        "command": command,
    }


def comparisons() -> Parts:
    """The slider and the heat map."""
    slider = gr.ImageSlider(
        label="Input and the chosen completion", format="png", interactive=False
    )
    heat = gr.Image(
        label="Where completions differ",
        format="png",
        interactive=False,
        elem_id="heat",
    )
    return {"slider": slider, "heat": heat}


def connect(blocks: gr.Blocks, page: Page, session: gr.State, parts: Parts) -> None:
    """Which event calls which function."""
    p = parts
    quiet: Any = {"show_progress": "hidden", "api_visibility": "private"}

    def answered(
        function: Any, inputs: list[Any], outputs: list[Any]
    ) -> dict[str, Any]:
        return {"fn": safe(function), "inputs": inputs, "outputs": outputs, **quiet}

    def named(function: Any, inputs: list[Any], names: list[str]) -> dict[str, Any]:
        """Of a function that returns, or yields, some of the parts by name."""
        outputs = [p[name] for name in names]
        return {
            "fn": by_part(function, p),
            "inputs": inputs,
            "outputs": outputs,
            **quiet,
        }

    editor, run, status = p["editor"], p["run"], p["status"]
    blocks.load(**answered(page.list_runs, [], [run, status]))
    run.change(**answered(page.choose_run, [run], [p["sampler"]]))
    p["example"].input(**answered(page.take_example, [p["example"]], [editor]))
    inputs = [editor, p["named"], run, p["seed"]]
    p["named"].input(**answered(page.name_mask, inputs, [editor]))
    p["extend"].click(**answered(page.extend, [editor, *p["sides"]], [editor]))
    p["rectangle"].click(**answered(page.add_rectangle, [editor, *p["box"]], [editor]))
    p["invert"].click(**answered(page.invert, [editor], [editor]))
    inputs = [editor, p["file"], p["inverted"]]
    p["file"].upload(**answered(page.load_mask, inputs, [editor, status]))

    results = ["gallery", "status", "seed", "command", "zip", "heat", "slider"]
    choices = [p[name] for name in ("num", "seed", "fixed", "sampler", "best_of")]
    inputs = [session, editor, run, *choices]
    p["complete"].click(**named(page.complete, inputs, results))
    p["stop"].click(**answered(page.stop, [session], []))
    p["gallery"].select(page.select, [session], [p["slider"]], **quiet)
    names = ["editor", "status", "gallery"]
    p["proceed"].click(**named(page.proceed, [session], names))
    p["undo"].click(**named(page.undo, [session], names))


def safe(function: Any) -> Any:
    """The function with its errors as sentences."""

    def call(*args: Any) -> Any:
        with sentences():
            return function(*args)

    return call


def by_part(function: Any, parts: Parts) -> Any:
    """The function, or generator, with its results' names replaced by components."""

    def call(*args: Any) -> Iterator[dict[Any, Any]]:
        with sentences():
            result = function(*args)
            for update in [result] if isinstance(result, dict) else result:
                yield {parts[name]: value for name, value in update.items()}

    return call


def mount(app: FastAPI, blocks: gr.Blocks, limits: Limits) -> FastAPI:
    """Put the page at the root of a server."""
    font = ["system-ui", "sans-serif"]  # nothing is fetched from elsewhere
    return gr.mount_gradio_app(
        app,
        blocks,
        path="/",
        footer_links=[],
        run_history=False,
        show_error=False,
        max_file_size=limits.bytes,
        ssr_mode=False,
        enable_monitoring=False,
        pwa=False,
        mcp_server=False,
        theme=themes.Base(font=font, font_mono=["ui-monospace", "monospace"]),
        css_paths=Path(__file__).with_name("style.css"),
    )
