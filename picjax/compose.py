"""Cut-outs on a canvas: a picture and what of it is known, for `picjax.complete`.

    python -m picjax.compose --examples scenes
    python -m picjax.complete --workdir=RUN --compose scenes/*/*.json

    image, mask = compose("scenes/garden/garden.json")
    images = model.complete(image, mask, n=10)   # all around the flowers is made

The input of Intelligent Painter (arXiv 2210.17106; specification, section 4). Colours
are multiplied by their alpha before anything is resized or blended, and a pixel is known
only where it is opaque after that: the original resizes colour and mask apart, and what
is black where it is transparent comes out as dark fringes (`official_input`).
"""

import argparse
import contextlib
import difflib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float32, UInt8
from PIL import Image, ImageFilter, ImageOps

from picjax import images
from picjax.cli import Parser, UserError, run
from picjax.images import check_unique

Layer = Float32[np.ndarray, "_ _ 4"]  # red, green, blue times alpha, and alpha, in 0..1
GREY = 127 / 255  # beneath everything, as holes are shown
OPAQUE = 1 - 0.5 / 255  # alpha from here on is 255 in a file
LARGEST = 8192  # pixels: the longest side of a canvas and of a cut-out on it
BILINEAR = Image.Resampling.BILINEAR


class Cutout(NamedTuple):
    """A picture with transparency, and where it lies.

    Attributes:
      picture: of mode RGBA.
      position: x and y of its middle, canvas pixels from the upper left corner.
      scale: 1 = its own size.
      rotation: degrees, counter-clockwise, about its middle.
      flip: left and right exchanged, before it is turned.
      z: higher lies above; among equals the later one.
      name: what errors call it.
    """

    picture: Image.Image
    position: tuple[float, float]
    scale: float = 1.0
    rotation: float = 0.0
    flip: bool = False
    z: float = 0.0
    name: str = "a cut-out"


class Scene(NamedTuple):
    """A canvas.

    Attributes:
      size: its height and width, pixels.
      cutouts: what lies on it.
      background: of mode RGBA, resized to the canvas (aspect not kept), below all; what
        is transparent there is made.
      erode: pixels that become unknown along every edge of what is known.
    """

    size: tuple[int, int]
    cutouts: Sequence[Cutout]
    background: Image.Image | None = None
    erode: int = 0


def compose(
    scene: Scene | str | Path,
) -> tuple[UInt8[np.ndarray, "h w 3"], UInt8[np.ndarray, "h w 1"]]:
    """What lies on a canvas, and where it is known: 1 = wholly opaque, 0 = to be made.

    Soft edges are not known; in the picture they lie over grey.

    Raises:
      UserError: when a scene's file cannot be used, a cut-out shows nothing on the
        canvas, or nothing or everything is opaque.
    """
    if not isinstance(scene, Scene):
        path, scene = scene, read(scene)
        with _naming(path):
            return compose(scene)
    layers = blend(scene)
    alpha = layers[..., 3]
    known = np.where(alpha >= OPAQUE, 1, 0).astype(np.uint8)
    if known.all():
        raise UserError(
            "everything on the canvas is opaque; leave a part of it free, to be made"
        )
    known = shrink(known, scene.erode)
    if not known.any():
        raise UserError(
            "nothing on the canvas is wholly opaque; make a cut-out larger, its alpha "
            "255, or 'erode' smaller"
        )
    colour = layers[..., :3] + (1 - alpha[..., None]) * np.float32(GREY)
    return to_uint8(colour), known[..., None]


def blend(scene: Scene) -> Layer:
    """The cut-outs over the background over nothing, each source over what is below.

    Raises:
      UserError: when one of them shows nothing on the canvas.
    """
    height, width = scene.size
    canvas = np.zeros((height, width, 4), np.float32)
    if scene.background is not None:
        canvas = resize(premultiply(scene.background), scene.size)
    for cutout in sorted(scene.cutouts, key=lambda cutout: cutout.z):
        layer = transform(cutout)
        x, y = cutout.position
        top, left = round(y - layer.shape[0] / 2), round(x - layer.shape[1] / 2)
        rows = slice(max(top, 0), max(top + layer.shape[0], 0))
        columns = slice(max(left, 0), max(left + layer.shape[1], 0))
        below = canvas[rows, columns]
        above = layer[max(-top, 0) :, max(-left, 0) :]
        above = above[: below.shape[0], : below.shape[1]]
        if not above[..., 3].any():
            raise UserError(
                f"{cutout.name} lies wholly outside the canvas of {width}x{height} "
                f"pixels; mend its position, [{x:g}, {y:g}]"
            )
        below[:] = above + (1 - above[..., 3:]) * below
    return canvas


def transform(cutout: Cutout) -> Layer:
    """A cut-out flipped, resized (antialiased) and turned.

    Raises:
      UserError: when it comes out larger than LARGEST.
    """
    longest = max(cutout.picture.size) * cutout.scale
    if longest > LARGEST:
        raise UserError(
            f"{cutout.name} is {longest:.0f} pixels long at scale {cutout.scale:g}; "
            f"{LARGEST} is the most, so make 'scale' smaller"
        )
    layer = premultiply(cutout.picture)
    layer = layer[:, ::-1] if cutout.flip else layer
    h, w = (max(1, round(side * cutout.scale)) for side in layer.shape[:2])
    layer = resize(layer, (h, w))
    if not cutout.rotation:
        return layer
    # Pillow does not smooth what a picture's own edge cuts off.
    layer = np.pad(layer, ((1, 1), (1, 1), (0, 0)))
    return _by_plane(
        layer, lambda plane: plane.rotate(cutout.rotation, BILINEAR, expand=True)
    )


def premultiply(picture: Image.Image) -> Layer:
    """A picture's colours times its alpha, and alpha."""
    layer = np.asarray(picture.convert("RGBA"), np.float32) / 255
    layer[..., :3] *= layer[..., 3:]
    return layer


def resize(layer: Layer, size: tuple[int, int]) -> Layer:
    """A layer at a height and width."""
    if layer.shape[:2] == size:
        return layer
    height, width = size
    return _by_plane(layer, lambda plane: plane.resize((width, height), BILINEAR))


def _by_plane(layer: Layer, change: Callable[[Image.Image], Image.Image]) -> Layer:
    planes = (np.ascontiguousarray(layer[..., c]) for c in range(4))
    return np.stack([np.asarray(change(Image.fromarray(p))) for p in planes], -1)


def shrink(known: UInt8[np.ndarray, "h w"], pixels: int) -> UInt8[np.ndarray, "h w"]:
    """What is further than `pixels` from all that is lower, in rows and columns."""
    image = Image.fromarray(known)
    for _ in range(pixels):  # quicker than one wide square
        image = image.filter(ImageFilter.MinFilter(3))
    return np.asarray(image)


def to_uint8(x: Float32[np.ndarray, "h w c"]) -> UInt8[np.ndarray, "h w c"]:
    """0..1 to 0..255, rounded."""
    return np.round(255 * x).clip(0, 255).astype(np.uint8)


# ---- as the original does it ----


def flatten(scene: Scene) -> UInt8[np.ndarray, "h w 4"]:
    """The canvas as a PNG file has it, which the original saves: colour not times alpha.

    Black where nothing lies.
    """
    layers = blend(scene)
    colour = layers[..., :3] / np.maximum(layers[..., 3:], 1e-6)
    return to_uint8(np.concatenate([colour, layers[..., 3:]], -1))


def official_input(
    rgba: UInt8[np.ndarray, "h w 4"], size: int, erode: int = 0, invert: bool = False
) -> tuple[UInt8[np.ndarray, "s s 3"], UInt8[np.ndarray, "s s 1"]]:
    """What the original's network is given of a canvas: soft mask, dark fringes.

    Colour with alpha dropped, and the mask (255 where alpha is 255, else 0), each
    resized bilinearly without smoothing. Its erosion with a square of k pixels is that
    by (k - 1) / 2 here (specification, sections 4 and 6).
    """
    mask = official_mask(rgba, erode, invert)
    planes = [*np.moveaxis(rgba[..., :3], -1, 0), mask]
    h, w = mask.shape
    scaling = (w / size, 0, 0, 0, h / size, 0)
    resized = [
        Image.fromarray(plane.astype(np.float32)).transform(
            (size, size), Image.Transform.AFFINE, scaling, BILINEAR
        )
        for plane in planes
    ]
    both = np.stack([np.asarray(plane) for plane in resized], -1)
    rounded = np.round(both).astype(np.uint8)
    return rounded[..., :3], rounded[..., 3:]


def official_mask(
    rgba: UInt8[np.ndarray, "h w 4"], erode: int = 0, invert: bool = False
) -> UInt8[np.ndarray, "h w"]:
    """255 where alpha is 255, else 0, at the canvas's size."""
    known = shrink((rgba[..., 3] == 255).astype(np.uint8), erode)
    return 255 * (known ^ np.uint8(invert))


# ---- from a file ----


def read(path: str | Path) -> Scene:
    """A scene from a JSON file (docs/composition.md); its files lie relative to it.

    Raises:
      UserError: when anything in it cannot be used.
    """
    with _naming(path):
        try:
            content = json.loads(Path(path).read_text(encoding="utf-8"))
        except OSError as error:
            raise UserError(
                f"it cannot be read ({error.strerror}); give a JSON file"
            ) from error
        except (ValueError, RecursionError) as error:
            raise UserError(f"it is no JSON ({error}); mend it there") from error
        return parse(content, Path(path).parent)


@contextlib.contextmanager
def _naming(path: str | Path) -> Iterator[None]:
    try:
        yield
    except UserError as error:
        raise UserError(f"scene '{path}': {error}") from error


def parse(content: Any, folder: Path) -> Scene:
    """A scene from what its JSON says, with files below a folder.

    Raises:
      UserError: naming the key, or the nearest of an unknown one.
    """
    values = check(content, "", ("width", "height", "objects"), ("background", "erode"))
    cutouts = []
    for i, entry in enumerate(values["objects"]):
        needed, rest = ("file", "position"), ("scale", "rotation", "flip", "z")
        found = check(entry, f"objects[{i}]", needed, rest)
        file = found.pop("file")
        name = f"objects[{i}] ('{file}')"
        x, y = found.pop("position")
        picture = open_picture(folder / file, name)
        cutouts.append(Cutout(picture, (x, y), name=name, **found))
    background = None
    if "background" in values:
        file = values["background"]
        background = open_picture(folder / file, f"background ('{file}')")
    size = values["height"], values["width"]
    return Scene(size, tuple(cutouts), background, values.get("erode", 0))


def _is_number(x: Any) -> bool:
    return isinstance(x, int | float) and not isinstance(x, bool) and abs(x) <= 1e6


def _is_whole(x: Any, low: int, high: int) -> bool:
    return isinstance(x, int) and not isinstance(x, bool) and low <= x <= high


def _is_point(x: Any) -> bool:
    return isinstance(x, list) and len(x) == 2 and all(map(_is_number, x))


# What a key's value must be, and how to say so.
KEYS: dict[str, tuple[Callable[[Any], bool], str]] = {
    "width": (lambda x: _is_whole(x, 8, LARGEST), f"pixels, 8 to {LARGEST}"),
    "height": (lambda x: _is_whole(x, 8, LARGEST), f"pixels, 8 to {LARGEST}"),
    "objects": (
        lambda x: isinstance(x, list) and bool(x),
        'a list, such as [{"file": "cat.png", "position": [128, 200]}]',
    ),
    "background": (lambda x: isinstance(x, str), "a file's name"),
    "erode": (lambda x: _is_whole(x, 0, 64), "a whole number of pixels, 0 to 64"),
    "file": (lambda x: isinstance(x, str), "a file's name"),
    "position": (_is_point, "[x, y] of its middle, in pixels of the canvas"),
    "scale": (lambda x: _is_number(x) and x > 0, "a number above 0"),
    "rotation": (_is_number, "degrees"),
    "flip": (lambda x: isinstance(x, bool), "true or false"),
    "z": (_is_number, "a number; higher lies above"),
}


def check(
    entry: Any, where: str, needed: Sequence[str], optional: Sequence[str]
) -> dict[str, Any]:
    """The entry itself, if it is an object whose keys and values can be used.

    Raises:
      UserError: when they cannot; `where` it lies is said.
    """
    prefix = f"{where}: " if where else ""
    if not isinstance(entry, Mapping):
        raise UserError(f'{prefix}it is no JSON object; write {{"{needed[0]}": ...}}')
    every = (*needed, *optional)
    for key, value in entry.items():
        if key not in every:
            near = difflib.get_close_matches(key, every, n=1)
            hint = f"did you mean '{near[0]}'?" if near else "leave it out"
            raise UserError(
                f"{prefix}'{key}' is none of its keys {', '.join(every)}; {hint}"
            )
        fits, wanted = KEYS[key]
        if not fits(value):
            shown = json.dumps(value)[:60]
            raise UserError(f"{prefix}'{key}' is {shown}; give {wanted}")
    for key in needed:
        if key not in entry:
            raise UserError(f"{prefix}'{key}' is missing; give {KEYS[key][1]}")
    return dict(entry)


def open_picture(path: Path, name: str) -> Image.Image:
    """A picture file with transparency, upright, as RGBA.

    Raises:
      UserError: when there is none, it cannot be read, has no alpha or shows nothing.
    """
    if not path.is_file():
        raise UserError(
            f"{name} does not exist; paths are relative to the scene's file"
        )
    try:
        with Image.open(path) as picture:
            has_alpha = picture.has_transparency_data
            rgba = ImageOps.exif_transpose(picture).convert("RGBA")
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise UserError(f"{name} cannot be read ({error}); give a PNG") from error
    if not has_alpha:
        raise UserError(
            f"{name} has no alpha; give a cut-out, a PNG that is transparent around it"
        )
    if not rgba.getchannel("A").getbbox():
        raise UserError(f"{name} is wholly transparent; give a cut-out that shows")
    return rgba


# ---- command line ----


def main(argv: Sequence[str] | None = None) -> None:
    """The command; see the module's docstring.

    Raises:
      UserError: for anything the user can mend.
    """
    args = parse_arguments(argv)
    if not args.scenes and not args.examples:
        raise UserError("no scene is given; name a JSON file, or --examples DIR")
    if args.examples:
        from picjax.data.cutouts import write_examples

        for path in write_examples(Path(args.examples)):
            print(path)
    scenes = [Path(scene) for scene in args.scenes]
    if args.out:
        check_unique([scene.stem for scene in scenes], "there are {} scenes")
    for scene in scenes:
        image, mask = compose(scene)
        out = Path(args.out) if args.out else scene.parent
        images.write_png(out / f"{scene.stem}_canvas.png", image)
        images.write_png(out / f"{scene.stem}_hole.png", 255 * (1 - mask[..., 0]))
        share = float(mask.mean())
        print(f"{out / scene.stem}_canvas.png, _hole.png: {share:.0%} is known")


def parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = Parser(
        prog="python -m picjax.compose",
        description="Cut-outs on a canvas, as a picture and a mask file (white = hole); "
        "picjax.complete --compose completes scenes directly.",
        epilog="example: python -m picjax.compose --examples scenes && "
        "python -m picjax.compose scenes/garden/garden.json",
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("scenes", nargs="*", metavar="SCENE.json", help="see docs/composition.md")
    add("--out", metavar="DIR", help="where pictures go (beside each scene)")
    add("--examples", metavar="DIR", help="writes three scenes with their cut-outs")
    return parser.parse_args(argv)


if __name__ == "__main__":
    run(main)
