"""Styles for the tab of label maps: a reference picture whose instances lend theirs."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import gradio as gr
import numpy as np
from jaxtyping import UInt8
from PIL import Image

from picjax.app import examples, layouts
from picjax.app.layouts import LabelMaps
from picjax.app.runs import RunInfo
from picjax.app.tabs import parts as common
from picjax.app.tabs.parts import Parts, call, call_by_name
from picjax.app.uploads import LABELS, Limits, read_instances, read_map, read_picture
from picjax.cli import UserError
from picjax.synthesis import Reference


@dataclass
class Lender:
    """The reference of a browser's tab.

    Attributes:
      picture: the reference picture.
      layout: its maps.
    """

    picture: UInt8[np.ndarray, "h w 3"] | None = None
    layout: LabelMaps | None = None

    def clear(self) -> None:
        """No reference."""
        self.picture = self.layout = None

    def shown(self) -> UInt8[np.ndarray, "y x 3"] | None:
        """The picture, with outlined instances once it has maps."""
        if self.picture is None or self.layout is None:
            return self.picture
        height, width = self.layout.label.shape
        picture = Image.fromarray(self.picture).resize((width, height))
        return layouts.outlined(np.asarray(picture), self.layout, ())

    def reference(self) -> Reference | None:
        """The reference of a request; None: every style is drawn anew.

        Raises:
          UserError: if the picture has no label map, or the label map no picture.
        """
        if self.picture is None and self.layout is None:
            return None
        if self.picture is None or self.layout is None:
            raise UserError(
                "the reference needs a picture and its label map; load both"
            )
        return Reference(self.picture, *self.layout)


class Styles:
    """Functions of the accordion; each answers one event.

    Args:
      info: name of the chosen run -> what can be asked of it.
      limits: of uploads.
    """

    def __init__(self, info: Callable[[str | None], RunInfo], limits: Limits):
        self.info = info
        self.limits = limits

    def choose_run(self, lender: Lender, run: str | None) -> dict[str, Any]:
        """No reference, and examples of the run's data."""
        if not run:
            return self.clear(lender)
        names = examples.layout_names(self.info(run))
        choices = gr.update(choices=names, value=None, visible=bool(names))
        return self.clear(lender) | {"lender": choices}

    def take_example(self, lender: Lender, run: str | None, name: str) -> Any:
        """An example as the reference."""
        lender.picture, lender.layout = examples.read_layout(self.info(run), name)
        return lender.shown()

    def load(self, lender: Lender, run: str | None, data: bytes) -> Any:
        """A reference picture; a run on clusters makes its maps."""
        info = self.info(run)
        lender.picture = read_picture(data, self.limits).srgb
        clusters = info.data == "photos"
        lender.layout = examples.clustered(lender.picture, info) if clusters else None
        return lender.shown()

    def load_labels(self, lender: Lender, data: bytes) -> Any:
        """The label map of the reference."""
        labels = read_map(data, "the reference's label map", LABELS, self.limits)
        lender.layout = LabelMaps(labels, labels)
        return lender.shown()

    def load_instances(self, lender: Lender, data: bytes) -> Any:
        """The instance map of the reference."""
        label = self.layout_of(lender).label
        ids = read_instances(data, label, "the reference", self.limits)
        lender.layout = LabelMaps(label, ids)
        return lender.shown()

    def clear(self, lender: Lender) -> dict[str, Any]:
        """No reference: every style is drawn anew."""
        lender.clear()
        return {"reference": None, "pairs": ""}

    def lend(
        self, lender: Lender, chosen: Sequence[int], pairs: str, event: gr.SelectData
    ) -> str:
        """A click on an instance of the reference lends its style to the chosen ones."""
        layout = self.layout_of(lender)
        if not chosen:
            raise UserError("no instance is chosen; click on one of the layout")
        x, y = event.index
        source = layouts.instance_at(layout, int(x), int(y))
        new = [f"{identity}:{source}" for identity in chosen]
        replaced = tuple(f"{identity}:" for identity in chosen)
        kept = [pair for pair in pairs.split() if not pair.startswith(replaced)]
        return " ".join([*kept, *new])

    def layout_of(self, lender: Lender) -> LabelMaps:
        """The maps of the reference.

        Raises:
          UserError: if it has none.
        """
        if lender.layout is None:
            raise UserError("the reference has no label map yet; load it first")
        return lender.layout


# ---- layout of the accordion ----


def accordion() -> Parts:
    """The reference picture, and what fills it."""
    with gr.Accordion("Styles of a reference picture", open=False):
        lender = gr.Dropdown([], label="Example", elem_id="labels-lender")
        with gr.Row():
            small: Any = {"type": "binary", "size": "sm", "min_width": 80}
            picture = gr.UploadButton("Picture", **small)
            labels = gr.UploadButton("Its label map", **small)
            instances = gr.UploadButton("Its instances", **small)
        reference = common.image(
            "Click on an instance: the chosen ones take its style",
            height=300,
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


def connect(styles: Styles, lender: gr.State, parts: Parts) -> None:
    """Events that change the reference, or the styles that it lends."""
    p, run, shown = parts, parts["run"], [parts["reference"]]
    cleared = ("reference", "pairs")
    run.change(
        **call_by_name(styles.choose_run, [lender, run], (*cleared, "lender"), p)
    )
    p["drop"].click(**call_by_name(styles.clear, [lender], cleared, p))
    p["lender"].input(**call(styles.take_example, [lender, run, p["lender"]], shown))
    file = p["reference_file"]
    file.upload(**call(styles.load, [lender, run, file], shown))
    file = p["reference_labels"]
    file.upload(**call(styles.load_labels, [lender, file], shown))
    file = p["reference_instances"]
    file.upload(**call(styles.load_instances, [lender, file], shown))
    inputs = [lender, p["chosen"], p["pairs"]]
    p["reference"].select(**call(styles.lend, inputs, [p["pairs"]]))
