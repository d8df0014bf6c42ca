"""Configs on command lines: `--config=FILE[:VARIANT]` and `--config.KEY=VALUE`."""

import ast
import difflib
import importlib
import re
from collections.abc import Sequence
from functools import reduce
from pathlib import Path
from typing import Any

from absl import flags
from etils import epath
from ml_collections import config_flags

from picjax import configs
from picjax.cli import UserError
from picjax.system import Config

SETTING = re.compile(r"--config\.([\w.]+)=(.*)")
# image_size is a number or (height, width); the parser only takes what it is now.
RECTANGLE = re.compile(r"--config\.image_size=\(?\s*(\d+)\s*,\s*(\d+)\s*\)?")


def parse(words: Sequence[str]) -> tuple[Config, epath.Path]:
    """Parse a command line of `--config`, `--workdir` and `--config.KEY=VALUE`.

    `--config=NAME[:VARIANT]` without a path names an installed config.

    Returns:
      The config and the workdir, `runs/NAME-VARIANT` by default.

    Raises:
      UserError: if the file, variant, key or flag does not exist, or a value has
        another type.
    """
    chosen = [word.split("=", 1)[1] for word in words if word.startswith("--config=")]
    if not chosen:
        raise UserError("--config is missing; use --config=configs/NAME.py[:VARIANT]")
    path, _, variant = chosen[-1].partition(":")
    file = locate(path)
    argument = f"{file}:{variant}" if variant else str(file)
    settings = [word for word in words if not word.startswith("--config=")]
    words = [f"--config={argument}"]
    words += [word for word in settings if not RECTANGLE.fullmatch(word)]
    values = flags.FlagValues()
    config = config_flags.DEFINE_config_file(
        "config", flag_values=values, sys_argv=words
    )
    default = f"runs/{file.stem}-{variant}" if variant else f"runs/{file.stem}"
    workdir = flags.DEFINE_string("workdir", default, "", flag_values=values)
    try:
        rest = values(["picjax.train", *words])
    except Exception as error:
        raise UserError(explain(words, argument, error)) from error
    if len(rest) > 1:
        raise UserError(f"'{rest[1]}' is no flag; write --config.KEY=VALUE")
    changed = [match[1] for word in words if (match := SETTING.match(word))]
    split_tuples(config.value, load(argument), changed)
    for word in settings:
        set_rectangle(config.value, word)
    return config.value, epath.Path(workdir.value or default)


def set_rectangle(config: Config, word: str) -> bool:
    """Set the size if the word is `--config.image_size=HEIGHT,WIDTH`."""
    match = RECTANGLE.fullmatch(word)
    if match:
        with config.ignore_type():
            config.image_size = int(match[1]), int(match[2])
    return match is not None


def split_tuples(config: Config, default: Config, keys: Sequence[str]) -> None:
    """Split `a,b` given for a tuple of words, which the parser keeps as one string.

    Args:
      config: the config with settings, which is changed.
      default: the config without settings.
      keys: of the settings, dotted.

    Raises:
      UserError: for words in a tuple of numbers.
    """
    for key in keys:
        value, before = (reduce(getattr, key.split("."), c) for c in (config, default))
        if not isinstance(value, tuple) or not any(isinstance(x, str) for x in value):
            continue
        if any(not isinstance(x, str) for x in before):
            given = ",".join(map(str, value))
            raise UserError(
                f"--config.{key}={given} holds words; give numbers, as in {before}"
            )
        words = [x.strip(" ()[]'\"") for text in value for x in text.split(",")]
        words = tuple(word for word in words if word)
        config.update_from_flattened_dict({key: words})


def load(argument: str) -> Config:
    """The config of a file, or `file:variant`, without settings."""
    return config_flags.config_flags.ConfigFileFlagParser("config").parse(argument)


def locate(path: str) -> Path:
    """The file of a config: a path, or the name of an installed config.

    Raises:
      UserError: if there is no such file.
    """
    if Path(path).is_file():
        return Path(path)
    installed = Path(configs.__path__[0]) / f"{path}.py"
    if re.fullmatch(r"\w+", path) and installed.is_file():
        return installed
    raise UserError(f"--config '{path}' does not exist; use configs/NAME.py")


def explain(words: Sequence[str], argument: str, error: Exception) -> str:
    """Explain why a command line could not be parsed.

    Args:
      words: the command line.
      argument: the value of `--config`.
      error: what the parser raised.
    """
    try:
        config = load(argument)
    except Exception as broken:  # noqa: BLE001 (a config file may raise anything)
        why = str(broken).strip().splitlines()[-1].partition("Error: ")[2] or broken
        return f"--config={argument} cannot be read: {why}; its docstring lists its use"
    keys = flat_keys(config)
    for word in words:
        match = re.match(r"--config\.([^=]+)(=.*)?$", word)
        if match and match[1] not in keys:
            near = difflib.get_close_matches(match[1], keys, 1, 0.5)
            hint = (
                f"did you mean --config.{near[0]}?" if near else "see the config file"
            )
            return f"--config.{match[1]} is no key of {argument.split(':')[0]}; {hint}"
        if match and repr(match[1].split(".")[-1]) in str(error):
            return f"{word} does not fit its key ({error}); change the value"
    return f"{error}; see python -m picjax.train --help"


def make_config(system: str, variant: str, settings: Sequence[str]) -> Config:
    """The installed config of a variant with `--config.KEY=VALUE` settings.

    Raises:
      UserError: if a variant or key is unknown, or a value has another type.
    """
    module = importlib.import_module(f"picjax.configs.{system}")
    try:
        config = module.get_config(variant)
    except ValueError as error:
        raise UserError(f"--dataset={variant}: {error}") from error
    for setting in settings:
        if set_rectangle(config, setting):
            continue
        match = SETTING.fullmatch(setting)
        if not match or match[1] not in flat_keys(config):
            raise UserError(
                f"'{setting}' is no flag; write --config.KEY=VALUE with a key of "
                f"configs/{system}.py, or see python -m picjax.convert --help"
            )
        try:
            current = reduce(getattr, match[1].split("."), config)
            value = match[2] if isinstance(current, str) else _literal(match[2])
            if isinstance(current, tuple) and not isinstance(value, (tuple, list)):
                value = (value,)
            config.update_from_flattened_dict({match[1]: value})
            split_tuples(config, module.get_config(variant), [match[1]])
        except (TypeError, ValueError) as error:
            raise UserError(
                f"{setting} does not fit its key ({error}); change the value"
            ) from error
    return config


def _literal(text: str) -> Any:
    try:
        return ast.literal_eval(text)
    except (SyntaxError, ValueError):
        return text


def flatten(tree: Any, prefix: str = "") -> dict[str, Any]:
    """Nested dicts as one dict with dotted keys; an empty dict is a value."""
    if not isinstance(tree, dict) or not tree:
        return {prefix: tree}
    return {
        name: value
        for key, child in tree.items()
        for name, value in flatten(child, f"{prefix}.{key}" if prefix else key).items()
    }


def flat_keys(config: Config) -> list[str]:
    """Every key of a config, dotted."""
    return list(flatten(config.to_dict()))
