"""The networks and optimisers of a config."""

from functools import lru_cache, partial
from pathlib import Path
from typing import Any, NamedTuple, get_args

import flax.linen as nn
import optax

from picjax.cli import UserError, say
from picjax.evaluation.metrics import weights
from picjax.evaluation.metrics.layers import Tensors
from picjax.evaluation.metrics.weights import TORCHVISION, Released
from picjax.methods.inade import official
from picjax.methods.inade.discriminator import Discriminator
from picjax.methods.inade.discriminator import Norm as LayerNorm
from picjax.methods.inade.encoder import ImageEncoder, InstanceEncoder
from picjax.methods.inade.losses import GAN
from picjax.methods.inade.net import DOUBLINGS, Generator
from picjax.methods.inade.norm import NORMS, Statistics
from picjax.methods.inade.schedule import epoch_schedule, ttur
from picjax.methods.inade.vgg import CONVS, Vgg19
from picjax.official import files
from picjax.official.mapping import from_official
from picjax.optim import accumulate
from picjax.system import Config, Opt, Tree

CHOICES = {
    "model.norm": tuple(NORMS),
    "model.statistics": get_args(Statistics),
    "model.upsampling": tuple(DOUBLINGS),
    "model.discriminator_norm": get_args(LayerNorm),
    "loss.gan_mode": tuple(GAN),
    "loss.kl_reduction": ("sum", "mean"),
}


def classes_of(model: Config) -> int:
    """Rows of the class tables."""
    return model.label_nc + model.dontcare


def networks(model: Config, image_size: tuple[int, int]) -> dict[str, nn.Module]:
    """Generator, discriminator and perhaps encoder, named after their keys.

    Raises:
      UserError: if the image size or a combination of options does not fit.
    """
    doublings = DOUBLINGS[model.upsampling]
    if any(side % 2**doublings for side in image_size):
        raise UserError(
            f"config.image_size {image_size} is not a multiple of {2**doublings}, which "
            f"config.model.upsampling '{model.upsampling}' needs; choose another size"
        )
    if model.norm == "clade" and model.encoder:
        raise UserError(
            "config.model.encoder is for INADE and SPADE; set it to False with "
            "config.model.norm=clade"
        )
    if not model.latent and (model.encoder or model.norm == "inade"):
        raise UserError(
            "config.model.latent=False is for SPADE and CLADE without encoder; set it to "
            "True"
        )
    options: Any = {"statistics": model.statistics}
    if model.norm == "inade":
        options["sketch"] = model.sketch
    nets: dict[str, nn.Module] = {
        "generator": Generator(
            norm=partial(NORMS[model.norm], **options),
            classes=classes_of(model),
            base_size=(image_size[0] >> doublings, image_size[1] >> doublings),
            upsampling=model.upsampling,
            width=model.ngf,
            spectral=model.spectral,
            dtype=model.dtype,
            name="generator",
        ),
        "discriminator": Discriminator(
            scales=model.scales,
            layers=model.patch_layers,
            width=model.ndf,
            norm=model.discriminator_norm,
            dtype=model.dtype,
            name="discriminator",
        ),
    }
    if model.encoder:
        nets["encoder"] = encoder(model, image_size)
    return nets


def encoder(model: Config, image_size: tuple[int, int]) -> nn.Module:
    """INADE's instance encoder or SPADE's image encoder."""
    if model.norm == "inade":
        return InstanceEncoder(
            instances=model.instances,
            channels=model.noise_nc,
            width=model.ngf,
            dtype=model.dtype,
            name="encoder",
        )
    return ImageEncoder(
        latent=model.z_dim,
        depth=6 if max(image_size) >= 256 else 5,
        width=model.ngf,
        dtype=model.dtype,
        name="encoder",
    )


class Vgg(NamedTuple):
    """The network of the perceptual loss and its parameters."""

    net: Vgg19
    params: Tree


def vgg_shapes() -> dict[str, tuple[int, ...]]:
    """Names and shapes of torchvision's convolutions of VGG19."""
    shapes, channels = {}, 3
    for index, factor in CONVS.items():
        shapes[f"features.{index}.weight"] = (64 * factor, channels, 3, 3)
        shapes[f"features.{index}.bias"] = (64 * factor,)
        channels = 64 * factor
    return shapes


VGG19 = Released(TORCHVISION, ("vgg19-dcbb9e9d.pth",), vgg_shapes)


@lru_cache
def find_vgg(path: str) -> Vgg | None:
    """VGG19 with torchvision's parameters, found as the metrics' networks are.

    Args:
      path: of the file; empty: searched for, then downloaded.

    Returns:
      None, with a message to the user, if there is none.

    Raises:
      UserError: if the file is damaged, or is not VGG19's.
    """
    if path:
        return read_vgg(Path(path))
    try:
        tensors = weights.load(VGG19).tensors
    except weights.NoWeights:
        say(
            "training goes without the perceptual loss, for which VGG19 is not found; "
            f"put {VGG19.names[0]} into a folder and name it by {weights.VARIABLE}, or "
            "set config.loss.perceptual=0"
        )
        return None
    return as_vgg(tensors)


def read_vgg(path: Path) -> Vgg:
    """VGG19 from torchvision's file.

    Raises:
      UserError: if the file is not VGG19's.
    """
    needed = vgg_shapes().keys()
    tensors = {name: x for name, x in files.read(path).items() if name in needed}
    if tensors.keys() != needed:
        raise UserError(
            f"config.loss.vgg_path '{path}' lacks {min(needed - tensors.keys())}; give "
            "torchvision's vgg19 file"
        )
    return as_vgg(tensors)


def as_vgg(tensors: Tensors) -> Vgg:
    """The network of torchvision's tensors, of any width."""
    net = Vgg19(len(tensors["features.0.bias"]), name="vgg")
    table = official.vgg_table({i: f"features.{i}" for i in CONVS})
    return Vgg(net, from_official(tensors, net.shapes(), table)["params"])


def optimisers(config: Config, encoder: bool) -> dict[str, Opt]:
    """Adam for both players, at the rates of `ttur`; one for generator and encoder."""
    opt = config.opt
    generator, discriminator = ttur(opt.lr, opt.ttur)

    def adam(lr: float) -> optax.GradientTransformation:
        if opt.epoch_steps:
            updates = max(1, opt.epoch_steps // opt.accumulate)
            rate = epoch_schedule(lr, updates, opt.constant_epochs, opt.decay_epochs)
        else:
            rate = lr
        return accumulate(optax.adam(rate, b1=opt.b1, b2=opt.b2), opt.accumulate)

    nets = ("generator", "encoder") if encoder else ("generator",)
    return {
        "generator": Opt(adam(generator), nets),
        "discriminator": Opt(adam(discriminator), ("discriminator",)),
    }
