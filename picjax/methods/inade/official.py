"""The options and tensor names of the official INADE and SPADE code."""

import re
from collections.abc import Mapping
from typing import NamedTuple

from picjax.methods.inade.discriminator import Norm
from picjax.methods.inade.norm import Statistics
from picjax.official.mapping import CONV, LINEAR, NORM, Leaf, Site, Table
from picjax.system import Config

# The end of an official file's name, as in `best_net_G.pth` -> our net's name.
FILES = {"G": "generator", "E": "encoder", "D": "discriminator"}
ALIASES = {"IE": "encoder"}  # INADE's released files; its code reads E
OPTIONAL = {"encoder"}  # sampling from the prior needs none

SPECTRAL = {
    "params/kernel": Leaf(".weight_orig", (2, 3, 1, 0)),
    "params/bias": Leaf(".bias"),
    "stats/u": Leaf(".weight_u"),
    "stats/v": Leaf(".weight_v"),
}
RUNNING = {name: leaf for name, leaf in NORM.items() if name.startswith("stats/")}
_TABLES = {"params/weight": Leaf(".weight"), "params/bias": Leaf(".bias")}


class NormOptions(NamedTuple):
    """The meaning of the original's `norm_G`, such as `spectralspadesyncbatch3x3`."""

    spectral: bool
    statistics: Statistics
    kernel: int


def parse_norm_g(text: str) -> NormOptions:
    """Read `norm_G`: spectral norm, statistics, SPADE's kernel size.

    Raises:
      ValueError: if it is not of the original's form.
    """
    match = re.fullmatch(r"(spectral)?spade(syncbatch|batch|instance)(\d+)x\d+", text)
    if match is None:
        raise ValueError(
            f"norm_G '{text}' is not of the form [spectral]spade"
            "(syncbatch|batch|instance)KxK"
        )
    statistics = "instance" if match[2] == "instance" else "batch"
    return NormOptions(bool(match[1]), statistics, int(match[3]))


def parse_norm(text: str) -> tuple[bool, Norm]:
    """Read `norm_D` or `norm_E`, such as `spectralinstance`: spectral norm, norm."""
    norm = text.removeprefix("spectral")
    names: dict[str, Norm] = {"": "none", "none": "none", "instance": "instance"}
    names |= {"batch": "batch", "sync_batch": "batch"}
    return norm != text, names[norm]


# ---- tensor names ----


def tables(config: Config) -> dict[str, Table]:
    """Net -> its table, for a config of INADE, SPADE or CLADE."""
    model = config.model
    image_encoder = image_encoder_table("instance")
    norm = model.discriminator_norm
    return {
        "generator": generator_table(model.norm, model.spectral, model.latent),
        "encoder": INSTANCE_ENCODER if model.norm == "inade" else image_encoder,
        "discriminator": discriminator_table(model.patch_layers, norm),
    }


def generator_table(norm: str, spectral: bool = True, latent: bool = True) -> Table:
    """The generator's tensors, or those of any part of it.

    Args:
      norm: one of `norm.NORMS`.
      spectral: whether the blocks' convolutions are spectrally normalised.
      latent: whether the first layer reads a latent; otherwise it is a convolution.
    """
    prefix = r"((?:.*/)?)"
    rows = [
        Site("fc", ("fc",), LINEAR if latent else CONV),
        Site("conv_img", ("conv_img",), CONV),
        Site(f"{prefix}(conv_[01s])", (r"\1\2",), SPECTRAL if spectral else CONV),
        Site(f"{prefix}param_free_norm", (r"\1param_free_norm",), RUNNING),
    ]
    if norm == "inade":
        rows += [
            Site(f"{prefix}modulation/fc_noise", (r"\1fc_noise",), LINEAR),
            Site(f"{prefix}(sketch_conv|merge_conv)", (r"\1\2",), CONV),
            Site(r"(?:(.*)/)?modulation", (r"\1",), _TABLES),
        ]
    elif norm == "spade":
        rows += [
            Site(f"{prefix}mlp_shared", (r"\1mlp_shared.0",), CONV),
            Site(f"{prefix}(mlp_gamma|mlp_beta)", (r"\1\2",), CONV),
        ]
    else:
        affine = "class_specified_affine"
        rows += [
            Site(f"{prefix}(dist_conv_[wb])", (rf"\1{affine}.\2",), CONV),
            Site(f"{prefix}inst_conv", (r"\1inst_conv",), CONV),
            Site("(.+)", (rf"\1.{affine}",), _TABLES),
            Site("", (affine,), _TABLES),
        ]
    return tuple(rows)


INSTANCE_ENCODER: Table = (Site(r"(\w+)", (r"\1",), CONV),)


def image_encoder_table(norm: str, spectral: bool = True) -> Table:
    """The tensors of SPADE's image encoder; `norm` and `spectral` are its own."""
    conv = SPECTRAL if spectral else CONV
    place = "" if norm == "none" else ".0"
    return (
        Site(r"(fc_mu|fc_var)", (r"\1",), LINEAR),
        Site(r"(layer\d+)", (rf"\1{place}",), conv),
        Site(r"(layer\d+)_norm", (r"\1.1",), NORM),
    )


def discriminator_table(layers: int, norm: str, spectral: bool = True) -> Table:
    """The tensors of a discriminator of so many layers; `norm`, `spectral` its own."""
    conv = SPECTRAL if spectral else CONV
    place = ".0" if norm == "none" else ".0.0"
    return (
        Site(rf"(discriminator_\d+)/(model0|model{layers})", (r"\1/\2.0",), CONV),
        Site(r"(discriminator_\d+)/(model\d+)", (rf"\1/\2{place}",), conv),
        Site(r"(discriminator_\d+)/(model\d+)_norm", (r"\1/\2.0.1",), NORM),
    )


def vgg_table(names: Mapping[int, str]) -> Table:
    """VGG19's tensors; `names`: convolution's index -> name without `.weight`."""
    return tuple(Site(f"conv{i}", (name,), CONV) for i, name in names.items())
