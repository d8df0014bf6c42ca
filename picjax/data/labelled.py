"""Sources with label and instance maps: `config.data.maps` is set (docs/inade.md)."""

from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from picjax.cli import UserError, check_choice
from picjax.data import clusters, instance_scenes, maps
from picjax.data.decode import BadImage, core_count, decode
from picjax.data.maps import Geometry, Map
from picjax.data.records import has_maps, unpack, unpack_maps
from picjax.data.shards import open_shards
from picjax.data.stored import Element, file_names
from picjax.data.transforms import Size

MapConfig = Any  # `config.data.maps`; configs/inade.py explains its keys
CHECKED = 1000  # maps whose values are checked before training; the others when read


def class_names(config: Any) -> tuple[str, ...]:
    """What the classes of a run's label maps are, in words where they are known.

    Args:
      config: `config.data`.
    """
    maps_config = config.maps
    if config.name == "scenes":
        names = [one.name for one in instance_scenes.CLASSES][: maps_config.label_nc]
    else:
        kind = "cluster" if config.name == "photos" else "class"
        names = [f"{kind} {i}" for i in range(maps_config.label_nc)]
    return (*names, "unlabelled") if maps_config.dontcare else tuple(names)


class InstanceScenes:
    """Procedural layouts whose instances have styles of a known distribution."""

    def __init__(self, size: Size, indices: range):
        self.size, self.indices = size, indices

    def __len__(self) -> int:
        return len(self.indices)

    def read(self, index: int, rng: np.random.Generator) -> Element:
        """`image`, `label`, `instance`; the style of each instance is not returned."""
        scene: Any = instance_scenes.sample(0, self.indices[index], self.size)
        names = ("image", "label", "instance")
        return {name: scene[name] for name in names} | {"name": f"scene_{index:05}"}


class Clustered:
    """A source of images, with maps made by clustering their pixels."""

    def __init__(self, source: Any, config: MapConfig):
        self.source, self.instances = source, config.instances
        if maps.classes(config) < clusters.CLASSES:
            raise UserError(
                f"config.model.label_nc is {config.label_nc}, where photographs have "
                f"{clusters.CLASSES} clusters as classes; set it to that"
            )

    def __len__(self) -> int:
        return len(self.source)

    def read(self, index: int, rng: np.random.Generator) -> Element:
        """The image, `label` and `instance`."""
        element = self.source.read(index, rng)
        label, instance = clusters.segment(element["image"], self.instances)
        return element | {"label": label, "instance": instance}


# ---- folders ----


class Tree(NamedTuple):
    """Where a data set keeps its files, as glob patterns below its folder.

    Attributes:
      images, labels, instances: patterns; `{phase}` stands for one of `phases`.
      phases: of training and of held-out images; empty: no such division.
      fields: how many fields of a name, between underscores, belong together.
    """

    images: str
    labels: str
    instances: str
    phases: tuple[str, ...] = ()
    fields: int = 0


TREES = {
    "plain": Tree("images/**/*", "labels/**/*", "instances/**/*"),
    "ade20k": Tree(
        "images/**/*_{phase}_*",
        "annotations/**/*_{phase}_*",
        "instances/**/*_{phase}_*",
        ("train", "val"),
    ),
    "cityscapes": Tree(
        "leftImg8bit/{phase}/**/*_leftImg8bit.*",
        "gtFine/{phase}/**/*_labelIds.png",
        "gtFine/{phase}/**/*_instanceReIds.png",
        ("train", "val"),
        3,
    ),
    "celeba": Tree(
        "{phase}/images/**/*",
        "{phase}/labels/**/*",
        "{phase}/instances/**/*",
        ("train", "test"),
    ),
    "deepfashion": Tree(
        "{phase}_img/**/*",
        "{phase}_label/**/*",
        "{phase}_inst/**/*",
        ("train", "test"),
    ),
}


class Files(NamedTuple):
    """The files of one picture; without `instance`, every class is one instance."""

    image: Path
    label: Path
    instance: Path | None


class Raw(NamedTuple):
    """A picture and its maps as stored."""

    image: Image.Image
    label: Map
    instance: Map | None
    name: str


def find(path: str, key: str, layout: str, held_out: bool) -> list[Files]:
    """The pictures of a folder with their maps.

    Args:
      path: the folder.
      key: name of the setting for errors.
      layout: a key of TREES.
      held_out: which part, where the layout has two.

    Raises:
      UserError: if there is none, or one has no label map.
    """
    check_choice("config.data.maps.layout", layout, list(TREES))
    tree, root = TREES[layout], Path(path)
    if not path or not root.is_dir():
        raise UserError(
            f"{key} '{path}' does not exist as a folder; set it to one that is laid out "
            f"as {layout} (docs/inade.md)"
        )
    phase = tree.phases[held_out] if tree.phases else ""

    def files(pattern: str) -> dict[str, Path]:
        found = sorted(root.glob(pattern.format(phase=phase)))
        known = Image.registered_extensions()
        chosen = [p for p in found if p.suffix.lower() in known and p.name[0] != "."]
        return {stem(p, tree.fields): p for p in chosen}

    images, labels, instances = map(files, tree[:3])
    if not images:
        pattern = tree.images.format(phase=phase)
        raise UserError(
            f"{key} '{path}' holds no image like {pattern}; lay it out as {layout} "
            "(docs/inade.md) or set config.data.maps.layout"
        )
    for name, image in images.items():
        for kind, there in (("label", labels), ("instance", instances)):
            if name not in there and (there or kind == "label"):
                pattern = getattr(tree, f"{kind}s").format(phase=phase)
                raise UserError(
                    f"'{image}' has no {kind} map like {pattern}; add it, or move the "
                    "image away"
                )
    return [Files(x, labels[name], instances.get(name)) for name, x in images.items()]


def stem(path: Path, fields: int) -> str:
    """What the files of one picture have in common."""
    return "_".join(path.stem.split("_")[:fields]) if fields else path.stem


def read_files(files: Files, name: str) -> Raw:
    """Decode a picture and its maps.

    Raises:
      BadImage: if one is damaged.
      UserError: if a map holds colours, or sizes differ.
    """
    image = named(decode, files.image)
    label = named(maps.read_indices, files.label)
    instance = files.instance and named(maps.read_indices, files.instance)
    for path, values in ((files.label, label), (files.instance, instance)):
        if values is not None and values.shape != (image.height, image.width):
            raise UserError(
                f"'{path}' is {values.shape[1]}x{values.shape[0]} but '{files.image}' is "
                f"{image.width}x{image.height}; resize the map by nearest neighbour"
            )
    return Raw(image, label, instance, name)


def named(read: Callable[[Path], Any], path: Path) -> Any:
    """The content of a file.

    Raises:
      BadImage: with its name.
    """
    try:
        return read(path)
    except BadImage as error:
        raise BadImage(f"'{path}': {error}") from error


class Labelled:
    """Pictures with stored maps, resized and cropped alike, or only resized.

    Args:
      read_raw: index -> picture and maps; raises BadImage.
      names: of the pictures.
      config: `config.data`.
      size: height and width of the images.
      train: whether pictures are cropped at random and flipped.
    """

    def __init__(
        self,
        read_raw: Callable[[int], Raw],
        names: list[str],
        config: Any,
        size: Size,
        train: bool,
    ):
        self.read_raw, self.names, self.config = read_raw, names, config
        self.size, self.train = size, train
        check_mode(config, size)

    def __len__(self) -> int:
        return len(self.names)

    def read(self, index: int, rng: np.random.Generator) -> Element:
        """`image`, `label` and `instance` at the final size.

        Raises:
          BadImage: if a file is damaged.
          UserError: if a map does not fit the config.
        """
        raw = self.read_raw(index)
        label, instance = self.indices(raw)
        geometry = self.geometry((raw.image.width, raw.image.height), rng)
        image = geometry.apply(raw.image, Image.Resampling.BICUBIC)
        label, instance = (
            maps.read_map(Image.fromarray(x), geometry) for x in (label, instance)
        )
        pixels = np.asarray(image)
        return {"image": pixels, "label": label, "instance": instance, "name": raw.name}

    def indices(self, raw: Raw) -> tuple[Map, Map]:
        """Rows of the tables of a stored picture, checked.

        Raises:
          UserError: if one is beyond its table.
        """
        config = self.config.maps
        label = raw.label
        if config.shift:  # 0 is unlabelled, k is class k - 1
            label = np.where(label == 0, maps.DONT_CARE, label - 1)
        unlabelled = label == maps.DONT_CARE
        if config.dontcare:
            label = np.where(unlabelled, config.label_nc, label)
        label = label.astype(np.int32)
        instance = raw.instance
        if instance is None or instance.max() >= config.instances:
            instance = maps.reidentify(label if instance is None else instance)
        name, classes = raw.name, maps.classes(config)
        maps.check_maps(label, instance, classes, config.instances, name)
        return label, instance

    def geometry(self, size: Size, rng: np.random.Generator) -> Geometry:
        """The resize and crop of a picture of `size` = (width, height)."""
        h, w = self.size
        mode = self.config.maps.mode
        if not self.train and "crop" in mode:
            return Geometry("fixed", w, w, w / h)
        load = self.config.load_size or round(w * 286 / 256)
        geometry = Geometry(mode, load, w, w / h)
        flip = self.train and self.config.flip and bool(rng.random() < 0.5)
        corner = maps.draw_corner(geometry, size, rng) if "crop" in mode else (0, 0)
        return geometry._replace(corner=corner, flip=flip)

    def check(self, indices: Iterable[int]) -> None:
        """Read these pictures' maps, so that a bad one ends the run before it starts.

        Raises:
          UserError: naming the first file that does not fit the config.
        """

        def one(index: int) -> None:
            try:
                self.indices(self.read_raw(index))
            except BadImage:  # reported and skipped when it is read
                pass

        with ThreadPoolExecutor(core_count()) as pool:
            list(pool.map(one, indices))


def check_mode(config: Any, size: Size) -> None:
    """Refuse transforms that do not give images of one size.

    Raises:
      UserError: naming the key.
    """
    check_choice("config.data.maps.mode", config.maps.mode, maps.MODES[:-1])
    if "crop" in config.maps.mode and size[0] != size[1]:
        raise UserError(
            f"config.data.maps.mode={config.maps.mode} crops squares, not "
            f"{size[0]}x{size[1]}; use config.data.maps.mode=fixed"
        )
    load = config.load_size
    if "crop" in config.maps.mode and 0 < load < size[1]:
        raise UserError(
            f"config.data.load_size {load} is smaller than config.image_size {size[1]}; "
            "make it at least that, or 0 for 286/256 of it"
        )


def labelled_folder(
    config: Any, path: str, key: str, size: Size, held_out: bool
) -> Labelled:
    """The pictures of a folder with stored maps.

    Args:
      config: `config.data`.
      path: the folder.
      key: name of the setting for errors.
      size: height and width of the images.
      held_out: the part of the layout that training leaves out; not augmented.

    Raises:
      UserError: if there is none, or a map does not fit.
    """
    found = find(path, key, config.maps.layout, held_out)
    names = file_names(path, [files.image for files in found])

    def read_raw(index: int) -> Raw:
        raw = read_files(found[index], names[index])
        return raw._replace(name=names[index])

    source = Labelled(read_raw, names, config, size, not held_out)
    step = max(1, len(found) // CHECKED)
    source.check(range(0, len(found), step))
    return source


def labelled_shards(
    config: Any, path: str, key: str, size: Size, train: bool
) -> Labelled:
    """The shards of `python -m picjax.data.pack --layout`.

    Raises:
      UserError: if there are none, they hold no maps, or a map does not fit.
    """
    shards = open_shards(path, key)

    def read_raw(index: int) -> Raw:
        record = shards[index]
        pixels, name = unpack(record)
        label, *rest = unpack_maps(record)
        return Raw(Image.fromarray(pixels), label, rest[0] if rest else None, name)

    if not has_maps(shards[0]):
        raise UserError(
            f"{key} '{path}' holds no label maps; pack them with python -m "
            "picjax.data.pack DIR --out=DIR --layout=NAME"
        )
    names = [f"{index:07}" for index in range(len(shards))]
    source = Labelled(read_raw, names, config, size, train)
    source.check(range(0, len(shards), max(1, len(shards) // CHECKED)))
    return source
