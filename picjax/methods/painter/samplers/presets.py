"""Samplers with settings of their own, by name, and what each costs."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Int, PRNGKeyArray

from picjax.methods.painter.process import Images, Schedule
from picjax.methods.painter.resampling import Resampling, visited_steps
from picjax.methods.painter.samplers.copaint import (
    Refinement,
    copaint,
    plan_refinements,
)
from picjax.methods.painter.samplers.guidance import dps, mcg, pigdm
from picjax.methods.painter.samplers.interface import (
    Call,
    Denoise,
    Measurement,
    plan_calls,
)
from picjax.methods.painter.samplers.noise import noise_from_keys, uniforms_from_key
from picjax.methods.painter.samplers.projection import ddnm
from picjax.methods.painter.samplers.proposals import TDS, SMCDiff, noised_trajectory
from picjax.methods.painter.samplers.smc import Proposal, pick, run_particles

STRAIGHT = Resampling()  # down, without jumps


class Walk(NamedTuple):
    """A part of the way to a completion.

    Attributes:
      x: at its beginning; that of the first part is not used.
      calls: made from this number up to, not including, the other.
    """

    x: Images
    calls: Int[Array, "2"]


# A completion of one image: (denoise, plan, measurement [1 h w c], key) -> [1 h w c].
# With a walk as the fifth argument, where a preset is `divisible`, x at the walk's end.
Draw = Callable[..., Images]
# The stacked steps of a walk: (schedule, visited steps, the last one first, then -1).
Planner = Callable[[Schedule, Sequence[int]], Any]


class Cost(NamedTuple):
    """What one completion takes.

    Attributes:
      evaluations: of the network, particles included.
      gradients: backward passes through it; each costs about two evaluations.
      particles: images that are held at once.
    """

    evaluations: int
    gradients: int = 0
    particles: int = 1

    def __str__(self) -> str:
        parts = [f"{self.evaluations:,} evaluations of the network"]
        if self.gradients:
            parts.append(f"{self.gradients:,} gradients through it")
        if self.particles > 1:
            parts.append(f"{self.particles} particles in memory")
        return ", ".join(parts) + " per completion"


EVALUATION, GRADIENT = Cost(1), Cost(1, 1)


@dataclass(frozen=True)
class PosteriorPreset:
    """A sampler of the posterior and the process that it runs on.

    Attributes:
      spacing: as in `spacing.keep`.
      draw: the sampler.
      step_cost: of each of its steps.
      resampling: jumps back; DDNM's time travel.
      planner: of the sampler's steps.
      divisible: whether x is all that a step knows of those before it.
    """

    spacing: str
    draw: Draw
    step_cost: Cost = EVALUATION
    resampling: Resampling = STRAIGHT
    planner: Planner = plan_calls
    divisible: bool = False

    def plan(self, schedule: Schedule) -> Any:
        """The sampler's steps on the schedule, stacked."""
        return self.planner(schedule, visited_steps(schedule.steps, self.resampling))

    def cost(self, schedule: Schedule) -> Cost:
        """Of one completion."""
        steps, each = len(self.plan(schedule).index), self.step_cost
        return Cost(steps * each.evaluations, steps * each.gradients, each.particles)


def draw_image(
    sampler: Callable[..., tuple[Images, Any]],
    denoise: Denoise,
    plan: Any,
    measurement: Measurement,
    key: PRNGKeyArray,
    walk: Walk | None = None,
) -> Images:
    """A completion by a sampler of (denoise, plan, measurement, noise), or a part."""
    noise = noise_from_keys(key[None], measurement.y.shape[1:])
    if walk is None:
        return sampler(denoise, plan, measurement, noise)[0]

    def advance(number: Array, x: Images) -> Images:
        def own(purpose: str, call: Array) -> Array:
            return x if purpose == "start" else noise(purpose, call)

        one = jax.tree.map(lambda a: lax.dynamic_slice_in_dim(a, number, 1), plan)
        return sampler(denoise, one, measurement, own)[0]

    first, stop = walk.calls
    start = jnp.where(first > 0, walk.x, noise("start", jnp.int32(0)))
    return lax.fori_loop(first, stop, advance, start)


def draw_particle(
    make: Callable[[Denoise, Call, Measurement, PRNGKeyArray], Proposal],
    particles: int,
    denoise: Denoise,
    calls: Call,
    measurement: Measurement,
    key: PRNGKeyArray,
) -> Images:
    """One particle, drawn by weight, of a run of its own."""
    noise_key, uniform_key, proposal_key, pick_key = jax.random.split(key, 4)
    noise = noise_from_keys(
        jax.random.split(noise_key, particles), measurement.y.shape[1:]
    )
    uniforms = uniforms_from_key(uniform_key, particles)
    proposal = make(denoise, calls, measurement, proposal_key)
    return pick(run_particles(proposal, calls, noise, uniforms)[0], pick_key)


def make_tds(
    denoise: Denoise, calls: Call, measurement: Measurement, key: PRNGKeyArray
) -> Proposal:
    """TDS whose twist is never narrower than 0.05, for networks that are not exact."""
    return TDS(denoise, measurement, floor=0.05, weigh_last=False)


def make_smcdiff(
    denoise: Denoise, calls: Call, measurement: Measurement, key: PRNGKeyArray
) -> Proposal:
    """SMCDiff with one trajectory of the known pixels for all particles."""
    noise = noise_from_keys(key[None], measurement.y.shape[1:])
    trajectory = noised_trajectory(calls, measurement.y, noise)
    return SMCDiff(denoise, measurement.mask, trajectory)


def plan_copaint(schedule: Schedule, visited: Sequence[int]) -> Refinement:
    """CoPaint ends at the lowest step, not at -1."""
    return plan_refinements(schedule, visited[:-1])


def ddnm_preset(
    spacing: str, eta: float, jumps: Resampling = STRAIGHT
) -> PosteriorPreset:
    """DDNM on a spacing, with time travel where there are jumps.

    "ddim100" keeps the steps 0, 10, .., 990, as DDNM and PiGDM were published.
    """
    draw, divisible = _image(ddnm, eta=eta), jumps == STRAIGHT
    return PosteriorPreset(spacing, draw, resampling=jumps, divisible=divisible)


def smcdiff_preset(particles: int) -> PosteriorPreset:
    """SMCDiff on 100 steps."""
    cost = Cost(particles, 0, particles)
    return PosteriorPreset("100", partial(draw_particle, make_smcdiff, particles), cost)


def tds_preset(particles: int) -> PosteriorPreset:
    """TDS on 100 steps."""
    cost = Cost(particles, particles, particles)
    return PosteriorPreset("100", partial(draw_particle, make_tds, particles), cost)


def _image(sampler: Callable[..., tuple[Images, Any]], **options: Any) -> Draw:
    return partial(draw_image, partial(sampler, **options))


POSTERIOR_PRESETS = {
    # eta 0.5 is nearer to known posteriors than the paper's 0.85 (docs/samplers.md).
    "ddnm": ddnm_preset("ddim100", 0.5),
    "ddnm-fast": ddnm_preset("ddim50", 0.5),
    "ddnm-fine": ddnm_preset("ddim250", 0.5),
    # As in the paper: eta 0.85, each ten steps three times.
    "ddnm-travel": ddnm_preset("ddim100", 0.85, Resampling(10, 3)),
    "pigdm": PosteriorPreset("ddim100", _image(pigdm, clip=True), GRADIENT),
    "dps": PosteriorPreset("250", _image(dps, scale=0.5), GRADIENT, divisible=True),
    "mcg": PosteriorPreset("250", _image(mcg), GRADIENT, divisible=True),
    # Two descents with a line search each, and the call that steps down.
    "copaint": PosteriorPreset(
        "250", _image(copaint), Cost(5, 2), planner=plan_copaint
    ),
    "smcdiff": smcdiff_preset(16),
    "tds": tds_preset(4),
}
