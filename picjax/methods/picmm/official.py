"""PICMM's official names: the shared blocks, the flat latent and the mixture's heads."""

from collections.abc import Mapping
from typing import Any

from picjax.official import encoder_decoder
from picjax.official.mapping import (
    CONV,
    LINEAR,
    NORM,
    Shapes,
    Site,
    Table,
    check_original,
)
from picjax.system import Config

# The end of an official file's name, as in `20000_net_E.pth` -> our net's name.
FILES = {
    "E": "encoder",
    "G": "generator",
    "D": "discriminator",
    "GMM": "mixture",
}

_HEADS = {"alpha": "alpha", "mu": "mu", "log_std": "sigma"}

TABLE: Table = (
    *encoder_decoder.TABLE,
    Site("down_fc", ("down_fc.0",), LINEAR),
    Site("up_convfc/conv", ("up_convfc.0",), CONV),
    *(
        Site(f"{ours}/{layer}", (f"{official}.{index}",), leaves)
        for ours, official in _HEADS.items()
        for layer, index, leaves in (
            ("linear1", 0, LINEAR),
            ("norm", 1, NORM),
            ("linear2", 3, LINEAR),
        )
    ),
)


def settings_of(shapes: Mapping[str, Shapes]) -> dict[str, Any]:
    """The settings that names and shapes of the files determine, by dotted key."""
    heads = shapes.get("mixture", {}).get("alpha.3.weight")
    components = {"model.mixture.k": heads[0]} if heads else {}
    return encoder_decoder.settings_of(shapes) | components


def tables(config: Config) -> dict[str, Table]:
    """Net -> its table, for a config of PICMM.

    Raises:
      UserError: if the original does not have the config's networks.
    """
    check_original(
        config,
        {
            "model.mixture.norm": "batch",
            "model.upsample": "transposed",
            "model.log_std_start": 0.0,
            "model.fill": False,
        },
    )
    return dict.fromkeys(FILES.values(), TABLE)
