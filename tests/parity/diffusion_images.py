"""Intelligent Painter's network input, and RePaint's loading of images."""

import re
from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np
from fixture import Fixture, nchw
from PIL import Image

from picjax.data import canvas
from picjax.data.transforms import middle_square
from picjax.images import to_float, to_uint8


def cases(fixture: Fixture) -> Sequence[str]:
    """The numbers that prefix the inputs of a file."""
    names = {name.partition(".")[0] for name in fixture.inputs}
    return sorted(name for name in names if name.isdigit())


def check_network_input(
    fixture: Fixture, case: str, image: np.ndarray, mask: np.ndarray
) -> None:
    """uint8 [h w 3] and [h w 1] as the original's tensors; its masks may be soft."""
    batch = to_float({"image": image[None], "mask": mask[None]})
    tensor = nchw(batch["image"]).reshape(fixture.outputs[f"{case}.gt"].shape)
    fixture.assert_close("gt", tensor, fixture.outputs[f"{case}.gt"], 0, 1e-6)
    keep = np.repeat(nchw(np.asarray(batch["mask"]) / 255), 3, 1)
    expected = fixture.outputs[f"{case}.gt_keep_mask"]
    level = 3 / 255 + 1e-6  # Pillow 12 and 13 resize masks differently by 3 levels
    fixture.assert_close("keep", keep.reshape(expected.shape), expected, 0, level)


def check_composition(fixture: Fixture) -> None:
    """A flattened canvas to the network: resized values within 1, all else exact."""
    out = fixture.outputs
    assert cases(fixture)
    for case in cases(fixture):
        rgba = fixture.inputs[f"{case}.rgba"]
        size = int(fixture.inputs[f"{case}.size"])
        mask = canvas.official_mask(rgba)
        np.testing.assert_array_equal(mask, out[f"{case}.mask_fullres"])
        inverted = canvas.official_mask(rgba, invert=True)
        np.testing.assert_array_equal(inverted, 255 - mask)
        for name in out:
            if match := re.fullmatch(rf"{case}\.mask_eroded(\d+)", name):
                # The side of the original's square.
                eroded = canvas.official_mask(rgba, int(match[1]) // 2)
                np.testing.assert_array_equal(eroded, out[name])
        image, soft = canvas.official_input(rgba, size)
        resized = out[f"{case}.resized_rgb"], out[f"{case}.resized_mask"][..., None]
        for ours, expected in zip((image, soft), resized, strict=True):
            fixture.assert_close("resized", ours, expected, 0, 1)
        check_network_input(fixture, case, *resized)


def check_loading(fixture: Fixture) -> None:
    """Files to the network, to a grey level of Pillow's, and samples to files."""
    for case in cases(fixture):
        size = int(fixture.inputs[f"{case}.size"])
        image, mask = (
            middle_square(Image.fromarray(fixture.inputs[f"{case}.{name}"]), size)
            for name in ("image", "mask")
        )
        crop = fixture.outputs[f"{case}.crop"]
        # One level: Pillow 12 and 13 round resized pixels differently.
        fixture.assert_close("crop", image, crop, 0, 1)
        check_network_input(fixture, case, crop, mask[..., None])
    samples = jnp.asarray(fixture.inputs["u8.x"].transpose(0, 2, 3, 1))
    expected = fixture.outputs["u8.y"]
    np.testing.assert_array_equal(to_uint8(samples, truncate=True), expected)
    assert (np.asarray(to_uint8(samples)) != expected).any()
