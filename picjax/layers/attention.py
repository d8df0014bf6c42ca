"""PICNet's short and long term attention (arXiv 1903.04227, section 3.3)."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from picjax.layers.conv import Conv
from picjax.layers.residual import ResBlock

# Above this many positions, the map is computed in blocks of as many rows.
MAX_ROWS = 2048


def attention_map(
    rows: Float[Array, "b m c"], keys: Float[Array, "b n c"]
) -> Float[Array, "b m n"]:
    """Softmax over n of the unscaled products, in float32."""
    energy = jnp.einsum("bmc,bnc->bmn", rows, keys, preferred_element_type=jnp.float32)
    return nn.softmax(energy)


def attend(
    query: Float[Array, "b n c"],
    values: Float[Array, "b n d"],
    max_rows: int = MAX_ROWS,
) -> Float[Array, "b n d"]:
    """Values averaged with the attention map of the query with itself.

    Never holds more than `max_rows` rows of the map, forwards or backwards.
    """

    def block(rows: Array) -> Array:
        weights = attention_map(rows, query).astype(values.dtype)
        return jnp.einsum("bmn,bnd->bmd", weights, values)

    if query.shape[1] <= max_rows:
        return block(query)
    # lax.map takes its blocks along the first axis, one position at a time.
    one = jax.checkpoint(lambda row: block(row[:, None])[:, 0])
    out = lax.map(one, jnp.moveaxis(query, 1, 0), batch_size=max_rows)
    return jnp.moveaxis(out, 0, 1)


class AutoAttention(nn.Module):
    """`Auto_Attn`: attention of features with themselves, from one or two sources.

    Without `encoded`: gamma * attended + x. With the encoder's features of the visible
    part and the mask (1 = known, may be fractional), a residual block merges that with
    the encoder's features, attended in the hole and unchanged outside it. `gamma` and
    `alpha` start at 0. The block's parameters exist in both cases, as in the original.

    Attributes:
      norm: of the merging block, an entry of `NORMS` or None.
      dtype: of computation.
    """

    norm: str | None = None
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "b h w c"],
        power_iterations: int = 0,
        encoded: Float[Array, "b h w e"] | None = None,
        mask: Float[Array, "b h w 1"] | None = None,
        train: bool = False,
    ) -> Float[Array, "b h w c"]:
        b, h, w, c = x.shape
        x = x.astype(self.dtype)
        zeros = nn.initializers.zeros_init()
        gamma = self.param("gamma", zeros, (1,)).astype(self.dtype)
        alpha = self.param("alpha", zeros, (1,)).astype(self.dtype)
        query = Conv(c // 4, 1, spectral=False, dtype=self.dtype, name="query_conv")(x)
        # The block has the original's default slope, not the networks' 0.1.
        merge = ResBlock(
            c, c, norm=self.norm, slope=0.01, dtype=self.dtype, name="model"
        )
        if encoded is None:
            if self.is_initializing():
                merge(jnp.zeros((1, 1, 1, 2 * c)))
            sources = x
        else:
            sources = jnp.concatenate([x, encoded.astype(self.dtype)], -1)
        attended = attend(query.reshape(b, h * w, -1), sources.reshape(b, h * w, -1))
        attended = attended.reshape(sources.shape)
        out = gamma.reshape(1, 1, 1, 1) * attended[..., :c] + x
        if encoded is None or mask is None:
            return out
        mask = mask.astype(self.dtype)
        hole = alpha.reshape(1, 1, 1, 1) * (1 - mask) * attended[..., c:]
        context = hole + mask * sources[..., c:]
        return merge(jnp.concatenate([out, context], -1), power_iterations, train)
