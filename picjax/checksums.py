"""Checksums of a folder's files: written when it is complete, compared before it is used.

XXH3 finds accidental damage at the speed of memory; it is no protection from forgery.
"""

import json
from collections.abc import Collection
from concurrent.futures import ThreadPoolExecutor

import xxhash
from etils import epath

from picjax import buckets
from picjax.files import write_text

FILE = "checksums.json"
BLOCK = 2**20
Entries = dict[str, list[int | str]]  # name -> size, checksum


class Damaged(Exception):
    """A file is not what was written; the message is such as `state/d is truncated`."""


def write(folder: epath.Path, left_out: Collection[str] = ()) -> None:
    """Write `checksums.json`: size and checksum of every file of a folder.

    Args:
      folder: complete but for what is left out.
      left_out: files that are still to be written; see `add`.
    """
    names = [name for name in _files(folder) if name not in {FILE, *left_out}]
    with ThreadPoolExecutor() as pool:
        entries = pool.map(lambda name: _entry(folder / name), names)
    _write(folder, dict(zip(names, entries, strict=True)))


def add(folder: epath.Path, names: Collection[str]) -> None:
    """Add files that were written after the others' checksums."""
    new = {name: _entry(folder / name) for name in names if (folder / name).exists()}
    _write(folder, _read(folder) | new)


def verify(folder: epath.Path, largest: int | None = None) -> bool:
    """Compare the files of a folder with its checksums.

    Args:
      folder: of the files.
      largest: compare only the sizes of files with more bytes than this.

    Returns:
      Whether the folder has checksums; without, only that it holds files is certain.

    Raises:
      Damaged: naming the first file that is missing or differs.
    """
    if not folder.is_dir():
        raise Damaged("it is no folder")
    if not (folder / FILE).exists():
        if not _files(folder):
            raise Damaged("it is empty")
        return False

    def check(item: tuple[str, list[int | str]]) -> None:
        name, (size, checksum) = item
        path = folder / name
        if not path.is_file():
            raise Damaged(f"{name} is missing")
        length = path.stat().length
        if length != size:
            raise Damaged(f"{name} has {length} bytes instead of {size}")
        if (largest is None or length <= largest) and of_file(path) != checksum:
            raise Damaged(f"{name} has changed since it was written")

    with ThreadPoolExecutor() as pool:
        list(pool.map(check, _read(folder).items()))
    return True


def _files(folder: epath.Path) -> list[str]:
    if buckets.is_remote(folder):
        return list(buckets.find(folder))
    return sorted(
        (top / name).relative_to(folder).as_posix()
        for top, _, names in folder.walk()
        for name in names
    )


def _entry(path: epath.Path) -> list[int | str]:
    return [path.stat().length, of_file(path)]


def of_file(path: epath.Path) -> str:
    """The checksum of a file's content, as hexadecimal digits."""
    digest = xxhash.xxh3_128()
    with path.open("rb") as file:
        while block := file.read(BLOCK):
            digest.update(block)
    return digest.hexdigest()


def _read(folder: epath.Path) -> Entries:
    try:
        content = json.loads((folder / FILE).read_bytes())
        if content["xxh3_128"] == _own_checksum(content["files"]):
            return content["files"]
    except (ValueError, KeyError, TypeError):
        pass
    raise Damaged(f"{FILE} has changed since it was written")


def _write(folder: epath.Path, entries: Entries) -> None:
    content = {"files": entries, "xxh3_128": _own_checksum(entries)}
    write_text(folder / FILE, json.dumps(content) + "\n")


def _own_checksum(entries: Entries) -> str:
    return xxhash.xxh3_128_hexdigest(json.dumps(entries).encode())
