"""Images of a label map, instance by instance (docs/inade.md).

    model = picjax.load("runs/inade-scenes")
    images = model.synthesise(labels, instances, n=10)             # uint8 [n h w 3]
    images = model.synthesise(labels, instances, redraw=3)         # instance 3 alone
    cat = picjax.Reference(picture, its_labels, its_instances)
    images = model.synthesise(labels, instances, styles={3: (cat, 5)})

Maps hold indices, as arrays or Pillow images. They are resized to the model's size by
nearest neighbour, and the images back to the label map's.
"""

from collections.abc import Collection, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Array, Bool, Float, Int32, UInt8
from PIL import Image

from picjax import masks
from picjax.cli import UserError
from picjax.completion import check_finite
from picjax.data import maps
from picjax.data.maps import Map, MapLike
from picjax.images import Picture, as_picture, fit, paste, to_float
from picjax.model import Model, check_completions
from picjax.system import Config, Tree


class Reference(NamedTuple):
    """A picture whose instances lend their styles.

    Attributes:
      image: the picture.
      labels: its label map, at any size.
      instances: its instance map; None: one instance per class.
    """

    image: np.ndarray | Image.Image
    labels: MapLike
    instances: MapLike | None = None


class Layout(NamedTuple):
    """A label and an instance map at their own size.

    Attributes:
      label: class of each pixel.
      instance: row of the instance axis of each pixel.
      rows: the user's id of an instance -> its row.
    """

    label: Map
    instance: Map
    rows: dict[int, int]


def synthesise(
    model: Model,
    labels: MapLike,
    instances: MapLike | None = None,
    n: int = 10,
    seed: int = 0,
    *,
    styles: Mapping[int, tuple[Reference, int]] | None = None,
    redraw: int | Collection[int] | None = None,
    image: np.ndarray | Image.Image | Picture | None = None,
    mask: np.ndarray | Image.Image | str | None = None,
) -> UInt8[np.ndarray, "n h w 3"]:
    """Draw n images of one label map.

    Args:
      model: of a run with label maps.
      labels: class of each pixel, 255 where it is unlabelled.
      instances: id of each pixel's instance; None: one instance per class.
      n: number of images.
      seed: another seed gives other images.
      styles: instance id -> (reference, instance id there), whose style it takes.
      redraw: ids of the instances that differ from image to image; all else is that of
        image 0. None: every image has styles of its own.
      image: a picture whose known pixels are kept, at its own size.
      mask: of the picture, as for `Model.complete`. Outside the hole, labels may be 255.

    Returns:
      uint8 [n h w 3] at the size of the label map, or of the picture.

    Raises:
      UserError: if the run has no label maps, the maps do not fit it, or an id is
        unknown.
    """
    check_has_maps(model.config)
    if n < 1:
        raise UserError(f"n is {n}; ask for 1 image or more")
    if (image is None) != (mask is None):
        raise UserError("a picture and its mask go together; give both or neither")
    label_map = maps.as_map(labels, "the label map")
    if image is None or mask is None:
        picture = Picture(np.zeros((*label_map.shape, 3), np.uint8))
        full_mask = np.zeros(label_map.shape, np.uint8)
    else:
        picture = image if isinstance(image, Picture) else as_picture(image)
        full_mask, _ = masks.resolve(mask, picture.pixels, seed, model.size)
    check_completions(n, full_mask.shape)
    layout = read_layout(model.config, label_map, instances, "the layout", full_mask)
    small, small_mask = fit(picture.srgb, full_mask, model.size)
    batch = {
        "image": small[None],
        "mask": small_mask[None, ..., None],
        **small_maps(layout, model.size),
    }
    if redraw is not None:
        batch["redraw"] = redrawn(model.config, layout, redraw)[None]
    if styles:
        batch["styles"] = borrowed_styles(model, layout, styles)[None]
    drawn = model.sample(batch, n, seed)
    check_finite(drawn, ["the layout"])
    samples = picture.in_own_colours(np.asarray(drawn.pixels[0]))
    return paste(picture.pixels, full_mask, samples)


def check_has_maps(config: Config) -> None:
    """Refuse label maps for a run that has none.

    Raises:
      UserError: if it has none.
    """
    if not config.data.get("maps"):
        raise UserError(
            f"this run of {config.system} has no label maps; complete pictures with "
            "Model.complete, or --image and --mask"
        )


# ---- maps ----


def resize(values: Map, size: tuple[int, int]) -> Int32[np.ndarray, "y x"]:
    """Nearest-neighbour resize to (height, width)."""
    if values.shape == size:
        return values
    picture = Image.fromarray(values)
    return np.asarray(picture.resize((size[1], size[0]), Image.Resampling.NEAREST))


def read_layout(
    config: Config,
    labels: Map,
    instances: MapLike | None,
    name: str,
    mask: UInt8[np.ndarray, "y x"] | None = None,
) -> Layout:
    """Check maps against a run's tables; ids beyond its instance axis become ranks.

    Args:
      config: of the run.
      labels: the label map.
      instances: the instance map, at the same size; None: one instance per class.
      name: for errors.
      mask: of a picture; the maps are resized to its size, and known pixels without a
        label have that of the nearest with one.

    Raises:
      UserError: if the sizes differ or there are too many classes or instances.
    """
    data = config.data.maps
    ids = (
        labels
        if instances is None
        else maps.as_map(instances, f"{name}'s instance map")
    )
    maps.check_same_size(labels.shape, ids.shape, name)
    if mask is not None:
        labels = resize(labels, mask.shape)
        unlabelled = labels == maps.DONT_CARE
        if (unlabelled & (mask == 1)).any() and not unlabelled.all():
            labels = maps.fill_nearest(labels, unlabelled & (mask == 1))
        ids = labels if instances is None else resize(ids, mask.shape)
    label = np.where(labels == maps.DONT_CARE, data.label_nc, labels).astype(np.int32)
    values = np.unique(ids)
    if instances is None or (values[-1] >= data.instances > len(values) - 1):
        rows = {int(value): row for row, value in enumerate(values)}
        ids = maps.reidentify(ids)
    else:
        rows = {int(value): int(value) for value in values}
    maps.check_maps(label, ids, maps.classes(data), data.instances, name)
    return Layout(label, ids, rows)


def small_maps(layout: Layout, size: tuple[int, int]) -> dict[str, np.ndarray]:
    """`label` and `instance` of a batch of one at a model's size."""
    small = {"label": layout.label, "instance": layout.instance}
    return {name: resize(values, size)[None] for name, values in small.items()}


# ---- control of instances ----


def row_of(layout: Layout, identity: int, name: str) -> int:
    """The row of an instance.

    Raises:
      UserError: if there is none of that id.
    """
    if identity not in layout.rows:
        raise UserError(
            f"{name} {identity} is no instance of the map, which has "
            f"{', '.join(map(str, sorted(layout.rows)))}; correct it"
        )
    return layout.rows[identity]


def redrawn(
    config: Config, layout: Layout, redraw: int | Collection[int]
) -> Bool[np.ndarray, " i"]:
    """Which rows of the instance axis are drawn again."""
    ids = [redraw] if isinstance(redraw, int) else redraw
    rows = np.zeros(config.data.maps.instances, bool)
    rows[[row_of(layout, i, "redraw") for i in ids]] = True
    return rows


def borrowed_styles(
    model: Model, layout: Layout, styles: Mapping[int, tuple[Reference, int]]
) -> Float[np.ndarray, "i 4 z"]:
    """Statistics of each instance: its reference's, else the prior's."""
    model_config: Any = model.config.model
    table = np.zeros((model_config.instances, 4, model_config.noise_nc), np.float32)
    encoded: dict[int, tuple[Layout, np.ndarray]] = {}
    for identity, (reference, source) in styles.items():
        row = row_of(layout, identity, "styles has the key")
        if id(reference) not in encoded:
            encoded[id(reference)] = encode(model, Reference(*reference))
        theirs, statistics = encoded[id(reference)]
        table[row] = statistics[row_of(theirs, source, "the reference's instance")]
    return table


def reference_layout(config: Config, reference: Reference) -> Layout:
    """The maps of a reference.

    Raises:
      UserError: if they do not fit the run.
    """
    labels = maps.as_map(reference.labels, "the reference's label map")
    return read_layout(config, labels, reference.instances, "the reference's layout")


def encode(model: Model, reference: Reference) -> tuple[Layout, np.ndarray]:
    """A reference's layout and the styles of its instances [i 4 z]."""
    pixels = as_picture(reference.image).srgb
    layout = reference_layout(model.config, reference)
    everything = np.ones(pixels.shape[:2], np.uint8)
    image, mask = fit(pixels, everything, model.size)
    batch = {"image": image[None], "mask": mask[None, ..., None]}
    batch |= small_maps(layout, model.size)
    styles = _encode_styles(model.system, model.variables, batch)
    return layout, np.asarray(styles[0])


@partial(jax.jit, static_argnums=0)  # compiled once per model
def _encode_styles(system: Any, variables: Tree, batch: Mapping[str, Array]) -> Array:
    return system.encode_styles(variables, to_float(batch))


def lent_styles(
    model: Model, layout: Layout, reference: Reference, pairs: Sequence[str]
) -> dict[int, tuple[Reference, int]]:
    """`styles` of pairs `ID:ID`, an instance of the layout and one of the reference.

    Args:
      model: of a run with label maps.
      layout: whose instances take the styles.
      reference: whose instances lend them.
      pairs: none: as `matching_styles`.

    Raises:
      UserError: if a pair is not written so, or the reference does not fit the run.
    """
    if not pairs:
        theirs = reference_layout(model.config, reference)
        return matching_styles(layout, reference, theirs)
    styles = {}
    for pair in pairs:
        target, _, source = pair.partition(":")
        if not (target.isdecimal() and source.isdecimal()):
            raise UserError(f"the style '{pair}' is no ID:ID; write 3:5")
        styles[int(target)] = (reference, int(source))
    return styles


def matching_styles(
    layout: Layout, reference: Reference, theirs: Layout
) -> dict[int, tuple[Reference, int]]:
    """`styles` that give each instance the style of the reference's same id.

    Where that instance is of another class, or absent, the reference's largest instance
    of the class is taken, if there is one.
    """
    styles = {}
    for identity, row in layout.rows.items():
        label = layout.label[layout.instance == row][0]
        of_class = theirs.instance[theirs.label == label]
        same = theirs.rows.get(identity)
        if same is not None and (of_class == same).any():
            styles[identity] = (reference, identity)
        elif of_class.size:
            largest = np.bincount(of_class).argmax()
            source = next(i for i, r in theirs.rows.items() if r == largest)
            styles[identity] = (reference, source)
    return styles
