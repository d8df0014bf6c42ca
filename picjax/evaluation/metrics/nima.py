"""NIMA: the distribution of people's ratings from 1 to 10 (Talebi and Milanfar, 2018).

VGG16's form as pyiqa ships it, trained on AVA.
"""

import re

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, UInt8
from PIL import Image

from picjax.evaluation.metrics import backbones, layers
from picjax.evaluation.metrics.layers import HIGHEST, Params, Shapes, Tensors, max_pool
from picjax.evaluation.metrics.networks import Networks
from picjax.evaluation.metrics.resize import normalise
from picjax.evaluation.metrics.results import FirstSample, brand
from picjax.evaluation.metrics.weights import PYIQA, Released

SIDE = 224


class Network(nn.Module):
    """VGG16 and the head."""

    @nn.compact
    def __call__(
        self, x: Float[Array, "b h w 3"]
    ) -> tuple[Float[Array, "b 512"], Float[Array, "b 10"]]:
        """Spatial mean after VGG16's fifth pool, and the probability of every rating."""
        pooled = max_pool(backbones.vgg(x)[-1], 2).mean((1, 2))
        logits = nn.Dense(10, precision=HIGHEST, name="classifier.2")(pooled)
        return pooled, jax.nn.softmax(logits, -1)


def shapes() -> Shapes:
    """Names and shapes: torchvision's VGG16 and the head."""
    return layers.shapes(Network(), backbones.SIDE)


def original_names(tensors: Tensors) -> Tensors:
    """pyiqa's names (`base_model.features_0.weight`) as torchvision's."""
    return {
        re.sub(r"^(base_model\.)?features[._](\d+)\.", r"features.\2.", name): tensor
        for name, tensor in tensors.items()
    }


RELEASED = Released(PYIQA, ("NIMA_VGG16_ava-dc4e8265.pth",), shapes, original_names)


def distribution(params: Params, x: Float[Array, "b h w 3"]) -> Float[Array, "b 10"]:
    """Probability of every rating; `x` from `resize.normalise`."""
    return layers.apply(Network(), params, x)[1]


def moments(
    p: Float[Array, "b 10"],
) -> tuple[Float[Array, " b"], Float[Array, " b"]]:
    """Mean and standard deviation of the rating, 1 to 10."""
    ratings = jnp.arange(1.0, 11.0)[None]
    mean = (p * ratings).sum(-1)
    return mean, jnp.sqrt((p * jnp.square(ratings - mean[:, None])).sum(-1))


def crop(image: UInt8[np.ndarray, "h w 3"]) -> Float[Array, "1 224 224 3"]:
    """Resized to a shorter side of 224 (Pillow's bilinear), centre crop, normalised."""
    height, width = image.shape[:2]
    short = min(height, width)
    box = round(width * SIDE / short), round(height * SIDE / short)
    small = Image.fromarray(image).resize(box, Image.Resampling.BILINEAR)
    left, top = (box[0] - SIDE) // 2, (box[1] - SIDE) // 2
    x = np.asarray(small.crop((left, top, left + SIDE, top + SIDE)))
    return normalise(jnp.asarray(x)[None])


def metric(networks: Networks) -> FirstSample:
    """NIMA's mean rating of sample 0."""
    network = networks.scorer(RELEASED, distribution)
    return FirstSample(
        "nima",
        brand("1..10", network.source),
        f"{network.source}, mean rating of sample 0's centre, shorter side 224",
        lambda image: float(moments(network.score(crop(image)))[0][0]),
    )
