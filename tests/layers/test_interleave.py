"""Several batches of the same examples as one."""

import jax.numpy as jnp
import numpy as np

from picjax.layers.interleave import interleave, separate


def test_rows_of_an_example_are_neighbours_and_come_apart_again():
    a, b = jnp.array([[1.0], [2.0]]), jnp.array([[10.0], [20.0]])
    both = interleave(a, b)
    np.testing.assert_array_equal(both[:, 0], [1, 10, 2, 20])
    np.testing.assert_array_equal(separate(both, 2), [a, b])
    tree = interleave({"x": a, "none": None}, {"x": b, "none": None})
    np.testing.assert_array_equal(tree["x"], both)
    assert tree["none"] is None
    for apart, x in zip(separate(tree, 2), (a, b), strict=True):
        np.testing.assert_array_equal(apart["x"], x)
        assert apart["none"] is None
