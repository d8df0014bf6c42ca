"""A server of the app around a system without networks."""

import argparse
import io
import threading

import jax
import jax.numpy as jnp
import numpy as np
from fastapi.testclient import TestClient
from PIL import Image

from helpers.fake_system import FakeSystem, make_model
from helpers.pictures import half_mask, picture
from picjax.app import runs
from picjax.app.command import parse
from picjax.model import Model
from picjax.system import draw_many


class Gate:
    """Holds up every draw until it is opened."""

    def __init__(self):
        self.opened = threading.Event()
        self.entered = threading.Event()
        self.draws = 0

    def __call__(self, *args):
        self.draws += 1
        self.entered.set()
        assert self.opened.wait(60)


class CountingSystem(FakeSystem):
    """Draws by number, as methods do; scores by darkness."""

    counts_draws = True

    @property
    def can_score(self):
        return True

    def sample(self, variables, batch, key, n):
        def draw(i):
            noise = jax.random.normal(jax.random.fold_in(key, i), batch["image"].shape)
            return jnp.clip(variables["scale"] * noise, -1, 1)

        return draw_many(draw, n, batch.get("count"))

    def score(self, variables, images):
        return -images.mean((1, 2, 3))


def make_counting_model() -> Model:
    fake = make_model()
    return Model(fake.config, CountingSystem(), fake.variables, 7)


def make_runs(
    folder, monkeypatch, names=("one",), make=make_counting_model
) -> runs.Runs:
    """Runs whose files are empty and whose models are all the same."""
    monkeypatch.setattr(runs, "load", lambda *_: make())
    for name in names:
        (folder / f"{name}.safetensors").touch()
    return runs.Runs([f"{folder / name}.safetensors" for name in names])


def options(*words: str) -> argparse.Namespace:
    return parse(words)


def client(app) -> TestClient:
    return TestClient(app, base_url="http://127.0.0.1:7860")


def png(pixels: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "png")
    return buffer.getvalue()


def request_files(size: tuple[int, int] = (40, 60)) -> dict[str, bytes]:
    """A picture and its mask file, as a client sends them."""
    mask = (1 - half_mask(*size)) * np.uint8(255)
    return {"image": png(picture(0, *size)), "mask": png(mask)}
