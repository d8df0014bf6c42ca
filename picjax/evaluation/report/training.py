"""Training curves on a report, as lines of SVG."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from picjax.cli import UserError
from picjax.curves import TIMINGS, read_curves

WIDTH, HEIGHT = 240, 72  # pixels of a curve


class Curve(NamedTuple):
    """A metric over the steps, and its geometry in pixels."""

    name: str
    points: str
    first_step: int
    last_step: int
    low: float
    high: float
    last: float
    width: int = WIDTH
    height: int = HEIGHT


def training_curves(protocol: Mapping[str, Any]) -> list[Curve]:
    """The curves of the run that was evaluated; none of folders, or without a log."""
    if "workdir" not in protocol:
        return []
    try:
        curves = read_curves(protocol["workdir"])
    except UserError:  # a run may be evaluated without its log
        return []
    return [
        curve(name, *pairs) for name, pairs in curves.items() if name not in TIMINGS
    ]


def curve(name: str, steps: np.ndarray, values: np.ndarray) -> Curve:
    """A curve that fills its frame."""
    low, high = float(values.min()), float(values.max())
    x = WIDTH * (steps - steps[0]) / max(steps[-1] - steps[0], 1)
    y = HEIGHT * (high - values) / ((high - low) or 1)
    points = " ".join(f"{a:.1f},{b:.1f}" for a, b in zip(x, y, strict=True))
    ends = int(steps[0]), int(steps[-1])
    return Curve(name, points, *ends, low, high, float(values[-1]))
