"""Scenes of cut-outs that tests share."""

import json
from pathlib import Path

import numpy as np
from PIL import Image

RED = (250, 30, 20)


def disc(side: int = 64, colour=RED, soft: float = 3.0) -> Image.Image:
    """A disc of one colour with a soft edge; black where it is transparent."""
    y, x = np.mgrid[:side, :side] + 0.5 - side / 2
    alpha = np.clip((side / 2 - 1 - np.hypot(x, y)) / soft, 0, 1)
    colours = np.where(alpha[..., None] > 0, np.array(colour), 0)
    both = np.concatenate([colours, 255 * alpha[..., None]], -1)
    return Image.fromarray(np.round(both).astype(np.uint8))


def write_scene(folder: Path, name: str = "a", **changes) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    disc().save(folder / "disc.png")
    content = {
        "width": 60,
        "height": 40,
        "objects": [{"file": "disc.png", "position": [30, 20], "scale": 0.4}],
    }
    path = folder / f"{name}.json"
    path.write_text(json.dumps(content | changes))
    return path
