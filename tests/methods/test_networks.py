"""PICNet's and PICMM's networks: published sizes, other sizes, options."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from picjax.cli import UserError
from picjax.layers.encoder_decoder import (
    ResDiscriminator,
    Size,
    VisibleFeatures,
    halvings,
)
from picjax.methods.picmm import net as picmm
from picjax.methods.picnet import net as picnet

KEY = jax.random.key(0)


def zeros(*shape: int) -> jax.Array:
    return jnp.zeros(shape)


def abstract(module: Any, *inputs: Any, method: str = "init") -> Any:
    return jax.eval_shape(getattr(module, method), KEY, *inputs)


def scalars(module: Any, *inputs: Any) -> int:
    params = abstract(module, *inputs)["params"]
    return sum(x.size for x in jax.tree.leaves(params))


def test_published_parameter_counts() -> None:
    image = zeros(1, 256, 256, 3)
    f_m = zeros(1, 8, 8, 128)
    visible = VisibleFeatures(f_m, zeros(1, 32, 32, 128), zeros(1, 32, 32, 1))
    z = zeros(1, 256)
    assert scalars(picnet.Encoder(), image) == 3_604_224
    assert scalars(picnet.ResGenerator(), f_m, visible) == 2_374_016
    assert scalars(ResDiscriminator(), image) == 1_575_075
    assert scalars(picmm.Encoder(), image) == 1_045_248
    assert scalars(picmm.Generator(), z, z, visible) == 2_521_600
    assert scalars(picmm.DynamicGMM(), z) == 1_349_508


@pytest.mark.parametrize(
    ("size", "layers", "grid"),
    [
        (256, 5, (2, 2)),
        (512, 5, (4, 4)),
        (192, 5, (3, 3)),
        (128, 5, (1, 1)),
        (96, 4, (3, 3)),
        (64, 4, (1, 1)),
        (32, 3, (1, 1)),
        ((128, 256), 5, (1, 2)),
        ((64, 48), 3, (4, 3)),
    ],
)
def test_size_rule(size: Size, layers: int, grid: tuple[int, int]) -> None:
    h, w = (size, size) if isinstance(size, int) else size
    assert halvings(size) == layers
    shrink = 2 ** (layers + picmm.poolings(size))
    assert (h // shrink, w // shrink) == grid


@pytest.mark.parametrize("size", [16, 100, (64, 65)])
def test_sizes_that_do_not_halve_three_times(size: Size) -> None:
    with pytest.raises(UserError, match="multiples of 8"):
        halvings(size)


@pytest.mark.parametrize("size", [(192, 192), (96, 96), (64, 96), (32, 32)])
def test_shapes_at_other_sizes(size: tuple[int, int]) -> None:
    h, w = size
    layers, pools = halvings(size), picmm.poolings(size)
    widths: dict[str, Any] = {"ngf": 4, "img_f": 16, "layers": layers}
    image = zeros(2, h, w, 3)
    encoder = picmm.Encoder(poolings=pools, **widths)
    (mu, log_std, features), _ = abstract(encoder, image, method="init_with_output")
    d = 16 * (h >> (layers + pools)) * (w >> (layers + pools)) // 2
    assert mu.shape == log_std.shape == (2, d)
    assert [f.shape[1:3] for f in features] == [
        (h >> i, w >> i) for i in range(1, layers + 1)
    ]
    f_m, f_e = features[-1], features[layers - 3]
    visible = VisibleFeatures(f_m, f_e, zeros(2, *f_e.shape[1:3], 1))
    generator = picmm.Generator(poolings=pools, **widths)
    images, _ = abstract(generator, mu, mu, visible, method="init_with_output")
    expected = [(h >> i, w >> i) for i in reversed(range(min(4, layers)))]
    assert [x.shape[1:3] for x in images] == expected
    discriminator = ResDiscriminator(**widths)
    scores, _ = abstract(discriminator, image, method="init_with_output")
    assert scores.shape == (2, (h >> layers) - 2, (w >> layers) - 2, 1)


SIZE = 32
WIDTHS: dict[str, Any] = {"ngf": 4, "img_f": 16, "layers": 3}
IMAGES = jax.random.uniform(KEY, (3, SIZE, SIZE, 3), minval=-1)


def chain(call: Any, dtype: Any, image: jax.Array) -> dict[str, jax.Array]:
    """All four nets in turn; `call(name, net, *inputs)` runs one."""
    mask = jnp.ones((*image.shape[:3], 1)).at[:, 8:24, 8:24].set(0)
    encoder = picmm.Encoder(**WIDTHS, dtype=dtype)
    mu, log_std, features = call("encoder", encoder, image * mask)
    logits, mu_hat, log_std_hat = call("mixture", picmm.DynamicGMM(k=3), mu)
    visible = VisibleFeatures(features[-1], features[0], mask[:, ::2, ::2])
    generator = picmm.Generator(**WIDTHS, dtype=dtype)
    generated = call("generator", generator, mu, mu_hat[:, 0], visible)[-1]
    discriminator = ResDiscriminator(**WIDTHS, dtype=dtype)
    return {
        "latent": jnp.concatenate([mu, log_std], -1),
        "mixture": jnp.concatenate([logits, log_std_hat[:, 0]], -1),
        "image": generated,
        "scores": call("discriminator", discriminator, generated),
    }


def chain_start() -> dict[str, Any]:
    """Variables of all four nets from NumPy: compiling their own initialisers is slow."""
    shapes: dict[str, Any] = {}

    def call(name: str, net: Any, *inputs: Any) -> Any:
        outputs, shapes[name] = net.init_with_output(KEY, *inputs)
        return outputs

    def collect() -> dict[str, Any]:
        chain(call, jnp.float32, IMAGES[:1])
        return shapes

    rng = np.random.default_rng(0)

    def fill(path: Any, leaf: Any) -> np.ndarray:
        if path[-1].key in ("scale", "var", "gamma", "alpha"):
            return np.ones(leaf.shape, leaf.dtype)
        if path[-1].key in ("mean", "count"):
            return np.zeros(leaf.shape, leaf.dtype)
        fan_in = np.prod(leaf.shape[:-1] or (16,))
        return rng.normal(0, fan_in**-0.5, leaf.shape).astype(leaf.dtype)

    return jax.tree_util.tree_map_with_path(fill, jax.eval_shape(collect))


@partial(jax.jit, static_argnames=("iterations", "dtype"))
def chain_apply(
    variables: dict[str, Any],
    image: jax.Array,
    iterations: int = 0,
    dtype: Any = jnp.float32,
) -> tuple[dict[str, jax.Array], dict[str, Any]]:
    """The outputs, and the variables with the new stats."""
    after = {}

    def call(name: str, net: Any, *inputs: Any) -> Any:
        now = variables[name]
        option = iterations > 0 if name == "mixture" else iterations  # train
        outputs, state = net.apply(now, *inputs, option, mutable=["stats"])
        after[name] = now | state
        return outputs

    return chain(call, dtype, image), after


@pytest.fixture(scope="module")
def variables() -> dict[str, Any]:
    return chain_apply(chain_start(), IMAGES, iterations=1)[1]


@pytest.fixture(scope="module")
def outputs(variables: dict[str, Any]) -> dict[str, jax.Array]:
    return chain_apply(variables, IMAGES)[0]


def test_one_image_is_its_row_in_a_batch(variables: Any, outputs: Any) -> None:
    for name, one in chain_apply(variables, IMAGES[1:2])[0].items():
        np.testing.assert_allclose(one[0], outputs[name][1], atol=1e-5, err_msg=name)


def test_power_iterations_change_the_image(variables: Any, outputs: Any) -> None:
    again = chain_apply(variables, IMAGES)[0]["image"]
    np.testing.assert_array_equal(again, outputs["image"])
    moved, _ = chain_apply(variables, IMAGES, iterations=1)
    assert np.abs(moved["image"] - outputs["image"]).max() > 1e-3


def test_bfloat16_is_close(variables: Any, outputs: Any) -> None:
    half, _ = chain_apply(variables, IMAGES, dtype=jnp.bfloat16)
    for name, x in half.items():
        assert x.dtype == jnp.float32
        error = np.linalg.norm(x - outputs[name]) / np.linalg.norm(outputs[name])
        assert 0 < error < 0.05, (name, error)


def test_remat_changes_nothing(variables: Any) -> None:
    now = variables["discriminator"]

    def total(params: Any, remat: bool) -> jax.Array:
        net = ResDiscriminator(**WIDTHS, remat=remat)
        y, _ = net.apply(now | {"params": params}, IMAGES, 1, mutable=["stats"])
        return (y**2).sum()

    grad = jax.jit(jax.grad(total), static_argnums=1)
    plain, remat = (grad(now["params"], remat) for remat in (False, True))
    for x, y in zip(jax.tree.leaves(plain), jax.tree.leaves(remat), strict=True):
        np.testing.assert_allclose(x, y, atol=1e-5 * (1 + np.abs(x).max()))


def test_mixture_starts_near_a_standard_normal() -> None:
    """Orthogonal weights of gain 0.02 make all components alike."""
    z = jax.random.normal(KEY, (8, 64))
    for norm in ("batch", "layer"):
        net: Any = picmm.DynamicGMM(norm=norm)
        init = jax.jit(net.init_with_output)
        (logits, mu, log_std), variables = init(KEY, z)
        assert logits.shape == (8, 4)
        assert mu.shape == log_std.shape == (8, 4, 64)
        assert np.abs(jax.nn.softmax(logits) - 0.25).max() < 0.02
        assert max(np.abs(mu).max(), np.abs(log_std).max()) < 0.1
        assert ("stats" in variables) == (norm == "batch")
