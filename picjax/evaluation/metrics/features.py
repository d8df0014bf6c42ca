"""FID, KID, Inception Score, precision and recall, P-IDS and U-IDS as accumulators.

All but PICNet's Inception Score share one pass of the network over the truths and each
image's sample 0.
"""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

import jax
import numpy as np
from jaxtyping import UInt8

from picjax.cli import UserError
from picjax.evaluation.metrics import distribution, fid, inception, layers, resize
from picjax.evaluation.metrics.networks import Networks
from picjax.evaluation.metrics.results import Columns, Example, Result, brand

FEATURES = 2048  # of Inception, for FID
FULL_RANK = 2048  # images; with fewer, FID's covariances are singular
RECENT = 2  # batches whose features are kept
CHUNK, MOST = 1000, 10_000  # images per chunk and in all of PICNet's score
FEWEST = {"fid": 2, "kid": 2, "is": 10, "picnet_is": CHUNK, "pr": 4, "ids": 2000}
Images = Sequence[UInt8[np.ndarray, "h w 3"]]


class Inception:
    """Inception's features of batches of images, on all devices.

    Args:
      networks: of the evaluation.
      variant: a key of `inception.RELEASED`.
      pipeline: name of the input's preparation.
    """

    def __init__(self, networks: Networks, variant: str, pipeline: str):
        loaded = networks.load(inception.RELEASED[variant])
        self.source, self.pipeline = loaded.source, pipeline
        self.batch_size = networks.settings.batch * jax.local_device_count()
        self._params = layers.everywhere(inception.prepare(loaded.tensors))
        # Compiled apart from the network, which then serves every size of image.
        self._prepare = layers.on_all_devices(
            lambda _, x: resize.for_inception(x, pipeline)
        )
        self._network = layers.on_all_devices(
            lambda params, x: inception.features(params, x, inception.HEADS, variant)
        )
        self._recent: dict[tuple[int, ...], tuple[Images, dict[str, np.ndarray]]] = {}

    def features(self, images: Images) -> dict[str, np.ndarray]:
        """`inception.HEADS` of at most a batch of images of one size.

        They are computed once for all metrics, and the truths' for the baselines too.
        """
        key = tuple(image.ctypes.data for image in images)
        _, rows = self._recent.pop(key, (None, None))
        if rows is None:
            x = self._prepare((), layers.fill_up(np.stack(images), self.batch_size))
            by_tap = self._network(self._params, x)
            rows = {tap: np.asarray(x)[: len(images)] for tap, x in by_tap.items()}
        self._recent[key] = images, rows  # with the images, whose memory is the key
        while len(self._recent) > RECENT:
            del self._recent[next(iter(self._recent))]
        return rows


class FeatureMetric:
    """What the metrics of Inception's features share; subclasses implement `measure`.

    Examples are queued up to a batch. Every feature row is kept: 8 kB per image and set.

    Attributes:
      name: of the metric.
      unit: of its values.
      tap: the features that it needs.
      samples: which of an image's completions count.
      variant: of the network, a key of `inception.RELEASED`.
      pipeline: name of the input's preparation; None for that of the settings.
      picked: which images are measured, for the description.
    """

    name: ClassVar[str]
    unit: ClassVar[str] = "share"
    tap: ClassVar[str] = "2048"
    samples: ClassVar[str] = "first"
    variant: ClassVar[str] = "fid"
    pipeline: ClassVar[str | None] = None
    picked: ClassVar[str] = "sample 0 and the truths"

    def __init__(self, networks: Networks):
        self.network = networks.share(
            self.variant,
            lambda n: Inception(n, self.variant, self.pipeline or n.settings.pipeline),
        )
        self.reset()

    def reset(self) -> None:
        """Forgets every example."""
        self.count = 0
        self._queue: list[tuple[np.ndarray, ...]] = []
        self._rows: list[tuple[np.ndarray, ...]] = []
        self._describe()

    def _describe(self, *sentences: str) -> None:
        network = self.network
        pass_ = f"{network.source}, input {network.pipeline}, of {self.picked}"
        self.description = "; ".join([pass_, *sentences])

    def pick(self, example: Example) -> tuple[UInt8[np.ndarray, "h w 3"], ...]:
        """The images of an example that are measured."""
        return example.truth, example.samples[0]

    def add(self, example: Example) -> Columns:
        """Queues the example; no column."""
        picked = self.pick(example)
        if self._queue and self._queue[0][0].shape != picked[0].shape:
            self._flush()
        self._queue.append(picked)
        if len(self._queue) == self.network.batch_size:
            self._flush()
        return {}

    def _flush(self) -> None:
        """Measures the queued images."""
        if self._queue:
            sets = list(zip(*self._queue, strict=True))
            self._queue = []
            self.count += len(sets[0])
            self.keep(*(self.network.features(x)[self.tap] for x in sets))

    def keep(self, *rows: np.ndarray) -> None:
        """Keeps feature rows, one array per picked image."""
        self._rows.append(rows)

    def results(self) -> list[Result]:
        """The numbers over all examples; none if there are too few (`description`)."""
        self._flush()
        if self.count < FEWEST[self.name]:
            self._describe(f"left out: needs {FEWEST[self.name]:,} images or more")
            return []
        sets = [np.concatenate(rows) for rows in zip(*self._rows, strict=True)]
        values, sentence = self.measure(*sets)
        self._describe(sentence)
        return [
            Result(
                metric=name,
                region="whole",
                samples=self.samples,
                value=value,
                error=math.nan,
                images=self.images,
                unit=brand(self.unit, self.network.source),
            )
            for name, value in values.items()
        ]

    @property
    def images(self) -> int:
        """Number of images that count."""
        return self.count

    def measure(self, *sets: np.ndarray) -> tuple[dict[str, float], str]:
        """Metric -> value over all rows of each picked image, and how it is measured."""
        raise NotImplementedError


class Fid(FeatureMetric):
    """Frechet distance of the samples' features from the truths'; memory stays flat."""

    name, unit = "fid", "Frechet distance"

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

    def measure(self, *sets: np.ndarray) -> tuple[dict[str, float], str]:
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
        return {"fid": fid.distance(reference, self.fake.stats())}, sentence


class Kid(FeatureMetric):
    """Kernel distance over 100 subsets of at most 1,000 images."""

    name, unit = "kid", "squared kernel distance"

    def measure(self, *sets: np.ndarray) -> tuple[dict[str, float], str]:
        """The mean over subsets."""
        real, fake = sets
        size = min(self.count, 1000)
        spread = distribution.kid(real, fake, size=size)
        sentence = f"100 subsets of {size}, deviation over them {spread.std:.3g}"
        return {"kid": spread.mean}, sentence


class InceptionScore(FeatureMetric):
    """Inception Score of the samples, 10 splits, shuffled as in torch-fidelity."""

    name, unit, tap = "is", "score", "logits_unbiased"

    def pick(self, example: Example) -> tuple[UInt8[np.ndarray, "h w 3"], ...]:
        """Sample 0 alone."""
        return (example.samples[0],)

    def measure(self, *sets: np.ndarray) -> tuple[dict[str, float], str]:
        """The mean over splits."""
        (logits,) = sets
        spread = distribution.inception_score(logits)
        deviation = f"deviation over them {spread.std:.3g}"
        return {"is": spread.mean}, f"of sample 0 alone, 10 splits, {deviation}"


class PicnetInceptionScore(FeatureMetric):
    """PICNet's: chunks of 1,000 images in 10 splits, so at most 100 and biased low.

    As in its published script: torchvision's network, images normalised twice, the first
    10,000 images; those after the last whole chunk do not count.
    """

    name, unit, tap, samples = "picnet_is", "score", "logits", "picnet"
    variant, pipeline = "torchvision", "picnet"
    picked = "the sample with the least L1 - PSNR + TV"

    def pick(self, example: Example) -> tuple[UInt8[np.ndarray, "h w 3"], ...]:
        """The chosen sample alone."""
        return (example.samples[example.chosen],)

    def add(self, example: Example) -> Columns:
        """Queues the example if it is one of the first; no column."""
        within = self.count + len(self._queue) < MOST
        return super().add(example) if within else {}

    @property
    def images(self) -> int:
        """Those of whole chunks."""
        return self.count // CHUNK * CHUNK

    def measure(self, *sets: np.ndarray) -> tuple[dict[str, float], str]:
        """The mean over chunks."""
        (logits,) = sets
        spread = distribution.picnet_inception_score(logits, CHUNK)
        return {"picnet_is": spread.mean}, (
            f"chunks of {CHUNK:,} images in 10 splits each, not shuffled, mean over "
            f"the chunks, mean deviation over splits {spread.std:.3g}"
        )


class PrecisionRecall(FeatureMetric):
    """Improved precision and recall, 3 neighbours."""

    name = "pr"

    def measure(self, *sets: np.ndarray) -> tuple[dict[str, float], str]:
        """Both shares."""
        real, fake = sets
        precision, recall = distribution.precision_recall(real, fake)
        sentence = "features 2048, balls to the third neighbour"
        return {"precision": precision, "recall": recall}, sentence


class Ids(FeatureMetric):
    """Paired and unpaired discriminative scores."""

    name = "ids"

    def measure(self, *sets: np.ndarray) -> tuple[dict[str, float], str]:
        """Both shares."""
        real, fake = sets
        found = distribution.discriminate(real, fake)
        sentence = "linear SVM, C = 1, squared hinge, solved to the optimum"
        return {"p_ids": found.p_ids, "u_ids": found.u_ids}, sentence
