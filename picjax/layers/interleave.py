"""Several batches of the same examples as one batch, without moving any example.

A batch is split over the devices along its first axis. Batches that are concatenated
along it, and split again, make the devices exchange their examples; interleaved, all rows
of an example stay where it is.
"""

from typing import TypeVar

import jax
import jax.numpy as jnp
from jaxtyping import Array

T = TypeVar("T")


def interleave(*batches: T) -> T:
    """n batches, or trees of them, as one: row n i + k is row i of batch k."""

    def join(*rows: Array) -> Array:
        return jnp.stack(rows, 1).reshape(-1, *rows[0].shape[1:])

    return jax.tree.map(join, *batches)


def separate(batch: T, n: int) -> list[T]:
    """The n batches, or trees of them, of which `interleave` made one."""

    def take(k: int) -> T:
        return jax.tree.map(lambda x: x.reshape(-1, n, *x.shape[1:])[:, k], batch)

    return [take(k) for k in range(n)]
