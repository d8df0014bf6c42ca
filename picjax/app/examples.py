"""Pictures, layouts and cut-outs that need no files, from installed packages."""

from io import BytesIO
from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from picjax.app.layouts import LabelMaps
from picjax.app.runs import RunInfo
from picjax.cli import UserError
from picjax.data import clusters, instance_scenes
from picjax.data.cutouts import CUTOUTS, cut
from picjax.data.photos import photograph

PHOTOS = {"cat": "chelsea.png", "astronaut": "astronaut.png", "china": "china.jpg"}
SIDE = 256  # pixels of a photograph
SCENES = tuple(f"scene {i}" for i in range(1, 7))  # layouts for a run on scenes


def photo(name: str) -> UInt8[np.ndarray, "h w 3"]:
    """The middle of an installed package's photograph.

    Raises:
      UserError: if the package has it no more.
    """
    picture = photograph(PHOTOS[name])
    if picture is None:
        raise UserError(f"the photograph of {name} is not installed; drop your own")
    side = min(picture.size)
    left, top = (picture.width - side) // 2, (picture.height - side) // 2
    square = picture.crop((left, top, left + side, top + side))
    box = (SIDE, SIDE)
    return np.asarray(square.resize(box, Image.Resampling.BICUBIC))


def layout_names(info: RunInfo) -> tuple[str, ...]:
    """Names of layouts that can be had without files."""
    return {"photos": tuple(PHOTOS), "scenes": SCENES}.get(info.data, ())


def read_layout(info: RunInfo, name: str) -> tuple[np.ndarray, LabelMaps]:
    """A picture and its layout at the size of a run."""
    if name in SCENES:
        index = instance_scenes.EVAL[SCENES.index(name)]
        scene = instance_scenes.sample(0, index, info.size)
        return scene["image"], LabelMaps(scene["label"], scene["instance"])
    picture = photo(name)
    return picture, clustered(picture, info)


def clustered(picture: np.ndarray, info: RunInfo) -> LabelMaps:
    """The layout of a photograph as in training, at the size of a run."""
    height, width = info.size
    box, filtering = (width, height), Image.Resampling.BICUBIC
    small = np.asarray(Image.fromarray(picture).resize(box, filtering))
    return LabelMaps(*clusters.segment(small, info.instances))


def cutout_file(name: str) -> bytes:
    """A cut-out of the example scenes as a PNG file."""
    buffer = BytesIO()
    cut(CUTOUTS[Path(name).stem]).save(buffer, "png", compress_level=3)
    return buffer.getvalue()
