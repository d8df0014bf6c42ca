"""Which steps of the trained process a shorter one keeps."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float64

from picjax.cli import UserError

Table = Float64[np.ndarray, " t"]
RHO = 7  # of Karras et al.


def keep(alphas_cumprod: Table, spacing: str) -> list[int]:
    """The kept steps, in ascending order.

    Args:
      alphas_cumprod: of the trained process.
      spacing: "karras100": noise over signal falls as in Karras et al. (arXiv
        2206.00364, equation 5, rho 7), each level at the nearest step that is left; or
        as in `space_timesteps`.

    Raises:
      UserError: if the spacing cannot be had.
    """
    steps = len(alphas_cumprod)
    if not spacing.startswith("karras"):
        return space_timesteps(steps, spacing)
    count = _count(steps, spacing, "karras")
    level = np.log(1 / alphas_cumprod - 1) / 2  # of noise over signal, ascending
    low, high = np.exp(level[[0, -1]] / RHO)
    wanted = RHO * np.log(np.linspace(low, high, count))
    return _distinct(np.interp(wanted, level, np.arange(steps)), steps)


def space_timesteps(steps: int, spacing: str) -> list[int]:
    """The kept steps of spacings that need no noise levels (`timestep_respacing`).

    Args:
      steps: number of steps of the process that the network was trained on.
      spacing: "250": that many, evenly spaced, both ends included; "10,20,30": that
        many of each of three equal sections; "ddim25": every k-th from 0 on, which
        does not include the last; "quad50": quadratically denser towards 0, both ends
        included (DDIM's, arXiv 2010.02502, appendix D.2, which ends at 0.8 of the
        process); "": all.

    Raises:
      UserError: if the spacing cannot be had.
    """
    if not spacing:
        return list(range(steps))
    if spacing.startswith("quad"):
        count = _count(steps, spacing, "quad")
        return _distinct((steps - 1) * np.linspace(0, 1, count) ** 2, steps)
    if spacing.startswith("ddim"):
        count = _count(steps, spacing, "ddim")
        strides = (range(0, steps, stride) for stride in range(1, steps))
        kept = next((list(r) for r in strides if len(r) == count), [])
        if not kept:
            raise _error(steps, spacing, "has no integer stride")
        return kept
    return _even_sections(steps, spacing)


def _even_sections(steps: int, spacing: str) -> list[int]:
    counts = spacing.split(",")
    if not all(count.strip().isdecimal() for count in counts):
        raise _error(steps, spacing, "is not a number")
    kept: list[int] = []
    size, extra = divmod(steps, len(counts))
    start = 0
    for i, count in enumerate(map(int, counts)):
        length = size + (i < extra)
        if length < count:
            reason = f"asks for {count} steps of a section of {length}"
            raise _error(steps, spacing, reason)
        stride = (length - 1) / (count - 1) if count > 1 else 1.0
        place = 0.0  # accumulated as in the original: it decides how halves round
        for _ in range(count):
            kept.append(start + round(place))
            place += stride
        start += length
    if len(kept) < 2:
        raise _error(steps, spacing, f"keeps {len(kept)} step(s), fewer than 2")
    return kept


def _count(steps: int, spacing: str, kind: str) -> int:
    count = spacing.removeprefix(kind)
    if not count.isdecimal():
        raise _error(steps, spacing, "is not a number")
    if int(count) < 2:
        raise _error(steps, spacing, f"keeps {int(count)} step(s), fewer than 2")
    if int(count) > steps:
        raise _error(steps, spacing, f"asks for {int(count)} steps of {steps}")
    return int(count)


def _distinct(places: Sequence[float] | np.ndarray, steps: int) -> list[int]:
    """Ascending places as different steps, each as near as those around it allow."""
    own = np.arange(len(places))
    kept = np.maximum.accumulate(np.rint(places).astype(int) - own)
    return [int(i) for i in np.minimum(kept, steps - len(places)) + own]


def _error(steps: int, spacing: str, reason: str) -> UserError:
    return UserError(
        f"spacing '{spacing}' of {steps} steps {reason}; give a number up to {steps}, "
        f"such as '{max(steps // 2, 2)}', with 'quad' or 'karras' before it, or 'ddim' "
        "and a divisor of it"
    )
