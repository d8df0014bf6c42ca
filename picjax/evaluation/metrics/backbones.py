"""torchvision's AlexNet, VGG16 and SqueezeNet 1.1, tapped after their ReLUs.

LPIPS compares their activations; NIMA scores VGG16's.
"""

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from picjax.evaluation.metrics import layers
from picjax.evaluation.metrics.layers import Conv, Params, Shapes, max_pool, relu
from picjax.evaluation.metrics.weights import TORCHVISION, Released

RELEASED = {
    "alex": Released(
        TORCHVISION,
        ("alexnet-owt-7be5be79.pth", "alexnet-owt-4df8aa71.pth"),
        lambda: shapes("alex"),
    ),
    "vgg": Released(TORCHVISION, ("vgg16-397923af.pth",), lambda: shapes("vgg")),
    "squeeze": Released(
        TORCHVISION,
        ("squeezenet1_1-b8a52dc0.pth", "squeezenet1_1-f364aa15.pth"),
        lambda: shapes("squeeze"),
    ),
}
SIDE = 64  # pixels: an input that every network takes
Taps = list[Float[Array, "b _ _ _"]]

# Indices in torchvision's `features` and output channels of each block.
VGG = (
    ((0, 2), 64),
    ((5, 7), 128),
    ((10, 12, 14), 256),
    ((17, 19, 21), 512),
    ((24, 26, 28), 512),
)
# Index, channels of the squeeze and of each half; a tap per group.
FIRES = (
    ((3, 16, 64), (4, 16, 64)),
    ((6, 32, 128), (7, 32, 128)),
    ((9, 48, 192),),
    ((10, 48, 192),),
    ((11, 64, 256),),
    ((12, 64, 256),),
)
# Index, output channels, kernel, stride, padding.
ALEX = ((0, 64, 11, 4, 2), (3, 192, 5, 1, 2), (6, 384, 3, 1, 1))
ALEX += ((8, 256, 3, 1, 1), (10, 256, 3, 1, 1))


class Backbone(nn.Module):
    """The used part of a network: alex, vgg or squeeze."""

    net: str

    @nn.compact
    def __call__(self, x: Float[Array, "b h w 3"]) -> Taps:
        """Activations at its taps."""
        return {"alex": _alex, "vgg": vgg, "squeeze": _squeeze}[self.net](x)


def shapes(net: str) -> Shapes:
    """Names and shapes of the used part of torchvision's state_dict."""
    return layers.shapes(Backbone(net), SIDE)


def activations(params: Params, x: Float[Array, "b h w 3"], net: str) -> Taps:
    """Activations at the taps of `net`: alex, vgg or squeeze."""
    return layers.apply(Backbone(net), params, x)


def _unit(
    x: Array, name: str, features: int, side: int, stride: int = 1, pad: int = 0
) -> Array:
    conv = Conv(features, (side, side), stride, (pad, pad), name=f"features.{name}")
    return relu(conv(x))


def _alex(x: Array) -> Taps:
    taps = []
    for i, features, side, stride, pad in ALEX:
        if i in (3, 6):
            x = max_pool(x)
        x = _unit(x, f"{i}", features, side, stride, pad)
        taps.append(x)
    return taps


def vgg(x: Float[Array, "b h w 3"]) -> Taps:
    """The last activation of each of VGG16's five blocks, before its pool.

    To be called within a module, which gets its parameters.
    """
    taps = []
    for block, features in VGG:
        if taps:
            x = max_pool(x, 2)
        for i in block:
            x = _unit(x, f"{i}", features, 3, pad=1)
        taps.append(x)
    return taps


def _squeeze(x: Array) -> Taps:
    x = _unit(x, "0", 64, 3, 2)
    taps = [x]
    for group in FIRES:
        if len(taps) <= 3:
            x = max_pool(x, ceil=True)
        for i, squeeze, expand in group:
            x = _unit(x, f"{i}.squeeze", squeeze, 1)
            one = _unit(x, f"{i}.expand1x1", expand, 1)
            three = _unit(x, f"{i}.expand3x3", expand, 3, pad=1)
            x = jnp.concatenate([one, three], -1)
        taps.append(x)
    return taps
