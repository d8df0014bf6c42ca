"""PICNet's official names: encoder, generator and both discriminators."""

from collections.abc import Mapping
from typing import Any

from picjax.official import encoder_decoder
from picjax.official.encoder_decoder import TABLE
from picjax.official.mapping import SPECTRAL, Shapes, Site, Table, check_original
from picjax.system import Config

# The end of an official file's name, as in `latest_net_E.pth` -> our net's name.
FILES = {
    "E": "encoder",
    "G": "generator",
    "D": "discriminator",
    "D_rec": "discriminator_rec",
}

# The patch discriminator's convolutions alternate with activations in one sequential.
PATCH_TABLE: Table = tuple(
    Site(f"conv{i}", (f"model.{2 * i}",), SPECTRAL) for i in range(10)
)


def settings_of(shapes: Mapping[str, Shapes]) -> dict[str, Any]:
    """The settings that names and shapes of the files determine, by dotted key."""
    encoder = shapes.get("encoder", {})
    settings = encoder_decoder.settings_of(shapes)
    if "prior.conv2.module.weight_bar" in encoder:
        settings["model.z_nc"] = encoder["prior.conv2.module.weight_bar"][0] // 2
    depth = {name.partition(".")[0] for name in encoder if "infer_prior" in name}
    settings |= {"model.encoder_depth": len(depth)} if depth else {}
    if judge := shapes.get("discriminator"):
        patch = "model.0.module.weight_bar" in judge
        settings["model.discriminator"] = "patch" if patch else "res"
        if patch:
            settings["model.ndf"] = judge["model.0.module.weight_bar"][0]
    return settings


def tables(config: Config) -> dict[str, Table]:
    """Net -> its table, for a config of PICNet.

    Raises:
      UserError: if the original does not have the config's networks.
    """
    check_original(config, {"model.upsample": "transposed", "model.fill": False})
    patch = config.model.discriminator == "patch"
    discriminators = dict.fromkeys(
        ("discriminator", "discriminator_rec"), PATCH_TABLE if patch else TABLE
    )
    return {"encoder": TABLE, "generator": TABLE, **discriminators}
