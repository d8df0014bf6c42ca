"""Pictures and masks that tests share."""

import numpy as np


def picture(seed: int, h: int = 40, w: int = 60) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (h, w, 3), dtype=np.uint8)


def half_mask(h: int = 40, w: int = 60) -> np.ndarray:
    """The left half is known."""
    mask = np.ones((h, w), np.uint8)
    mask[:, w // 2 :] = 0
    return mask
