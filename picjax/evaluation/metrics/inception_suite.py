"""Metrics of Inception's features, as streams: FID, KID, the Inception Score and others.

They are classes as `picjax.metrics.suite` wants them. FID, KID, the Inception Score,
precision and recall and P/U-IDS see one pass of the network over the truths and each
image's sample 0; PICNet's Inception Score sees a pass of its own.
"""

import functools
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import jax
import numpy as np
from jaxtyping import Float, UInt8

from picjax.cli import UserError
from picjax.evaluation.metrics import (
    convnet,
    distribution,
    fid,
    inception,
    resize,
    weights,
)
from picjax.evaluation.metrics.networks import Shared, branded
from picjax.evaluation.metrics.suite import Group, Result

FEATURES = 2048  # of Inception, for FID
MANY = 2048  # images; with fewer, FID's covariances have no full rank
ENOUGH = 2000  # images for P-IDS and U-IDS
CHUNK, MOST = 1000, 10_000  # images of PICNet's score: a chunk of it, and at most
FEWEST = {"fid": 2, "kid": 2, "is": 10, "picnet_is": CHUNK, "pr": 4, "ids": ENOUGH}


class InceptionStream:
    """Features of some of each group's images, a batch at a time, on all devices.

    Args:
      loaded: the network's weights.
      variant: of the network, a key of `inception.CLASSES`.
      pipeline: its input, a key of `resize.PIPELINES`.
      batch: images a pass and device.
      pick: the images of a group that are measured.
      of: what these are called.
    """

    def __init__(
        self,
        loaded: weights.Loaded,
        variant: str,
        pipeline: str,
        batch: int,
        pick: Callable[[Group], tuple[np.ndarray, ...]],
        of: str,
    ):
        self.variant, self.pick = variant, pick
        self.source, self.batch = loaded.source, batch * jax.local_device_count()
        self.about = f"{loaded.source}, input {pipeline}, of {of}"
        self.taps: set[str] = set()
        self._listeners: list[Callable[..., None]] = []
        self._params = convnet.everywhere(inception.prepare(loaded.tensors))
        self._queue: list[tuple[np.ndarray, ...]] = []
        self._last: Group | None = None
        # By itself: images of another size do not compile the network anew.
        self._prepare = convnet.on_all_devices(
            lambda _, x: resize.for_inception(x, pipeline)
        )

    @functools.cached_property
    def _network(self) -> Callable[[Any, Any], Any]:
        taps = tuple(sorted(self.taps))
        return convnet.on_all_devices(
            lambda params, x: inception.features(params, x, taps, self.variant)
        )

    @property
    def waiting(self) -> int:
        """Groups that are queued."""
        return len(self._queue)

    def listen(self, tap: str, listener: Callable[..., None]) -> None:
        """`listener` is given the rows of a tap, one argument for each image picked."""
        self.taps.add(tap)
        self._listeners.append(lambda found: listener(*(rows[tap] for rows in found)))

    def add(self, group: Group) -> None:
        """Queues a group; one that was queued last is not queued again."""
        if group is self._last:
            return
        self._last = group
        if self._queue and self._queue[0][0].shape != group.truth.shape:
            self.flush()
        self._queue.append(self.pick(group))
        if len(self._queue) == self.batch:
            self.flush()

    def flush(self) -> None:
        """Measures what is queued."""
        if not self._queue:
            return
        picked, self._queue = self._queue, []
        found = [self.features(np.stack(x)) for x in zip(*picked, strict=True)]
        for listener in self._listeners:
            listener(found)

    def features(self, images: UInt8[np.ndarray, "n h w 3"]) -> dict[str, np.ndarray]:
        """The taps that are listened to, of at most a batch of images."""
        x = self._prepare((), convnet.fill_up(images, self.batch))
        found = self._network(self._params, x)
        return {tap: np.asarray(rows)[: len(images)] for tap, rows in found.items()}


def usual_stream(shared: Shared) -> InceptionStream:
    """The one pass that all but PICNet's score share: the truths, and sample 0."""
    given = shared.settings

    def make() -> InceptionStream:
        return InceptionStream(
            shared.load("inception"),
            "fid",
            given.pipeline,
            given.batch,
            lambda group: (group.truth, group.samples[0]),
            "sample 0 and the truths",
        )

    return shared.once("inception", make)


def picnet_stream(shared: Shared) -> InceptionStream:
    """PICNet's: torchvision's network, images normalised twice, the chosen sample."""

    def make() -> InceptionStream:
        return InceptionStream(
            shared.load("inception_torchvision"),
            "torchvision",
            "picnet",
            shared.settings.batch,
            lambda group: (group.samples[group.chosen],),
            "the sample of least L1 - PSNR + TV",
        )

    return shared.once("inception_torchvision", make)


class InceptionMetric:
    """What the metrics of one Inception pass have in common.

    Attributes:
      name: the metric's.
      tap: the features it needs.
      samples: which of an image's completions they are of.
    """

    name: ClassVar[str]
    tap: ClassVar[str] = "2048"
    samples: ClassVar[str] = "first"

    def __init__(self, shared: Shared):
        self.stream = self._open(shared)
        self.stream.listen(self.tap, self._take)
        self.about = self.stream.about
        self.count = 0

    def _open(self, shared: Shared) -> InceptionStream:
        return usual_stream(shared)

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
                samples=self.samples,
                value=value,
                error=math.nan,
                images=self._measured(),
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

    def _take(self, *rows: np.ndarray) -> None:
        self.count += len(rows[0])
        self._keep(*rows)

    def _keep(self, *rows: np.ndarray) -> None:
        raise NotImplementedError

    def _measured(self) -> int:
        return self.count

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

    def _keep(self, *rows: np.ndarray) -> None:
        real, fake = rows
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

    def _keep(self, *rows: np.ndarray) -> None:
        real, fake = rows
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

    def _keep(self, *rows: np.ndarray) -> None:
        self.fakes.append(rows[-1])

    def _numbers(self) -> list[tuple[str, float, str]]:
        if self.count < FEWEST[self.name]:
            self._say("left out: its 10 splits need an image each")
            return []
        found = distribution.inception_score(np.concatenate(self.fakes))
        self._say(f"of sample 0 alone, 10 splits, deviation over them {found.std:.3g}")
        return [("is", found.mean, "score")]


class PicnetInceptionScore(InceptionScore):
    """PICNet's: chunks of 1,000 images in 10 splits, so at most 100 and biased low.

    Of the first 10,000 images, as published; those after the last whole chunk do not
    count (metrics specification, sections 1, 5 and 6.2).
    """

    name, tap, samples = "picnet_is", "logits", "picnet"

    def _open(self, shared: Shared) -> InceptionStream:
        return picnet_stream(shared)

    def add(self, group: Group) -> dict[str, Float[np.ndarray, " n"]]:
        """Queues the group while there are fewer than count; no column."""
        return super().add(group) if self.count + self.stream.waiting < MOST else {}

    def _measured(self) -> int:
        return self.count // CHUNK * CHUNK

    def _numbers(self) -> list[tuple[str, float, str]]:
        if self.count < FEWEST[self.name]:
            self._say(f"left out: a chunk of it are {CHUNK:,} images")
            return []
        found = distribution.picnet_inception_score(np.concatenate(self.fakes), CHUNK)
        self._say(
            f"chunks of {CHUNK:,} images in 10 splits each, not shuffled, mean over "
            f"the chunks, mean deviation over splits {found.std:.3g}"
        )
        return [("picnet_is", found.mean, "score")]


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
