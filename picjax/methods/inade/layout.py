"""Label and instance maps: what the networks read of them.

Maps stay integers. One-hot tensors exist in the discriminator's input alone.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

Size = tuple[int, int]


class Layout(NamedTuple):
    """The semantic layout of a batch of images.

    Attributes:
      label: class of each pixel, 0 .. classes - 1.
      instance: instance of each pixel, 0 .. the size of the instance axis - 1; an id
        without pixels is an empty instance.
      edges: 1 where the instance differs from a neighbour's (`edge_map`). INADE's
        normalisation ignores it, SPADE's and CLADE's read it where there is one.
      sketch: line drawing in [0, 1], for networks with a sketch branch.
      position: row and column relative to the class's centre, CLADE's optional input.
    """

    label: Int[Array, "b h w"]
    instance: Int[Array, "b h w"] | None = None
    edges: Float[Array, "b h w 1"] | None = None
    sketch: Float[Array, "b h w 1"] | None = None
    position: Float[Array, "b h w 2"] | None = None

    def resize(self, size: Size) -> "Layout":
        """Every map at `size` = (height, width), by nearest neighbour."""
        return jax.tree.map(lambda x: resize_nearest(x, size), self)


def resize_nearest(x: Array, size: Size) -> Array:
    """Nearest-neighbour resize of [b h w ...], with the rounding of PyTorch's.

    Output pixel i reads input pixel floor(i * source / target), in float32.
    """
    for axis, target in zip((1, 2), size, strict=True):
        source = x.shape[axis]
        if source != target:
            scale = np.float32(source) / np.float32(target)
            index = np.floor(np.arange(target, dtype=np.float32) * scale).astype(int)
            x = jnp.take(x, np.minimum(index, source - 1), axis=axis)
    return x


def edge_map(instance: Int[Array, "b h w"]) -> Float[Array, "b h w 1"]:
    """1 where the instance differs from its left, right, upper or lower neighbour's.

    Both sides of a boundary are edges; the border of the image is not.
    """
    across = instance[:, :, 1:] != instance[:, :, :-1]
    down = instance[:, 1:] != instance[:, :-1]
    edges = jnp.zeros(instance.shape, bool)
    edges = edges.at[:, :, 1:].max(across).at[:, :, :-1].max(across)
    edges = edges.at[:, 1:].max(down).at[:, :-1].max(down)
    return edges[..., None].astype(jnp.float32)


def semantics(layout: Layout, classes: int) -> Float[Array, "b h w c"]:
    """The discriminator's view of a layout: one-hot classes, then the edges if any."""
    onehot = jax.nn.one_hot(layout.label, classes)
    if layout.edges is None:
        return onehot
    return jnp.concatenate([onehot, layout.edges], -1)
