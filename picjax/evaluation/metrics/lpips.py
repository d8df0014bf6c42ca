"""LPIPS, to the truth and among an image's samples (Zhang et al., 2018).

Backbones are torchvision's, linear heads the released ones. Version 0.0 does not scale
its input (a bug that is kept so that old numbers can be reproduced), 0.1 does.
"""

import math
import zlib
from collections.abc import Sequence
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jaxtyping import Array, Float, Float64, Integer, Real, UInt8
from scipy import ndimage

from picjax.cli import UserError
from picjax.evaluation.metrics import backbones, layers
from picjax.evaluation.metrics.backbones import Taps
from picjax.evaluation.metrics.layers import Params, Tensors
from picjax.evaluation.metrics.networks import Networks
from picjax.evaluation.metrics.resize import resize
from picjax.evaluation.metrics.results import (
    Columns,
    Example,
    MeanAccumulator,
    brand,
)

HEADS = Path(__file__).parent / "data" / "lpips_heads.npz"
VERSIONS = ("0.1", "0.0")
SMALLEST = {"alex": 31, "vgg": 16, "squeeze": 17}  # pixels per side
SHIFT, SCALE = (-0.030, -0.088, -0.188), (0.458, 0.448, 0.450)
Pairs = Integer[np.ndarray, "p 2"]
Images = Float[Array, "b h w 3"]


@struct.dataclass
class Model:
    """An LPIPS network.

    Attributes:
      net: alex, vgg or squeeze.
      version: 0.1 or 0.0.
      params: of the backbone.
      heads: for each tap, the weight [c] of each channel.
    """

    net: str = struct.field(pytree_node=False)
    version: str = struct.field(pytree_node=False)
    params: Params
    heads: list[Float[Array, " _"]]


def make_model(tensors: Tensors, net: str = "alex", version: str = "0.1") -> Model:
    """LPIPS from torchvision's state_dict of a backbone and the released heads."""
    used = {name: tensors[name] for name in backbones.shapes(net)}
    with np.load(HEADS) as file:
        stem = f"v{version}/{net}/lin"
        heads = [
            jnp.asarray(file[f"{stem}{i}.model.1.weight"].reshape(-1))
            for i in range(sum(name.startswith(stem) for name in file.files))
        ]
    return Model(net, version, layers.fold(used), heads)


def scale_input(x: Images) -> Images:
    """Images in [-1, 1] as version 0.1 feeds them to the backbone."""
    shift, scale = (jnp.array(v).reshape(1, 1, 1, 3) for v in (SHIFT, SCALE))
    return (x - shift) / scale


def embed(model: Model, images: Images) -> Taps:
    """Activations at every tap, divided by their norm over channels.

    Args:
      model: an LPIPS network.
      images: [-1, 1]; values in 0..1 or 0..255 give other numbers, not an error.
    """

    def network(x: Array) -> Taps:
        x = scale_input(x) if model.version == "0.1" else x
        taps = backbones.activations(model.params, x, model.net)
        norms = (jnp.sqrt(jnp.square(f).sum(-1, keepdims=True)) for f in taps)
        return [f / (norm + 1e-10) for f, norm in zip(taps, norms, strict=True)]

    return layers.by_image(network, images)


def compare(model: Model, a: Taps, b: Taps) -> list[Float[Array, "b y x"]]:
    """The weighted squared difference of every tap at every position."""
    return [
        jnp.einsum("bhwc,c->bhw", jnp.square(x - y), head, precision=layers.HIGHEST)
        for x, y, head in zip(a, b, model.heads, strict=True)
    ]


def by_layer(model: Model, a: Images, b: Images) -> Float[Array, "layers b"]:
    """Contribution of every tap; images in [-1, 1]."""
    maps = compare(model, embed(model, a), embed(model, b))
    return jnp.stack([m.mean((1, 2)) for m in maps])


def distance(model: Model, a: Images, b: Images) -> Float[Array, " b"]:
    """LPIPS of each pair of images in [-1, 1]: symmetric, 0 for equal images."""
    return by_layer(model, a, b).sum(0)


def spatial(model: Model, a: Images, b: Images) -> Float[Array, "b h w"]:
    """LPIPS at every pixel."""
    maps = compare(model, embed(model, a), embed(model, b))
    return _sum_maps(maps, (a.shape[1], a.shape[2]))


def _sum_maps(
    maps: Sequence[Float[Array, "b _ _"]], size: tuple[int, int]
) -> Float[Array, "b y x"]:
    """The sum of the maps of `compare`, resized to the image (torch's bilinear)."""
    resized = [resize(m[..., None], size, "torch_bilinear")[..., 0] for m in maps]
    return jnp.stack(resized).sum(0)


def to_float(images: Real[Array, "*b h w 3"]) -> Float[Array, "*b h w 3"]:
    """0..255 grey levels to [-1, 1]."""
    return images.astype(jnp.float32) / 127.5 - 1


# ---- distances between images whose taps are known ----


def consecutive(n: int) -> Pairs:
    """The n - 1 pairs of neighbours (BicycleGAN)."""
    return np.stack([np.arange(n - 1), np.arange(1, n)], 1)


def all_pairs(n: int) -> Pairs:
    """All n (n - 1) / 2 pairs."""
    return np.stack(np.triu_indices(n, 1), 1)


def random_pairs(n: int, count: int, rng: np.random.Generator) -> Pairs:
    """`count` pairs of two different samples, drawn with replacement (PICNet)."""
    first = rng.integers(0, n, count)
    return np.stack([first, (first + rng.integers(1, n, count)) % n], 1)


def pair_distances(
    model: Model, taps: Taps, pairs: Integer[Array, "p 2"], hole: Float[Array, "h w"]
) -> Float[Array, "2 p"]:
    """LPIPS of pairs of images: (whole image, mean of the map over the hole).

    Args:
      model: an LPIPS network.
      taps: output of `embed`: each image passes the backbone once, however many pairs
        contain it.
      pairs: indices of images.
      hole: 1 = hole; the second row is NaN without a hole.
    """

    def one(pair: Array) -> Array:
        a, b = ([tap[pair[i]][None] for tap in taps] for i in (0, 1))
        maps = compare(model, a, b)
        whole = jnp.stack([m.mean() for m in maps]).sum()
        inside = (_sum_maps(maps, (hole.shape[0], hole.shape[1]))[0] * hole).sum()
        return jnp.stack([whole, inside / hole.sum()])

    return jax.lax.map(one, pairs).T


def hole_box(mask: Real[np.ndarray, "h w 1"]) -> tuple[slice, slice] | None:
    """Rows and columns of the hole if it is one rectangle (1 = known)."""
    hole = mask[..., 0] < 0.5
    boxes = ndimage.find_objects(hole.astype(np.uint8))
    return boxes[0] if boxes and hole[boxes[0]].all() else None


# ---- accumulators ----


class Embedder:
    """The backbone's taps of an example and their distances, which both metrics share."""

    def __init__(self, networks: Networks):
        settings = networks.settings
        loaded = networks.load(backbones.RELEASED[settings.net])
        model = make_model(loaded.tensors, settings.net, settings.version)
        self.model, self.source = layers.everywhere(model), loaded.source
        self.description = f"{model.net} {model.version} ({loaded.source})"
        self._embed = layers.on_all_devices(lambda m, x: embed(m, to_float(x)))
        self._distances = layers.on_all_devices(
            lambda given, pairs: pair_distances(given[0], given[1], pairs, given[2]).T
        )
        self._example: Example | None = None
        self._taps: Taps = []

    def embed(self, images: UInt8[np.ndarray, "n h w 3"]) -> Taps:
        """Taps of images, padded to a multiple of the devices.

        Raises:
          UserError: if they are too small for the network.
        """
        smallest = SMALLEST[self.model.net]
        if min(images.shape[1:3]) < smallest:
            raise UserError(
                f"LPIPS with {self.model.net} needs {smallest} pixels per side, not "
                f"{images.shape[2]}x{images.shape[1]}; leave it out"
            )
        return self._embed(self.model, layers.fill_up(images, jax.local_device_count()))

    def embed_example(self, example: Example) -> Taps:
        """Taps of the samples and, last, of the truth; computed once per example."""
        if self._example is not example:
            images = np.concatenate([example.samples, example.truth[None]])
            self._example, self._taps = example, self.embed(images)
        return self._taps

    def distances(
        self, taps: Taps, pairs: Pairs, hole: Float[np.ndarray, "h w"]
    ) -> Float64[np.ndarray, "p 2"]:
        """`pair_distances`, the pairs split over all devices."""
        padded = layers.fill_up(pairs, jax.local_device_count())
        values = self._distances((self.model, taps, hole), padded)
        return np.asarray(values, np.float64)[: len(pairs)]


class Lpips(MeanAccumulator):
    """LPIPS of every sample to the truth; hole: mean of the map over its pixels."""

    def __init__(self, networks: Networks):
        self.embedder = networks.share("lpips", Embedder)
        super().__init__(
            "lpips",
            brand("distance", self.embedder.source),
            f"{self.embedder.description}; hole: mean of the spatial map over it",
        )

    def add(self, example: Example) -> Columns:
        """A column for the whole image and, with a mask, one for the hole."""
        n, taps = len(example.samples), self.embedder.embed_example(example)
        to_truth = np.stack([np.arange(n), np.full(n, n)], 1)
        both = self.embedder.distances(taps, to_truth, _hole(example)).T
        columns = {}
        for region, values in zip(("whole", "hole"), both, strict=True):
            if region == "whole" or example.mask is not None:
                self.count_samples(region, values, example.chosen)
                columns[self.column(region)] = values
        return columns


class LpipsDiversity(MeanAccumulator):
    """LPIPS between the samples of an image."""

    def __init__(self, networks: Networks):
        self.embedder, settings = networks.share("lpips", Embedder), networks.settings
        self.pairs, self.seed = settings.pairs, settings.seed
        kind = f"{self.pairs} pairs" + (" at random" if self.pairs.isdigit() else "")
        super().__init__(
            "lpips_diversity",
            brand("distance", self.embedder.source),
            f"{self.embedder.description}, {kind} of an image's samples; hole: mean of "
            "the map over it; hole box: of the crop, if the hole is one rectangle of "
            "the size of the first such hole",
        )

    def reset(self) -> None:
        """Forgets every example."""
        super().reset()
        # Size of the first box; others are skipped, for each compiles the network anew.
        self._box: tuple[int, int] | None = None

    def add(self, example: Example) -> Columns:
        """One value per image, repeated for its samples; none for a single sample.

        The columns are the same for every image; NaN if it has no such value.
        """
        n = len(example.samples)
        if n < 2:
            return {}
        pairs, hole = self._choose_pairs(example), _hole(example)
        taps = self.embedder.embed_example(example)
        whole, inside = map(float, self.embedder.distances(taps, pairs, hole).mean(0))
        values = {"whole": whole}
        if example.mask is not None:
            values["hole"] = inside
            values["hole box"] = self._box_mean(example, pairs, hole)
        columns = {}
        for region, value in values.items():
            if region != "hole box" or math.isfinite(value):
                self.count(region, "all", value)
            columns[self.column(region)] = np.full(n, value)
        return columns

    def _choose_pairs(self, example: Example) -> Pairs:
        n = len(example.samples)
        if self.pairs == "all":
            return all_pairs(n)
        if self.pairs == "consecutive":
            return consecutive(n)
        # An image's pairs do not depend on its place in the evaluation.
        rng = np.random.default_rng([self.seed, zlib.crc32(example.name.encode())])
        return random_pairs(n, int(self.pairs), rng)

    def _box_mean(self, example: Example, pairs: Pairs, hole: np.ndarray) -> float:
        """LPIPS of the crop around the hole; NaN if there is none of that size."""
        box = None if example.mask is None else hole_box(example.mask)
        if box is None:
            return math.nan
        height, width = (int(x.stop - x.start) for x in box)
        if min(height, width) < SMALLEST[self.embedder.model.net]:
            return math.nan
        self._box = self._box or (height, width)
        if self._box != (height, width):
            return math.nan
        taps = self.embedder.embed(np.ascontiguousarray(example.samples[:, *box]))
        return float(self.embedder.distances(taps, pairs, hole[box])[:, 0].mean())


def _hole(example: Example) -> Float[np.ndarray, "h w"]:
    """1 = hole, float32; zeros if the hole is unknown."""
    if example.mask is None:
        return np.zeros(example.truth.shape[:2], np.float32)
    return (example.mask[..., 0] < 0.5).astype(np.float32)
