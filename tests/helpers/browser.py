"""A server of the app in a process of its own, and Debian's Chromium before it."""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import jax
import numpy as np

from helpers.configs import load_config
from helpers.processes import ROOT
from helpers.states import numpy_draws
from picjax import checkpoints, methods, saving
from picjax.images import to_float
from picjax.system import image_shape

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome") or ""
OPTIONS = ("--headless", "--no-sandbox", "--disable-gpu", "--disable-sync")
OPTIONS += ("--disable-background-networking", "--disable-component-update")


def missing() -> str:
    """Why there can be no browser; empty if there can."""
    if not CHROMIUM:
        return "Chromium is not installed: apt-get install chromium"
    try:
        import playwright  # noqa: F401
    except ImportError:
        return "playwright is not installed: pip install playwright"
    return ""


def write_run(workdir: Path, method: str) -> None:
    """A workdir at step 0 of the tiny variant of a method."""
    config = load_config(method, "tiny")
    height, width = image_shape(config)
    image = np.zeros((2, height, width, 3), np.uint8)
    batch = {"image": image, "mask": image[..., :1]}
    if config.data.get("maps"):
        batch |= dict.fromkeys(("label", "instance"), image[..., 0].astype(np.int32))
    batch = to_float(batch)
    with numpy_draws():
        state = jax.jit(methods.make(config).init)(batch, jax.random.key(0))
    checkpoints.write_config(workdir, config)
    with saving.Checkpoints(workdir, 1, "") as saved:
        saved.save(state, {})


def environment() -> dict[str, str]:
    """That of the tests, with this checkout."""
    return os.environ | {"PYTHONPATH": str(ROOT)}


@contextlib.contextmanager
def serving(folder: Path, *words: str) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    """A server on a free port whose working directory is a folder, and its address."""
    temporary = folder / "tmp"
    temporary.mkdir(exist_ok=True)
    with open(folder / "log", "w") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "picjax.app", "--port=0", *words],
            cwd=folder,
            env=environment() | {"TMPDIR": str(temporary)},
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
        )
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        assert line.startswith("picjax: http://"), (folder / "log").read_text()
        yield line.split()[1], process
    finally:
        process.kill()
        process.communicate()


def stop(process: subprocess.Popen[str]) -> int:
    """Ask a server to stop, and wait for its exit status."""
    process.send_signal(signal.SIGTERM)
    return process.wait(120)
