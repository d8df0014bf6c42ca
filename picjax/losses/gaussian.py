"""Diagonal Gaussians and their mixtures: the latent losses of PICMM and PICNet.

Names follow the papers: `z_c` is the latent of the hidden part with posterior
N(mu_c, exp(log_std_c)^2), hats belong to the mixture p(z_c | z_m) that the visible part
predicts, j is the component chosen for an example. Every loss returns one number an
example. Gradients flow through every argument: what must not learn (the posterior, in
PICMM's mixture losses) the caller wraps in `stop_gradient`.

How the mixture learns is three independent choices, each by name:

| choice | table | names |
|---|---|---|
| which component | `SELECTION` | sampled, mean, responsibility, elbo, official |
| its loss | `BM` | posterior_to_component, component_to_posterior, published |
| the weights' loss | `GATE` | frequency, cross_entropy |

`elbo`, `posterior_to_component` and `cross_entropy` together are `elbo_loss`.
"""

from typing import NamedTuple, TypeVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

LOG_2PI = 1.8378770664093453


class Gaussian(NamedTuple):
    """A diagonal Gaussian an example: mean and log of the standard deviation, [b d]."""

    mu: Float[Array, "b d"]
    log_std: Float[Array, "b d"]


class Mixture(NamedTuple):
    """K diagonal Gaussians an example; `log_alpha` is normalised over K."""

    log_alpha: Float[Array, "b k"]
    mu: Float[Array, "b k d"]
    log_std: Float[Array, "b k d"]


G = TypeVar("G", Gaussian, Mixture)


def clamp(gaussian: G, low: float = -5.0, high: float = 2.0) -> G:
    """The same with log_std inside [low, high]; no gradient reaches what was outside.

    Nothing holds an encoder's log_std from below, and a reconstruction loss rewards
    noise of zero width; exp(-2 log_std) then overflows (specification, section 5).
    """
    return gaussian._replace(log_std=jnp.clip(gaussian.log_std, low, high))


def sample(mixture: Mixture, eps: Float[Array, "b k d"]) -> Float[Array, "b k d"]:
    """One draw of every component from standard normal `eps`."""
    return mixture.mu + eps * jnp.exp(mixture.log_std)


def component(mixture: Mixture, j: Int[Array, " b"]) -> Gaussian:
    """The component `j` of every example."""
    return Gaussian(take(mixture.mu, j), take(mixture.log_std, j))


def take(x: Float[Array, "b k d"], j: Int[Array, " b"]) -> Float[Array, "b d"]:
    """x[i, j[i]] for every example i."""
    return jnp.take_along_axis(x, j[:, None, None], axis=1)[:, 0]


# ---- divergences and densities ----


def kl_elementwise(
    mu_p: Float[Array, "*#n"],
    log_std_p: Float[Array, "*#n"],
    mu_q: Float[Array, "*#n"],
    log_std_q: Float[Array, "*#n"],
) -> Float[Array, "*n"]:
    """KL(N(mu_p, std_p^2) || N(mu_q, std_q^2)) of every element on its own.

    PICNet's losses are means of this one (section 4.2 of its specification).
    """
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


def component_log_prob(mixture: Mixture, z: Float[Array, "b d"]) -> Float[Array, "b k"]:
    """log alpha_i + log N(z; component i): the responsibility before it is normalised."""
    log_std = mixture.log_std
    scaled = (z[:, None] - mixture.mu) * jnp.exp(-log_std)
    return mixture.log_alpha - (0.5 * (jnp.square(scaled) + LOG_2PI) + log_std).sum(-1)


def log_prob(mixture: Mixture, z: Float[Array, "b d"]) -> Float[Array, " b"]:
    """The mixture's log-density at `z`, in nats."""
    return jax.nn.logsumexp(component_log_prob(mixture, z), axis=-1)


# ---- the chosen component's loss: BM[name](component, posterior) -> [b] ----


def posterior_to_component(
    component: Gaussian, posterior: Gaussian
) -> Float[Array, " b"]:
    """KL(posterior || component j): what the evidence bound asks for.

    Its optimum for the component's variance is the mean posterior variance plus the
    scatter of the posterior means: the true spread of z_c (specification, section 5).
    """
    return kl_divergence(*posterior, *component)


def component_to_posterior(
    component: Gaussian, posterior: Gaussian
) -> Float[Array, " b"]:
    """KL(component j || posterior): the published direction with its sign mended.

    It cannot learn the spread of z_c over images: its optimum for the component's
    standard deviation is the posterior's own, whatever the posterior means do.
    """
    return kl_divergence(*component, *posterior)


def bm_published(component: Gaussian, posterior: Gaussian) -> Float[Array, " b"]:
    """The bm loss to the letter of the official code; for parity and ablation only.

    L = sum_d -1/2 [s_hat - s - exp(s_hat - s) + (mu_hat - mu)^2 exp(-s)], where s, the
    log of the standard deviation elsewhere, is read as the log of the VARIANCE. The
    Mahalanobis term has the wrong sign, so the loss falls without bound as the means
    part; d/2 at equality (PICMM README, equation 1).
    """
    mu_hat, log_var_hat = component
    mu, log_var = posterior
    ratio = log_var_hat - log_var
    mahalanobis = jnp.square(mu_hat - mu) * jnp.exp(-log_var)
    return -0.5 * (ratio - jnp.exp(ratio) + mahalanobis).sum(-1)


BM = {
    "posterior_to_component": posterior_to_component,
    "component_to_posterior": component_to_posterior,
    "published": bm_published,
}


# ---- the loss of the weights: GATE[name](log_alpha, j) -> [b] ----


def frequency_loss(
    log_alpha: Float[Array, "b k"], j: Int[Array, " b"]
) -> Float[Array, " b"]:
    """Mean over components of (alpha - onehot(j))^2: PICMM's frequency loss.

    A proper score: over many examples alpha tends to how often each component wins.
    """
    onehot = jax.nn.one_hot(j, log_alpha.shape[-1], dtype=log_alpha.dtype)
    return jnp.square(jnp.exp(log_alpha) - onehot).mean(-1)


def cross_entropy(
    log_alpha: Float[Array, "b k"], j: Int[Array, " b"]
) -> Float[Array, " b"]:
    """-log alpha_j, in nats: the weights' part of `elbo_loss`."""
    return -jnp.take_along_axis(log_alpha, j[:, None], axis=1)[:, 0]


GATE = {"frequency": frequency_loss, "cross_entropy": cross_entropy}


# ---- the component: SELECTION[name](mixture, posterior, z_c, z_hat) -> int32 [b] ----


def select_sampled(
    mixture: Mixture,
    posterior: Gaussian,
    z_c: Float[Array, "b d"],
    z_hat: Float[Array, "b k d"],
) -> Int[Array, " b"]:
    """argmin_i |z_hat_i - z_c|^2: the draw nearest to z_c, as the paper intends."""
    return nearest(z_hat, z_c)


def select_mean(
    mixture: Mixture,
    posterior: Gaussian,
    z_c: Float[Array, "b d"],
    z_hat: Float[Array, "b k d"],
) -> Int[Array, " b"]:
    """argmin_i |mu_hat_i - z_c|^2: the nearest mean, free of the draws' noise."""
    return nearest(mixture.mu, z_c)


def select_responsibility(
    mixture: Mixture,
    posterior: Gaussian,
    z_c: Float[Array, "b d"],
    z_hat: Float[Array, "b k d"],
) -> Int[Array, " b"]:
    """argmax_i log alpha_i + log N(z_c; component i): hard EM."""
    return argmax(component_log_prob(mixture, z_c))


def select_elbo(
    mixture: Mixture,
    posterior: Gaussian,
    z_c: Float[Array, "b d"],
    z_hat: Float[Array, "b k d"],
) -> Int[Array, " b"]:
    """argmin_i KL(posterior || component i) - log alpha_i: the tightest bound."""
    return argmax(-elbo_terms(mixture, posterior))


def select_official(
    mixture: Mixture,
    posterior: Gaussian,
    z_c: Float[Array, "b d"],
    z_hat: Float[Array, "b k d"],
) -> Int[Array, " b"]:
    """argmin_i |exp(log_std_hat_i) - z_c|^2: the official code's defect, for parity.

    It holds standard deviations against a latent: no mean and no draw enters.
    """
    return nearest(jnp.exp(mixture.log_std), z_c)


SELECTION = {
    "sampled": select_sampled,
    "mean": select_mean,
    "responsibility": select_responsibility,
    "elbo": select_elbo,
    "official": select_official,
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
    alpha_i times component i: selection, bm and weight loss from one expression
    (specification, section 5a).
    """
    return elbo_terms(mixture, posterior).min(-1)


# ---- PICNet ----


def mask_prior_std(mask: Float[Array, "b h w c"]) -> Float[Array, " b"]:
    """Standard deviation of PICNet's prior: near 1 for a large hole, less for a small.

    1 / (1 + exp(8 (s - 0.8))), s the share of known pixels less 1e-5 (specification,
    section 4.2): 0.17 with everything known, 0.60 with a centre hole, 1.00 with none.
    """
    known = mask.mean((1, 2, 3)) - 1e-5
    return jax.nn.sigmoid(8 * (0.8 - known))
