"""Packs a folder of images into ArrayRecord shards of raw pixels.

    python -m picjax.data.pack DIR --out=DIR [--size=266]
    python -m picjax.data.pack DIR --out=DIR --layout=ade20k [--held-out]

Every image is resized to SIZE x SIZE (without keeping the aspect, as in training) and
stored as uint8, so that reading it is a copy: fast enough to feed a GPU from two cores.
With --layout, DIR has label maps (docs/inade.md), which are stored beside the pixels.
Train with --config.data.name=arrayrecord --config.data.path=OUT. Files that cannot be
used are skipped with a line that names them. OUT appears when everything is packed. Of
several processes, each packs its share of the shards.
"""

import contextlib
import itertools
import os
import struct
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import jax
import numpy as np
from array_record.python.array_record_module import ArrayRecordWriter
from etils import epath
from grain.sources import ArrayRecordDataSource
from jaxtyping import Int32, UInt8
from PIL import Image
from rich.console import Console
from rich.progress import track

from picjax import buckets, sharding
from picjax.cli import Parser, UserError, run, say
from picjax.data.decode import BadImage, core_count, decode
from picjax.data.labelled import TREES, Files, find, read_files
from picjax.data.listing import list_images
from picjax.data.transforms import resample
from picjax.files import check_new, new_folder, partial_folder

SIZE = 266  # load_size of the originals at 256 px: training crops without resampling
LARGEST = 8192  # pixels a side
SHARD = 1024  # images per file
HEADER = struct.Struct("<4sHHH")  # MAGIC, height, width, length of the name in bytes
MAGIC = b"pjx1"
MAPS = b"pjx2"  # with a label map, and perhaps an instance map, of 16 bits
SUFFIX = ".array_record"


def pack_record(
    image: UInt8[np.ndarray, "h w 3"],
    name: str,
    maps: Sequence[Int32[np.ndarray, "h w"]] = (),
) -> bytes:
    """Encode one image: header, name in UTF-8, pixels row by row, then its maps."""
    text = name.encode(errors="surrogateescape")  # a file's name need not be UTF-8
    h, w = image.shape[:2]
    header = HEADER.pack(MAPS if maps else MAGIC, h, w, len(text))
    stored = [x.astype("<u2").tobytes() for x in maps]
    return b"".join([header, text, image.tobytes(), *stored])


def unpack(record: bytes) -> tuple[UInt8[np.ndarray, "h w 3"], str]:
    """Decode a record to pixels, a view of it, and a name.

    Raises:
      ValueError: if the record was not written by `pack_record`.
    """
    magic, h, w, length = HEADER.unpack_from(record)
    start, area = HEADER.size + length, h * w
    sizes = {MAGIC: [3], MAPS: [5, 7]}.get(magic, [])  # bytes per pixel
    if len(record) - start not in [area * size for size in sizes]:
        raise ValueError("the record is not one of picjax.data.pack")
    pixels = np.frombuffer(record, np.uint8, 3 * area, start).reshape(h, w, 3)
    return pixels, record[HEADER.size : start].decode(errors="surrogateescape")


def has_maps(record: bytes) -> bool:
    """Whether a record holds a label map."""
    return record[: len(MAPS)] == MAPS


def unpack_maps(record: bytes) -> list[Int32[np.ndarray, "h w"]]:
    """The maps of a record of `unpack`: none, labels, or labels and instances."""
    _, h, w, length = HEADER.unpack_from(record)
    stored = np.frombuffer(record, "<u2", offset=HEADER.size + length + 3 * h * w)
    return list(stored.reshape(-1, h, w).astype(np.int32))


def open_shards(path: str, key: str) -> Any:
    """Open the shards of a folder as a sequence of records.

    Args:
      path: the folder.
      key: name of the setting for errors.

    Raises:
      UserError: if there are none, or their records have another format.
    """
    buckets.check(path, key)
    folder = epath.Path(path)
    inside = folder.iterdir() if path and folder.is_dir() else []
    shards = sorted(file for file in inside if file.name.endswith(SUFFIX))
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
    files: Sequence[Path | Files],
    root: Path,
    out: epath.PathLike,
    size: tuple[int, int],
) -> list[str]:
    """Write this process's share of the shards of a data set.

    A shard has the images of SHARD files, so that the order of all records does not
    depend on the number of processes, nor on damaged files.

    Args:
      files: of the images, perhaps with their maps.
      root: folder that the names of records are relative to.
      out: the output folder.
      size: height and width of the stored images.

    Returns:
      A message for each skipped file.
    """
    numbers = sharding.own_share(range(-(-len(files) // SHARD)))
    own = [file for i in numbers for file in files[i * SHARD : (i + 1) * SHARD]]
    console = Console(stderr=True, highlight=False)
    shown = track(own, "packing", console=console, disable=not console.is_terminal)
    skipped: list[str] = []
    for number in numbers:
        file = epath.Path(out) / f"images-{number:05}{SUFFIX}"
        with contextlib.ExitStack() as stack:
            writer = None
            for path, record in _records(itertools.islice(shown, SHARD), root, size):
                if isinstance(record, BadImage):
                    skipped.append(f"skipped '{path}': {record}")
                    continue
                if writer is None:
                    # One record per chunk, so that random access reads nothing else.
                    writer = ArrayRecordWriter(str(file), "group_size:1,uncompressed")
                    stack.callback(writer.close)
                writer.write(record)
    return skipped


def _records(
    files: Iterable[Path | Files], root: Path, size: tuple[int, int]
) -> Iterator[tuple[Path, bytes | BadImage]]:
    """Records in order, decoded ahead by a few threads."""

    def make(file: Path | Files) -> bytes | BadImage:
        path = image_of(file)
        inside = path.is_relative_to(root)
        name = str(path.relative_to(root) if inside else path)
        try:
            if isinstance(file, Files):
                return pack_record(*with_maps(file, name, size))
            return pack_record(resample(decode(path, max(size)), size), name)
        except BadImage as error:
            return error

    waiting: deque[tuple[Path, Future[bytes | BadImage]]] = deque()
    threads = core_count()
    with ThreadPoolExecutor(threads) as pool:
        for file in files:
            waiting.append((image_of(file), pool.submit(make, file)))
            if len(waiting) > 4 * threads:
                done, future = waiting.popleft()
                yield done, future.result()
        for done, future in waiting:
            yield done, future.result()


def image_of(file: Path | Files) -> Path:
    """The file of the image."""
    return file.image if isinstance(file, Files) else file


def with_maps(
    files: Files, name: str, size: tuple[int, int]
) -> tuple[UInt8[np.ndarray, "h w 3"], str, list[Int32[np.ndarray, "h w"]]]:
    """The arguments of `pack_record`: the image bicubic, its maps by nearest neighbour.

    Raises:
      BadImage: if a file is damaged.
      UserError: if a map does not belong to its image.
    """
    raw = read_files(files, name)
    h, w = size
    image = np.asarray(raw.image.resize((w, h), Image.Resampling.BICUBIC))
    maps = [x for x in (raw.label, raw.instance) if x is not None]
    nearest = Image.Resampling.NEAREST
    small = [np.asarray(Image.fromarray(x).resize((w, h), nearest)) for x in maps]
    return image, name, small


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
    parser.add_argument(
        "--layout", default="", metavar="NAME", help=f"with maps: {', '.join(TREES)}"
    )
    parser.add_argument(
        "--held-out", action="store_true", help="the layout's held-out part"
    )
    args = parser.parse_args(argv)
    out = Path(args.out)
    if not 8 <= args.size <= LARGEST:
        raise UserError(f"--size is {args.size}; give 8 to {LARGEST} pixels")
    check_new(out)
    files: Sequence[Path | Files] = (
        find(args.dir, "DIR", args.layout, args.held_out)
        if args.layout
        else list_images(args.dir, "DIR")
    )
    jax.config.update("jax_platforms", "cpu")  # accelerators are left to others
    sharding.join_cluster()
    count = pack_together(files, Path(args.dir), out, (args.size, args.size))
    if jax.process_index() == 0:
        print(f"{count} images of {args.size}x{args.size} in {out}")


def pack_together(
    files: Sequence[Path | Files], root: Path, out: Path, size: tuple[int, int]
) -> int:
    """`pack` of all processes into one new folder.

    Returns:
      The number of all images, of the first process; 0 of the others.

    Raises:
      UserError: if no image can be read.
    """
    token = str(sharding.first_value(os.getpid()))
    with contextlib.ExitStack() as stack:
        if jax.process_index() == 0:
            stack.enter_context(new_folder(out, token))
        sharding.wait_for_all("the folder exists")
        partial = partial_folder(out, token)
        with sharding.finish_together("pack"):
            for line in pack(files, root, partial, size):
                say(line)
        if jax.process_index():
            return 0
        if not any(partial.iterdir()):
            raise UserError(f"DIR '{root}' holds no image that can be read; see above")
        return len(open_shards(str(partial), "--out"))


if __name__ == "__main__":
    run(main)
