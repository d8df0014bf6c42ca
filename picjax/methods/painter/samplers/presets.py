"""Samplers with settings of their own, by name, and what each costs."""

import itertools
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple

import jax
from jaxtyping import PRNGKeyArray

from picjax.methods.painter.process import Images, Schedule
from picjax.methods.painter.resampling import Resampling, visited_steps
from picjax.methods.painter.samplers.guidance import pigdm
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

# A completion of one image: (denoise, calls, measurement [1 h w c], key) -> [1 h w c].
Draw = Callable[[Denoise, Call, Measurement, PRNGKeyArray], Images]


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


@dataclass(frozen=True)
class PosteriorPreset:
    """A sampler of the posterior and the process that it runs on.

    Attributes:
      spacing: as in `process.space_timesteps`.
      draw: the sampler.
      has_gradients: whether each evaluation has a backward pass.
      particles: of each completion.
      resampling: jumps back; DDNM's time travel.
    """

    spacing: str
    draw: Draw
    has_gradients: bool = False
    particles: int = 1
    resampling: Resampling = field(default_factory=Resampling)

    def calls(self, schedule: Schedule) -> Call:
        """The network's calls on the schedule."""
        return plan_calls(schedule, visited_steps(schedule.steps, self.resampling))

    def cost(self, steps: int) -> Cost:
        """Of one completion on a schedule of so many steps."""
        visited = visited_steps(steps, self.resampling)
        down = sum(b < a for a, b in itertools.pairwise(visited))
        evaluations = down * self.particles
        gradients = evaluations if self.has_gradients else 0
        return Cost(evaluations, gradients, self.particles)


def draw_image(
    sampler: Callable[..., tuple[Images, Any]],
    denoise: Denoise,
    calls: Call,
    measurement: Measurement,
    key: PRNGKeyArray,
) -> Images:
    """A completion by a sampler of (denoise, calls, measurement, noise)."""
    noise = noise_from_keys(key[None], measurement.y.shape[1:])
    return sampler(denoise, calls, measurement, noise)[0]


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


def ddnm_preset(steps: int, eta: float) -> PosteriorPreset:
    """DDNM with so many evaluations of a network trained on 1,000 steps.

    "ddim100" keeps the steps 0, 10, .., 990, as DDNM and PiGDM were published.
    """
    return PosteriorPreset(f"ddim{steps}", _image(ddnm, eta=eta))


def _image(sampler: Callable[..., tuple[Images, Any]], **options: Any) -> Draw:
    return partial(draw_image, partial(sampler, **options))


POSTERIOR_PRESETS = {
    "ddnm": ddnm_preset(100, 0.85),
    "ddnm-fast": ddnm_preset(50, 0.5),
    "ddnm-fine": ddnm_preset(250, 0.85),
    "pigdm": PosteriorPreset("ddim100", _image(pigdm, clip=True), has_gradients=True),
    "smcdiff": PosteriorPreset(
        "100", partial(draw_particle, make_smcdiff, 16), particles=16
    ),
    "tds": PosteriorPreset(
        "100",
        partial(draw_particle, make_tds, 4),
        has_gradients=True,
        particles=4,
    ),
}
