"""PICMM's official names: PICNet's, the flat latent's layers and the mixture's heads."""

from picjax.official import picnet
from picjax.official.mapping import CONV, LINEAR, NORM, Site, Table

_HEADS = {"alpha": "alpha", "mu": "mu", "log_std": "sigma"}

TABLE: Table = (
    *picnet.TABLE,
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
