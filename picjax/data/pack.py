"""Packs a folder of images into ArrayRecord shards of raw pixels.

    python -m picjax.data.pack DIR --out=DIR [--size=266]

Every image is resized to SIZE x SIZE (without keeping the aspect, as in training) and
stored as uint8, so that reading it is a copy: fast enough to feed a GPU from two cores.
Train with --config.data.name=arrayrecord --config.data.path=OUT. Files that cannot be
used are skipped with a line that names them. OUT appears when everything is packed.
"""

import struct
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from array_record.python.array_record_module import ArrayRecordWriter
from etils import epath
from grain.sources import ArrayRecordDataSource
from jaxtyping import UInt8
from rich.console import Console
from rich.progress import track

from picjax.cli import Parser, UserError, run, say
from picjax.data.decode import BadImage, core_count, decode
from picjax.data.listing import list_images
from picjax.data.transforms import resample
from picjax.files import new_folder

SIZE = 266  # load_size of the originals at 256 px: training crops without resampling
LARGEST = 8192  # pixels a side
SHARD = 1024  # images per file
HEADER = struct.Struct("<4sHHH")  # MAGIC, height, width, length of the name in bytes
MAGIC = b"pjx1"
SUFFIX = ".array_record"


def pack_record(image: UInt8[np.ndarray, "h w 3"], name: str) -> bytes:
    """Encode one image: header, name in UTF-8, pixels row by row."""
    text = name.encode(errors="surrogateescape")  # a file's name need not be UTF-8
    h, w = image.shape[:2]
    return HEADER.pack(MAGIC, h, w, len(text)) + text + image.tobytes()


def unpack(record: bytes) -> tuple[UInt8[np.ndarray, "h w 3"], str]:
    """Decode a record to pixels, a view of it, and a name.

    Raises:
      ValueError: if the record was not written by `pack_record`.
    """
    magic, h, w, length = HEADER.unpack_from(record)
    if magic != MAGIC or len(record) != HEADER.size + length + h * w * 3:
        raise ValueError("the record is not one of picjax.data.pack")
    start = HEADER.size + length
    pixels = np.frombuffer(record, np.uint8, offset=start).reshape(h, w, 3)
    return pixels, record[HEADER.size : start].decode(errors="surrogateescape")


def open_shards(path: str, key: str) -> Any:
    """Open the shards of a folder as a sequence of records.

    Args:
      path: the folder.
      key: name of the setting for errors.

    Raises:
      UserError: if there are none, or their records have another format.
    """
    shards = sorted(Path(path).glob(f"*{SUFFIX}")) if path else []
    advice = "create them with python -m picjax.data.pack DIR --out=DIR"
    if not shards:
        raise UserError(f"{key} '{path}' holds no {SUFFIX} file; {advice}")
    try:
        source: Any = ArrayRecordDataSource([str(shard) for shard in shards])
        unpack(source[0])
    except (ValueError, struct.error, IndexError, RuntimeError) as error:
        raise UserError(
            f"{key} '{path}' holds shards of another kind ({error}); {advice}"
        ) from error
    return source


def pack(
    paths: Iterable[Path], root: Path, out: epath.PathLike, size: tuple[int, int]
) -> tuple[int, list[str]]:
    """Write the shards of a data set.

    Args:
      paths: the image files.
      root: folder that the names of records are relative to.
      out: the output folder.
      size: height and width of the stored images.

    Returns:
      The number of packed images, and a message for each skipped file.
    """
    skipped: list[str] = []
    count = 0
    writer = None
    for path, record in _records(paths, root, size):
        if isinstance(record, BadImage):
            skipped.append(f"skipped '{path}': {record}")
            continue
        if count % SHARD == 0:
            if writer is not None:
                writer.close()
            file = epath.Path(out) / f"images-{count // SHARD:05}{SUFFIX}"
            # One record per chunk, so that random access reads nothing else.
            writer = ArrayRecordWriter(str(file), "group_size:1,uncompressed")
        assert writer is not None
        writer.write(record)
        count += 1
    if writer is not None:
        writer.close()
    return count, skipped


def _records(
    paths: Iterable[Path], root: Path, size: tuple[int, int]
) -> Iterator[tuple[Path, bytes | BadImage]]:
    """Records in order, decoded ahead by a few threads."""

    def make(path: Path) -> bytes | BadImage:
        try:
            image = resample(decode(path, max(size)), size)
        except BadImage as error:
            return error
        inside = path.is_relative_to(root)
        return pack_record(image, str(path.relative_to(root) if inside else path))

    waiting: deque[tuple[Path, Future[bytes | BadImage]]] = deque()
    threads = core_count()
    with ThreadPoolExecutor(threads) as pool:
        for path in paths:
            waiting.append((path, pool.submit(make, path)))
            if len(waiting) > 4 * threads:
                done, future = waiting.popleft()
                yield done, future.result()
        for done, future in waiting:
            yield done, future.result()


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command; see the module's docstring.

    Raises:
      UserError: if there is nothing to pack or `--out` is not empty.
    """
    parser = Parser(
        prog="python -m picjax.data.pack",
        description="Packs a folder of images into ArrayRecord shards of raw pixels.",
        epilog="example: python -m picjax.data.pack photos/ --out=photos-packed",
        allow_abbrev=False,
    )
    parser.add_argument("dir", metavar="DIR", help="images: a folder or a .txt list")
    parser.add_argument("--out", required=True, metavar="DIR", help="a new folder")
    parser.add_argument(
        "--size", type=int, default=SIZE, help=f"pixels a side ({SIZE})"
    )
    args = parser.parse_args(argv)
    out = Path(args.out)
    if not 8 <= args.size <= LARGEST:
        raise UserError(f"--size is {args.size}; give 8 to {LARGEST} pixels")
    with new_folder(out) as partial:
        paths = list_images(args.dir, "DIR")
        console = Console(stderr=True, highlight=False)
        shown = track(
            paths, "packing", console=console, disable=not console.is_terminal
        )
        size = args.size, args.size
        count, skipped = pack(shown, Path(args.dir), partial, size)
        for line in skipped:
            say(line)
        if not count:
            raise UserError(
                f"DIR '{args.dir}' holds no image that can be read; see above"
            )
    print(f"{count} images of {args.size}x{args.size} in {out}")


if __name__ == "__main__":
    run(main)
