"""PICNet's masks: the official draws exactly, OpenCV's pixels up to edges."""

import re

import numpy as np
from fixture import Fixture
from PIL import Image, ImageDraw

from picjax import masks
from picjax.masks import Arc, Circle, Line

IOU = 0.97  # of the hole, with any rasteriser (the fixture's own tolerance)


def described_primitives(fixture: Fixture) -> dict[str, Line | Circle | Arc]:
    """The single primitives as the meta describes them, by name.

    `line (x1,y1)-(x2,y2) thickness t`, `circle centre (x,y) r r filled`, `ellipse centre
    (x,y) axes (a,b) rot r from s to e thickness t`; without a centre: the image's.
    """
    text = fixture.meta.get("arrays", {}).get("out/prim_*", "").partition(": ")[2]
    primitives: dict[str, Line | Circle | Arc] = {}
    for entry in filter(None, (part.strip() for part in text.split(";"))):
        name = entry.split()[0]
        numbers = [int(n) for n in re.findall(r"\d+", entry.partition(" ")[2])]
        if name.startswith("line"):
            primitives[name] = Line(*numbers)
        elif name.startswith("circle"):
            primitives[name] = Circle(*numbers)
        else:
            h, w = fixture.outputs[f"prim_{name}"].shape
            centre = [] if "centre" in entry else [w // 2, h // 2]
            primitives[name] = Arc(*centre, *numbers)
    return primitives


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


def size_of(name: str, fixture: Fixture) -> tuple[int, int]:
    """Size of the mask whose primitives `irregular_prims_seed<n>` lists."""
    seed = name.rpartition("_")[2]
    for other, x in fixture.outputs.items():
        if re.fullmatch(rf"irregular_\d\w*_{seed}", other):
            return x.shape[0], x.shape[1]
    return 256, 256


def stats_size(fixture: Fixture) -> tuple[int, int]:
    """Size at which the hole fractions were measured, `... draws at 256x256`."""
    text = fixture.meta.get("arrays", {}).get("out/stats_*_hole_fraction", "")
    match = re.search(r"(\d+)\s*x\s*(\d+)", text)
    return (int(match[1]), int(match[2])) if match else (256, 256)


def check_masks(fixture: Fixture) -> None:
    """Every array: names say the shape, the size and the seed."""
    rng = np.random.default_rng(0)
    assert fixture.outputs
    primitives = described_primitives(fixture)
    for name, expected in fixture.outputs.items():
        kind, _, rest = name.partition("_")
        seeded = re.search(r"seed(\d+)$", name)
        draws = masks.python_draws(int(seeded[1])) if seeded else None
        if kind == "center":
            np.testing.assert_array_equal(masks.center(rng, *expected.shape), expected)
        elif kind == "prim":
            picture = Image.new("L", expected.shape[::-1], 0)
            masks.draw_primitive(ImageDraw.Draw(picture), primitives[rest], 1)
            assert overlap(np.array(picture) > 0, expected > 0) >= IOU, name
        elif kind == "stats":
            shape = "irregular" if rest.startswith("irregular") else "rectangles"
            size = stats_size(fixture)
            holes = [1 - masks.make(shape, size, rng).mean() for _ in range(600)]
            assert abs(np.mean(holes) - expected.mean()) < 0.02, name
            assert abs(np.std(holes) - expected.std()) < 0.02, name
        elif draws is None:
            raise AssertionError(f"{name} is no mask that PICNet draws")
        elif kind == "regular":
            mask = masks.rectangles(draws, *expected.shape)
            np.testing.assert_array_equal(mask, expected)
        elif rest.startswith("prims"):
            drawn = masks.irregular_primitives(draws, *size_of(name, fixture))
            np.testing.assert_array_equal([row(p) for p in drawn], expected)
        else:
            hole = masks.irregular(draws, *expected.shape) == 0
            assert overlap(hole, expected == 0) >= IOU, name
