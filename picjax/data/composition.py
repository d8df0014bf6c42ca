"""Compositions: reading a scene from JSON, and drawing it as an image and a mask."""

import contextlib
import difflib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageOps

from picjax.cli import UserError
from picjax.data import canvas
from picjax.data.canvas import LARGEST, Cutout, Scene
from picjax.data.decode import BadImage, TooLarge, open_image, to_srgb
from picjax.files import read_json


def compose(
    scene: Scene | str | Path,
) -> tuple[UInt8[np.ndarray, "h w 3"], UInt8[np.ndarray, "h w 1"]]:
    """The picture of a scene, and its mask: 1 = opaque, 0 = hole.

    Args:
      scene: a `Scene`, or the path of a JSON file (docs/composition.md).

    Raises:
      UserError: if the file is invalid, a cut-out is not visible on the canvas, or
        nothing or everything is opaque.
    """
    if isinstance(scene, Scene):
        return canvas.draw(scene)
    with _named_errors(scene):
        return canvas.draw(_read(Path(scene)))


@contextlib.contextmanager
def _named_errors(path: str | Path) -> Iterator[None]:
    try:
        yield
    except UserError as error:
        raise UserError(f"scene '{path}': {error}") from error


def _read(path: Path) -> Scene:
    try:
        content = read_json(path)
    except OSError as error:
        raise UserError(
            f"it cannot be read ({error.strerror}); give a JSON file"
        ) from error
    except ValueError as error:
        raise UserError(f"it is not JSON ({error}); correct it there") from error
    return parse(content, lambda file, name: open_picture(path.parent / file, name))


def parse(content: Any, find: Callable[[str, str], Image.Image]) -> Scene:
    """A scene from parsed JSON.

    Args:
      content: the JSON.
      find: returns the picture of a file, of mode RGBA; its second argument names the
        file in errors.

    Raises:
      UserError: naming the invalid key, with the nearest valid one.
    """
    check_scene(content)
    cutouts = []
    for i, entry in enumerate(content["objects"]):
        options = dict(entry)
        file, position = options.pop("file"), tuple(options.pop("position"))
        name = f"objects[{i}] ('{file}')"
        cutouts.append(Cutout(find(file, name), position, name=name, **options))
    background = None
    if "background" in content:
        file = content["background"]
        background = find(file, f"background ('{file}')")
    size = content["height"], content["width"]
    return Scene(size, tuple(cutouts), background, content.get("erode", 0))


def check_scene(content: Any) -> None:
    """Refuse parsed JSON with invalid keys or values, before any file is opened.

    Raises:
      UserError: naming the invalid key, with the nearest valid one.
    """
    check(content, "", ("width", "height", "objects"), ("background", "erode"))
    for i, entry in enumerate(content["objects"]):
        required, optional = ("file", "position"), ("scale", "rotation", "flip", "z")
        check(entry, f"objects[{i}]", required, optional)


def _is_number(x: Any) -> bool:
    return isinstance(x, int | float) and not isinstance(x, bool) and abs(x) <= 1e6


def _is_integer(x: Any, low: int, high: int) -> bool:
    return isinstance(x, int) and not isinstance(x, bool) and low <= x <= high


def _is_point(x: Any) -> bool:
    return isinstance(x, list) and len(x) == 2 and all(map(_is_number, x))


# Key -> whether a value is valid, and a description of valid values.
KEYS: dict[str, tuple[Callable[[Any], bool], str]] = {
    "width": (lambda x: _is_integer(x, 8, LARGEST), f"pixels, 8 to {LARGEST}"),
    "height": (lambda x: _is_integer(x, 8, LARGEST), f"pixels, 8 to {LARGEST}"),
    "objects": (
        lambda x: isinstance(x, list) and bool(x),
        'a list, such as [{"file": "cat.png", "position": [128, 200]}]',
    ),
    "background": (lambda x: isinstance(x, str), "the name of a file"),
    "erode": (lambda x: _is_integer(x, 0, 64), "an integer number of pixels, 0 to 64"),
    "file": (lambda x: isinstance(x, str), "the name of a file"),
    "position": (_is_point, "[x, y] of its centre, in pixels of the canvas"),
    "scale": (lambda x: _is_number(x) and x > 0, "a number above 0"),
    "rotation": (_is_number, "degrees"),
    "flip": (lambda x: isinstance(x, bool), "true or false"),
    "z": (_is_number, "a number; higher lies above"),
}


def check(
    entry: Any, where: str, required: Sequence[str], optional: Sequence[str]
) -> None:
    """Refuse what is no object with valid keys and values.

    Raises:
      UserError: naming `where` the entry is, and the key.
    """
    prefix = f"{where}: " if where else ""
    if not isinstance(entry, Mapping):
        raise UserError(
            f'{prefix}it is not a JSON object; write {{"{required[0]}": ...}}'
        )
    keys = (*required, *optional)
    for key, value in entry.items():
        if key not in keys:
            near = difflib.get_close_matches(key, keys, n=1)
            hint = f"did you mean '{near[0]}'?" if near else "remove it"
            raise UserError(
                f"{prefix}'{key}' is none of its keys {', '.join(keys)}; {hint}"
            )
        is_valid, description = KEYS[key]
        if not is_valid(value):
            shown = json.dumps(value)[:60]
            raise UserError(f"{prefix}'{key}' is {shown}; give {description}")
    for key in required:
        if key not in entry:
            raise UserError(f"{prefix}'{key}' is missing; give {KEYS[key][1]}")


def open_picture(path: Path, name: str) -> Image.Image:
    """A picture file with transparency, upright, as RGBA.

    Args:
      path: of the file.
      name: in error messages.

    Raises:
      UserError: if it is missing, unreadable, without alpha or wholly transparent.
    """
    if not path.is_file():
        raise UserError(
            f"{name} does not exist; paths are relative to the scene's file"
        )
    return decode_cutout(path, name)


def decode_cutout(
    file: Path | BytesIO, name: str, max_pixels: int | None = None
) -> Image.Image:
    """As `open_picture`, of a file or of its bytes.

    Args:
      file: a path that exists, or the content.
      name: in error messages.
      max_pixels: the largest picture, width times height; None: as `open_image`.

    Raises:
      UserError: if it is unreadable, too large, without alpha or wholly transparent.
    """
    try:
        with open_image(file, max_pixels) as picture:
            has_alpha = picture.has_transparency_data
            rgba = ImageOps.exif_transpose(picture).convert("RGBA")
            alpha = rgba.getchannel("A")
            rgba = to_srgb(rgba)
            rgba.putalpha(alpha)
    except BadImage as error:
        advice = "make it smaller" if isinstance(error, TooLarge) else "give a PNG"
        raise UserError(f"{name} cannot be read ({error}); {advice}") from error
    if not has_alpha:
        raise UserError(
            f"{name} has no alpha; give a cut-out, a PNG that is transparent around it"
        )
    if not rgba.getchannel("A").getbbox():
        raise UserError(f"{name} is wholly transparent; give a visible cut-out")
    return rgba
