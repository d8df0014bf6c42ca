"""torchvision's AlexNet, VGG16 and SqueezeNet 1.1, tapped after their ReLUs.

LPIPS compares their activations; NIMA scores VGG16's.
"""

from collections.abc import Iterator

import jax.numpy as jnp
from jaxtyping import Array, Float

from picjax.evaluation.metrics.layers import Params, Shapes, conv, max_pool, relu
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
Taps = list[Float[Array, "b _ _ _"]]

# Index in torchvision's `features`, input and output channels.
VGG = (
    ((0, 3, 64), (2, 64, 64)),
    ((5, 64, 128), (7, 128, 128)),
    ((10, 128, 256), (12, 256, 256), (14, 256, 256)),
    ((17, 256, 512), (19, 512, 512), (21, 512, 512)),
    ((24, 512, 512), (26, 512, 512), (28, 512, 512)),
)
# Index, input channels, channels of the squeeze and of each half; a tap per group.
FIRES = (
    ((3, 64, 16, 64), (4, 128, 16, 64)),
    ((6, 128, 32, 128), (7, 256, 32, 128)),
    ((9, 256, 48, 192),),
    ((10, 384, 48, 192),),
    ((11, 384, 64, 256),),
    ((12, 512, 64, 256),),
)
# Index, input and output channels, kernel, stride, padding.
ALEX = (
    (0, 3, 64, 11, 4, 2),
    (3, 64, 192, 5, 1, 2),
    (6, 192, 384, 3, 1, 1),
    (8, 384, 256, 3, 1, 1),
    (10, 256, 256, 3, 1, 1),
)


def shapes(net: str) -> Shapes:
    """Names and shapes of the used part of torchvision's state_dict."""
    table: dict[str, tuple[int, ...]] = {}
    for name, inputs, outputs, kernel in _convolutions(net):
        table[f"features.{name}.weight"] = outputs, inputs, kernel, kernel
        table[f"features.{name}.bias"] = (outputs,)
    return table


def _convolutions(net: str) -> Iterator[tuple[str, int, int, int]]:
    """Name, input and output channels, kernel size."""
    if net == "alex":
        yield from ((str(i), a, b, kernel) for i, a, b, kernel, *_ in ALEX)
    elif net == "vgg":
        yield from ((str(i), a, b, 3) for block in VGG for i, a, b in block)
    else:
        yield "0", 3, 64, 3
        for i, inputs, squeeze, expand in (fire for group in FIRES for fire in group):
            yield f"{i}.squeeze", inputs, squeeze, 1
            yield f"{i}.expand1x1", squeeze, expand, 1
            yield f"{i}.expand3x3", squeeze, expand, 3


def activations(params: Params, x: Float[Array, "b h w 3"], net: str) -> Taps:
    """Activations at the taps of `net`: alex, vgg or squeeze."""
    return {"alex": _alex, "vgg": vgg, "squeeze": _squeeze}[net](params, x)


def _alex(params: Params, x: Array) -> Taps:
    taps = []
    for i, _, _, _, stride, padding in ALEX:
        if i in (3, 6):
            x = max_pool(x)
        x = relu(conv(x, params[f"features.{i}"], stride, (padding, padding)))
        taps.append(x)
    return taps


def vgg(params: Params, x: Float[Array, "b h w 3"]) -> Taps:
    """The last activation of each of VGG16's five blocks, before its pool."""
    taps = []
    for block in VGG:
        if taps:
            x = max_pool(x, 2)
        for i, *_ in block:
            x = relu(conv(x, params[f"features.{i}"], 1, (1, 1)))
        taps.append(x)
    return taps


def _squeeze(params: Params, x: Array) -> Taps:
    x = relu(conv(x, params["features.0"], 2))
    taps = [x]
    for group in FIRES:
        if len(taps) <= 3:
            x = max_pool(x, ceil=True)
        for i, *_ in group:
            name = f"features.{i}"
            x = relu(conv(x, params[f"{name}.squeeze"]))
            one = relu(conv(x, params[f"{name}.expand1x1"]))
            three = relu(conv(x, params[f"{name}.expand3x3"], 1, (1, 1)))
            x = jnp.concatenate([one, three], -1)
        taps.append(x)
    return taps
