"""NIMA: the distribution of the marks 1 to 10 that people would give (Talebi, 2018).

VGG16's form as pyiqa ships it, trained on AVA. Metrics specification, section 11.
"""

import re

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, UInt8
from PIL import Image

from picjax.evaluation.metrics import convnet, lpips
from picjax.evaluation.metrics.convnet import Params, Shapes, Tensors, linear, max_pool
from picjax.evaluation.metrics.resize import normalise

SIDE = 224
HEAD = "classifier.2"


def shapes() -> Shapes:
    """Names and shapes: torchvision's of VGG16, and the head's."""
    head = {f"{HEAD}.weight": (10, 512), f"{HEAD}.bias": (10,)}
    return {**lpips.shapes("vgg"), **head}


def original_names(tensors: Tensors) -> Tensors:
    """pyiqa's names (`base_model.features_0.weight`) as torchvision's."""
    return {
        re.sub(r"^(base_model\.)?features[._](\d+)\.", r"features.\2.", name): tensor
        for name, tensor in tensors.items()
    }


def prepare(tensors: Tensors) -> Params:
    """Parameters from a state_dict."""
    named = original_names(tensors)
    return convnet.fold({name: named[name] for name in shapes()}, {})


def pooled(params: Params, x: Float[Array, "b h w 3"]) -> Float[Array, "b 512"]:
    """The mean over space after VGG16's fifth pool; `x` from `resize.normalise`."""
    return max_pool(lpips.vgg(params, x)[-1], 2).mean((1, 2))


def distribution(params: Params, x: Float[Array, "b h w 3"]) -> Float[Array, "b 10"]:
    """The probability of every mark."""
    return jax.nn.softmax(linear(pooled(params, x), params[HEAD]), -1)


def moments(
    p: Float[Array, "b 10"],
) -> tuple[Float[Array, " b"], Float[Array, " b"]]:
    """Mean and standard deviation of the marks, 1 to 10."""
    marks = jnp.arange(1.0, 11.0)[None]
    mean = (p * marks).sum(-1)
    return mean, jnp.sqrt((p * jnp.square(marks - mean[:, None])).sum(-1))


def crop(image: UInt8[np.ndarray, "h w 3"]) -> Float[Array, "1 224 224 3"]:
    """Shorter side to 224 by Pillow's bilinear, the centre of it, normalised."""
    height, width = image.shape[:2]
    short = min(height, width)
    box = round(width * SIDE / short), round(height * SIDE / short)
    small = Image.fromarray(image).resize(box, Image.Resampling.BILINEAR)
    left, top = (box[0] - SIDE) // 2, (box[1] - SIDE) // 2
    x = np.asarray(small.crop((left, top, left + SIDE, top + SIDE)))
    return normalise(jnp.asarray(x)[None])
