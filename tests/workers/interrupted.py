"""A command in one of the states in which a signal may meet it; prints when it is.

python tests/workers/interrupted.py STATE FOLDER
"""

import hashlib
import sys
import time
from pathlib import Path

from picjax import cli, signals
from picjax.files import new_folder, together

state, folder = sys.argv[1], Path(sys.argv[2])


def ready():
    print("ready", flush=True)


def command():
    if state == "packing":
        with new_folder(folder / "out") as partial:
            (partial / "shard").write_text("half")
            ready()
            time.sleep(600)
    if state == "writing":
        with together(folder) as partial:
            (partial / "a_truth.png").write_text("a")
            ready()
            while not (folder / "go").exists():
                time.sleep(0.01)
            (partial / "a_grid.png").write_text("a")
        (folder / "more").touch()
    if state == "computing":  # in C, where Python calls no handler
        signals.GRACE = 0.3
        ready()
        hashlib.pbkdf2_hmac("sha256", b"", b"", 10**9)


if state == "importing":
    signals.install()
    ready()
    while not (folder / "go").exists():
        time.sleep(0.01)
cli.run(command)
