"""Convolutions against independent formulas, and spectral norm's rules."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from picjax.layers.conv import (
    Conv,
    ConvTranspose,
    UpsampleConv,
    add_coordinates,
    average_pool,
)

KEY = jax.random.key(0)


def normal(*shape: int) -> jax.Array:
    return jax.random.normal(jax.random.fold_in(KEY, len(shape)), shape)


def matrix(kernel: jax.Array, transposed: bool) -> np.ndarray:
    """The matrix whose largest singular value spectral norm estimates."""
    axes = (2, 3, 0, 1) if transposed else (3, 2, 0, 1)
    rows = kernel.transpose(axes)
    return np.asarray(rows.reshape(rows.shape[0], -1))


def test_upsampled_is_nearest_neighbour_then_convolution() -> None:
    x = normal(2, 3, 5, 4)
    module: Any = UpsampleConv(6, spectral=False)
    variables = module.init(KEY, x, False)
    variables["params"]["bias"] = normal(6)
    plain: Any = Conv(6, padding=1, spectral=False)
    expected = plain.apply(variables, x.repeat(2, 1).repeat(2, 2), False)
    np.testing.assert_allclose(module.apply(variables, x, False), expected, atol=1e-5)


@pytest.mark.parametrize(("kernel", "padding"), [(3, (1, 2)), (4, (2, 2))])
def test_transposed_is_the_dilated_convolution(
    kernel: int, padding: tuple[int, int]
) -> None:
    x = normal(2, 3, 5, 4)
    module: Any = ConvTranspose(6, kernel, spectral=False)
    variables = module.init(KEY, x, False)
    variables["params"]["bias"] = normal(6)

    def dilated(params: dict[str, jax.Array], x: jax.Array) -> jax.Array:
        y = lax.conv_general_dilated(
            x,
            params["kernel"][::-1, ::-1],
            (1, 1),
            (padding, padding),
            lhs_dilation=(2, 2),
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
        )
        return y + params["bias"].reshape(1, 1, 1, -1)

    def ours(params: dict[str, jax.Array], x: jax.Array) -> jax.Array:
        return module.apply({"params": params}, x, False)

    cotangent = normal(2, 6, 10, 6)

    def results(f: Any) -> Any:
        def both(params: Any, x: jax.Array) -> Any:
            y, pullback = jax.vjp(f, params, x)
            return y, pullback(cotangent)

        return jax.jit(both)(variables["params"], x)

    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5),
        results(ours),
        results(dilated),
    )


@pytest.mark.parametrize("kernel", [1, 3])
@pytest.mark.parametrize("coord", [False, True])
@pytest.mark.parametrize("size", [(8, 6), (7, 5)])
def test_merged_pool_is_the_pool_after(
    kernel: int, coord: bool, size: tuple[int, int]
) -> None:
    x = normal(2, *size, 3)
    plain: Any = Conv(5, kernel, padding=kernel // 2, coord=coord)
    pooled = plain.clone(pool=True)
    variables = plain.init(KEY, x, False)
    expected = average_pool(plain.apply(variables, x, False))
    np.testing.assert_allclose(
        pooled.apply(variables, x, False), expected, atol=1e-6, rtol=1e-5
    )


@pytest.mark.parametrize("layer", [Conv, ConvTranspose])
def test_iterations_converge_to_the_largest_singular_value(
    layer: type[Conv] | type[ConvTranspose],
) -> None:
    x = normal(1, 4, 4, 3)
    module: Any = layer(6)
    variables = module.init(KEY, x, False)
    _, state = module.apply(variables, x, 50, mutable=["stats"])
    m = matrix(variables["params"]["kernel"], layer is ConvTranspose)
    u, v = state["stats"]["u"], state["stats"]["v"]
    assert u.shape, v.shape == m.shape
    np.testing.assert_allclose(u @ m @ v, np.linalg.norm(m, 2), rtol=1e-3)
    normalised = module.apply(variables | state, x, False)
    kernel = variables["params"]["kernel"] / np.linalg.norm(m, 2)
    bias = variables["params"]["bias"]
    plain: Any = layer(6, spectral=False)
    raw = plain.apply({"params": {"kernel": kernel, "bias": bias}}, x, False)
    np.testing.assert_allclose(normalised, raw, rtol=1e-3, atol=1e-3)


def test_frozen_is_deterministic_and_updating_is_not() -> None:
    x = normal(1, 4, 4, 3)
    module: Any = Conv(5)
    variables = module.init(KEY, x, True)
    frozen = module.apply(variables, x, False)
    again, state = module.apply(variables, x, False, mutable=["stats"])
    np.testing.assert_array_equal(frozen, again)
    np.testing.assert_array_equal(state["stats"]["u"], variables["stats"]["u"])
    moved, state = module.apply(variables, x, True, mutable=["stats"])
    assert np.abs(moved - frozen).max() > 1e-3
    twice, after = module.apply(variables | state, x, True, mutable=["stats"])
    assert np.abs(twice - moved).max() > 1e-4
    at_once, both = module.apply(variables, x, 2, mutable=["stats"])
    np.testing.assert_array_equal(at_once, twice)
    np.testing.assert_array_equal(both["stats"]["v"], after["stats"]["v"])


def test_sigma_is_differentiated_but_not_its_vectors() -> None:
    """With W scaled, the output does not change: W has no gradient along itself."""
    x = normal(1, 4, 4, 3)
    module: Any = Conv(5, use_bias=False)
    variables = module.init(KEY, x, False)

    def total(params: dict[str, jax.Array]) -> jax.Array:
        y, _ = module.apply(variables | {"params": params}, x, 1, mutable=["stats"])
        return (y**3).sum()

    kernel = variables["params"]["kernel"]
    grad = jax.grad(total)(variables["params"])["kernel"]
    along = jnp.vdot(grad, kernel) / jnp.linalg.norm(grad) / jnp.linalg.norm(kernel)
    assert abs(along) < 1e-5


def test_initial_values() -> None:
    x = normal(1, 4, 4, 16)
    normed = Conv(32).init(KEY, x, False)["params"]
    bound = (16 * 9) ** -0.5
    for array in normed.values():
        assert bound * 0.8 < np.abs(array).max() <= bound
    transposed: Any = ConvTranspose(4).init(KEY, x, False)["params"]
    assert (4 * 9) ** -0.5 >= np.abs(transposed["bias"]).max() > bound
    plain: Any = Conv(8, spectral=False).init(KEY, x, False)["params"]
    m = matrix(plain["kernel"], False)
    np.testing.assert_allclose(m @ m.T, 0.02**2 * np.eye(8), atol=1e-8)
    assert not plain["bias"].any()


def test_coordinates() -> None:
    planes = add_coordinates(jnp.zeros((1, 3, 5, 1)))[0, :, :, 1:]
    np.testing.assert_allclose(planes[0, :, 0], [-1, -0.5, 0, 0.5, 1])
    np.testing.assert_allclose(planes[:, 0, 1], [-1, 0, 1])
