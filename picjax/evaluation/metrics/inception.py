"""InceptionV3 as FID, KID and the Inception Score use it (Szegedy et al., 2016).

Two variants with the same parameter names: `fid` (TensorFlow's weights of 2015, 1,008
classes, mean pools that do not count padding, a max pool in the last block) and
`torchvision` (1,000 classes).
"""

from collections.abc import Sequence
from functools import partial

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from picjax.evaluation.metrics import layers
from picjax.evaluation.metrics.layers import (
    HIGHEST,
    Conv,
    Params,
    Shapes,
    Tensors,
    max_pool,
    relu,
)
from picjax.evaluation.metrics.weights import TORCHVISION, Released

CLASSES = {"fid": 1008, "torchvision": 1000}
RELEASED = {
    "fid": Released(
        "https://github.com/mseitzer/pytorch-fid/releases/download/fid_weights/",
        (
            "pt_inception-2015-12-05-6726825d.pth",
            "weights-inception-2015-12-05-6726825d.pth",
        ),
        lambda: shapes("fid"),
    ),
    "torchvision": Released(
        TORCHVISION,
        ("inception_v3_google-0cc3c7bd.pth", "inception_v3_google-1a9a5a14.pth"),
        lambda: shapes("torchvision"),
    ),
}
HEADS = ("2048", "logits_unbiased", "logits")
TAPS = ("64", "192", "768", *HEADS)
EPS = 1e-3  # of the batch norms
SMALLEST = 75  # pixels per side

Link = tuple[int, tuple[int, int]]  # output channels and kernel of a convolution


def shapes(variant: str = "fid") -> Shapes:
    """Names and shapes of the released state_dict."""
    return layers.shapes(Network(variant), SMALLEST)


def prepare(tensors: Tensors) -> Params:
    """Parameters from the released state_dict; unused names are ignored."""
    return layers.fold(tensors, EPS)


def maps(
    params: Params, x: Float[Array, "b h w 3"], variant: str = "fid"
) -> dict[str, Float[Array, "b y x c"]]:
    """The feature map of every stage: taps 64, 192, 768 and Mixed_5b to Mixed_7c.

    Args:
      params: from `prepare`.
      x: output of `resize.for_inception`; sides of 75 or more.
      variant: a key of CLASSES.
    """
    stages = layers.apply(Network(variant), params, x)
    return {name: stages[name] for name in stages if name not in HEADS}


def features(
    params: Params,
    x: Float[Array, "b h w 3"],
    taps: Sequence[str] = ("2048",),
    variant: str = "fid",
) -> dict[str, Float[Array, "b c"]]:
    """Spatial means of the requested TAPS; logits without and with bias."""

    def network(x: Array) -> dict[str, Array]:
        out = layers.apply(Network(variant), params, x)
        return {t: out[t] if t in HEADS else out[t].mean((1, 2)) for t in taps}

    return layers.by_image(network, x)


class Network(nn.Module):
    """The network; `variant` is a key of CLASSES."""

    variant: str

    @nn.compact
    def __call__(self, x: Float[Array, "b h w 3"]) -> dict[str, Array]:
        """The maps of `maps`, and HEADS [b c]."""
        counted = self.variant == "torchvision"
        mean = partial(layers.smooth, count_padding=counted)
        out: dict[str, Array] = {}
        x = unit(x, "Conv2d_1a_3x3", 32, (3, 3), 2, pad=False)
        x = unit(x, "Conv2d_2a_3x3", 32, (3, 3), pad=False)
        x = unit(x, "Conv2d_2b_3x3", 64, (3, 3))
        out["64"] = x = max_pool(x)
        x = unit(x, "Conv2d_3b_1x1", 80)
        x = unit(x, "Conv2d_4a_3x3", 192, (3, 3), pad=False)
        out["192"] = x = max_pool(x)
        for name, pool in (("Mixed_5b", 32), ("Mixed_5c", 64), ("Mixed_5d", 64)):
            out[name] = x = block_a(x, name, pool, mean)
        out["Mixed_6a"] = x = block_b(x, "Mixed_6a")
        for end, width in zip("bcde", (128, 160, 160, 192), strict=True):
            name = f"Mixed_6{end}"
            out[name] = x = block_c(x, name, width, mean)
        out["768"] = x
        out["Mixed_7a"] = x = block_d(x, "Mixed_7a")
        out["Mixed_7b"] = x = block_e(x, "Mixed_7b", mean)
        out["Mixed_7c"] = x = block_e(x, "Mixed_7c", mean if counted else None)
        out["2048"] = x = x.mean((1, 2))
        head = nn.Dense(CLASSES[self.variant], precision=HIGHEST, name="fc")
        out["logits"] = head(x)
        kernel = head.variables["params"]["kernel"]
        out["logits_unbiased"] = jnp.dot(x, kernel, precision=HIGHEST)
        return out


# ---- blocks, to be called within a module, which gets their parameters ----


def unit(
    x: Array,
    name: str,
    features: int,
    kernel: tuple[int, int] = (1, 1),
    stride: int = 1,
    *,
    pad: bool = True,
    pool: layers.Pool | None = None,
) -> Array:
    """A convolution, its batch norm and ReLU; `pad` to keep the size at stride 1.

    A mean pool before it is given as `pool`: it commutes with a 1 x 1 convolution, which
    has fewer output channels.
    """
    padding = (kernel[0] // 2, kernel[1] // 2) if pad else (0, 0)
    conv = Conv(features, kernel, stride, padding, "norm", name=f"{name}.conv")
    return relu(conv(x, pool))


def chain(x: Array, name: str, *links: Link) -> Array:
    """Convolutions that follow each other: `name_1`, `name_2` and so on."""
    for i, (features, kernel) in enumerate(links, 1):
        x = unit(x, f"{name}_{i}", features, kernel)
    return x


def block_a(x: Array, name: str, pool: int, mean: layers.Pool) -> Array:
    """Branches of 1 x 1, 5 x 5 and twice 3 x 3; `pool`: channels of the pooled one."""
    one = unit(x, f"{name}.branch1x1", 64)
    five = chain(x, f"{name}.branch5x5", (48, (1, 1)), (64, (5, 5)))
    links = (64, (1, 1)), (96, (3, 3)), (96, (3, 3))
    double = chain(x, f"{name}.branch3x3dbl", *links)
    pooled = unit(x, f"{name}.branch_pool", pool, pool=mean)
    return jnp.concatenate([one, five, double, pooled], -1)


def block_b(x: Array, name: str) -> Array:
    """Half the size: 3 x 3, twice 3 x 3, and a max pool."""
    three = unit(x, f"{name}.branch3x3", 384, (3, 3), 2, pad=False)
    double = chain(x, f"{name}.branch3x3dbl", (64, (1, 1)), (96, (3, 3)))
    double = unit(double, f"{name}.branch3x3dbl_3", 96, (3, 3), 2, pad=False)
    return jnp.concatenate([three, double, max_pool(x)], -1)


def block_c(x: Array, name: str, width: int, mean: layers.Pool) -> Array:
    """Branches of 1 x 1, 7 x 7 and twice 7 x 7, each 7 x 7 as a row and a column."""
    row, column = (1, 7), (7, 1)
    one = unit(x, f"{name}.branch1x1", 192)
    links = (width, (1, 1)), (width, row), (192, column)
    seven = chain(x, f"{name}.branch7x7", *links)
    links = (width, (1, 1)), (width, column), (width, row), (width, column), (192, row)
    double = chain(x, f"{name}.branch7x7dbl", *links)
    pooled = unit(x, f"{name}.branch_pool", 192, pool=mean)
    return jnp.concatenate([one, seven, double, pooled], -1)


def block_d(x: Array, name: str) -> Array:
    """Half the size: 3 x 3, 7 x 7 then 3 x 3, and a max pool."""
    three = unit(x, f"{name}.branch3x3_1", 192)
    three = unit(three, f"{name}.branch3x3_2", 320, (3, 3), 2, pad=False)
    links = (192, (1, 1)), (192, (1, 7)), (192, (7, 1))
    seven = chain(x, f"{name}.branch7x7x3", *links)
    seven = unit(seven, f"{name}.branch7x7x3_4", 192, (3, 3), 2, pad=False)
    return jnp.concatenate([three, seven, max_pool(x)], -1)


def block_e(x: Array, name: str, mean: layers.Pool | None) -> Array:
    """Branches that end in a row and a column; without `mean`, a max pool."""
    three = unit(x, f"{name}.branch3x3_1", 384)
    double = chain(x, f"{name}.branch3x3dbl", (448, (1, 1)), (384, (3, 3)))
    branches = [unit(x, f"{name}.branch1x1", 320)]
    for y, branch in ((three, "branch3x3_2"), (double, "branch3x3dbl_3")):
        branches.append(unit(y, f"{name}.{branch}a", 384, (1, 3)))
        branches.append(unit(y, f"{name}.{branch}b", 384, (3, 1)))
    x = x if mean else max_pool(x, 3, 1, 1)
    branches.append(unit(x, f"{name}.branch_pool", 192, pool=mean))
    return jnp.concatenate(branches, -1)
