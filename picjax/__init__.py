"""picjax: pluralistic image completion in JAX.

One masked image in, many plausible completions out:

    import picjax
    model = picjax.load("runs/demo-picmm")
    images = model.complete("photo.jpg", "center", n=10)   # uint8 [n h w 3]
"""

import importlib
import sys
from typing import TYPE_CHECKING, Any

from picjax import signals

if TYPE_CHECKING:
    from picjax.cli import UserError
    from picjax.hub import push
    from picjax.model import Model, load
    from picjax.synthesis import Reference

__all__ = ["Model", "Reference", "UserError", "load", "push"]
__version__ = "0.1.0"

HOMES = {"Model": "model", "load": "model", "UserError": "cli", "push": "hub"}
HOMES |= {"Reference": "synthesis"}

# Set so while Python imports the package of `python -m picjax.NAME`, before NAME imports
# JAX, which takes seconds.
if sys.argv[:1] == ["-m"]:
    signals.install()


def __getattr__(name: str) -> Any:
    # Importing picjax stays cheap: JAX is imported when a model is asked for.
    if name in HOMES:
        return getattr(importlib.import_module(f"picjax.{HOMES[name]}"), name)
    raise AttributeError(f"module 'picjax' has no attribute {name!r}")
