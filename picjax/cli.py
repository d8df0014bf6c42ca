"""Exits of every command: 0 done, 2 an error that the user can fix, 1 a defect."""

import argparse
import difflib
import sys
from collections.abc import Callable, Collection
from typing import NoReturn


class UserError(Exception):
    """An error that the user can fix.

    The message is one line with the cause and the fix:
    `config.data.path '/x' holds no .png or .jpg file; point it to a folder of images`.
    """


def run(main: Callable[[], None]) -> None:
    """Run a command; a `UserError` becomes one line on standard error and exit 2."""
    try:
        main()
    except UserError as error:
        print(f"picjax: {' '.join(str(error).split())}", file=sys.stderr)
        sys.exit(2)


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


class Parser(argparse.ArgumentParser):
    """An argument parser whose errors are one line, like all errors of a user."""

    def error(self, message: str) -> NoReturn:
        """Raise a UserError instead of printing the usage."""
        raise UserError(f"{message}; see {self.prog} --help")
