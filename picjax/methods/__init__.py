"""One folder per method; the folder's name is its name in a config."""

import importlib
from pathlib import Path

from picjax.cli import check_choice
from picjax.system import Config, System

NAMES = tuple(sorted(p.parent.name for p in Path(__file__).parent.glob("*/system.py")))


def make(config: Config) -> System:
    """Build the method that `config.system` names.

    Raises:
      UserError: if the name is unknown.
    """
    check_choice("config.system", config.system, NAMES)
    return importlib.import_module(f"picjax.methods.{config.system}.system").make(
        config
    )
