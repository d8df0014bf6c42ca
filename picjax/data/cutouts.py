"""Example scenes: cut-outs of photographs in scikit-image and scikit-learn.

The outlines were drawn by hand; their edges are soft and not exact everywhere.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from PIL import Image, ImageDraw, ImageFilter

from picjax import files
from picjax.cli import UserError
from picjax.data.photos import photograph

Points = Sequence[tuple[float, float]]
SOFT = 1.5  # pixels: radius of the blur that softens an outline


class Outline(NamedTuple):
    """A part of a photograph: the union of ellipses (boxes) and polygons; pixels."""

    file: str
    ellipses: Sequence[tuple[float, float, float, float]] = ()
    polygons: Sequence[Points] = ()


_ASTRONAUT = (
    (26, 520), (23, 430), (36, 330), (46, 282), (72, 246), (112, 216), (120, 188),
    (130, 166), (152, 152), (182, 152), (181, 132), (166, 116), (156, 95), (157, 60),
    (172, 38), (198, 23), (226, 17), (258, 22), (283, 41), (296, 66), (298, 96),
    (288, 115), (273, 128), (262, 142), (257, 168), (284, 198), (302, 230),
    (306, 246), (332, 264), (348, 290), (356, 322), (362, 352), (400, 346),
    (438, 353), (472, 385), (490, 428), (498, 465), (505, 520),
)  # fmt: skip
_TEMPLE = (
    (196, 33), (205, 29), (214, 33), (211, 48), (217, 63), (236, 83), (262, 98),
    (286, 108), (318, 121), (313, 131), (295, 136), (293, 159), (303, 163),
    (329, 174), (326, 182), (319, 190), (319, 226), (327, 232), (327, 243),
    (349, 253), (349, 261), (340, 270), (340, 304), (347, 313), (348, 326),
    (368, 336), (346, 362), (326, 372), (298, 386), (206, 384), (200, 362),
    (160, 349), (76, 333), (76, 324), (83, 312), (82, 280), (66, 270), (75, 253),
    (96, 246), (96, 232), (101, 224), (100, 190), (86, 184), (89, 173), (118, 161),
    (121, 145), (101, 133), (96, 122), (99, 107), (126, 101), (156, 89), (180, 73),
    (194, 59), (199, 48),
)  # fmt: skip
_CAT = (
    (35, -9), (33, 60), (38, 110), (34, 160), (55, 205), (95, 245), (150, 275),
    (200, 286), (262, 288), (305, 262), (318, 225), (345, 185), (360, 140),
    (357, 80), (378, 40), (388, -9),
)  # fmt: skip
_ROCKET = (
    (323, 127), (331, 136), (334, 148), (334, 178), (336, 184), (336, 404),
    (372, 408), (372, 440), (268, 440), (268, 408), (309, 404), (309, 184),
    (312, 178), (312, 148), (315, 136),
)  # fmt: skip

CUTOUTS = {
    "astronaut": Outline("astronaut.png", polygons=[_ASTRONAUT]),
    "temple": Outline("china.jpg", polygons=[_TEMPLE]),
    "cat": Outline("chelsea.png", polygons=[_CAT]),
    "cup": Outline("coffee.png", [(79, 58, 478, 386), (174, 19, 405, 208)]),
    "flower": Outline("flower.jpg", [(175, 90, 440, 354)]),
    "rocket": Outline("rocket.jpg", polygons=[_ROCKET]),
}

# Scene -> its objects, on 256 x 256 pixels, from back to front.
EXAMPLES: dict[str, list[dict[str, Any]]] = {
    "visit": [
        {"file": "rocket.png", "position": [217, 110], "scale": 0.5},
        {"file": "temple.png", "position": [78, 128], "scale": 0.5},
        {"file": "astronaut.png", "position": [158, 194], "scale": 0.25, "flip": True},
    ],
    "table": [
        {"file": "cat.png", "position": [96, 62], "scale": 0.43, "flip": True},
        {"file": "cup.png", "position": [168, 190], "scale": 0.4},
    ],
    "garden": [
        {"file": "flower.png", "position": [190, 70], "scale": 0.3, "z": 1},
        {"file": "flower.png", "position": [62, 110], "scale": 0.4, "rotation": 30},
        {
            "file": "flower.png",
            "position": [150, 190],
            "scale": 0.55,
            "rotation": -45,
            "flip": True,
        },
    ],
}


def cut(outline: Outline) -> Image.Image:
    """The cut-out inside an outline, RGBA, cropped, with a soft edge.

    Raises:
      UserError: if the installed packages do not contain the photograph.
    """
    photo = photograph(outline.file)
    if photo is None:
        raise UserError(
            f"scikit-image and scikit-learn do not contain {outline.file}; reinstall "
            "picjax"
        )
    alpha = Image.new("L", photo.size)
    brush = ImageDraw.Draw(alpha)
    for box in outline.ellipses:
        brush.ellipse(box, fill=255)
    for points in outline.polygons:
        brush.polygon(list(points), fill=255)
    photo.putalpha(alpha.filter(ImageFilter.GaussianBlur(SOFT)))
    return photo.crop(photo.getchannel("A").getbbox())


def write_examples(folder: Path) -> list[Path]:
    """Write FOLDER/NAME/NAME.json and its cut-outs for each of EXAMPLES.

    Returns:
      The paths of the JSON files.

    Raises:
      UserError: if a photograph is missing.
    """
    paths = []
    for name, objects in EXAMPLES.items():
        for file in {entry["file"] for entry in objects}:
            with files.open_atomic(folder / name / file) as stream:
                cut(CUTOUTS[Path(file).stem]).save(stream, "png", compress_level=3)
        scene = {"width": 256, "height": 256, "objects": objects}
        paths.append(folder / name / f"{name}.json")
        files.write_text(paths[-1], json.dumps(scene, indent=2) + "\n")
    return paths
