"""Settings of PixelCNN++: those of older runs completed, impossible ones refused."""

from picjax.cli import UserError, check_choice
from picjax.methods.pixelcnn import logistic
from picjax.methods.pixelcnn.layers import NONLINEARITIES
from picjax.methods.pixelcnn.net import check_size
from picjax.methods.pixelcnn.orientation import ORIENTATIONS
from picjax.system import Config, check_choices, image_shape

# Keys that the config.json of older runs lacks, with what those runs did.
ADDED_LATER = {"data.classes": 0, "model.label": 0, "loss.pixels": "all"}
SAMPLERS = ("cached", "fixed_point")


def complete_config(config: Config) -> Config:
    """The config with the keys that were introduced after its run."""
    config = config.copy_and_resolve_references()
    for key, value in ADDED_LATER.items():
        section, name = key.split(".")
        if name not in config[section]:
            with config.unlocked():
                config[section][name] = value
    return config


def check(config: Config) -> None:
    """Refuse settings that cannot work, before anything is compiled.

    Raises:
      UserError: naming the key.
    """
    height, width = image_shape(config)
    check_size(height, width)
    model = config.model
    choices = {
        "model.nonlinearity": NONLINEARITIES,
        "model.sampler": SAMPLERS,
        "loss.form": logistic.LOG_BIN,
        "loss.pixels": ("all", "missing"),
    }
    check_choices(config, choices)
    check_numbers(config)
    if model.channels not in (1, 3):
        raise UserError(
            f"config.model.channels is {model.channels}; use 3, or 1 for grey"
        )
    classes, label = config.data.classes, model.label
    if classes < 0:
        raise UserError(f"config.data.classes is {classes}; use 0 for no classes")
    if not 0 <= label < max(classes, 1):
        raise UserError(
            f"config.model.label {label} is not below config.data.classes, {classes}; "
            "use a smaller one"
        )
    if model.candidates > 1 and config.loss.pixels == "missing":
        raise UserError(
            "config.model.candidates above 1 needs the likelihood of known pixels, which "
            "config.loss.pixels=missing does not train; train with all"
        )
    check_orientations(config)


def check_orientations(config: Config) -> None:
    """Refuse unknown orientations and those that do not fit the image size.

    Raises:
      UserError: naming the key.
    """
    height, width = image_shape(config)
    names = config.model.turns
    for name in names:
        check_choice("config.model.turns", name, ORIENTATIONS)
    if not names:
        raise UserError(
            "config.model.turns is empty; use at least one of "
            f"{', '.join(ORIENTATIONS)}"
        )
    if height != width and any(ORIENTATIONS[name][0] for name in names):
        raise UserError(
            f"config.model.turns has one that exchanges the sides of {height}x{width} "
            "images; use square images, or upright, mirrored, upside_down, half_turn"
        )


def check_numbers(config: Config) -> None:
    """Refuse sizes and rates that no network or optimiser can have.

    Raises:
      UserError: naming the key.
    """
    model, opt = config.model, config.opt
    counts = {
        "model.features": model.features,
        "model.blocks": model.blocks,
        "model.mixtures": model.mixtures,
        "model.candidates": model.candidates,
        "opt.accumulate": opt.accumulate,
    }
    for key, value in counts.items():
        if value < 1:
            raise UserError(f"config.{key} is {value}; use at least 1")
    shares = {
        "model.dropout": model.dropout,
        "opt.b1": opt.b1,
        "opt.b2": opt.b2,
        "opt.ema": opt.ema,
    }
    for key, value in shares.items():
        if not 0 <= value < 1:
            raise UserError(f"config.{key} is {value}; use 0 or more, and less than 1")
    if not 0 <= opt.decay <= 1:
        raise UserError(
            f"config.opt.decay is {opt.decay}; use a share of the steps, 0 to 1"
        )
    if not 0 < opt.fall <= 1:
        raise UserError(
            f"config.opt.fall is {opt.fall}; use more than 0, and at most 1 (constant)"
        )
    if not opt.lr > 0:
        raise UserError(f"config.opt.lr is {opt.lr}; use more than 0")
