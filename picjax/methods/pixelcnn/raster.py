"""Drawing an image in raster order, and which way to turn it so that this is exact.

A model of each pixel given those before it completes a hole exactly when no known pixel
comes after the first missing one: the network cannot look ahead. Of the eight ways to
turn an image, some may bring the hole to the end.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Int

from picjax.methods.pixelcnn import logistic

Logits = Callable[[Array], Array]  # images [b h w c] -> logits [b h w m]


class Noise(NamedTuple):
    """Uniforms in (0, 1) of each pixel: of its component, and of its values."""

    mixture: Float[Array, "*n h w k"]
    value: Float[Array, "*n h w c"]


def draw_noise(key: Array, size: tuple[int, ...], k: int, c: int) -> Noise:
    """Uniforms as far from 0 and 1 as the official code keeps them."""
    keys = jax.random.split(key)
    sizes = (*size, k), (*size, c)
    draws = (
        jax.random.uniform(key, shape, minval=1e-5, maxval=1 - 1e-5)
        for key, shape in zip(keys, sizes, strict=True)
    )
    return Noise(*draws)


@jax.custom_batching.custom_vmap
def anywhere(flags: Array) -> Array:
    """Flags of one image that are true for any of those completed together.

    Loops thus have the same bounds for all images of a `vmap`.
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
    """The whole network for each pixel: slow, and what the others are tested against.

    Args:
      logits: the network.
      image: in [-1, 1]; what lies in the hole has no influence.
      known: what is kept.
      noise: [b h w ..].
      rounded: draws are rounded to the 256 values.
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
    """All missing pixels at once, each given those of `x` before it: a Jacobi step.

    Arguments as of `naive`.
    """
    return jnp.where(known, image, logistic.draw(logits(x), *noise, rounded))


def jacobi(
    logits: Logits,
    image: Float[Array, "b h w c"],
    known: Bool[Array, "b h w 1"],
    noise: Noise,
    rounded: bool = False,
) -> tuple[Float[Array, "b h w c"], Int[Array, ""]]:
    """Draws all pixels at once, again and again, until nothing changes.

    With the same noise this ends at what `naive` gives: after i passes at least the
    first i missing pixels are final. Arguments as there.

    Returns:
      images, and how many passes of the network they took (the last one finds that
      nothing changes).
    """
    most = jnp.logical_not(known).sum((1, 2, 3)).max() + 1

    def going_on(state: tuple[Array, Array, Array]) -> Array:
        return state[1]

    def again(state: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
        x, _, passes = state
        new = redraw(logits, x, image, known, noise, rounded)
        changed = (new != x).any() & (passes < most)
        return new, anywhere(changed), passes + 1

    start = jnp.where(known, image, 0), anywhere(most > 1), jnp.int32(0)
    x, _, passes = lax.while_loop(going_on, again, start)
    return x, passes


# ---- turning ----

# What is done to an image: (transpose, flip rows, flip columns), in this order.
TURNS: dict[str, tuple[bool, bool, bool]] = {
    "upright": (False, False, False),
    "mirrored": (False, False, True),
    "upside_down": (False, True, False),
    "half_turn": (False, True, True),
    "transposed": (True, False, False),
    "quarter_turn": (True, False, True),
    "three_quarter_turn": (True, True, False),
    "antitransposed": (True, True, True),
}


def turn(x: Float[Array, "b h w c"], name: str) -> Float[Array, "b i j c"]:
    """Images turned by one of TURNS."""
    transpose, rows, columns = TURNS[name]
    x = x.swapaxes(1, 2) if transpose else x
    x = x[:, ::-1] if rows else x
    return x[:, :, ::-1] if columns else x


def turn_back(x: Float[Array, "b h w c"], name: str) -> Float[Array, "b i j c"]:
    """The inverse of `turn`."""
    transpose, rows, columns = TURNS[name]
    x = x[:, :, ::-1] if columns else x
    x = x[:, ::-1] if rows else x
    return x.swapaxes(1, 2) if transpose else x


def unused(known: Bool[Array, "b h w 1"]) -> Int[Array, " b"]:
    """How many known pixels come after the first missing one: drawing sees none."""
    flat = known.reshape(known.shape[0], -1)
    return (flat & (jnp.cumsum(jnp.logical_not(flat), 1) > 0)).sum(1)
