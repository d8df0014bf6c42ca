"""Metrics of Inception's features, as streams: FID, KID, the Inception Score and others.

They are classes as `picjax.metrics.suite` wants them. FID, KID, the Inception Score,
precision and recall and P/U-IDS see one pass of the network over the truths and each
image's sample 0.
"""

import math
from collections.abc import Callable
from pathlib import Path
from typing import ClassVar

import jax
import numpy as np
from jaxtyping import Float, UInt8

from picjax.cli import UserError
from picjax.metrics import distribution, fid, inception, resize, weights
from picjax.metrics.networks import Settings, Shared, branded
from picjax.metrics.suite import Group, Result

FEATURES = 2048  # of Inception, for FID
MANY = 2048  # images; with fewer, FID's covariances have no full rank
ENOUGH = 2000  # images for P-IDS and U-IDS
FEWEST = {"fid": 2, "kid": 2, "is": 10, "pr": 4, "ids": ENOUGH}  # images

Rows = dict[str, np.ndarray]  # tap -> [n d]


class InceptionStream:
    """Features of the truths and of each image's sample 0, a batch at a time."""

    def __init__(self, settings: Settings, loaded: weights.Loaded):
        self.source = loaded.source
        self.pipeline, self.batch = settings.pipeline, settings.batch
        self.taps: set[str] = set()
        self._listeners: list[Callable[[Rows, Rows], None]] = []
        self._params = inception.prepare(loaded.tensors)
        self._queue: list[tuple[np.ndarray, np.ndarray]] = []
        self._last: Group | None = None
        self._prepare = jax.jit(lambda x: resize.for_inception(x, self.pipeline))
        self._network = jax.jit(inception.features, static_argnames="taps")

    def listen(self, tap: str, listener: Callable[[Rows, Rows], None]) -> None:
        """`listener` is given the features of truths and of samples, in order."""
        self.taps.add(tap)
        self._listeners.append(listener)

    def add(self, group: Group) -> None:
        """Queues a group; one that was queued last is not queued again."""
        if group is self._last:
            return
        self._last = group
        if self._queue and self._queue[0][0].shape != group.truth.shape:
            self.flush()
        self._queue.append((group.truth, group.samples[0]))
        if len(self._queue) == self.batch:
            self.flush()

    def flush(self) -> None:
        """Measures what is queued."""
        if not self._queue:
            return
        pairs, self._queue = self._queue, []
        real, fake = (self.features(np.stack(x)) for x in zip(*pairs, strict=True))
        for listener in self._listeners:
            listener(real, fake)

    def features(self, images: UInt8[np.ndarray, "n h w 3"]) -> Rows:
        """The taps that are listened to, of at most a batch of images."""
        missing = self.batch - len(images)
        padded = np.pad(images, [(0, missing), (0, 0), (0, 0), (0, 0)])
        x = self._prepare(padded)
        found = self._network(self._params, x, taps=tuple(sorted(self.taps)))
        return {tap: np.asarray(rows)[: len(images)] for tap, rows in found.items()}

    @property
    def about(self) -> str:
        """Network and input, for the report."""
        return f"{self.source}, input {self.pipeline}, of sample 0 and the truths"


def stream_of(shared: Shared) -> InceptionStream:
    """The one pass of Inception that all these metrics share."""
    return shared.once(
        "inception",
        lambda: InceptionStream(shared.settings, shared.load("inception")),
    )


class InceptionMetric:
    """What the metrics of one Inception pass have in common.

    Attributes:
      name: the metric's.
      tap: the features it needs.
    """

    name: ClassVar[str]
    tap: ClassVar[str] = "2048"

    def __init__(self, shared: Shared):
        self.stream = stream_of(shared)
        self.stream.listen(self.tap, self._take)
        self.about = self.stream.about
        self.count = 0

    def add(self, group: Group) -> dict[str, Float[np.ndarray, " n"]]:
        """Queues the group; no column."""
        self.stream.add(group)
        return {}

    def results(self) -> list[Result]:
        """The number over all groups; none, and the reason in `about`, of too few."""
        self.stream.flush()
        return [
            Result(
                metric=name,
                region="whole",
                samples="first",
                value=value,
                error=math.nan,
                images=self.count,
                unit=branded(unit, self.stream.source),
            )
            for name, value, unit in self._numbers()
        ]

    def state(self) -> dict[str, np.ndarray]:
        """What was counted, as arrays; of every image that was added."""
        self.stream.flush()
        return {"count": np.array(self.count), **self._kept()}

    def restore(self, state: dict[str, np.ndarray]) -> None:
        """Puts what `state` gave in the place of what was counted."""
        self.count = int(state["count"])
        self._put(state)

    def _kept(self) -> dict[str, np.ndarray]:
        raise NotImplementedError

    def _put(self, state: dict[str, np.ndarray]) -> None:
        raise NotImplementedError

    def _take(self, real: Rows, fake: Rows) -> None:
        self.count += len(real[self.tap])
        self._keep(real[self.tap], fake[self.tap])

    def _keep(self, real: np.ndarray, fake: np.ndarray) -> None:
        raise NotImplementedError

    def _numbers(self) -> list[tuple[str, float, str]]:
        raise NotImplementedError

    def _say(self, sentence: str) -> None:
        self.about = f"{self.stream.about}; {sentence}"


class Fid(InceptionMetric):
    """Frechet distance of the samples' features from the truths'; memory stays flat."""

    name = "fid"

    def __init__(self, shared: Shared):
        given = shared.settings.reference
        self.path = given
        self.reference = fid.load(Path(given)) if given else None
        if self.reference is not None and len(self.reference.mean) != FEATURES:
            raise UserError(
                f"--stats '{given}' is of {len(self.reference.mean)} features, not of "
                f"Inception's {FEATURES}; give statistics of those"
            )
        self.real, self.fake = fid.Moments(), fid.Moments()
        super().__init__(shared)

    def _keep(self, real: np.ndarray, fake: np.ndarray) -> None:
        if self.reference is None:
            self.real.add(real)
        self.fake.add(fake)

    def _kept(self) -> dict[str, np.ndarray]:
        both = {"real": self.real, "fake": self.fake}
        return {f"{k}/{x}": v for k, m in both.items() for x, v in m.state().items()}

    def _put(self, state: dict[str, np.ndarray]) -> None:
        for name, moments in (("real/", self.real), ("fake/", self.fake)):
            own = {k: x for k, x in state.items() if k.startswith(name)}
            moments.restore({k.removeprefix(name): x for k, x in own.items()})

    def _numbers(self) -> list[tuple[str, float, str]]:
        if self.count < FEWEST[self.name]:
            self._say("left out: it needs two images or more")
            return []
        reference = self.reference or self.real.stats()
        said = (
            f"{self.count} samples against {reference.count or 'unknown many'} images"
        )
        if self.path:
            said += f" of {self.path}"
        if self.count < MANY:
            said += f"; fewer than {MANY:,}, so compare with equal numbers only"
        self._say(said)
        return [("fid", fid.distance(reference, self.fake.stats()), "Frechet distance")]


class _Collecting(InceptionMetric):
    """Keeps every feature row: 8 kB an image and set."""

    def __init__(self, shared: Shared):
        self.reals: list[np.ndarray] = []
        self.fakes: list[np.ndarray] = []
        super().__init__(shared)

    def _keep(self, real: np.ndarray, fake: np.ndarray) -> None:
        self.reals.append(real)
        self.fakes.append(fake)

    def _kept(self) -> dict[str, np.ndarray]:
        both = {"reals": self.reals, "fakes": self.fakes}
        return {name: np.concatenate(rows) for name, rows in both.items() if rows}

    def _put(self, state: dict[str, np.ndarray]) -> None:
        self.reals = [state["reals"]] if "reals" in state else []
        self.fakes = [state["fakes"]] if "fakes" in state else []

    def _both(self) -> tuple[np.ndarray, np.ndarray]:
        return np.concatenate(self.reals), np.concatenate(self.fakes)


class Kid(_Collecting):
    """Kernel distance over 100 subsets of at most 1,000 images."""

    name = "kid"

    def _numbers(self) -> list[tuple[str, float, str]]:
        if self.count < FEWEST[self.name]:
            self._say("left out: it needs two images or more")
            return []
        size = min(self.count, 1000)
        found = distribution.kid(*self._both(), size=size)
        self._say(f"100 subsets of {size}, deviation over them {found.std:.3g}")
        return [("kid", found.mean, "squared kernel distance")]


class InceptionScore(_Collecting):
    """Inception Score of the samples, 10 splits, shuffled as torch-fidelity does."""

    name, tap = "is", "logits_unbiased"

    def _keep(self, real: np.ndarray, fake: np.ndarray) -> None:
        self.fakes.append(fake)

    def _numbers(self) -> list[tuple[str, float, str]]:
        if self.count < FEWEST[self.name]:
            self._say("left out: its 10 splits need an image each")
            return []
        found = distribution.inception_score(np.concatenate(self.fakes))
        self._say(f"of sample 0 alone, 10 splits, deviation over them {found.std:.3g}")
        return [("is", found.mean, "score")]


class PrecisionRecall(_Collecting):
    """Improved precision and recall, 3 neighbours."""

    name = "pr"

    def _numbers(self) -> list[tuple[str, float, str]]:
        if self.count < FEWEST[self.name]:
            self._say("left out: with 3 neighbours it needs four images or more")
            return []
        precision, recall = distribution.precision_recall(*self._both())
        self._say("features 2048, balls to the third neighbour")
        return [("precision", precision, "share"), ("recall", recall, "share")]


class Ids(_Collecting):
    """Paired and unpaired discriminative scores."""

    name = "ids"

    def _numbers(self) -> list[tuple[str, float, str]]:
        if self.count < FEWEST[self.name]:
            self._say(
                f"left out: with fewer than {ENOUGH:,} images a line tells all apart"
            )
            return []
        found = distribution.discriminate(*self._both())
        self._say("linear SVM, C = 1, squared hinge, solved to the optimum")
        return [("p_ids", found.p_ids, "share"), ("u_ids", found.u_ids, "share")]
