"""Convolutions: plain forms against CPU forms, and spectral norm's rules."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from picjax.layers import conv
from picjax.layers.conv import Conv, ConvTranspose, UpsampleConv

KEY = jax.random.key(0)


def normal(*shape: int) -> jax.Array:
    return jax.random.normal(jax.random.fold_in(KEY, len(shape)), shape)


def matrix(kernel: jax.Array, transposed: bool) -> np.ndarray:
    """The matrix whose largest singular value spectral norm estimates."""
    axes = (2, 3, 0, 1) if transposed else (3, 2, 0, 1)
    rows = kernel.transpose(axes)
    return np.asarray(rows.reshape(rows.shape[0], -1))


# Every operation with a form for the CPU: (function, size of the kernel, channels).
REWRITTEN = {
    "halve": (lambda x, k: conv.convolve(x, k, 2, (1, 1)), 4, 6),
    "halve_padding_2": (lambda x, k: conv.convolve(x, k, 2, (2, 2)), 4, 6),
    "stride_1": (lambda x, k: conv.convolve(x, k, 1, (2, 1)), 4, 6),
    "to_few_channels": (conv.convolve, 3, 3),
    "pool": (conv.convolve_and_pool, 3, 6),
    "transposed_3": (conv.convolve_transposed, 3, 6),
    "transposed_4": (conv.convolve_transposed, 4, 6),
    "upsample": (conv.upsample_and_convolve, 3, 6),
}


def value_and_gradients(
    operation: Callable[..., jax.Array], x: jax.Array, kernel: jax.Array
) -> Any:
    """The value and both gradients for a fixed cotangent, and the operation's jaxpr."""

    def both(x: jax.Array, kernel: jax.Array) -> Any:
        y, pullback = jax.vjp(operation, x, kernel)
        return y, pullback(jnp.cos(jnp.arange(y.size)).reshape(y.shape))

    return jax.jit(both)(x, kernel), str(jax.make_jaxpr(operation)(x, kernel))


@pytest.mark.parametrize("name", REWRITTEN)
@pytest.mark.parametrize("size", [(8, 6), (7, 5)])
def test_both_forms_agree(
    name: str, size: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    operation, kernel_size, channels = REWRITTEN[name]
    x, kernel = normal(2, *size, 4), normal(kernel_size, kernel_size, 4, channels, 1)
    results, programs = {}, {}
    for on_cpu in (True, False):
        monkeypatch.setattr(conv, "on_cpu", lambda on_cpu=on_cpu: on_cpu)
        # A new function each time, or a cached trace would hide the choice.
        results[on_cpu], programs[on_cpu] = value_and_gradients(
            lambda x, k: operation(x, k), x, kernel[..., 0]
        )
    assert programs[True] != programs[False]
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, atol=1e-4, rtol=1e-5),
        results[True],
        results[False],
    )


def test_both_forms_have_the_same_gradient_penalty(monkeypatch) -> None:
    """WGAN-GP differentiates the gradient of an image once more."""
    x, kernel = normal(2, 8, 6, 4), normal(4, 4, 4, 6)

    def penalty(kernel: jax.Array) -> jax.Array:
        score = lambda x: jnp.tanh(conv.convolve(x, kernel, 1, (1, 1))).sum()
        return jnp.square(jax.grad(score)(x)).sum()

    found = {}
    for on_cpu in (True, False):
        monkeypatch.setattr(conv, "on_cpu", lambda on_cpu=on_cpu: on_cpu)
        found[on_cpu] = jax.grad(penalty)(kernel)
    np.testing.assert_allclose(found[True], found[False], atol=1e-3, rtol=1e-4)


def test_transposed_is_the_gradient_of_a_strided_convolution() -> None:
    """As PyTorch defines it: stride 2, padding 1, kernel axes swapped."""
    x = normal(2, 3, 5, 4)
    for size in (3, 4):
        kernel = normal(size, size, 4, 6)
        image = jnp.zeros((2, 6, 10, 6))
        forward = lambda y, kernel=kernel: conv.convolve(
            y, kernel.swapaxes(2, 3), 2, (1, 1)
        )
        (expected,) = jax.vjp(forward, image)[1](x)
        actual = conv.convolve_transposed(x, kernel)
        np.testing.assert_allclose(actual, expected, atol=1e-4)


def test_a_transposed_kernel_of_another_size_is_refused() -> None:
    with pytest.raises(ValueError, match="size 5 does not double"):
        conv.convolve_transposed(normal(1, 3, 3, 2), normal(5, 5, 2, 2))


def test_upsampled_is_nearest_neighbour_then_convolution() -> None:
    x = normal(2, 3, 5, 4)
    module: Any = UpsampleConv(6, spectral=False)
    variables = module.init(KEY, x)
    variables["params"]["bias"] = normal(6)
    plain: Any = Conv(6, padding=1, spectral=False)
    expected = plain.apply(variables, x.repeat(2, 1).repeat(2, 2))
    np.testing.assert_allclose(module.apply(variables, x), expected, atol=1e-5)


@pytest.mark.parametrize("kernel", [1, 3])
@pytest.mark.parametrize("coord", [False, True])
@pytest.mark.parametrize("size", [(8, 6), (7, 5)])
def test_merged_pool_is_the_pool_after(
    kernel: int, coord: bool, size: tuple[int, int]
) -> None:
    x = normal(2, *size, 3)
    plain: Any = Conv(5, kernel, padding=kernel // 2, coord=coord)
    pooled = plain.clone(pool=True)
    variables = plain.init(KEY, x)
    expected = conv.average_pool(plain.apply(variables, x))
    actual = pooled.apply(variables, x)
    np.testing.assert_allclose(actual, expected, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("layer", [Conv, ConvTranspose])
def test_iterations_converge_to_the_largest_singular_value(
    layer: type[Conv] | type[ConvTranspose],
) -> None:
    x = normal(1, 4, 4, 3)
    module: Any = layer(6)
    variables = module.init(KEY, x)
    _, state = module.apply(variables, x, 50, mutable=["stats"])
    m = matrix(variables["params"]["kernel"], layer is ConvTranspose)
    u, v = state["stats"]["u"], state["stats"]["v"]
    assert (len(u), len(v)) == m.shape
    np.testing.assert_allclose(u @ m @ v, np.linalg.norm(m, 2), rtol=1e-3)
    normalised = module.apply(variables | state, x)
    kernel = variables["params"]["kernel"] / np.linalg.norm(m, 2)
    bias = variables["params"]["bias"]
    plain: Any = layer(6, spectral=False)
    raw = plain.apply({"params": {"kernel": kernel, "bias": bias}}, x)
    np.testing.assert_allclose(normalised, raw, rtol=1e-3, atol=1e-3)


def test_without_iterations_a_call_is_deterministic_and_changes_nothing() -> None:
    x = normal(1, 4, 4, 3)
    module: Any = Conv(5)
    variables = module.init(KEY, x)
    frozen = module.apply(variables, x)
    again, state = module.apply(variables, x, 0, mutable=["stats"])
    np.testing.assert_array_equal(frozen, again)
    np.testing.assert_array_equal(state["stats"]["u"], variables["stats"]["u"])


def test_two_iterations_at_once_are_those_of_two_calls() -> None:
    x = normal(1, 4, 4, 3)
    module: Any = Conv(5)
    variables = module.init(KEY, x)
    frozen = module.apply(variables, x)
    once, state = module.apply(variables, x, 1, mutable=["stats"])
    assert np.abs(once - frozen).max() > 1e-3
    twice, after = module.apply(variables | state, x, 1, mutable=["stats"])
    assert np.abs(twice - once).max() > 1e-4
    at_once, both = module.apply(variables, x, 2, mutable=["stats"])
    np.testing.assert_array_equal(at_once, twice)
    np.testing.assert_array_equal(both["stats"]["v"], after["stats"]["v"])


def test_sigma_is_differentiated_but_not_its_vectors() -> None:
    """If W is scaled, the output does not change: W has no gradient along itself."""
    x = normal(1, 4, 4, 3)
    module: Any = Conv(5, use_bias=False)
    variables = module.init(KEY, x)

    def total(params: dict[str, jax.Array]) -> jax.Array:
        y, _ = module.apply(variables | {"params": params}, x, 1, mutable=["stats"])
        return (y**3).sum()

    kernel = variables["params"]["kernel"]
    grad = jax.grad(total)(variables["params"])["kernel"]
    along = jnp.vdot(grad, kernel) / jnp.linalg.norm(grad) / jnp.linalg.norm(kernel)
    assert abs(along) < 1e-5


def test_initial_values() -> None:
    x = normal(1, 4, 4, 16)
    spectral = Conv(32).init(KEY, x)["params"]
    bound = (16 * 9) ** -0.5
    for array in spectral.values():
        assert bound * 0.8 < np.abs(array).max() <= bound
    transposed: Any = ConvTranspose(4).init(KEY, x)["params"]
    assert (4 * 9) ** -0.5 >= np.abs(transposed["bias"]).max() > bound
    plain: Any = Conv(8, spectral=False).init(KEY, x)["params"]
    m = matrix(plain["kernel"], False)
    np.testing.assert_allclose(m @ m.T, 0.02**2 * np.eye(8), atol=1e-8)
    assert not plain["bias"].any()


def test_coordinates() -> None:
    planes = conv.add_coordinates(jnp.zeros((1, 3, 5, 1)))[0, :, :, 1:]
    np.testing.assert_allclose(planes[0, :, 0], [-1, -0.5, 0, 0.5, 1])
    np.testing.assert_allclose(planes[:, 0, 1], [-1, 0, 1])
