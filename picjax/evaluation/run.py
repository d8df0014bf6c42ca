"""One evaluation: from a task to results, a table of samples, panels and a manifest.

Examples pass one at a time, so memory does not grow with their number.
"""

import csv
import hashlib
import json
import math
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import IO, Any, NamedTuple

import numpy as np
from rich.console import Console

from picjax import files
from picjax.buckets import AnyPath
from picjax.cli import UserError, say
from picjax.evaluation.baselines import Baseline
from picjax.evaluation.examples import size_text
from picjax.evaluation.metrics.results import Accumulator, Columns, Example, Result
from picjax.evaluation.report.gallery import Gallery
from picjax.evaluation.store import CompletionStore, is_current
from picjax.log import progress_bar


@dataclass(frozen=True)
class EvalTask:
    """Something to be evaluated.

    Attributes:
      label: short name beside others.
      examples: starts the stream of examples.
      total: their number, at most.
      metrics: name -> metric.
      protocol: everything that the numbers depend on, ready for JSON.
      inputs: files that the examples are read from.
      out: folder of everything that is written.
      expected: entries of a manifest that the images must match, in order.
      store: completions of an interrupted evaluation.
      baselines: measured on the same examples.
    """

    label: str
    examples: Callable[[], Iterator[Example]]
    total: int
    metrics: Mapping[str, Accumulator]
    protocol: dict[str, Any]
    inputs: Sequence[AnyPath]
    out: AnyPath
    expected: Sequence[dict[str, Any]] | None = None
    store: CompletionStore | None = None
    baselines: Sequence[Baseline] = ()

    def is_finished(self) -> bool:
        """Whether `out` holds this evaluation of these files already."""
        path = self.out / "metrics.json"
        open_ended = ("metrics", "remarks")  # completed by all examples
        stable = {k: v for k, v in self.protocol.items() if k not in open_ended}
        if (
            not is_current(path, {}, self.inputs)
            or not (self.out / "panels.json").exists()
        ):
            return False
        try:
            content = files.read_json(path)["protocol"]
            same = json.loads(json.dumps(stable)).items() <= content.items()
            return same and list(content["metrics"]) == list(self.metrics)
        except (ValueError, KeyError, TypeError, AttributeError):
            say(f"'{path}' is damaged; measured again")
            return False


class Evaluation(NamedTuple):
    """What an evaluation returns besides its files.

    Attributes:
      results: of every metric.
      facts: numbers of images and samples, sizes, share of the hole.
      gallery: panels of some of the images.
      baselines: name -> results.
    """

    results: list[Result]
    facts: dict[str, Any]
    gallery: Gallery
    baselines: dict[str, list[Result]]

    def by_method(self, label: str) -> dict[str, list[Result]]:
        """Results of what was evaluated, under a label, and of the baselines."""
        label = f"{label}, evaluated" if label in self.baselines else label
        return {label: self.results} | self.baselines


def draw_share(task: EvalTask, index: int, count: int) -> None:
    """Draws one of `count` shares of a task's completions, for `evaluate` to find.

    The process that measures draws the first share and, when it comes to the others,
    what is still missing. So no process waits for another.
    """
    store = task.store
    if store is None or not store.enabled:
        return
    store.share = range(task.total * index // count, task.total * (index + 1) // count)
    drawn = sum(1 for _ in task.examples())
    say(f"process {index + 1} of {count} has drawn the completions of {drawn} images")


def evaluate(task: EvalTask) -> Evaluation:
    """Measures all examples; writes `samples.csv` and `manifest.json` into `task.out`.

    Its store is open.

    Raises:
      UserError: if there is no image, or they are not those of the manifest.
    """
    for measured in (*task.metrics.values(), *task.baselines):
        measured.reset()
    with temporary_text() as table:
        recorder = Recorder(table, task.expected)
        with progress_bar(Console(stderr=True, highlight=False)) as bar:
            progress = bar.add_task(task.label, total=task.total)
            for example in task.examples():
                columns: Columns = {}
                for metric in task.metrics.values():
                    columns |= metric.add(example)
                for baseline in task.baselines:
                    baseline.add(example)
                recorder.add(example, columns)
                bar.advance(progress)
        recorder.check_complete()
        results = [r for metric in task.metrics.values() for r in metric.results()]
        recorder.write(task.out, task.protocol)
    baselines = {b.name: measured for b in task.baselines if (measured := b.results())}
    remarks = [note for b in task.baselines if (note := b.note())]
    remarks = [*task.protocol["remarks"], *remarks]
    facts = recorder.facts() | {"remarks": remarks}
    return Evaluation(results, facts, recorder.gallery, baselines)


def temporary_text() -> IO[str]:
    """A text file without a name, which disappears with the process."""
    return tempfile.TemporaryFile(
        "w+", encoding="utf-8", errors="backslashreplace", newline=""
    )


class Recorder:
    """Everything that an evaluation records besides its metrics.

    Args:
      table: temporary file of the table of samples.
      expected: entries of a manifest that the images must match.
    """

    def __init__(
        self,
        table: IO[str],
        expected: Sequence[dict[str, Any]] | None = None,
    ) -> None:
        self.table, self.expected, self.samples = table, expected, 0
        self.entries: list[dict[str, Any]] = []  # of the manifest
        self.sizes: set[str] = set()
        self.header: list[str] = []
        self.gallery = Gallery()

    def add(self, example: Example, columns: Columns) -> None:
        """Records one example.

        Raises:
          UserError: if it is not the image that the manifest has here.
        """
        entry = manifest_entry(len(self.entries), example)
        if self.expected is not None:
            check_same_image(entry, self.expected[entry["index"]])
        hole = math.nan if entry["hole"] is None else entry["hole"]
        self._add_rows(example, {"hole": np.full(len(example.samples), hole)} | columns)
        self.gallery.add(entry["index"], example, columns)
        self.entries.append(entry)
        self.sizes.add(size_text(example.truth))
        self.samples = len(example.samples)

    def _add_rows(self, example: Example, columns: Columns) -> None:
        """One row per sample."""
        rows = csv.writer(self.table, lineterminator="\n")
        header = ["image", "sample", *columns, "picnet"]
        if not self.header:
            self.header = header
            rows.writerow(header)
        if header != self.header:
            raise ValueError(
                f"'{example.name}' has the columns {header}, others {self.header}"
            )
        for i in range(len(example.samples)):
            values = [f"{float(column[i]):.6g}" for column in columns.values()]
            rows.writerow([example.name, i, *values, int(i == example.chosen)])

    def check_complete(self) -> None:
        """Checks that there is an image, and every image of a manifest.

        Raises:
          UserError: if not.
        """
        found = len(self.entries)
        if not found:
            raise UserError("there is no held-out image; see config.data.eval_path")
        if self.expected is not None and found < len(self.expected):
            raise UserError(
                f"the manifest has {len(self.expected)} images, but only {found} "
                "were found; give all of its data"
            )

    def facts(self) -> dict[str, Any]:
        """What the protocol states about the examples."""
        holes = [entry["hole"] for entry in self.entries if entry["hole"] is not None]
        return {
            "images": len(self.entries),
            "samples_per_image": self.samples,
            "resolution": ", ".join(sorted(self.sizes)),
            "mean_hole_share": sum(holes) / len(self.entries) if holes else None,
        }

    def write(self, out: AnyPath, protocol: dict[str, Any]) -> None:
        """Writes `samples.csv` and `manifest.json`."""
        self.table.seek(0)
        with files.open_atomic(out / "samples.csv") as file:
            file.writelines(line.encode() for line in self.table)
        content = {"protocol": protocol | self.facts(), "images": self.entries}
        text = json.dumps(content, indent=2) + "\n"
        files.write_text(out / "manifest.json", text)


# ---- manifest ----

# What a manifest must hold to be repeated: key -> types.
PROTOCOL: dict[str, Any] = {"num": int, "seed": int, "asked": str, "data": dict}
ENTRY: dict[str, Any] = {"index": int, "name": str, "truth": str, "mask": str | None}


def manifest_entry(index: int, example: Example) -> dict[str, Any]:
    """What identifies an image of an evaluation and its completions."""
    mask = example.mask
    return {
        "index": index,
        "name": example.name,
        "truth": checksum(example.truth),
        "mask": None if mask is None else checksum(mask),
        "hole": None if mask is None else 1 - float(mask.mean()),
        "completions": checksum(example.samples),
    }


def checksum(array: np.ndarray) -> str:
    """The first 16 digits of the SHA-256 of an array's bytes."""
    return hashlib.sha256(np.ascontiguousarray(array).tobytes()).hexdigest()[:16]


def check_same_image(entry: dict[str, Any], expected: dict[str, Any]) -> None:
    """Checks that an image and its mask are those of the manifest.

    Raises:
      UserError: if not, naming it.
    """
    for part in ("truth", "mask"):
        if entry[part] != expected[part]:
            raise UserError(
                f"image {expected['index']} of the manifest is '{expected['name']}', "
                f"but the {part} of '{entry['name']}' is another; give the data that "
                "the manifest was written for"
            )


def read_manifest(path: str) -> dict[str, Any]:
    """A manifest: `protocol` and `images`.

    Raises:
      UserError: if the file is none.
    """
    try:
        content = files.read_json(path)
        entries = [content["protocol"], *content["images"]]
        kinds = [PROTOCOL] + [ENTRY] * (len(entries) - 1)
        whole = all(
            isinstance(entry[key], kind)
            for entry, keys in zip(entries, kinds, strict=True)
            for key, kind in keys.items()
        )
        if whole and len(entries) > 1:
            return content
    except (OSError, ValueError, LookupError, TypeError):
        pass
    raise UserError(
        f"--manifest '{path}' cannot be read as one; give a manifest.json that "
        "picjax.eval wrote"
    )
