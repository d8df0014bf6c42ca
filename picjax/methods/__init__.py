"""One folder per method; the folder's name is its name in a config.

Methods of other packages are found by their entry points (picjax/plugins.py).
"""

import importlib

from picjax import plugins
from picjax.cli import UserError, check_choice
from picjax.system import Config, System

CLASSES = {
    "inade": "INADE",
    "painter": "Painter",
    "picmm": "PICMM",
    "picnet": "PICNet",
    "pix2pix": "Pix2Pix",
    "pixelcnn": "PixelCNNPlusPlus",
}
NAMES = tuple(CLASSES)


def make(config: Config) -> System:
    """Build the method that `config.system` names, ours or another package's.

    Raises:
      UserError: if the name is unknown, a key is missing, or the method refuses the
        config.
    """
    name = config.system
    if name in CLASSES:
        module = importlib.import_module(f"picjax.methods.{name}.system")
        method = getattr(module, CLASSES[name])
    else:
        check_choice("config.system", name, (*NAMES, *plugins.names(plugins.METHODS)))
        method = plugins.load(plugins.METHODS, name)
    try:
        return method.from_config(config)
    except AttributeError as error:  # raised by ConfigDict for a missing key
        raise UserError(
            f"the config lacks a key ({error}); the run is of another version of "
            "picjax: add the key to its config.json, or train again"
        ) from error
