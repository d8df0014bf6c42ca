"""The third tab: cut-outs placed on a canvas, and the rest painted around them."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import Any

import gradio as gr

from picjax.app import examples, scenes
from picjax.app.layouts import SIDE
from picjax.app.painting import Painting
from picjax.app.scenes import Content
from picjax.app.session import Session
from picjax.app.tabs import parts as common
from picjax.app.tabs.base import Number, Tab, Updates, integer, settings
from picjax.app.tabs.parts import Parts, call_by_name
from picjax.cli import UserError
from picjax.data import composition, cutouts

SIDE_OF_CANVAS = 256  # pixels of a new one
SHARE = 0.5  # of the canvas, that the longer side of a new cut-out takes
PLACE = ("x", "y", "scale", "rotation", "flip")
SHOWN = ("layers", *PLACE, "width", "height", "preview")


def empty() -> Content:
    """A canvas without cut-outs."""
    return {"width": SIDE_OF_CANVAS, "height": SIDE_OF_CANVAS, "objects": []}


@dataclass
class Draft:
    """The scene of a browser's tab.

    Attributes:
      content: its JSON.
      files: name -> PNG file.
    """

    content: Content = field(default_factory=empty)
    files: dict[str, bytes] = field(default_factory=dict)

    @property
    def objects(self) -> list[dict[str, Any]]:
        """The cut-outs, the lowest first."""
        return self.content["objects"]


class ComposeTab(Tab):
    """Functions of the tab."""

    preferred = "painter"

    # ---- the scene ----

    def take_example(self, draft: Draft, name: str) -> dict[str, Any]:
        """A scene of cut-outs of photographs."""
        objects = cutouts.EXAMPLES[name]
        files = {
            entry["file"]: examples.cutout_file(entry["file"]) for entry in objects
        }
        content = scenes.parse(json.dumps(empty() | {"objects": objects}))
        return self.replace(draft, content, files)

    def add_files(self, draft: Draft, paths: Sequence[str]) -> dict[str, Any]:
        """Cut-outs, added above the others; or a scene and its cut-outs."""
        files = {scenes.base(path): Path(path).read_bytes() for path in paths}
        opened = [name for name in files if name.lower().endswith(".json")]
        if len(opened) > 1:
            raise UserError("several scenes were chosen; open one with its cut-outs")
        if opened:
            content = scenes.parse(files.pop(opened[0]).decode("utf-8", "replace"))
            return self.replace(draft, content, files)
        added = [self.in_the_middle(draft, *file) for file in files.items()]
        return self.arrange(draft, [*draft.objects, *added], files=draft.files | files)

    def in_the_middle(self, draft: Draft, name: str, data: bytes) -> dict[str, Any]:
        """A new cut-out."""
        pixels = self.limits.pixels
        picture = composition.decode_cutout(BytesIO(data), f"'{name}'", pixels)
        width, height = draft.content["width"], draft.content["height"]
        scale = min(1.0, SHARE * min(width, height) / max(picture.size))
        position = [width // 2, height // 2]
        return {"file": name, "position": position, "scale": round(scale, 3)}

    def choose(self, draft: Draft, chosen: int | None) -> dict[str, Any]:
        """Another cut-out, to be placed."""
        return self.replace(draft, draft.content, draft.files, chosen)

    def place(self, draft: Draft, chosen: int | None, *values: Any) -> dict[str, Any]:
        """The chosen cut-out elsewhere, larger, smaller, turned or mirrored."""
        x, y, scale, rotation, flip = values
        place = {"position": [x or 0, y or 0], "scale": scale, "rotation": rotation}
        return self.change(draft, chosen, place | {"flip": bool(flip)})

    def move(
        self, draft: Draft, chosen: int | None, event: gr.SelectData
    ) -> dict[str, Any]:
        """A click on the canvas is where the chosen cut-out's centre is put."""
        size = draft.content["height"], draft.content["width"]
        factor = max(1, SIDE // max(size))
        position = [int(side) // factor for side in event.index]
        return self.change(draft, chosen, {"position": position})

    def change(
        self, draft: Draft, chosen: int | None, values: dict[str, Any]
    ) -> dict[str, Any]:
        """Other values of the chosen cut-out."""
        number = self.number_of(draft, chosen)
        objects = list(draft.objects)
        objects[number] = objects[number] | values
        return self.arrange(draft, objects, number)

    def shift(self, draft: Draft, chosen: int | None, steps: int) -> dict[str, Any]:
        """The chosen cut-out above, or below, its neighbour."""
        number, objects = self.number_of(draft, chosen), list(draft.objects)
        target = min(max(number + steps, 0), len(objects) - 1)
        objects.insert(target, objects.pop(number))
        return self.arrange(draft, objects, target)

    def remove(self, draft: Draft, chosen: int | None) -> dict[str, Any]:
        """The scene without the chosen cut-out."""
        number, objects = self.number_of(draft, chosen), list(draft.objects)
        del objects[number]
        return self.arrange(draft, objects)

    def resize(
        self, draft: Draft, chosen: int | None, width: Number, height: Number
    ) -> dict[str, Any]:
        """Another size of the canvas."""
        sides = {"width": integer("width", width), "height": integer("height", height)}
        return self.replace(draft, draft.content | sides, draft.files, chosen)

    def number_of(self, draft: Draft, chosen: int | None) -> int:
        """The chosen cut-out.

        Raises:
          UserError: if there is none.
        """
        if chosen is None or not 0 <= chosen < len(draft.objects):
            raise UserError("no cut-out is chosen; add one, or take an example")
        return chosen

    def arrange(
        self,
        draft: Draft,
        objects: list[dict[str, Any]],
        chosen: int | None = None,
        files: dict[str, bytes] | None = None,
    ) -> dict[str, Any]:
        """The scene with other cut-outs."""
        content = draft.content | {"objects": objects}
        return self.replace(draft, content, files or draft.files, chosen)

    def replace(
        self,
        draft: Draft,
        content: Content,
        files: dict[str, bytes],
        chosen: int | None = None,
    ) -> dict[str, Any]:
        """Another scene, if it can be drawn, of which a cut-out is chosen.

        Args:
          draft: receives the scene.
          content: its JSON.
          files: name -> PNG file.
          chosen: number of the cut-out; None: the uppermost.
        """
        objects = content["objects"]
        chosen = len(objects) - 1 if chosen is None else chosen
        image = scenes.preview(scenes.read(content, files, self.limits), chosen)
        draft.content, draft.files = content, scenes.used(content, files)
        entry = objects[chosen] if objects else {}
        x, y = entry.get("position", (0, 0))
        choices = [(f"{i + 1}: {x['file']}", i) for i, x in enumerate(objects)]
        return {
            "layers": gr.update(
                choices=choices[::-1], value=chosen if objects else None
            ),
            "x": x,
            "y": y,
            "scale": entry.get("scale", 1),
            "rotation": entry.get("rotation", 0),
            "flip": entry.get("flip", False),
            "width": content["width"],
            "height": content["height"],
            "preview": image,
        }

    # ---- completions ----

    def start(self, session: Session, *fields: Any) -> Updates:
        """Completions as they are drawn."""
        draft, run, num, seed, fixed, sampler = fields
        self.number_of(draft, 0)
        request = scenes.make_request(
            draft.content,
            draft.files,
            self.limits,
            **settings(run, num, seed, fixed, sampler),
        )
        painting = Painting(request.picture.pixels, request.mask)
        return self.generate(session, request, painting)


# ---- layout of the tab ----


def build(
    tab: ComposeTab, session: gr.State, draft: gr.State, blocks: gr.Blocks
) -> None:
    """Lay out the tab and connect its events."""
    parts = common.two_columns(
        left=[canvas, results],
        right=[controls, partial(common.comparisons, "compose")],
    )
    common.connect_runs(tab, blocks, parts)
    connect_scene(tab, draft, blocks, parts)
    fields = [parts[name] for name in ("run", "num", "seed", "fixed", "sampler")]
    common.connect_results(tab, session, parts, [draft, *fields])


def canvas() -> Parts:
    """The canvas, and what is put on it."""
    preview = common.image(
        "Canvas: click to place the chosen cut-out",
        height=460,
        elem_id="compose-canvas",
    )
    with gr.Row():
        files = gr.UploadButton(
            "Add cut-outs, or open a scene with its cut-outs",
            file_count="multiple",
            file_types=[".png", ".webp", ".json"],
            elem_id="compose-files",
            size="sm",
        )
    with gr.Row():
        example = gr.Dropdown(
            [*cutouts.EXAMPLES], value=None, label="Example", elem_id="compose-example"
        )
        width = common.number("Width", SIDE_OF_CANVAS)
        height = common.number("Height", SIDE_OF_CANVAS)
    return {
        "preview": preview,
        "files": files,
        "example": example,
        "width": width,
        "height": height,
    }


def layers() -> Parts:
    """The cut-outs, the uppermost first, and the place of the chosen one."""
    with gr.Group():
        chosen = gr.Radio(
            [], label="Cut-outs, the uppermost first", elem_id="compose-layers"
        )
        with gr.Row():
            x, y = (gr.Number(0, label=name, min_width=80) for name in "xy")
            flip = gr.Checkbox(False, label="mirrored", min_width=80)
        scale = gr.Slider(0.02, 4, 1, step=0.01, label="Scale")
        rotation = gr.Slider(-180, 180, 0, step=1, label="Rotation, degrees")
    with gr.Row():
        small: Any = {"size": "sm", "min_width": 60}
        above = gr.Button("Raise", elem_id="compose-raise", **small)
        below = gr.Button("Lower", **small)
        remove = gr.Button("Remove", **small)
    return {
        "layers": chosen,
        "x": x,
        "y": y,
        "flip": flip,
        "scale": scale,
        "rotation": rotation,
        "above": above,
        "below": below,
        "remove": remove,
    }


def controls() -> Parts:
    """The cut-outs, which run, how it draws, and the buttons."""
    parts = layers() | common.run_controls("compose")
    parts |= common.sampler("compose")
    return parts | common.buttons("compose", "Complete around")


def results() -> Parts:
    """The completions and their ZIP."""
    parts = common.gallery("compose", "Completions of the scene")
    return parts | common.download("compose")


def connect_scene(
    tab: ComposeTab, draft: gr.State, blocks: gr.Blocks, parts: Parts
) -> None:
    """Events that change the scene."""
    p, chosen = parts, parts["layers"]

    def scene_of(function: Any, *inputs: Any) -> dict[str, Any]:
        return call_by_name(function, [draft, *inputs], SHOWN, p)

    blocks.load(**scene_of(tab.choose, chosen))
    p["example"].input(**scene_of(tab.take_example, p["example"]))
    p["files"].upload(**scene_of(tab.add_files, p["files"]))
    chosen.input(**scene_of(tab.choose, chosen))
    place = scene_of(tab.place, chosen, *(p[name] for name in PLACE))
    for name in ("x", "y", "flip"):
        p[name].input(**place, trigger_mode="always_last")
    for name in ("scale", "rotation"):
        p[name].release(**place)
    p["above"].click(**scene_of(partial(tab.shift, steps=1), chosen))
    p["below"].click(**scene_of(partial(tab.shift, steps=-1), chosen))
    p["remove"].click(**scene_of(tab.remove, chosen))
    resize = scene_of(tab.resize, chosen, p["width"], p["height"])
    for name in ("width", "height"):
        p[name].submit(**resize)
        p[name].blur(**resize)
    p["preview"].select(**scene_of(tab.move, chosen))
