"""Scenes of cut-outs as clients send, edit and see them: a scene's JSON and its files."""

import json
import math
from collections.abc import Mapping
from io import BytesIO
from pathlib import PurePath
from typing import Any

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageDraw

from picjax.app.layouts import enlarged
from picjax.app.requests import SCENE, CompositionRequest
from picjax.app.uploads import Limits
from picjax.cli import UserError
from picjax.data import canvas, composition
from picjax.data.canvas import Scene
from picjax.files import parse_json
from picjax.images import Picture

MAX_OBJECTS, NAME_LENGTH = 64, 100
LIGHT, DARK, SQUARE = 235, 205, 8  # levels and pixels of the chequers behind a scene
FRAME = (59, 130, 246)  # colour of the frame around the chosen cut-out

Content = dict[str, Any]  # of a scene's JSON (docs/composition.md)


def parse(text: str) -> Content:
    """The JSON of a scene whose files are called by their last names, lowest first.

    Raises:
      UserError: if it is no JSON, or a key is invalid.
    """
    try:
        content = parse_json(text)
    except ValueError as error:
        raise UserError(f"the scene is not JSON ({error}); correct it there") from None
    composition.check_scene(content)
    entries = sorted(content["objects"], key=lambda entry: entry.get("z", 0))
    objects = [
        {k: v for k, v in entry.items() if k != "z"} | {"file": base(entry["file"])}
        for entry in entries
    ]
    content = {**content, "objects": objects}
    if "background" in content:
        content["background"] = base(content["background"])
    return content


def base(name: str) -> str:
    """The last part of a path, in characters that can be shown."""
    last = PurePath(name.replace("\\", "/")).name
    return "".join(c for c in last if c.isprintable())[:NAME_LENGTH]


def read(content: Content, files: Mapping[str, bytes], limits: Limits) -> Scene:
    """A scene with its pictures; it may have no cut-out yet.

    Args:
      content: the scene's JSON.
      files: name -> PNG file.
      limits: of the canvas, of all files together, and of all cut-outs on the canvas.

    Raises:
      UserError: naming what is invalid, missing or too large.
    """
    objects, size = content["objects"], (content["height"], content["width"])
    if objects:
        composition.check_scene(content)
    else:
        sides = {"height": size[0], "width": size[1]}
        composition.check(sides, "", ("width", "height"), ())
    if len(objects) > MAX_OBJECTS:
        raise UserError(
            f"the scene has {len(objects)} objects; {MAX_OBJECTS} is the most"
        )
    check_pixels("the canvas", math.prod(size), limits)
    if not objects:
        return Scene(size, ())
    decoded: dict[str, Image.Image] = {}

    def find(file: str, name: str) -> Image.Image:
        if file not in files:
            raise UserError(f"{name} is not among the files; send it with the scene")
        if file not in decoded:
            left = limits.pixels - sum(math.prod(x.size) for x in decoded.values())
            decoded[file] = composition.decode_cutout(BytesIO(files[file]), name, left)
        return decoded[file]

    scene = composition.parse(content, find)
    scaled = [math.prod(x.picture.size) * x.scale**2 for x in scene.cutouts]
    check_pixels("the cut-outs at their scales", round(sum(scaled)), limits)
    return scene


def make_request(
    content: Content, files: Mapping[str, bytes], limits: Limits, **options: Any
) -> CompositionRequest:
    """A request for completions of a scene; `options` are its other fields.

    Raises:
      UserError: if the scene cannot be drawn, or a number is out of its range.
    """
    image, mask = composition.compose(read(content, files, limits))
    scene = {SCENE: (json.dumps(content, indent=2) + "\n").encode()}
    return CompositionRequest(
        picture=Picture(image),
        mask=mask[..., 0],
        scene=used(content, files) | scene,
        **options,
    )


def used(content: Content, files: Mapping[str, bytes]) -> dict[str, bytes]:
    """The files that a scene names."""
    names = [entry["file"] for entry in content["objects"]]
    names += [content["background"]] if "background" in content else []
    return {name: files[name] for name in names}


def check_pixels(name: str, pixels: int, limits: Limits) -> None:
    """Refuse what is too large to be drawn.

    Raises:
      UserError: with the limit.
    """
    if pixels > limits.pixels:
        raise UserError(
            f"{name}: {pixels:,} pixels are more than {limits.pixels:,}; make it smaller"
        )


def preview(scene: Scene, chosen: int | None) -> UInt8[np.ndarray, "y x 3"]:
    """A scene over chequers, which are to be generated, enlarged for the mouse.

    Args:
      scene: the cut-outs.
      chosen: number of the one that has a frame.
    """
    layers = canvas.blend(scene)
    rows, columns = np.indices(scene.size) // SQUARE
    levels = np.where((rows + columns) % 2, DARK, LIGHT).astype(np.float32)
    behind = levels[..., None] / 255
    image = enlarged(canvas.to_uint8(layers[..., :3] + (1 - layers[..., 3:]) * behind))
    if chosen is None or not 0 <= chosen < len(scene.cutouts):
        return image
    cutout = scene.cutouts[chosen]
    height, width = canvas.transform(cutout).shape[:2]
    factor = image.shape[0] // scene.size[0]
    (x, y), half = cutout.position, (width / 2, height / 2)
    box = (x - half[0], y - half[1], x + half[0], y + half[1])
    framed = Image.fromarray(image)
    corners = [factor * side for side in box]
    ImageDraw.Draw(framed).rectangle(corners, outline=FRAME, width=2)
    return np.asarray(framed)
