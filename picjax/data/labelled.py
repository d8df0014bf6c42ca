"""Sources with label and instance maps: `config.data.maps` is set (docs/inade.md)."""

from typing import Any

import numpy as np

from picjax.data import instance_scenes
from picjax.data.stored import Element
from picjax.data.transforms import Size


class InstanceScenes:
    """Procedural layouts whose instances have styles of a known distribution."""

    def __init__(self, size: Size, indices: range):
        self.size, self.indices = size, indices

    def __len__(self) -> int:
        return len(self.indices)

    def read(self, index: int, rng: np.random.Generator) -> Element:
        """`image`, `label`, `instance`; the style of each instance is not returned."""
        scene: Any = instance_scenes.sample(0, self.indices[index], self.size)
        names = ("image", "label", "instance")
        return {name: scene[name] for name in names} | {"name": f"scene_{index:05}"}
