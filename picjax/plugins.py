"""Methods and sources of other packages, found by their entry points.

A package that lists them in its `pyproject.toml` needs nothing else; docs/extending.md
has an example:

    [project.entry-points."picjax.methods"]
    blur = "my_package.blur:Blur"

    [project.entry-points."picjax.sources"]
    gradients = "my_package.gradients:make"
"""

from importlib.metadata import EntryPoint, entry_points
from typing import Any

from picjax.cli import UserError

METHODS = "picjax.methods"  # name -> class of the protocol picjax.system.System
SOURCES = "picjax.sources"  # name -> (config.data, size, held_out) -> Source


def names(group: str) -> tuple[str, ...]:
    """The names in a group of entry points."""
    return tuple(sorted(entry_points(group=group).names))


def load(group: str, name: str) -> Any:
    """The object that an entry point names.

    Raises:
      UserError: if its package cannot be imported, or two packages have the name.
    """
    found: list[EntryPoint] = list(entry_points(group=group, name=name))
    if len({entry.value for entry in found}) > 1:
        owners = ", ".join(entry.value for entry in found)
        raise UserError(
            f"'{name}' of {group} is in several packages ({owners}); uninstall all but "
            "one"
        )
    try:
        return found[0].load()
    except (ImportError, AttributeError) as error:
        raise UserError(
            f"'{name}' of {group} ({found[0].value}) cannot be imported ({error}); "
            "correct its package"
        ) from error
