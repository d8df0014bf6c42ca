"""Inception Score, KID, precision and recall, P-IDS and U-IDS, in float64.

Salimans et al., 2016; Binkowski et al., 2018; Kynkaanniemi et al., 2019; Zhao et al.,
2021. All are functions of features or logits that are already computed.
"""

import itertools
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Float64, Integer
from scipy import special

BLOCK = 1000  # rows whose distances are held at once
NEWTON_STEPS = 100  # at most; about ten are needed


class Spread(NamedTuple):
    """A mean and the population standard deviation, over splits or subsets."""

    mean: float
    std: float


# ---- Inception Score ----


def inception_scores(
    logits: Float[np.ndarray, "n c"], splits: int = 10
) -> Float64[np.ndarray, " splits"]:
    """exp of the mean divergence of p(class | image) from p(class), per split.

    Split i holds the rows i n // splits to (i + 1) n // splits.

    Raises:
      ValueError: with fewer rows than splits.
    """
    if len(logits) < splits:
        raise ValueError(f"{splits} splits need as many images, not {len(logits)}")
    log_p = special.log_softmax(np.asarray(logits, np.float64), axis=1)
    p = np.exp(log_p)
    ends = [i * len(p) // splits for i in range(splits + 1)]
    scores = []
    for start, end in itertools.pairwise(ends):
        # A class that underflows in every row contributes 0 log 0 = 0.
        marginal = np.maximum(p[start:end].mean(0), np.finfo(np.float64).tiny)
        kl = (p[start:end] * (log_p[start:end] - np.log(marginal))).sum(1)
        scores.append(np.exp(kl.mean()))
    return np.array(scores)


def inception_score(
    logits: Float[np.ndarray, "n c"], splits: int = 10, seed: int | None = 2020
) -> Spread:
    """Inception Score; rows are shuffled as in torch-fidelity (seed None: not)."""
    if seed is not None:
        order = np.random.RandomState(seed).permutation(len(logits))
        logits = logits[order]
    scores = inception_scores(logits, splits)
    return Spread(float(scores.mean()), float(scores.std()))


def picnet_inception_score(
    logits: Float[np.ndarray, "n c"], chunk: int = 1000, splits: int = 10
) -> Spread:
    """PICNet's Inception Score: per chunk, then mean of means and of deviations.

    Its splits are 100 images, so it is far below a usual score and at most 100. Rows
    after the last whole chunk are dropped.
    """
    starts = range(0, len(logits) - chunk + 1, chunk)
    each = [inception_scores(logits[i : i + chunk], splits) for i in starts]
    means, stds = zip(*((x.mean(), x.std()) for x in each), strict=True)
    return Spread(float(np.mean(means)), float(np.mean(stds)))


# ---- KID ----


def polynomial(
    x: Float[np.ndarray, "n d"],
    y: Float[np.ndarray, "m d"],
    degree: int = 3,
    gamma: float | None = None,
    coef0: float = 1.0,
) -> Float64[np.ndarray, "n m"]:
    """(gamma x.y + coef0)^degree; gamma is 1 / d by default."""
    gamma = 1 / x.shape[1] if gamma is None else gamma
    return (gamma * (x @ y.T) + coef0) ** degree


def rbf(
    x: Float[np.ndarray, "n d"], y: Float[np.ndarray, "m d"], sigma: float = 10.0
) -> Float64[np.ndarray, "n m"]:
    """exp(-|x - y|^2 / (2 sigma^2))."""
    return np.exp(-_squares(x, y) / (2 * sigma**2))


def mmd(
    x: Float[np.ndarray, "m d"], y: Float[np.ndarray, "m d"], kernel=polynomial
) -> float:
    """Unbiased squared kernel distance of two sets of equal size; may be negative."""
    x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)
    m = len(x)
    own = sum(k.sum() - np.trace(k) for k in (kernel(x, x), kernel(y, y)))
    return float(own / (m * (m - 1)) - 2 * kernel(x, y).mean())


def kid(
    a: Float[np.ndarray, "n d"],
    b: Float[np.ndarray, "m d"],
    subsets: int = 100,
    size: int = 1000,
    seed: int = 2020,
    kernel=polynomial,
) -> Spread:
    """KID over random subsets of `size` rows of each, drawn as in torch-fidelity.

    Raises:
      ValueError: if a set has fewer rows than a subset.
    """
    if min(len(a), len(b)) < size:
        raise ValueError(
            f"subsets of {size} need as many images, not {len(a)} and {len(b)}"
        )
    rng = np.random.RandomState(seed)
    distances = []
    for _ in range(subsets):
        x = a[rng.choice(len(a), size, replace=False)]
        distances.append(mmd(x, b[rng.choice(len(b), size, replace=False)], kernel))
    return Spread(float(np.mean(distances)), float(np.std(distances)))


# ---- improved precision and recall ----


def precision_recall(
    real: Float[np.ndarray, "n d"], fake: Float[np.ndarray, "m d"], k: int = 3
) -> tuple[float, float]:
    """(precision, recall): the share of one set inside some ball of the other.

    The ball of a row reaches to its k-th neighbour in its own set.

    Raises:
      ValueError: if a set has k rows or fewer.
    """
    if min(len(real), len(fake)) <= k:
        raise ValueError(f"more than {k} images are needed, not {len(real)}")
    real, fake = np.asarray(real, np.float64), np.asarray(fake, np.float64)
    return _covered(fake, real, k), _covered(real, fake, k)


def _covered(rows: np.ndarray, centres: np.ndarray, k: int) -> float:
    radii = [np.partition(_squares(x, centres), k, 1)[:, k] for x in _blocks(centres)]
    radius = np.concatenate(radii)
    inside = [(_squares(x, centres) <= radius).any(1) for x in _blocks(rows)]
    return float(np.concatenate(inside).mean())


def _blocks(rows: np.ndarray) -> Iterator[np.ndarray]:
    return (rows[i : i + BLOCK] for i in range(0, len(rows), BLOCK))


def _squares(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Squared distances [n m]."""
    lengths = np.square(x).sum(1)[:, None] + np.square(y).sum(1)
    return np.clip(lengths - 2 * x @ y.T, 0, None)


# ---- paired and unpaired inception discriminative score ----


class Separation(NamedTuple):
    """Linear separation of real and fake features.

    Attributes:
      coefficients: [d].
      intercept: of the hyperplane.
      u_ids: share of all rows on the wrong side.
      p_ids: share of pairs whose fake scores as more real than its real.
    """

    coefficients: Float64[np.ndarray, " d"]
    intercept: float
    u_ids: float
    p_ids: float


def discriminate(
    real: Float[np.ndarray, "n d"], fake: Float[np.ndarray, "n d"], c: float = 1.0
) -> Separation:
    """P-IDS and U-IDS from the optimal linear separation.

    Minimises |w|^2 / 2 + c sum max(0, 1 - t (w.x))^2 with a constant feature for the
    intercept, as scikit-learn's LinearSVC(dual=False), but by Newton's method to the
    optimum. Both scores are 0 with fewer rows than about d: use many times more.

    Args:
      real, fake: fake i completes real i.
      c: weight of the errors.
    """
    x = np.concatenate([real, fake]).astype(np.float64)
    x = np.concatenate([x, np.ones((len(x), 1))], 1)
    target = np.repeat([1.0, -1.0], len(real))

    def cost(w: Integer[np.ndarray, " d"] | np.ndarray) -> float:
        gap = np.clip(1 - target * (x @ w), 0, None)
        return float(w @ w / 2 + c * gap @ gap)

    w, value = np.zeros(x.shape[1]), c * len(x)
    for _ in range(NEWTON_STEPS):
        active = target * (x @ w) < 1
        rows, wanted = x[active], target[active]
        gradient = w + 2 * c * rows.T @ (rows @ w - wanted)
        if np.abs(gradient).max() <= 1e-9 * max(len(x), 1):
            break
        hessian = np.eye(len(w)) + 2 * c * rows.T @ rows
        step = np.linalg.solve(hessian, gradient)
        length = 1.0
        while cost(w - length * step) > value and length > 1e-10:
            length /= 2
        w = w - length * step
        value = cost(w)
    score = x @ w
    real_score, fake_score = score[: len(real)], score[len(real) :]
    u_ids = ((real_score <= 0).sum() + (fake_score > 0).sum()) / len(score)
    p_ids = (fake_score > real_score).mean()
    return Separation(w[:-1], float(w[-1]), float(u_ids), float(p_ids))
