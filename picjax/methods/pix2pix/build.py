"""Pix2Pix's networks as a config describes them, checked before anything is compiled."""

from typing import Any, get_args

from picjax.cli import UserError
from picjax.layers.initialisers import Rule
from picjax.losses import adversarial
from picjax.methods.pix2pix.net import (
    Discriminator,
    Dropout,
    Generator,
    Norm,
    Padding,
    PatchDiscriminator,
    PixelDiscriminator,
    ResnetGenerator,
    UnetGenerator,
    max_levels,
)
from picjax.system import Config

CHOICES = {
    "model.generator": ("unet", "resnet"),
    "model.discriminator": ("patch", "pixel"),
    "model.norm": get_args(Norm),
    "model.dropout": get_args(Dropout),
    "model.padding": get_args(Padding),
    "model.init": get_args(Rule),
    "model.norm_at_test": ("image", "running"),
    "loss.gan_mode": tuple(adversarial.GAN),
}


def check_fill(config: Config) -> None:
    """Refuse `model.fill` where the generator has no hole, or does not see it.

    Raises:
      UserError: with what to change.
    """
    if config.model.fill and config.data.name == "aligned":
        raise UserError(
            "config.model.fill=True is for completion; pairs of pictures have no hole "
            "to fill, so set it to False"
        )
    if config.model.fill and not config.model.mask_channel:
        raise UserError(
            "config.model.fill=True needs the mask as an input; also set "
            "config.model.mask_channel=True"
        )


def networks(model: Config, image_size: tuple[int, int]) -> dict[str, Any]:
    """Both networks of a config's `model`, by name.

    Raises:
      UserError: if they do not fit the image size.
    """
    shared: Any = {
        "norm": model.norm,
        "bias": model.bias,
        "rule": model.init,
        "gain": model.init_gain,
        "dtype": model.dtype,
    }
    return {
        "generator": _generator(model, image_size, shared),
        "discriminator": _discriminator(model, image_size, shared),
    }


def _generator(model: Config, image_size: tuple[int, int], shared: Any) -> Generator:
    shared = shared | {"name": "generator"}
    shared |= {"width": model.ngf, "dropout": model.dropout, "fill": model.fill}
    if model.generator == "unet":
        return UnetGenerator(levels=_unet_levels(model.levels, image_size), **shared)
    if image_size[0] % 4 or image_size[1] % 4:
        raise UserError(
            f"config.image_size {image_size} is not a multiple of 4, which the ResNet "
            "needs; choose another size"
        )
    return ResnetGenerator(blocks=model.blocks, padding=model.padding, **shared)


def _discriminator(
    model: Config, image_size: tuple[int, int], shared: Any
) -> Discriminator:
    shared = shared | {"name": "discriminator", "width": model.ndf}
    if model.discriminator == "pixel":
        return PixelDiscriminator(**shared)
    net = PatchDiscriminator(layers=model.patch_layers, **shared)
    if net.map_side(min(image_size)) < 1:
        raise UserError(
            f"config.model.patch_layers {model.patch_layers} leaves no score for images "
            f"of {image_size}; use fewer layers or larger images"
        )
    return net


def _unet_levels(levels: int, image_size: tuple[int, int]) -> int:
    """`levels`, or with 0 as many as the size allows, at most 8."""
    most = max_levels(*image_size)
    chosen = levels or most
    if chosen > most or chosen < 3:
        times = f"{levels} times" if levels else "3 times, the U-Net's minimum"
        raise UserError(
            f"config.image_size {image_size} cannot be halved {times}; use multiples of "
            "32, or config.model.generator=resnet"
        )
    return chosen
