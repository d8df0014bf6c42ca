"""What a model is given: images and masks of any kind, at both sizes, and what it takes."""

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from picjax import masks
from picjax.cli import UserError
from picjax.images import Picture, as_picture, fit, read_picture
from picjax.system import Config

ImageLike = np.ndarray | Image.Image | Picture | str | Path
MaskLike = np.ndarray | Image.Image | str | Path


class Input(NamedTuple):
    """An image to complete.

    Attributes:
      name: for errors.
      picture: at its own size and in its own colours.
      mask: uint8 [h w], 1 = known; nothing is known of a picture to translate.
      arrays: entries of a batch at the model's size, without the batch axis.
      remarks: warnings about the mask.
    """

    name: str
    picture: Picture
    mask: np.ndarray
    arrays: dict[str, np.ndarray]
    remarks: list[UserWarning]


def read_input(
    image: ImageLike,
    mask: MaskLike | None,
    size: tuple[int, int],
    seed: int,
    invert: bool,
) -> Input:
    """An image with its mask, resized for a model.

    Args:
      image: a file, a Pillow image, or uint8 [h w 3] or [h w].
      mask: a file or Pillow image (white = hole), an array (1 = known), the name of a
        mask; None: the image is translated as a whole.
      size: the model's.
      seed: of random named masks.
      invert: files and Pillow images have black = hole, arrays 1 = hole.

    Raises:
      UserError: if one of them cannot be used.
    """
    name = "the image"
    if isinstance(image, (str, Path)):
        name, image = f"'{image}'", read_picture(Path(image))
    picture = image if isinstance(image, Picture) else as_picture(image)
    pixels = picture.srgb
    if mask is None:
        everything = np.ones(pixels.shape[:2], np.uint8)
        condition = fit(pixels, everything, size)[0]
        nothing = np.zeros_like(condition)
        arrays = {"image": nothing, "mask": nothing[..., :1], "condition": condition}
        return Input(name, picture, 0 * everything, arrays, [])
    mask = masks.find(mask, invert)
    own = picture.pixels  # a random mask depends on them
    full_mask, remarks = masks.resolve(mask, own, seed, size, invert)
    target = masks.named(mask, own, seed, size) if isinstance(mask, str) else None
    warnings = [UserWarning(remark) for remark in remarks]
    if isinstance(mask, np.ndarray):
        warnings += masks.doubts(full_mask)
    small, small_mask = fit(pixels, full_mask, size, target)
    arrays = {"image": small, "mask": small_mask[..., None]}
    return Input(name, picture, full_mask, arrays, warnings)


def one_for_each(
    images: list[ImageLike], mask: MaskLike | list[Any] | None
) -> list[Any]:
    """The mask of each image: a MaskLike or None.

    Raises:
      UserError: if a list of masks has another length.
    """
    each = mask if isinstance(mask, list) else [mask] * len(images)
    if len(each) != len(images):
        raise UserError(
            f"{len(each)} masks are given for {len(images)} images; give one mask for "
            "all, or one for each"
        )
    return each


# ---- what a run takes ----


def translates(config: Config) -> bool:
    """Whether runs of a config generate whole pictures from others."""
    return config.data.name == "aligned"


def check_mask_given(translates: bool, mask: object) -> None:
    """Check that there is a mask for completion and none for translation.

    Raises:
      UserError: otherwise.
    """
    if translates and mask is not None:
        raise UserError(
            "this run generates whole pictures from pairs; leave the mask out, or "
            "--compose"
        )
    if not translates and mask is None:
        raise UserError(
            "this run completes holes; add a mask (--mask): a file, a folder or one "
            f"of {', '.join(masks.NAMES)}"
        )


def check_no_maps(config: Config) -> None:
    """Refuse to complete without label maps by a run that needs them.

    Raises:
      UserError: if it does.
    """
    if config.data.get("maps"):
        raise UserError(
            f"this run of {config.system} synthesises label maps; give them by --labels, "
            "or in Python by Model.synthesise"
        )
