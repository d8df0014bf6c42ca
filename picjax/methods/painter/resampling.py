"""Completion with an unconditional diffusion model: RePaint and Intelligent Painter.

Before every evaluation of the network the known pixels are replaced by a freshly noised
copy of the true ones. The reverse process repeatedly jumps some steps back towards
noise, so that the hole can harmonise with the known pixels (RePaint, Lugmayr et al.,
arXiv 2201.09865). Intelligent Painter (arXiv 2210.17106) does not jump below a certain
step. The whole is one `lax.scan` over the evaluations of the network: a run of forward
steps between two evaluations is a single Gaussian step, which is exact in distribution.

A sampler is a pure function of (denoiser, plan, image, mask, noise); others belong
beside `repaint`.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float, Int, Int64, Key

from picjax.cli import UserError
from picjax.methods.painter import classifier, process
from picjax.methods.painter.classifier import Guidance
from picjax.methods.painter.process import Denoiser, Images, Schedule

UNLIMITED = 10**8  # above any step: a jump may start anywhere


# ---- the order of steps ----


class Resampling(NamedTuple):
    """How often the process jumps back; by default never.

    Names are those of RePaint's `schedule_jump_params`; `stop_resampling` is
    Intelligent Painter's.

    Attributes:
      jump_length: steps that a jump goes back: RePaint's j.
      jump_n_sample: number of passes over each stretch: RePaint's r; 1: no jumps.
      n_sample: number of times that every single step is taken.
      jump2_length, jump2_n_sample: of jumps within those.
      jump3_length, jump3_n_sample: of jumps within these in turn.
      start_resampling: no jump leads above this step.
      stop_resampling: no jump begins below this step; -1: jumps begin everywhere.
    """

    jump_length: int = 1
    jump_n_sample: int = 1
    n_sample: int = 1
    jump2_length: int = 1
    jump2_n_sample: int = 1
    jump3_length: int = 1
    jump3_n_sample: int = 1
    start_resampling: int = UNLIMITED
    stop_resampling: int = -1


def visited_steps(steps: int, resampling: Resampling) -> list[int]:
    """The steps visited, from T - 1 to -1; neighbours differ by 1.

    From a down to a - 1 is an evaluation of the network at a; up is a forward step.

    Raises:
      UserError: for lengths below 1.
    """
    r = resampling
    # The shortest jumps first; each jump re-enables all those that it contains.
    jumps = (
        (r.jump3_length, r.jump3_n_sample),
        (r.jump2_length, r.jump2_n_sample),
        (r.jump_length, r.jump_n_sample),
    )
    shortest = min(length for length, _ in jumps)
    if shortest < 1 or r.n_sample < 1:
        raise UserError(
            f"jumps of {shortest} steps, or steps taken {r.n_sample} times, lead "
            "nowhere; give 1 or more"
        )

    def jumps_left() -> list[dict[int, int]]:
        return [
            dict.fromkeys(range(0, steps - length, length), n_sample - 1)
            for length, n_sample in jumps
        ]

    left = jumps_left()
    t = steps
    visited: list[int] = []
    while t >= 1:
        t -= 1
        visited.append(t)
        if t + 1 < steps - 1 and t <= r.start_resampling:
            visited += [t + 1, t] * (r.n_sample - 1)
        for i, (length, _) in enumerate(jumps):
            is_allowed = r.stop_resampling <= t <= r.start_resampling - length
            if is_allowed and left[i].get(t, 0) > 0:
                left[i][t] -= 1
                left[:i] = jumps_left()[:i]
                visited += range(t + 1, t + length + 1)
                t += length
    return [*visited, -1]


class Plan(NamedTuple):
    """The evaluations of the network, in order.

    Attributes:
      t: the step of each.
      reached: the step that x has come down to before it; below `t` where the process
        jumps back in between.
    """

    t: Int64[np.ndarray, " n"]
    reached: Int64[np.ndarray, " n"]

    @property
    def evaluations(self) -> int:
        """Number of evaluations of the network."""
        return len(self.t)

    @property
    def forward_steps(self) -> int:
        """Number of single steps towards noise."""
        return int((self.t - self.reached).sum())


def make_plan(steps: int, resampling: Resampling) -> Plan:
    """The evaluations for a process of T steps.

    Raises:
      UserError: as `visited_steps`.
    """
    visited = np.array(visited_steps(steps, resampling), np.int64)
    t = visited[:-1][np.diff(visited) < 0]
    return Plan(t, np.append(steps, t[:-1]) - 1)


def forward_ratios(schedule: Schedule, plan: Plan) -> np.ndarray:
    """The share of x's power that the forward steps before each evaluation keep."""
    alphas = schedule.alphas_cumprod
    reached = np.append(1.0, alphas)[plan.reached + 1]  # -1 is the image, of power 1
    return alphas[plan.t] / reached


# ---- noise ----


class Noise(NamedTuple):
    """Standard normal noise of one evaluation, each [b h w 3].

    Attributes:
      forward: of the forward steps before it, as one.
      known: of the known pixels.
      reverse: of the reverse step.
    """

    forward: Array
    known: Array
    reverse: Array


class NoiseSource(NamedTuple):
    """All the noise of a completion.

    Attributes:
      initial: x before the first evaluation.
      draw: number of the evaluation -> its noise.
    """

    initial: Images
    draw: Callable[[Array], Noise]


def make_noise(keys: Key[Array, " b"], size: tuple[int, int]) -> NoiseSource:
    """Noise of images of a height and width, from one key per image.

    An image's noise depends on its own key alone. Known pixels and the forward steps of
    the hole share a draw, since no pixel belongs to both.
    """

    def normal(number: Array, count: int) -> Float[Array, "n b h w 3"]:
        def of_image(key: Array) -> Array:
            return jax.random.normal(jax.random.fold_in(key, number), (count, *size, 3))

        return jax.vmap(of_image, out_axes=1)(keys)

    def draw(evaluation: Array) -> Noise:
        shared, reverse = normal(evaluation + 1, 2)
        return Noise(shared, shared, reverse)

    return NoiseSource(normal(jnp.int32(0), 1)[0], draw)


# ---- the sampler ----


class Transition(NamedTuple):
    """One reverse step: the network's input, the next x, and the predicted x_0."""

    x: Images
    next: Images
    x0: Images


def repaint(
    denoiser: Denoiser,
    plan: Plan,
    image: Images,
    mask: Float[Array, "b h w m"],
    noise: NoiseSource,
    *,
    eta: float | None = None,
    guidance: Guidance | None = None,
    record: Callable[[Transition], Any] = lambda transition: (),
    calls: Int[Array, "2"] | None = None,
) -> tuple[Images, Any]:
    """Completes all images at once.

    The first evaluation is of pure noise. As in the original, the known pixels of the
    result are those of the last reverse step, not the image's.

    Args:
      denoiser: the network.
      plan: its evaluations (`make_plan`).
      image: in [-1, 1]; pixels in the hole have no influence.
      mask: 1 = known.
      noise: of every evaluation.
      eta: DDIM's; None: ancestral steps, with the network's own variance.
      guidance: the gradient of a log-likelihood, such as a classifier's.
      record: what to return of every transition.
      calls: make the evaluations from this number up to, not including, the other, and
        keep no records; `noise.initial` is x before the first of them. None: all.

    Returns:
      images in [-1, 1], and the records, stacked.
    """
    schedule = denoiser.schedule

    def evaluate(x: Images, inputs: tuple[Array, ...]) -> tuple[Images, Any]:
        number, level, keep, add = inputs
        t = jnp.full(len(image), level)
        draw = noise.draw(number)
        x = keep * x + add * draw.forward
        known = mask * (number > 0)
        x = known * process.q_sample(schedule, image, t, draw.known) + (1 - known) * x
        step = denoiser(x, t)
        gradient = None
        if guidance is not None:
            gradient = guidance(x, jnp.asarray(schedule.timesteps, jnp.int32)[t])
        if eta is None:
            if gradient is not None:
                step = classifier.condition_mean(step, gradient)
            new = process.ancestral_step(step, t, draw.reverse)
        else:
            if gradient is not None:
                step = classifier.condition_score(schedule, x, t, step, gradient)
            new = process.ddim_step(schedule, x, t, step.x0, draw.reverse, eta=eta)
        return new, record(Transition(x, new, step.x0))

    ratios = forward_ratios(schedule, plan)  # 1 where there is no forward step
    inputs = (
        jnp.arange(plan.evaluations),
        jnp.asarray(plan.t, jnp.int32),
        jnp.asarray(np.sqrt(ratios), jnp.float32),
        jnp.asarray(np.sqrt(1 - ratios), jnp.float32),
    )
    if calls is None:
        return lax.scan(evaluate, noise.initial, inputs)

    def advance(number: Array, x: Images) -> Images:
        return evaluate(x, tuple(column[number] for column in inputs))[0]

    return lax.fori_loop(calls[0], calls[1], advance, noise.initial), ()


# ---- named settings ----


class Preset(NamedTuple):
    """Settings of the sampler; `spacing` as in `spacing.keep`."""

    spacing: str
    resampling: Resampling
    eta: float | None = None


PRESETS = {
    # As published: 2,410 and 1,510 evaluations.
    "repaint": Preset("250", Resampling(jump_length=10, jump_n_sample=10)),
    "painter": Preset(
        "250", Resampling(jump_length=10, jump_n_sample=10, stop_resampling=100)
    ),
    "fast": Preset(
        "100", Resampling(jump_length=10, jump_n_sample=8, stop_resampling=40)
    ),
    # 50 evaluations.
    "draft": Preset(
        "20",
        Resampling(
            jump_length=2, jump_n_sample=6, start_resampling=14, stop_resampling=8
        ),
    ),
    # No jumps, which an empty canvas does not need: 250 evaluations.
    "plain": Preset("250", Resampling()),
}
