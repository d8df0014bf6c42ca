"""What each paper measured, as data: `--metrics=paper:NAME` (docs/evaluation.md).

A preset fixes images, samples, masks, metrics, regions and which sample counts. What an
evaluation cannot fulfil of it (fewer images, another size, no weights) is listed with
every number.
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple

from picjax.cli import check_choice


class Preset(NamedTuple):
    """A paper's protocol. Sources: metrics specification, sections 1 and 8.

    Attributes:
      about: whose it is, and what it is known from.
      metrics: names of metrics.
      num: completions an image.
      images: how many; None where the paper does not say.
      size: height and width; None where any will do.
      masks: names, one drawn an image; None for whatever the data has.
      regions: of the numbers that are reported.
      samples: which of an image's completions count, keys of suite.MEANING.
      unlike: what is known to differ from the paper's own numbers.
      settings: of networks.Settings, where they are not the usual ones.
    """

    about: str
    metrics: tuple[str, ...]
    num: int
    images: int | None
    size: tuple[int, int] | None
    masks: tuple[str, ...] | None
    regions: tuple[str, ...] = ("whole",)
    samples: tuple[str, ...] = ("first",)
    unlike: tuple[str, ...] = ()
    settings: Mapping[str, str] = MappingProxyType({})


PRESETS = {
    "picmm": Preset(
        about="PICMM, NeurIPS 2022: its test option; no metric code was published",
        metrics=("l1", "psnr", "ssim", "fid", "lpips", "lpips_diversity"),
        num=10,
        images=None,
        size=(256, 256),
        masks=("center",),
        samples=("mean", "best"),
        unlike=("which metrics and images the paper's tables used is not established",),
    ),
    "picnet": Preset(
        about="PICNet, CVPR 2019: its published script and the author's answers",
        metrics=("l1", "psnr", "tv", "picnet_is", "lpips_diversity"),
        num=50,
        images=20_000,
        size=(256, 256),
        masks=("center",),
        regions=("whole", "hole", "hole box"),
        samples=("picnet",),
        unlike=(
            "the published loop never considers the last sample; here it is",
            "the paper's diversity is of 1,000 images; here of all",
        ),
        settings={"pairs": "50"},
    ),
    "painter": Preset(
        about="Intelligent Painter: composed pictures; no metric code was published",
        metrics=("fid", "niqe", "hyperiqa", "nima"),
        num=1,
        images=None,
        size=(256, 256),
        masks=None,
        unlike=("how many images the paper measured is not stated (few: FID 220)",),
    ),
    "repaint": Preset(
        about="RePaint, CVPR 2022: LPIPS (Alex) of 100 test images, one sample",
        metrics=("lpips",),
        num=1,
        images=100,
        size=(256, 256),
        masks=("freeform", "half", "expand", "rows", "pixels"),
        unlike=(
            "the paper reports each mask alone: give one at a time with --mask",
            "its thin and thick masks are LaMa's; freeform stands in for both",
        ),
    ),
    "inade": Preset(
        about="INADE, CVPR 2021: test images against statistics of the training images",
        metrics=("fid", "lpips_diversity"),
        num=10,
        images=None,
        size=None,
        masks=None,
        unlike=(
            "the paper's reference is the training set: give its statistics by --stats",
            "its diversity script is not published; mCSD and mOCD are left out",
        ),
        settings={"pipeline": "pytorch_fid"},
    ),
    "halfimage": Preset(
        about="Half-image completion with Pix2Pix and PixelCNN++, 32 pixels",
        metrics=("l1", "likelihood"),
        num=1,
        images=50_000,
        size=(32, 32),
        masks=("top",),
        regions=("whole", "hole"),
        unlike=(
            (
                "the report gives Pix2Pix's training losses, on outputs whose known half is "
                "made again; here it is pasted, but for --raw"
            ),
            "its bits/dim are of the whole image",
        ),
    ),
    "mat": Preset(
        about="MAT, CVPR 2022: Places2 validation images, free-form masks",
        metrics=("fid", "ids", "lpips", "psnr", "ssim", "l1"),
        num=1,
        images=36_500,
        size=(512, 512),
        masks=("freeform",),
        unlike=(
            "the paper has small and large masks of its own generator",
            "its FID divides covariances by n, here by n - 1",
        ),
    ),
}
PREFIX = "paper:"


def find(name: str) -> Preset:
    """The preset of `paper:NAME`.

    Raises:
      UserError: when there is none of that name.
    """
    check_choice("--metrics", name, [PREFIX + known for known in PRESETS])
    return PRESETS[name.removeprefix(PREFIX)]


def changes(
    preset: Preset, images: int, num: int, size: str, masks: str, metrics: set[str]
) -> list[str]:
    """What an evaluation does otherwise than its preset, a phrase each.

    Args:
      preset: the paper's protocol.
      images: how many were measured.
      num: completions of each.
      size: of the images, such as `256x256`.
      masks: names, as in the protocol.
      metrics: names of those that were measured.
    """
    found = []
    if preset.images and images != preset.images:
        found.append(f"{images} images, not {preset.images}")
    if num != preset.num:
        found.append(f"{num} completions an image, not {preset.num}")
    if preset.size and size != f"{preset.size[1]}x{preset.size[0]}":
        found.append(f"{size} pixels, not {preset.size[1]}x{preset.size[0]}")
    if preset.masks and masks != ", ".join(preset.masks):
        found.append(f"masks: {masks}, not {', '.join(preset.masks)}")
    missing = [name for name in preset.metrics if name not in metrics]
    if missing:
        found.append(f"without {', '.join(missing)}")
    return found
