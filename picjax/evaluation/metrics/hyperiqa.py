"""HyperIQA: quality without a reference image (Su et al., 2020).

From the features of a ResNet-50, a hyper network generates the weights of a small
target network for every image.
"""

import itertools
from functools import partial
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, UInt8

from picjax.evaluation.metrics import layers
from picjax.evaluation.metrics.layers import (
    HIGHEST,
    Conv,
    Params,
    Shapes,
    Tensors,
    max_pool,
    mean_pool,
    relu,
)
from picjax.evaluation.metrics.networks import Networks
from picjax.evaluation.metrics.resize import normalise, resize
from picjax.evaluation.metrics.results import FirstSample, brand
from picjax.evaluation.metrics.weights import PYIQA, Released

SIDE = 224  # pixels of a crop
UPSCALED = 256  # shorter side to which smaller images are upscaled
GRID = 5  # crops per side
DEPTHS = (3, 4, 6, 3)
TARGET = (224, 112, 56, 28, 14)


def shapes() -> Shapes:
    """Names and shapes of the original's state_dict."""
    return layers.shapes(Network(), SIDE)


def original_names(tensors: Tensors) -> Tensors:
    """pyiqa's state_dict under the original's names; the original's unchanged."""
    table = {f"res.{name}": f"base_model.{name}" for name in ("conv1", "bn1")}
    table |= {f"res.layer{i}": f"base_model.layer{i}" for i in (1, 2, 3, 4)}
    for i in (1, 2, 3):
        table[f"res.lda{i}_pool.0"] = f"lda_modules.{i - 1}.0"
        table[f"res.lda{i}_fc"] = f"lda_modules.{i - 1}.3"
    table["res.lda4_fc"] = "lda_modules.3.2"
    table |= {f"fc{k}w_conv": f"fc_w_modules.{k - 1}" for k in (1, 2, 3, 4)}
    table["fc5w_fc"] = "fc_w_modules.4.2"
    table |= {f"fc{k}b_fc": f"fc_b_modules.{k - 1}.2" for k in (1, 2, 3, 4, 5)}
    renamed = dict(tensors)
    for ours, theirs in table.items():
        for name in tensors:
            if name.startswith(f"{theirs}."):
                renamed[ours + name.removeprefix(theirs)] = renamed.pop(name)
    return renamed


RELEASED = Released(
    PYIQA,
    ("HyperIQA-resnet50-koniq10k-c96c41b1.pth", "koniq_pretrained.pkl"),
    shapes,
    original_names,
)


class Target(NamedTuple):
    """The target network of an image, and the features that it comes from.

    Attributes:
      features: the last map of ResNet-50.
      vector: its input.
      layers: (weights, bias) of its five layers.
    """

    features: Float[Array, "b 7 7 2048"]
    vector: Float[Array, "b 224"]
    layers: list[tuple[Float[Array, "b _ _"], Float[Array, "b _"]]]


class Network(nn.Module):
    """ResNet-50 and the hyper network."""

    @nn.compact
    def __call__(self, x: Float[Array, "b 224 224 3"]) -> Target:
        """The target networks of crops that are normalised by `resize.normalise`."""
        *maps, last = _resnet(x)
        parts = []
        for i, (stage, kept) in enumerate(zip(maps, (16, 32, 64), strict=True), 1):
            kept_maps = Conv(kept, bias=None, name=f"res.lda{i}_pool.0")(stage)
            pooled = mean_pool(kept_maps, 7, 7)
            flat = pooled.transpose(0, 3, 1, 2).reshape(len(x), -1)
            parts.append(_linear(flat, 16, f"res.lda{i}_fc"))
        parts.append(_linear(last.mean((1, 2)), 176, "res.lda4_fc"))

        h = last
        for i, features in enumerate((1024, 512, 112)):
            h = relu(Conv(features, name=f"conv1.{2 * i}")(h))
        g = h.mean((1, 2))
        generated = []
        for k, (inputs, outputs) in enumerate(itertools.pairwise(TARGET), 1):
            size, name = inputs * outputs // h.shape[1] // h.shape[2], f"fc{k}w_conv"
            weights = Conv(size, (3, 3), padding=(1, 1), name=name)(h)
            weights = weights.transpose(0, 3, 1, 2).reshape(-1, outputs, inputs)
            generated.append((weights, _linear(g, outputs, f"fc{k}b_fc")))
        weights = _linear(g, TARGET[-1], "fc5w_fc")[:, None]
        generated.append((weights, _linear(g, 1, "fc5b_fc")))
        return Target(last, jnp.concatenate(parts, -1), generated)


def _linear(x: Array, features: int, name: str) -> Array:
    return nn.Dense(features, precision=HIGHEST, name=name)(x)


def _resnet(x: Array) -> list[Array]:
    """Feature maps after ResNet-50's four layers; stride in the 3 x 3 convolution."""
    conv = partial(Conv, bias="norm")
    x = conv(64, (7, 7), 2, (3, 3), name="res.conv1")(x)
    x = max_pool(relu(x), padding=1)
    stages = []
    for layer, depth in enumerate(DEPTHS, 1):
        inner = 32 * 2**layer
        for i in range(depth):
            name, stride = f"res.layer{layer}.{i}", 2 if layer > 1 and i == 0 else 1
            y = relu(conv(inner, name=f"{name}.conv1")(x))
            y = relu(conv(inner, (3, 3), stride, (1, 1), name=f"{name}.conv2")(y))
            y = conv(4 * inner, name=f"{name}.conv3")(y)
            if i == 0:
                short = conv(4 * inner, stride=stride, name=f"{name}.downsample.0")
                x = short(x)
            x = relu(x + y)
        stages.append(x)
    return stages


def target_network(params: Params, x: Float[Array, "b 224 224 3"]) -> Target:
    """The target network of each crop; `x` from `resize.normalise`."""
    return layers.apply(Network(), params, x)


def score(params: Params, x: Float[Array, "b 224 224 3"]) -> Float[Array, " b"]:
    """One score per crop, higher is better.

    0 to 100 with the original's weights (KonIQ-10k), 0 to 1 with pyiqa's.
    """
    _, v, generated = target_network(params, x)
    for k, (weights, bias) in enumerate(generated):
        v = jnp.einsum("boi,bi->bo", weights, v, precision=HIGHEST) + bias
        if k < len(generated) - 1:
            v = jax.nn.sigmoid(v)
    return v[:, 0]


def crops(image: UInt8[np.ndarray, "h w 3"]) -> Float[Array, "25 224 224 3"]:
    """pyiqa's 25 crops on a regular grid, normalised for `score`; average the scores.

    An image with a side of 224 or less is first upscaled to a shorter side of 256 by
    torch's bicubic rule.
    """
    x = jnp.asarray(image, jnp.float32)[None]
    short = min(image.shape[:2])
    if short <= SIDE:
        height, width = (round(n * UPSCALED / short) for n in image.shape[:2])
        x = jnp.clip(resize(x, (height, width), "torch_bicubic"), 0, 255)
    down, across = ((n - SIDE) // GRID for n in x.shape[1:3])
    corners = [(i * down, j * across) for i in range(GRID) for j in range(GRID)]
    x = normalise(x)[0]
    return jnp.stack([x[i : i + SIDE, j : j + SIDE] for i, j in corners])


def metric(networks: Networks) -> FirstSample:
    """HyperIQA of sample 0."""
    network = networks.scorer(RELEASED, score)
    return FirstSample(
        "hyperiqa",
        brand("score of the weights", network.source),
        f"{network.source}, mean of 25 crops of 224 pixels on a grid, of sample 0; "
        "images with a side of 224 or less are upscaled to 256 first",
        lambda image: float(network.score(crops(image)).mean()),
    )
