"""Resizing by the rules of the programs that published numbers come from.

A rule is a matrix [target, source] per axis, computed in float64, so one rule serves
the host and the device. `jax.image.scale_and_translate` computes coordinates in float32,
which is off by up to 5e-3 grey levels; the reference features need 1e-4.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Float64, Real

from picjax.losses.reconstruction import interpolation_matrix

Matrix = Float64[np.ndarray, "target source"]
Kernel = Callable[[np.ndarray], np.ndarray]
Rule = Callable[[int, int], Matrix]  # of the source and target size

INCEPTION = 299  # pixels a side
PIPELINES = {
    "pytorch_fid": "x / 255, torch's bilinear to 299, to [-1, 1]",
    "tf_legacy": "TensorFlow 1's bilinear to 299, (x - 128) / 128",
    "clean": "Pillow's float bicubic to 299, clipped, (x - 128) / 128",
    "picnet": "to [-1, 1], corner-aligned bilinear to 299, normalised once more",
}
# ImageNet's normalisation, for values of 0..1.
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def triangle(x: np.ndarray) -> np.ndarray:
    """Linear interpolation."""
    return np.clip(1 - np.abs(x), 0, None)


def cubic(a: float) -> Kernel:
    """Keys' cubic (1981) with the free parameter `a`."""

    def kernel(x: np.ndarray) -> np.ndarray:
        x = np.abs(x)
        near = ((a + 2) * x - (a + 3)) * x**2 + 1
        far = a * (((x - 5) * x + 8) * x - 4)
        return np.where(x < 1, near, np.where(x < 2, far, 0))

    return kernel


def _matrix(
    source: int, centres: np.ndarray, kernel: Kernel, width: float, border: str
) -> Matrix:
    """Rows that sum to 1: the kernel, stretched by `width`, around `centres`.

    Taps outside the image take the edge pixel (`clamp`), the mirrored image (`mirror`)
    or are dropped (`cut`).
    """
    reach = int(np.ceil(2 * width)) + 1  # no kernel here is wider than 2
    taps = np.floor(centres).astype(int)[:, None] + np.arange(-reach, reach + 1)
    weights = kernel((taps - centres[:, None]) / width)
    if border == "cut":
        weights = np.where((taps >= 0) & (taps < source), weights, 0)
    elif border == "mirror":
        taps = taps % (2 * source)
        taps = np.where(taps < source, taps, 2 * source - 1 - taps)
    matrix = np.zeros((len(centres), source))
    rows = np.broadcast_to(np.arange(len(centres))[:, None], taps.shape)
    np.add.at(matrix, (rows, np.clip(taps, 0, source - 1)), weights)
    return matrix / matrix.sum(1, keepdims=True)


def _centres(source: int, target: int) -> np.ndarray:
    """Positions of the target's half-pixel centres in the source."""
    return (np.arange(target) + 0.5) * source / target - 0.5


def _torch_centres(source: int, target: int) -> np.ndarray:
    """The same with PyTorch's float32 rounding."""
    step = float(np.float32(source) / np.float32(target))
    return (step * (np.arange(target) + 0.5) - 0.5).astype(np.float32).astype(float)


def _corners(source: int, target: int) -> np.ndarray:
    """Positions of the target's left edges, in TensorFlow 1's float32."""
    step = np.float32(source) / np.float32(target)
    return (step * np.arange(target, dtype=np.float32)).astype(np.float64)


def _shrinking(source: int, target: int, kernel: Kernel) -> Matrix:
    """Pillow's antialiasing: the kernel widens with the step."""
    width = max(source / target, 1.0)
    return _matrix(source, _centres(source, target), kernel, width, "cut")


def halving_matrix(source: int) -> Matrix:
    """MATLAB's imresize by 0.5: bicubic over 8 pixels, ceil(source / 2) rows."""
    centres = 2 * np.arange(-(-source // 2)) + 0.5
    return _matrix(source, centres, cubic(-0.5), 2.0, "mirror")


def _clamped(centres: Callable[[int, int], np.ndarray], kernel: Kernel) -> Rule:
    """The plain rule: taps outside the image take the edge pixel."""
    return lambda s, t: _matrix(s, centres(s, t), kernel, 1.0, "clamp")


RULES: dict[str, Rule] = {
    "tf1_bilinear": _clamped(_corners, triangle),
    "torch_bilinear": _clamped(_torch_centres, triangle),
    "torch_bilinear_align_corners": interpolation_matrix,
    "torch_bilinear_antialias": lambda s, t: _shrinking(s, t, triangle),
    "torch_bicubic": _clamped(_torch_centres, cubic(-0.75)),
    "pil_bicubic_float": lambda s, t: _shrinking(s, t, cubic(-0.5)),
}


def resize(
    x: Real[Array, "b h w c"], size: tuple[int, int], rule: str
) -> Float[Array, "b y x c"]:
    """`x` resized to (height, width) by a rule of RULES, float32, not clipped."""
    rows, columns = (
        jnp.asarray(RULES[rule](source, target), jnp.float32)
        for source, target in zip(x.shape[1:3], size, strict=True)
    )
    precision = jax.lax.Precision.HIGHEST
    x = jnp.einsum("bhwc,xw->bhxc", x.astype(jnp.float32), columns, precision=precision)
    return jnp.einsum("bhxc,yh->byxc", x, rows, precision=precision)


def halve(x: Float64[np.ndarray, "h w"]) -> Float64[np.ndarray, "y x"]:
    """MATLAB's imresize(x, 0.5), on the host."""
    rows, columns = (halving_matrix(n) for n in x.shape)
    return rows @ x @ columns.T


def for_inception(
    images: Real[Array, "b h w 3"], pipeline: str
) -> Float[Array, "b 299 299 3"]:
    """Input of the Inception network.

    Args:
      images: 0..255.
      pipeline: a key of PIPELINES; features depend on it, so report it.
    """
    size = INCEPTION, INCEPTION
    x = images.astype(jnp.float32)
    if pipeline == "pytorch_fid":
        return 2 * resize(x / 255, size, "torch_bilinear") - 1
    if pipeline == "tf_legacy":
        return (resize(x, size, "tf1_bilinear") - 128) / 128
    if pipeline == "clean":
        x = jnp.clip(resize(x, size, "pil_bicubic_float"), 0, 255)
        return (x - 128) / 128
    if pipeline == "picnet":
        x = resize((x / 255 - 0.5) / 0.5, size, "torch_bilinear_align_corners")
        return x * _channels(STD) / 0.5 + (_channels(MEAN) - 0.5) / 0.5
    raise ValueError(f"pipeline '{pipeline}' is none of {', '.join(PIPELINES)}")


def normalise(images: Real[Array, "b h w 3"]) -> Float[Array, "b h w 3"]:
    """0..255 grey levels normalised by ImageNet's mean and deviation."""
    return (images.astype(jnp.float32) / 255 - _channels(MEAN)) / _channels(STD)


def _channels(values: tuple[float, ...]) -> Array:
    return jnp.array(values, jnp.float32).reshape(1, 1, 1, -1)
