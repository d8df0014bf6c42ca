"""What every metric shares: examples in, results out, running means between them.

A metric is an `Accumulator`, so memory does not grow with the number of images. To add
one, implement its three functions, enter it in `catalog` and, if one end of its scale
is better, in `BETTER`.
"""

import csv
import io
import math
from array import array
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np
from etils import epath
from jaxtyping import Float, Float64, UInt8

SAMPLES = {  # values of Result.samples, in the order of a table's columns
    "first": "sample 0",
    "mean": "mean over the samples",
    "best": "best sample according to this metric",
    "picnet": "sample with the least L1 - PSNR + TV against the truth (PICNet's rule)",
    "all": "all samples together",
    "entropy": "no samples: the lower bound that the data's own entropy sets",
}
BETTER = {  # Result.metric -> which end is better; absent if neither is
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
    "styles/valid": "max",
    "styles/styles_found": "max",
    "styles/total_variation": "min",
    "styles/mutual_information": "min",
}
UNITS = {  # of `interval_results`, if they are not shares
    "total_variation": "0..1",
    "image_total_variation": "0..1",
    "mutual_information": "nats",
}
RANDOM = "random features"  # marks numbers that come from an untrained network
Columns = dict[
    str, Float[np.ndarray, " n"]
]  # column of samples.csv -> value per sample


class Example(NamedTuple):
    """One image and its completions, uint8 as files hold them.

    Attributes:
      name: name of the image.
      truth: [h w 3].
      mask: [h w 1], 1 = known; None if the hole is unknown.
      samples: [n h w 3].
      chosen: index of the sample that PICNet's rule selects (`image.picnet_choice`).
      extra: what the data set or the system states beyond pixels, such as `scene`.
    """

    name: str
    truth: UInt8[np.ndarray, "h w 3"]
    mask: UInt8[np.ndarray, "h w 1"] | None
    samples: UInt8[np.ndarray, "n h w 3"]
    chosen: int
    extra: dict[str, np.ndarray]


class Result(NamedTuple):
    """One number with what is needed to read it.

    Attributes:
      metric: name of the metric.
      region: `whole` image, `hole`, or `hole box`.
      samples: which of an image's completions count, a key of SAMPLES.
      value: mean over images.
      error: standard error of that mean; NaN for one image or beside an interval.
      images: number of images that count.
      unit: of the value.
      interval: low and high end, for a metric that has an interval of its own.
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
class Accumulator(Protocol):
    """A metric over a stream of examples.

    Attributes:
      description: how it is measured, for the report.
    """

    description: str

    def reset(self) -> None:
        """Forgets every example."""
        ...

    def add(self, example: Example) -> Columns:
        """Counts an example; returns its columns of the table of samples."""
        ...

    def results(self) -> list[Result]:
        """The numbers over all examples since the last reset."""
        ...


class RunningMean:
    """Mean and standard error of a stream (Welford, 1962); NaN values are skipped."""

    def __init__(self) -> None:
        self.count, self.mean, self.squares = 0, 0.0, 0.0

    def add(self, value: float) -> None:
        """Counts one value."""
        if math.isnan(value):
            return
        self.count += 1
        deviation = value - self.mean
        self.mean += deviation / self.count
        self.squares += deviation * (value - self.mean)

    def result(self, metric: str, region: str, samples: str, unit: str) -> Result:
        """The mean under these names; NaN without a value."""
        n = self.count
        error = math.sqrt(self.squares / (n - 1) / n) if n > 1 else math.nan
        mean = self.mean if n else math.nan
        return Result(metric, region, samples, mean, error, n, unit)


class MeanAccumulator:
    """A metric whose results are means over images, by region and choice of samples.

    Subclasses implement `add`.
    """

    def __init__(self, name: str, unit: str, description: str):
        self.name, self.unit, self.description = name, unit, description
        self.reset()

    def reset(self) -> None:
        """Forgets every example."""
        self._means: dict[tuple[str, str], RunningMean] = {}

    def column(self, region: str) -> str:
        """Column of samples.csv, marked as `unit` is."""
        return column_name(self.name, region, self.unit)

    def count(self, region: str, samples: str, value: float) -> None:
        """Counts the value of one image."""
        self._means.setdefault((region, samples), RunningMean()).add(float(value))

    def count_samples(
        self, region: str, values: Float[np.ndarray, " n"], chosen: int
    ) -> None:
        """Counts one image by its samples' values: mean, first, PICNet's and best."""
        self.count(region, "mean", values.mean())
        self.count(region, "first", values[0])
        self.count(region, "picnet", values[chosen])
        if self.name in BETTER:
            best = values.min() if BETTER[self.name] == "min" else values.max()
            self.count(region, "best", best)

    def results(self) -> list[Result]:
        """The means so far."""
        return [
            mean.result(self.name, region, samples, self.unit)
            for (region, samples), mean in self._means.items()
        ]


class FirstSample(MeanAccumulator):
    """One value of each image's sample 0.

    Args:
      name, unit, description: of the metric.
      measure: a uint8 image [h w 3] -> its value.
    """

    def __init__(
        self,
        name: str,
        unit: str,
        description: str,
        measure: Callable[[np.ndarray], float],
    ):
        super().__init__(name, unit, description)
        self.measure = measure

    def add(self, example: Example) -> Columns:
        """A column, NaN but for sample 0."""
        column = np.full(len(example.samples), math.nan)
        column[0] = self.measure(example.samples[0])
        self.count("whole", "first", column[0])
        return {self.column("whole"): column}


def column_name(metric: str, region: str, unit: str = "") -> str:
    """Column of samples.csv: `l1`, `l1_hole`; marked if the unit is."""
    name = metric if region == "whole" else f"{metric}_{region.replace(' ', '_')}"
    return brand(name, RANDOM) if RANDOM in unit else name


def brand(text: str, source: str) -> str:
    """A unit, value or column, marked if the source of the weights is RANDOM."""
    return f"{text} ({RANDOM})" if source == RANDOM else text


def interval_results(
    name: str, region: str, images: int, statistics: Mapping[str, Mapping[str, float]]
) -> list[Result]:
    """Results `name/STATISTIC` of all samples, from `value`, `low` and `high` of each."""
    return [
        Result(
            metric=f"{name}/{statistic}",
            region=region,
            samples="all",
            value=x["value"],
            error=math.nan,
            images=images,
            unit=UNITS.get(statistic.removesuffix("_floor"), "share"),
            interval=(x["low"], x["high"]),
        )
        for statistic, x in statistics.items()
    ]


def regions(example: Example) -> Iterator[tuple[str, np.ndarray | None]]:
    """(region, mask to measure with): the whole image and, if it is known, the hole."""
    yield "whole", None
    if example.mask is not None:
        yield "hole", example.mask


def read_samples(table: epath.PathLike) -> dict[str, Float64[np.ndarray, " n"]]:
    """The columns of a samples.csv but the images' names, one value per sample."""
    columns: dict[str, array[float]] = {}
    # Newlines of its cells stay as they are.
    with io.TextIOWrapper(epath.Path(table).open("rb"), "utf-8", newline="") as file:
        for row in csv.DictReader(file):
            del row["image"]
            for name, text in row.items():
                columns.setdefault(name, array("d")).append(float(text))
    return {name: np.array(column) for name, column in columns.items()}


# ---- results as JSON and as a table ----


def to_json(results: Sequence[Result]) -> dict[str, Any]:
    """metric -> region -> samples -> number; NaN becomes None."""
    tree: dict[str, Any] = {}
    for r in results:
        tree.setdefault(r.metric, {}).setdefault(r.region, {})[r.samples] = {
            "value": finite_or_none(r.value),
            "standard_error": finite_or_none(r.error),
            "interval": r.interval,
            "images": r.images,
            "unit": r.unit,
        }
    return tree


def from_json(tree: dict[str, Any]) -> list[Result]:
    """The results that `to_json` wrote."""
    return [
        Result(
            metric,
            region,
            samples,
            math.nan if entry["value"] is None else entry["value"],
            math.nan if entry["standard_error"] is None else entry["standard_error"],
            entry["images"],
            entry["unit"],
            entry["interval"] and tuple(entry["interval"]),
        )
        for metric, by_region in tree.items()
        for region, by_samples in by_region.items()
        for samples, entry in by_samples.items()
    ]


def finite_or_none(value: float) -> float | None:
    """The value as JSON has it."""
    return float(value) if math.isfinite(value) else None


def columns_used(results: Sequence[Result]) -> list[str]:
    """The keys of SAMPLES that a table of these results has as columns."""
    used = {r.samples for r in results}
    return [samples for samples in SAMPLES if samples in used]


def table_cells(
    by_method: Mapping[str, Sequence[Result]],
) -> tuple[list[str], list[list[str]]]:
    """Header and rows of a table, one row per metric, region and method.

    Args:
      by_method: name -> results, of what is evaluated and then of the baselines.
    """
    used = columns_used([r for results in by_method.values() for r in results])
    rows: dict[tuple[str, str], dict[str, dict[str, Result]]] = {}
    for method, results in by_method.items():
        for r in results:
            row = rows.setdefault((r.metric, r.region), {})
            row.setdefault(method, {})[r.samples] = r
    cells = []
    for (metric, region), methods in rows.items():
        for method, row in methods.items():
            unit = next(iter(row.values())).unit
            values = [format_result(row[s]) if s in row else "" for s in used]
            cells.append([metric, region, method, *values, unit])
    return ["metric", "region", "method", *used, "unit"], cells


def format_result(result: Result) -> str:
    """`12.34 ± 0.56`: as many digits as the standard error justifies.

    Without a standard error: three decimals, or three digits of a small number. A
    number of an untrained network is marked.
    """
    return brand(_format(result), RANDOM if RANDOM in result.unit else "")


def _format(result: Result) -> str:
    if not result.images:
        return "none"
    if result.interval is not None:
        low, high = result.interval
        return f"{result.value:.3f} [{low:.3f}, {high:.3f}]"
    if not result.error > 0:  # one image, or all equal
        small = 0 < abs(result.value) < 0.1
        return f"{result.value:.3g}" if small else f"{result.value:.3f}"
    digits = min(max(1 - math.floor(math.log10(result.error)), 0), 4)
    return f"{result.value:.{digits}f} ± {result.error:.{digits}f}"
