"""SIGTERM and Ctrl-C: the first ends a command in good order, a second Ctrl-C at once.

The handlers are installed before anything slow is imported. A first signal is noted;
where a command may be interrupted it also raises `Interrupted`, and if the command does
not end within seconds, because it waits for a computation, the process ends all the same.
In a `deferred` block (training's loop, writing a set of files) it is only noted.
"""

import contextlib
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from types import FrameType

EXIT = 75  # EX_TEMPFAIL: launchers start the same command again
GRACE = 5.0  # seconds in which an interrupted command may clean up
POLL = 0.1
HANDLED = (signal.SIGTERM, signal.SIGINT)
HOW_TO_RESUME = "give the same command again"
SHOW_CURSOR = "\x1b[?25h"  # progress bars hide it


class Interrupted(KeyboardInterrupt):
    """A first SIGTERM or Ctrl-C; the message names it."""


class _Status:
    """What is known about signals in this process.

    Attributes:
      received: the first signal's number.
      deferring: blocks that a signal must not interrupt; one until a command starts.
      reported: whether a line about the signal was printed.
      forgotten: whether the command has reached its end nevertheless.
    """

    installed = False
    received: int | None = None
    deferring = 1
    reported = False
    forgotten = False


def install() -> None:
    """Install the handlers, once; only the main thread can."""
    if _Status.installed or threading.current_thread() is not threading.main_thread():
        return
    _Status.installed = True
    readable, writable = os.pipe()
    os.set_blocking(writable, False)
    signal.set_wakeup_fd(writable, warn_on_full_buffer=False)
    threading.Thread(target=_watch, args=(readable,), daemon=True).start()
    for number in HANDLED:
        signal.signal(number, _note)


def name(number: int | None = None) -> str:
    """A signal, by default the one that was received, as the user knows it."""
    return "Ctrl-C" if (number or _Status.received) == signal.SIGINT else "SIGTERM"


def forget() -> None:
    """Forget a signal, since the command has reached its end."""
    _Status.received, _Status.forgotten = None, True


def report(stop: Interrupted) -> None:
    """Print why a command ends."""
    _Status.reported = True
    print(f"picjax: {stop}", file=sys.stderr)


@contextlib.contextmanager
def interruptible() -> Iterator[None]:
    """Let a signal, also one that came before, interrupt the block.

    Raises:
      Interrupted: after a signal.
    """
    outer, _Status.deferring = _Status.deferring, 0
    try:
        _raise_if_due()
        yield
    finally:
        _Status.deferring = outer


@contextlib.contextmanager
def deferred() -> Iterator[Callable[[], bool]]:
    """Let a signal not interrupt the block, but what follows it.

    Yields:
      A function that returns whether a signal was received.

    Raises:
      Interrupted: at the end, after a signal, unless an outer block defers it further.
    """
    _Status.deferring += 1
    try:
        yield lambda: _Status.received is not None
    finally:
        _Status.deferring -= 1
    _raise_if_due()


def _raise_if_due() -> None:
    if _Status.received is not None and not _Status.deferring:
        raise Interrupted(f"stopped by {name()}; {HOW_TO_RESUME}")


def _note(number: int, frame: FrameType | None) -> None:
    """The handler, which Python calls in the main thread between two instructions."""
    del frame
    if _Status.received is None:
        _Status.received = number
        _raise_if_due()


def _watch(readable: int) -> None:
    """Read each signal's number at once, even while the main thread waits in C++."""

    def following() -> int:
        while (number := os.read(readable, 1)[0]) not in HANDLED:
            pass
        return number

    first = following()
    threading.Thread(target=_end_later, args=(first,), daemon=True).start()
    while following() != signal.SIGINT:
        pass
    _exit(130, "")


def _end_later(number: int) -> None:
    """End a command that has not ended by itself after a signal."""
    left = GRACE
    while left > 0:
        time.sleep(POLL)
        if _Status.forgotten:
            return
        left -= POLL if _Status.reported or not _Status.deferring else 0
    line = f"picjax: stopped by {name(number)}; {HOW_TO_RESUME}\n"
    _exit(EXIT, "" if _Status.reported else line)


def _exit(code: int, line: str) -> None:
    """End the process without unwinding; only temporary files are incomplete."""
    with contextlib.suppress(OSError):
        shown = SHOW_CURSOR if sys.stderr.isatty() else ""
        os.write(2, f"{shown}{line}".encode())
    os._exit(code)
