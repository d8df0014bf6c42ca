"""Completion by a diffusion model that never saw a mask: RePaint's and Painter's walk.

Before every call of the network the known pixels are replaced by a freshly noised copy
of the true ones. The walk goes down the chain, and again and again jumps some steps back
towards noise, so that the hole can fit itself to what is known (RePaint, arXiv
2201.09865). The Intelligent Painter (arXiv 2210.17106) leaves out the jumps below a
certain step. Steps, jumps and all are one `lax.scan` over the network's calls: a run of
steps back between two calls is a single Gaussian step, exact in distribution.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float, Float32, Int64, Key

from picjax.cli import UserError
from picjax.methods.painter import process as diffusion
from picjax.methods.painter.process import Images, Kind, Tables

NEVER = 10**8  # later than any step: a jump may start anywhere


# ---- where the walk goes ----


class Jumps(NamedTuple):
    """How often the walk jumps back (specification, sections 3.2 and 3.3).

    Attributes:
      length: steps that a jump goes back: RePaint's j.
      times: how often each stretch is walked: RePaint's r; 1: no jumps.
      repeats: how often every single step is taken.
      length2, times2: of jumps within those; length3, times3: within these in turn.
      start: no jump leads above it.
      stop: no jump begins below it: Painter's; -1: everywhere.
    """

    length: int = 10
    times: int = 10
    repeats: int = 1
    length2: int = 1
    times2: int = 1
    length3: int = 1
    times3: int = 1
    start: int = NEVER
    stop: int = -1


def visits(steps: int, jumps: Jumps) -> list[int]:
    """The levels that a walk visits, from T - 1 to -1; neighbours differ by 1.

    Down from a to a - 1 is a call of the network at a; up is a step back.

    Raises:
      UserError: for lengths below 1.
    """
    lengths = jumps.length, jumps.length2, jumps.length3
    if min(lengths) < 1 or jumps.repeats < 1:
        raise UserError(
            f"jumps of {min(lengths)} steps, or steps taken {jumps.repeats} times, "
            "lead nowhere; give 1 or more"
        )

    def full(length: int, times: int) -> dict[int, int]:
        return dict.fromkeys(range(0, steps - length, length), times - 1)

    def levels() -> list[dict[int, int]]:
        numbers = (jumps.times3, jumps.times2, jumps.times)
        return [full(*pair) for pair in zip(lengths[::-1], numbers, strict=True)]

    left = levels()
    t = steps
    seen: list[int] = []
    while t >= 1:
        t -= 1
        seen.append(t)
        if t + 1 < steps - 1 and t <= jumps.start:
            seen += [t + 1, t] * (jumps.repeats - 1)
        # The shortest jumps first; each makes those within it possible again.
        for i, length in enumerate(lengths[::-1]):
            here = left[i].get(t, 0) > 0
            if here and jumps.stop <= t <= jumps.start - length:
                left[i][t] -= 1
                left[:i] = levels()[:i]
                seen += range(t + 1, t + length + 1)
                t += length
    return [*seen, -1]


class Walk(NamedTuple):
    """The network's calls, in order.

    Attributes:
      at: the step that each looks at.
      after: the step that x has come down to before it; lower than `at` where the walk
        goes back in between.
    """

    at: Int64[np.ndarray, " calls"]
    after: Int64[np.ndarray, " calls"]

    @property
    def calls(self) -> int:
        """Of the network."""
        return len(self.at)

    @property
    def steps_back(self) -> int:
        """Single steps towards noise."""
        return int((self.at - self.after).sum())


def plan(steps: int, jumps: Jumps) -> Walk:
    """The calls of a walk over a chain of T steps.

    Raises:
      UserError: as `visits`.
    """
    seen = np.array(visits(steps, jumps), np.int64)
    at = seen[:-1][np.diff(seen) < 0]
    return Walk(at, np.append(steps, at[:-1]) - 1)


def power(tables: Tables, level: np.ndarray) -> np.ndarray:
    """abar of each level; 1 at -1, the image."""
    return np.append(1.0, tables.abar)[level + 1]


# ---- noise ----


class Noise(NamedTuple):
    """Of one call: for the steps back before it, the known pixels, the step itself.

    Standard normal, each [b h w 3]; `run` takes them for all calls at once, too.
    """

    back: Array
    known: Array
    step: Array


Draw = Callable[[Array], Noise]  # number of the call -> its noise


def draw_noise(keys: Key[Array, " b"], size: tuple[int, int]) -> tuple[Images, Draw]:
    """The start and the noise of every call, from a key an image.

    An image's noise depends on its own key alone. Known pixels and hole share a draw,
    since no pixel is both.
    """

    def normal(number: Array, count: int) -> Float[Array, "n b h w 3"]:
        def one(key: Array) -> Array:
            return jax.random.normal(jax.random.fold_in(key, number), (count, *size, 3))

        return jax.vmap(one, out_axes=1)(keys)

    def draw(call: Array) -> Noise:
        shared, step = normal(call + 1, 2)
        return Noise(shared, shared, step)

    return normal(jnp.int32(0), 1)[0], draw


def given_noise(
    tables: Tables,
    walk: Walk,
    stream: Float32[np.ndarray, "n b h w 3"],
    known: bool = True,
) -> tuple[Images, Draw]:
    """The start and the noise of every call, from the original's stream in order.

    Its single steps back are put together: a sum of Gaussians is one.

    Args:
      tables: of the chain.
      walk: the calls.
      stream: first x; then for each call its steps back, the step itself, and the
        known pixels' (but for the first call's).
      known: whether there are known pixels; else none is drawn for them.

    Raises:
      ValueError: when it is too long or too short.
    """
    needed = 1 + walk.steps_back + walk.calls + known * (walk.calls - 1)
    if len(stream) != needed:
        raise ValueError(f"a stream of {len(stream)} for a walk that takes {needed}")
    rest = iter(stream)
    start = next(rest)
    nothing = np.zeros_like(start)
    rows = []
    total = 1 - tables.abar[walk.at] / power(tables, walk.after)
    for i, (level, after) in enumerate(zip(walk.at, walk.after, strict=True)):
        back = nothing
        for j in range(after + 1, level + 1):
            share = tables.beta[j] * tables.abar[level] / tables.abar[j]
            back = back + next(rest) * np.float32(np.sqrt(share / total[i]))
        step = next(rest)
        rows.append(Noise(back, next(rest) if known and i else nothing, step))
    each = Noise(*(jnp.stack(x) for x in zip(*rows, strict=True)))
    return jnp.asarray(start), lambda call: Noise(*(x[call] for x in each))


# ---- the walk ----


class Seen(NamedTuple):
    """One call: x before it (known pixels put in), after it, and the x_0 it saw."""

    before: Images
    after: Images
    x0: Images


def run(
    network: Callable[[Array, Array], Array],
    tables: Tables,
    walk: Walk,
    kind: Kind,
    start: Images,
    image: Images,
    known: Float[Array, "b h w m"],
    draw: Draw,
    *,
    eta: float | None = None,
    guide: Callable[[Array, Array], Array] | None = None,
    composite: bool = True,
    watch: Callable[[Seen], Any] = lambda seen: (),
) -> tuple[Images, Any]:
    """Walks all images at once; pure.

    Args:
      network: (x [b h w 3], original steps [b]) -> output [b h w 3 or 6].
      tables: of the chain.
      walk: the calls (`plan`).
      kind: what the network's output means.
      start: standard normal.
      image: in [-1, 1]; what lies in the hole has no influence.
      known: 1 = known, 0 = hole.
      draw: of each call (`draw_noise`, `given_noise`).
      eta: DDIM's; None: the ancestral step, with the network's own variance.
      guide: (x, original steps) -> gradient of a log-likelihood, as a classifier's.
      composite: the known pixels of the result are the image's, to the last bit; the
        original leaves them as the network sees them.
      watch: what to return of every call.

    Returns:
      images, and what `watch` made of the calls, stacked.
    """
    b = len(image)
    # Up from `after` to `at` in one step; where they are equal nothing happens.
    ratio = tables.abar[walk.at] / power(tables, walk.after)
    original = jnp.asarray(tables.original, jnp.int32)

    def call(x: Images, given: tuple[Array, ...]) -> tuple[Images, Any]:
        number, level, keep, add = given
        t = jnp.full(b, level)
        noise = draw(number)
        x = keep * x + add * noise.back
        # The first call sees nothing but noise.
        mixed = known * (number > 0)
        x = mixed * diffusion.q_sample(tables, image, t, noise.known) + (1 - mixed) * x
        output = network(x, original[t])
        step = diffusion.predict(tables, kind, x, t, output, True)
        gradient = None if guide is None else guide(x, original[t])
        if eta is None:
            if gradient is not None:
                step = diffusion.guide_mean(step, gradient)
            new = diffusion.ancestral(step, t, noise.step)
        else:
            if gradient is not None:
                step = diffusion.guide_score(tables, x, t, step, gradient)
            new = diffusion.ddim(tables, x, t, step.x0, eta, noise.step)
        return new, watch(Seen(x, new, step.x0))

    calls = (
        jnp.arange(walk.calls),
        jnp.asarray(walk.at, jnp.int32),
        jnp.asarray(np.sqrt(ratio), jnp.float32),
        jnp.asarray(np.sqrt(1 - ratio), jnp.float32),
    )
    x, watched = lax.scan(call, start, calls)
    if composite:
        x = jnp.where(jnp.broadcast_to(known, x.shape) > 0.5, image, x)
    return x, watched


# ---- settings with a name ----


class Preset(NamedTuple):
    """A walk on a chain of its own: `spacing` as in `diffusion.spacing`."""

    spacing: str
    jumps: Jumps
    eta: float | None = None


PRESETS = {
    "repaint": Preset("250", Jumps()),  # 2,410 calls, as published
    "painter": Preset("250", Jumps(stop=100)),  # 1,510 calls, as published
    "fast": Preset("100", Jumps(times=8, stop=40)),
    "draft": Preset("20", Jumps(length=2, times=6, start=14, stop=8)),  # 50 calls
    "plain": Preset("250", Jumps(times=1)),  # no jumps: 250 calls, for an empty page
}
