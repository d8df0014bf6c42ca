"""PICNet's official names (the encoder, generator and both discriminators)."""

from picjax.official.mapping import (
    CONV,
    NORM,
    SPECTRAL,
    SPECTRAL_TRANSPOSED,
    Leaf,
    Site,
    Table,
    check_original,
)
from picjax.system import Config

# What the original ends a file's name with, `latest_net_E.pth`, and our net's name.
FILES = {
    "E": "encoder",
    "G": "generator",
    "D": "discriminator",
    "D_rec": "discriminator_rec",
}

# Each convolution is registered twice in the original: as an attribute of its block and
# at its place in a sequential.
_BLOCKS = r"((?:block1|encoder\d+|infer_prior\d+|posterior|prior|generator\d*)"
_BLOCKS += r"|attn\d/model)"

TABLE: Table = (
    Site("block0/conv1", ("block0.conv1", "block0.model.0"), SPECTRAL),
    Site("block0/conv2", ("block0.conv2", "block0.model.2"), SPECTRAL),
    Site("block0/bypass", ("block0.bypass", "block0.shortcut.1"), SPECTRAL),
    Site(rf"{_BLOCKS}/conv1", (r"\1.conv1", r"\1.model.1"), SPECTRAL),
    Site(rf"{_BLOCKS}/conv2", (r"\1.conv2", r"\1.model.3"), SPECTRAL),
    Site(rf"{_BLOCKS}/bypass", (r"\1.bypass", r"\1.shortcut.0"), SPECTRAL),
    Site(r"(decoder\d+)/conv1", (r"\1.conv1", r"\1.model.2"), SPECTRAL),
    Site(r"(decoder\d+)/conv2", (r"\1.conv2", r"\1.model.5"), SPECTRAL_TRANSPOSED),
    Site(r"(decoder\d+)/bypass", (r"\1.bypass", r"\1.shortcut.0"), SPECTRAL_TRANSPOSED),
    Site(r"(decoder\d+)/norm1", (r"\1.model.0",), NORM),
    Site(r"(decoder\d+)/norm2", (r"\1.model.3",), NORM),
    Site(r"(out\d+)/conv1", (r"\1.conv1", r"\1.model.2"), SPECTRAL),
    Site(
        r"(attn\d)",
        (r"\1",),
        {"params/gamma": Leaf(".gamma"), "params/alpha": Leaf(".alpha")},
    ),
    Site(r"(attn\d)/query_conv", (r"\1.query_conv",), CONV),
    Site("conv", ("conv",), SPECTRAL),
)

# The patch discriminator's convolutions alternate with activations in one sequential.
PATCH_TABLE: Table = tuple(
    Site(f"conv{i}", (f"model.{2 * i}",), SPECTRAL) for i in range(10)
)


def tables(config: Config) -> dict[str, Table]:
    """Net -> its table, for a config of PICNet.

    Raises:
      UserError: for networks that the original does not have.
    """
    check_original(config, {"model.upsample": "transposed"})
    judge = PATCH_TABLE if config.model.discriminator == "patch" else TABLE
    judges = dict.fromkeys(("discriminator", "discriminator_rec"), judge)
    return {"encoder": TABLE, "generator": TABLE, **judges}
