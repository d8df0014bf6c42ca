"""The eight orientations of an image, and which of them makes a completion exact.

A model of each pixel given those before it completes a hole exactly if no known pixel
comes after the first missing one: it cannot look ahead. Some orientations of the image
may bring the hole to the end.
"""

from collections.abc import Sequence
from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

# (transpose, flip rows, flip columns), applied in this order.
ORIENTATIONS: dict[str, tuple[bool, bool, bool]] = {
    "upright": (False, False, False),
    "mirrored": (False, False, True),
    "upside_down": (False, True, False),
    "half_turn": (False, True, True),
    "transposed": (True, False, False),
    "quarter_turn": (True, False, True),
    "three_quarter_turn": (True, True, False),
    "antitransposed": (True, True, True),
}


class Oriented(NamedTuple):
    """A batch as the network reads it, each image in an orientation of its own.

    Attributes:
      orientation: the index of each image's orientation.
      image: in the network's channels.
      known: 1 = known pixel.
      condition: one-hot orientation (if there are several) and class (if there are any)
        side by side; None without both.
    """

    orientation: Int[Array, " b"]
    image: Float[Array, "b h w c"]
    known: Bool[Array, "b h w 1"]
    condition: Float[Array, "b t"] | None


def orient(x: Float[Array, "b h w c"], name: str) -> Float[Array, "b i j c"]:
    """Bring upright images into an orientation."""
    transpose, rows, columns = ORIENTATIONS[name]
    x = x.swapaxes(1, 2) if transpose else x
    x = x[:, ::-1] if rows else x
    return x[:, :, ::-1] if columns else x


def restore(x: Float[Array, "b h w c"], name: str) -> Float[Array, "b i j c"]:
    """The inverse of `orient`."""
    transpose, rows, columns = ORIENTATIONS[name]
    x = x[:, :, ::-1] if columns else x
    x = x[:, ::-1] if rows else x
    return x.swapaxes(1, 2) if transpose else x


def select(
    index: Int[Array, " b"], batches: Sequence[Float[Array, "b h w c"]]
) -> Float[Array, "b h w c"]:
    """The i-th image of batch number index[i], for each i.

    Not by indexing: a gather replicates the batch on all devices, each of which would
    then run the network on all of it.
    """
    chosen = batches[0]
    for i, images in enumerate(batches[1:], 1):
        chosen = jnp.where((index == i)[:, None, None, None], images, chosen)
    return chosen


def known_after_hole(known: Bool[Array, "b h w 1"]) -> Int[Array, " b"]:
    """How many known pixels come after the first missing one, in raster order."""
    flat = known.reshape(known.shape[0], -1)
    return (flat & (jnp.cumsum(jnp.logical_not(flat), 1) > 0)).sum(1)


def best_orientation(
    names: Sequence[str], mask: Float[Array, "b h w 1"]
) -> Int[Array, " b"]:
    """The orientation with the fewest known pixels after the hole's first one."""
    counts = [known_after_hole(orient(mask, name) > 0.5) for name in names]
    return jnp.argmin(jnp.stack(counts), 0)
