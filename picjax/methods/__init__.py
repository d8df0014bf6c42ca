"""One folder per method; the folder's name is its name in a config."""

import importlib

from picjax.cli import check_choice
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
    """Build the method that `config.system` names.

    Raises:
      UserError: if the name is unknown, or the method refuses the config.
    """
    check_choice("config.system", config.system, NAMES)
    module = importlib.import_module(f"picjax.methods.{config.system}.system")
    return getattr(module, CLASSES[config.system]).from_config(config)
