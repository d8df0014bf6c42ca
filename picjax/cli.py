"""Exits of every command: 0 done, 2 the user can fix it, 75 stopped, 1 a defect."""

import argparse
import difflib
import errno
import importlib
import io
import operator
import os
import re
import sys
import warnings
from collections.abc import Callable, Collection
from types import ModuleType
from typing import Any, NoReturn

from picjax import signals

# What to do about an error of the operating system.
ADVICE = {
    errno.ENOSPC: "free some space on the disk, or use another",
    errno.EDQUOT: "free some space of your quota, or use another disk",
    errno.EACCES: "change its permissions, or use another",
    errno.EPERM: "change its permissions, or use another",
    errno.EROFS: "it lies on a read-only disk: use another",
    errno.ENAMETOOLONG: "use a shorter name",
    errno.ENOTDIR: "a part of the path is a file: correct it",
    errno.EISDIR: "it is a folder: name a file",
    errno.ENOENT: "correct the path",
    errno.ELOOP: "its links lead in a circle: correct them",
    errno.EMFILE: "allow more open files (ulimit -n)",
    errno.EPIPE: "read all of the output",
}


IN_BUCKET = re.compile(r"(gs|s3|az)://")


class UserError(Exception):
    """An error that the user can fix.

    The message is one line with the cause and the fix:
    `config.data.path '/x' holds no .png or .jpg file; point it to a folder of images`.
    """


def run(main: Callable[[], None]) -> None:
    """Run a command; what the user can fix becomes one line and exit 2.

    That is a `UserError`, and what the operating system refuses: a file, its name, or
    memory. A signal becomes one line and exit 75.
    """
    signals.install()
    for stream in (sys.stdout, sys.stderr):  # a file's name need not be Unicode
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    # Pillow's remarks about files, in several lines.
    warnings.filterwarnings("ignore", module="PIL")
    try:
        with signals.interruptible():
            main()
    except signals.Interrupted as stop:
        signals.report(stop)
        sys.exit(signals.EXIT)
    except UserError as error:
        say(str(error))
        sys.exit(2)
    except OSError as error:
        say(describe_os_error(error))
        sys.exit(2)
    except UnicodeError as error:
        say(f"a name or a file is no UTF-8 ({error}); rename it, or save it as UTF-8")
        sys.exit(2)
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        say("the memory is exhausted; use a smaller image, batch or number")
        sys.exit(2)


def is_out_of_memory(error: Exception) -> bool:
    """Whether a memory is too small: the host's, or a device's."""
    of_device = type(error).__name__ == "JaxRuntimeError"  # JAX need not be imported
    return isinstance(error, MemoryError) or (
        of_device and "RESOURCE_EXHAUSTED" in str(error)
    )


def describe_os_error(error: OSError) -> str:
    """What the operating system refused, and how to mend it."""
    files = (error.filename, error.filename2)
    names = [os.fsdecode(x) for x in files if x and not isinstance(x, int)]
    which = " and ".join(f"'{name}'" for name in names) or "a file"
    return (
        f"{which} cannot be used ({error.strerror or error}); "
        f"{ADVICE.get(error.errno or 0, 'correct it, or use another')}"
    )


def say(line: str) -> None:
    """Print one line to standard error, such as the name of a skipped file.

    Printed instead of logged, so that it passes through a progress bar on the screen
    and does not depend on the root logger, which other packages configure.
    """
    print(f"picjax: {printable(' '.join(line.split()))}", file=sys.stderr)


def printable(text: str) -> str:
    """A text whose control characters are escaped, so that a terminal obeys none."""
    return "".join(
        c if c.isprintable() else c.encode("unicode_escape").decode() for c in text
    )


def check_choice(what: str, value: str, choices: Collection[str]) -> None:
    """Refuse a value that is none of the choices.

    Args:
      what: name of the setting, such as `mask` or `config.data.name`.
      value: the user's value.
      choices: the valid values.

    Raises:
      UserError: with the choices, and the closest one.
    """
    if value in choices:
        return
    near = difflib.get_close_matches(value, choices, n=1)
    hint = f"did you mean '{near[0]}'?" if near else "use one of them"
    raise UserError(f"{what} '{value}' is none of {', '.join(choices)}; {hint}")


def require(module: str, extra: str) -> ModuleType:
    """Import a package of one of picjax's extras.

    Raises:
      UserError: naming the extra, if the package is not installed.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise UserError(
            f"{module.split('.')[0]} is not installed; add it by "
            f"`pip install 'picjax[{extra}]'`"
        ) from error


def check_integer(what: str, value: Any, low: int | None = None) -> int:
    """An integer of any type, such as NumPy's, as Python's.

    Args:
      what: name of the value.
      value: the user's value.
      low: the smallest valid one.

    Raises:
      UserError: if it is no integer, or too small.
    """
    try:
        number = operator.index(value)
    except TypeError:
        raise UserError(f"{what} is {value!r}; give an integer") from None
    if low is not None and number < low:
        raise UserError(f"{what} is {number}; give {low} or more")
    return number


class Parser(argparse.ArgumentParser):
    """An argument parser whose errors are one line, like all errors of a user.

    Args:
      buckets: the options whose folder may lie in a bucket, gs://NAME/FOLDER.
      settings: of argparse.
    """

    def __init__(self, *, buckets: Collection[str] = (), **settings: Any):
        super().__init__(**settings)
        self.buckets = buckets

    def parse_known_args(self, *args: Any, **settings: Any) -> Any:
        """Parse, and refuse buckets where they cannot be used."""
        parsed, rest = super().parse_known_args(*args, **settings)
        for name, value in vars(parsed).items():
            for word in value if isinstance(value, list) else [value]:
                if name not in self.buckets and IN_BUCKET.match(str(word)):
                    raise UserError(
                        f"--{name.replace('_', '-')} '{word}' is in a bucket, which this "
                        "option cannot read or write; copy it to a disk, or use one"
                    )
        return parsed, rest

    def error(self, message: str) -> NoReturn:
        """Raise a UserError instead of printing the usage."""
        raise UserError(f"{message}; see {self.prog} --help")
