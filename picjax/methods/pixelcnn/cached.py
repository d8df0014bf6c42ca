"""PixelCNN++ one row and one pixel at a time: every feature is computed once.

Naive sampling runs the whole network for each pixel. Here the rows of a sample are made
in order. For each, stream `u` runs once on the whole row, from a cache of the row above;
everything of stream `ul` that does not depend on the row itself (the upper taps of its
kernels, and what it takes from `u`) is computed at once as well; then a scan over the
columns adds what does, carrying the contribution of the pixel to the left, and draws.

A level that halves the image n times runs only where row and column are multiples of
2^n. Four rows are unrolled, and up to four columns inside the scan, so that this is
known when compiling: there is no branch. An image costs as many products as one pass of
the network over it.
"""

import re
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float

from picjax.methods.pixelcnn import logistic
from picjax.methods.pixelcnn.net import (
    LEVELS,
    NONLINEARITIES,
    PixelCNN,
    check_size,
    convolve,
    crop,
    effective,
    shift_right,
    transposed,
    walk,
    with_ones,
)
from picjax.methods.pixelcnn.raster import Noise, anywhere
from picjax.system import Tree

PERIOD = 2 ** (LEVELS - 1)  # rows after which the pattern of levels repeats
SIDES, LEFT = ((0, 0), (1, 1)), ((0, 0), (1, 0))  # padding of u's and ul's rows

Rows = dict[str, Array]  # layer -> the row of its input above the one being made


def sample(
    net: PixelCNN,
    params: Tree,
    image: Float[Array, "b h w c"],
    known: Bool[Array, "b h w 1"],
    noise: Noise,
    condition: Float[Array, "b k"] | None = None,
    rounded: bool = False,
) -> Float[Array, "b n h w c"]:
    """Draws what is not known, in raster order, n times; the rest is the image's.

    Rows above the first hole are seen by one pass of the network that all n share, and
    rows below the last are not looked at.

    Args:
      net: how the network is built.
      params: its parameters.
      image: in [-1, 1]; what lies in the hole has no influence.
      known: what is kept.
      noise: [b n h w ..].
      condition: what the network is conditioned on, if it is.
      rounded: draws are rounded to the 256 values.
    """
    b, height, width, _ = image.shape
    check_size(height, width)
    n = noise.value.shape[1]
    weights = prepare(net, params, condition, n)
    start = jnp.where(known, image, 0)
    holes = anywhere(jnp.logical_not(known).any((0, 2, 3)))
    rows = jnp.arange(height)
    first = jnp.where(holes, rows, height).min() // PERIOD
    end = jnp.where(holes, rows + 1, 0).max() + PERIOD - 1

    def by_pixel(x: Array) -> Array:
        """[b n h w c] as [h w bn c]."""
        return x.reshape(b * n, *x.shape[2:]).transpose(1, 2, 0, 3)

    def repeated(x: Array) -> Array:
        return jnp.repeat(x, n, 0)

    given = Given(
        repeated(image).transpose(1, 2, 0, 3),
        repeated(known).transpose(1, 2, 0, 3),
        Noise(by_pixel(noise.mixture), by_pixel(noise.value)),
    )
    caches = see_known(net, params, start, condition, first)
    above = image_rows_above(start, first)
    carry = jax.tree.map(repeated, caches), repeated(above), given.image

    def some_rows(i: Array, carry: Any) -> Any:
        return make_rows(net, weights, given, rounded, i, carry)

    _, _, image = lax.fori_loop(first, end // PERIOD, some_rows, carry)
    return image.transpose(2, 0, 1, 3).reshape(b, n, height, width, -1)


class Given(NamedTuple):
    """What is known of every pixel beforehand, rows and columns first."""

    image: Float[Array, "h w n c"]
    known: Bool[Array, "h w n 1"]
    noise: Noise


# ---- weights ----


class Weights(NamedTuple):
    """The network's layers by path, in the shapes that rows and pixels need.

    Attributes:
      kernel: of every layer.
      bias: [1 1 1 c], or [n 1 1 c] where the condition is part of it.
      pixel: of ul's layers, [c d]: the tap at the pixel and the one that the pixel to
        the right sees, side by side; for `nin`, the part for the skip.
      nin_u: of ul's `nin`, the part for u.
    """

    kernel: dict[str, Array]
    bias: dict[str, Array]
    pixel: dict[str, Array]
    nin_u: dict[str, Array]


def prepare(
    net: PixelCNN, params: Tree, condition: Float[Array, "b k"] | None, n: int
) -> Weights:
    """Folds gains and conditions into kernels and biases and takes kernels apart."""
    made = Weights({}, {}, {}, {})
    for name, module in params.items():
        layers = {name: module} if "V" in module else module
        for part, layer in layers.items():
            if part == "hw":
                continue
            path = name if part == name else f"{name}/{part}"
            axis = -2 if name.startswith("grow") else -1
            kernel = effective(layer["V"], layer["g"], axis).astype(net.dtype)
            made.kernel[path] = kernel
            made.bias[path] = layer["b"].astype(net.dtype)[None, None, None]
            if name.endswith("_ul"):
                _take_apart(made, path, kernel, net.features)
        if condition is not None and "hw" in module:
            moved = jnp.repeat(condition @ module["hw"], n, 0)[:, None, None]
            path = f"{name}/conv_b"
            made.bias[path] = made.bias[path] + moved.astype(net.dtype)
    return made


def _take_apart(made: Weights, path: str, kernel: Array, features: int) -> None:
    """What ul's layers need at a pixel."""
    if path.endswith("nin"):
        out = kernel.shape[-1]
        if path.startswith("up"):
            made.nin_u[path] = kernel
            return
        # Rows: u, skip and, with concat_elu, -u, -skip.
        parts = kernel.reshape(-1, 2, features, out)
        made.nin_u[path] = parts[:, 0].reshape(-1, out)
        made.pixel[path] = parts[:, 1].reshape(-1, out)
    elif path.startswith("grow"):
        taps = kernel[0].transpose(0, 2, 1)
        made.pixel[path] = jnp.concatenate([taps[0], taps[1]], -1)
    else:
        made.pixel[path] = jnp.concatenate([kernel[1, 1], kernel[1, 0]], -1)


# ---- the known rows ----


def see_known(
    net: PixelCNN, params: Tree, image: Array, condition: Array | None, first: Array
) -> Rows:
    """The caches before rows 4 `first`, 4 `first` + 1, ..: zero at the top."""

    network: Any = net  # `apply` gives what `mutable` says, which its type cannot

    def whole() -> Rows:
        _, seen = network.apply(
            {"params": params}, image, False, condition, mutable=["inputs"]
        )
        rows = {}
        for name, module in seen["inputs"].items():
            for part, layer in ({"": module} if "x" in module else module).items():
                if name.startswith("stem"):
                    continue
                row = first * (PERIOD >> level_of(name)) - 1
                path = f"{name}/{part}".rstrip("/")
                rows[path] = lax.dynamic_slice_in_dim(layer["x"][0], row, 1, 1)
        return rows

    shapes = jax.eval_shape(whole)
    zeros = {path: jnp.zeros(x.shape, x.dtype) for path, x in shapes.items()}
    return lax.cond(first > 0, whole, lambda: zeros)


def image_rows_above(image: Array, first: Array) -> Float[Array, "b 2 w c"]:
    """The two rows above row 4 `first`, with ones; 0 beyond the edge."""
    padded = jnp.pad(with_ones(image), ((0, 0), (2, 0), (0, 0), (0, 0)))
    return lax.dynamic_slice_in_dim(padded, first * PERIOD, 2, 1)


def level_of(name: str) -> int:
    """The level at which a layer's input lives."""
    found = re.search(r"\d", name)
    assert found, name
    return int(found[0])


def levels_at(place: int) -> int:
    """How many levels run at a row or column."""
    return next(n for n in range(LEVELS, 0, -1) if place % 2 ** (n - 1) == 0)


# ---- rows ----


def make_rows(
    net: PixelCNN,
    weights: Weights,
    given: Given,
    rounded: bool,
    i: Array,
    carry: tuple[Rows, Array, Array],
) -> tuple[Rows, Array, Array]:
    """Rows 4 i to 4 i + 3: the caches, two rows above and the image after them."""
    caches, above, image = carry
    coarse_u: dict[int, Array] = {}  # level -> what the coarser one hands it next
    coarse_ul: dict[int, Array] = {}
    for phase in range(PERIOD):
        levels, row = levels_at(phase), PERIOD * i + phase
        inside = (row > 0).astype(net.dtype)
        stem = stem_row(weights, above.astype(net.dtype), inside)
        seen_u, rows_u = u_row(net, weights, caches, stem[0], levels, coarse_u)
        ready = prepare_ul(net, weights, caches, seen_u, levels)
        ready["stem"] = stem[1]
        if levels < LEVELS:
            ready["coarser"] = coarse_ul.pop(levels - 1)
        here = at_row(given, row)
        made, rows_ul = ul_row(net, weights, ready, here, levels, rounded)
        for level in range(1, levels):
            name = f"grow{level}_ul"
            coarse_ul[level - 1] = second_row(weights, name, rows_ul.pop(name))
        caches = caches | rows_u | rows_ul
        line = with_ones(made.swapaxes(0, 1))[:, None]
        above = jnp.concatenate([above[:, 1:], line], 1)
        image = lax.dynamic_update_index_in_dim(image, made, row, 0)
    return caches, above, image


def at_row(given: Given, row: Array) -> Given:
    """What is known of a row's pixels, columns first."""
    return jax.tree.map(
        lambda x: lax.dynamic_index_in_dim(x, row, 0, keepdims=False), given
    )


def stem_row(weights: Weights, above: Array, inside: Array) -> tuple[Array, Array]:
    """Both stems' outputs at a row, ul's without the pixel to the left.

    `inside` is 0 at the first row, where nothing is above, not even a bias.
    """
    kernel, bias = weights.kernel, weights.bias
    u = convolve(above, kernel["stem_u"], 1, SIDES) + bias["stem_u"]
    last = above[:, 1:]
    over = convolve(last, kernel["stem_above"], 1, SIDES) + bias["stem_above"]
    left = last @ kernel["stem_left"][0, 0] + bias["stem_left"]
    return u * inside, over * inside + shift_right(left)


def u_row(
    net: PixelCNN,
    weights: Weights,
    caches: Rows,
    stem: Array,
    levels: int,
    coarse: dict[int, Array],
) -> tuple[Rows, Rows]:
    """A row of u after each block, and the new rows of the caches.

    `coarse` gives the row that a level at rest hands back, and takes the second of the
    two rows that each other one does.
    """
    act = NONLINEARITIES[net.nonlinearity]
    seen: Rows = {}
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
        seen[name] = gate(x, conv(f"{path}/conv_b", act(c)))
        return seen[name]

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
    return seen, rows


def gate(x: Array, c: Array) -> Array:
    """What a gated block makes of its input and its last convolution."""
    value, gate = jnp.split(c, 2, -1)
    return x + value * jax.nn.sigmoid(gate)


def prepare_ul(
    net: PixelCNN, weights: Weights, caches: Rows, u: Rows, levels: int
) -> Rows:
    """All that ul's layers take from the row above and from u, at each column."""
    act = NONLINEARITIES[net.nonlinearity]
    ready: Rows = {}
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
            own = act(u[name.removesuffix("_ul")]) @ weights.nin_u[nin]
            ready[path] = ready[path] + own + weights.bias[nin]
    return ready


def second_row(weights: Weights, path: str, x: Array) -> Array:
    """The second of the two rows that ul's row `x` grows to."""
    n, _, width, _ = x.shape
    taps = jnp.einsum("nywc,xoc->nywxo", x, weights.kernel[path][1])
    return taps.reshape(n, 1, 2 * width, -1) + weights.bias[path]


# ---- pixels ----


def ul_row(
    net: PixelCNN,
    weights: Weights,
    ready: Rows,
    here: Given,
    levels: int,
    rounded: bool,
) -> tuple[Float[Array, "w n c"], Rows]:
    """Draws a row, and the row of ul's inputs for the caches (and for `second_row`)."""
    group = 2 ** (levels - 1)  # columns after which the pattern of levels repeats

    def grouped(x: Array) -> Array:
        """Columns first and in groups: a level's own share of each."""
        width = here.image.shape[0] // group
        return x.reshape(width, x.shape[0] // width, *x.shape[1:])

    first = {path: grouped(x[:, 0].swapaxes(0, 1)) for path, x in ready.items()}
    columns = first, jax.tree.map(grouped, here)
    n, dtype = here.image.shape[1], net.dtype
    # What the pixel to the left gives each layer, and that pixel itself.
    left = {path: jnp.zeros((n, x.shape[-1]), dtype) for path, x in ready.items()}
    left.pop("coarser", None)
    left["stem"] = jnp.zeros((n, net.channels + 1), here.image.dtype)

    def some_columns(left: Rows, columns: tuple[Rows, Given]) -> Any:
        return make_columns(net, weights, levels, rounded, left, *columns)

    _, (made, seen) = lax.scan(some_columns, left, columns)
    rows = {
        path: x.reshape(-1, *x.shape[2:]).swapaxes(0, 1)[:, None]
        for path, x in seen.items()
    }
    return made.reshape(-1, *made.shape[2:]), rows


def make_columns(
    net: PixelCNN,
    weights: Weights,
    levels: int,
    rounded: bool,
    left: Rows,
    ready: Rows,
    here: Given,
) -> tuple[Rows, tuple[Array, Rows]]:
    """One group of columns: what the next one needs, pixels, and ul's inputs."""
    left = dict(left)
    seen: dict[str, list[Array]] = {}
    coarse: dict[int, Array] = {}
    made = []
    for column in range(len(here.image)):
        reach = min(levels, levels_at(column))
        stem = left["stem"].astype(net.dtype) @ weights.kernel["stem_left"][1, 0]
        coarser = None
        if reach < levels:
            coarser = coarse.pop(reach - 1)
        elif levels < LEVELS:
            coarser = ready["coarser"][column >> (levels - 1)]
        layers = pixel_layers(net, weights, levels, column, left, ready, seen, coarse)
        x = stem + ready["stem"][column]
        ul = walk(net.blocks, x, *layers, reach, coarser)
        out = jax.nn.elu(ul) @ weights.kernel["head"] + weights.bias["head"][0, 0]
        noise = here.noise.mixture[column], here.noise.value[column]
        drawn = logistic.draw(out.astype(jnp.float32), *noise, rounded)
        pixel = jnp.where(here.known[column], here.image[column], drawn)
        left["stem"] = with_ones(pixel)
        made.append(pixel)
    stacked = {path: jnp.stack(inputs) for path, inputs in seen.items()}
    return left, (jnp.stack(made), stacked)


def pixel_layers(
    net: PixelCNN,
    weights: Weights,
    levels: int,
    column: int,
    left: Rows,
    ready: Mapping[str, Array],
    seen: dict[str, list[Array]],
    coarse: dict[int, Array],
) -> tuple[Callable[..., Array], Callable[..., Array], Callable[..., Array]]:
    """ul's blocks, `shrink` and `grow` at one pixel of a group, for `walk`.

    They replace in `left` what the next pixel of their level will need, append their
    inputs to `seen`, and leave in `coarse` what goes to the next column.
    """
    act = NONLINEARITIES[net.nonlinearity]

    def conv(path: str, x: Array) -> Array:
        seen.setdefault(path, []).append(x)
        now, later = jnp.split(x @ weights.pixel[path], 2, -1)
        y = ready[path][column >> level_of(path)] + left[path] + now
        left[path] = later
        return y

    def block(name: str, x: Array, skip: Array | None) -> Array:
        path = f"{name}_ul"
        c = conv(f"{path}/conv_a", act(x))
        if skip is not None:
            c = c + act(skip) @ weights.pixel[f"{path}/nin"]
        return gate(x, conv(f"{path}/conv_b", act(c)))

    def shrink(name: str, x: Array) -> Array:
        path, level = f"{name}_ul", level_of(name)
        seen.setdefault(path, []).append(x)
        if level + 1 >= levels:
            return x  # the coarser level rests in this row
        now, later = jnp.split(weights.pixel[path], 2, -1)
        if column >> level & 1:
            left[path] = x @ later
            return x
        return ready[path][column >> level + 1] + left[path] + x @ now

    def grow(name: str, x: Array) -> Array:
        path = f"{name}_ul"
        seen.setdefault(path, []).append(x)
        both = x @ weights.pixel[path]
        now, later = jnp.split(both, 2, -1)
        bias = weights.bias[path][0, 0]
        coarse[level_of(name) - 1] = later + bias
        return now + bias

    return block, shrink, grow
