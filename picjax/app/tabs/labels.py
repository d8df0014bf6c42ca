"""The second tab: paint a label map, draw pictures of it, redraw its instances."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import gradio as gr
import numpy as np

from picjax.app import examples, layouts
from picjax.app.layouts import LabelMaps
from picjax.app.painting import make_editor
from picjax.app.requests import SynthesisRequest
from picjax.app.runs import RunInfo
from picjax.app.session import Session
from picjax.app.tabs import parts as common
from picjax.app.tabs import styles
from picjax.app.tabs.base import Tab, Updates, settings
from picjax.app.tabs.parts import Parts, call, call_by_name
from picjax.app.tabs.styles import Styles
from picjax.app.uploads import LABELS, Limits, read_instances, read_map
from picjax.cli import UserError
from picjax.data import maps

SHOWN = ("editor", "instances", "chosen")
BRUSH = 40  # pixels of the canvas


@dataclass
class Draft:
    """What a browser's tab has painted and loaded.

    Attributes:
      layout: without the strokes that are still on the editor.
    """

    layout: LabelMaps | None = None


class LabelsTab(Tab):
    """Functions of the tab."""

    no_run = (
        "There is no run that draws label maps yet: train one by `make demo "
        "SYSTEM=inade`, then reload."
    )

    def offers(self, info: RunInfo) -> bool:
        """Runs with label maps."""
        return bool(info.classes)

    def info(self, run: str | None) -> RunInfo:
        """The run of the list.

        Raises:
          UserError: if none is chosen.
        """
        if not run:
            raise UserError("no run is chosen; train one by `make demo SYSTEM=inade`")
        return self.worker.runs.info(run)

    # ---- the layout ----

    def choose_run(self, draft: Draft, run: str | None) -> dict[str, Any]:
        """An empty layout, with the classes of a run and examples of its data."""
        if not run:  # the page was opened, and no run is offered
            return {"example": None}
        info = self.info(run)
        classes = paintable(info)
        names = examples.layout_names(info)
        updates = self.replace(draft, info, layouts.blank(info.size))
        updates["editor"]["brush"] = brush(info, classes[-1][1])
        return updates | {
            "class": gr.update(choices=classes, value=classes[-1][1]),
            "example": gr.update(choices=names, value=None, visible=bool(names)),
        }

    def choose_class(self, run: str | None, number: int) -> Any:
        """A class to paint with."""
        return gr.update(brush=brush(self.info(run), number))

    def add_strokes(
        self, draft: Draft, value: Any, run: str | None, chosen: Sequence[int]
    ) -> dict[str, Any]:
        """The strokes become instances; what is painted next is another one."""
        info = self.info(run)
        return self.replace(draft, info, self.painted(draft, value, info), chosen)

    def clear(self, draft: Draft, run: str | None) -> dict[str, Any]:
        """An empty layout."""
        info = self.info(run)
        return self.replace(draft, info, layouts.blank(info.size))

    def take_example(self, draft: Draft, run: str | None, name: str) -> dict[str, Any]:
        """The layout of a picture like those that the run was trained on."""
        info = self.info(run)
        return self.replace(draft, info, examples.read_layout(info, name)[1])

    def load_labels(self, draft: Draft, run: str | None, data: bytes) -> dict[str, Any]:
        """A label map, each class one instance."""
        info = self.info(run)
        labels = read_map(data, "the label map", LABELS, self.limits)
        return self.replace(draft, info, LabelMaps(labels, labels))

    def load_instances(
        self, draft: Draft, value: Any, run: str | None, data: bytes
    ) -> dict[str, Any]:
        """An instance map of the present layout."""
        info = self.info(run)
        label = self.painted(draft, value, info).label
        ids = read_instances(data, label, "the layout", self.limits)
        return self.replace(draft, info, LabelMaps(label, ids))

    def painted(self, draft: Draft, value: Any, info: RunInfo) -> LabelMaps:
        """The layout with the strokes on the editor."""
        layout = draft.layout or layouts.blank(info.size)
        palette = maps.palette(len(info.classes))
        strokes = layouts.read_strokes(value, layout.label.shape, palette)
        return layouts.with_strokes(layout, strokes)

    def replace(
        self,
        draft: Draft,
        info: RunInfo,
        layout: LabelMaps,
        chosen: Sequence[int] = (),
    ) -> dict[str, Any]:
        """Another layout, of which these instances are chosen as far as it has them."""
        draft.layout = layout
        classes = layouts.classes_of(layout)
        coloured = layouts.enlarged(maps.colour(layout.label, len(info.classes)))
        value = {"background": coloured, "layers": [], "composite": None}
        choices = [(f"{i}: {name_of(info, c)}", i) for i, c in classes.items()]
        kept = [identity for identity in chosen if identity in classes]
        return {
            "editor": gr.update(value=value),
            "instances": self.highlight(draft, info, kept),
            "chosen": gr.update(choices=choices, value=kept),
        }

    # ---- instances ----

    def choose(self, draft: Draft, run: str | None, chosen: Sequence[int]) -> Any:
        """The layout with the chosen instances highlighted."""
        return self.highlight(draft, self.info(run), chosen)

    def highlight(self, draft: Draft, info: RunInfo, chosen: Sequence[int]) -> Any:
        """The layout in colours, with outlined instances."""
        if draft.layout is None:
            return None
        coloured = maps.colour(draft.layout.label, len(info.classes))
        return layouts.outlined(coloured, draft.layout, chosen)

    def toggle(
        self, draft: Draft, chosen: Sequence[int], event: gr.SelectData
    ) -> list[int]:
        """A click on an instance chooses it, or no longer."""
        if draft.layout is None:
            raise UserError("there is no layout yet; paint one, or take an example")
        x, y = event.index
        identity = layouts.instance_at(draft.layout, int(x), int(y))
        kept = [other for other in chosen if other != identity]
        return kept if identity in chosen else [*kept, identity]

    # ---- images ----

    def start(self, session: Session, *fields: Any) -> Updates:
        """Images as they are drawn."""
        draft, lender, value, run, num, seed, fixed, chosen, redraw, pairs = fields
        info = self.info(run)
        layout = self.painted(draft, value, info)
        if layout is not draft.layout:
            yield self.replace(draft, info, layout, chosen)
        request = SynthesisRequest(
            **settings(run, num, seed, fixed),
            labels=layout.label,
            instances=layout.instance,
            redraw=tuple(chosen) if redraw else (),
            reference=lender.reference(),
            style_of=tuple(pairs.split()),
        )
        yield from self.generate(session, request)


def paintable(info: RunInfo) -> list[tuple[str, int]]:
    """Names and numbers of the classes with a colour of their own."""
    colours = maps.palette(len(info.classes))
    _, first = np.unique(colours, axis=0, return_index=True)
    return [(name_of(info, i), i) for i in sorted(first.tolist())]


def name_of(info: RunInfo, number: int) -> str:
    """A class in words."""
    return info.classes[number] if number < len(info.classes) else "unlabelled"


def brush(info: RunInfo, number: int) -> gr.Brush:
    """The brush of a class."""
    palette = maps.palette(len(info.classes))
    colours = ["#{:02x}{:02x}{:02x}".format(*colour) for colour in palette]
    return gr.Brush(
        colors=[colours[number]],
        default_color=colours[number],
        color_mode="fixed",
        default_size=BRUSH,
    )


# ---- layout of the tab ----


def build(
    tab: LabelsTab,
    session: gr.State,
    draft: gr.State,
    lender: gr.State,
    blocks: gr.Blocks,
) -> None:
    """Lay out the tab and connect its events."""
    parts = common.two_columns(
        left=[partial(canvas, tab.limits), results],
        right=[controls, partial(common.comparisons, "labels", slider=False)],
    )
    common.connect_runs(tab, blocks, parts)
    connect_layout(tab, draft, parts)
    styles.connect(Styles(tab.info, tab.limits), lender, parts)
    names = ("editor", "run", "num", "seed", "fixed", "chosen", "redraw", "pairs")
    inputs = [draft, lender, *(parts[name] for name in names)]
    common.connect_results(tab, session, parts, inputs, SHOWN)


def canvas(limits: Limits) -> Parts:
    """The editor, its brush, and what fills it."""
    editor = make_editor(
        limits,
        label="Layout",
        height=460,
        elem_id="labels-editor",
        show_label=False,
        sources=(),
    )
    with gr.Row():
        classes = gr.Dropdown(
            [], label="Paint with", min_width=140, elem_id="labels-class"
        )
        example = gr.Dropdown(
            [], label="Example", min_width=120, elem_id="labels-example"
        )
    with gr.Row():
        small: Any = {"size": "sm", "min_width": 120}
        add = gr.Button("Start another instance", elem_id="labels-add", **small)
        clear = gr.Button("Clear", **small)
        labels = gr.UploadButton("Label map file", type="binary", **small)
        instances = gr.UploadButton("Instance map file", type="binary", **small)
    return {
        "editor": editor,
        "class": classes,
        "example": example,
        "add": add,
        "clear": clear,
        "labels_file": labels,
        "instances_file": instances,
    }


def controls() -> Parts:
    """Which run, the instances to be chosen, their styles, and the buttons."""
    parts = common.run_controls("labels") | choice() | styles.accordion()
    return parts | common.buttons("labels", "Draw")


def results() -> Parts:
    """The images and their ZIP."""
    parts = common.gallery("labels", "Images of the layout")
    return parts | common.download("labels")


def choice() -> Parts:
    """The instances, to be chosen."""
    instances = common.image(
        "Instances: click to choose", height=300, elem_id="labels-instances"
    )
    chosen = gr.Dropdown(
        [], multiselect=True, label="Chosen instances", elem_id="labels-chosen"
    )
    redraw = gr.Checkbox(True, label="redraw only the chosen instances, if any")
    return {"instances": instances, "chosen": chosen, "redraw": redraw}


def connect_layout(tab: LabelsTab, draft: gr.State, parts: Parts) -> None:
    """Events that change the layout, or choose among its instances."""
    p = parts
    editor, run, chosen = p["editor"], p["run"], p["chosen"]
    names = (*SHOWN, "class", "example")
    run.change(**call_by_name(tab.choose_run, [draft, run], names, p))
    p["class"].input(**call(tab.choose_class, [run, p["class"]], [editor]))

    def layout_of(function: Any, *inputs: Any) -> dict[str, Any]:
        return call_by_name(function, [draft, *inputs], SHOWN, p)

    p["add"].click(**layout_of(tab.add_strokes, editor, run, chosen))
    p["clear"].click(**layout_of(tab.clear, run))
    p["example"].input(**layout_of(tab.take_example, run, p["example"]))
    file = p["labels_file"]
    file.upload(**layout_of(tab.load_labels, run, file))
    file = p["instances_file"]
    file.upload(**layout_of(tab.load_instances, editor, run, file))
    p["instances"].select(**call(tab.toggle, [draft, chosen], [chosen]))
    chosen.change(**call(tab.choose, [draft, run, chosen], [p["instances"]]))
