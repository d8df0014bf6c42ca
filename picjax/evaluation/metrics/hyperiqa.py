"""HyperIQA: quality without a reference image (Su et al., 2020).

From the features of a ResNet-50, a hyper network generates the weights of a small
target network for every image.
"""

import itertools
from collections.abc import Iterator, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, UInt8

from picjax.evaluation.metrics.layers import (
    HIGHEST,
    Params,
    Shapes,
    Tensors,
    conv,
    fold,
    linear,
    max_pool,
    mean_pool,
    relu,
)
from picjax.evaluation.metrics.networks import Networks
from picjax.evaluation.metrics.resize import normalise, resize
from picjax.evaluation.metrics.results import (
    Columns,
    Example,
    MeanAccumulator,
    brand,
    first_only,
)
from picjax.evaluation.metrics.weights import PYIQA, Released

SIDE = 224  # pixels of a crop
UPSCALED = 256  # shorter side to which smaller images are upscaled
GRID = 5  # crops per side
DEPTHS = (3, 4, 6, 3)
TARGET = (224, 112, 56, 28, 14)
LOCAL = ((256, 16, 8), (512, 32, 4), (1024, 64, 2))  # channels, pooled ones, side


def _blocks() -> Iterator[tuple[str, int, int, int]]:
    """Name, channels in, inner channels, stride of every bottleneck."""
    inputs = 64
    for layer, depth in enumerate(DEPTHS, 1):
        inner = 32 * 2**layer
        for i in range(depth):
            stride = 2 if layer > 1 and i == 0 else 1
            yield f"res.layer{layer}.{i}", inputs, inner, stride
            inputs = 4 * inner


def shapes() -> Shapes:
    """Names and shapes of the original's state_dict."""
    table: dict[str, tuple[int, ...]] = {}

    def add(name: str, *shape: int, bias: bool = True) -> None:
        table[f"{name}.weight"] = shape
        if bias:
            table[f"{name}.bias"] = shape[:1]

    def add_norm(name: str, size: int) -> None:
        for kind in ("weight", "bias", "running_mean", "running_var"):
            table[f"{name}.{kind}"] = (size,)

    add("res.conv1", 64, 3, 7, 7, bias=False)
    add_norm("res.bn1", 64)
    for name, inputs, inner, _ in _blocks():
        sizes = ((inner, inputs, 1), (inner, inner, 3), (4 * inner, inner, 1))
        for i, (outputs, within, kernel) in enumerate(sizes, 1):
            add(f"{name}.conv{i}", outputs, within, kernel, kernel, bias=False)
            add_norm(f"{name}.bn{i}", outputs)
        if name.endswith(".0"):
            add(f"{name}.downsample.0", 4 * inner, inputs, 1, 1, bias=False)
            add_norm(f"{name}.downsample.1", 4 * inner)
    for i, (channels, kept, side) in enumerate(LOCAL, 1):
        add(f"res.lda{i}_pool.0", kept, channels, 1, 1, bias=False)
        add(f"res.lda{i}_fc", 16, kept * side * side)
    add("res.lda4_fc", 176, 2048)
    for i, (inputs, outputs) in enumerate(((2048, 1024), (1024, 512), (512, 112))):
        add(f"conv1.{2 * i}", outputs, inputs, 1, 1)
    for k, (inputs, outputs) in enumerate(itertools.pairwise(TARGET), 1):
        add(f"fc{k}w_conv", inputs * outputs // 49, 112, 3, 3)
        add(f"fc{k}b_fc", outputs, 112)
    add("fc5w_fc", TARGET[-1], 112)
    add("fc5b_fc", 1, 112)
    return table


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


def prepare(tensors: Tensors) -> Params:
    """Parameters from a state_dict with the original's or pyiqa's names."""
    named = original_names(tensors)
    used = {name: named[name] for name in shapes()}
    norms = {"res.conv1": "res.bn1"}
    for name, *_ in _blocks():
        norms |= {f"{name}.conv{i}": f"{name}.bn{i}" for i in (1, 2, 3)}
        if name.endswith(".0"):
            norms[f"{name}.downsample.0"] = f"{name}.downsample.1"
    return fold(used, norms)


def resnet(params: Params, x: Float[Array, "b 224 224 3"]) -> list[Array]:
    """Feature maps after ResNet-50's four layers; stride in the 3 x 3 convolution."""
    x = max_pool(relu(conv(x, params["res.conv1"], 2, (3, 3))), padding=1)
    stages = []
    for name, _, _, stride in _blocks():
        if name.endswith(".0") and name != "res.layer1.0":
            stages.append(x)
        y = relu(conv(x, params[f"{name}.conv1"]))
        y = relu(conv(y, params[f"{name}.conv2"], stride, (1, 1)))
        y = conv(y, params[f"{name}.conv3"])
        if name.endswith(".0"):
            x = conv(x, params[f"{name}.downsample.0"], stride)
        x = relu(x + y)
    return [*stages, x]


def target_network(
    params: Params, x: Float[Array, "b 224 224 3"]
) -> tuple[Float[Array, "b 224"], list[tuple[Array, Array]]]:
    """Input of the target network, and (weights, bias) of its five layers.

    Args:
      params: from `prepare`.
      x: crops normalised by `resize.normalise`.
    """
    *maps, last = resnet(params, x)
    parts = []
    for i, stage in enumerate(maps, 1):
        pooled = mean_pool(conv(stage, params[f"res.lda{i}_pool.0"]), 7, 7)
        flat = pooled.transpose(0, 3, 1, 2).reshape(len(x), -1)
        parts.append(linear(flat, params[f"res.lda{i}_fc"]))
    parts.append(linear(last.mean((1, 2)), params["res.lda4_fc"]))

    h = last
    for i in (0, 2, 4):
        h = relu(conv(h, params[f"conv1.{i}"]))
    g = h.mean((1, 2))
    layers = []
    for k, (inputs, outputs) in enumerate(itertools.pairwise(TARGET), 1):
        weights = conv(h, params[f"fc{k}w_conv"], 1, (1, 1)).transpose(0, 3, 1, 2)
        bias = linear(g, params[f"fc{k}b_fc"])
        layers.append((weights.reshape(-1, outputs, inputs), bias))
    last_weights = linear(g, params["fc5w_fc"])[:, None]
    layers.append((last_weights, linear(g, params["fc5b_fc"])))
    return jnp.concatenate(parts, -1), layers


def score(params: Params, x: Float[Array, "b 224 224 3"]) -> Float[Array, " b"]:
    """One score per crop, higher is better.

    0 to 100 with the original's weights (KonIQ-10k), 0 to 1 with pyiqa's.
    """
    v, layers = target_network(params, x)
    for k, (weights, bias) in enumerate(layers):
        v = jnp.einsum("boi,bi->bo", weights, v, precision=HIGHEST) + bias
        if k < len(layers) - 1:
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
    return _cut(normalise(x)[0], corners)


def _cut(
    x: Float[Array, "h w 3"], corners: Sequence[tuple[int, int]]
) -> Float[Array, "n 224 224 3"]:
    return jnp.stack([x[i : i + SIDE, j : j + SIDE] for i, j in corners])


class HyperIQA(MeanAccumulator):
    """HyperIQA of sample 0."""

    def __init__(self, networks: Networks):
        self.network = networks.scorer(RELEASED, prepare, score)
        super().__init__(
            "hyperiqa",
            brand("score of the weights", self.network.source),
            f"{self.network.source}, mean of 25 crops of 224 pixels on a grid, of sample 0; "
            "images with a side of 224 or less are upscaled to 256 first",
        )

    def add(self, example: Example) -> Columns:
        """A column, NaN but for sample 0."""
        value = float(self.network.score(crops(example.samples[0])).mean())
        self.count("whole", "first", value)
        return {self.column("whole"): first_only(value, len(example.samples))}
