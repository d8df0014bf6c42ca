"""Normalisation layers: statistics, running values, batches of one."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from picjax.cli import UserError
from picjax.layers import norm
from picjax.layers.norm import BatchNorm, GroupNorm, InstanceNorm, LayerNorm

KEY = jax.random.key(0)
X = 3 + 2 * jax.random.normal(KEY, (4, 5, 6, 7))


def test_instance_norm_is_per_image_and_channel() -> None:
    y, _ = InstanceNorm().init_with_output(KEY, X)
    np.testing.assert_allclose(y.mean((1, 2)), 0, atol=1e-5)
    np.testing.assert_allclose(y.var((1, 2)), 1, atol=1e-4)
    bare, variables = InstanceNorm(affine=False).init_with_output(KEY, X)
    np.testing.assert_array_equal(bare, y)
    assert not variables


def test_layer_norm_is_per_row() -> None:
    x = X.reshape(-1, 7)
    module: Any = LayerNorm()
    y, variables = module.init_with_output(KEY, x)
    np.testing.assert_allclose(y.mean(-1), 0, atol=1e-5)
    one = module.apply(variables, x[:1])
    np.testing.assert_allclose(one, y[:1], rtol=1e-6)


def test_batch_norm_trains_on_the_batch_and_infers_on_running_values() -> None:
    x = X.reshape(-1, 7)
    module: Any = BatchNorm()
    variables = module.init(KEY, x)
    np.testing.assert_array_equal(variables["stats"]["mean"], np.zeros(7))
    y, state = module.apply(variables, x, True, mutable=["stats"])
    np.testing.assert_allclose(y.mean(0), 0, atol=1e-5)
    np.testing.assert_allclose(y.var(0), 1, atol=1e-4)
    stats = state["stats"]
    np.testing.assert_allclose(stats["mean"], 0.1 * x.mean(0), rtol=1e-5)
    np.testing.assert_allclose(stats["var"], 0.9 + 0.1 * x.var(0, ddof=1), rtol=1e-5)
    assert stats["count"] == 1
    stats = jax.tree.map(np.asarray, stats)
    inferred = module.apply(variables | state, x, False)
    expected = (np.asarray(x) - stats["mean"]) / np.sqrt(stats["var"] + 1e-5)
    np.testing.assert_allclose(inferred, expected, rtol=1e-4, atol=1e-5)


def test_batch_norm_of_one_row() -> None:
    module: Any = BatchNorm()
    variables = module.init(KEY, X[:1, 0, 0])
    assert module.apply(variables, X[:1, 0, 0], False).shape == (1, 7)
    with pytest.raises(UserError, match="batch of 1"):
        module.apply(variables, X[:1, 0, 0], True, mutable=["stats"])


@pytest.mark.parametrize("kind", [InstanceNorm, BatchNorm])
def test_statistics_are_float32(kind: type[InstanceNorm] | type[BatchNorm]) -> None:
    """A bfloat16 sum of 4096 values near 1 would lose their mean."""
    x = (1 + 0.1 * jax.random.normal(KEY, (1, 64, 64, 1))).astype(jnp.bfloat16)
    module: Any = kind(dtype=jnp.bfloat16)
    variables = module.init(KEY, x)
    y, _ = module.apply(variables, x, True, mutable=["stats"])
    assert y.dtype == jnp.bfloat16
    assert abs(y.astype(jnp.float32).mean()) < 1e-2


def test_group_norm_between_instance_and_layer_norm() -> None:
    x = jax.random.normal(KEY, (2, 3, 4, 6)) * 3 + 1
    own, _ = InstanceNorm(affine=False).init_with_output(KEY, x)
    each, _ = GroupNorm(6).init_with_output(KEY, x)
    np.testing.assert_allclose(each, own, atol=1e-5)
    module: Any = LayerNorm()
    whole, _ = module.init_with_output(KEY, x.reshape(2, -1))
    one, _ = GroupNorm(1).init_with_output(KEY, x)
    np.testing.assert_allclose(one, whole.reshape(x.shape), atol=1e-5)


def test_both_forms_of_group_norm_agree(monkeypatch: pytest.MonkeyPatch) -> None:
    x = jax.random.normal(KEY, (2, 3, 4, 6)) * 3 + 1
    module: Any = GroupNorm(2)
    variables = {"params": {"scale": jnp.arange(6.0), "bias": jnp.ones(6)}}

    def total(variables: Any, x: jax.Array) -> Any:
        y = module.apply(variables, x)
        return (y**3).sum(), y

    forms = []
    for on_cpu in (True, False):
        monkeypatch.setattr(norm, "on_cpu", lambda on_cpu=on_cpu: on_cpu)
        forms.append(jax.value_and_grad(total, (0, 1), has_aux=True)(variables, x))
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=2e-3), *forms
    )
