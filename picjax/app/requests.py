"""What clients can ask for: each request checks itself and draws itself by a model."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np
from jaxtyping import Int32, UInt8

from picjax import masks
from picjax.cli import UserError, check_choice
from picjax.data.maps import Map, MapLike
from picjax.images import Picture, png_bytes
from picjax.model import Model, Part
from picjax.synthesis import (
    Reference,
    check_has_maps,
    lent_styles,
    read_layout,
    synthesise,
)

MAX_NUM = 64  # images of one request
MAX_SEED = 2**32 - 1
SCENE = "scene.json"  # name of a scene's file


@dataclass(frozen=True, kw_only=True)
class GenerationRequest(ABC):
    """A request for images of one input.

    Attributes:
      run: name of the run.
      num: number of images.
      seed: another seed gives other images.
      sampler: settings of `config.sampler`.
      warnings: about the input.
      stem: first part of the names of its files.
    """

    stem: ClassVar[str]

    run: str
    num: int = 6
    seed: int = 0
    sampler: Mapping[str, str] = field(default_factory=dict)
    warnings: Sequence[str] = ()

    def __post_init__(self) -> None:
        check_number("num", self.num, 1, MAX_NUM)
        check_number("seed", self.seed, 0, MAX_SEED)

    @property
    @abstractmethod
    def size(self) -> tuple[int, int]:
        """Height and width of the images."""

    @property
    def icc(self) -> bytes | None:
        """The colour profile of the images; None: sRGB."""
        return None

    @property
    def group(self) -> tuple[object, ...] | None:
        """Requests of equal groups can be drawn in one batch; None: this one cannot."""
        return None

    @abstractmethod
    def arguments(self) -> list[str]:
        """Arguments of `picjax.complete` besides the run, the number and the seed."""

    @abstractmethod
    def files(self) -> dict[str, bytes]:
        """The files that the arguments name."""

    @abstractmethod
    def draw(self, model: Model) -> Iterator[Part]:
        """Draw the images, a few at a time, and show them on their way, where it can.

        Raises:
          UserError: if the model cannot draw them.
        """


@dataclass(frozen=True, kw_only=True)
class CompletionRequest(GenerationRequest):
    """A request for completions of a picture.

    Attributes:
      picture: at its own size.
      mask: uint8 [h w], 1 = known, or the name of a mask.
      best_of: draw so many and keep the best; None: all that are drawn.
    """

    stem: ClassVar[str] = "image"

    picture: Picture
    mask: UInt8[np.ndarray, "h w"] | str
    best_of: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.best_of is not None:
            check_number("best_of", self.best_of, self.num, MAX_NUM)
        if isinstance(self.mask, str):
            check_choice("mask", self.mask, masks.NAMES)

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the picture."""
        height, width = self.picture.pixels.shape[:2]
        return height, width

    @property
    def icc(self) -> bytes | None:
        """The picture's colour profile."""
        return self.picture.icc

    @property
    def group(self) -> tuple[object, ...]:
        """Completions that differ in picture and mask alone are drawn in one batch."""
        settings = tuple(sorted(self.sampler.items()))
        return (self.run, self.num, self.seed, settings, self.best_of)

    def arguments(self) -> list[str]:
        """Image, mask, best-of and sampler."""
        mask = self.mask if isinstance(self.mask, str) else "mask.png"
        return ["--image=image.png", f"--mask={mask}", *self.settings()]

    def settings(self) -> list[str]:
        """Best-of and sampler as arguments."""
        words = [f"--best-of={self.best_of}"] if self.best_of else []
        return words + [f"--config.sampler.{k}={v}" for k, v in self.sampler.items()]

    def files(self) -> dict[str, bytes]:
        """The picture, and the mask (white = hole) if it has no name."""
        content = {"image.png": png_bytes(self.picture.pixels, self.icc)}
        if not isinstance(self.mask, str):
            content["mask.png"] = png_bytes(255 * (1 - self.mask))
        return content

    def draw(self, model: Model) -> Iterator[Part]:
        """Draw the completions; all at once where the best are kept."""
        if self.best_of is None:
            yield from model.stream(self.picture, self.mask, self.num, self.seed)
        else:
            yield Part(draw_together([self], model)[0])


@dataclass(frozen=True, kw_only=True)
class CompositionRequest(CompletionRequest):
    """A request for completions of a scene of cut-outs (docs/composition.md).

    Attributes:
      picture: the canvas.
      mask: 1 where the canvas is opaque.
      scene: SCENE and the cut-outs that it names, as files.
    """

    stem: ClassVar[str] = "scene"

    mask: UInt8[np.ndarray, "h w"]
    scene: Mapping[str, bytes]

    def arguments(self) -> list[str]:
        """The scene, best-of and sampler."""
        return [f"--compose={SCENE}", *self.settings()]

    def files(self) -> dict[str, bytes]:
        """The scene and its cut-outs."""
        return dict(self.scene)


@dataclass(frozen=True, kw_only=True)
class SynthesisRequest(GenerationRequest):
    """A request for images of a label map (docs/inade.md).

    Attributes:
      labels: class of each pixel, 255 where it is unlabelled.
      instances: id of each pixel's instance; None: one instance per class.
      redraw: ids of the instances that differ from image to image; empty: all.
      reference: a picture whose instances lend their styles.
      style_of: pairs ID:ID, ours and the reference's; empty: by class.
    """

    stem: ClassVar[str] = "layout"

    labels: Map
    instances: Int32[np.ndarray, "y x"] | None = None
    redraw: tuple[int, ...] = ()
    reference: Reference | None = None
    style_of: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.style_of and self.reference is None:
            raise UserError("style_of needs a reference picture; add its files")

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the label map."""
        height, width = self.labels.shape
        return height, width

    def arguments(self) -> list[str]:
        """The maps, what is redrawn, and the reference."""
        words = ["--labels=layout_label.png"]
        if self.instances is not None:
            words += ["--instances=layout_instance.png"]
        if self.redraw:
            words += ["--redraw", *map(str, self.redraw)]
        if self.reference is not None:
            words += ["--style=style.png", "--style-labels=style_label.png"]
            if self.reference.instances is not None:
                words += ["--style-instances=style_instance.png"]
        return [*words, "--style-of", *self.style_of] if self.style_of else words

    def files(self) -> dict[str, bytes]:
        """The maps, and the reference with its maps."""
        content = map_files("layout", self.labels, self.instances)
        if self.reference is not None:
            image, labels, instances = self.reference
            content["style.png"] = png_bytes(np.asarray(image))
            content |= map_files("style", labels, instances)
        return content

    def draw(self, model: Model) -> Iterator[Part]:
        """Draw the images, all at once."""
        check_has_maps(model.config)
        styles = None
        if self.reference is not None:
            maps = model.config, self.labels, self.instances, "the layout"
            layout = read_layout(*maps)
            styles = lent_styles(model, layout, self.reference, self.style_of)
        images = synthesise(
            model,
            self.labels,
            self.instances,
            self.num,
            self.seed,
            redraw=self.redraw or None,
            styles=styles,
        )
        yield Part(images)


def map_files(
    stem: str, labels: MapLike, instances: MapLike | None
) -> dict[str, bytes]:
    """A layout as the files of `picjax.data.export`."""
    files = {f"{stem}_label.png": png_bytes(np.asarray(labels, np.uint8))}
    if instances is not None:
        files[f"{stem}_instance.png"] = png_bytes(np.asarray(instances, np.uint16))
    return files


def draw_together(
    requests: Sequence[CompletionRequest], model: Model
) -> list[UInt8[np.ndarray, "n _h _w 3"]]:
    """Draw the completions of requests of one group, as a batch."""
    first = requests[0]
    pictures = [request.picture for request in requests]
    holes = [request.mask for request in requests]
    return model.complete(pictures, holes, first.num, first.seed, first.best_of)


def check_number(name: str, value: int, low: int, high: int) -> None:
    """Refuse a number outside of its range.

    Raises:
      UserError: with the range.
    """
    if not low <= value <= high:
        raise UserError(f"{name} is {value}; give {low} to {high}")
