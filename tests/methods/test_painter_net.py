"""The painter's networks: sizes, initialisation, precision, dropout, pools."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from picjax.cli import UserError
from picjax.methods.painter.classifier import Classifier
from picjax.methods.painter.net import UNet, attention_factors, check_widths

KEY = jax.random.key(0)
# The middle always has attention.
TINY: Any = {"width": 32, "mult": (1,), "blocks": 1, "attention": ()}
TINY |= {"head_width": 16}


def inputs(h: int = 4, w: int = 4) -> tuple[jax.Array, jax.Array]:
    return jax.random.normal(KEY, (2, h, w, 3)), jnp.array([3.5, 900.0])


@pytest.fixture(scope="module")
def params() -> Any:
    """Random parameters of the tiny network: initially half its layers return 0."""
    shapes = jax.eval_shape(UNet(**TINY).init, KEY, *inputs())["params"]
    rng = np.random.default_rng(0)

    def draw(s: Any) -> jax.Array:
        fan_in = s.size // s.shape[-1]
        return jnp.asarray(rng.standard_normal(s.shape, np.float32) * fan_in**-0.5)

    return jax.tree.map(draw, shapes)


@pytest.mark.parametrize("updown", [True, False])
def test_sizes_must_halve_between_levels(updown: bool) -> None:
    net = UNet(32, (1, 2, 0.5 + 0.5), 2, (2,), 32, resblock_updown=updown)
    init = partial(jax.eval_shape, net.init_with_output, KEY)
    y, _ = init(*inputs(12, 20))
    assert (y.shape, y.dtype) == ((2, 12, 20, 6), jnp.float32)
    with pytest.raises(UserError, match="12x18 does not halve 2 times.* of 4"):
        init(*inputs(12, 18))


def test_initial_output_is_zero_and_float32() -> None:
    net = UNet(**TINY, classes=3, dtype=jnp.bfloat16)
    x, t = inputs()
    y, variables = jax.jit(net.init_with_output)(KEY, x, t, jnp.array([0, 2]))
    np.testing.assert_array_equal(y, np.zeros((2, 4, 4, 6), np.float32))
    assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {jnp.dtype("float32")}
    first = variables["params"]["in0_0"]
    bound = 27**-0.5
    for x in first.values():
        assert bound / 2 < jnp.abs(x).max() <= bound
    with pytest.raises(ValueError, match="network of 3 classes"):
        net.apply(variables, *inputs())


def test_remat_is_exact_and_bfloat16_close(params: Any) -> None:
    x, t = inputs()

    def total(net: UNet, params: Any) -> Any:
        y: Any = net.apply({"params": params}, x, t)
        return jnp.square(y).mean(), y

    def run(**options: Any) -> Any:
        net = UNet(**TINY, **options)
        return jax.jit(jax.grad(partial(total, net), has_aux=True))(params)

    grads, y = run()
    again, same = run(remat=True)
    np.testing.assert_allclose(same, y, rtol=1e-5, atol=1e-6)
    largest = max(float(jnp.abs(g).max()) for g in jax.tree.leaves(grads))
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5 * largest),
        again,
        grads,
    )
    near = jax.jit(UNet(**TINY, dtype=jnp.bfloat16).apply)({"params": params}, x, t)
    assert near.dtype == jnp.float32
    error = jnp.abs(near - y).max() / jnp.abs(y).max()
    assert 0 < error < 3e-2


def test_dropout_acts_in_training_only(params: Any) -> None:
    run = jax.jit(UNet(**TINY, dropout=0.5).apply, static_argnums=4)
    plain = jax.jit(UNet(**TINY).apply)({"params": params}, *inputs())
    still = run({"params": params}, *inputs(), None, False)
    np.testing.assert_allclose(still, plain, rtol=1e-5, atol=1e-6)
    draws = [
        run({"params": params}, *inputs(), None, True, rngs={"dropout": key})
        for key in jax.random.split(KEY)
    ]
    assert jnp.abs(draws[0] - draws[1]).max() > 1e-2
    assert jnp.abs(draws[0] - plain).max() > 1e-2


@pytest.mark.parametrize("pool", ["attention", "adaptive", "spatial", "spatial_v2"])
def test_classifier_pools(pool: Any) -> None:
    net = Classifier(32, (1, 2), 1, (2,), 32, classes=7, pool=pool)
    init = partial(jax.eval_shape, net.init_with_output, KEY)
    y, variables = init(*inputs(8, 8))
    assert y.shape == (2, 7)
    params = variables["params"]
    if pool.startswith("spatial"):
        # The first convolution, a block, a smaller size, a block; the middle.
        assert params["hidden"]["kernel"].shape == (32 + 32 + 32 + 64 + 64, 2048)
        assert ("hidden_norm" in params) == (pool == "spatial_v2")
    if pool == "attention":
        assert params["head"]["positions"].shape == (1 + 4 * 4, 64)


def test_invalid_widths_and_sizes_are_rejected() -> None:
    check_widths(64, (0.5, 1, 1.5), 32, 4)
    with pytest.raises(UserError, match=r"48 times 1 .*gives 48 channels"):
        check_widths(48, (2, 1), None, 4)
    with pytest.raises(UserError, match="head_width 64 does not divide 96"):
        check_widths(32, (2, 3), 64, 4)
    assert attention_factors(256, (32, 16, 8), 6, "attention") == (8, 16, 32)
    for size in (24, 0, 512):
        with pytest.raises(UserError, match=f"holds {size}, which"):
            attention_factors(256, (32, size), 6, "attention")
