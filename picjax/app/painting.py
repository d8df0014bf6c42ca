"""A picture with a painted hole: what the editor sends, and what it is given."""

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import gradio as gr
import numpy as np
from gradio.components.base import server
from gradio.components.image_editor import EditorDataBlobs
from jaxtyping import UInt8
from PIL import Image

from picjax.app.requests import check_number
from picjax.app.uploads import Limits, read_rgba
from picjax.cli import UserError
from picjax.data.decode import MIN_SIDE

COLOUR = (229, 72, 77)  # of the hole in the editor
MAX_LAYERS = 4
MAX_PENDING = 16  # drawings that were sent and not yet asked for, of all clients
FAR = 4096  # pixels that a picture may be extended by to one side


class Painting(NamedTuple):
    """A picture and its mask.

    Attributes:
      picture: uint8 [h w 3].
      mask: uint8 [h w], 1 = known.
    """

    picture: UInt8[np.ndarray, "h w 3"]
    mask: UInt8[np.ndarray, "h w"]

    @property
    def has_hole(self) -> bool:
        """Whether anything is painted."""
        return not self.mask.all()


def make_editor(limits: Limits, **options: Any) -> gr.ImageEditor:
    """Gradio's editor, whose drawings are kept and decoded within limits.

    Two of its methods are replaced on the instance: of a subclass, Gradio would write a
    stub file into the package.
    """
    editor = gr.ImageEditor(
        type="pil",
        format="png",
        layers=False,
        transforms=(),
        brush=gr.Brush(
            colors=["#{:02x}{:02x}{:02x}".format(*COLOUR)],
            color_mode="fixed",
            default_size=32,
        ),
        eraser=gr.Eraser(default_size=32),
        **options,
    )

    def decode(file: Any, flatten_on_white: bool = False) -> Image.Image | None:
        """Decode one drawing."""
        del flatten_on_white
        if file is None:
            return None
        data = Path(file.path).read_bytes() if hasattr(file, "path") else bytes(file)
        try:
            return read_rgba(data, limits)
        except UserError as error:
            raise gr.Error(str(error), print_exception=False) from None

    accept = keeper(editor.blob_storage)
    replaced = {"accept_blobs": accept, "convert_and_format_image": decode}
    vars(editor).update(replaced)
    return editor


def keeper(pending: dict[str, EditorDataBlobs]) -> Callable[[Any], None]:
    """A function of the editor that keeps drawings, so many of all clients together."""
    lock = threading.Lock()

    @server
    def accept_blobs(data: Any) -> None:
        """Keep one drawing until its event arrives."""
        index, kind = str(data.data.get("index")), data.data.get("type")
        content: Any = data.files[0][1]
        with lock:
            empty = EditorDataBlobs(background=None, layers=[], composite=None)
            blobs = pending.setdefault(str(data.data.get("id")), empty)
            if kind == "layer" and index.isdecimal() and int(index) < MAX_LAYERS:
                missing = int(index) + 1 - len(blobs.layers)
                blobs.layers = [*blobs.layers, *[None] * missing]
                blobs.layers[int(index)] = content
            elif kind == "background":
                blobs.background = content
            while len(pending) > MAX_PENDING:
                del pending[next(iter(pending))]  # the oldest

    return accept_blobs


def read_painting(value: dict[str, Any] | None) -> Painting:
    """The picture and the mask of the editor.

    Raises:
      UserError: if there is no picture, or it is too small.
    """
    if not value or value["background"] is None:
        raise UserError("there is no picture yet; drop one on the canvas")
    picture = np.asarray(value["background"].convert("RGB"))
    if min(picture.shape[:2]) < MIN_SIDE:
        raise UserError(f"the picture is smaller than {MIN_SIDE} pixels; use a larger")
    mask: np.ndarray = np.ones(picture.shape[:2], np.uint8)
    for layer in value["layers"]:
        alpha = layer.getchannel("A")
        if alpha.size != (mask.shape[1], mask.shape[0]):
            box = (mask.shape[1], mask.shape[0])
            alpha = alpha.resize(box, Image.Resampling.NEAREST)
        mask[np.asarray(alpha) > 0] = 0
    return Painting(picture, mask)


def editor_value(painting: Painting) -> dict[str, Any]:
    """The editor's value for a painting."""
    layer = np.zeros((*painting.mask.shape, 4), np.uint8)
    layer[painting.mask == 0] = (*COLOUR, 255)
    layers = [layer] if painting.has_hole else []
    return {"background": painting.picture, "layers": layers, "composite": None}


def with_hole_shown(painting: Painting) -> UInt8[np.ndarray, "h w 3"]:
    """The picture with a grey hole, for comparison."""
    return np.where(painting.mask[..., None] == 1, painting.picture, np.uint8(127))


def extended(
    painting: Painting, sides: tuple[int, int, int, int], limits: Limits
) -> Painting:
    """The picture with a border of hole, to be completed (outpainting).

    Args:
      painting: the picture.
      sides: pixels to add at the left, top, right and bottom.
      limits: of the result.

    Raises:
      UserError: if it becomes too large, or nothing is added.
    """
    for name, pixels in zip(("left", "top", "right", "bottom"), sides, strict=True):
        check_number(name, pixels, 0, FAR)
    if not any(sides):
        raise UserError("no side is extended; give pixels for one of them")
    left, top, right, bottom = sides
    around = ((top, bottom), (left, right))
    height, width = painting.mask.shape
    size = (height + top + bottom, width + left + right)
    if size[0] * size[1] > limits.pixels:
        raise UserError(
            f"{size[1]}x{size[0]} pixels are more than {limits.pixels:,}; add fewer"
        )
    picture = np.pad(painting.picture, (*around, (0, 0)), constant_values=127)
    return Painting(picture, np.pad(painting.mask, around))


def with_rectangle(
    painting: Painting, corner: tuple[int, int], size: tuple[int, int]
) -> Painting:
    """A rectangle added to the hole.

    Args:
      painting: the picture.
      corner: x and y of its upper left corner, pixels.
      size: its width and height.

    Raises:
      UserError: if it lies outside of the picture.
    """
    height, width = painting.mask.shape
    check_number("x", corner[0], 0, width - 1)
    check_number("y", corner[1], 0, height - 1)
    check_number("width", size[0], 1, width)
    check_number("height", size[1], 1, height)
    mask = painting.mask.copy()
    mask[corner[1] : corner[1] + size[1], corner[0] : corner[0] + size[0]] = 0
    return painting._replace(mask=mask)
