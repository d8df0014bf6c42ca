"""A history of generated images for the discriminator (Shrivastava et al., 2017).

Shrivastava et al., "Learning from Simulated and Unsupervised Images through Adversarial
Training", arXiv 1612.07828, section 2.3. Pix2Pix leaves it off by default.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

Pool = dict[str, Array]  # "pairs" [n h w c], "count" []


def empty_pool(size: int, shape: tuple[int, ...]) -> Pool:
    """A pool with room for `size` pairs of this shape."""
    return {"pairs": jnp.zeros((size, *shape)), "count": jnp.zeros([], jnp.int32)}


def exchange(
    pool: Pool,
    pairs: Float[Array, "b h w c"],
    swap: Float[Array, " b"],
    slot: Int[Array, " b"],
) -> tuple[Pool, Float[Array, "b h w c"]]:
    """Put new pairs into the pool; return it and the pairs for the discriminator.

    Until the pool is full, each new pair is stored and returned. Afterwards, a pair
    whose `swap` exceeds 1/2 replaces the stored pair in `slot`, which is returned in
    its place.

    Args:
      pool: from `empty_pool` or a previous call.
      pairs: conditions and generated images, concatenated along the channels.
      swap: uniform in [0, 1).
      slot: uniform integers in [0, size).
    """
    size = pool["pairs"].shape[0]

    def exchange_one(pool: Pool, inputs: tuple[Array, ...]) -> tuple[Pool, Array]:
        new, swap, slot = inputs
        filling = pool["count"] < size
        slot = jnp.where(filling, pool["count"], slot)
        old = pool["pairs"][slot]
        store = filling | (swap > 0.5)
        stored = pool["pairs"].at[slot].set(jnp.where(store, new, old))
        returned = jnp.where(store & ~filling, old, new)
        count = jnp.minimum(pool["count"] + 1, size)
        return {"pairs": stored, "count": count}, returned

    return jax.lax.scan(exchange_one, pool, (pairs, swap, slot))
