"""PICNet's official names: encoder, generator and both discriminators."""

from picjax.official.encoder_decoder import TABLE
from picjax.official.mapping import SPECTRAL, Site, Table, check_original
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
