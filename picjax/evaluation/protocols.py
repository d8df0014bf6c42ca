"""What each paper measured, as data: `--metrics=paper:NAME` (docs/evaluation.md).

A preset fixes images, samples, masks, metrics, regions and which sample counts. Every
difference of an evaluation (fewer images, another size, no weights) is reported with
its numbers.
"""

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

from picjax.cli import check_choice
from picjax.evaluation.metrics.results import Result


class Preset(NamedTuple):
    """A paper's protocol.

    Attributes:
      source: the paper, and where its protocol is stated.
      metrics: names of metrics.
      num: completions per image.
      images: number of images; None if the paper does not state it.
      size: height and width; None for any.
      masks: names, of which one is drawn per image; None for the data's.
      regions: that are reported.
      samples: which of an image's completions count, keys of `results.SAMPLES`.
      unlike: known differences from the paper's own numbers.
      settings: of `networks.Settings`, if they are not the defaults.
    """

    source: str
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
        source="PICMM, NeurIPS 2022: its test option; no metric code was published",
        metrics=("l1", "psnr", "ssim", "fid", "lpips", "lpips_diversity"),
        num=10,
        images=None,
        size=(256, 256),
        masks=("center",),
        samples=("mean", "best"),
        unlike=("which metrics and images the paper's tables used is not established",),
    ),
    "picnet": Preset(
        source="PICNet, CVPR 2019: its published script and the author's answers",
        metrics=("l1", "psnr", "tv", "picnet_is", "lpips_diversity"),
        num=50,
        images=20_000,
        size=(256, 256),
        masks=("center",),
        regions=("whole", "hole", "hole box"),
        samples=("picnet",),
        unlike=(
            "the published loop never considers the last sample; picjax does",
            "the paper's diversity is of 1,000 images; here of all images",
        ),
        settings={"pairs": "50"},
    ),
    "painter": Preset(
        source="Intelligent Painter: composed pictures; no metric code was published",
        metrics=("fid", "niqe", "hyperiqa", "nima"),
        num=1,
        images=None,
        size=(256, 256),
        masks=None,
        unlike=("how many images the paper measured is not stated (few: FID 220)",),
    ),
    "repaint": Preset(
        source="RePaint, CVPR 2022: LPIPS (Alex) of 100 test images, one sample",
        metrics=("lpips",),
        num=1,
        images=100,
        size=(256, 256),
        masks=("freeform", "half", "expand", "rows", "pixels"),
        unlike=(
            "the paper reports each mask alone: give one at a time by --mask",
            "its thin and thick masks are LaMa's; freeform stands in for both",
        ),
    ),
    "inade": Preset(
        source="INADE, CVPR 2021: test images against the training set's statistics",
        metrics=("fid", "lpips_diversity", "class_diversity", "instance_diversity"),
        num=10,
        images=None,
        size=None,
        masks=None,
        unlike=(
            "the paper's reference is the training set: give its statistics by --stats",
            (
                "its diversity script is not published; mCSD and mOCD are left out: the "
                "diversity of classes and instances here is defined in docs/inade.md"
            ),
        ),
        settings={"pipeline": "pytorch_fid"},
    ),
    "halfimage": Preset(
        source="Half-image completion with Pix2Pix and PixelCNN++, 32 pixels",
        metrics=("l1", "likelihood"),
        num=1,
        images=50_000,
        size=(32, 32),
        masks=("top",),
        regions=("whole", "hole"),
        unlike=(
            (
                "the report states Pix2Pix's training losses, on outputs whose known "
                "half is generated too; here it is pasted, except with --raw"
            ),
            "its bits/dim are of the whole image",
        ),
    ),
    "mat": Preset(
        source="MAT, CVPR 2022: Places2 validation images, free-form masks",
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
    """The protocol of `paper:NAME`.

    Raises:
      UserError: if the name is unknown.
    """
    check_choice("--metrics", name, [PREFIX + paper for paper in PRESETS])
    return PRESETS[name.removeprefix(PREFIX)]


def reported(preset: Preset, results: Sequence[Result]) -> list[Result]:
    """The numbers that a paper reports: its regions and, if measured, its samples."""
    inside = [r for r in results if r.region in preset.regions]
    chosen = {r.metric for r in inside if r.samples in preset.samples}
    return [r for r in inside if r.samples in preset.samples or r.metric not in chosen]


def statement(preset: Preset, protocol: Mapping[str, Any]) -> dict[str, Any]:
    """What the protocol of an evaluation states about a paper's and how it differs."""
    return {
        "paper": preset.source,
        "unlike_the_paper": [*differences(preset, protocol), *preset.unlike],
    }


def differences(preset: Preset, protocol: Mapping[str, Any]) -> list[str]:
    """How an evaluation's protocol differs from a paper's, one phrase each."""
    images, num = protocol["images"], protocol["num"]
    size, masks = protocol["resolution"], protocol["masks"]
    phrases = []
    if preset.images and images != preset.images:
        phrases.append(f"{images} images, not {preset.images}")
    if num != preset.num:
        phrases.append(f"{num} completions per image, not {preset.num}")
    if preset.size and size != f"{preset.size[1]}x{preset.size[0]}":
        phrases.append(f"{size} pixels, not {preset.size[1]}x{preset.size[0]}")
    if preset.masks and masks != ", ".join(preset.masks):
        phrases.append(f"masks: {masks}, not {', '.join(preset.masks)}")
    missing = [name for name in preset.metrics if name not in protocol["metrics"]]
    if missing:
        phrases.append(f"without {', '.join(missing)}")
    return phrases
