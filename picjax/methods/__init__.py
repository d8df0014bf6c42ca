"""One folder per method; the folder's name is its name in a config.

Methods of other packages are found by their entry points (picjax/plugins.py).
"""

import importlib
import json
from collections.abc import Mapping
from typing import Any

from ml_collections import ConfigDict

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


def saved_config(settings: Mapping[str, Any]) -> Config:
    """The config of a saved run; options that it lacks get their published values.

    A run may be older than an option. Options that change a published method are off in
    `published()` of configs/METHOD.py, so the run keeps the method it was trained with.
    Only groups, such as `config.model`, are completed: a config without `image_size` is
    damaged.

    Args:
      settings: the config as JSON has it.
    """
    if settings.get("system") not in CLASSES:  # another package's method
        return ConfigDict(settings)
    configs: Any = importlib.import_module(f"picjax.configs.{settings['system']}")
    published = json.loads(configs.published().to_json())
    groups = {key: x for key, x in published.items() if isinstance(x, Mapping)}
    return ConfigDict(merge(groups, settings))


def merge(defaults: Mapping[str, Any], settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings, and the defaults of the keys that they lack, group by group."""
    merged = dict(settings)
    for key, default in defaults.items():
        value = merged.setdefault(key, default)
        if isinstance(default, Mapping) and isinstance(value, Mapping):
            merged[key] = merge(default, value)
    return merged
