"""Completions of a batch: the one path of grids, `complete`, evaluation and Python.

The completions of an image depend on the seed, its visible part and its mask: not on
its name, its place in a folder or batch, or what its hole hides.
"""

import zlib
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, UInt8

from picjax import sharding
from picjax.cli import UserError
from picjax.data import maps, pipeline
from picjax.images import image_grid, to_float, to_uint8
from picjax.system import (
    Config,
    State,
    System,
    Tree,
    composite_all,
    inference_variables,
    side_by_side,
)

GREY = 128  # of a hole, as a method sees it: 0 in [-1, 1]
# What a method may be conditioned on besides the visible pixels.
CONDITIONS = ("condition", "class", "label", "instance")
# What steers the draws of some methods and leaves their noise as it is.
CONTROLS = ("redraw", "styles")


class Completions(NamedTuple):
    """Completions on the device.

    Attributes:
      pixels: uint8 [b n h w 3].
      finite: bool [b], False if a value of the example was NaN or infinite.
      walk: of a draw that is cut into calls, the images as the method goes on with them.
    """

    pixels: UInt8[Array, "b n h w 3"]
    finite: Bool[Array, " b"]
    walk: Float[Array, "b n h w 3"] | None = None


def visible_part(batch: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """What completions of a batch may depend on, and a checksum of it.

    Args:
      batch: `image` uint8 [b h w 3], `mask` uint8 [b h w 1], 1 = known, and perhaps
        CONDITIONS and CONTROLS; other entries are ignored.

    Returns:
      `image` with 0 in the hole, `mask`, conditions, controls, and `checksum` uint32 [b]
      of all but the controls.
    """
    visible = {"image": batch["image"] * batch["mask"], "mask": batch["mask"]}
    visible |= {name: batch[name] for name in CONDITIONS if name in batch}
    checksum = np.zeros(len(batch["image"]), np.uint32)
    for arrays in visible.values():
        checksum[:] = [
            zlib.crc32(array.tobytes(), previous)
            for array, previous in zip(arrays, checksum.tolist(), strict=True)
        ]
    controls = {name: batch[name] for name in CONTROLS if name in batch}
    return {**visible, **controls, "checksum": checksum}


def make_draw(system: System) -> Callable[..., Completions]:
    """Return a function that draws completions of a batch, to be compiled.

    Its arguments are `variables`, a batch of `visible_part` and a key, then by keyword
    and static:

    n: completions per example.
    num_candidates: how many are drawn; the n that the method scores highest are
      returned, best first.
    composite: whether the known pixels are the input's; otherwise they are the
      networks'.

    If the batch has a `count` (int32 [2]), a system that counts its draws makes those of
    the n completions from the first number up to the second, and leaves the others at
    any value. With `walk` and `calls` it makes some calls of the n completions from the
    first number on (`System.walk_calls`).
    """

    def draw(
        variables: Tree,
        batch: Mapping[str, Array],
        key: Array,
        *,
        n: int,
        num_candidates: int,
        composite: bool = True,
    ) -> Completions:
        def draw_one(example: dict[str, Array], checksum: Array) -> tuple[Array, Any]:
            alone = {name: x[None] for name, x in example.items()} | shared
            own_key = jax.random.fold_in(key, checksum)
            samples = system.sample(variables, alone, own_key, num_candidates)
            composited = composite_all(alone, samples)[0]
            images = composited if composite else samples[0]
            if n == num_candidates:
                return images, samples[0] if "walk" in alone else None
            # Scored composited in both cases, so that both return the same draws.
            return images[best(system, variables, composited, n)], None

        floats = to_float(batch)
        checksum = floats.pop("checksum")
        shared = {x: floats.pop(x) for x in ("count", "calls") if x in floats}
        # Grey in the hole: its pixels never reach the method.
        floats["image"] = floats["image"] * floats["mask"]
        images, walk = jax.vmap(draw_one)(floats, checksum)
        finite = jnp.isfinite(images).all((1, 2, 3, 4))
        return Completions(to_uint8(images), finite, walk)

    return draw


def make_grid(
    config: Config, system: System, mesh: jax.sharding.Mesh
) -> Callable[[State], np.ndarray]:
    """Return a function that draws a grid: inputs, truth, completions, extra columns.

    The held-out images (four) and the draws are the same every time.
    """
    batch = next(iter(pipeline.eval_batches(config.data, config.image_size, 4, 4, 0)))
    whole = sharding.replicated(mesh)
    place = partial(jax.make_array_from_process_local_data, whole)
    visible = {name: place(x) for name, x in visible_part(batch).items()}
    truth = place(batch["image"])
    shown = grid_inputs(config, batch) | {"truth": batch["image"]}
    key, n = jax.random.key(0), config.samples
    draw = make_draw(system)

    @partial(jax.jit, out_shardings=whole)
    def columns(variables, visible, truth):
        completions = draw(variables, visible, key, n=n, num_candidates=n).pixels
        full = to_float({**visible, "image": truth})
        extra = system.visualize(variables, full, key)
        drawn = {str(i + 1): completions[:, i] for i in range(n)}
        return drawn, {title: to_uint8(x) for title, x in extra.items()}

    def draw_grid(state: State) -> np.ndarray:
        drawn, extra = jax.device_get(
            columns(inference_variables(state), visible, truth)
        )
        # Returned by `jit` in the order of their names.
        numbered = {title: drawn[title] for title in map(str, range(1, n + 1))}
        by_title = {**shown, **numbered, **extra}
        rows = zip(*by_title.values(), strict=True)
        return image_grid([list(row) for row in rows], list(by_title))

    return draw_grid


def grid_inputs(
    config: Config, batch: Mapping[str, Any]
) -> dict[str, UInt8[np.ndarray, "b h w 3"]]:
    """What completions are conditioned on, as columns of a grid by title.

    `input` is the picture to translate, or the known pixels if there are any; `labels`
    the label map in colours.
    """
    columns = {}
    if "condition" in batch:
        columns["input"] = batch["condition"]
    elif "label" not in batch or batch["mask"].any():
        columns["input"] = np.where(batch["mask"], batch["image"], np.uint8(GREY))
    if "label" in batch:
        classes = maps.classes(config.data.maps)
        columns["labels"] = np.stack([maps.colour(x, classes) for x in batch["label"]])
    return columns


def best(
    system: System, variables: Tree, images: Float[Array, "m h w 3"], n: int
) -> Int[Array, " n"]:
    """Indices of the n images that the method scores highest, best first."""
    scores = jax.lax.map(
        lambda image: system.score(variables, image[None])[0],
        images,
        batch_size=side_by_side(len(images)),
    )
    return jax.lax.top_k(scores, n)[1]


def check_finite(completions: Completions, names: Sequence[str]) -> None:
    """Refuse completions that are not finite, whose pixels would silently be black.

    Args:
      completions: of a batch.
      names: how to name each example.

    Raises:
      UserError: naming the first such example.
    """
    for name, finite in zip(names, np.asarray(completions.finite), strict=True):
        if not finite:
            raise UserError(
                f"the completions of {name} hold numbers that are not finite; training "
                "has diverged: repeat it with a lower config.opt.lr"
            )
