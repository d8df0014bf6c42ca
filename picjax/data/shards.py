"""Folders of ArrayRecord shards: their manifest, opening and verifying them.

`manifest.json` is written last, when all shards are complete. Opening compares the
shards' names, sizes and numbers of records with it; `verify` also their checksums.
Folders without one, of older versions, are opened as they are.
"""

import bisect
import errno
import itertools
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple, TypeVar

from array_record.python.array_record_module import ArrayRecordReader
from etils import epath
from grain.sources import ArrayRecordDataSource
from rich.console import Console
from rich.progress import track

from picjax import buckets, checksums
from picjax.cli import UserError
from picjax.data.decode import BadImage, core_count
from picjax.data.records import unpack
from picjax.files import read_json, write_text

MANIFEST = "manifest.json"
VERSION = 1
SUFFIX = ".array_record"
REQUESTS = 64  # shards that are opened together, as buckets answer slowly
AGAIN = "copy it again, or pack the images again"
PACK = "create them with python -m picjax.data.pack DIR --out=DIR"

T = TypeVar("T")


class Shard(NamedTuple):
    """A shard as it was written."""

    file: str
    records: int
    bytes: int
    xxh3_128: str


class Part(NamedTuple):
    """A whole shard; ArrayRecordDataSource reads these fields."""

    filename: str
    skip: int
    take: int
    examples_in_shard: int


class Shards:
    """Records by index, of several shards."""

    def __init__(self, parts: Sequence[Part]):
        wholes: list[Any] = list(parts)  # not list[Part]: its fields are read-only
        self._source: Any = ArrayRecordDataSource(wholes)
        self._files = [part.filename for part in parts]
        self._ends = list(itertools.accumulate(part.take for part in parts))

    def __len__(self) -> int:
        return self._ends[-1]

    def __getitem__(self, index: int) -> bytes:
        """Read a record.

        Raises:
          BadImage: if it is damaged.
          OSError: if its shard cannot be read.
        """
        try:
            return self._source[index]
        except RuntimeError as error:
            file = self._files[bisect.bisect_right(self._ends, index)]
            reason = buckets.first_line(error)
            if "Riegeli" in reason:  # the format's checksums differ
                raise BadImage(f"record {index}, in '{file}', is damaged") from error
            raise OSError(errno.EIO, reason, file) from error


def open_shards(path: str, key: str) -> Shards:
    """Open the shards of a folder.

    Args:
      path: the folder.
      key: name of the setting for errors.

    Raises:
      UserError: if there are none, one is missing, damaged or not of the manifest, or
        their records have another format.
    """
    expected, where = _list_shards(path, key), f"{key} '{path}'"

    def part(name: str) -> Part:
        file = epath.Path(path) / name
        count = _count_records(file, expected[name], where)
        return Part(str(file), 0, count, count)

    with ThreadPoolExecutor(min(len(expected), REQUESTS)) as pool:
        shards = Shards(list(pool.map(part, sorted(expected))))
    try:
        unpack(shards[0])
    except (ValueError, BadImage) as error:
        raise UserError(
            f"{where} holds shards of another kind ({error}); {PACK}"
        ) from error
    return shards


def _list_shards(path: str, key: str) -> dict[str, Shard | None]:
    """The names of a folder's shards, and their entries in its manifest if it has one.

    Raises:
      UserError: if there is no shard, or they are not those of the manifest.
    """
    buckets.check(path, key)
    folder = epath.Path(path)
    inside = [x.name for x in folder.iterdir()] if path and folder.is_dir() else []
    found = {name for name in inside if name.endswith(SUFFIX)}
    if not found:
        raise UserError(f"{key} '{path}' holds no {SUFFIX} file; {PACK}")
    if MANIFEST not in inside:
        return dict.fromkeys(found)
    expected = {shard.file: shard for shard in read_manifest(folder, key)}
    for name in sorted(expected.keys() - found):
        raise UserError(
            f"{key} '{path}' lacks {name}, which is in its {MANIFEST}; {AGAIN}"
        )
    for name in sorted(found - expected.keys()):
        raise UserError(
            f"{key} '{path}' holds {name}, which is not in its {MANIFEST}; move it away"
        )
    return {**expected}


def _count_records(path: epath.Path, shard: Shard | None, where: str) -> int:
    """The number of records of a shard, without reading them.

    Args:
      path: its file.
      shard: what it should be, if that is known.
      where: its folder, for errors.

    Raises:
      UserError: if it is damaged, or not what it should be.
    """
    size = path.stat().length
    if shard and size != shard.bytes:
        raise UserError(
            f"{where}: {path.name} has {size:,} bytes instead of {shard.bytes:,}; {AGAIN}"
        )
    try:
        reader = ArrayRecordReader(str(path))
        count = reader.num_records()
        reader.close()  # which raises what opening a damaged shard does not
    except RuntimeError as error:
        reason = buckets.first_line(error)
        raise UserError(
            f"{where}: {path.name} is damaged or cut short ({reason}); {AGAIN}"
        ) from error
    if shard and count != shard.records:
        raise UserError(
            f"{where}: {path.name} has {count} records instead of {shard.records}; "
            f"{AGAIN}"
        )
    return count


def read_manifest(folder: epath.Path, key: str) -> list[Shard]:
    """The shards that a folder should have.

    Raises:
      UserError: if its manifest is damaged, or of another version.
    """
    file = folder / MANIFEST
    try:
        content = read_json(file)
        version, shards = content["version"], content["shards"]
        if version == VERSION:
            return [
                Shard(s["file"], s["records"], s["bytes"], s["xxh3_128"])
                for s in shards
            ]
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{key}: '{file}' is damaged ({error}); {AGAIN}") from error
    raise UserError(
        f"{key}: '{file}' is of version {version}, where {VERSION} is read; update "
        "picjax, or pack the images again"
    )


def summarise(path: epath.Path, records: int) -> Shard:
    """The entry of a manifest for a shard that is complete."""
    return Shard(path.name, records, path.stat().length, checksums.of_file(path))


def is_intact(folder: epath.Path, shard: Shard) -> bool:
    """Whether a shard has the size and the checksum with which it was written."""
    path = folder / shard.file
    if not path.is_file() or path.stat().length != shard.bytes:
        return False
    return checksums.of_file(path) == shard.xxh3_128


def verify(path: str, key: str) -> list[Shard]:
    """Compare the shards of a folder with the checksums of its manifest.

    Returns:
      The shards.

    Raises:
      UserError: if one differs, or there is no manifest.
    """
    expected, where = _list_shards(path, key), f"{key} '{path}'"
    shards = [shard for shard in expected.values() if shard]
    if not shards:
        raise UserError(f"{where} has no {MANIFEST}; pack the images again")

    def damaged(shard: Shard) -> str:
        return "" if is_intact(epath.Path(path), shard) else shard.file

    with ThreadPoolExecutor(core_count()) as pool:
        results = tracked(pool.map(damaged, shards), "verifying", len(shards))
        names = [name for name in results if name]
    if names:
        raise UserError(
            f"{where}: the checksums of {', '.join(names)} differ from those in its "
            f"{MANIFEST}; {AGAIN}"
        )
    return shards


def write_manifest(
    folder: epath.Path, shards: Sequence[Shard], about: Mapping[str, Any]
) -> None:
    """Write the manifest of a folder whose shards are complete.

    Args:
      folder: the folder.
      shards: all of them.
      about: what else is known of the images.
    """
    records = sum(shard.records for shard in shards)
    listed = [shard._asdict() for shard in shards]
    content = {"version": VERSION, "records": records, **about, "shards": listed}
    write_text(folder / MANIFEST, json.dumps(content, indent=1) + "\n")


def tracked(items: Iterable[T], activity: str, total: int) -> Iterator[T]:
    """Iterate with a progress bar if standard error is a terminal."""
    console = Console(stderr=True, highlight=False)
    hidden = not console.is_terminal
    yield from track(items, activity, total, console=console, disable=hidden)
