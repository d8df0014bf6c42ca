"""The second tab: paint a label map, draw pictures of it, redraw its instances."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import gradio as gr
import numpy as np
from PIL import Image

from picjax.app import examples, layouts
from picjax.app.layouts import LabelMaps
from picjax.app.painting import make_editor
from picjax.app.requests import SynthesisRequest
from picjax.app.runs import RunInfo
from picjax.app.session import Session
from picjax.app.tabs import parts as common
from picjax.app.tabs.base import Tab, Updates, integer, seed_of, sentences
from picjax.app.tabs.parts import Parts, call, call_by_name
from picjax.app.uploads import INSTANCES, LABELS, Limits, read_map, read_picture
from picjax.cli import UserError
from picjax.data import maps
from picjax.synthesis import Reference

SHOWN = ("editor", "instances", "chosen")
BRUSH = 40  # pixels of the canvas


@dataclass
class Draft:
    """What a browser's tab has painted and loaded.

    Attributes:
      layout: without the strokes that are still on the editor.
      reference: a picture whose instances lend their styles, uint8 [h w 3].
      reference_layout: its maps.
    """

    layout: LabelMaps | None = None
    reference: np.ndarray | None = None
    reference_layout: LabelMaps | None = None


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
        info = self.info(run)
        draft.reference = draft.reference_layout = None
        classes = paintable(info)
        names = examples.layout_names(info)
        updates = self.replace(draft, info, layouts.blank(info.size))
        updates["editor"]["brush"] = brush(info, classes[-1][1])
        return updates | {
            "class": gr.update(choices=classes, value=classes[-1][1]),
            "example": gr.update(choices=names, value=None, visible=bool(names)),
            "lender": gr.update(choices=names, value=None, visible=bool(names)),
            "reference": None,
            "pairs": "",
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
        ids = read_map(data, "the instance map", INSTANCES, self.limits)
        maps.check_same_size(label.shape, ids.shape, "the layout")
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
        with sentences():
            if draft.layout is None:
                raise UserError("there is no layout yet; paint one, or take an example")
            x, y = event.index
            identity = layouts.instance_at(draft.layout, int(x), int(y))
            kept = [other for other in chosen if other != identity]
            return kept if identity in chosen else [*kept, identity]

    # ---- styles of a reference ----

    def load_reference(self, draft: Draft, run: str | None, data: bytes) -> Any:
        """A reference picture; a run on clusters makes its maps."""
        info = self.info(run)
        draft.reference = read_picture(data, self.limits).srgb
        draft.reference_layout = None
        if info.data == "photos":
            draft.reference_layout = examples.clustered(draft.reference, info)
        return reference_picture(draft)

    def take_reference(self, draft: Draft, run: str | None, name: str) -> Any:
        """An example as the reference."""
        draft.reference, draft.reference_layout = examples.read_layout(
            self.info(run), name
        )
        return reference_picture(draft)

    def load_reference_labels(self, draft: Draft, data: bytes) -> Any:
        """The label map of the reference."""
        labels = read_map(data, "the reference's label map", LABELS, self.limits)
        draft.reference_layout = LabelMaps(labels, labels)
        return reference_picture(draft)

    def load_reference_instances(self, draft: Draft, data: bytes) -> Any:
        """The instance map of the reference."""
        if draft.reference_layout is None:
            raise UserError("the reference has no label map yet; load it first")
        label = draft.reference_layout.label
        ids = read_map(data, "the reference's instance map", INSTANCES, self.limits)
        maps.check_same_size(label.shape, ids.shape, "the reference")
        draft.reference_layout = LabelMaps(label, ids)
        return reference_picture(draft)

    def drop_reference(self, draft: Draft) -> tuple[Any, str]:
        """No reference: every style is drawn anew."""
        draft.reference = draft.reference_layout = None
        return None, ""

    def lend(
        self, draft: Draft, chosen: Sequence[int], pairs: str, event: gr.SelectData
    ) -> str:
        """A click on an instance of the reference lends its style to the chosen ones."""
        with sentences():
            if draft.reference_layout is None:
                raise UserError("the reference has no label map yet; load it first")
            if not chosen:
                raise UserError("no instance is chosen; click on one of the layout")
            x, y = event.index
            source = layouts.instance_at(draft.reference_layout, int(x), int(y))
            new = [f"{identity}:{source}" for identity in chosen]
            replaced = tuple(f"{identity}:" for identity in chosen)
            kept = [pair for pair in pairs.split() if not pair.startswith(replaced)]
            return " ".join([*kept, *new])

    # ---- images ----

    def start(self, session: Session, *fields: Any) -> Updates:
        """Images as they are drawn."""
        draft, value, run, num, seed, fixed, chosen, redraw, pairs = fields
        info = self.info(run)
        layout = self.painted(draft, value, info)
        if layout is not draft.layout:
            yield self.replace(draft, info, layout, chosen)
        request = SynthesisRequest(
            run=run,
            num=integer("images", num),
            seed=seed_of(seed, fixed),
            labels=layout.label,
            instances=layout.instance,
            redraw=tuple(chosen) if redraw else (),
            reference=reference_of(draft),
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


def reference_picture(draft: Draft) -> Any:
    """The reference, with outlined instances once it has maps."""
    if draft.reference is None or draft.reference_layout is None:
        return draft.reference
    height, width = draft.reference_layout.label.shape
    picture = Image.fromarray(draft.reference).resize((width, height))
    return layouts.outlined(np.asarray(picture), draft.reference_layout, ())


def reference_of(draft: Draft) -> Reference | None:
    """The reference of a request.

    Raises:
      UserError: if it is not complete.
    """
    if draft.reference is None and draft.reference_layout is None:
        return None
    if draft.reference is None or draft.reference_layout is None:
        raise UserError("the reference needs a picture and its label map; load both")
    return Reference(draft.reference, *draft.reference_layout)


# ---- layout of the tab ----


def build(
    tab: LabelsTab, session: gr.State, draft: gr.State, blocks: gr.Blocks
) -> None:
    """Lay out the tab and connect its events."""
    with gr.Row():
        with gr.Column(scale=3, min_width=320):
            parts = canvas(tab.limits)
        with gr.Column(scale=2, min_width=300):
            parts |= common.run_controls("labels")
            parts |= choice()
            parts |= common.buttons("labels", "Draw")
    with gr.Row():
        with gr.Column(scale=3, min_width=320):
            parts |= common.gallery("labels", "Images of the layout")
            parts |= common.download("labels")
        with gr.Column(scale=2, min_width=300):
            parts |= styles()
            parts |= common.comparisons("labels", slider=False)
    connect_layout(tab, draft, blocks, parts)
    connect_styles(tab, draft, parts)
    names = ("num", "seed", "fixed", "chosen", "redraw", "pairs")
    inputs = [draft, parts["editor"], parts["run"], *(parts[name] for name in names)]
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


def choice() -> Parts:
    """The instances, to be chosen."""
    instances = gr.Image(
        label="Instances: click to choose",
        format="png",
        interactive=False,
        height=300,
        buttons=[],
        elem_id="labels-instances",
    )
    chosen = gr.Dropdown(
        [], multiselect=True, label="Chosen instances", elem_id="labels-chosen"
    )
    redraw = gr.Checkbox(True, label="redraw only the chosen instances, if any")
    return {"instances": instances, "chosen": chosen, "redraw": redraw}


def styles() -> Parts:
    """The reference picture."""
    with gr.Accordion("Styles of a reference picture", open=False):
        lender = gr.Dropdown([], label="Example", elem_id="labels-lender")
        with gr.Row():
            small: Any = {"type": "binary", "size": "sm", "min_width": 80}
            picture = gr.UploadButton("Picture", **small)
            labels = gr.UploadButton("Its label map", **small)
            instances = gr.UploadButton("Its instances", **small)
        reference = gr.Image(
            label="Click on an instance: the chosen ones take its style",
            format="png",
            interactive=False,
            height=300,
            buttons=[],
            elem_id="labels-reference",
        )
        pairs = gr.Textbox(
            label="Styles, ours:theirs (none: by class)", elem_id="labels-pairs"
        )
        drop = gr.Button("Without a reference", size="sm")
    return {
        "lender": lender,
        "reference_file": picture,
        "reference_labels": labels,
        "reference_instances": instances,
        "reference": reference,
        "pairs": pairs,
        "drop": drop,
    }


def connect_layout(
    tab: LabelsTab, draft: gr.State, blocks: gr.Blocks, parts: Parts
) -> None:
    """Events that change the layout, or choose among its instances."""
    p = parts
    editor, run, chosen = p["editor"], p["run"], p["chosen"]
    blocks.load(**call(tab.list_runs, [], [run, p["status"]]))
    names = (*SHOWN, "class", "example", "lender", "reference", "pairs")
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
    p["instances"].select(**common.event(tab.toggle, [draft, chosen], [chosen]))
    chosen.change(**call(tab.choose, [draft, run, chosen], [p["instances"]]))


def connect_styles(tab: LabelsTab, draft: gr.State, parts: Parts) -> None:
    """Events that change the reference."""
    p, run, shown = parts, parts["run"], [parts["reference"]]
    file = p["reference_file"]
    file.upload(**call(tab.load_reference, [draft, run, file], shown))
    p["lender"].input(**call(tab.take_reference, [draft, run, p["lender"]], shown))
    file = p["reference_labels"]
    file.upload(**call(tab.load_reference_labels, [draft, file], shown))
    file = p["reference_instances"]
    file.upload(**call(tab.load_reference_instances, [draft, file], shown))
    inputs = [draft, p["chosen"], p["pairs"]]
    p["reference"].select(**common.event(tab.lend, inputs, [p["pairs"]]))
    p["drop"].click(**call(tab.drop_reference, [draft], [*shown, p["pairs"]]))
