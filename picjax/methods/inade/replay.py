"""The original's generator with recorded noise, to verify imported weights."""

from collections.abc import Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array

from picjax.methods.inade.layout import Layout, edge_map


def replay(
    nets: Mapping[str, Any], variables: Mapping[str, Any], given: Mapping[str, Any]
) -> dict[str, Array]:
    """One image per layout, with running statistics and without power iterations.

    Args:
      nets: generator.
      variables: its.
      given: `label`, `instance` [b 1 h w]; `noise` [b i 2 z] of INADE; `noise_ins` [b d],
        the latent of the first layer, if it reads one; perhaps the encoder's `z_s_mu`,
        `z_s_std`, `z_b_mu`, `z_b_std` [b i z], which remap the noise.

    Returns:
      `eval_image` [b 3 h w] in [-1, 1].
    """
    label, instance = (
        jnp.asarray(given[name][:, 0]).astype(jnp.int32)
        for name in ("label", "instance")
    )
    latent, noise = (
        jnp.asarray(given[name]) if name in given else None
        for name in ("noise_ins", "noise")
    )
    if noise is not None and "z_s_mu" in given:
        scale, shift = (
            noise[:, :, i] * given[f"z_{name}_std"] + given[f"z_{name}_mu"]
            for i, name in enumerate("sb")
        )
        noise = jnp.stack([scale, shift], 2)
    layout = Layout(label, instance, edge_map(instance))
    image = _generate(nets["generator"], variables["generator"], layout, latent, noise)
    return {"eval_image": image.transpose(0, 3, 1, 2)}


@partial(jax.jit, static_argnums=0)
def _generate(net: Any, variables: Any, layout: Layout, *noise: Array | None) -> Array:
    return net.apply(variables, layout, *noise, False)
