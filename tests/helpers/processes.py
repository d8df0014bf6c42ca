"""Starts the programs of tests/workers in processes of their own."""

import os
import socket
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def start_worker(
    name: str,
    *words: str,
    env: dict[str, str] | None = None,
    stdout: int = subprocess.DEVNULL,
):
    """Start `tests/workers/NAME.py` in the repository, with standard error as text."""
    return subprocess.Popen(
        [sys.executable, f"tests/workers/{name}.py", *words],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)} | (env or {}),
        stdout=stdout,
        stderr=subprocess.PIPE,
        text=True,
    )


def free_port() -> int:
    """A port of this machine that nothing listens on."""
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        return probe.getsockname()[1]


def cluster(count: int) -> list[dict[str, str]]:
    """The environment of each of `count` processes that work together."""
    if count == 1:
        return [{}]
    common = {
        "JAX_COORDINATOR_ADDRESS": f"localhost:{free_port()}",
        "JAX_NUM_PROCESSES": str(count),
    }
    return [common | {"JAX_PROCESS_ID": str(i)} for i in range(count)]


def finish(process: subprocess.Popen[str], expected: int = 0) -> str:
    """Wait for a worker and its exit status; returns its standard error."""
    _, error = process.communicate()
    assert process.returncode == expected, error
    return error
