"""How every command ends: 0 done, 2 with one line the user can act on, 1 a defect."""

import argparse
import difflib
import sys
from collections.abc import Callable, Collection
from typing import NoReturn


class UserError(Exception):
    """Something the user can mend.

    The message says what is wrong with which thing, then how to mend it, in one line:
    `config.data.path '/x' holds no .png or .jpg file; point it to a folder of images`.
    """


def run(main: Callable[[], None]) -> None:
    """Runs a command; a `UserError` becomes one line on standard error and exit 2."""
    try:
        main()
    except UserError as error:
        print(f"picjax: {' '.join(str(error).split())}", file=sys.stderr)
        sys.exit(2)


def check_choice(what: str, value: str, choices: Collection[str]) -> None:
    """Refuses a value that is none of the choices.

    Args:
      what: what the value is of, such as `mask` or `config.data.name`.
      value: what the user gave.
      choices: the names there are.

    Raises:
      UserError: with the choices, and the nearest.
    """
    if value in choices:
        return
    near = difflib.get_close_matches(value, choices, n=1)
    hint = f"did you mean '{near[0]}'?" if near else "give one of them"
    raise UserError(f"{what} '{value}' is none of {', '.join(choices)}; {hint}")


class Parser(argparse.ArgumentParser):
    """Wrong arguments end like every other error of the user's: in one line."""

    def error(self, message: str) -> NoReturn:
        """Raises a UserError instead of printing the usage over several lines."""
        raise UserError(f"{message}; see {self.prog} --help")
