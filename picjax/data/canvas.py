"""Cut-outs on a canvas: placing them, and the mask of what they cover.

Colours are premultiplied by alpha before anything is resized or blended, and a pixel is
known only where it is opaque after that. Intelligent Painter (arXiv 2210.17106) resizes
colour and mask separately instead, so that black enters along every edge
(`official_input`).
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float32, UInt8
from PIL import Image, ImageFilter

from picjax.cli import UserError

Layer = Float32[np.ndarray, "_ _ 4"]  # premultiplied red, green, blue; alpha; 0..1
GREY = 127 / 255  # behind everything, the colour in which holes are shown
OPAQUE = 1 - 0.5 / 255  # the least alpha that a file stores as 255
LARGEST = 8192  # pixels: the longest side of a canvas and of a cut-out on it
BILINEAR = Image.Resampling.BILINEAR


class Cutout(NamedTuple):
    """A picture with transparency, and its place on the canvas.

    Attributes:
      picture: of mode RGBA.
      position: x and y of its centre, canvas pixels from the upper left corner.
      scale: 1 = its own size.
      rotation: degrees, counter-clockwise, about its centre.
      flip: mirrored horizontally, before the rotation.
      z: higher lies above; of equals the later one.
      name: in error messages.
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
      cutouts: the pictures on it.
      background: of mode RGBA, resized to the canvas without keeping its aspect ratio,
        behind everything; its transparent pixels belong to the hole.
      erode: width in pixels of the rim along every edge that becomes part of the hole.
    """

    size: tuple[int, int]
    cutouts: Sequence[Cutout]
    background: Image.Image | None = None
    erode: int = 0


def draw(
    scene: Scene,
) -> tuple[UInt8[np.ndarray, "h w 3"], UInt8[np.ndarray, "h w 1"]]:
    """The picture of a canvas, and its mask: 1 = opaque, 0 = hole.

    Soft edges belong to the hole; the picture shows them over grey.

    Raises:
      UserError: if a cut-out is not visible, or if nothing or everything is opaque.
    """
    layers = blend(scene)
    alpha = layers[..., 3]
    mask = np.where(alpha >= OPAQUE, 1, 0).astype(np.uint8)
    if mask.all():
        raise UserError(
            "everything on the canvas is opaque; leave a part of it free to be completed"
        )
    mask = erode(mask, scene.erode)
    if not mask.any():
        raise UserError(
            "nothing on the canvas is wholly opaque; make a cut-out larger, its alpha "
            "255, or 'erode' smaller"
        )
    colour = layers[..., :3] + (1 - alpha[..., None]) * np.float32(GREY)
    return to_uint8(colour), mask[..., None]


def blend(scene: Scene) -> Layer:
    """The background and the cut-outs, each composited over those below it.

    Raises:
      UserError: if a cut-out is not visible on the canvas.
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
                f"pixels; correct its position, [{x:g}, {y:g}]"
            )
        below[:] = above + (1 - above[..., 3:]) * below
    return canvas


def transform(cutout: Cutout) -> Layer:
    """A cut-out mirrored, resized (antialiased) and rotated.

    Raises:
      UserError: if it becomes larger than LARGEST.
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
    # Pillow does not antialias the edge of the picture itself.
    layer = np.pad(layer, ((1, 1), (1, 1), (0, 0)))
    return _map_planes(
        layer, lambda plane: plane.rotate(cutout.rotation, BILINEAR, expand=True)
    )


def premultiply(picture: Image.Image) -> Layer:
    """A picture's colours times its alpha, and its alpha."""
    layer = np.asarray(picture.convert("RGBA"), np.float32) / 255
    layer[..., :3] *= layer[..., 3:]
    return layer


def resize(layer: Layer, size: tuple[int, int]) -> Layer:
    """A layer at another height and width."""
    if layer.shape[:2] == size:
        return layer
    height, width = size
    return _map_planes(layer, lambda plane: plane.resize((width, height), BILINEAR))


def _map_planes(layer: Layer, function: Callable[[Image.Image], Image.Image]) -> Layer:
    planes = (np.ascontiguousarray(layer[..., c]) for c in range(4))
    return np.stack([np.asarray(function(Image.fromarray(p))) for p in planes], -1)


def erode(mask: UInt8[np.ndarray, "h w"], pixels: int) -> UInt8[np.ndarray, "h w"]:
    """Erosion by a square of side 2 * pixels + 1."""
    image = Image.fromarray(mask)
    for _ in range(pixels):  # faster than one large square
        image = image.filter(ImageFilter.MinFilter(3))
    return np.asarray(image)


def to_uint8(x: Float32[np.ndarray, "h w c"]) -> UInt8[np.ndarray, "h w c"]:
    """0..1 to 0..255, rounded."""
    return np.round(255 * x).clip(0, 255).astype(np.uint8)


# ---- Intelligent Painter's own conventions ----


def flatten(scene: Scene) -> UInt8[np.ndarray, "h w 4"]:
    """The canvas as the original saves it: RGBA, not premultiplied, black if empty."""
    layers = blend(scene)
    colour = layers[..., :3] / np.maximum(layers[..., 3:], 1e-6)
    return to_uint8(np.concatenate([colour, layers[..., 3:]], -1))


def official_input(
    rgba: UInt8[np.ndarray, "h w 4"], size: int, pixels: int = 0, invert: bool = False
) -> tuple[UInt8[np.ndarray, "s s 3"], UInt8[np.ndarray, "s s 1"]]:
    """The input of the original's network: a soft mask, and dark fringes.

    Colours without alpha and the mask are each resized bilinearly without antialiasing.

    Args:
      rgba: the canvas (`flatten`).
      size: side of the square result.
      pixels: (k - 1) / 2 for the original's erosion by a square of side k.
      invert: whether the mask is inverted.
    """
    mask = official_mask(rgba, pixels, invert)
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
    rgba: UInt8[np.ndarray, "h w 4"], pixels: int = 0, invert: bool = False
) -> UInt8[np.ndarray, "h w"]:
    """255 where alpha is 255, else 0, at the canvas's size; eroded by `pixels`."""
    mask = erode((rgba[..., 3] == 255).astype(np.uint8), pixels)
    return 255 * (mask ^ np.uint8(invert))
