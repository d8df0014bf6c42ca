"""Samplers of an image in raster order from given uniforms.

`naive` is the definition; `jacobi` reaches the same image by fixed-point iteration, and
`cached.sample` by computing every feature once.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Int

from picjax.methods.pixelcnn import logistic
from picjax.system import split_keys

Logits = Callable[[Array], Array]  # images [b h w c] -> logits [b h w m]


class Noise(NamedTuple):
    """Uniforms in (0, 1) for each pixel: for its component, and for its values."""

    mixture: Float[Array, "*n h w k"]
    value: Float[Array, "*n h w c"]


def draw_noise(key: Array, size: tuple[int, ...], k: int, c: int) -> Noise:
    """Uniforms in [1e-5, 1 - 1e-5], as in the official code."""
    keys = split_keys(key, "mixture", "value")

    def uniform(purpose: str, channels: int) -> Array:
        return jax.random.uniform(
            keys[purpose], (*size, channels), minval=1e-5, maxval=1 - 1e-5
        )

    return Noise(mixture=uniform("mixture", k), value=uniform("value", c))


@jax.custom_batching.custom_vmap
def anywhere(flags: Array) -> Array:
    """`flags`, or under `vmap` their logical or over the mapped axis.

    Loops thus have the same bounds for all images that are completed together.
    """
    return flags


@anywhere.def_vmap
def _(axis_size: int, in_batched: list[bool], flags: Array) -> tuple[Array, bool]:
    return anywhere(flags.any(0)), False


def naive(
    logits: Logits,
    image: Float[Array, "b h w c"],
    known: Bool[Array, "b h w 1"],
    noise: Noise,
    rounded: bool = False,
) -> Float[Array, "b h w c"]:
    """Run the whole network for each pixel: slow, the reference of the tests.

    Args:
      logits: the network.
      image: in [-1, 1]; missing pixels have no influence.
      known: 1 = known pixel, which is kept.
      noise: [b h w ..].
      rounded: whether draws are rounded to the 256 values.
    """
    height, width = image.shape[1:3]

    def one_pixel(i: Array, x: Array) -> Array:
        here = (slice(None), i // width, i % width)
        out = logits(x)[here]
        drawn = logistic.draw(out, noise.mixture[here], noise.value[here], rounded)
        return x.at[here].set(jnp.where(known[here], image[here], drawn))

    start = jnp.where(known, image, 0)
    return lax.fori_loop(0, height * width, one_pixel, start)


def redraw(
    logits: Logits,
    x: Float[Array, "b h w c"],
    image: Float[Array, "b h w c"],
    known: Bool[Array, "b h w 1"],
    noise: Noise,
    rounded: bool = False,
) -> Float[Array, "b h w c"]:
    """One Jacobi step: draw all missing pixels, each given those of `x` before it.

    The other arguments are those of `naive`.
    """
    return jnp.where(known, image, logistic.draw(logits(x), *noise, rounded))


def jacobi(
    logits: Logits,
    image: Float[Array, "b h w c"],
    known: Bool[Array, "b h w 1"],
    noise: Noise,
    rounded: bool = False,
) -> tuple[Float[Array, "b h w c"], Int[Array, ""]]:
    """Repeat `redraw` until nothing changes: `naive`'s image in fewer passes.

    After i passes at least the first i missing pixels are final. The arguments are
    those of `naive`.

    Returns:
      The images, and the number of passes (the last one changes nothing).
    """
    max_passes = jnp.logical_not(known).sum((1, 2, 3)).max() + 1

    def is_changing(state: tuple[Array, Array, Array]) -> Array:
        return state[1]

    def iterate(state: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
        x, _, passes = state
        new = redraw(logits, x, image, known, noise, rounded)
        changed = (new != x).any() & (passes < max_passes)
        return new, anywhere(changed), passes + 1

    start = jnp.where(known, image, 0), anywhere(max_passes > 1), jnp.int32(0)
    x, _, passes = lax.while_loop(is_changing, iterate, start)
    return x, passes
