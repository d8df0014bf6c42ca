"""Pix2Pix's networks: dropout layers, biases, official names, receptive fields."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from picjax.methods.pix2pix import net as pix2pix
from picjax.methods.pix2pix.official import table
from picjax.official.mapping import from_official, to_official

KEY = jax.random.key(0)
X = jax.random.uniform(KEY, (2, 32, 32, 3), minval=-1)


@pytest.mark.parametrize(
    ("levels", "official", "paper"),
    [
        (8, [6, 5, 4], [7, 6, 5]),
        (6, [4], [5, 4, 3]),
        (5, [], [4, 3, 2]),
        (3, [], [2, 1]),
    ],
)
def test_dropout_levels(levels: int, official: list[int], paper: list[int]) -> None:
    cases: Any = (("official", official), ("paper", paper), ("none", []))
    for dropout, expected in cases:
        net = pix2pix.UnetGenerator(levels=levels, dropout=dropout)
        assert net.dropout_levels() == expected
        assert len(net.keep_shapes(256, 256)) == len(expected)


def test_kept_units_are_doubled() -> None:
    """Masks of 1/2 undo the factor 2, which masks of 1 leave visible."""
    net: Any = pix2pix.UnetGenerator(width=4, levels=5, norm="none", dropout="paper")
    variables = net.init(KEY, X, (), False)
    keep = [jnp.ones((2, *shape)) for shape in net.keep_shapes(32, 32)]
    half = [k / 2 for k in keep]
    plain = net.apply(variables, X, (), False)
    assert (net.apply(variables, X, keep, False) != plain).any()
    np.testing.assert_allclose(net.apply(variables, X, half, False), plain, atol=1e-7)
    with pytest.raises(ValueError):
        net.apply(variables, X, keep[:1], False)


@pytest.mark.parametrize("padding", ["reflect", "replicate", "zero"])
@pytest.mark.parametrize("dropout", ["none", "official"])
def test_resnet_names_shift_with_padding_and_dropout(
    padding: Any, dropout: Any
) -> None:
    net: Any = pix2pix.ResnetGenerator(
        width=2, blocks=1, padding=padding, dropout=dropout, norm="batch"
    )
    shapes = jax.eval_shape(partial(net.init, train=False), KEY, X, ())
    count = iter(range(1000))
    variables = jax.tree.map(lambda s: np.full(s.shape, next(count), s.dtype), shapes)
    official = to_official(variables, table(net))
    second = {
        ("reflect", "none"): 5,
        ("reflect", "official"): 6,
        ("zero", "none"): 3,
        ("zero", "official"): 4,
    }.get((padding, dropout))
    if second:
        assert f"model.10.conv_block.{second}.weight" in official
    back = from_official(official, variables, table(net))
    jax.tree.map(np.testing.assert_array_equal, back, variables)


def test_paddings_differ_only_at_the_border() -> None:
    images = {}
    for padding in ("reflect", "replicate", "zero"):
        net: Any = pix2pix.ResnetGenerator(
            width=2, blocks=1, padding=padding, norm="none", gain=0.2
        )
        variables = net.init(KEY, X[:1], (), False)
        images[padding] = net.apply(variables, X[:1], (), False)
    for padding in ("replicate", "zero"):
        gap = np.abs(images[padding] - images["reflect"]).max((0, 3))
        assert gap[0].max() > 1e-3 and gap[12:17, 12:17].max() < 1e-6


@pytest.mark.parametrize("norm", ["batch", "instance", "none"])
def test_bias_is_added_where_no_norm_makes_it_redundant(norm: Any) -> None:
    def biased(net: Any) -> set[str]:
        init = partial(net.init, train=False)
        params = jax.eval_shape(init, KEY, X)["params"]
        return {name for name, p in params.items() if "bias" in p and "kernel" in p}

    shared: Any = {"width": 4, "norm": norm}
    official = biased(pix2pix.PixelDiscriminator(**shared))
    extended = biased(pix2pix.PixelDiscriminator(bias=True, **shared))
    every = {"conv0", "conv1", "conv2"}
    assert official == (every if norm == "instance" else {"conv0"})
    assert extended == (every - {"conv1"} if norm == "batch" else every)


@pytest.mark.parametrize("layers", [1, 2, 3])
def test_patches_are_as_wide_as_published(layers: int) -> None:
    """Measured by the gradient of the score in the middle."""
    net: Any = pix2pix.PatchDiscriminator(width=2, layers=layers, norm="none")
    x = jnp.zeros((1, 96, 96, 1))
    variables = jax.jit(partial(net.init, train=False))(KEY, x)
    scores = jax.eval_shape(partial(net.apply, train=False), variables, x)
    assert scores.shape[1] == net.map_side(96)
    middle = scores.shape[1] // 2

    def score(x: jax.Array) -> jax.Array:
        return net.apply(variables, x, False)[0, middle, middle, 0]

    gradient = jax.jit(jax.grad(score))(x)
    rows = np.flatnonzero(np.abs(gradient).sum((0, 2, 3)))
    assert np.ptp(rows) + 1 == {1: 16, 2: 34, 3: 70}[layers]
