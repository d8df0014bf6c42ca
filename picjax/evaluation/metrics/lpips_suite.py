"""LPIPS to the truth and among an image's samples, as streams over groups.

They are classes as `picjax.metrics.suite` wants them, and share one pass of the
backbone.
"""

import math
import zlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, UInt8

from picjax.cli import UserError
from picjax.evaluation.metrics import convnet, lpips
from picjax.evaluation.metrics.networks import Shared, branded
from picjax.evaluation.metrics.suite import Averaged, Group, Result, ToTruth, column_of


class LpipsTaps:
    """The backbone's taps of a group's images, kept until the next group's."""

    def __init__(self, model: lpips.Lpips, source: str):
        self.model, self.source = convnet.everywhere(model), source
        self._embed = convnet.on_all_devices(
            lambda model, x: lpips.embed(model, lpips.to_float(x))
        )
        self._group: Group | None = None
        self._taps: lpips.Taps = []

    def embed(self, images: UInt8[np.ndarray, "n h w 3"]) -> lpips.Taps:
        """Of any images, in rows that may be more: all devices have as many.

        Raises:
          UserError: where they are too small for the network.
        """
        smallest = lpips.SMALLEST[self.model.net]
        if min(images.shape[1:3]) < smallest:
            raise UserError(
                f"LPIPS with {self.model.net} needs {smallest} pixels a side, not "
                f"{images.shape[2]}x{images.shape[1]}; leave it out"
            )
        filled = convnet.fill_up(images, jax.local_device_count())
        return self._embed(self.model, filled)

    def of_group(self, group: Group) -> lpips.Taps:
        """Of a group's samples, and behind them of its truth; computed once."""
        if self._group is not group:
            images = np.concatenate([group.samples, group.truth[None]])
            self._group, self._taps = group, self.embed(images)
        return self._taps

    @property
    def about(self) -> str:
        """Network and version, for the report."""
        return f"{self.model.net} {self.model.version} ({self.source})"


def taps_of(shared: Shared) -> LpipsTaps:
    """The one pass of the backbone that both metrics share."""
    given = shared.settings

    def make() -> LpipsTaps:
        loaded = shared.load(lpips.ARCHITECTURES[given.net])
        model = lpips.make(loaded.tensors, given.net, given.version)
        return LpipsTaps(model, loaded.source)

    return shared.once("lpips", make)


class Lpips:
    """LPIPS of every sample to the truth; hole: mean of the map over its pixels."""

    def __init__(self, shared: Shared):
        self.taps = taps_of(shared)
        self.about = f"{self.taps.about}; hole: mean of the spatial map over it"
        unit = branded("distance", self.taps.source)
        self._values: dict[bool, np.ndarray] = {}
        self._truth = ToTruth("lpips", unit, self._look_up, self.about)

        @jax.jit
        def distances(model: lpips.Lpips, taps: Any, truth: Any, hole: Any) -> Any:
            repeated = [jnp.broadcast_to(x[truth], x.shape) for x in taps]
            maps = lpips.compare(model, taps, repeated)
            whole = jnp.stack([m.mean((1, 2)) for m in maps]).sum(0)
            return whole, lpips.hole_mean(maps, hole)

        self._distances = distances

    def _look_up(self, samples: Any, truths: Any, masks: np.ndarray | None) -> Any:
        return self._values[masks is not None]

    def add(self, group: Group) -> dict[str, Float[np.ndarray, " n"]]:
        """A column for the whole image and one for the hole."""
        n, taps = len(group.samples), self.taps.of_group(group)
        both = self._distances(self.taps.model, taps, n, _hole(group)[None])
        whole, hole = (np.asarray(x, np.float64)[:n] for x in both)
        self._values = {False: whole, True: hole}
        return self._truth.add(group)

    def results(self) -> list[Result]:
        """As those of every distance to the truth."""
        return self._truth.results()

    def state(self) -> dict[str, np.ndarray]:
        """Three numbers a mean."""
        return self._truth.state()

    def restore(self, state: dict[str, np.ndarray]) -> None:
        """Puts what `state` gave in the place of what was counted."""
        self._truth.restore(state)


class LpipsDiversity(Averaged):
    """LPIPS between the samples of an image."""

    def __init__(self, shared: Shared):
        self.taps, settings = taps_of(shared), shared.settings
        self.kind, self.seed = settings.pairs, settings.seed
        kind = f"{self.kind} pairs" + (" at random" if self.kind.isdigit() else "")
        about = (
            f"{self.taps.about}, {kind} of an image's samples; hole: mean of the map "
            "over it; hole box: of the crop, where the hole is one rectangle of the "
            "first such hole's size"
        )
        unit = branded("distance", self.taps.source)
        super().__init__("lpips_diversity", unit, about)
        # Of the first box; others are not measured, for each compiles the network anew.
        self._box: tuple[int, int] | None = None

        def distances(given: Any, pairs: Any) -> Any:
            model, taps, hole = given
            return lpips.pair_distances(model, taps, pairs, hole).T

        self._distances = convnet.on_all_devices(distances)

    def _pairs(self, group: Group) -> np.ndarray:
        n = len(group.samples)
        if self.kind == "all":
            return lpips.all_pairs(n)
        if self.kind == "consecutive":
            return lpips.consecutive(n)
        # Its own pairs for an image, wherever an evaluation begins.
        rng = np.random.default_rng([self.seed, zlib.crc32(group.name.encode())])
        return lpips.random_pairs(n, int(self.kind), rng)

    def add(self, group: Group) -> dict[str, Float[np.ndarray, " n"]]:
        """One number an image, repeated for its samples; none with a single sample.

        The columns are the same for every image; NaN where it has no such number.
        """
        n = len(group.samples)
        if n < 2:
            return {}
        pairs, hole = self._pairs(group), _hole(group)
        whole, inside = self._mean(self.taps.of_group(group), pairs, hole)
        found = {"whole": whole}
        if group.mask is not None:
            found["hole"] = inside
            found["hole box"] = self._of_box(group, pairs, hole)
        columns = {}
        for region, value in found.items():
            if region != "hole box" or math.isfinite(value):
                self.count(region, "all", value)
            columns[column_of(self.name, region)] = np.full(n, value)
        return columns

    def _of_box(self, group: Group, pairs: np.ndarray, hole: np.ndarray) -> float:
        """Of the crop around the hole; NaN where there is none to be measured."""
        crop = None if group.mask is None else lpips.box(group.mask)
        if crop is None:
            return math.nan
        height, width = (int(x.stop - x.start) for x in crop)
        if min(height, width) < lpips.SMALLEST[self.taps.model.net]:
            return math.nan
        self._box = self._box or (height, width)
        if self._box != (height, width):
            return math.nan
        taps = self.taps.embed(np.ascontiguousarray(group.samples[:, *crop]))
        return self._mean(taps, pairs, hole[crop])[0]

    def state(self) -> dict[str, np.ndarray]:
        """Three numbers a mean, and the size of the first box."""
        box = {} if self._box is None else {"box": np.array(self._box)}
        return super().state() | box

    def restore(self, state: dict[str, np.ndarray]) -> None:
        """Puts what `state` gave in the place of what was counted."""
        self._box = tuple(state["box"].tolist()) if "box" in state else None
        super().restore({key: x for key, x in state.items() if key != "box"})

    def _mean(
        self, taps: lpips.Taps, pairs: np.ndarray, hole: np.ndarray
    ) -> tuple[float, float]:
        """Over the pairs, of the whole image and of the hole."""
        filled = convnet.fill_up(pairs, jax.local_device_count())
        found = self._distances((self.taps.model, taps, hole), filled)
        whole, inside = np.asarray(found, np.float64)[: len(pairs)].mean(0)
        return float(whole), float(inside)


def _hole(group: Group) -> Float[np.ndarray, "h w"]:
    """1 = hole, float32; zeros where the hole is not known."""
    if group.mask is None:
        return np.zeros(group.truth.shape[:2], np.float32)
    return (group.mask[..., 0] < 0.5).astype(np.float32)
