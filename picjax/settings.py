"""What the values of a config may be: checked before anything is built or traced.

A value that only one method has is checked by the method as well, where more than its
range matters (`picjax.system.check_choices`).
"""

import ast
import importlib.util
import math
from collections.abc import Callable, Mapping
from fnmatch import fnmatchcase
from functools import lru_cache
from typing import Any, NamedTuple

from picjax.cli import UserError, check_choice
from picjax.flags import flatten
from picjax.system import Config

LARGEST_SIZE = 2**14  # pixels a side
LARGEST_SEED = 2**32 - 1  # of NumPy's and grain's generators
# What every command reads of a config.
REQUIRED = ("system", "image_size", "keep", "best", "data.name", "data.masks")


class Rule(NamedTuple):
    """Which values are valid, and the same in words."""

    accepts: Callable[[Any], bool]
    words: str


def integer(low: int, high: int = 2**31 - 1) -> Rule:
    """An integer within bounds."""
    words = f"an integer from {low} to {high}" if high < 2**31 - 1 else f"{low} or more"
    return Rule(lambda x: _is_int(x) and low <= x <= high, words)


def number(low: float, high: float = math.inf, below: bool = False) -> Rule:
    """A finite number from `low` to `high`, which `below` excludes."""
    words = f"a number from {low:g} to {'below ' if below else ''}{high:g}"
    words = words if math.isfinite(high) else f"a number of {low:g} or more"

    def accepts(x: Any) -> bool:
        return _is_number(x) and low <= x <= high and not (below and x == high)

    return Rule(accepts, words)


def several(rule: Rule, least: int = 0) -> Rule:
    """A tuple of values that follow a rule."""

    def accepts(x: Any) -> bool:
        return _is_tuple(x) and len(x) >= least and all(map(rule.accepts, x))

    return Rule(accepts, f"a tuple, each {rule.words}")


def either(*rules: Rule) -> Rule:
    """A value that follows one of several rules."""
    words = ", or ".join(rule.words for rule in rules)
    return Rule(lambda x: any(rule.accepts(x) for rule in rules), words)


def _is_int(x: Any) -> bool:
    return isinstance(x, int) and not isinstance(x, bool)


def _is_number(x: Any) -> bool:
    return (_is_int(x) or isinstance(x, float)) and math.isfinite(x)


def _is_tuple(x: Any) -> bool:
    return isinstance(x, tuple | list)


def _is_range(x: Any) -> bool:
    return _is_tuple(x) and len(x) == 2 and all(map(_is_number, x)) and x[0] < x[1]


FLAG = Rule(lambda x: isinstance(x, bool), "True or False")
TEXT = Rule(lambda x: isinstance(x, str) and x.isprintable(), "a printable text")
PATH = Rule(lambda x: isinstance(x, str) and "\0" not in x, "a path")
FINITE = Rule(_is_number, "a finite number")
AT_LEAST_0, AT_LEAST_1 = integer(0), integer(1)
WIDTH = integer(1, 2**16)
DECIMAL = Rule(lambda x: isinstance(x, float) and 0 <= x <= 100, "0.0 to 100.0")
COUNT = integer(0, 2**16)
SIDE = integer(8, LARGEST_SIZE)
DECAY = number(0.0, 1.0, below=True)
RATIO = Rule(lambda x: _is_range(x) and 0 < x[0] and x[1] < 1, "(low, high) in 0 to 1")
SIZE = Rule(
    lambda x: SIDE.accepts(x) or (several(SIDE).accepts(x) and len(x) == 2),
    f"pixels, 8 to {LARGEST_SIZE}, or (height, width)",
)
MULTIPLIERS = several(number(1 / 16, 256.0), least=1)  # halves exist: 512 px releases
ANY = Rule(lambda x: not isinstance(x, float) or math.isfinite(x), "a finite number")

# The first pattern that a dotted key matches applies.
RULES: dict[str, Rule] = {
    "system": TEXT,
    "seed": integer(0, LARGEST_SEED),
    "image_size": SIZE,
    "batch_size": integer(1, 2**24),
    "sample_every": AT_LEAST_0,
    "best": TEXT,
    "eval.every": AT_LEAST_0,
    "eval.metrics": TEXT,
    "mesh.data": integer(-1),
    "data.*path": PATH,
    "data.load_size": integer(0, LARGEST_SIZE),
    "data.flip": FLAG,
    "data.rotation": number(0.0, 180.0),
    "data.masks": several(TEXT),
    "data.hole_ratio": RATIO,
    "data.threads": integer(1, 1024),
    "data.classes": COUNT,
    "data.name": TEXT,
    "data.crop": TEXT,
    "opt.lr": number(0.0, 1e3),
    "opt.decay": number(0.0, 1.0),
    "opt.b[12]": DECAY,
    "opt.ema": DECAY,
    "opt.fall": number(0.0, 1.0),
    "opt.ttur": FLAG,
    "opt.accumulate": integer(1, 2**20),
    "opt.*": number(0.0),
    "model.dropout": either(TEXT, DECAY),
    "model.label": COUNT,
    "model.levels": integer(0, 16),
    "model.*classes": COUNT,
    "model.head_width": COUNT,
    "model.*depth": integer(0, 64),
    "model.log_std_start": number(-20.0, 20.0),
    "model.blocks": integer(1, 256),
    "model.mult": MULTIPLIERS,
    "model.classifier_mult": MULTIPLIERS,
    "model.*attention": several(WIDTH),
    "model.mixture.clamp": either(
        Rule(lambda x: _is_tuple(x) and not x, "()"), Rule(_is_range, "(low, high)")
    ),
    "model.*": either(FLAG, TEXT, WIDTH, DECIMAL, several(TEXT)),
    "diffusion.steps": integer(2, 10**5),
    "sampler.jump_*": integer(1, 10**4),
    "sampler.temperature": number(0.0, 1e3),
    "sampler.least_weight": number(0.0, 1.0),
    "sampler.*": ANY,
    "loss.pool": COUNT,
    "loss.vgg_path": PATH,
    "loss.*": either(FLAG, TEXT, number(0.0)),
    **dict.fromkeys(
        ("steps", "log_every", "save_every", "samples", "keep", "mesh.fsdp", "eval.*"),
        AT_LEAST_1,
    ),
    "*": ANY,
}


def check(config: Config) -> None:
    """Check every value of a config by what it means, and by its type.

    The type is that of the packaged config of the same method: a workdir's config.json
    may hold anything.

    Raises:
      UserError: naming the key, its value, and what is valid.
    """
    values = flatten(config.to_dict())
    for key in REQUIRED:
        if key not in values:
            raise UserError(
                f"config.{key} is missing; set it as configs/common.py does"
            )
    for key, value in values.items():
        rule = next(r for pattern, r in RULES.items() if fnmatchcase(key, pattern))
        if not rule.accepts(value):
            raise UserError(f"config.{key} is {repr(value)[:60]}; give {rule.words}")
    tables = {key[:i] for key in values for i, c in enumerate(key) if c == "."}
    for key, default in _defaults(config.system).items():
        shown = f"a {type(default).__name__} such as {default!r}"
        if key in tables:
            raise UserError(f"config.{key} is a table; give {shown}")
        if key in values and not _same_type(values[key], default):
            raise UserError(f"config.{key} is {values[key]!r}; give {shown}")


@lru_cache
def _defaults(system: str) -> dict[str, Any]:
    """The packaged config of a method; empty if there is none."""
    name = f"picjax.configs.{system}"
    if not system.isidentifier() or importlib.util.find_spec(name) is None:
        return {}
    module = importlib.import_module(name)
    return flatten(module.get_config().to_dict()) if system != "common" else {}


def _same_type(value: Any, default: Any) -> bool:
    if _is_tuple(default) or _is_tuple(value):  # image_size is a number or a tuple
        return _is_tuple(value) == _is_tuple(default) or SIZE.accepts(value)
    return isinstance(value, type(default)) or (_is_int(value) and _is_number(default))


def set_sampler(config: Config, sampler: str | Mapping[str, Any]) -> None:
    """Set the preset of the sampler, or keys of `config.sampler`.

    Values may be strings from a command line.

    Raises:
      UserError: if the method has no sampler options, no such key or preset, or the
        value has another type.
    """
    if "sampler" not in config:
        raise UserError(f"{config.system} draws in one way; leave the sampler out")
    if isinstance(sampler, str) and "preset" not in config.sampler:
        raise UserError(
            f"{config.system} has no presets of a sampler, such as '{sampler}'; set "
            f"one of config.sampler's keys: {', '.join(config.sampler)}"
        )
    values = {"preset": sampler} if isinstance(sampler, str) else sampler
    for key, value in values.items():
        check_choice("config.sampler's key", key, list(config.sampler))
        current = config.sampler[key]
        try:
            if isinstance(value, str) and not isinstance(current, str):
                value = ast.literal_eval(value)
            config.sampler[key] = value
        except (SyntaxError, TypeError, ValueError):
            raise UserError(
                f"config.sampler.{key} '{value}' is no {type(current).__name__} as "
                f"{current} is; change the value"
            ) from None
