"""Intervals of SRC, PC and the mean error by a bootstrap that draws whole groups, all at once.

How the interval is made, and why it is not the percentile one: see `interval`. Those of errors are
in jackknife.py.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from scipy import stats

FloatArray = npt.NDArray[np.float64]
Drawn = Literal["src", "pc", "bias"]
Statistic = Literal["src", "pc", "mae", "rmse"]
STATISTICS: tuple[Statistic, ...] = ("src", "pc", "mae", "rmse")
CELLS = 2_000_000  # numbers in one array of draws x clips: 16 MB


def group_codes(group: Sequence[object]) -> npt.NDArray[np.intp]:
    """Return groups numbered from 0: n names -> (n,)."""
    _, code = np.unique(np.asarray([str(g) for g in group], dtype=str), return_inverse=True)
    return code.astype(np.intp)


def draw_weights(
    code: npt.NDArray[np.intp], samples: int, seed: int
) -> Iterator[npt.NDArray[np.float64]]:
    """How often each clip is in each draw of as many groups as there are, with replacement.

    Yields blocks (b, n), ``samples`` rows in all; the same for the same groups and seed, so that
    two models that are measured on the same clips are compared draw by draw.
    """
    groups = int(code.max()) + 1
    rng = np.random.default_rng(seed)
    block = max(CELLS // len(code), 1)
    for first in range(0, samples, block):
        rows = min(block, samples - first)
        drawn = rng.multinomial(groups, np.full(groups, 1 / groups), size=rows)  # (b, G)
        yield drawn[:, code].astype(np.float64)


def _ranks(values: FloatArray, weights: FloatArray) -> FloatArray:
    """Mid-ranks in each draw, less their mean: (n,), (b, n) -> (b, n).

    A value's rank follows from how often the values up to it were drawn; its ties, and the copies
    that drawing with replacement makes, share their mean rank.
    """
    order = np.argsort(values, kind="stable")
    ordered = values[order]
    first = np.flatnonzero(np.r_[True, ordered[1:] != ordered[:-1]])
    mass = np.add.reduceat(weights[:, order], first, axis=1)  # (b, u)
    rank = mass.cumsum(axis=1) - (mass - 1) / 2
    place = np.empty(len(values), np.intp)
    place[order] = np.repeat(np.arange(len(first)), np.diff(np.r_[first, len(values)]))
    middle = (weights.sum(axis=1, keepdims=True) + 1) / 2
    centred: FloatArray = rank[:, place] - middle
    return centred


def _ratio(xy: FloatArray, xx: FloatArray, yy: FloatArray, flat: Any) -> FloatArray:
    """Drawn from (co)variances (b,); NaN where one side is constant in a draw."""
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(flat, np.nan, np.clip(xy / np.sqrt(xx * yy), -1, 1))


def _rank_correlation(x: FloatArray, y: FloatArray, weights: FloatArray) -> FloatArray:
    """Drawn of centred ranks (b, n), (b, n) -> (b,)."""
    wx = weights * x
    xx, yy = np.einsum("bn,bn->b", wx, x), np.einsum("bn,bn,bn->b", weights, y, y)
    return _ratio(np.einsum("bn,bn->b", wx, y), xx, yy, (xx == 0) | (yy == 0))


def _pc(p: FloatArray, g: FloatArray, weights: FloatArray) -> FloatArray:
    total = weights.sum(axis=1)
    # On a common scale first, so that "constant" means the same for likes and for shares.
    x, y = ((v - v.mean()) / (v.std() or 1.0) for v in (p, g))
    mx, my = weights @ x / total, weights @ y / total
    xx, yy = weights @ x**2 / total - mx**2, weights @ y**2 / total - my**2
    xy = weights @ (x * y) / total - mx * my
    return _ratio(xy, xx, yy, (xx < 1e-12) | (yy < 1e-12))


def _bias(p: FloatArray, g: FloatArray, weights: FloatArray) -> FloatArray:
    values: FloatArray = weights @ (p - g) / weights.sum(axis=1)
    return values


def draws(
    statistic: Drawn,
    prediction: FloatArray,
    score: FloatArray,
    code: npt.NDArray[np.intp],
    *,
    samples: int = 2000,
    seed: int = 0,
    within: npt.NDArray[np.bool_] | None = None,
) -> FloatArray:
    """Values of one statistic in ``samples`` draws of whole groups.

    Parameters
    ----------
    statistic : "src", "pc" or "bias"
        ``bias`` is the mean error, prediction less score.
    prediction, score : (n,) or (R, n) float, finite
        With R rows (repeats of a cross-validation) a draw's value is the mean over them.
    code : (n,) int
        Groups numbered from 0.
    within : (n,) bool, optional
        Take the statistic over these clips alone; all groups are drawn, so that draws of two parts
        of the clips belong together.

    Returns
    -------
    (samples,) float64, NaN in draws in which the statistic is not defined
    """
    p, g = np.atleast_2d(prediction), np.atleast_2d(score)
    chosen = np.ones(len(code), bool) if within is None else within
    p, g = p[:, chosen], g[:, chosen]
    blocks = []
    for drawn in draw_weights(code, samples, seed):
        weights = drawn[:, chosen]
        values: list[FloatArray] = []
        ranked: tuple[FloatArray, FloatArray] | None = None
        for x, y in zip(p, g, strict=True):
            if statistic == "src":
                if ranked is None or not np.array_equal(ranked[0], y):  # repeats share labels
                    ranked = y, _ranks(y, weights)
                values.append(_rank_correlation(_ranks(x, weights), ranked[1], weights))
            else:
                of = _bias if statistic == "bias" else _pc
                with np.errstate(invalid="ignore"):  # NaN where a draw has none of ``within``
                    values.append(of(x, y, weights))
        blocks.append(np.mean(values, axis=0))
    return np.concatenate(blocks)


def interval(
    statistic: Drawn | Literal["difference"],
    estimate: float,
    values: FloatArray,
    groups: int,
    confidence: float = 0.95,
) -> tuple[float, float]:
    """Interval around an estimate from its bootstrap draws: few groups get Student's t.

    The percentile interval is too short when clips of one person are alike: over 1,000 simulations
    each it held the true SRC in 92 to 93 % of the cases with 5 persons of 8 clips, 92 to 94 % with
    8 of 6, 91 % with 30 of 4. Here the draws give the standard error alone, and the interval is
    the estimate plus and minus Student's t with ``groups`` - 1 degrees of freedom times that, on a
    scale on which the statistic is nearly normal: Fisher's z for correlations (standard error over
    1 - r^2, by the delta method; draws of r = 1 are no trouble, as they would be to the z of each
    draw), none for a difference. That held the truth in 97 %, 95 to 96 %
    and 92 to 94 % of them, in 95 % with 12 persons of 5, and in 95 to 97 % with 20 to 100 clips
    alone; with 12 clips alone it is too wide (98 %). The draws' deviation is too small by
    sqrt((G - 1) / G); corrected for that, PC went from 92 to 96 % to 93 to 97 %, SRC with 5 groups
    to 98 %, for which it was left out. benchmarks/coverage.py measures it.

    Parameters
    ----------
    statistic : "src", "pc", "bias" or "difference"
        Decides the scale.
    estimate : float
    values : (samples,) float
        Of the draws; those that are not finite are left out.
    groups : int
        That were drawn from.
    confidence : float

    Returns
    -------
    low, high
        NaN, NaN where the estimate is not defined, with fewer than two groups, or if more than half
        of the draws are not defined.
    """
    finite = values[np.isfinite(values)]
    if math.isnan(estimate) or groups < 2 or len(finite) <= len(values) / 2:
        return math.nan, math.nan
    width = float(stats.t.ppf(0.5 + confidence / 2, groups - 1)) * float(finite.std())
    if statistic in ("difference", "bias"):
        return estimate - width, estimate + width
    if abs(estimate) >= 1 - 1e-12:  # no curvature to go by: what the draws reached
        return float(min(finite.min(), estimate)), float(max(finite.max(), estimate))
    if statistic == "pc":
        width *= math.sqrt(groups / (groups - 1))
    z, half = math.atanh(estimate), width / (1 - estimate**2)
    return math.tanh(z - half), math.tanh(z + half)
