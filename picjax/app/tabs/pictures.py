"""Pictures of the page as files that are written once.

Of an array, Gradio writes the file again each time that it is shown, also while a browser
reads it, whose answer is then cut off.
"""

import hashlib
import os
import secrets
from pathlib import Path
from typing import Any

import jax
import numpy as np
from gradio.utils import get_upload_folder

from picjax.images import write_png

KEY = secrets.token_bytes(32)  # nobody can ask whether a picture of his was shown


def as_files(value: Any) -> Any:
    """What an event returns, its arrays as the paths of PNG files."""

    def convert(leaf: Any) -> Any:
        return picture_file(leaf) if isinstance(leaf, np.ndarray) else leaf

    return jax.tree.map(convert, value)


def picture_file(pixels: np.ndarray) -> str:
    """The path of a picture, uint8 [h w 3] or [h w 4], in Gradio's temporary folder."""
    digest = hashlib.blake2b(repr(pixels.shape).encode(), digest_size=32, key=KEY)
    digest.update(pixels.tobytes())
    path = Path(get_upload_folder(), digest.hexdigest(), "image.png")
    try:
        os.utime(path)  # the oldest are deleted
    except FileNotFoundError:
        write_png(path, pixels)
    return str(path)
