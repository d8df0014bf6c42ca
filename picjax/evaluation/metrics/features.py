"""FID, KID, Inception Score, precision and recall, P-IDS and U-IDS as accumulators.

All but PICNet's Inception Score share one pass of the network over the truths and each
image's sample 0.
"""

import functools
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, ClassVar

import jax
import numpy as np
from jaxtyping import UInt8

from picjax.cli import UserError
from picjax.evaluation.metrics import distribution, fid, inception, layers, resize
from picjax.evaluation.metrics.networks import Networks
from picjax.evaluation.metrics.results import Columns, Example, Result, brand

FEATURES = 2048  # of Inception, for FID
FULL_RANK = 2048  # images; with fewer, FID's covariances are singular
FEWEST_IDS = 2000  # images for P-IDS and U-IDS
RECENT = 2  # batches whose features are kept
CHUNK, MOST = 1000, 10_000  # images per chunk and in all of PICNet's score
FEWEST = {"fid": 2, "kid": 2, "is": 10, "picnet_is": CHUNK, "pr": 4, "ids": FEWEST_IDS}


class Inception:
    """Inception's features of batches of images, on all devices.

    Args:
      networks: of the evaluation.
      variant: a key of `inception.RELEASED`.
      pipeline: name of the input's preparation.
    """

    def __init__(self, networks: Networks, variant: str, pipeline: str):
        loaded = networks.load(inception.RELEASED[variant])
        self.source, self.pipeline, self.variant = loaded.source, pipeline, variant
        self.batch_size = networks.settings.batch * jax.local_device_count()
        self.taps: set[str] = set()
        self._params = layers.everywhere(inception.prepare(loaded.tensors))
        # Compiled apart from the network, which then serves every size of image.
        self._prepare = layers.on_all_devices(
            lambda _, x: resize.for_inception(x, pipeline)
        )
        self._recent: dict[tuple[int, ...], tuple[Any, dict[str, np.ndarray]]] = {}

    @functools.cached_property
    def _network(self) -> Callable[[Any, Any], Any]:
        taps = tuple(sorted(self.taps))
        return layers.on_all_devices(
            lambda params, x: inception.features(params, x, taps, self.variant)
        )

    def features(
        self, images: Sequence[UInt8[np.ndarray, "h w 3"]]
    ) -> dict[str, np.ndarray]:
        """The `taps` of at most a batch of images of one size."""
        # A baseline is measured against the same truths as the completions before it.
        key = tuple(map(id, images))
        _, rows = self._recent.pop(key, (None, None))
        if rows is None:
            x = self._prepare((), layers.fill_up(np.stack(images), self.batch_size))
            by_tap = self._network(self._params, x)
            rows = {tap: np.asarray(x)[: len(images)] for tap, x in by_tap.items()}
        self._recent[key] = images, rows  # the images too: an id is not used again
        while len(self._recent) > RECENT:
            del self._recent[next(iter(self._recent))]
        return rows


class FeatureStream:
    """Inception features of some images of each example, queued up to a batch.

    Attributes:
      variant: of the network, a key of `inception.RELEASED`.
      picked: which images are measured, for the description.
    """

    variant: ClassVar[str] = "fid"
    picked: ClassVar[str] = "sample 0 and the truths"

    def __init__(self, networks: Networks):
        self.network = networks.share(
            self.variant,
            lambda n: Inception(n, self.variant, self.pipeline(n)),
        )
        network = self.network
        self.source, self.batch_size = network.source, network.batch_size
        self.description = f"{self.source}, input {network.pipeline}, of {self.picked}"
        self._listeners: list[tuple[str, Callable[..., None]]] = []
        self.reset()

    def pipeline(self, networks: Networks) -> str:
        """Name of the input's preparation."""
        return networks.settings.pipeline

    def pick(self, example: Example) -> tuple[UInt8[np.ndarray, "h w 3"], ...]:
        """The images of an example that are measured."""
        return example.truth, example.samples[0]

    def reset(self) -> None:
        """Forgets what is queued."""
        self._queue: list[tuple[np.ndarray, ...]] = []
        self._last: Example | None = None

    @property
    def queued(self) -> int:
        """Number of queued examples."""
        return len(self._queue)

    def listen(self, tap: str, listener: Callable[..., None]) -> None:
        """Calls `listener` with a tap's rows, one argument per picked image."""
        self.network.taps.add(tap)
        self._listeners.append((tap, listener))

    def add(self, example: Example) -> None:
        """Queues an example once, however many metrics add it."""
        if example is self._last:
            return
        self._last = example
        if self._queue and self._queue[0][0].shape != example.truth.shape:
            self.flush()
        self._queue.append(self.pick(example))
        if len(self._queue) == self.batch_size:
            self.flush()

    def flush(self) -> None:
        """Measures the queued images."""
        if not self._queue:
            return
        queue, self._queue = self._queue, []
        rows = [self.network.features(x) for x in zip(*queue, strict=True)]
        for tap, listener in self._listeners:
            listener(*(by_tap[tap] for by_tap in rows))


class PicnetStream(FeatureStream):
    """PICNet's: torchvision's network, images normalised twice, the chosen sample."""

    variant = "torchvision"
    picked = "the sample with the least L1 - PSNR + TV"

    def pipeline(self, networks: Networks) -> str:
        """Always PICNet's own."""
        return "picnet"

    def pick(self, example: Example) -> tuple[UInt8[np.ndarray, "h w 3"], ...]:
        """The chosen sample alone."""
        return (example.samples[example.chosen],)


class FeatureMetric:
    """What the metrics of Inception's features share.

    Subclasses implement `keep` and `values`; they extend `reset` to what they hold.

    Attributes:
      name: of the metric.
      tap: the features that it needs.
      samples: which of an image's completions count.
      stream_type: class of its feature stream.
    """

    name: ClassVar[str]
    tap: ClassVar[str] = "2048"
    samples: ClassVar[str] = "first"
    stream_type: ClassVar[type[FeatureStream]] = FeatureStream

    def __init__(self, networks: Networks):
        self.stream = networks.share(
            self.stream_type.__name__, self.stream_type, together=True
        )
        self.stream.listen(self.tap, self._take)
        self.reset()

    def reset(self) -> None:
        """Forgets every example."""
        self.stream.reset()
        self.description = self.stream.description
        self.count = 0

    def add(self, example: Example) -> Columns:
        """Queues the example; no column."""
        self.stream.add(example)
        return {}

    def results(self) -> list[Result]:
        """The numbers over all examples; none if there are too few (`description`)."""
        self.stream.flush()
        if self.count < FEWEST[self.name]:
            self._describe(f"left out: needs {FEWEST[self.name]:,} images or more")
            return []
        return [
            Result(
                metric=name,
                region="whole",
                samples=self.samples,
                value=value,
                error=math.nan,
                images=self.images,
                unit=brand(unit, self.stream.source),
            )
            for name, value, unit in self.values()
        ]

    @property
    def images(self) -> int:
        """Number of images that count."""
        return self.count

    def _take(self, *rows: np.ndarray) -> None:
        self.count += len(rows[0])
        self.keep(*rows)

    def keep(self, *rows: np.ndarray) -> None:
        """Counts feature rows, one array per picked image."""
        raise NotImplementedError

    def values(self) -> list[tuple[str, float, str]]:
        """(metric, value, unit) over all rows."""
        raise NotImplementedError

    def _describe(self, sentence: str) -> None:
        self.description = f"{self.stream.description}; {sentence}"


class Fid(FeatureMetric):
    """Frechet distance of the samples' features from the truths'; memory stays flat."""

    name = "fid"

    def __init__(self, networks: Networks):
        self.path = networks.settings.reference
        self.reference = fid.load(Path(self.path)) if self.path else None
        if self.reference is not None and len(self.reference.mean) != FEATURES:
            raise UserError(
                f"--stats '{self.path}' is of {len(self.reference.mean)} features, not "
                f"of Inception's {FEATURES}; give statistics of those"
            )
        super().__init__(networks)

    def reset(self) -> None:
        """Forgets every example; a reference stays."""
        super().reset()
        self.real, self.fake = fid.Moments(), fid.Moments()

    def keep(self, *rows: np.ndarray) -> None:
        """Adds to the moments."""
        real, fake = rows
        if self.reference is None:
            self.real.add(real)
        self.fake.add(fake)

    def values(self) -> list[tuple[str, float, str]]:
        """The distance."""
        reference = self.reference or self.real.stats()
        images = reference.count or "an unknown number of"
        sentence = f"{self.count} samples against {images} images"
        if self.path:
            sentence += f" of {self.path}"
        if self.count < FULL_RANK:
            sentence += (
                f"; fewer than {FULL_RANK:,}, so compare with equal numbers only"
            )
        self._describe(sentence)
        return [("fid", fid.distance(reference, self.fake.stats()), "Frechet distance")]


class RowsMetric(FeatureMetric):
    """Keeps every feature row: 8 kB per image and set."""

    def reset(self) -> None:
        """Forgets every example."""
        super().reset()
        self._rows: list[tuple[np.ndarray, ...]] = []

    def keep(self, *rows: np.ndarray) -> None:
        """Keeps the rows."""
        self._rows.append(rows)

    def kept(self) -> list[np.ndarray]:
        """All rows, one array per picked image."""
        return [np.concatenate(rows) for rows in zip(*self._rows, strict=True)]


class Kid(RowsMetric):
    """Kernel distance over 100 subsets of at most 1,000 images."""

    name = "kid"

    def values(self) -> list[tuple[str, float, str]]:
        """The mean over subsets."""
        real, fake = self.kept()
        size = min(self.count, 1000)
        spread = distribution.kid(real, fake, size=size)
        self._describe(f"100 subsets of {size}, deviation over them {spread.std:.3g}")
        return [("kid", spread.mean, "squared kernel distance")]


class InceptionScore(RowsMetric):
    """Inception Score of the samples, 10 splits, shuffled as in torch-fidelity."""

    name, tap = "is", "logits_unbiased"

    def keep(self, *rows: np.ndarray) -> None:
        """Keeps the samples' rows alone."""
        super().keep(rows[-1])

    def values(self) -> list[tuple[str, float, str]]:
        """The mean over splits."""
        (logits,) = self.kept()
        spread = distribution.inception_score(logits)
        self._describe(
            f"of sample 0 alone, 10 splits, deviation over them {spread.std:.3g}"
        )
        return [("is", spread.mean, "score")]


class PicnetInceptionScore(InceptionScore):
    """PICNet's: chunks of 1,000 images in 10 splits, so at most 100 and biased low.

    As in its published script, of the first 10,000 images; those after the last whole
    chunk do not count.
    """

    name, tap, samples = "picnet_is", "logits", "picnet"
    stream_type = PicnetStream

    def add(self, example: Example) -> Columns:
        """Queues the example if it is one of the first; no column."""
        within = self.count + self.stream.queued < MOST
        return super().add(example) if within else {}

    @property
    def images(self) -> int:
        """Those of whole chunks."""
        return self.count // CHUNK * CHUNK

    def values(self) -> list[tuple[str, float, str]]:
        """The mean over chunks."""
        (logits,) = self.kept()
        spread = distribution.picnet_inception_score(logits, CHUNK)
        self._describe(
            f"chunks of {CHUNK:,} images in 10 splits each, not shuffled, mean over "
            f"the chunks, mean deviation over splits {spread.std:.3g}"
        )
        return [("picnet_is", spread.mean, "score")]


class PrecisionRecall(RowsMetric):
    """Improved precision and recall, 3 neighbours."""

    name = "pr"

    def values(self) -> list[tuple[str, float, str]]:
        """Both shares."""
        real, fake = self.kept()
        precision, recall = distribution.precision_recall(real, fake)
        self._describe("features 2048, balls to the third neighbour")
        return [("precision", precision, "share"), ("recall", recall, "share")]


class Ids(RowsMetric):
    """Paired and unpaired discriminative scores."""

    name = "ids"

    def values(self) -> list[tuple[str, float, str]]:
        """Both shares."""
        real, fake = self.kept()
        separation = distribution.discriminate(real, fake)
        self._describe("linear SVM, C = 1, squared hinge, solved to the optimum")
        return [
            ("p_ids", separation.p_ids, "share"),
            ("u_ids", separation.u_ids, "share"),
        ]
