"""Official names of the residual encoder, decoder and discriminator.

PICNet's code has them, and PICMM's, which descends from it.
"""

import re
from collections.abc import Mapping
from typing import Any

from picjax.official.mapping import (
    CONV,
    NORM,
    SPECTRAL,
    SPECTRAL_TRANSPOSED,
    Leaf,
    Shapes,
    Site,
    Table,
)


def settings_of(shapes: Mapping[str, Shapes]) -> dict[str, Any]:
    """The settings that names and shapes of the files determine, by dotted key."""
    encoder, judge = (shapes.get(net, {}) for net in ("encoder", "discriminator"))
    first = "block0.conv1.module.weight_bar"
    last = sorted(x for x in encoder if re.fullmatch(r"encoder\d+\.conv2.*_bar", x))
    sizes = {
        "model.ngf": encoder.get(first, (None,))[0],
        "model.img_f": encoder[last[-1]][0] if last else None,
        "model.ndf": judge.get(first, (None,))[0],
    }
    return {key: size for key, size in sizes.items() if size is not None}


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
