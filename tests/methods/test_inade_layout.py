"""Label and instance maps as the networks read them."""

import jax.numpy as jnp
import numpy as np

from picjax.methods.inade.layout import (
    Layout,
    edge_map,
    resize_nearest,
    semantics,
)


def test_both_sides_of_a_boundary_are_edges_and_the_border_is_not():
    instance = jnp.array([[[0, 0, 1, 1]] * 3])
    expected = np.array([[[0, 1, 1, 0]] * 3], np.float32)[..., None]
    np.testing.assert_array_equal(edge_map(instance), expected)
    np.testing.assert_array_equal(
        edge_map(instance.swapaxes(1, 2))[0, :, 0, 0], [0, 1, 1, 0]
    )


def test_nearest_resize_reads_the_floor_of_the_position():
    x = jnp.arange(5, dtype=jnp.int32).reshape(1, 5, 1)
    np.testing.assert_array_equal(resize_nearest(x, (3, 1))[0, :, 0], [0, 1, 3])
    np.testing.assert_array_equal(
        resize_nearest(x, (10, 1))[0, :, 0], np.arange(10) // 2
    )


def test_resizing_a_layout_leaves_out_what_is_absent():
    layout = Layout(jnp.zeros((2, 8, 8), jnp.int32)).resize((4, 2))
    assert layout.label.shape == (2, 4, 2)
    assert layout.instance is None and layout.edges is None


def test_edges_are_the_last_channel_of_the_semantics():
    label = jnp.array([[[0, 2]]])
    edges = jnp.array([[[[1.0], [0.0]]]])
    with_edges = semantics(Layout(label, edges=edges), 3)
    np.testing.assert_array_equal(with_edges[0, 0], [[1, 0, 0, 1], [0, 0, 1, 0]])
    assert semantics(Layout(label), 3).shape[-1] == 3
