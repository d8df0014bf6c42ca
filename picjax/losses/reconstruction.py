"""Distance to the truth at several scales, as PICNet and PICMM measure it."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Float64


def interpolation_matrix(source: int, target: int) -> Float64[np.ndarray, "n m"]:
    """Weights [target, source] of linear interpolation that keeps both end points.

    Row k reads position k (source - 1) / (target - 1): `align_corners=True` without
    antialiasing, which `jax.image.resize` does not offer.
    """
    # In float32, as PyTorch: it moves positions near 256 by 1e-5 of a pixel.
    step = np.float32(source - 1) / np.float32(max(target - 1, 1))
    position = np.minimum(step * np.arange(target, dtype=np.float32), source - 1)
    distance = np.abs(position[:, None].astype(np.float64) - np.arange(source)[None])
    return np.clip(1 - distance, 0, None)


def resize(
    x: Float[Array, "b h w c"], size: tuple[int, int]
) -> Float[Array, "b y x c"]:
    """Bilinear resize to `size` = (height, width), corners aligned, no antialiasing."""
    if x.shape[1:3] == size:
        return x
    rows, columns = (
        jnp.asarray(interpolation_matrix(m, n), x.dtype)
        for m, n in zip(x.shape[1:3], size, strict=True)
    )
    precision = jax.lax.Precision.HIGHEST
    x = jnp.einsum("bhwc,yh->bywc", x, rows, precision=precision)
    return jnp.einsum("bywc,xw->byxc", x, columns, precision=precision)


def pyramid(x: Float[Array, "b h w c"], scales: int) -> list[Float[Array, "b _ _ c"]]:
    """`x` at sizes (h // 2^i, w // 2^i), coarse to fine; the last level is `x` itself.

    Each level is resized from the full size. Levels of a mask are fractional at edges.
    """
    height, width = x.shape[1:3]
    return [resize(x, (height >> i, width >> i)) for i in reversed(range(scales))]


def absolute_error(
    image: Float[Array, "*b"], target: Float[Array, "*b"]
) -> Float[Array, "*b"]:
    """|image - target| in float32, with the originals' gradient: 0 where both are equal.

    The gradient of `jnp.abs` is 1 there; PyTorch's and TensorFlow's is 0.
    """
    difference = image.astype(jnp.float32) - target
    return difference * jax.lax.stop_gradient(jnp.sign(difference))


def l1(
    image: Float[Array, "b h w c"], target: Float[Array, "b h w c"]
) -> Float[Array, " b"]:
    """Mean absolute difference over pixels and channels."""
    return absolute_error(image, target).mean((1, 2, 3))


def multiscale_l1(
    images: Sequence[Float[Array, "b _ _ c"]],
    targets: Sequence[Float[Array, "b _ _ c"]],
    masks: Sequence[Float[Array, "b _ _ 1"]] | None = None,
) -> Float[Array, " b"]:
    """Sum over scales of the mean absolute difference, times `masks` if present.

    Arguments are pyramids of equal sizes. The mean is over all pixels and channels,
    masked out or not, as in the originals.
    """
    total = jnp.zeros(images[0].shape[0])
    for i, (image, target) in enumerate(zip(images, targets, strict=True)):
        error = absolute_error(image, target)
        total += (error if masks is None else error * masks[i]).mean((1, 2, 3))
    return total
