"""Completions of a batch, drawn so that an image's are the same alone or among others.

The draws of an image depend on the seed and on what can be seen of it: neither on its
file's name, nor on its place in a folder or batch, nor on what its hole hides. The
command, the Python call, evaluation and evaluation during training all draw here.
"""

import zlib
from collections.abc import Callable, Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, UInt8

from picjax.data.pipeline import to_float, to_uint8
from picjax.system import System, Tree, composite_all, side_by_side


class Drawn(NamedTuple):
    """Completions on the device.

    Attributes:
      pixels: uint8 [b n h w 3].
      finite: bool [b], False where a NaN or an infinity became a pixel.
    """

    pixels: UInt8[Array, "b n h w 3"]
    finite: Bool[Array, " b"]


def make_draw(system: System) -> Callable[..., Drawn]:
    """A function (variables, batch, key, n, of, raw) -> Drawn, to be compiled.

    The batch is what `visible` gives. `of` are drawn and the n that the system scores
    highest kept, best first. Where `raw`, known pixels are as the system's networks
    make them, else the batch's. n, of and raw are static.
    """

    def draw(
        variables: Tree,
        batch: Mapping[str, Array],
        key: Array,
        n: int,
        of: int,
        raw: bool,
    ) -> Drawn:
        def one(example: dict[str, Array], content: Array) -> Array:
            alone = {name: x[None] for name, x in example.items()}
            own = jax.random.fold_in(key, content)
            made = system.sample(variables, alone, own, of)
            kept = composite_all(alone, made)[0]
            images = made[0] if raw else kept
            # Chosen by what is measured otherwise, so that both are of the same draws.
            return images if n == of else images[best(system, variables, kept, n)]

        floats = to_float(batch)
        content = floats.pop("content")
        # What the hole hides never reaches the system.
        floats["image"] = floats["image"] * floats["mask"]
        images = jax.vmap(one)(floats, content)
        return Drawn(to_uint8(images), jnp.isfinite(images).all((1, 2, 3, 4)))

    return draw


def best(
    system: System, variables: Tree, images: Float[Array, "of h w 3"], n: int
) -> Int[Array, " n"]:
    """Which n images the system scores highest, best first."""
    # So many at a time as they were made.
    scores = jax.lax.map(
        lambda image: system.score(variables, image[None])[0],
        images,
        batch_size=side_by_side(len(images)),
    )
    return jax.lax.top_k(scores, n)[1]


def visible(
    images: UInt8[np.ndarray, "b h w 3"],
    known: UInt8[np.ndarray, "b h w 1"],
    given: Mapping[str, np.ndarray],
) -> dict[str, np.ndarray]:
    """What can be seen of images, with a checksum of it that their draws depend on.

    Args:
      images: what lies in the hole is left out.
      known: 1 = known, 0 = hole.
      given: what else the system is given, such as `condition` uint8 [b h w 3].
    """
    seen = {"image": images * known, "mask": known, **given}
    content = np.zeros(len(images), np.uint32)
    for arrays in seen.values():
        content[:] = [
            zlib.crc32(array.tobytes(), before)
            for array, before in zip(arrays, content.tolist(), strict=True)
        ]
    return {**seen, "content": content}
