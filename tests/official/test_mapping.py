"""Reading and writing official checkpoints: every name once, or both sides listed."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from picjax.cli import UserError
from picjax.methods.picmm import net as picmm
from picjax.methods.picmm.official import TABLE
from picjax.official import mapping

MODULE = picmm.Encoder(ngf=4, img_f=8, layers=3, poolings=2)
INIT = jax.jit(MODULE.init)


@pytest.fixture(scope="module")
def variables() -> dict[str, Any]:
    return INIT(jax.random.key(0), jnp.zeros((1, 32, 32, 3)))


@pytest.fixture
def tensors(variables: dict[str, Any]) -> dict[str, np.ndarray]:
    return mapping.to_official(variables, TABLE)


def read(tensors: dict[str, np.ndarray], variables: dict[str, Any]) -> dict[str, Any]:
    return mapping.from_official(tensors, variables, TABLE)


def test_there_and_back(tensors: Any, variables: Any) -> None:
    assert tensors["encoder0.conv2.module.weight_bar"].shape == (8, 4, 3, 3)
    assert tensors["down_fc.0.weight"].shape == (8, 8)
    back = read(tensors, variables)
    jax.tree.map(np.testing.assert_array_equal, back, variables)


def test_data_parallel_prefix_and_missing_second_names(
    tensors: Any, variables: Any
) -> None:
    first = {f"module.{n}": x for n, x in tensors.items() if ".model." not in n}
    assert len(first) < len(tensors)
    jax.tree.map(np.testing.assert_array_equal, read(first, variables), variables)


def test_both_sides_of_a_mismatch_are_listed(tensors: Any, variables: Any) -> None:
    tensors["stray.weight"] = tensors.pop("down_fc.0.bias")
    with pytest.raises(UserError, match="down_fc.0.bias.*lacks.*stray.weight"):
        read(tensors, variables)


def test_a_shape_that_differs(tensors: Any, variables: Any) -> None:
    tensors["down_fc.0.bias"] = np.zeros(3, np.float32)
    with pytest.raises(UserError, match=r"down_fc.0.bias is \(3,\)"):
        read(tensors, variables)


def test_second_names_that_disagree(tensors: Any, variables: Any) -> None:
    tensors["block0.model.0.module.bias"] = np.ones(4, np.float32)
    with pytest.raises(UserError, match=r"block0.model.0.module.bias should be one"):
        read(tensors, variables)


def test_a_path_that_no_row_knows() -> None:
    with pytest.raises(KeyError, match="no row"):
        mapping.official_names("params/unknown/kernel", TABLE)
