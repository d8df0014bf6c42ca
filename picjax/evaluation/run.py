"""One pass over groups: metrics, a table of samples, pictures and a manifest.

Memory does not grow with the number of images, and an interrupted pass goes on: every
PAUSE seconds, or more where that takes long, all that was counted is written to
`OUT/.partial/state.npz` at once, with how long the tables beside it were by then. It is
there until the reports are written (`forget`).
"""

import csv
import hashlib
import io
import json
import math
import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from rich.console import Console

from picjax import files
from picjax.cli import UserError
from picjax.data.decode import say
from picjax.evaluation.examples import size
from picjax.evaluation.metrics.suite import Group, Metric, Result
from picjax.evaluation.report.gallery import Gallery
from picjax.log import progress_bar

PAUSE = 10.0  # seconds between two saves, at least
SHARE = 0.05  # of the time that saving may take
PARTIAL = ".partial"
STATE, TABLE, IMAGES = "state.npz", "samples.csv", "images.jsonl"


class Subject(NamedTuple):
    """Something to be measured.

    Attributes:
      label: what it is called beside others.
      groups: the groups from the k-th image on.
      total: how many there are, at most.
      metrics: name -> a metric that has seen nothing yet.
      protocol: all that the numbers depend on, ready for JSON.
      stamps: when the files that the protocol names were changed. They are of this
        machine, so no report has them, but what was counted with others is dropped.
      out: folder of everything that is written.
      expected: entries of a manifest that the images must be those of, in order.
    """

    label: str
    groups: Callable[[int], Iterator[Group]]
    total: int
    metrics: Mapping[str, Metric]
    protocol: dict[str, Any]
    stamps: dict[str, Any]
    out: Path
    expected: Sequence[dict[str, Any]] | None = None


class Measured(NamedTuple):
    """What a pass gives besides its files.

    Attributes:
      results: of every metric.
      facts: what was seen: numbers of images and samples, sizes, share of the hole.
      gallery: pictures of some of the images.
    """

    results: list[Result]
    facts: dict[str, Any]
    gallery: Gallery


class Pass:
    """A pass on its way: what was counted, and the two tables that grow with it."""

    def __init__(self, subject: Subject) -> None:
        self.metrics = subject.metrics
        self.expected = subject.expected
        self.fingerprint = fingerprint(subject)
        self.folder = subject.out / PARTIAL
        self.count, self.samples = 0, 0
        self.hole, self.masked = 0.0, False
        self.sizes: list[str] = []
        self.header: list[str] = []
        self.gallery = Gallery()
        # Seconds: when last, and how long it took.
        self.saved, self.saving = time.monotonic(), 0.0
        lengths = self.restore()
        if not lengths:
            make_empty(self.folder)
        self.table = open_at(self.folder / TABLE, lengths.get(TABLE, 0))
        self.images = open_at(self.folder / IMAGES, lengths.get(IMAGES, 0))

    def add(self, group: Group) -> None:
        """Counts a group everywhere.

        Raises:
          UserError: when it is not the image that a manifest has here.
        """
        entry = manifest_entry(self.count, group)
        if self.expected is not None:
            refuse_other_image(entry, self.expected[self.count])
        columns: dict[str, np.ndarray] = {}
        for metric in self.metrics.values():
            columns |= metric.add(group)
        hole = math.nan if group.mask is None else entry["hole"]
        rows = csv.writer(self.table, lineterminator="\n")
        header = ["image", "sample", "hole", *columns, "picnet"]
        if not self.header:
            self.header = header
            rows.writerow(header)
        if header != self.header:
            raise ValueError(
                f"'{group.name}' has the columns {header}, others {self.header}"
            )
        for i in range(len(group.samples)):
            values = [hole, *(float(column[i]) for column in columns.values())]
            numbers = [f"{value:.6g}" for value in values]
            rows.writerow([group.name, i, *numbers, int(i == group.chosen)])
        self.images.write(json.dumps(entry) + "\n")
        self.gallery.add(self.count, group, columns)
        if group.mask is not None:
            self.hole, self.masked = self.hole + hole, True
        if size(group.truth) not in self.sizes:
            self.sizes.append(size(group.truth))
        self.count, self.samples = self.count + 1, len(group.samples)

    def save_now_and_then(self) -> None:
        """Saves, unless saving would take more than a share of all the time."""
        began = time.monotonic()
        if began - self.saved > max(PAUSE, self.saving / SHARE):
            self.save()
            self.saved = time.monotonic()
            self.saving = self.saved - began

    def save(self) -> None:
        """Writes the state; a kill before it is whole leaves the one before."""
        lengths = {}
        for name, file in ((TABLE, self.table), (IMAGES, self.images)):
            file.flush()
            lengths[name] = os.path.getsize(self.folder / name)
        content = {
            "fingerprint": self.fingerprint,
            "lengths": lengths,
            "count": self.count,
            "samples": self.samples,
            "hole": self.hole,
            "masked": self.masked,
            "sizes": self.sizes,
            "header": self.header,
            "gallery": self.gallery.state(),
        }
        arrays = {"content": np.frombuffer(json.dumps(content).encode(), np.uint8)}
        for name, metric in self.metrics.items():
            arrays |= {f"{name}:{key}": x for key, x in metric.state().items()}
        with files.open_atomic(self.folder / STATE) as file:
            np.savez(file, allow_pickle=False, **arrays)

    def restore(self) -> dict[str, int]:
        """Goes on from a state of the same protocol; the tables' lengths, or nothing."""
        if not all((self.folder / name).exists() for name in (STATE, TABLE, IMAGES)):
            return {}
        with np.load(self.folder / STATE) as stored:
            arrays = dict(stored)
        content = json.loads(arrays.pop("content").tobytes())
        if content["fingerprint"] != self.fingerprint:
            say(f"'{self.folder}' is of other files or settings; it is removed")
            return {}
        for name, metric in self.metrics.items():
            own = {k: x for k, x in arrays.items() if k.startswith(f"{name}:")}
            metric.restore({k.removeprefix(f"{name}:"): x for k, x in own.items()})
        self.count, self.samples = content["count"], content["samples"]
        self.hole, self.masked = content["hole"], content["masked"]
        self.sizes, self.header = content["sizes"], content["header"]
        self.gallery.restore(content["gallery"])
        say(f"going on after {self.count} images, from '{self.folder}'")
        return content["lengths"]

    def close(self) -> None:
        """Closes the tables; without a saved state they are of no use."""
        self.table.close()
        self.images.close()
        if not (self.folder / STATE).exists():
            shutil.rmtree(self.folder)

    def publish(self, subject: Subject) -> None:
        """Copies both tables to where they belong."""
        self.table.flush()
        self.images.flush()
        protocol = subject.protocol | self.facts()
        write_manifest(subject.out / "manifest.json", protocol, self.folder / IMAGES)
        with (
            open(self.folder / TABLE, "rb") as source,
            files.open_atomic(subject.out / TABLE) as copy,
        ):
            shutil.copyfileobj(source, copy)

    def facts(self) -> dict[str, Any]:
        """What was seen."""
        return {
            "images": self.count,
            "samples_per_image": self.samples,
            "resolution": ", ".join(sorted(self.sizes)),
            "mean_hole_share": self.hole / self.count if self.masked else None,
        }


def measure(subject: Subject) -> Measured:
    """Measures all groups; leaves `samples.csv` and `manifest.json` in `subject.out`.

    Raises:
      UserError: when there is no image, or not those of the manifest.
    """
    state = Pass(subject)
    try:
        with progress_bar(Console(stderr=True, highlight=False)) as bar:
            task = bar.add_task(subject.label, total=subject.total)
            bar.advance(task, state.count)
            for group in subject.groups(state.count):
                state.add(group)
                bar.advance(task)
                state.save_now_and_then()
        refuse_too_few(state.count, subject.expected)
        state.save()
        results = [r for metric in subject.metrics.values() for r in metric.results()]
        state.publish(subject)
    finally:
        state.close()
    return Measured(results, state.facts(), state.gallery)


def refuse_too_few(count: int, expected: Sequence[Any] | None) -> None:
    """There is an image, and all those of a manifest.

    Raises:
      UserError: when it is otherwise.
    """
    if not count:
        raise UserError("there is no held-out image; see config.data.eval_path")
    if expected is not None and count < len(expected):
        raise UserError(
            f"the manifest has {len(expected)} images, but only {count} were found; "
            "give all of its data"
        )


def open_at(path: Path, length: int) -> io.TextIOWrapper:
    """A text file to be written from byte `length` on; what was behind it is lost."""
    file = open(path, "r+b" if length else "wb")  # noqa: SIM115
    file.truncate(length)
    file.seek(length)
    return io.TextIOWrapper(file, "utf-8", newline="")


def make_empty(folder: Path) -> None:
    """Makes a folder anew.

    Raises:
      UserError: when it cannot be made.
    """
    shutil.rmtree(folder, ignore_errors=True)
    try:
        folder.mkdir(parents=True)
    except OSError as error:
        raise UserError(
            f"--out '{folder.parent}' cannot be written to ({error.strerror}); give "
            "another folder"
        ) from error


def forget(out: Path) -> None:
    """Removes what an evaluation would go on from, when all its reports are there."""
    shutil.rmtree(out / PARTIAL, ignore_errors=True)


def fingerprint(subject: Subject) -> str:
    """A checksum of all that numbers depend on."""
    text = json.dumps([subject.protocol, subject.stamps], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


# ---- manifest ----


def manifest_entry(index: int, group: Group) -> dict[str, Any]:
    """What identifies an image of an evaluation and what was measured of it."""
    mask = group.mask
    return {
        "index": index,
        "name": group.name,
        "truth": checksum(group.truth),
        "mask": None if mask is None else checksum(mask),
        "hole": None if mask is None else 1 - float(mask.mean()),
        "completions": checksum(group.samples),
    }


def checksum(array: np.ndarray) -> str:
    """The first 16 digits of the SHA-256 of an array's bytes."""
    return hashlib.sha256(np.ascontiguousarray(array).tobytes()).hexdigest()[:16]


def refuse_other_image(found: dict[str, Any], expected: dict[str, Any]) -> None:
    """An image that is repeated must be the manifest's, and so must its mask.

    Raises:
      UserError: naming it.
    """
    for part in ("truth", "mask"):
        if found[part] != expected[part]:
            raise UserError(
                f"image {expected['index']} of the manifest is '{expected['name']}', "
                f"but the {part} of '{found['name']}' is another; give the data that "
                "the manifest was made with"
            )


def write_manifest(path: Path, protocol: dict[str, Any], images: Path) -> None:
    """Protocol, then a line an image, so that somebody else can repeat it."""
    head = json.dumps({"protocol": protocol}, indent=2).removesuffix("\n}")
    with files.open_atomic(path) as file, open(images, "rb") as lines:
        file.write(f'{head},\n  "images": ['.encode())
        for i, line in enumerate(lines):
            file.write((b",\n" if i else b"\n") + b"    " + line.rstrip())
        file.write(b"\n  ]\n}\n")


def read_manifest(path: str) -> dict[str, Any]:
    """A manifest: `protocol` and `images`.

    Raises:
      UserError: when the file is none.
    """
    try:
        content = json.loads(Path(path).read_text())
        named = [content["protocol"][key] for key in ("num", "seed", "asked", "data")]
        for entry in content["images"]:
            named += [entry[key] for key in ("index", "name", "truth", "mask")]
        if content["images"]:
            return content
    except (OSError, ValueError, KeyError, TypeError):
        pass
    raise UserError(
        f"--manifest '{path}' cannot be read as one; give a manifest.json that "
        "picjax.eval wrote"
    )
