"""Configs and batches that tests share."""

import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from picjax import flags

THREADS = 2  # that read shards


def load_config(name: str, variant: str):
    return flags.make_config(name, variant, [])


def shard_data(folder, load_size: int = 0):
    """config.data for the packed shards in a folder."""
    path = str(folder)
    own = {"name": "arrayrecord", "path": path, "eval_path": path, "threads": THREADS}
    geometry = {
        "load_size": load_size,
        "crop": "center",
        "flip": False,
        "rotation": 0.0,
    }
    holes = {"masks": ("center",), "hole_ratio": (0.2, 0.6), "mask_path": ""}
    return ConfigDict(own | geometry | holes)


def make_batch(size: int, b: int = 2):
    rng = np.random.default_rng(0)
    mask = np.ones((b, size, size, 1), np.float32)
    mask[:, size // 4 : -size // 4, size // 4 : -size // 4] = 0
    image = rng.uniform(-1, 1, (b, size, size, 3)).astype(np.float32)
    # Two instances of class 0 at the left, one of class 1 at the right.
    instance = np.zeros((b, size, size), np.int32)
    instance[:, size // 2 :] = 1
    instance[:, :, size // 2 :] = 2
    label = (instance == 2).astype(np.int32)
    arrays = {"image": image, "mask": mask, "label": label, "instance": instance}
    return {name: jnp.asarray(array) for name, array in arrays.items()}
