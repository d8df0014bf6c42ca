"""Names of Pix2Pix's parameters in the official PyTorch files.

They follow from a network's structure. The U-Net's names nest: each level is inside the
one around it. In a block of the ResNet, the indices shift with the layers in front of a
convolution (explicit padding, dropout).
"""

from collections.abc import Mapping
from typing import Any

from picjax.cli import UserError
from picjax.methods.pix2pix.build import networks
from picjax.methods.pix2pix.net import (
    PatchDiscriminator,
    PixelDiscriminator,
    ResnetGenerator,
    UnetGenerator,
)
from picjax.official.mapping import (
    CONV,
    CONV_TRANSPOSED,
    NORM,
    Shapes,
    Site,
    Table,
    check_original,
)
from picjax.system import Config, image_shape

FILES = {"G": "generator", "D": "discriminator"}
MIN_LEVELS = 5  # of the original's U-Net


def as_loaded(config: Config, tensors: Mapping[str, Any]) -> dict[str, Any]:
    """A file's tensors as the original's loader uses them.

    Instance norms of 2018 also saved running statistics, which no output depends on.
    """
    unused = (".running_mean", ".running_var", ".num_batches_tracked")
    if config.model.norm != "instance":
        return dict(tensors)
    return {name: x for name, x in tensors.items() if not name.endswith(unused)}


def settings_of(shapes: Mapping[str, Shapes]) -> dict[str, Any]:
    """The settings that names and shapes of the files determine, by dotted key."""
    generator, judge = (shapes.get(net, {}) for net in ("generator", "discriminator"))
    unet = "model.model.0.weight" in generator
    first = "model.model.0.weight" if unet else "model.1.weight"
    settings: dict[str, Any] = {}
    if first in generator:
        settings |= {"generator": "unet" if unet else "resnet"}
        settings |= {"ngf": generator[first][0]}
        settings |= {"mask_channel": generator[first][1] == 4}
    norms = [x for x in generator if x.endswith(".running_mean")]
    inner = "model.model.1.model.1.bias" if unet else "model.1.bias"
    if any(x.replace("running_mean", "weight") in generator for x in norms):
        settings["norm"] = "batch"
    elif inner in generator:  # a bias that batch norm would cancel
        settings["norm"] = "instance"
    blocks = {x.split(".")[1] for x in generator if ".conv_block." in x}
    settings |= {"blocks": len(blocks)} if blocks else {}
    pixel = "net.0.weight" in judge
    start = judge.get("net.0.weight" if pixel else "model.0.weight")
    if start:
        settings |= {"discriminator": "pixel" if pixel else "patch", "ndf": start[0]}
    return {f"model.{key}": value for key, value in settings.items()}


def tables(config: Config) -> dict[str, Table]:
    """The table of each network of a config.

    Raises:
      UserError: for networks that the original does not have.
    """
    check_original(config, {"model.fill": False})
    if config.model.norm != "instance":  # which has a bias everywhere
        check_original(config, {"model.bias": False})
    nets = networks(config.model, image_shape(config))
    generator = nets["generator"]
    if isinstance(generator, UnetGenerator) and generator.levels < MIN_LEVELS:
        raise UserError(
            f"the U-Net of this config has {generator.levels} levels, where the original "
            f"has at least {MIN_LEVELS}; only a run with the original's networks can "
            "be converted"
        )
    return {name: table(net) for name, net in nets.items()}


def table(net: Any) -> Table:
    """The official names of a network of Pix2Pix."""
    return _TABLES[type(net)](net)


def _unet(net: UnetGenerator) -> Table:
    last = net.levels - 1
    sites = [
        Site("down0", ("model.model.0",), CONV),
        Site("up0", ("model.model.3",), CONV_TRANSPOSED),
    ]
    for i in range(1, net.levels):
        block = "model.model.1" + ".model.3" * (i - 1)
        # The innermost level has neither a norm on the way down nor a submodule.
        up = 3 if i == last else 5
        sites += [
            Site(f"down{i}", (f"{block}.model.1",), CONV),
            Site(f"up{i}", (f"{block}.model.{up}",), CONV_TRANSPOSED),
            Site(f"up{i}_norm", (f"{block}.model.{up + 1}",), NORM),
        ]
        if i < last:
            sites.append(Site(f"down{i}_norm", (f"{block}.model.2",), NORM))
    return tuple(sites)


def _resnet(net: ResnetGenerator) -> Table:
    end = 10 + net.blocks  # the index after the last block
    sites = [
        *_pair("first", "first_norm", "model", 1),
        *_pair("down1", "down1_norm", "model", 4),
        *_pair("down2", "down2_norm", "model", 7),
        Site("up2", (f"model.{end}",), CONV_TRANSPOSED),
        Site("up2_norm", (f"model.{end + 1}",), NORM),
        Site("up1", (f"model.{end + 3}",), CONV_TRANSPOSED),
        Site("up1_norm", (f"model.{end + 4}",), NORM),
        Site("last", (f"model.{end + 7}",), CONV),
    ]
    pad, drop = net.padding != "zero", net.dropout != "none"
    first = int(pad)
    second = first + 3 + drop + pad  # 3: convolution, norm, ReLU
    for i in range(net.blocks):
        block = f"model.{10 + i}.conv_block"
        for j, index in ((1, first), (2, second)):
            sites += _pair(f"block{i}_conv{j}", f"block{i}_norm{j}", block, index)
    return tuple(sites)


def _patch(net: PatchDiscriminator) -> Table:
    middle = [
        site
        for i in range(1, net.layers + 1)
        for site in _pair(f"conv{i}", f"norm{i}", "model", 3 * i - 1)
    ]
    end = net.layers + 1
    return (
        Site("conv0", ("model.0",), CONV),
        *middle,
        Site(f"conv{end}", (f"model.{3 * end - 1}",), CONV),
    )


def _pixel(net: PixelDiscriminator) -> Table:
    return (
        Site("conv0", ("net.0",), CONV),
        *_pair("conv1", "norm1", "net", 2),
        Site("conv2", ("net.5",), CONV),
    )


def _pair(conv: str, norm: str, parent: str, index: int) -> tuple[Site, Site]:
    """A convolution and the norm that follows it."""
    return (
        Site(conv, (f"{parent}.{index}",), CONV),
        Site(norm, (f"{parent}.{index + 1}",), NORM),
    )


_TABLES: dict[type, Any] = {
    UnetGenerator: _unet,
    ResnetGenerator: _resnet,
    PatchDiscriminator: _patch,
    PixelDiscriminator: _pixel,
}
