"""The part of `picjax.complete` that draws images of label maps.

    python -m picjax.complete --workdir=RUN --labels=maps/ --num=10
    python -m picjax.complete --workdir=RUN --labels=a.png --instances=b.png --redraw=3

Files are those of `picjax.data.export`: `<stem>_label.png` and `<stem>_instance.png`, or
any that have the same names in two folders.
"""

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import UInt8

from picjax import images, masks
from picjax.cli import UserError
from picjax.data import maps
from picjax.data.decode import BadImage
from picjax.data.listing import list_images
from picjax.images import read_image
from picjax.model import Model
from picjax.synthesis import (
    Layout,
    Reference,
    check_has_maps,
    lent_styles,
    read_layout,
    synthesise,
)

LABEL, INSTANCE = "_label", "_instance"  # ends of the names of files
TOGETHER = {  # option -> the option that it needs
    "instances": "labels",
    "redraw": "labels",
    "style": "labels",
    "style_labels": "style",
    "style_instances": "style",
    "style_of": "style",
}


class Job(NamedTuple):
    """A layout to synthesise.

    Attributes:
      stem: of its outputs.
      labels: file of the label map.
      instances: file of the instance map, or None.
      image: file of a picture whose known pixels are kept, or None.
      mask: its mask, a file or a name.
    """

    stem: str
    labels: Path
    instances: Path | None
    image: Path | None
    mask: Path | str | None


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options of label maps, which docs/inade.md lists instead of `--help`."""

    def add(name: str, **options: Any) -> None:
        parser.add_argument(name, help=argparse.SUPPRESS, **options)

    add("--labels")  # label maps (class numbers), a file or a folder
    add("--instances")  # instance maps; else one per class
    add("--redraw", type=int, nargs="+")  # draw these instances alone
    add("--style")  # a picture whose instances lend their styles
    add("--style-labels")  # its label map
    add("--style-instances")  # its instance map
    add("--style-of", nargs="+")  # ID:ID, ours and the one in --style; else by class


def check(args: argparse.Namespace) -> None:
    """Refuse options that need another one.

    Raises:
      UserError: naming both.
    """
    for option, other in TOGETHER.items():
        if getattr(args, option) is not None and getattr(args, other) is None:
            flags = [f"--{name.replace('_', '-')}" for name in (option, other)]
            raise UserError(f"{flags[0]} needs {flags[1]}; add it")
    if args.style and not args.style_labels:
        raise UserError("--style needs --style-labels, its label map; add it")
    if args.labels and args.compose:
        raise UserError("--labels and --compose exclude each other; give one")
    if args.labels and (args.image is None) != (args.mask is None):
        raise UserError("--image and --mask go together beside --labels; give both")


# ---- files ----


def find_jobs(args: argparse.Namespace) -> list[Job]:
    """The layouts of a command line with their instance maps and pictures.

    Raises:
      UserError: if something is missing or unreadable.
    """
    labels = named_files(args.labels, "--labels", LABEL)
    folder = args.instances or (args.labels if Path(args.labels).is_dir() else None)
    instances = {}
    if folder:
        instances = named_files(folder, "--instances", INSTANCE, bool(args.instances))
    jobs = []
    for stem, path in labels.items():
        instance = only(instances, labels) or instances.get(stem)
        if args.instances and instance is None:
            raise UserError(
                f"--instances '{args.instances}' holds no map named '{stem}', as the "
                "label map is; add it, or leave the option out for one per class"
            )
        jobs.append(Job(stem, path, instance, None, None))
    return with_pictures(jobs, args) if args.image else jobs


def named_files(
    path: str, option: str, ending: str, required: bool = True
) -> dict[str, Path]:
    """Map files by stem, without the ending; in a folder, those with it if any has it.

    Raises:
      UserError: if there is none.
    """
    files = list_images(path, option, deep=False)
    marked = [file for file in files if file.stem.endswith(ending)]
    chosen = marked if marked or not required else files
    return {file.stem.removesuffix(ending): file for file in chosen}


def only(instances: Mapping[str, Path], labels: Mapping[str, Path]) -> Path | None:
    """The instance map if both are single files, whatever their names."""
    if len(instances) == len(labels) == 1:
        return next(iter(instances.values()))
    return None


def with_pictures(jobs: Sequence[Job], args: argparse.Namespace) -> list[Job]:
    """Jobs with the pictures and masks of the same names.

    Raises:
      UserError: if one has no picture.
    """
    files = {path.stem: path for path in list_images(args.image, "--image", deep=False)}
    if len(files) == len(jobs) == 1:
        files = {jobs[0].stem: next(iter(files.values()))}
    for job in jobs:
        if job.stem not in files:
            raise UserError(
                f"--image '{args.image}' holds no picture named '{job.stem}', as the "
                "label map is; add it"
            )
    stems = [files[job.stem].stem for job in jobs]
    matched = masks.match_masks(stems, args.mask, args.pair == "order")
    return [
        job._replace(image=files[job.stem], mask=mask)
        for job, mask in zip(jobs, matched, strict=True)
    ]


def read_map(path: Path) -> np.ndarray:
    """The indices of a map file.

    Raises:
      UserError: if it holds colours.
    """
    try:
        return maps.read_indices(path)
    except BadImage as error:
        raise UserError(
            f"'{path}' cannot be used: {error}; use a whole PNG file"
        ) from error


# ---- images ----


def draw(
    model: Model, job: Job, args: argparse.Namespace
) -> tuple[dict[str, np.ndarray], UInt8[np.ndarray, "n h w 3"]]:
    """Pictures of a layout by name, as inputs of a grid, and its images.

    Raises:
      UserError: naming the file that does not fit the run.
    """
    check_has_maps(model.config)
    labels = read_map(job.labels)
    instances = None if job.instances is None else read_map(job.instances)
    known: dict[str, Any] = {}
    inputs, mask = {}, None
    if job.image is not None and job.mask is not None:
        picture = images.read_picture(job.image)
        pixels = picture.pixels
        mask, _ = masks.resolve(
            job.mask, pixels, args.seed, model.size, args.invert_mask
        )
        known = {"image": picture, "mask": mask}
        shown = np.where(mask[..., None] == 1, pixels, np.uint8(images.HOLE_GREY))
        inputs = {"truth": pixels, "mask": np.dstack([shown, 255 * mask])}
    layout = read_layout(model.config, labels, instances, str(job.labels), mask)
    data: Any = model.config.data  # a ConfigDict's type does not know its keys
    classes = maps.classes(data.maps)
    inputs["labels"] = maps.colour(layout.label, classes)
    samples = synthesise(
        model,
        labels,
        instances,
        args.num,
        args.seed,
        redraw=args.redraw,
        styles=read_styles(model, layout, args),
        **known,
    )
    return inputs, samples


def read_styles(
    model: Model, layout: Layout, args: argparse.Namespace
) -> dict[int, tuple[Reference, int]] | None:
    """The `styles` of `synthesise` that the options --style... ask for."""
    if not args.style:
        return None
    reference = Reference(
        read_image(Path(args.style)),
        read_map(Path(args.style_labels)),
        read_map(Path(args.style_instances)) if args.style_instances else None,
    )
    return lent_styles(model, layout, reference, args.style_of or ())
