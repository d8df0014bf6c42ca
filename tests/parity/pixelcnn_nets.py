"""PixelCNN++'s networks as reference files describe them, with given dropout.

Many files hold float64 results; those parts run in float64, with weights and images as
exact as the file's.
"""

import contextlib
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from fixture import Fixture, below, nhwc

from picjax.methods.pixelcnn import official
from picjax.methods.pixelcnn.net import PixelCNN
from picjax.official import mapping

KEY = jax.random.key(0)
Arrays = Mapping[str, Any]


def float_image(x: Any, dtype: Any = jnp.float32) -> jax.Array:
    return jnp.asarray((np.asarray(x, np.float64) - 127.5) / 127.5, dtype)


def quick(function: Callable[..., Any]) -> Callable[..., Any]:
    """Compiled with little effort, whatever the suite's settings."""
    return jax.jit(function, compiler_options={"xla_backend_optimization_level": 0})


def option(fixture: Fixture, name: str, default: Any = None) -> Any:
    """A setting of the file, from its meta or its hyper-parameters."""
    return fixture.meta.get(name, fixture.hyper.get(name, default))


def network(fixture: Fixture, **options: Any) -> Any:
    """The network that the file's meta describes."""
    return PixelCNN(
        name="net",
        features=option(fixture, "nr_filters"),
        blocks=option(fixture, "nr_resnet"),
        mixtures=option(fixture, "nr_logistic_mix"),
        channels=option(fixture, "input_channels", 3),
        nonlinearity=option(fixture, "nonlinearity", "concat_elu"),
        dropout=float(option(fixture, "dropout_p", 0) or 0),
        **options,
    )


def condition_of(fixture: Fixture, dtype: Any = jnp.float32) -> jax.Array | None:
    """The class vectors, if the network is conditional."""
    h = fixture.inputs.get("h")
    return None if h is None else jnp.asarray(h, dtype)


def from_theirs(net: PixelCNN, tensors: Arrays, x: Any, condition: Any = None) -> Any:
    """Official tensors as the network's parameters."""
    init = partial(net.init, train=False)
    variables = {"params": jax.eval_shape(init, KEY, x, condition=condition)["params"]}
    table = official.table(net.blocks)
    return mapping.from_official(official.dotted(tensors), variables, table)["params"]


def to_theirs(net: PixelCNN, params: Any) -> dict[str, np.ndarray]:
    """The network's parameters by official names."""
    return mapping.to_official({"params": params}, official.table(net.blocks))


def place(paths: Mapping[str, Any]) -> dict[str, Any]:
    """A tree from "a/b/c" -> leaf."""
    tree: dict[str, Any] = {}
    for path, leaf in paths.items():
        *parents, last = path.split("/")
        branch = tree
        for part in parents:
            branch = branch.setdefault(part, {})
        branch[last] = leaf
    return tree


# ---- dropout ----


def masks_by_block(masks: Arrays, net: PixelCNN) -> dict[str, Any]:
    """Dropout masks, stored in the official order of the blocks, by our names."""
    blocks = dict.fromkeys(
        site.path.split("/")[0]
        for site in official.table(net.blocks)
        if "params/hw" in site.leaves
    )
    ordered = [masks[name] for name in sorted(masks)]
    return dict(zip(blocks, ordered, strict=True)) if ordered else {}


def dropout_masks(fixture: Fixture, net: PixelCNN, step: str = "") -> dict[str, Any]:
    """The file's dropout masks (of a step such as "step1/") by our names."""
    return masks_by_block(below(fixture.inputs, f"dropout_keep/{step}"), net)


@contextlib.contextmanager
def given_dropout(keep: Arrays, rate: float) -> Iterator[None]:
    """Dropout with masks by the first part of the module's path; all must be used."""
    used = set()

    def use(call: Any, args: Any, kwargs: Any, context: Any) -> Any:
        path = context.module.path[:1]
        if not isinstance(context.module, nn.Dropout) or path[0] not in keep:
            return call(*args, **kwargs)
        used.update(path)
        mask, x = jnp.asarray(keep[path[0]], args[0].dtype), args[0]
        # The port drops whole channels, [b c 1 1].
        mask = nhwc(mask) if mask.shape[2:] == (1, 1) else mask
        return jnp.broadcast_to(mask, x.shape) * x / (1 - rate)

    with nn.intercept_methods(use):
        yield
    assert used == keep.keys()


# ---- comparisons ----


def assert_within(name: str, actual: Any, expected: Any, atol: float) -> None:
    actual, expected = np.asarray(actual, np.float64), np.asarray(expected, np.float64)
    assert actual.shape == expected.shape, (name, actual.shape, expected.shape)
    error = np.abs(actual - expected).max(initial=0)
    assert error <= atol, f"{name}: off by {error:.3g}, {atol:.3g} is allowed"


def assert_relative(name: str, actual: Any, expected: Any, rtol: float) -> None:
    """To `rtol` of the largest expected element."""
    assert_within(name, actual, expected, rtol * float(np.abs(expected).max()))
