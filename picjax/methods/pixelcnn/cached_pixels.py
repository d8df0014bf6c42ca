"""Cached sampling within a row: stream `ul` pixel by pixel, and the draws.

What `ul`'s layers take from the row above and from stream `u` is ready before; a scan
over the columns adds what they take from the row itself, carrying the contribution of
the pixel to the left.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float

from picjax.methods.pixelcnn import logistic
from picjax.methods.pixelcnn.cached_weights import Weights
from picjax.methods.pixelcnn.layers import NONLINEARITIES, gate, with_ones
from picjax.methods.pixelcnn.net import LEVELS, PixelCNN, level_of, walk
from picjax.methods.pixelcnn.raster import Noise

Rows = dict[str, Array]  # layer -> a row of its input


class Model(NamedTuple):
    """What draws a pixel.

    Attributes:
      net: how the network is built.
      weights: its weights.
      rounded: whether draws are rounded to the 256 values.
    """

    net: PixelCNN
    weights: Weights
    rounded: bool

    @property
    def act(self) -> Callable[[Array], Array]:
        """The network's nonlinearity."""
        return NONLINEARITIES[self.net.nonlinearity]


class Pixels(NamedTuple):
    """Known pixels, and the noise for the others; columns (and rows) come first."""

    image: Float[Array, "*h w n c"]
    known: Bool[Array, "*h w n 1"]
    noise: Noise


class Column(NamedTuple):
    """What the layers of ul need at one column of a group, and what they leave.

    Attributes:
      position: of the column in its group.
      levels: number of levels that are active in this row.
      ready: layer -> what it takes from the row above and from u.
      left: layer -> the contribution of the pixel to the left; replaced by that to the
        next pixel of its level.
      inputs: layer -> its inputs so far; appended to.
      coarse: level -> the output of the next coarser one for the next column.
    """

    position: int
    levels: int
    ready: Mapping[str, Array]
    left: Rows
    inputs: dict[str, list[Array]]
    coarse: dict[int, Array]


def levels_at(position: int) -> int:
    """Number of levels that are active at a row or column."""
    return next(n for n in range(LEVELS, 0, -1) if position % 2 ** (n - 1) == 0)


def draw_row(
    model: Model, ready: Rows, pixels: Pixels, levels: int
) -> tuple[Float[Array, "w n c"], Rows]:
    """Draw a row.

    Args:
      model: the network.
      ready: layer -> what it takes from the row above and from u, [n 1 w c].
      pixels: of this row.
      levels: number of levels that are active in this row.

    Returns:
      The pixels, and the row of each of ul's inputs.
    """
    net = model.net
    group = 2 ** (levels - 1)  # columns after which the pattern of levels repeats

    def grouped(x: Array) -> Array:
        """Columns first and in groups: each level has its own number per group."""
        groups = pixels.image.shape[0] // group
        return x.reshape(groups, x.shape[0] // groups, *x.shape[1:])

    columns_first = {path: grouped(x[:, 0].swapaxes(0, 1)) for path, x in ready.items()}
    columns = columns_first, jax.tree.map(grouped, pixels)
    n, dtype = pixels.image.shape[1], net.dtype
    left = {path: jnp.zeros((n, x.shape[-1]), dtype) for path, x in ready.items()}
    left.pop("coarser", None)
    # The pixel to the left itself.
    left["stem"] = jnp.zeros((n, net.channels + 1), pixels.image.dtype)

    def draw_some(left: Rows, columns: tuple[Rows, Pixels]) -> Any:
        return _draw_group(model, levels, left, *columns)

    _, (drawn, inputs) = lax.scan(draw_some, left, columns)
    rows = {
        path: x.reshape(-1, *x.shape[2:]).swapaxes(0, 1)[:, None]
        for path, x in inputs.items()
    }
    return drawn.reshape(-1, *drawn.shape[2:]), rows


def _draw_group(
    model: Model, levels: int, left: Rows, ready: Rows, pixels: Pixels
) -> tuple[Rows, tuple[Array, Rows]]:
    """Draw a group of columns: what the next one needs, pixels, and ul's inputs."""
    net, weights = model.net, model.weights
    left = dict(left)
    inputs: dict[str, list[Array]] = {}
    coarse: dict[int, Array] = {}
    drawn = []
    for i in range(len(pixels.image)):
        active = min(levels, levels_at(i))
        stem = left["stem"].astype(net.dtype) @ weights.kernel["stem_left"][1, 0]
        coarser = None
        if active < levels:
            coarser = coarse.pop(active - 1)
        elif levels < LEVELS:
            coarser = ready["coarser"][i >> (levels - 1)]
        layers = _layers_at(model, Column(i, levels, ready, left, inputs, coarse))
        ul = walk(net.blocks, stem + ready["stem"][i], *layers, active, coarser)
        out = jax.nn.elu(ul) @ weights.kernel["head"] + weights.bias["head"][0, 0]
        noise = pixels.noise.mixture[i], pixels.noise.value[i]
        value = logistic.draw(out.astype(jnp.float32), *noise, model.rounded)
        pixel = jnp.where(pixels.known[i], pixels.image[i], value)
        left["stem"] = with_ones(pixel)
        drawn.append(pixel)
    stacked = {path: jnp.stack(values) for path, values in inputs.items()}
    return left, (jnp.stack(drawn), stacked)


def _layers_at(
    model: Model, at: Column
) -> tuple[Callable[..., Array], Callable[..., Array], Callable[..., Array]]:
    """ul's blocks, `shrink` and `grow` at one column, for `walk`."""
    weights, act = model.weights, model.act

    def conv(path: str, x: Array) -> Array:
        at.inputs.setdefault(path, []).append(x)
        now, later = jnp.split(x @ weights.pixel[path], 2, -1)
        y = at.ready[path][at.position >> level_of(path)] + at.left[path] + now
        at.left[path] = later
        return y

    def block(name: str, x: Array, skip: Array | None) -> Array:
        path = f"{name}_ul"
        c = conv(f"{path}/conv_a", act(x))
        if skip is not None:
            c = c + act(skip) @ weights.pixel[f"{path}/nin"]
        return gate(x, conv(f"{path}/conv_b", act(c)))

    def shrink(name: str, x: Array) -> Array:
        path, level = f"{name}_ul", level_of(name)
        at.inputs.setdefault(path, []).append(x)
        if level + 1 >= at.levels:
            return x  # the coarser level is idle in this row
        now, later = jnp.split(weights.pixel[path], 2, -1)
        if at.position >> level & 1:
            at.left[path] = x @ later
            return x
        return at.ready[path][at.position >> level + 1] + at.left[path] + x @ now

    def grow(name: str, x: Array) -> Array:
        path = f"{name}_ul"
        at.inputs.setdefault(path, []).append(x)
        now, later = jnp.split(x @ weights.pixel[path], 2, -1)
        bias = weights.bias[path][0, 0]
        at.coarse[level_of(name) - 1] = later + bias
        return now + bias

    return block, shrink, grow
