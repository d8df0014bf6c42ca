"""The layers of the painter's networks."""

import jax
import jax.numpy as jnp
import numpy as np

from picjax.methods.painter.layers import qkv_attention


def test_orders_of_heads_are_a_permutation() -> None:
    qkv = jax.random.normal(jax.random.key(0), (2, 5, 3 * 8))
    legacy = qkv_attention(qkv, 2, "legacy")
    permuted = qkv.reshape(2, 5, 2, 3, 4).swapaxes(2, 3).reshape(qkv.shape)
    np.testing.assert_allclose(qkv_attention(permuted, 2, "new"), legacy, rtol=1e-6)
    assert jnp.abs(qkv_attention(qkv, 2, "new") - legacy).max() > 0.1
