"""Frechet distance of two sets of features (Heusel et al., 2017), in float64.

A covariance is kept as a factor F with S = F^T F. Then tr sqrt(S1 S2) is the sum of the
singular values of F1 F2^T: exact and real, also with fewer rows than columns.
"""

import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
from jaxtyping import Float, Float64

from picjax.cli import UserError

# What numpy raises for a file that is not a complete .npy or .npz.
DAMAGED = (OSError, KeyError, ValueError, EOFError, TypeError, zipfile.BadZipFile)


@dataclass(frozen=True)
class Stats:
    """Statistics of a set of features.

    Attributes:
      mean: [d].
      factor: [r d] with covariance factor^T factor.
      count: number of rows; None if a file does not state it.
    """

    mean: Float64[np.ndarray, " d"]
    factor: Float64[np.ndarray, "r d"]
    count: int | None

    @property
    def covariance(self) -> Float64[np.ndarray, "d d"]:
        """The covariance matrix [d d]."""
        return self.factor.T @ self.factor


class Moments:
    """Mean and covariance of a stream of rows, in memory of d x d values at most.

    The first d rows are kept as they are, so the distance of a small set is exact.
    """

    def __init__(self) -> None:
        self.count = 0
        self._rows: list[np.ndarray] = []
        self._mean: np.ndarray | None = None
        self._square: np.ndarray | None = None

    def add(self, rows: Float[np.ndarray, "n d"]) -> None:
        """Counts rows."""
        self.count += len(rows)
        self._rows.append(np.array(rows, np.float64))
        if self._square is not None or self.count > rows.shape[1]:
            self._merge()

    def _merge(self) -> None:
        """Merges the pending rows into the sums (Chan et al., 1979)."""
        rows = np.concatenate(self._rows)
        self._rows = []
        mean = rows.mean(0)
        centred = rows - mean
        square = centred.T @ centred
        if self._mean is None or self._square is None:
            self._mean, self._square = mean, square
            return
        before = self.count - len(rows)
        delta = mean - self._mean
        between = np.outer(delta, delta) * (before * len(rows) / self.count)
        self._square = self._square + square + between
        self._mean = self._mean + delta * (len(rows) / self.count)

    def stats(self, ddof: int = 1) -> Stats:
        """Statistics of all rows; `ddof` is 1 except in MAT and StyleGAN (0).

        Raises:
          UserError: with fewer than two rows.
        """
        if self.count < 2:
            raise UserError(
                f"a covariance needs two images or more, not {self.count}; give more"
            )
        if self._mean is None or self._square is None:
            rows = np.concatenate(self._rows)
            mean = rows.mean(0)
            return Stats(mean, (rows - mean) / np.sqrt(self.count - ddof), self.count)
        covariance = self._square / (self.count - ddof)
        return Stats(self._mean.copy(), factorise(covariance), self.count)


def measure(features: Float[np.ndarray, "n d"], ddof: int = 1) -> Stats:
    """Statistics of a whole set."""
    moments = Moments()
    moments.add(features)
    return moments.stats(ddof)


def factorise(
    covariance: Float[np.ndarray, "d d"],
) -> Float64[np.ndarray, "r d"]:
    """F with F^T F = covariance; negative eigenvalues are rounding and become 0."""
    values, vectors = np.linalg.eigh(np.asarray(covariance, np.float64))
    return np.sqrt(np.clip(values, 0, None))[:, None] * vectors.T


def distance(a: Stats, b: Stats) -> float:
    """|mu1 - mu2|^2 + tr S1 + tr S2 - 2 tr sqrt(S1 S2); 0 for equal sets.

    It falls with the number of rows: compare equal numbers only.

    Raises:
      UserError: if the two have different dimensions.
    """
    if a.mean.shape != b.mean.shape:
        raise UserError(
            f"statistics of {len(a.mean)} and {len(b.mean)} features do not compare; "
            "give those of the same network and layer"
        )
    cross = np.linalg.svd(a.factor @ b.factor.T, compute_uv=False).sum()
    traces = np.square(a.factor).sum() + np.square(b.factor).sum()
    return float(np.square(a.mean - b.mean).sum() + traces - 2 * cross)


def save(path: Path | BinaryIO, stats: Stats) -> None:
    """Writes `mu`, `sigma` (which pytorch-fid and clean-fid read) and `n`."""
    count = -1 if stats.count is None else stats.count
    np.savez(path, mu=stats.mean, sigma=stats.covariance, n=count)


def load(path: Path) -> Stats:
    """Statistics from `mu` and `sigma` of an .npz, or m.npy and s.npy in a folder.

    The former is written by pytorch-fid, clean-fid and guided-diffusion, the latter by
    INADE.

    Raises:
      UserError: if there is no such file, or it is damaged.
    """
    try:
        if path.is_dir():
            mean, covariance, count = (
                np.load(path / "m.npy"),
                np.load(path / "s.npy"),
                -1,
            )
        else:
            # Opened here because numpy leaves a damaged file open.
            with open(path, "rb") as whole, np.load(whole, allow_pickle=False) as file:
                mean, covariance = file["mu"], file["sigma"]
                count = int(file["n"]) if "n" in file.files else -1
        mean, covariance = (np.asarray(x, np.float64) for x in (mean, covariance))
    except DAMAGED as error:
        raise UserError(
            f"'{path}' holds no statistics (mu and sigma in an .npz, or m.npy and "
            "s.npy in a folder); give the file that pytorch-fid or picjax wrote"
        ) from error
    if mean.ndim != 1 or covariance.shape != (len(mean), len(mean)):
        raise UserError(
            f"'{path}' holds a mean of shape {mean.shape} and a covariance of "
            f"{covariance.shape}; give [d] and [d d]"
        )
    known = count if count >= 0 else None
    return Stats(mean, factorise(covariance), known)
