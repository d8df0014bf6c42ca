"""A workdir has one trainer: it holds `train.lock` and notices when it is lost.

The file names host, process and start, and a counter that the holder increments every
few seconds. A lock is stale if its process no longer exists on this host, or if its
counter stands still on another host. So no clocks are compared and no lock of the file
system is needed: it works on shared file systems, and with buckets except that two
trainers that start within the same instant notice each other only a beat later.
"""

import contextlib
import json
import math
import socket
import threading
import time
import uuid
from collections.abc import Iterator
from typing import Any

import psutil
from etils import epath

from picjax.buckets import as_os_error, is_remote
from picjax.cli import UserError, say
from picjax.files import write_text

FILE = "train.lock"
BEAT = 5.0  # seconds between increments of the counter
PATIENCE = 6  # beats that a holder on another host may miss
KEYS = {"host", "process", "process_start", "since", "token", "beat"}


class Lock:
    """The lock that this process holds.

    Args:
      workdir: the run's folder.
    """

    def __init__(self, workdir: epath.PathLike):
        self.workdir = epath.Path(workdir)
        self.path = self.workdir / FILE
        self.content: dict[str, Any] = {
            "host": socket.gethostname(),
            "process": psutil.Process().pid,
            "process_start": psutil.Process().create_time(),
            "since": time.strftime("%Y-%m-%d %H:%M:%S %z"),
            "token": uuid.uuid4().hex,
            "beat": 0,
        }
        # Looking at a file of a bucket takes longer than many a step.
        self._interval = BEAT if is_remote(self.path) else 0.0
        self._checked = -math.inf

    def poll(self) -> None:
        """`check` after a step: on a disk every time, in a bucket once per beat."""
        now = time.monotonic()
        if now - self._checked >= self._interval:
            self._checked = now
            self.check()

    def check(self) -> None:
        """Check that the lock is still held.

        Raises:
          UserError: if the workdir was removed, or another process has taken the lock.
        """
        try:
            holder = read(self.path)
        except OSError:  # of a network, perhaps: the next check tells
            return
        if holder and holder["token"] == self.content["token"]:
            return
        if not self.workdir.exists():
            raise UserError(
                f"'{self.workdir}' was removed while training wrote to it; nothing of "
                "it is kept: train again"
            )
        if holder:
            raise UserError(f"{describe(self.workdir, holder)}; this one has stopped")
        raise UserError(
            f"'{self.path}' was removed while training, and with it the right to write "
            f"to '{self.workdir}'; its checkpoints are kept: give the same command again"
        )

    def beat(self, stopped: threading.Event) -> None:
        """Increment the counter, while the lock is held, until it is stopped."""
        while not stopped.wait(BEAT):
            with contextlib.suppress(OSError, UserError):
                self.check()
                self.content["beat"] += 1
                write_text(self.path, json.dumps(self.content) + "\n")

    def release(self) -> None:
        """Give the lock back if it is still held."""
        with contextlib.suppress(OSError, UserError):
            self.check()
            with as_os_error(self.path):
                self.path.unlink()


@contextlib.contextmanager
def hold(workdir: epath.PathLike, option: str = "--workdir") -> Iterator[Lock]:
    """Hold the lock of a workdir, or of another folder that one command writes to.

    Args:
      workdir: the folder.
      option: the command-line option, for errors.

    Raises:
      UserError: if another process holds it.
    """
    lock = Lock(workdir)
    holder = read(lock.path)
    if holder and is_alive(holder, lock.path):
        raise UserError(
            f"{describe(lock.workdir, holder)}; wait for it, or use another {option}"
        )
    write_text(lock.path, json.dumps(lock.content) + "\n")
    lock.check()
    stopped = threading.Event()
    thread = threading.Thread(
        target=lock.beat, args=(stopped,), name="lock", daemon=True
    )
    thread.start()
    try:
        yield lock
    finally:
        stopped.set()
        thread.join()  # it may be about to write the file that is removed next
        lock.release()


def is_alive(holder: dict[str, Any], path: epath.Path) -> bool:
    """Whether the holder of a lock still runs; of another host's, waits for its beat."""
    if holder["host"] == socket.gethostname():
        try:
            process = psutil.Process(holder["process"])
            return abs(process.create_time() - holder["process_start"]) < 1
        except psutil.NoSuchProcess:
            return False
    say(f"{describe(path.parent, holder)}; waiting for a sign of it")
    for _ in range(PATIENCE):
        time.sleep(BEAT)
        now = read(path)
        if now is None:  # released
            return False
        if (now["token"], now["beat"]) != (holder["token"], holder["beat"]):
            return True
    return False


def describe(workdir: epath.Path, holder: dict[str, Any]) -> str:
    """Name the process that holds a lock."""
    return (
        f"'{workdir}' is in use by process {holder['process']} on "
        f"{holder['host']} since {holder['since']}"
    )


def read(path: epath.Path) -> dict[str, Any] | None:
    """The content of a lock file; None if there is none, or it is damaged."""
    try:
        with as_os_error(path):
            content = json.loads(path.read_bytes())
        return content if content.keys() >= KEYS else None
    except (FileNotFoundError, ValueError, AttributeError):
        return None
