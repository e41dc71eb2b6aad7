"""Agreement of two raters of the same frames: ICC(3,1) and mean squared error, with intervals."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from stages.fit.bootstrap import draw_weights, group_codes, interval
from stages.fit.jackknife import error_interval

FloatArray = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Agreement:
    """ICC(3,1) and MSE over n frames of so many persons, with 95 % intervals; NaN if undefined."""

    n: int
    groups: int
    icc: float
    icc_low: float
    icc_high: float
    mse: float
    mse_low: float
    mse_high: float

    def to_dict(self) -> dict[str, float | int | None]:
        """Values by name, None for NaN."""
        return {
            k: None if isinstance(v, float) and math.isnan(v) else v for k, v in vars(self).items()
        }


def icc31(prediction: npt.ArrayLike, label: npt.ArrayLike) -> float:
    """ICC(3,1): two-way mixed effects, consistency, single rater (Shrout and Fleiss, 1979).

    (MSR - MSE) / (MSR + (k - 1) MSE) with k = 2 raters. The mean square of rows is half the
    variance of the sums x + y, that of errors half the variance of the differences x - y, so that
    it is 2 cov(x, y) / (var x + var y): -1 to 1.

    Parameters
    ----------
    prediction, label : (n,) float, finite

    Returns
    -------
    float
        NaN for fewer than two frames, or where neither varies.
    """
    x, y = np.asarray(prediction, np.float64), np.asarray(label, np.float64)
    if len(x) < 2:
        return math.nan
    a, b = x - x.mean(), y - y.mean()
    total = float(a @ a + b @ b)
    return float(2 * (a @ b) / total) if total > 0 else math.nan


def mse(prediction: npt.ArrayLike, label: npt.ArrayLike) -> float:
    """Mean squared error, in squared label units; NaN without a frame."""
    error = np.asarray(prediction, np.float64) - np.asarray(label, np.float64)
    return float(np.mean(error**2)) if len(error) else math.nan


def agree(
    prediction: FloatArray,
    label: FloatArray,
    group: Sequence[object],
    *,
    samples: int = 2000,
    seed: int = 0,
) -> Agreement:
    """Compare predictions of frames with their labels; whole persons are drawn for ICC's interval.

    Parameters
    ----------
    prediction, label : (n,) float
        Frames of which one is not finite are left out.
    group : (n,)
        Person of each frame.
    samples, seed : int
        Of the bootstrap.
    """
    known = np.isfinite(prediction) & np.isfinite(label)
    x, y = prediction[known], label[known]
    if not len(x):
        return Agreement(0, 0, *[math.nan] * 6)
    code = group_codes([g for g, k in zip(group, known, strict=True) if k])
    groups = int(code.max()) + 1
    icc, error = icc31(x, y), mse(x, y)
    # The interval of the mean square is that of its root, squared: both are made on a log scale.
    error_low, error_high = (end**2 for end in error_interval("rmse", x, y, code))
    # Sums a person are all that a draw needs; on a common origin, so that nothing cancels.
    x, y = x - y.mean(), y - y.mean()
    terms = (np.ones_like(x), x, y, x * x, y * y, x * y)
    sums = np.stack([np.bincount(code, term, groups) for term in terms])  # (6, G)
    drawn = [weights @ sums.T for weights in draw_weights(np.arange(groups), samples, seed)]
    n, sx, sy, sxx, syy, sxy = np.concatenate(drawn).T  # (samples,) each
    with np.errstate(invalid="ignore", divide="ignore"):
        iccs = 2 * (sxy - sx * sy / n) / (sxx - sx**2 / n + syy - sy**2 / n)
    low, high = interval("pc", icc, iccs, groups)
    return Agreement(len(x), groups, icc, low, high, error, error_low, error_high)
