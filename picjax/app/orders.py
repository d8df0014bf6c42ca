"""What a request asks for, decoded safely, and what it gets back as files."""

import io
import shlex
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from io import BytesIO

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from picjax import masks
from picjax.cli import UserError, check_choice
from picjax.data.decode import (
    MIN_SIDE,
    BadImage,
    bad_image,
    check_size,
    open_image,
    to_rgb,
)
from picjax.images import Picture, png_bytes

MAX_NUM = 64  # completions of one order
MAX_SEED = 2**32 - 1
IMAGE, MASK = "image.png", "mask.png"  # names in a ZIP, and on the command line
# Colours of the heat map, from no deviation to the largest: black, purple, orange, white.
HEAT = np.array(
    [[0, 0, 4], [87, 16, 110], [188, 55, 84], [249, 142, 9], [252, 255, 164]]
)


@dataclass(frozen=True)
class Order:
    """One request for completions.

    Attributes:
      run: name of the run.
      picture: at its own size.
      mask: uint8 [h w], 1 = known, or the name of a mask.
      num: number of completions.
      seed: another seed gives other completions.
      sampler: settings of `config.sampler`.
      best_of: draw so many and keep the best; None: all that are drawn.
      remarks: warnings about the mask.
    """

    run: str
    picture: Picture
    mask: UInt8[np.ndarray, "h w"] | str
    num: int = 6
    seed: int = 0
    sampler: dict[str, str] = field(default_factory=dict)
    best_of: int | None = None
    remarks: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        check_number("num", self.num, 1, MAX_NUM)
        check_number("seed", self.seed, 0, MAX_SEED)
        if self.best_of is not None:
            check_number("best_of", self.best_of, self.num, MAX_NUM)
        if isinstance(self.mask, str):
            check_choice("mask", self.mask, masks.NAMES)

    @property
    def group(self) -> tuple[object, ...]:
        """Orders of equal groups can be completed in one batch."""
        settings = tuple(sorted(self.sampler.items()))
        return (self.run, self.num, self.seed, settings, self.best_of)


def check_number(name: str, value: int, low: int, high: int) -> None:
    """Refuse a number outside of its range.

    Raises:
      UserError: with the range.
    """
    if not low <= value <= high:
        raise UserError(f"{name} is {value}; give {low} to {high}")


# ---- uploads ----


@dataclass(frozen=True)
class Limits:
    """What an upload may be; checked before anything is decoded.

    Attributes:
      bytes: of one request.
      pixels: of a picture, width times height.
    """

    bytes: int = 32 * 2**20
    pixels: int = 16 * 2**20


def read_picture(data: bytes, limits: Limits) -> Picture:
    """Decode an uploaded picture; of its metadata only a colour profile is kept.

    Raises:
      UserError: if it cannot be used.
    """
    try:
        with open_image(BytesIO(data), limits.pixels) as file:
            check_size(file.size, MIN_SIDE)
            rgb, profile = to_rgb(file)
            return Picture(np.asarray(rgb), profile)
    except BadImage as error:
        raise UserError(
            f"the image cannot be used: {error}; send a whole PNG or JPEG file"
        ) from None


def read_mask(
    data: bytes, size: tuple[int, int], limits: Limits, invert: bool = False
) -> tuple[UInt8[np.ndarray, "h w"], tuple[str, ...]]:
    """Decode an uploaded mask file (white = hole) at a size, with warnings about it.

    Raises:
      UserError: if it cannot be used.
    """
    try:
        with open_image(BytesIO(data), limits.pixels) as file:
            mask, remarks = masks.picture_mask(file, size, invert)
    except BadImage as error:
        raise UserError(
            f"the mask cannot be used: {error}; send a PNG with white = hole"
        ) from None
    return mask, tuple(f"the mask: {remark}" for remark in remarks)


def read_rgba(data: bytes, limits: Limits) -> Image.Image:
    """Decode a layer of the editor, of mode RGBA.

    Raises:
      UserError: if it cannot be used.
    """
    try:
        with open_image(BytesIO(data), limits.pixels) as file, bad_image():
            return file.convert("RGBA")
    except BadImage as error:
        raise UserError(f"the drawing cannot be used: {error}; draw it again") from None


# ---- results ----


def spread(
    samples: UInt8[np.ndarray, "n h w 3"],
) -> tuple[UInt8[np.ndarray, "h w 3"], float]:
    """Where completions differ: standard deviation per pixel as colours.

    Args:
      samples: completions of one picture.

    Returns:
      The heat map, black where all agree, and the deviation of its brightest pixel in
      levels (0 to 255), the mean of the three channels.
    """
    mean = samples.mean(0, dtype=np.float32)
    variance = np.zeros(mean.shape, np.float32)
    for sample in samples:  # all at once as floats would be four times the samples
        variance += np.square(sample - mean)
    deviation = np.sqrt(variance / len(samples)).mean(-1)
    largest = float(deviation.max())
    place = deviation / max(largest, 1e-6) * (len(HEAT) - 1)
    below = np.minimum(place.astype(int), len(HEAT) - 2)
    share = (place - below)[..., None]
    colours = HEAT[below] * (1 - share) + HEAT[below + 1] * share
    return np.round(colours).astype(np.uint8), largest


def mask_file(mask: UInt8[np.ndarray, "h w"]) -> bytes:
    """A mask as a PNG file with white = hole."""
    return png_bytes(255 * (1 - mask))


def command_line(order: Order, workdir: str, step: int) -> str:
    """The command that draws an order's completions from the files of its ZIP."""
    words = ["python", "-m", "picjax.complete", f"--workdir={workdir}"]
    words += [f"--checkpoint={step}"] if not workdir.endswith(".safetensors") else []
    mask = order.mask if isinstance(order.mask, str) else MASK
    words += [f"--image={IMAGE}", f"--mask={mask}"]
    words += [f"--num={order.num}", f"--seed={order.seed}"]
    words += [f"--best-of={order.best_of}"] if order.best_of else []
    words += [f"--config.sampler.{key}={value}" for key, value in order.sampler.items()]
    return shlex.join([*words, "--out=completions"])


def zip_bytes(order: Order, samples: Sequence[np.ndarray], command: str) -> bytes:
    """A ZIP of the picture, its mask, the completions and the command line."""
    icc = order.picture.icc
    buffer = io.BytesIO()
    with zipfile.ZipFile(
        buffer, "w", zipfile.ZIP_STORED
    ) as archive:  # PNG is compressed
        archive.writestr(IMAGE, png_bytes(order.picture.pixels, icc))
        if not isinstance(order.mask, str):
            archive.writestr(MASK, mask_file(order.mask))
        for i, sample in enumerate(samples):
            archive.writestr(f"image_out_{i}.png", png_bytes(sample, icc))
        archive.writestr("command.txt", command + "\n")
    return buffer.getvalue()
