"""Attention: blocks of rows, the initial identity, orders of heads."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from picjax.layers.attention import AutoAttention, attend, attention_map

KEY = jax.random.key(0)


def test_rows_of_the_map_sum_to_one() -> None:
    query = jax.random.normal(KEY, (2, 12, 3))
    weights = attention_map(query, query)
    np.testing.assert_allclose(weights.sum(-1), 1, rtol=1e-6)
    assert weights.shape == (2, 12, 12)


def test_blocks_give_the_same_values_and_gradients() -> None:
    query = jax.random.normal(KEY, (2, 12, 3))
    values = jax.random.normal(jax.random.key(1), (2, 12, 5))

    def total(query: jax.Array, values: jax.Array, rows: int) -> jax.Array:
        return (attend(query, values, rows) ** 2).sum()

    both = jax.jit(jax.value_and_grad(total, (0, 1)), static_argnums=2)
    whole, blocks = (both(query, values, rows) for rows in (12, 5))
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4), whole, blocks
    )


def test_blocks_never_hold_the_whole_map() -> None:
    query, values = jnp.zeros((2, 4096, 8)), jnp.zeros((2, 4096, 16))
    both = jax.jit(jax.grad(lambda q, v: attend(q, v, 64).sum(), (0, 1)))
    memory: Any = both.lower(query, values).compile().memory_analysis()
    assert memory.temp_size_in_bytes < 4096 * 4096 * 4


def test_starts_as_the_identity() -> None:
    x = jax.random.normal(KEY, (2, 4, 3, 8))
    module: Any = AutoAttention()
    y, variables = jax.jit(module.init_with_output)(KEY, x)
    np.testing.assert_array_equal(y, x)
    # The merging block exists without encoder features, too, as in the original.
    assert variables["params"]["model"]["conv1"]["kernel"].shape == (3, 3, 16, 8)


def test_the_hole_sees_the_encoder_only_through_attention() -> None:
    x = jax.random.normal(KEY, (1, 6, 6, 8))
    encoded = jax.random.normal(jax.random.key(1), (1, 6, 6, 4))
    hole = jnp.zeros((1, 6, 6, 1))
    module: Any = AutoAttention()
    init = jax.jit(module.init, static_argnums=2)
    apply = jax.jit(module.apply, static_argnums=2)
    variables = init(KEY, x, 0, encoded, hole)

    def change(alpha: float, mask: jax.Array) -> float:
        variables["params"]["alpha"] = jnp.full((1,), alpha)
        a, b = (apply(variables, x, 0, e, mask) for e in (encoded, -encoded))
        return float(jnp.abs(a - b).max())

    assert change(0.0, hole) == 0
    assert change(1.0, hole) > 1e-3
    assert change(0.0, 1 - hole) > 1e-3
