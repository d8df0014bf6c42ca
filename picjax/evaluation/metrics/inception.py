"""InceptionV3 as FID, KID and the Inception Score use it (Szegedy et al., 2016).

Two variants with the same parameter names: `fid` (TensorFlow's weights of 2015, 1,008
classes, mean pools that do not count padding, a max pool in the last block) and
`torchvision` (1,000 classes).
"""

from collections.abc import Iterator, Sequence

import jax.numpy as jnp
from jaxtyping import Array, Float

from picjax.evaluation.metrics import layers
from picjax.evaluation.metrics.layers import (
    Params,
    Shapes,
    Tensors,
    conv,
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

Layer = tuple[str, int, int, tuple[int, int]]  # name, in, out, kernel


def convolutions() -> Iterator[Layer]:
    """Every convolution of the network."""
    stem = ((3, 32, "1a_3x3"), (32, 32, "2a_3x3"), (32, 64, "2b_3x3"))
    for inputs, outputs, name in (*stem, (64, 80, "3b_1x1"), (80, 192, "4a_3x3")):
        side = int(name[-1])
        yield f"Conv2d_{name}", inputs, outputs, (side, side)
    for name, inputs, pool in (("5b", 192, 32), ("5c", 256, 64), ("5d", 288, 64)):
        yield from _block_a(f"Mixed_{name}", inputs, pool)
    yield from _chain("Mixed_6a.branch3x3", 288, [("", 384, (3, 3))])
    yield from _chain("Mixed_6a.branch3x3dbl", 288, _double(64, 96, 96))
    for name, width in zip("bcde", (128, 160, 160, 192), strict=True):
        yield from _block_c(f"Mixed_6{name}", width)
    three = [("_1", 192, (1, 1)), ("_2", 320, (3, 3))]
    yield from _chain("Mixed_7a.branch3x3", 768, three)
    seven = [("_1", 192, (1, 1)), ("_2", 192, (1, 7)), ("_3", 192, (7, 1))]
    yield from _chain("Mixed_7a.branch7x7x3", 768, [*seven, ("_4", 192, (3, 3))])
    for name, inputs in (("7b", 1280), ("7c", 2048)):
        yield from _block_e(f"Mixed_{name}", inputs)


def _chain(
    branch: str, inputs: int, links: Sequence[tuple[str, int, tuple[int, int]]]
) -> Iterator[Layer]:
    """Convolutions that follow each other."""
    for end, outputs, kernel in links:
        yield branch + end, inputs, outputs, kernel
        inputs = outputs


def _double(first: int, second: int, third: int):
    return [("_1", first, (1, 1)), ("_2", second, (3, 3)), ("_3", third, (3, 3))]


def _block_a(name: str, inputs: int, pool: int) -> Iterator[Layer]:
    yield f"{name}.branch1x1", inputs, 64, (1, 1)
    five = [("_1", 48, (1, 1)), ("_2", 64, (5, 5))]
    yield from _chain(f"{name}.branch5x5", inputs, five)
    yield from _chain(f"{name}.branch3x3dbl", inputs, _double(64, 96, 96))
    yield f"{name}.branch_pool", inputs, pool, (1, 1)


def _block_c(name: str, width: int) -> Iterator[Layer]:
    yield f"{name}.branch1x1", 768, 192, (1, 1)
    seven = [("_1", width, (1, 1)), ("_2", width, (1, 7)), ("_3", 192, (7, 1))]
    yield from _chain(f"{name}.branch7x7", 768, seven)
    double = [(f"_{i}", width, (7, 1) if i % 2 == 0 else (1, 7)) for i in (2, 3, 4)]
    double = [("_1", width, (1, 1)), *double, ("_5", 192, (1, 7))]
    yield from _chain(f"{name}.branch7x7dbl", 768, double)
    yield f"{name}.branch_pool", 768, 192, (1, 1)


def _block_e(name: str, inputs: int) -> Iterator[Layer]:
    yield f"{name}.branch1x1", inputs, 320, (1, 1)
    yield f"{name}.branch3x3_1", inputs, 384, (1, 1)
    yield f"{name}.branch3x3dbl_1", inputs, 448, (1, 1)
    yield f"{name}.branch3x3dbl_2", 448, 384, (3, 3)
    for branch in ("branch3x3_2", "branch3x3dbl_3"):
        yield f"{name}.{branch}a", 384, 384, (1, 3)
        yield f"{name}.{branch}b", 384, 384, (3, 1)
    yield f"{name}.branch_pool", inputs, 192, (1, 1)


def shapes(variant: str = "fid") -> Shapes:
    """Names and shapes of the released state_dict."""
    table: dict[str, tuple[int, ...]] = {}
    for name, inputs, outputs, kernel in convolutions():
        table[f"{name}.conv.weight"] = outputs, inputs, *kernel
        for kind in ("weight", "bias", "running_mean", "running_var"):
            table[f"{name}.bn.{kind}"] = (outputs,)
    classes = CLASSES[variant]
    return table | {"fc.weight": (classes, 2048), "fc.bias": (classes,)}


def prepare(tensors: Tensors) -> Params:
    """Parameters from the released state_dict; unused names are ignored."""
    names = {name: f"{name}.conv" for name, *_ in convolutions()}
    folded = layers.fold(
        {key: x for key, x in tensors.items() if not key.startswith("AuxLogits.")},
        {conv_name: f"{name}.bn" for name, conv_name in names.items()},
        EPS,
    )
    params = {name: folded[conv_name] for name, conv_name in names.items()}
    return params | {"fc": folded["fc"]}


def maps(
    params: Params, x: Float[Array, "b h w 3"], variant: str = "fid"
) -> dict[str, Float[Array, "b y x c"]]:
    """The feature map of every stage: taps 64, 192, 768 and Mixed_5b to Mixed_7c.

    Args:
      params: from `prepare`.
      x: output of `resize.for_inception`; sides of 75 or more.
      variant: a key of CLASSES.
    """
    counted = variant == "torchvision"

    def unit(x, name, stride=1, pad=True):
        kernel = params[name].kernel
        around = [(n - 1) // 2 for n in kernel.shape[:2]] if pad else [0, 0]
        return relu(conv(x, params[name], stride, (around[0], around[1])))

    def pooled(x, name):
        # The mean commutes with a 1 x 1 convolution, which has fewer output channels.
        kernel, bias = params[name]
        y = conv(x, layers.Weights(kernel, jnp.zeros_like(bias)))
        return relu(layers.smooth(y, counted) + bias.reshape(1, 1, 1, -1))

    def block_a(x, name):
        five = unit(unit(x, f"{name}.branch5x5_1"), f"{name}.branch5x5_2")
        double = unit(x, f"{name}.branch3x3dbl_1")
        double = unit(unit(double, f"{name}.branch3x3dbl_2"), f"{name}.branch3x3dbl_3")
        one, pool = unit(x, f"{name}.branch1x1"), pooled(x, f"{name}.branch_pool")
        return jnp.concatenate([one, five, double, pool], -1)

    def block_b(x, name):
        three = unit(x, f"{name}.branch3x3", 2, False)
        double = unit(unit(x, f"{name}.branch3x3dbl_1"), f"{name}.branch3x3dbl_2")
        double = unit(double, f"{name}.branch3x3dbl_3", 2, False)
        return jnp.concatenate([three, double, max_pool(x)], -1)

    def block_c(x, name):
        branches = [unit(x, f"{name}.branch1x1")]
        for branch, length in (("branch7x7", 3), ("branch7x7dbl", 5)):
            y = x
            for i in range(1, length + 1):
                y = unit(y, f"{name}.{branch}_{i}")
            branches.append(y)
        return jnp.concatenate([*branches, pooled(x, f"{name}.branch_pool")], -1)

    def block_d(x, name):
        three = unit(x, f"{name}.branch3x3_1")
        three = unit(three, f"{name}.branch3x3_2", 2, False)
        seven = x
        for i in (1, 2, 3):
            seven = unit(seven, f"{name}.branch7x7x3_{i}")
        seven = unit(seven, f"{name}.branch7x7x3_4", 2, False)
        return jnp.concatenate([three, seven, max_pool(x)], -1)

    def block_e(x, name, largest):
        three = unit(x, f"{name}.branch3x3_1")
        double = unit(unit(x, f"{name}.branch3x3dbl_1"), f"{name}.branch3x3dbl_2")
        branches = [unit(x, f"{name}.branch1x1")]
        branches += [unit(three, f"{name}.branch3x3_2{end}") for end in "ab"]
        branches += [unit(double, f"{name}.branch3x3dbl_3{end}") for end in "ab"]
        pool = f"{name}.branch_pool"
        last = unit(max_pool(x, 3, 1, 1), pool) if largest else pooled(x, pool)
        return jnp.concatenate([*branches, last], -1)

    stages: dict[str, Array] = {}
    x = unit(x, "Conv2d_1a_3x3", 2, False)
    x = unit(unit(x, "Conv2d_2a_3x3", pad=False), "Conv2d_2b_3x3")
    stages["64"] = x = max_pool(x)
    x = unit(unit(x, "Conv2d_3b_1x1"), "Conv2d_4a_3x3", pad=False)
    stages["192"] = x = max_pool(x)
    for name in ("Mixed_5b", "Mixed_5c", "Mixed_5d"):
        stages[name] = x = block_a(x, name)
    stages["Mixed_6a"] = x = block_b(x, "Mixed_6a")
    for name in ("Mixed_6b", "Mixed_6c", "Mixed_6d", "Mixed_6e"):
        stages[name] = x = block_c(x, name)
    stages["768"] = x
    stages["Mixed_7a"] = x = block_d(x, "Mixed_7a")
    stages["Mixed_7b"] = x = block_e(x, "Mixed_7b", largest=False)
    stages["Mixed_7c"] = block_e(x, "Mixed_7c", largest=not counted)
    return stages


def features(
    params: Params,
    x: Float[Array, "b h w 3"],
    taps: Sequence[str] = ("2048",),
    variant: str = "fid",
) -> dict[str, Float[Array, "b c"]]:
    """Spatial means of the requested TAPS; logits without and with bias."""
    kernel, bias = params["fc"]

    def network(x: Array) -> dict[str, Array]:
        stages = maps(params, x, variant)
        out = {name: stages[name].mean((1, 2)) for name in ("64", "192", "768")}
        out["2048"] = pool = stages["Mixed_7c"].mean((1, 2))
        out["logits_unbiased"] = jnp.dot(pool, kernel, precision=layers.HIGHEST)
        out["logits"] = out["logits_unbiased"] + bias.reshape(1, -1)
        return {name: out[name] for name in taps}

    return layers.by_image(network, x)
