"""Divergences between diagonal Gaussians, given by mean and log standard deviation."""

import jax.numpy as jnp
from jaxtyping import Array, Float


def kl_elementwise(
    mu_p: Float[Array, "*#n"],
    log_std_p: Float[Array, "*#n"],
    mu_q: Float[Array, "*#n"],
    log_std_q: Float[Array, "*#n"],
) -> Float[Array, "*n"]:
    """KL(N(mu_p, std_p^2) || N(mu_q, std_q^2)) of each element, in nats."""
    # Differences of logs, not quotients of exps: finite wherever the result is.
    variance_ratio = jnp.exp(2 * (log_std_p - log_std_q))
    mahalanobis = jnp.square((mu_p - mu_q) * jnp.exp(-log_std_q))
    return log_std_q - log_std_p + 0.5 * (variance_ratio + mahalanobis - 1)


def kl_divergence(
    mu_p: Float[Array, "*#b d"],
    log_std_p: Float[Array, "*#b d"],
    mu_q: Float[Array, "*#b d"],
    log_std_q: Float[Array, "*#b d"],
) -> Float[Array, "*b"]:
    """KL(p || q) between diagonal Gaussians, summed over the last axis, in nats.

    sum_d [s_q - s_p + 1/2 (exp(2 s_p) + (mu_p - mu_q)^2) exp(-2 s_q) - 1/2], s the log
    of the standard deviation. Swap the pairs for the other direction.
    """
    return kl_elementwise(mu_p, log_std_p, mu_q, log_std_q).sum(-1)


def kl_standard_normal(
    mu: Float[Array, "*b d"], log_std: Float[Array, "*b d"]
) -> Float[Array, "*b"]:
    """KL(N(mu, std^2) || N(0, 1)), summed over the last axis, in nats."""
    return 0.5 * (jnp.exp(2 * log_std) + jnp.square(mu) - 1 - 2 * log_std).sum(-1)
