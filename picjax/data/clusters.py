"""Label and instance maps of photographs without any: clusters of colour and texture.

A pixel's class is the nearest of a few centres of k-means over the training parts of
`photos`, by smoothed luma, chroma and local contrast. Instances are connected regions.
The maps of a crop are a function of its pixels, so training needs no files. They are
no semantics: they show how a run on photographs behaves, on any machine.
"""

from functools import lru_cache

import numpy as np
from jaxtyping import Float, UInt8
from scipy import ndimage
from scipy.cluster.vq import kmeans2, vq

from picjax.data import maps
from picjax.data.maps import Map
from picjax.data.photos import photo_regions
from picjax.data.transforms import resample

CLASSES = 8
SIDE = 64  # pixels: of the pictures that the centres are made of
SMALLEST = 1 / 256  # of the image: smaller regions join their neighbours
# Luma and two differences of colour, as in JPEG, and how much each counts.
YCC = np.array([(0.299, 0.587, 0.114), (-0.169, -0.331, 0.5), (0.5, -0.419, -0.081)])
WEIGHTS = np.array([1.0, 2.0, 2.0])
CONTRAST = 1.5


def segment(image: UInt8[np.ndarray, "h w 3"], limit: int) -> tuple[Map, Map]:
    """Label and instance map of an image, with at most `limit` instances."""
    h, w = image.shape[:2]
    nearest, _ = vq(features(image).reshape(h * w, -1), centres())
    window = max(3, min(h, w) // 12)
    votes = [
        ndimage.uniform_filter((nearest == c).reshape(h, w).astype(np.float64), window)
        for c in range(CLASSES)
    ]
    label = np.argmax(votes, 0).astype(np.int32)
    regions = maps.connected(label)
    sizes = np.bincount(regions.ravel())
    largest = np.argsort(-sizes, kind="stable")[:limit]
    kept = largest[sizes[largest] >= min(SMALLEST * h * w, sizes[largest[0]])]
    missing = ~np.isin(regions, kept)
    if missing.any():
        label, regions = (maps.fill_nearest(x, missing) for x in (label, regions))
    return label, maps.reidentify(regions)


def features(image: UInt8[np.ndarray, "h w 3"]) -> Float[np.ndarray, "h w f"]:
    """Smoothed colour and local contrast of each pixel."""
    colour = image.astype(np.float64) @ (YCC * WEIGHTS[:, None]).T
    scale = min(image.shape[:2]) / SIDE
    smooth = ndimage.gaussian_filter(colour, (1.5 * scale, 1.5 * scale, 0))
    square = np.square(colour[..., 0] - smooth[..., 0])
    contrast = np.sqrt(ndimage.gaussian_filter(square, 2 * scale))
    return np.concatenate([smooth, CONTRAST * contrast[..., None]], -1)


@lru_cache
def centres() -> Float[np.ndarray, "k f"]:
    """The centres of the classes, the darkest first."""
    pictures = [
        resample(p, (SIDE, SIDE)) for _, p in photo_regions(False, (SIDE, SIDE))
    ]
    pixels = np.concatenate([features(x)[::2, ::2].reshape(-1, 4) for x in pictures])
    by_luma = pixels[np.argsort(pixels[:, 0], kind="stable")]
    first = by_luma[len(by_luma) // (2 * CLASSES) :: len(by_luma) // CLASSES][:CLASSES]
    found, _ = kmeans2(pixels, first, minit="matrix")
    return found[np.argsort(found[:, 0])]
