"""Metrics that ask a trained network, and NIQE, as streams over groups of completions.

They are classes as `picjax.metrics.suite` wants them, and share networks and passes:
FID, KID, the Inception Score, precision and recall and P/U-IDS see one pass of
Inception, LPIPS and its diversity one pass of its backbone.
"""

import math
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, UInt8

from picjax.cli import UserError, check_choice
from picjax.metrics import (
    distribution,
    fid,
    hyperiqa,
    inception,
    lpips,
    nima,
    niqe,
    resize,
    weights,
)
from picjax.metrics.suite import Averaged, Group, Metric, Result, ToTruth, column_of

FEATURES = 2048  # of Inception, for FID
MANY = 2048  # images; with fewer, FID's covariances have no full rank
ENOUGH = 2000  # images for P-IDS and U-IDS
FEWEST = {"fid": 2, "kid": 2, "is": 10, "pr": 4, "ids": ENOUGH}  # images
# The pipeline of PICNet is for its Inception Score alone (torchvision's network).
INPUTS = tuple(name for name in resize.PIPELINES if name != "picnet")


class Settings(NamedTuple):
    """How feature metrics are measured.

    Attributes:
      weights: folder of weights (see `weights.load`).
      allow_random: measure with networks that were never trained where there are no
        weights; every number is branded.
      pipeline: Inception's input, one of INPUTS.
      reference: file of FID statistics to compare with instead of the truths'.
      net: LPIPS's backbone: alex, vgg or squeeze.
      version: LPIPS's, 0.1 or 0.0.
      pairs: LPIPS diversity's: `all`, `consecutive`, or a number of random ones.
      luma: NIQE's, a key of `niqe.LUMAS`.
      batch: images a pass of Inception.
      seed: of random pairs.
    """

    weights: str | None = None
    allow_random: bool = False
    pipeline: str = "tf_legacy"
    reference: str | None = None
    net: str = "alex"
    version: str = "0.1"
    pairs: str = "all"
    luma: str = "gray"
    batch: int = 16
    seed: int = 0


class Shared:
    """What metrics share: each network is loaded when a metric first asks for it."""

    def __init__(self, settings: Settings):
        self.settings = settings
        self._failed: dict[str, UserError] = {}
        self._inception: InceptionStream | None = None
        self._lpips: LpipsTaps | None = None

    def load(self, network: str) -> weights.Loaded:
        """A network's weights; see `weights.load`. What failed is not tried again."""
        given = self.settings
        if network in self._failed:
            raise self._failed[network]
        try:
            return weights.load(network, given.weights, given.allow_random)
        except UserError as error:
            self._failed[network] = error
            raise

    @property
    def inception(self) -> "InceptionStream":
        """The one pass of Inception."""
        if self._inception is None:
            self._inception = InceptionStream(self.settings, self.load("inception"))
        return self._inception

    @property
    def lpips(self) -> "LpipsTaps":
        """The one pass of LPIPS's backbone."""
        if self._lpips is None:
            given = self.settings
            loaded = self.load(lpips.ARCHITECTURES[given.net])
            model = lpips.make(loaded.tensors, given.net, given.version)
            self._lpips = LpipsTaps(model, loaded.source)
        return self._lpips


def check(settings: Settings) -> None:
    """Refuses settings that are none.

    Raises:
      UserError: naming it.
    """
    known = {
        "pipeline": INPUTS,
        "net": lpips.ARCHITECTURES,
        "version": lpips.VERSIONS,
        "luma": niqe.LUMAS,
    }
    for name, values in known.items():
        check_choice(f"--feature {name}", getattr(settings, name), tuple(values))
    pairs = settings.pairs
    if pairs not in ("all", "consecutive") and not (pairs.isdigit() and int(pairs)):
        raise UserError(
            f"--feature pairs '{pairs}' is neither all, consecutive nor a number; give one of them"
        )


def branded(unit: str, source: str) -> str:
    """The unit, which says so when no trained network stands behind the number."""
    return f"{unit} ({weights.RANDOM})" if source == weights.RANDOM else unit


# ---- Inception: FID, KID, Inception Score, precision and recall, P/U-IDS ----

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


class InceptionMetric:
    """What the metrics of one Inception pass have in common.

    Attributes:
      name: the metric's.
      tap: the features it needs.
    """

    name: ClassVar[str]
    tap: ClassVar[str] = "2048"

    def __init__(self, shared: Shared):
        self.stream = shared.inception
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


# ---- LPIPS ----


class LpipsTaps:
    """The backbone's taps of a group's images, kept until the next group's."""

    def __init__(self, model: lpips.Lpips, source: str):
        self.model, self.source = model, source
        self._embed = jax.jit(lambda model, x: lpips.embed(model, lpips.to_float(x)))
        self._images: np.ndarray | None = None
        self._taps: lpips.Taps = []

    def embed(self, images: UInt8[np.ndarray, "n h w 3"]) -> lpips.Taps:
        """Of any images.

        Raises:
          UserError: where they are too small for the network.
        """
        smallest = lpips.SMALLEST[self.model.net]
        if min(images.shape[1:3]) < smallest:
            raise UserError(
                f"LPIPS with {self.model.net} needs {smallest} pixels a side, not "
                f"{images.shape[2]}x{images.shape[1]}; leave it out"
            )
        return self._embed(self.model, images)

    def of_samples(self, group: Group) -> lpips.Taps:
        """Of a group's samples, computed once."""
        if self._images is not group.samples:
            self._images, self._taps = group.samples, self.embed(group.samples)
        return self._taps

    @property
    def about(self) -> str:
        """Network and version, for the report."""
        return f"{self.model.net} {self.model.version} ({self.source})"


class Lpips:
    """LPIPS of every sample to the truth; hole: mean of the map over its pixels."""

    def __init__(self, shared: Shared):
        self.taps = shared.lpips
        self.about = f"{self.taps.about}; hole: mean of the spatial map over it"
        unit = branded("distance", self.taps.source)
        self._values: dict[bool, np.ndarray] = {}
        self._truth = ToTruth("lpips", unit, self._look_up, self.about)

        @jax.jit
        def distances(model: lpips.Lpips, a: Any, b: Any, hole: Any) -> Any:
            repeated = [jnp.broadcast_to(y, x.shape) for x, y in zip(a, b, strict=True)]
            maps = lpips.compare(model, a, repeated)
            whole = jnp.stack([m.mean((1, 2)) for m in maps]).sum(0)
            return whole, lpips.hole_mean(maps, hole)

        self._distances = distances

    def _look_up(self, samples: Any, truths: Any, masks: np.ndarray | None) -> Any:
        return self._values[masks is not None]

    def add(self, group: Group) -> dict[str, Float[np.ndarray, " n"]]:
        """A column for the whole image and one for the hole."""
        samples, truth = self.taps.of_samples(group), self.taps.embed(group.truth[None])
        both = self._distances(self.taps.model, samples, truth, _hole(group)[None])
        whole, hole = (np.asarray(x, np.float64) for x in both)
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
        self.taps, settings = shared.lpips, shared.settings
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
        self._distances = jax.jit(lpips.pair_distances)

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
        whole, inside = self._mean(self.taps.of_samples(group), pairs, hole)
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
        found = np.asarray(self._distances(self.taps.model, taps, pairs, hole))
        whole, inside = found.astype(np.float64).mean(1)
        return float(whole), float(inside)


def _hole(group: Group) -> Float[np.ndarray, "h w"]:
    """1 = hole, float32; zeros where the hole is not known."""
    if group.mask is None:
        return np.zeros(group.truth.shape[:2], np.float32)
    return (group.mask[..., 0] < 0.5).astype(np.float32)


# ---- without reference ----


class NoReference(ToTruth):
    """A number that a sample has by itself, of the whole image.

    Args:
      name: the metric's.
      unit: of its values.
      score: [h w 3] uint8 -> number.
      every: measure every sample, or sample 0 alone.
      about: how it is measured.
    """

    def __init__(
        self,
        name: str,
        unit: str,
        score: Callable[[np.ndarray], float],
        every: bool,
        about: str,
    ):
        def of_all(samples: Any, truths: Any, masks: Any) -> np.ndarray:
            return np.array([score(x) for x in samples])

        super().__init__(name, unit, of_all, about)
        self.score, self.every = score, every

    def add(self, group: Group) -> dict[str, Float[np.ndarray, " n"]]:
        """A column; NaN for samples that are not measured."""
        if self.every:
            return super().add(group._replace(mask=None))
        value = self.score(group.samples[0])
        self.count("whole", "first", value)
        return {self.name: np.array([value] + [math.nan] * (len(group.samples) - 1))}


def make_niqe(shared: Shared) -> NoReference:
    """NIQE of every sample, with the released model."""
    kind, model = shared.settings.luma, niqe.released()
    return NoReference(
        "niqe",
        "0 = natural",
        lambda image: niqe.score(niqe.luma(image, kind), model),
        True,
        f"luma {kind}, the released pristine model, blocks of {niqe.BLOCK} pixels",
    )


def make_hyperiqa(shared: Shared) -> NoReference:
    """HyperIQA of sample 0."""
    loaded = shared.load("hyperiqa")
    params, score = hyperiqa.prepare(loaded.tensors), jax.jit(hyperiqa.score)
    return NoReference(
        "hyperiqa",
        branded("score of the weights", loaded.source),
        lambda image: float(score(params, hyperiqa.crops(image)).mean()),
        False,
        f"{loaded.source}, mean of 25 crops of 224 pixels on a grid, of sample 0; sides "
        "of 224 or less are upscaled to 256 first",
    )


def make_nima(shared: Shared) -> NoReference:
    """NIMA's mean mark of sample 0."""
    loaded = shared.load("nima")
    params, marks = nima.prepare(loaded.tensors), jax.jit(nima.distribution)
    return NoReference(
        "nima",
        branded("1..10", loaded.source),
        lambda image: float(nima.moments(marks(params, nima.crop(image)))[0][0]),
        False,
        f"{loaded.source}, mean mark of the centre, shorter side 224, of sample 0",
    )


FEATURE_METRICS: dict[str, Callable[[Shared], Metric]] = {
    "lpips": Lpips,
    "lpips_diversity": LpipsDiversity,
    "fid": Fid,
    "kid": Kid,
    "is": InceptionScore,
    "pr": PrecisionRecall,
    "ids": Ids,
    "niqe": make_niqe,
    "hyperiqa": make_hyperiqa,
    "nima": make_nima,
}
