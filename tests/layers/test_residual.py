"""Residual blocks: sizes, and the order of pixel shuffle."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from picjax.layers.residual import (
    DecoderBlock,
    FirstBlock,
    Output,
    ResBlock,
    pixel_shuffle,
)

KEY = jax.random.key(0)


def test_pixel_shuffle_fills_rows_then_columns() -> None:
    x = jnp.arange(8.0).reshape(1, 1, 1, 8)
    expected = [[[0, 4], [1, 5]], [[2, 6], [3, 7]]]
    np.testing.assert_array_equal(pixel_shuffle(x)[0], expected)


@pytest.mark.parametrize(
    ("block", "shape"),
    [
        (ResBlock(5, 4), (2, 8, 6, 5)),
        (ResBlock(5, 4, "down"), (2, 4, 3, 5)),
        (ResBlock(5, 4, "up", norm="instance"), (2, 16, 12, 5)),
        (FirstBlock(5), (2, 4, 3, 5)),
        (DecoderBlock(5, 4), (2, 16, 12, 5)),
        (Output(), (2, 8, 6, 3)),
    ],
)
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_sizes_and_types(block: ResBlock, shape: tuple[int, ...], dtype: type) -> None:
    x = jax.random.normal(KEY, (2, 8, 6, 3))
    block = block.clone(dtype=dtype)
    y, variables = jax.eval_shape(lambda: block.init_with_output(KEY, x))
    assert y.shape == shape
    assert y.dtype == (jnp.float32 if isinstance(block, Output) else dtype)
    kinds = {leaf.dtype for leaf in jax.tree.leaves(variables)}
    assert kinds == {jnp.dtype(jnp.float32)}
