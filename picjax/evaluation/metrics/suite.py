"""The metrics that `picjax.eval` knows by name, as streams over groups of completions.

A metric sees one group at a time and keeps running sums only, so memory does not grow
with the number of images. To add one, write a class as `Metric` says and name it in
METRICS and, where one end is better, in BETTER.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any, ClassVar, NamedTuple, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float, Int, UInt8

from picjax.data import scenes
from picjax.evaluation.metrics import bits, diversity, image, posterior

GREY = "grey levels of 255"
MEANING = {  # of Result.samples, in the order of the columns of a table
    "first": "sample 0",
    "mean": "mean over the samples",
    "best": "best sample for this very metric",
    "picnet": "sample of least L1 - PSNR + TV against the truth (PICNet's rule)",
    "all": "all samples together",
    "entropy": "no samples: what the data's own entropy leaves possible on average",
}


BETTER = {  # which end, by Result.metric; where neither is, the name is absent
    "l1": "min",
    "psnr": "max",
    "ssim": "max",
    "likelihood": "min",
    "lpips": "min",
    "fid": "min",
    "kid": "min",
    "is": "max",
    "picnet_is": "max",
    "precision": "max",
    "recall": "max",
    "p_ids": "max",
    "u_ids": "max",
    "niqe": "min",
    "hyperiqa": "max",
    "nima": "max",
    "posterior/valid": "max",
    "posterior/modes_found": "max",
    "posterior/modes_found_raw": "max",
    "posterior/total_variation": "min",
    "posterior/image_total_variation": "min",
}


class Group(NamedTuple):
    """One image and its completions, uint8 as files would hold them.

    Attributes:
      name: the image's.
      truth: [h w 3].
      mask: [h w 1], 1 = known; None when the hole is not known.
      samples: [n h w 3].
      chosen: index of the sample that PICNet's rule takes.
      extra: what the data set says about the image beyond its pixels.
    """

    name: str
    truth: UInt8[np.ndarray, "h w 3"]
    mask: UInt8[np.ndarray, "h w 1"] | None
    samples: UInt8[np.ndarray, "n h w 3"]
    chosen: int
    extra: dict[str, np.ndarray]


class Result(NamedTuple):
    """A number with what is needed to read it.

    Attributes:
      metric: the metric's name.
      region: `whole` image or `hole` alone.
      samples: which of the n completions of an image, if any: a key of MEANING.
      value: mean over images.
      error: standard error of that mean over images; NaN for one image, or where there
        is an interval instead.
      images: how many images counted.
      unit: of the value.
      interval: low and high end, where the metric has one of its own.
    """

    metric: str
    region: str
    samples: str
    value: float
    error: float
    images: int
    unit: str
    interval: tuple[float, float] | None = None


@runtime_checkable
class Metric(Protocol):
    """What METRICS makes.

    Attributes:
      about: how it is measured, for the report.
    """

    about: str

    def add(self, group: Group) -> dict[str, Float[np.ndarray, " n"]]:
        """Counts a group; returns columns for the table of samples."""
        ...

    def results(self) -> list[Result]:
        """The numbers over all groups so far."""
        ...

    def state(self) -> dict[str, np.ndarray]:
        """What was counted, as arrays to be kept while an evaluation is interrupted."""
        ...

    def restore(self, state: dict[str, np.ndarray]) -> None:
        """Puts what `state` gave in the place of what was counted."""
        ...


class Running:
    """Mean and standard error of a stream (Welford, 1962); NaN values are left out."""

    def __init__(self, numbers: Sequence[float] = (0, 0, 0)) -> None:
        count, self.mean, self.square = map(float, numbers)
        self.count = int(count)

    def add(self, value: float) -> None:
        """Counts one value."""
        if math.isnan(value):
            return
        self.count += 1
        before = value - self.mean
        self.mean += before / self.count
        self.square += before * (value - self.mean)

    def result(self, metric: str, region: str, samples: str, unit: str) -> Result:
        """What was counted, under these names; NaN where nothing was."""
        n = self.count
        error = math.sqrt(self.square / (n - 1) / n) if n > 1 else math.nan
        mean = self.mean if n else math.nan
        return Result(metric, region, samples, mean, error, n, unit)


class Averaged:
    """A metric whose results are means over images, by region and choice of samples.

    Args:
      name: the metric's.
      unit: of its values.
      about: how it is measured.
    """

    def __init__(self, name: str, unit: str, about: str):
        self.name, self.unit, self.about = name, unit, about
        self.running: dict[tuple[str, str], Running] = {}

    def count(self, region: str, samples: str, value: float) -> None:
        """Counts an image's value."""
        self.running.setdefault((region, samples), Running()).add(float(value))

    def results(self) -> list[Result]:
        """The means so far."""
        return [
            running.result(self.name, region, samples, self.unit)
            for (region, samples), running in self.running.items()
        ]

    def state(self) -> dict[str, np.ndarray]:
        """Three numbers a mean."""
        return {
            "/".join(key): np.array([r.count, r.mean, r.square], np.float64)
            for key, r in self.running.items()
        }

    def restore(self, state: dict[str, np.ndarray]) -> None:
        """Puts what `state` gave in the place of what was counted."""
        self.running = {
            (key.split("/")[0], key.split("/")[1]): Running(numbers.tolist())
            for key, numbers in state.items()
        }


Distance = Callable[[np.ndarray, np.ndarray, np.ndarray | None], np.ndarray]


class ToTruth(Averaged):
    """A number for every sample, by comparison with the truth (or of its own).

    Args:
      name: the metric's; BETTER says which end is better.
      unit: of its values.
      distance: (samples, truths, masks or None) -> [n].
      about: how it is measured.
    """

    def __init__(self, name: str, unit: str, distance: Distance, about: str):
        super().__init__(name, unit, about)
        self.distance = distance

    def add(self, group: Group) -> dict[str, Float[np.ndarray, " n"]]:
        """Both regions; without a mask the whole image only."""
        truth = np.broadcast_to(group.truth, group.samples.shape)
        columns = {}
        for region, column, mask in regions(self.name, group):
            masks = None if mask is None else _repeat(mask, len(truth))
            values = self.distance(group.samples, truth, masks)
            columns[column] = np.asarray(values)
            self.count(region, "mean", values.mean())
            self.count(region, "first", values[0])
            self.count(region, "picnet", values[group.chosen])
            best = BETTER.get(self.name)
            if best:
                extreme = values.min() if best == "min" else values.max()
                self.count(region, "best", extreme)
        return columns


class Diversity(Averaged):
    """How much the samples of an image differ from each other."""

    def __init__(self) -> None:
        about = "mean L1 distance over all pairs of an image's samples"
        super().__init__("diversity", GREY, about)

    def add(self, group: Group) -> dict[str, Float[np.ndarray, " n"]]:
        """One number an image, repeated for its samples."""
        columns = {}
        for region, column, mask in regions("diversity", group):
            value = float(diversity.pixel_diversity(group.samples, mask))
            columns[column] = np.full(len(group.samples), value)
            self.count(region, "all", value)
        return columns


class Posterior:
    """How close the samples come to the known posterior of `scenes`.

    Keeps a handful of counts an image, as the bootstrap asks for.
    """

    about = (
        "centre hole of scenes: a sample shows the nearest mode, valid below RMS "
        f"{scenes.THRESHOLD:g} of 255; in brackets {posterior.LEVEL:.0%} "
        "bootstrap over images, for a floor the spread of a perfect sampler"
    )

    def __init__(self) -> None:
        self.counts: list[np.ndarray] = []
        self.scenes: list[int] = []

    def add(self, group: Group) -> dict[str, Float[np.ndarray, " n"]]:
        """Counts which modes the samples show; no column."""
        scene = int(group.extra["scene"])
        self.counts.append(
            posterior.count_modes(group.samples, scene, group.extra["scene_attributes"])
        )
        self.scenes.append(scene)
        return {}

    def results(self) -> list[Result]:
        """Everything that `posterior.summarise` gives."""
        return [
            Result(
                metric=f"posterior/{name}",
                region="hole",
                samples="all",
                value=found["value"],
                error=math.nan,
                images=len(self.scenes),
                unit="share" if "variation" not in name else "0..1",
                interval=(found["low"], found["high"]),
            )
            for name, found in posterior.summarise(self.counts, self.scenes).items()
            if name != "protocol"
        ]

    def state(self) -> dict[str, np.ndarray]:
        """A row of counts an image."""
        return {"counts": np.asarray(self.counts), "scenes": np.asarray(self.scenes)}

    def restore(self, state: dict[str, np.ndarray]) -> None:
        """Puts what `state` gave in the place of what was counted."""
        self.counts, self.scenes = list(state["counts"]), state["scenes"].tolist()


class Likelihood(Averaged):
    """How likely the truth is, where the system can say."""

    of: ClassVar = {"whole": "bits_per_dim", "hole": "bits_per_dim_hole"}

    def __init__(self) -> None:
        about = (
            "of the truth, bits a pixel and channel; hole: of its missing pixels, "
            "given those that are drawn or known before them; entropy: of the centre "
            "hole of scenes"
        )
        super().__init__("likelihood", "bits/dim", about)

    def add(self, group: Group) -> dict[str, Float[np.ndarray, " n"]]:
        """Counts what the system says of the image; no column."""
        for region, name in self.of.items():
            self.count(region, "all", float(group.extra[name]))
        if "scene" in group.extra and group.mask is not None:
            height, width, _ = group.mask.shape
            missing = np.zeros((height, width, 1), bool)
            missing[scenes.hole((height, width))] = True
            if np.array_equal(group.mask == 0, missing):
                nats = np.array([scenes.entropy(int(group.extra["scene"]))])
                dims = int(missing.sum()) * group.truth.shape[-1]
                self.count("hole", "entropy", bits.bits_per_dim(nats, dims)[0])
        return {}


def column_of(metric: str, region: str) -> str:
    """What a metric of a region is called in the table of samples."""
    return metric if region == "whole" else f"{metric}_{region.replace(' ', '_')}"


def regions(name: str, group: Group) -> list[tuple[str, str, np.ndarray | None]]:
    """(region, column of the table, mask to measure with) of a group."""
    whole = ("whole", column_of(name, "whole"), None)
    if group.mask is None:
        return [whole]
    return [whole, ("hole", column_of(name, "hole"), group.mask)]


def _repeat(mask: np.ndarray, n: int) -> np.ndarray:
    return np.broadcast_to(mask, (n, *mask.shape))


def choose(
    samples: UInt8[np.ndarray, "n h w 3"], truth: UInt8[np.ndarray, "h w 3"]
) -> int:
    """The sample that PICNet's evaluation keeps: least L1 - PSNR + TV."""
    index: Int[np.ndarray, ""] = image.best_of(samples, truth)
    return int(index)


METRICS: dict[str, Callable[[], Metric]] = {
    "l1": lambda: ToTruth("l1", GREY, image.l1, "mean absolute difference"),
    "psnr": lambda: ToTruth(
        "psnr", "dB", image.psnr, "of each sample; 100 where it is the truth"
    ),
    "ssim": lambda: ToTruth(
        "ssim",
        "1 = equal",
        image.ssim,
        "11x11 gaussian windows, sigma 1.5, mean over RGB; hole: windows centred in it",
    ),
    "tv": lambda: ToTruth(
        "tv",
        GREY,
        lambda samples, truths, masks: image.tv(samples, masks),
        "mean length of the sample's gradient, wrapping around (PICNet)",
    ),
    "diversity": Diversity,
    "posterior": Posterior,
    "likelihood": Likelihood,
}


# ---- results as JSON and as a table ----


def tree(results: Sequence[Result]) -> dict[str, Any]:
    """metric -> region -> samples -> number, ready for JSON; NaN becomes None."""
    out: dict[str, Any] = {}
    for r in results:
        out.setdefault(r.metric, {}).setdefault(r.region, {})[r.samples] = {
            "value": _finite(r.value),
            "standard_error": _finite(r.error),
            "interval": r.interval,
            "images": r.images,
            "unit": r.unit,
        }
    return out


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def table_cells(results: Sequence[Result]) -> tuple[list[str], list[list[str]]]:
    """Header and rows of a table: a row a metric and region."""
    used = [which for which in MEANING if any(r.samples == which for r in results)]
    rows: dict[tuple[str, str], dict[str, Result]] = {}
    for r in results:
        rows.setdefault((r.metric, r.region), {})[r.samples] = r
    cells = []
    for (metric, region), found in rows.items():
        unit = next(iter(found.values())).unit
        numbers = [number(found[w]) if w in found else "" for w in used]
        cells.append([metric, region, *numbers, unit])
    return ["metric", "region", *used, "unit"], cells


def number(result: Result) -> str:
    """`12.34 ± 0.56`: as many digits as the standard error makes sense of.

    Without one three decimals, or three digits where the number is small.
    """
    if not result.images:
        return "none"
    if result.interval is not None:
        low, high = result.interval
        return f"{result.value:.3f} [{low:.3f}, {high:.3f}]"
    if not result.error > 0:  # one image, or all the same
        small = 0 < abs(result.value) < 0.1
        return f"{result.value:.3g}" if small else f"{result.value:.3f}"
    digits = min(max(1 - math.floor(math.log10(result.error)), 0), 4)
    return f"{result.value:.{digits}f} ± {result.error:.{digits}f}"
