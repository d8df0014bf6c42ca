"""What any input must lead to, and how a case of the fuzz is tried.

Each check takes a case, and returns "refused" (a `UserError`, or one line and exit 2) or
"right". Everything else, such as a traceback, a wrong pixel, or a file that is not
complete, is an exception.
"""

import contextlib
import io
import shutil
import tempfile
import warnings
from collections.abc import Callable, Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

from hypothesis import strategies as st

from helpers import hostile
from helpers.fake_system import make_model
from picjax import cli
from picjax.cli import UserError
from picjax.model import Model

REFUSED, RIGHT = "refused", "right"
# Of a JSON file: which part, and what is in its place.
CHANGES = st.tuples(hostile.PATHS, hostile.JSON_VALUES)


class Kind(NamedTuple):
    """One kind of case, and how many of a hundred are of it."""

    cases: Any
    check: Callable[[Any], str]
    share: int


@contextlib.contextmanager
def sandbox() -> Iterator[Path]:
    """A new folder that is left without temporary files."""
    folder = Path(tempfile.mkdtemp(prefix="fuzz-"))
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", module="PIL")
            warnings.filterwarnings("ignore", category=UserWarning)  # about masks
            yield folder
        left = [p for p in folder.rglob("*") if ".tmp" in p.name or "partial" in p.name]
        assert not left, f"half-written: {left}"
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def refusal(function: Callable[[], Any]) -> tuple[str, Any]:
    """What a function of the library returns, or REFUSED with a sentence."""
    try:
        return RIGHT, function()
    except UserError as error:
        check_sentence(f"picjax: {cli.printable(' '.join(str(error).split()))}\n")
        return REFUSED, None


def command(main: Callable[[list[str]], None], *words: object) -> str:
    """Run a command as its console script does.

    Returns:
      RIGHT for exit 0, REFUSED for exit 2 with its sentence as the last line.
    """
    out, err = io.StringIO(), io.StringIO()
    code: Any = 0
    # Ctrl-C ends the fuzz itself, not the command in it.
    handlers = mock.patch.object(cli.signals, "install")
    with handlers, contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            cli.run(lambda: main([str(word) for word in words]))
        except SystemExit as done:
            code = done.code
    lines = err.getvalue().split("\n")
    assert all(not line or line.startswith("picjax: ") for line in lines), lines
    if code == 0:
        return RIGHT
    assert code == 2, code
    check_sentence(f"{lines[-2]}\n")
    return REFUSED


def check_sentence(text: str) -> None:
    assert text.startswith("picjax: ") and text.count("\n") == 1, text
    assert "; " in text, f"no advice: {text}"
    assert "Traceback" not in text


@lru_cache
def model() -> Model:
    return make_model()
