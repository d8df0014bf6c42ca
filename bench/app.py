"""A server of the app under load: errors, seconds and memory.

    python -m bench.app [--workdir RUN] [--requests 1000] [--clients 8] [--num 2]

Starts `python -m picjax.app` with a run (of configs/pix2pix.py:tiny) and sends it requests
for completions of pictures of 64 pixels, each client its next one when the
answer is there. Every request has another seed. Seconds are those that a client waits.
"""

import contextlib
import io
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
from PIL import Image

from bench import table
from picjax.cli import UserError, require, run

SIDE = 64  # pixels of the pictures
EARLY = 100  # requests after which the memory is first read


class Answer(NamedTuple):
    """One request: its HTTP status and how long its client waited."""

    status: int
    seconds: float


def train(folder: str) -> str:
    """A run of one step."""
    workdir = os.path.join(folder, "tiny")
    config = ["--config=configs/pix2pix.py:tiny", "--config.steps=1"]
    command = [sys.executable, "-m", "picjax.train", *config, f"--workdir={workdir}"]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return workdir


@contextlib.contextmanager
def serving(workdir: str) -> Iterator[str]:
    """A server on a free port, and its address."""
    command = [sys.executable, "-m", "picjax.app", "--port=0", f"--workdir={workdir}"]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    assert process.stdout is not None
    try:
        yield process.stdout.readline().split()[1]
    finally:
        process.terminate()
        process.communicate()


def pictures() -> dict[str, bytes]:
    """A picture and its mask as PNG files."""
    rng = np.random.default_rng(0)
    mask = np.zeros((SIDE, SIDE), np.uint8)
    mask[SIDE // 4 : SIDE // 2, SIDE // 4 : SIDE // 2] = 255
    files = {}
    for name, pixels in (
        ("image", rng.integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)),
        ("mask", mask),
    ):
        buffer = io.BytesIO()
        Image.fromarray(pixels).save(buffer, "png")
        files[name] = buffer.getvalue()
    return files


def megabytes(address: str) -> float:
    """The server's resident memory."""
    import httpx

    for line in httpx.get(f"{address}/metrics").text.splitlines():
        if line.startswith("picjax_memory_bytes "):
            return float(line.split()[1]) / 2**20
    return float("nan")


def measure(address: str, requests: int, clients: int, num: int) -> table.Row:
    """One row, once a first request has compiled the program.

    Raises:
      UserError: if that request fails.
    """
    import httpx

    files = pictures()
    local, lock = threading.local(), threading.Lock()
    done, memory = 0, [0.0]

    def send(seed: int) -> Answer:
        nonlocal done
        if not hasattr(local, "client"):
            local.client = httpx.Client(base_url=address, timeout=600)
        start = time.perf_counter()
        fields = {"num": num, "seed": seed}
        answer = local.client.post("/api/complete", files=files, data=fields)
        seconds = time.perf_counter() - start
        with lock:
            done += 1
            if done == EARLY:
                memory[0] = megabytes(address)
        whole = answer.status_code != 200 or len(answer.json()["completions"]) == num
        return Answer(answer.status_code if whole else 0, seconds)

    if send(requests).status != 200:
        raise UserError("the first request failed; give --workdir a run that completes")
    done = 0
    start = time.perf_counter()
    with ThreadPoolExecutor(clients) as pool:
        answers = list(pool.map(send, range(requests)))
    seconds = time.perf_counter() - start
    waits = [answer.seconds for answer in answers]
    return {
        "requests": requests,
        "clients": clients,
        "errors": sum(answer.status != 200 for answer in answers),
        "median s": float(np.median(waits)),
        "99th percentile s": float(np.percentile(waits, 99)),
        "per second": requests / seconds,
        f"MB after {EARLY}": memory[0],
        f"MB after {requests}": megabytes(address),
    }


def main() -> None:
    """The command; see the module's docstring."""
    parser = table.parser(__doc__)
    parser.add_argument("--workdir", help="a run; by default one of one step is made")
    parser.add_argument("--requests", type=int, default=1000)
    parser.add_argument("--clients", type=int, default=8)
    parser.add_argument("--num", type=int, default=2)
    args = parser.parse_args()
    require("gradio", "app")
    about = table.machine()
    with contextlib.ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory())
        address = stack.enter_context(serving(args.workdir or train(folder)))
        row = measure(address, args.requests, args.clients, args.num)
    title = f"{args.num} completions of {SIDE} px per request"
    table.report({title: [row]}, about, args.json)


if __name__ == "__main__":
    run(main)
