"""PICNet's masks: the official draws exactly, OpenCV's pixels up to edges."""

import numpy as np
from PIL import Image, ImageDraw

from picjax import masks
from picjax.masks import Arc, Circle, Line

IOU = 0.97  # of the hole, with any rasteriser (the fixture's own tolerance)
PRIMITIVES = {
    "line": Line(20, 15, 100, 70, 9),
    "line_thick20": Line(64, 30, 64, 90, 20),
    "circle": Circle(60, 50, 17),
    "ellipse": Arc(64, 64, 50, 25, 30, 10, 170, 7),
    "ellipse_rev": Arc(64, 64, 40, 45, 120, 150, 20, 12),
}


def overlap(a: np.ndarray, b: np.ndarray) -> float:
    """Intersection over union."""
    return float((a & b).sum() / (a | b).sum())


def row(primitive: Line | Circle | Arc) -> list[int]:
    """As `out/irregular_prims_*` has it."""
    p = primitive
    if isinstance(p, Line):
        return [0, p.x1, p.y1, p.x2, p.y2, p.thickness, 0, 0]
    if isinstance(p, Circle):
        return [1, p.x, p.y, p.radius, 0, -1, 0, 0]
    angles = p.rotation * 1000 + p.start
    return [2, p.x, p.y, p.axis1, p.axis2, p.thickness, angles, p.end]


def check_masks(fixture) -> None:
    """Every array of picnet/masks.npz."""
    rng = np.random.default_rng(0)
    seen = 0
    for name, expected in fixture.outputs.items():
        kind, _, rest = name.partition("_")
        size = expected.shape
        if kind == "center":
            np.testing.assert_array_equal(masks.center(rng, *size), expected)
        elif kind == "regular":
            draws = masks.python_draws(int(rest.split("seed")[1]))
            np.testing.assert_array_equal(masks.rectangles(draws, *size), expected)
        elif name.startswith("irregular_256"):
            draws = masks.python_draws(int(rest.split("seed")[1]))
            hole = masks.irregular(draws, *size) == 0
            assert overlap(hole, expected == 0) >= IOU, name
        elif kind == "irregular":
            draws = masks.python_draws(int(rest.split("seed")[1]))
            rows = [row(p) for p in masks.irregular_primitives(draws, 256, 256)]
            np.testing.assert_array_equal(rows, expected)
        elif kind == "prim":
            picture = Image.new("L", size[::-1], 0)
            masks.draw_primitive(ImageDraw.Draw(picture), PRIMITIVES[rest], 1)
            assert overlap(np.array(picture) > 0, expected > 0) >= IOU, name
        else:
            shape = "rectangles" if "regular_" in f"{rest}_"[:8] else "irregular"
            drawn = [1 - masks.make(shape, (256, 256), rng).mean() for _ in range(600)]
            assert abs(np.mean(drawn) - expected.mean()) < 0.02, name
            assert abs(np.std(drawn) - expected.std()) < 0.02, name
        seen += 1
    assert seen == len(fixture.outputs) > 20


HANDLERS = {("picnet", "masks"): check_masks}
