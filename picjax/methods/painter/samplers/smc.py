"""Sequential Monte Carlo: particles of one image that are moved, weighted, resampled.

The functions here work on the particles of a single image, an array [p h w c]; a batch
is `jax.vmap` of them. So its images may be spread over devices while the particles of
an image, which exchange their states, stay on one.

References:
  Chopin, Papaspiliopoulos: An Introduction to Sequential Monte Carlo (2020), ch. 9, 10.
"""

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Int

from picjax.methods.painter.samplers.interface import Call, Images
from picjax.methods.painter.samplers.noise import Noise, Uniforms

Weights = Float[Array, " p"]
Positions = Float[Array, " n"]
Ancestors = Int[Array, " p"]
Scheme = Callable[[Weights, Positions], Ancestors]


# ---- resampling ----


def inverse_cdf(weights: Weights, positions: Positions) -> Int[Array, " n"]:
    """The first index whose cumulative weight is at least each position."""
    found = jnp.searchsorted(jnp.cumsum(weights), positions, side="left")
    return jnp.minimum(found, len(weights) - 1)


def systematic(weights: Weights, uniforms: Positions) -> Ancestors:
    """Equally spaced positions with one offset, the first uniform."""
    p = len(weights)
    return inverse_cdf(weights, (uniforms[0] + jnp.arange(p)) / p)


def stratified(weights: Weights, uniforms: Positions) -> Ancestors:
    """One uniform position in each of P equal intervals."""
    p = len(weights)
    return inverse_cdf(weights, (uniforms[:p] + jnp.arange(p)) / p)


def multinomial(weights: Weights, uniforms: Positions) -> Ancestors:
    """P independent draws, in order: sorted uniforms from P + 1 spacings."""
    total = jnp.cumsum(-jnp.log(uniforms[: len(weights) + 1]))
    return inverse_cdf(weights, total[:-1] / total[-1])


def residual(weights: Weights, uniforms: Positions) -> Ancestors:
    """floor(P W) copies of each particle, the rest multinomial."""
    p = len(weights)
    copies = jnp.floor(p * weights)
    whole = jnp.cumsum(copies)
    copied = whole[-1].astype(int)
    rest = p - copied  # of the places
    slot = jnp.arange(p)
    total = jnp.cumsum(-jnp.log(uniforms[: p + 1]))
    positions = total[jnp.maximum(slot - copied, 0)] / total[rest]
    fraction = (p * weights - copies) / jnp.maximum(rest, 1)
    drawn = inverse_cdf(fraction, positions)
    return jnp.where(
        slot < copied, jnp.searchsorted(whole, slot, side="right"), drawn
    ).clip(max=p - 1)


RESAMPLING: dict[str, Scheme] = {
    "systematic": systematic,
    "stratified": stratified,
    "multinomial": multinomial,
    "residual": residual,
}


def effective_sample_size(log_weights: Weights) -> Float[Array, ""]:
    """(sum W)^2 / sum W^2: 1 to P."""
    return 1 / jnp.square(jax.nn.softmax(log_weights)).sum()


# ---- the particles ----


@runtime_checkable
class Proposal(Protocol):
    """How particles move and what that does to their logarithmic weights."""

    def start(self, x: Images) -> tuple[Images, Weights]:
        """The particles at the first level and their log weights, from normals."""
        ...

    def weigh(self, x: Images, call: Call) -> tuple[Weights, Any]:
        """One call of the network: log weights to add, and a tree that `move` takes.

        The leaves of the tree have the particles on axis 0; it is resampled with them.
        """
        ...

    def move(self, moments: Any, call: Call, normal: Images) -> tuple[Images, Weights]:
        """The particles at the next level and log weights to add."""
        ...


class Level(NamedTuple):
    """The particles of one level.

    Attributes:
      x: before the resampling.
      log_weights: before it.
      moments: what the proposal computed of them, before it.
      ess: effective sample size.
      resampled: whether they were.
      ancestors: the index that each particle continues.
    """

    x: Images
    log_weights: Weights
    moments: Any
    ess: Float[Array, ""]
    resampled: Bool[Array, ""]
    ancestors: Ancestors


class Particles(NamedTuple):
    """The result: weighted completions of one image.

    Attributes:
      x: the particles.
      log_weights: theirs, not normalised.
      log_evidence: logarithm of the estimated probability of the known pixels, up to
        a constant where the proposal's weights have no normaliser.
      min_ess: smallest effective sample size on the way.
      lineages: how many particles of the first level have descendants.
    """

    x: Images
    log_weights: Weights
    log_evidence: Float[Array, ""]
    min_ess: Float[Array, ""]
    lineages: Int[Array, ""]


def run_particles(
    proposal: Proposal,
    calls: Call,
    noise: Noise,
    uniforms: Uniforms,
    *,
    ess_threshold: float | None = 0.5,
    scheme: Scheme = systematic,
    record: Callable[[Level], Any] = lambda level: (),
) -> tuple[Particles, Any]:
    """Moves the particles of one image down the schedule, resampling on the way.

    Args:
      proposal: how they move.
      calls: straight down.
      noise: of "start" and "step", [p h w c].
      uniforms: of each call, as many as the scheme takes.
      ess_threshold: resample where the effective sample size is below this share of P;
        None: at every level. There is no resampling after the last step.
      scheme: one of RESAMPLING.
      record: what to return of every level but the last.

    Returns:
      particles, and what `record` returned, stacked.
    """
    x, log_weights = proposal.start(noise("start", jnp.int32(0)))
    p = len(x)
    zero = jnp.zeros((), log_weights.dtype)

    def body(carry: Any, call: Call) -> tuple[Any, Any]:
        x, log_weights, lineage, evidence, least = carry
        added, moments = proposal.weigh(x, call)
        log_weights = log_weights + added
        mean = jax.nn.logsumexp(log_weights) - jnp.log(p)
        ess = effective_sample_size(log_weights)
        resampled = (
            jnp.array(True) if ess_threshold is None else ess < ess_threshold * p
        )
        drawn = scheme(jax.nn.softmax(log_weights), uniforms(call.number))
        ancestors = jnp.where(resampled, drawn, jnp.arange(p))
        kept = jnp.where(resampled, zero, log_weights - mean)  # weights average 1
        level = Level(x, log_weights, moments, ess, resampled, ancestors)
        moments = jax.tree.map(lambda leaf: leaf[ancestors], moments)
        x, added = proposal.move(moments, call, noise("step", call.number))
        new = x, kept + added, lineage[ancestors], evidence + mean, least.clip(max=ess)
        return new, record(level)

    first = x, log_weights, jnp.arange(p), zero, zero + p
    (x, log_weights, lineage, evidence, least), records = lax.scan(body, first, calls)
    evidence = evidence + jax.nn.logsumexp(log_weights) - jnp.log(p)
    least = least.clip(max=effective_sample_size(log_weights))
    lineages = jnp.zeros(p, int).at[lineage].set(1).sum()
    return Particles(x, log_weights, evidence, least, lineages), records


def pick(particles: Particles, key: Array) -> Images:
    """One particle, drawn by weight: [1 h w c]."""
    return particles.x[jax.random.categorical(key, particles.log_weights)][None]
