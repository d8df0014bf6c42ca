"""Configs and batches that tests share."""

import importlib.util
from pathlib import Path

import jax.numpy as jnp
import numpy as np

CONFIGS = Path(__file__).parents[2] / "configs"


def load_config(name: str, variant: str):
    spec = importlib.util.spec_from_file_location(name, CONFIGS / f"{name}.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.get_config(variant)


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
