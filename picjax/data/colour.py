"""Colour profiles: pictures in another space than sRGB, to sRGB and back.

Models see sRGB. A completion is returned in its picture's own space, so that the known
pixels stay the picture's.
"""

import io
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
from PIL import Image, ImageCms

EQUAL = 3  # levels: a profile that moves no colour further is sRGB
INTENT = ImageCms.Intent.RELATIVE_COLORIMETRIC


class Profile(NamedTuple):
    """The profile of an RGB picture that is not sRGB, and its two transforms."""

    icc: bytes
    forward: Any
    backward: Any

    def to_srgb(self, picture: Image.Image) -> Image.Image:
        """An RGB picture of this profile in sRGB."""
        return _apply(self.forward, picture)

    def from_srgb(self, picture: Image.Image) -> Image.Image:
        """An sRGB picture in this profile."""
        return _apply(self.backward, picture)


def profile_of(picture: Image.Image) -> Profile | None:
    """The profile of an RGB picture; None if it is sRGB, damaged, or has no way back."""
    icc = picture.info.get("icc_profile")
    return _profile(icc) if isinstance(icc, bytes) and picture.mode == "RGB" else None


@lru_cache(maxsize=8)
def _profile(icc: bytes) -> Profile | None:
    try:
        own = ImageCms.ImageCmsProfile(io.BytesIO(icc))
        srgb = ImageCms.createProfile("sRGB")
        forward = ImageCms.buildTransform(own, srgb, "RGB", "RGB", INTENT)
        backward = ImageCms.buildTransform(srgb, own, "RGB", "RGB", INTENT)
        profile = Profile(icc, forward, backward)
        colours = _colours()
        moved = np.asarray(profile.to_srgb(colours), int) - np.asarray(colours, int)
        return profile if np.abs(moved).max() > EQUAL else None
    except Exception:  # noqa: BLE001 (viewers, too, ignore a profile that is damaged)
        return None


def to_srgb(picture: Image.Image) -> Image.Image | None:
    """A grey or CMYK picture in sRGB by its profile; None if it has no usable one."""
    icc = picture.info.get("icc_profile")
    if not isinstance(icc, bytes) or picture.mode not in ("L", "CMYK"):
        return None
    try:
        own = ImageCms.ImageCmsProfile(io.BytesIO(icc))
        srgb = ImageCms.createProfile("sRGB")
        transform = ImageCms.buildTransform(own, srgb, picture.mode, "RGB", INTENT)
        return _apply(transform, picture)
    except Exception:  # noqa: BLE001 (as above)
        return None


def _apply(transform: Any, picture: Image.Image) -> Image.Image:
    converted = ImageCms.applyTransform(picture, transform)
    assert converted is not None  # only of a transform in place
    converted.info.pop("icc_profile", None)
    return converted


def _colours() -> Image.Image:
    """125 colours, evenly spaced, and all greys."""
    levels = np.linspace(0, 255, 5).astype(np.uint8)
    cube = np.stack(np.meshgrid(levels, levels, levels), -1).reshape(1, -1, 3)
    greys = np.repeat(np.arange(256, dtype=np.uint8)[None, :, None], 3, 2)
    return Image.fromarray(np.concatenate([cube, greys], 1))
