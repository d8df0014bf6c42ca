"""Hostile inputs as short recipes, so that a failing one is printed in one line.

A recipe is a NamedTuple of numbers and words; `write` makes the file that it describes.
Nothing is stored: every file of the fuzz is generated.
"""

import io
import json
import os
import struct
import zlib
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from hypothesis import strategies as st
from PIL import Image

from helpers.colours import rgb_profile

MODES = {
    "PNG": ("RGB", "1", "L", "LA", "P", "RGBA", "I;16"),
    "JPEG": ("RGB", "L", "CMYK"),
    "WEBP": ("RGB", "RGBA"),
    "TIFF": ("RGB", "1", "L", "RGBA", "CMYK", "LAB", "I;16", "I", "F"),
    "BMP": ("RGB", "1", "L", "P"),
    "GIF": ("P", "L"),
    "PPM": ("RGB", "1", "L"),
    "JPEG2000": ("RGB", "L"),
    "TGA": ("RGB",),
    "ICO": ("RGBA",),
    "EPS": ("RGB",),
}
REFUSED = ("TGA", "ICO", "EPS")  # no format that is opened
LOSSLESS = ("PNG", "TIFF", "BMP", "PPM")
WITH_PROFILE = ("PNG", "JPEG", "TIFF", "WEBP")
SUFFIXES = {"JPEG": "jpg", "JPEG2000": "jp2", "PPM": "ppm"}
EXIF_ORIENTATION = 0x0112
MAGIC = (b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff\xe0", b"RIFF\0\0\0\0WEBP", b"II*\0")
MAGIC += (b"BM", b"GIF89a", b"P6\n9 9\n255\n", b"%!PS-Adobe-3.0 EPSF-3.0\n")


class Damage(NamedTuple):
    """What happened to a file: `kind`, where (a share of it), and how much."""

    kind: str = "none"
    place: float = 0.0
    amount: int = 1


class Recipe(NamedTuple):
    """An image file."""

    format: str = "PNG"
    mode: str = "RGB"
    size: tuple[int, int] = (12, 9)  # width, height
    seed: int = 0
    wide: bool = False  # whether it has the profile of a wide RGB space
    orientation: int = 1
    damage: Damage = Damage()

    @property
    def suffix(self) -> str:
        return SUFFIXES.get(self.format, self.format.lower())

    @property
    def is_whole(self) -> bool:
        """Whether it must be opened."""
        large_enough = min(self.size) >= 8
        opened = self.format not in REFUSED and self.mode not in ("F", "LAB")
        return self.damage.kind == "none" and large_enough and opened

    @property
    def has_exact_pixels(self) -> bool:
        plain = self.mode == "RGB" and self.orientation == 1
        return self.is_whole and plain and self.format in LOSSLESS


def pixels(recipe: Recipe) -> np.ndarray:
    """The RGB pixels that a recipe starts from, uint8 [h w 3]."""
    rng = np.random.default_rng(recipe.seed)
    w, h = recipe.size
    return rng.integers(0, 256, (h, w, 3), dtype=np.uint8)


def content(recipe: Recipe) -> bytes:
    """The bytes of the file."""
    array = pixels(recipe)
    if recipe.mode in ("I;16", "I", "F"):
        dtype = {"I;16": np.uint16, "I": np.int32, "F": np.float32}[recipe.mode]
        factor = 257 if recipe.mode == "I;16" else 1
        array[0, 0] = 255  # so that the range shows
        picture = Image.fromarray(array[..., 0].astype(dtype) * dtype(factor))
    else:
        picture = Image.fromarray(array)
        if recipe.mode == "LAB":
            picture = Image.frombytes("LAB", picture.size, array.tobytes())
        elif recipe.mode != "RGB":
            picture = picture.convert(recipe.mode)
    more: dict[str, Any] = {}
    if recipe.wide and recipe.mode == "RGB" and recipe.format in WITH_PROFILE:
        more["icc_profile"] = rgb_profile()
    if recipe.orientation > 1 and recipe.format in ("PNG", "JPEG", "WEBP"):
        exif = Image.Exif()
        exif[EXIF_ORIENTATION] = recipe.orientation
        more["exif"] = exif
    buffer = io.BytesIO()
    picture.save(buffer, recipe.format, **more)
    return damaged(buffer.getvalue(), recipe.damage)


def damaged(data: bytes, damage: Damage) -> bytes:
    """A file's bytes after a damage."""
    at = int(damage.place * len(data))
    match damage.kind:
        case "cut":
            return data[:at]
        case "flip":
            changed = bytearray(data)
            for i in range(damage.amount):
                changed[(at + 97 * i) % len(data)] ^= 1 << (i % 8)
            return bytes(changed)
        case "zero":
            return data[:at] + bytes(damage.amount) + data[at + damage.amount :]
        case "insert":
            return data[:at] + os.fsencode("\udcff") * damage.amount + data[at:]
        case "magic":
            return MAGIC[damage.amount % len(MAGIC)] + data[at:]
        case "giant":
            return giant_png(damage.amount)
        case "text":
            return b"not an image"
    return data


def giant_png(power: int) -> bytes:
    """A PNG of a few bytes that says it is 2 ** power pixels a side."""
    side = 2 ** min(power, 30)
    head = struct.pack(">IIBBBBB", side, side, 1, 0, 0, 0, 0)
    chunks = [(b"IHDR", head), (b"IDAT", zlib.compress(bytes(99))), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data))
        + name
        + data
        + struct.pack(">I", zlib.crc32(name + data))
        for name, data in chunks
    )


def write(folder: Path, name: str, recipe: Recipe) -> Path:
    """Write the file of a recipe as `name.SUFFIX`."""
    path = folder / f"{name}.{recipe.suffix}"
    path.write_bytes(content(recipe))
    return path


# ---- strategies ----


SHARES = st.floats(0, 1, allow_nan=False).map(lambda x: round(x, 3))
HARM = st.one_of(
    st.builds(Damage, st.just("cut"), SHARES),
    st.builds(Damage, st.just("flip"), SHARES, st.integers(1, 40)),
    st.builds(Damage, st.just("zero"), SHARES, st.integers(1, 400)),
    st.builds(Damage, st.just("insert"), SHARES, st.integers(1, 400)),
    st.builds(Damage, st.just("magic"), SHARES, st.integers(0, len(MAGIC) - 1)),
    st.builds(Damage, st.just("giant"), st.just(0.0), st.integers(14, 30)),
    st.just(Damage("text")),
)


def mostly(usual: Any, hostile: Any) -> Any:
    """A strategy that is the usual one at least every other time."""
    return st.booleans().flatmap(lambda harm: hostile if harm else usual)


DAMAGES = mostly(st.just(Damage()), HARM)
SIDES = mostly(st.integers(8, 48), st.integers(1, 48))
SIZES = st.tuples(SIDES, SIDES)


@st.composite
def recipes(draw: Any, size: Any = SIZES, damage: Any = DAMAGES) -> Recipe:
    """Any image file."""
    kind = draw(st.sampled_from(list(MODES)))
    return Recipe(
        kind,
        draw(st.sampled_from(MODES[kind])),
        draw(size),
        draw(st.integers(0, 3)),
        draw(st.booleans()),
        draw(st.integers(1, 8)),
        draw(damage),
    )


USABLE = recipes(st.tuples(st.integers(8, 48), st.integers(8, 48)), st.just(Damage()))

WORDS = (
    "a",
    "[red]b",
    "[bold]",
    "<b>&lt;",
    "_x_",
    "*",
    "`",
    "|",
    "é",
    "\udc80",
    "\n",
)
WORDS += (
    "\x1b[31m",
    "%s",
    "{i}",
    "_out_0",
    "_truth",
    "_mask",
    ".",
    " ",
    "#",
    "-",
    "💥",
)
NAMES = (
    st.lists(st.sampled_from(WORDS), min_size=1, max_size=3)
    .map("".join)
    .filter(lambda name: name[0] != "." and name.strip())
)
FOLDERS = st.dictionaries(NAMES, recipes(), min_size=1, max_size=3)

NUMBERS = st.one_of(
    st.integers(-3, 40),
    st.sampled_from([2**31, 2**32, -(2**63), 10**12, 10**30]),
    st.floats(allow_nan=True, allow_infinity=True),
)
JSON_VALUES = st.recursive(
    st.one_of(st.none(), st.booleans(), NUMBERS, st.text(max_size=5)),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.dictionaries(st.text(max_size=5), inner, max_size=3),
    ),
    max_leaves=6,
)


def replace_at(value: Any, path: tuple[int, ...], new: Any) -> Any:
    """A JSON value with the part at a path of positions replaced."""
    if not path or not isinstance(value, dict | list) or not value:
        return new
    copy = json.loads(json.dumps(value))
    keys = list(copy) if isinstance(copy, dict) else range(len(copy))
    key = list(keys)[path[0] % len(copy)]
    copy[key] = replace_at(copy[key], path[1:], new)
    return copy


PATHS = st.lists(st.integers(0, 30), max_size=3).map(tuple)
