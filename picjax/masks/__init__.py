"""Masks: uint8 [h w], 1 = known, 0 = hole, by name, from files, at random for training.

A named mask is drawn at the size at which the model works, in training and when
completing: an image of another size gets it resized, as the image itself is resized.
"""

from picjax.masks.files import load_mask, picture_mask
from picjax.masks.matching import (
    PAIRINGS,
    DoubtfulMask,
    doubts,
    find,
    match_masks,
    named,
    resolve,
)
from picjax.masks.sampling import FILES, FileMasks, mask_drawer
from picjax.masks.shapes import HOLE_RATIO, NAMES, center, make
from picjax.masks.strokes import (
    Arc,
    Circle,
    Draws,
    Line,
    Mask,
    draw_primitive,
    irregular,
    irregular_primitives,
    numpy_draws,
    python_draws,
    rectangles,
)

__all__ = [
    "FILES",
    "HOLE_RATIO",
    "NAMES",
    "PAIRINGS",
    "Arc",
    "Circle",
    "DoubtfulMask",
    "Draws",
    "FileMasks",
    "Line",
    "Mask",
    "center",
    "doubts",
    "draw_primitive",
    "find",
    "irregular",
    "irregular_primitives",
    "load_mask",
    "make",
    "mask_drawer",
    "match_masks",
    "named",
    "numpy_draws",
    "picture_mask",
    "python_draws",
    "rectangles",
    "resolve",
]
