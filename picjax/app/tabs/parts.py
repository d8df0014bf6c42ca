"""Components that every tab has, and how events call functions."""

import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import gradio as gr

from picjax.app.tabs.base import Tab, sentences
from picjax.app.tabs.pictures import as_files

Parts = dict[str, Any]  # name -> component
Makers = Sequence[Callable[[], Parts]]
RESULTS = ("gallery", "status", "seed", "command", "zip", "heat", "slider")


def two_columns(left: Makers, right: Makers) -> Parts:
    """Blocks of parts in two columns; in a narrow window, the first of both come first."""
    parts: Parts = {}
    with gr.Row(elem_classes="columns"):
        for scale, makers in ((3, left), (2, right)):
            with gr.Column(scale=scale, min_width=320):
                for i, make in enumerate(makers):
                    with gr.Column(elem_classes=f"place-{i}"):
                        parts |= make()
    return parts


def number(label: str, value: int) -> gr.Number:
    """A field for a whole number."""
    return gr.Number(value, label=label, precision=0, min_width=80)


def image(label: str, **options: Any) -> gr.Image:
    """A picture that is shown, without loss."""
    shown: Any = {"format": "png", "interactive": False, "buttons": []}
    return gr.Image(label=label, **(shown | options))


def run_controls(prefix: str) -> Parts:
    """Which run, how many images, and the seed.

    Args:
      prefix: of the elements' ids, as below.
    """
    run = gr.Dropdown([], label="Run", elem_id=f"{prefix}-run")
    num = gr.Slider(1, 16, 6, step=1, label="Images", elem_id=f"{prefix}-num")
    with gr.Row():
        seed = gr.Number(
            0, label="Seed", precision=0, min_width=100, elem_id=f"{prefix}-seed"
        )
        fixed = gr.Checkbox(True, label="keep the seed", min_width=100)
    return {"run": run, "num": num, "seed": seed, "fixed": fixed}


def sampler(prefix: str) -> Parts:
    """How a run draws that can draw in several ways."""
    preset = gr.Dropdown(
        [""],
        label="Sampler",
        visible=False,
        allow_custom_value=True,
        elem_id=f"{prefix}-sampler",
    )
    return {"sampler": preset}


def buttons(prefix: str, name: str) -> Parts:
    """The button that draws, the one that stops, and the line below them."""
    with gr.Row():
        start = gr.Button(
            name, variant="primary", min_width=120, elem_id=f"{prefix}-start"
        )
        stop = gr.Button("Stop", variant="stop", min_width=80, elem_id=f"{prefix}-stop")
    status = gr.Markdown(elem_id=f"{prefix}-status", elem_classes="status")
    return {"start": start, "stop": stop, "status": status}


def gallery(prefix: str, label: str) -> Parts:
    """The images."""
    images = gr.Gallery(
        label=label,
        columns=3,
        height="auto",
        object_fit="contain",
        format="png",
        allow_preview=True,
        buttons=["download", "fullscreen"],
        interactive=False,
        elem_id=f"{prefix}-gallery",
    )
    return {"gallery": images}


def download(prefix: str) -> Parts:
    """The ZIP, and the command that draws its images."""
    archive = gr.DownloadButton(
        "ZIP of all", size="sm", interactive=False, elem_id=f"{prefix}-zip"
    )
    command = gr.Textbox(
        label="The command that draws the files of the ZIP again",
        buttons=["copy"],
        interactive=False,
        elem_id=f"{prefix}-command",
        elem_classes="command",
    )
    return {"zip": archive, "command": command}


def comparisons(prefix: str, slider: bool = True) -> Parts:
    """The slider, where there is a picture to compare with, and the map of deviations."""
    between = gr.ImageSlider(
        label="Input and the chosen image",
        format="png",
        interactive=False,
        visible=slider,
        elem_id=f"{prefix}-slider",
    )
    heat = image(
        "Where images differ",
        buttons=["download", "fullscreen"],
        elem_id=f"{prefix}-heat",
    )
    return {"slider": between, "heat": heat}


# ---- events ----


def call(function: Callable[..., Any], inputs: Any, outputs: Any) -> dict[str, Any]:
    """An event's arguments: a function whose errors are shown as sentences."""

    @functools.wraps(function)  # Gradio reads the annotations
    def safe(*args: Any) -> Any:
        with sentences():
            return as_files(function(*args))

    return event(safe, inputs, outputs)


def call_by_name(
    function: Callable[..., Any], inputs: Any, names: Sequence[str], parts: Parts
) -> dict[str, Any]:
    """As `call`, of a function that returns, or yields, some of the parts by name."""

    @functools.wraps(function)
    def safe(*args: Any) -> Iterator[dict[Any, Any]]:
        with sentences():
            result = function(*args)
            for update in [result] if isinstance(result, dict) else result:
                yield {parts[name]: as_files(value) for name, value in update.items()}

    return event(safe, inputs, [parts[name] for name in names])


def event(function: Callable[..., Any], inputs: Any, outputs: Any) -> dict[str, Any]:
    """An event's arguments, without a spinner and without an endpoint."""
    return {
        "fn": function,
        "inputs": inputs,
        "outputs": outputs,
        "show_progress": "hidden",
        "api_visibility": "private",
    }


def connect_runs(tab: Tab, blocks: gr.Blocks, parts: Parts) -> None:
    """The list of runs when the page is opened, and the samplers of the chosen one."""
    run = parts["run"]
    blocks.load(**call(tab.list_runs, [], [run, parts["status"]]))
    if "sampler" in parts:
        run.change(**call(tab.choose_sampler, [run], [parts["sampler"]]))


def connect_results(
    tab: Tab,
    session: gr.State,
    parts: Parts,
    inputs: Sequence[Any],
    outputs: Sequence[str] = (),
) -> None:
    """Start, stop and choose.

    Args:
      tab: whose `start` draws.
      session: of the browser's tab.
      parts: of the tab.
      inputs: of `start` after the session.
      outputs: names of parts that `start` changes besides RESULTS.
    """
    fields, names = [session, *inputs], (*RESULTS, *outputs)
    parts["start"].click(**call_by_name(tab.start, fields, names, parts))
    parts["stop"].click(**call(tab.stop, [session], []))
    parts["gallery"].select(**call(tab.select, [session], [parts["slider"]]))
