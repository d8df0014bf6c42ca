"""Cached sampling of PixelCNN++: each feature is computed once per sample.

Naive sampling runs the whole network for each pixel. Here the rows of a sample are drawn
in order. For each, stream `u` runs once on the whole row, from a cache of the row above;
so does all of stream `ul` that does not depend on the row itself (the upper taps of its
kernels, and what it takes from `u`). The pixels follow one by one (`cached_pixels`).

A level that halves the image n times is active only where row and column are multiples
of 2^n. Four rows are unrolled, and up to four columns inside the scan, so that this is
known at compile time: there is no branch. An image costs as many multiplications as one
pass of the network over it. The idea is that of Ramachandran et al. (2017, arXiv
1704.06001).
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float

from picjax.methods.pixelcnn.cached_pixels import (
    Model,
    Pixels,
    Rows,
    draw_row,
    levels_at,
)
from picjax.methods.pixelcnn.cached_weights import Weights, prepare
from picjax.methods.pixelcnn.layers import (
    convolve,
    crop,
    gate,
    shift_right,
    transposed,
    with_ones,
)
from picjax.methods.pixelcnn.net import LEVELS, PixelCNN, check_size, level_of, walk
from picjax.methods.pixelcnn.raster import Noise, anywhere
from picjax.system import Tree

PERIOD = 2 ** (LEVELS - 1)  # rows after which the pattern of active levels repeats
SIDES, LEFT = ((0, 0), (1, 1)), ((0, 0), (1, 0))  # padding of u's and ul's rows


class Inputs(NamedTuple):
    """Images to complete.

    Attributes:
      image: in [-1, 1]; missing pixels have no influence.
      known: 1 = known pixel, which is kept.
      noise: of n samples per image, [b n h w ..].
    """

    image: Float[Array, "b h w c"]
    known: Bool[Array, "b h w 1"]
    noise: Noise


def sample(
    net: PixelCNN,
    params: Tree,
    inputs: Inputs,
    condition: Float[Array, "b k"] | None = None,
    rounded: bool = False,
) -> Float[Array, "b n h w c"]:
    """Draw the missing pixels n times, in raster order, and keep the others.

    The rows above the first hole are read by one pass of the network that all n samples
    share; those below the last are not read.

    Args:
      net: how the network is built.
      params: its parameters.
      inputs: images, known pixels and noise.
      condition: that of each image, if the network is conditional.
      rounded: whether draws are rounded to the 256 values.
    """
    image, known, noise = inputs
    b, height, width, _ = image.shape
    check_size(height, width)
    n = noise.value.shape[1]
    model = Model(net, prepare(net, params, condition, n), rounded)
    holes = anywhere(jnp.logical_not(known).any((0, 2, 3)))
    rows = jnp.arange(height)
    first = jnp.where(holes, rows, height).min() // PERIOD
    end = jnp.where(holes, rows + 1, 0).max() + PERIOD - 1

    def pixels_first(x: Array) -> Array:
        """[b n h w c] as [h w bn c]."""
        return x.reshape(b * n, *x.shape[2:]).transpose(1, 2, 0, 3)

    def repeated(x: Array) -> Array:
        return jnp.repeat(x, n, 0)

    pixels = Pixels(
        repeated(image).transpose(1, 2, 0, 3),
        repeated(known).transpose(1, 2, 0, 3),
        Noise(pixels_first(noise.mixture), pixels_first(noise.value)),
    )
    start = jnp.where(known, image, 0)
    caches = read_known_rows(net, params, start, condition, first)
    above = image_rows_above(start, first)
    carry = jax.tree.map(repeated, caches), repeated(above), pixels.image

    def draw_some(i: Array, carry: Any) -> Any:
        return draw_rows(model, pixels, i, carry)

    _, _, image = lax.fori_loop(first, end // PERIOD, draw_some, carry)
    return image.transpose(2, 0, 1, 3).reshape(b, n, height, width, -1)


# ---- the known rows ----


def read_known_rows(
    net: PixelCNN, params: Tree, image: Array, condition: Array | None, first: Array
) -> Rows:
    """The caches before row 4 `first`: each layer's input in the row above; 0 at the top.

    One pass of the network over the image, if there are rows above.
    """

    network: Any = net  # the type of `apply` does not know `mutable`

    def read() -> Rows:
        _, sown = network.apply(
            {"params": params}, image, False, condition, mutable=["inputs"]
        )
        rows = {}
        for name, module in sown["inputs"].items():
            for part, layer in ({"": module} if "x" in module else module).items():
                if name.startswith("stem"):
                    continue
                row = first * (PERIOD >> level_of(name)) - 1
                path = f"{name}/{part}".rstrip("/")
                rows[path] = lax.dynamic_slice_in_dim(layer["x"][0], row, 1, 1)
        return rows

    shapes = jax.eval_shape(read)
    zeros = {path: jnp.zeros(x.shape, x.dtype) for path, x in shapes.items()}
    return lax.cond(first > 0, read, lambda: zeros)


def image_rows_above(image: Array, first: Array) -> Float[Array, "b 2 w c"]:
    """The two rows above row 4 `first`, with ones; 0 outside the image."""
    padded = jnp.pad(with_ones(image), ((0, 0), (2, 0), (0, 0), (0, 0)))
    return lax.dynamic_slice_in_dim(padded, first * PERIOD, 2, 1)


# ---- rows ----


def draw_rows(
    model: Model, pixels: Pixels, i: Array, carry: tuple[Rows, Array, Array]
) -> tuple[Rows, Array, Array]:
    """Draw rows 4 i to 4 i + 3.

    Args:
      model: the network.
      pixels: of the whole images.
      i: the number of the four rows.
      carry: caches, the two image rows above, and the images so far.
    """
    caches, above, image = carry
    coarse_u: dict[int, Array] = {}  # level -> the next row from the coarser one
    coarse_ul: dict[int, Array] = {}
    for phase in range(PERIOD):
        levels, row = levels_at(phase), PERIOD * i + phase
        inside = (row > 0).astype(model.net.dtype)
        stem_u, stem_ul = stem_row(model.weights, above.astype(model.net.dtype), inside)
        u, rows_u = u_row(model, caches, stem_u, levels, coarse_u)
        ready = prepare_ul(model, caches, u, levels)
        ready["stem"] = stem_ul
        if levels < LEVELS:
            ready["coarser"] = coarse_ul.pop(levels - 1)
        drawn, rows_ul = draw_row(model, ready, row_of(pixels, row), levels)
        for level in range(1, levels):
            name = f"grow{level}_ul"
            coarse_ul[level - 1] = second_row(model.weights, name, rows_ul.pop(name))
        caches = caches | rows_u | rows_ul
        line = with_ones(drawn.swapaxes(0, 1))[:, None]
        above = jnp.concatenate([above[:, 1:], line], 1)
        image = lax.dynamic_update_index_in_dim(image, drawn, row, 0)
    return caches, above, image


def row_of(pixels: Pixels, row: Array) -> Pixels:
    """The pixels of one row."""
    return jax.tree.map(
        lambda x: lax.dynamic_index_in_dim(x, row, 0, keepdims=False), pixels
    )


def stem_row(weights: Weights, above: Array, inside: Array) -> tuple[Array, Array]:
    """The outputs of both stems in a row, ul's without the pixel to the left.

    `inside` is 0 at the first row, where the rows above contribute nothing, not even a
    bias.
    """
    kernel, bias = weights.kernel, weights.bias
    u = convolve(above, kernel["stem_u"], 1, SIDES) + bias["stem_u"]
    last = above[:, 1:]
    over = convolve(last, kernel["stem_above"], 1, SIDES) + bias["stem_above"]
    left = last @ kernel["stem_left"][0, 0] + bias["stem_left"]
    return u * inside, over * inside + shift_right(left)


def u_row(
    model: Model, caches: Rows, stem: Array, levels: int, coarse: dict[int, Array]
) -> tuple[Rows, Rows]:
    """Run stream u on a row.

    Args:
      model: the network.
      caches: layer -> the row of its input above this one.
      stem: the stem's output.
      levels: number of active levels.
      coarse: level -> the output of the next coarser one, which is idle in this row;
        receives the second of the two rows that each active one returns.

    Returns:
      u after each block, and the new rows of the caches.
    """
    net, weights, act = model.net, model.weights, model.act
    outputs: Rows = {}
    rows: Rows = {}

    def conv(path: str, x: Array, stride: int = 1) -> Array:
        rows[path] = x
        both = jnp.concatenate([caches[path], x], 1)
        return convolve(both, weights.kernel[path], stride, SIDES) + weights.bias[path]

    def block(name: str, x: Array, skip: Array | None) -> Array:
        path = f"{name}_u"
        c = conv(f"{path}/conv_a", act(x))
        if skip is not None:
            nin = f"{path}/nin"
            c = c + act(skip) @ weights.kernel[nin] + weights.bias[nin]
        outputs[name] = gate(x, conv(f"{path}/conv_b", act(c)))
        return outputs[name]

    def shrink(name: str, x: Array) -> Array:
        if level_of(name) + 1 < levels:
            return conv(f"{name}_u", x, 2)
        rows[f"{name}_u"] = x
        return x

    def grow(name: str, x: Array) -> Array:
        path = f"{name}_u"
        pair = crop(transposed(x, weights.kernel[path])) + weights.bias[path]
        coarse[level_of(name) - 1] = pair[:, 1:]
        return pair[:, :1]

    coarser = None if levels == LEVELS else coarse.pop(levels - 1)
    walk(net.blocks, stem, block, shrink, grow, levels, coarser)
    return outputs, rows


def prepare_ul(model: Model, caches: Rows, u: Rows, levels: int) -> Rows:
    """What each of ul's layers takes from the row above and from u, at each column."""
    weights, ready = model.weights, {}
    for path, bias in weights.bias.items():
        name, _, part = path.partition("/")
        if not name.endswith("_ul") or part == "nin" or name.startswith("grow"):
            continue
        shrinks = name.startswith("shrink")
        if level_of(name) + shrinks >= levels:
            continue
        upper = weights.kernel[path][:1]
        ready[path] = convolve(caches[path], upper, 1 + shrinks, LEFT) + bias
        if part == "conv_a":
            nin = f"{name}/nin"
            from_u = model.act(u[name.removesuffix("_ul")]) @ weights.nin_u[nin]
            ready[path] = ready[path] + from_u + weights.bias[nin]
    return ready


def second_row(weights: Weights, path: str, x: Array) -> Array:
    """The second of the two rows that `grow` makes of ul's row `x`."""
    n, _, width, _ = x.shape
    taps = jnp.einsum("nywc,xoc->nywxo", x, weights.kernel[path][1])
    return taps.reshape(n, 1, 2 * width, -1) + weights.bias[path]
