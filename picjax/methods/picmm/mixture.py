"""PICMM's mixture p(z_c | z_m) and the losses that train it.

`z_c` is the latent of the complement, with posterior N(mu_c, exp(log_std_c)^2); hats
belong to the mixture that the visible part predicts; j is the component assigned to an
example. Every loss returns one value per example. Gradients flow through every argument.

How the mixture learns is three independent choices, each by name:

| choice | table | names |
|---|---|---|
| the assigned component | `ASSIGNMENTS` | sampled, mean, responsibility, elbo, official |
| its loss | `COMPONENT_LOSSES` | posterior_to_component, component_to_posterior, published |
| the weights' loss | `WEIGHT_LOSSES` | frequency, cross_entropy |

`elbo`, `posterior_to_component` and `cross_entropy` together are `elbo_loss`.
"""

from typing import NamedTuple, TypeVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from picjax.losses.gaussian import kl_divergence

LOG_2PI = 1.8378770664093453


class Gaussian(NamedTuple):
    """One diagonal Gaussian per example: mean and log standard deviation, [b d]."""

    mu: Float[Array, "b d"]
    log_std: Float[Array, "b d"]


class Mixture(NamedTuple):
    """K diagonal Gaussians per example; `log_alpha` is normalised over K."""

    log_alpha: Float[Array, "b k"]
    mu: Float[Array, "b k d"]
    log_std: Float[Array, "b k d"]


G = TypeVar("G", Gaussian, Mixture)


def clamp(gaussian: G, low: float, high: float) -> G:
    """Clip log_std to [low, high]; no gradient reaches what was outside.

    Nothing bounds an encoder's log_std from below, and a reconstruction loss rewards
    noise of zero width: exp(-2 log_std) then overflows.
    """
    return gaussian._replace(log_std=jnp.clip(gaussian.log_std, low, high))


def without_light(log_alpha: Float[Array, "b k"], least: float) -> Float[Array, "b k"]:
    """Log weights without components lighter than `least`; the heaviest stays.

    Not normalised.
    """
    heaviest = log_alpha.max(-1, keepdims=True)
    kept = log_alpha >= jnp.minimum(jnp.log(least), heaviest)
    return jnp.where(kept, log_alpha, -jnp.inf)


def sample(mixture: Mixture, eps: Float[Array, "b k d"]) -> Float[Array, "b k d"]:
    """One draw of every component from standard normal `eps`."""
    return mixture.mu + eps * jnp.exp(mixture.log_std)


def component(mixture: Mixture, j: Int[Array, " b"]) -> Gaussian:
    """The component `j` of every example."""
    return Gaussian(take(mixture.mu, j), take(mixture.log_std, j))


def take(x: Float[Array, "b k d"], j: Int[Array, " b"]) -> Float[Array, "b d"]:
    """x[i, j[i]] for every example i."""
    return jnp.take_along_axis(x, j[:, None, None], axis=1)[:, 0]


# ---- densities ----


def component_log_prob(mixture: Mixture, z: Float[Array, "b d"]) -> Float[Array, "b k"]:
    """log alpha_i + log N(z; component i): the unnormalised log responsibility."""
    log_std = mixture.log_std
    scaled = (z[:, None] - mixture.mu) * jnp.exp(-log_std)
    return mixture.log_alpha - (0.5 * (jnp.square(scaled) + LOG_2PI) + log_std).sum(-1)


def log_prob(mixture: Mixture, z: Float[Array, "b d"]) -> Float[Array, " b"]:
    """The mixture's log-density at `z`, in nats."""
    return jax.nn.logsumexp(component_log_prob(mixture, z), axis=-1)


# ---- the component's loss: COMPONENT_LOSSES[name](component, posterior) -> [b] ----


def posterior_to_component(
    component: Gaussian, posterior: Gaussian
) -> Float[Array, " b"]:
    """KL(posterior || component j): the term of the evidence bound.

    Its optimum for the component's variance is the mean posterior variance plus the
    variance of the posterior means: the true spread of z_c (docs/picmm.md).
    """
    return kl_divergence(*posterior, *component)


def component_to_posterior(
    component: Gaussian, posterior: Gaussian
) -> Float[Array, " b"]:
    """KL(component j || posterior): the published direction with the correct sign.

    It cannot learn the spread of z_c over images: its optimum for the component's
    standard deviation is the posterior's own, however the posterior means vary.
    """
    return kl_divergence(*component, *posterior)


def published_bm(component: Gaussian, posterior: Gaussian) -> Float[Array, " b"]:
    """The bm loss exactly as in the official code; for parity and ablation only.

    L = sum_d -1/2 [s_hat - s - exp(s_hat - s) + (mu_hat - mu)^2 exp(-s)], where s, the
    log standard deviation elsewhere, is read as the log variance. The Mahalanobis term
    has the wrong sign, so the loss is unbounded below as the means move apart; at
    equality it is d/2 (equation 1 in the README of the official code).
    """
    mu_hat, log_var_hat = component
    mu, log_var = posterior
    ratio = log_var_hat - log_var
    mahalanobis = jnp.square(mu_hat - mu) * jnp.exp(-log_var)
    return -0.5 * (ratio - jnp.exp(ratio) + mahalanobis).sum(-1)


COMPONENT_LOSSES = {
    "posterior_to_component": posterior_to_component,
    "component_to_posterior": component_to_posterior,
    "published": published_bm,
}


# ---- the weights' loss: WEIGHT_LOSSES[name](log_alpha, j) -> [b] ----


def frequency_loss(
    log_alpha: Float[Array, "b k"], j: Int[Array, " b"]
) -> Float[Array, " b"]:
    """Mean over components of (alpha - onehot(j))^2: PICMM's frequency loss.

    A proper score: over many examples, alpha tends to how often each component wins.
    """
    onehot = jax.nn.one_hot(j, log_alpha.shape[-1], dtype=log_alpha.dtype)
    return jnp.square(jnp.exp(log_alpha) - onehot).mean(-1)


def cross_entropy(
    log_alpha: Float[Array, "b k"], j: Int[Array, " b"]
) -> Float[Array, " b"]:
    """-log alpha_j, in nats: the weights' part of `elbo_loss`."""
    return -jnp.take_along_axis(log_alpha, j[:, None], axis=1)[:, 0]


WEIGHT_LOSSES = {"frequency": frequency_loss, "cross_entropy": cross_entropy}


# ---- the component: ASSIGNMENTS[name](mixture, posterior, z_c, z_hat) -> int32 [b] ----


def assign_sampled(
    mixture: Mixture,
    posterior: Gaussian,
    z_c: Float[Array, "b d"],
    z_hat: Float[Array, "b k d"],
) -> Int[Array, " b"]:
    """argmin_i |z_hat_i - z_c|^2: the draw nearest to z_c, as the paper intends."""
    return nearest(z_hat, z_c)


def assign_mean(
    mixture: Mixture,
    posterior: Gaussian,
    z_c: Float[Array, "b d"],
    z_hat: Float[Array, "b k d"],
) -> Int[Array, " b"]:
    """argmin_i |mu_hat_i - z_c|^2: the nearest mean, free of the draws' noise."""
    return nearest(mixture.mu, z_c)


def assign_responsibility(
    mixture: Mixture,
    posterior: Gaussian,
    z_c: Float[Array, "b d"],
    z_hat: Float[Array, "b k d"],
) -> Int[Array, " b"]:
    """argmax_i log alpha_i + log N(z_c; component i): hard EM."""
    return argmax(component_log_prob(mixture, z_c))


def assign_elbo(
    mixture: Mixture,
    posterior: Gaussian,
    z_c: Float[Array, "b d"],
    z_hat: Float[Array, "b k d"],
) -> Int[Array, " b"]:
    """argmin_i KL(posterior || component i) - log alpha_i: the tightest bound."""
    return argmax(-elbo_terms(mixture, posterior))


def assign_official(
    mixture: Mixture,
    posterior: Gaussian,
    z_c: Float[Array, "b d"],
    z_hat: Float[Array, "b k d"],
) -> Int[Array, " b"]:
    """argmin_i |exp(log_std_hat_i) - z_c|^2: the official code's defect, for parity.

    It compares standard deviations with a latent, without any mean or draw.
    """
    return nearest(jnp.exp(mixture.log_std), z_c)


ASSIGNMENTS = {
    "sampled": assign_sampled,
    "mean": assign_mean,
    "responsibility": assign_responsibility,
    "elbo": assign_elbo,
    "official": assign_official,
}


def nearest(x: Float[Array, "b k d"], z: Float[Array, "b d"]) -> Int[Array, " b"]:
    """The row of `x` nearest to `z`; the first of equals."""
    return argmax(-jnp.square(x - z[:, None]).sum(-1))


def argmax(score: Float[Array, "b k"]) -> Int[Array, " b"]:
    """The best component as int32."""
    return jnp.argmax(score, axis=-1).astype(jnp.int32)


# ---- the evidence bound ----


def elbo_terms(mixture: Mixture, posterior: Gaussian) -> Float[Array, "b k"]:
    """KL(posterior || component i) - log alpha_i for every component."""
    mu, log_std = posterior.mu[:, None], posterior.log_std[:, None]
    kl = kl_divergence(mu, log_std, mixture.mu, mixture.log_std)
    return kl - mixture.log_alpha


def elbo_loss(mixture: Mixture, posterior: Gaussian) -> Float[Array, " b"]:
    """min_i KL(posterior || component i) - log alpha_i, in nats.

    An upper bound of KL(posterior || mixture), since the mixture is nowhere less than
    alpha_i times component i: assignment, component's loss and weights' loss from one
    expression.
    """
    return elbo_terms(mixture, posterior).min(-1)
