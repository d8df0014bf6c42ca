"""Packing of one process's share of the shards, which an interrupted run resumes.

When a shard is complete, a note of what it was packed from is written. A later run keeps
the shards whose notes and checksums are right, whichever process wrote them.
"""

import contextlib
import itertools
import json
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import xxhash
from array_record.python.array_record_module import ArrayRecordWriter
from etils import epath
from jaxtyping import Int32, UInt8
from PIL import Image

from picjax import sharding
from picjax.cli import UserError, say
from picjax.data import shards
from picjax.data.decode import BadImage, core_count, decode
from picjax.data.labelled import Files, read_files
from picjax.data.records import pack_record
from picjax.data.shards import SUFFIX, Shard, tracked
from picjax.data.transforms import resample
from picjax.files import partial_folder, read_json, write_text

SHARD = 1024  # images per file


class Job(NamedTuple):
    """What is packed.

    Attributes:
      files: of the images, perhaps with their maps.
      root: folder that the names of records are relative to.
      size: height and width of the stored images.
      layout: of the label maps, or empty.
      out: the folder of the shards.
    """

    files: Sequence[Path | Files]
    root: Path
    size: tuple[int, int]
    layout: str
    out: Path

    @property
    def numbers(self) -> range:
        """The numbers of the shards."""
        return range(-(-len(self.files) // SHARD))

    def part(self, number: int) -> Sequence[Path | Files]:
        """The files of a shard.

        Always SHARD files, so that the order of all records does not depend on the
        number of processes, nor on damaged files.
        """
        return self.files[number * SHARD : (number + 1) * SHARD]

    def name(self, path: Path) -> str:
        """The name of the record of a file."""
        inside = path.is_relative_to(self.root)
        return str(path.relative_to(self.root) if inside else path)

    @property
    def partial(self) -> epath.Path:
        """The temporary folder, which an interrupted run leaves to the next."""
        return partial_folder(self.out, "packing")

    @property
    def folder(self) -> epath.Path:
        """The folder in it that becomes `out`."""
        return self.partial / "shards"

    def note(self, number: int) -> epath.Path:
        """The file that is written when a shard is complete; see `Done`."""
        return self.partial / f"{number:05}.json"


class Done(NamedTuple):
    """What is kept about a shard that is complete, until all are.

    Attributes:
      inputs: checksum of all that the shard depends on.
      shard: its entry in the manifest; None if none of its files can be read.
      skipped: names of files that were not packed, with the reasons.
      levels: how often each of 256 levels occurs in R, G and B.
    """

    inputs: str
    shard: Shard | None
    skipped: list[tuple[str, str]]
    levels: list[int]


class Record(NamedTuple):
    """One packed image, and how often each of its levels occurs in R, G and B."""

    data: bytes
    levels: list[int]


def pack(job: Job) -> None:
    """Pack this process's share of the shards, but for those that are complete."""
    own = sharding.own_share(job.numbers)
    with ThreadPoolExecutor(core_count()) as pool:
        checked = pool.map(lambda number: is_complete(job, number), own)
        complete = list(tracked(checked, "verifying", len(own)))
        missing = [n for n, kept in zip(own, complete, strict=True) if not kept]
        if any(job.note(number).exists() for number in missing):
            say(
                f"'{job.partial}' holds shards of other images or options, or damaged "
                "ones; they are packed again"
            )
        if any(complete):
            say(f"{sum(complete)} of {len(own)} shards are already packed")
        files = [file for number in missing for file in job.part(number)]
        records = tracked(_records(pool, job, files), "packing", len(files))
        writing: deque[Future[None]] = deque()
        for number in missing:
            part = itertools.islice(records, len(job.part(number)))
            writing.append(write_shard(pool, job, number, part))
            if len(writing) > 1:
                writing.popleft().result()
        for future in writing:
            future.result()


def is_complete(job: Job, number: int) -> bool:
    """Whether a shard has been packed from the same files with the same options."""
    done = read_done(job, number)
    if done is None or done.inputs != checksum_of_inputs(job, number):
        return False
    return done.shard is None or shards.is_intact(job.folder, done.shard)


def read_done(job: Job, number: int) -> Done | None:
    """What is known about a shard that was packed; None if it was not."""
    try:
        content = read_json(job.note(number))
        shard = content["shard"] and Shard(**content["shard"])
        return Done(content["inputs"], shard, content["skipped"], content["levels"])
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return None


def checksum_of_inputs(job: Job, number: int) -> str:
    """A checksum of options and of the files' names, sizes and times."""

    def state(path: Path) -> list[Any]:
        try:
            status = path.stat()
        except OSError:
            return [job.name(path)]
        return [job.name(path), status.st_size, status.st_mtime_ns]

    states = [state(path) for file in job.part(number) for path in paths_of(file)]
    text = json.dumps([shards.VERSION, job.size, job.layout, states])
    return xxhash.xxh3_128_hexdigest(text.encode())


def _records(
    pool: ThreadPoolExecutor, job: Job, files: Iterable[Path | Files]
) -> Iterator[tuple[Path, Record | BadImage]]:
    """Records in order, decoded ahead by a few threads; Pillow decodes without the GIL."""

    def make(file: Path | Files) -> Record | BadImage:
        try:
            return make_record(file, job)
        except BadImage as error:
            return error

    waiting: deque[tuple[Path, Future[Record | BadImage]]] = deque()
    for file in files:
        waiting.append((paths_of(file)[0], pool.submit(make, file)))
        if len(waiting) > 4 * core_count():
            path, future = waiting.popleft()
            yield path, future.result()
    for path, future in waiting:
        yield path, future.result()


def write_shard(
    pool: ThreadPoolExecutor,
    job: Job,
    number: int,
    records: Iterable[tuple[Path, Record | BadImage]],
) -> Future[None]:
    """Write the records of a shard; it is complete when the future is."""
    inputs = checksum_of_inputs(job, number)
    file = job.folder / f"images-{number:05}{SUFFIX}"
    count, levels = 0, np.zeros(3 * 256, np.int64)
    skipped: list[tuple[str, str]] = []
    with contextlib.ExitStack() as stack:
        writer = None
        for path, record in records:
            if isinstance(record, BadImage):
                say(f"skipped '{path}': {record}")
                skipped.append((job.name(path), str(record)))
                continue
            if writer is None:
                # One record per chunk, so that random access reads nothing else.
                writer = ArrayRecordWriter(str(file), "group_size:1,uncompressed")
                stack.callback(writer.close)
            writer.write(record.data)
            count, levels = count + 1, levels + record.levels
        closing = stack.pop_all()

    def finish() -> None:
        try:
            closing.close()
        except RuntimeError as error:  # not before: `write` raises nothing
            raise UserError(
                f"--out: '{file}' cannot be written ({error}); free some space on the "
                "disk, and give the same command again"
            ) from error
        shard = shards.summarise(file, count) if count else None
        done = Done(inputs, shard, skipped, levels.tolist())
        content = done._asdict() | {"shard": shard and shard._asdict()}
        write_text(job.note(number), json.dumps(content) + "\n")

    return pool.submit(finish)


# ---- one image ----


def make_record(file: Path | Files, job: Job) -> Record:
    """Decode and resize an image, with its maps.

    Raises:
      BadImage: if a file is damaged.
      UserError: if a map does not belong to its image.
    """
    path, maps = paths_of(file)[0], []
    if isinstance(file, Files):
        image, maps = resize_with_maps(file, job)
    else:
        image = resample(decode(path, max(job.size)), job.size)
    data = pack_record(image, job.name(path), maps)
    return Record(data, Image.fromarray(image).histogram())


def paths_of(file: Path | Files) -> list[Path]:
    """The files of a picture, that of the image first."""
    return [path for path in file if path] if isinstance(file, Files) else [file]


def resize_with_maps(
    files: Files, job: Job
) -> tuple[UInt8[np.ndarray, "h w 3"], list[Int32[np.ndarray, "h w"]]]:
    """An image, resized bicubically, and its maps, by nearest neighbour.

    Raises:
      BadImage: if a file is damaged.
      UserError: if a map does not belong to its image.
    """
    raw = read_files(files, job.name(files.image))
    h, w = job.size
    image = np.asarray(raw.image.resize((w, h), Image.Resampling.BICUBIC))
    maps = [x for x in (raw.label, raw.instance) if x is not None]
    nearest = Image.Resampling.NEAREST
    return image, [np.asarray(Image.fromarray(x).resize((w, h), nearest)) for x in maps]
