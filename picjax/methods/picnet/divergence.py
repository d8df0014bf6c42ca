"""The Gaussians of PICNet's latent map and the divergences that it minimises."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from picjax.losses.gaussian import kl_elementwise


class Latent(NamedTuple):
    """A diagonal Gaussian at every position of the latent map."""

    mu: Float[Array, "b i j z"]
    std: Float[Array, "b i j z"]


def mask_prior_std(mask: Float[Array, "b h w c"]) -> Float[Array, " b"]:
    """Standard deviation of the prior: near 1 for a large hole, less for a small one.

    1 / (1 + exp(8 (s - 0.8))), where s is the share of known pixels less 1e-5: 0.17 if
    all are known, 0.60 with a centre hole, 1.00 if none is.
    """
    known = mask.mean((1, 2, 3)) - 1e-5
    return jax.nn.sigmoid(8 * (0.8 - known))


KL_REC = {
    # In the official code, from which the released weights come.
    "prior_to_posterior": lambda prior, p: kl_elementwise(*prior, *p),
    # In the paper: the posterior is regularised towards the prior.
    "posterior_to_prior": lambda prior, p: kl_elementwise(*p, *prior),
}


def divergences(
    p: Latent,
    q: Latent,
    mask: Float[Array, "b h w 1"],
    direction: str,
    two_paths: bool,
) -> tuple[Float[Array, " b"], Float[Array, " b"]]:
    """The divergences of the posterior p and of the learnt prior q.

    Args:
      p: the posterior, from the complement.
      q: the learnt prior, from the visible part.
      mask: 1 = known; gives the fixed prior N(0, s^2).
      direction: of the first divergence, an entry of `KL_REC`.
      two_paths: whether q learns p, which gets no gradient from it, or the fixed prior.

    Returns:
      The divergence between p and the fixed prior, and that of q from its target; means
      over the latent map.
    """
    log_std = jnp.log(mask_prior_std(mask))[:, None, None, None]
    prior = jnp.zeros_like(log_std), log_std
    posterior = p.mu, jnp.log(p.std)
    target = jax.lax.stop_gradient(posterior) if two_paths else prior
    kl_rec = KL_REC[direction](prior, posterior)
    kl_g = kl_elementwise(*target, q.mu, jnp.log(q.std))
    return kl_rec.mean((1, 2, 3)), kl_g.mean((1, 2, 3))
