"""The record of one packed image: header, name, pixels, and perhaps its maps."""

import struct
from collections.abc import Sequence

import numpy as np
from jaxtyping import Int32, UInt8

HEADER = struct.Struct("<4sHHH")  # MAGIC, height, width, length of the name in bytes
MAGIC = b"pjx1"
MAPS = b"pjx2"  # with a label map, and perhaps an instance map, of 16 bits


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
    try:
        magic, h, w, length = HEADER.unpack_from(record)
    except struct.error:
        magic, h, w, length = b"", 0, 0, 0
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
