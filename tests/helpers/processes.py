"""Starts the programs of tests/workers in processes of their own."""

import os
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


def finish(process: subprocess.Popen[str], expected: int = 0) -> str:
    """Wait for a worker and its exit status; returns its standard error."""
    _, error = process.communicate()
    assert process.returncode == expected, error
    return error
