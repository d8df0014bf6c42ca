"""What a client gets for its request: files, a command line, a map of deviations."""

import shlex
import zipfile
from collections.abc import Sequence
from io import BytesIO

import numpy as np
from jaxtyping import UInt8

from picjax.app.requests import GenerationRequest
from picjax.images import png_bytes
from picjax.model import is_folder

# Colours of the map, from no deviation to the largest: black, purple, orange, white.
HEAT = np.array(
    [[0, 0, 4], [87, 16, 110], [188, 55, 84], [249, 142, 9], [252, 255, 164]]
)


def deviation_map(
    samples: UInt8[np.ndarray, "n h w 3"],
) -> tuple[UInt8[np.ndarray, "h w 3"], float]:
    """Where images differ: standard deviation per pixel as colours.

    Args:
      samples: of one request.

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


def command_line(request: GenerationRequest, workdir: str, step: int) -> str:
    """The command that draws a request's images from the files of its ZIP."""
    words = ["python", "-m", "picjax.complete", f"--workdir={workdir}"]
    words += [f"--checkpoint={step}"] if is_folder(workdir) else []
    words += [*request.arguments(), f"--num={request.num}", f"--seed={request.seed}"]
    return shlex.join([*words, "--out=completions"])


def zip_bytes(
    request: GenerationRequest, samples: Sequence[np.ndarray], command: str
) -> bytes:
    """A ZIP of a request's inputs, its images and the command line."""
    buffer = BytesIO()
    # Nothing is compressed, since PNG files are.
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:
        for name, content in request.files().items():
            archive.writestr(name, content)
        for i, sample in enumerate(samples):
            name = f"{request.stem}_out_{i}.png"
            archive.writestr(name, png_bytes(sample, request.icc))
        archive.writestr("command.txt", command + "\n")
    return buffer.getvalue()
