"""Images, examples and folders that the tests of evaluation share."""

import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from helpers.fake_system import SIZE
from picjax import eval as command_module
from picjax.evaluation.metrics.image import picnet_choice
from picjax.evaluation.metrics.results import Example


def picture(seed: int, h: int = SIZE, w: int = SIZE) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (h, w, 3), dtype=np.uint8)


def center() -> np.ndarray:
    mask = np.ones((SIZE, SIZE, 1), np.uint8)
    mask[8:24, 8:24] = 0
    return mask


def example(seed: int, n: int = 3) -> Example:
    """Noise with n completions of its centre."""
    truth = picture(seed)
    samples = np.stack([picture(100 * seed + i + 1) for i in range(n)])
    samples = np.where(center() == 1, truth, samples)
    chosen = picnet_choice(samples, truth)
    return Example(str(seed), truth, center(), samples, chosen, {})


def held_out(data, image_size, batch_size, num, seed):
    """Replaces `pipeline.eval_batches`: `num` images, the last batch padded."""
    for start in range(0, num, batch_size):
        count = min(batch_size, num - start)
        index = [start + min(i, count - 1) for i in range(batch_size)]
        yield {
            "image": np.stack([picture(i) for i in index]),
            "mask": np.stack([center()] * batch_size),
            "name": [f"image{i}" for i in index],
            "valid": np.arange(batch_size) < count,
        }


def evaluate(*words: object) -> None:
    """Runs `picjax.eval`."""
    command_module.main([str(word) for word in words])


def read_metrics(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "metrics.json").read_text())


def read_manifest(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "manifest.json").read_text())


def save(path: Path, array: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path)


def write_folders(top, names=("fake",), images=5, size=SIZE) -> list[str]:
    """Writes images and two completions of each; the options to evaluate them."""
    for k in range(images):
        save(top / f"real/{k}.png", picture(k, size, size))
        for j, fake in enumerate(names):
            noise = np.random.default_rng(k).normal(0, 20 + 30 * j, (2, size, size, 3))
            for i, sample in enumerate(picture(k, size, size) + noise):
                save(top / f"{fake}/{k}_{i}.png", sample.clip(0, 255).astype(np.uint8))
    words = [f"--real={top / 'real'}", *(f"--fake={top / name}" for name in names)]
    return [*words, "--mask=center", "--metrics=l1,diversity"]
