"""One module a system; the module's name is its registry."""

import importlib
from pathlib import Path

from picjax.cli import check_choice
from picjax.system import Config, System

NAMES = tuple(
    sorted(p.stem for p in Path(__file__).parent.glob("*.py") if p.stem != "__init__")
)


def make(config: Config) -> System:
    """The system that `config.system` names.

    Raises:
      UserError: for an unknown system.
    """
    check_choice("config.system", config.system, NAMES)
    return importlib.import_module(f"picjax.systems.{config.system}").make(config)
