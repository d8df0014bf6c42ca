"""Training curves: the metrics of a run's `metrics.jsonl` over its steps."""

import json

import numpy as np
from etils import epath

from picjax.cli import UserError

POINTS = 300  # of a curve; longer logs are averaged in equal groups
TIMINGS = ("seconds", "images_per_second", "data_wait")
Curves = dict[str, tuple[np.ndarray, np.ndarray]]  # metric -> steps, values


def read_curves(workdir: epath.PathLike) -> Curves:
    """The curves of a run, in the order in which metrics first appear.

    Raises:
      UserError: if the folder has no `metrics.jsonl`, or it is damaged.
    """
    path = epath.Path(workdir) / "metrics.jsonl"
    if not path.is_file():
        raise UserError(
            f"'{workdir}' has no metrics.jsonl; point to a folder that picjax.train wrote"
        )
    points: dict[str, list[tuple[int, float]]] = {}
    for number, line in enumerate(path.read_text().splitlines(), 1):
        try:
            entry = json.loads(line)
            step = entry.pop("step")
        except (json.JSONDecodeError, KeyError, AttributeError) as error:
            raise UserError(
                f"line {number} of '{path}' is damaged; remove it"
            ) from error
        for name, value in entry.items():
            points.setdefault(name, []).append((step, value))
    return {name: thin(np.array(pairs, float)) for name, pairs in points.items()}


def thin(pairs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Steps and values, averaged in groups of equal size if they are too many."""
    size = -(-len(pairs) // POINTS)
    groups = [pairs[i : i + size].mean(0) for i in range(0, len(pairs), size)]
    steps, values = np.array(groups).T
    return steps, values
