"""How well predictions agree with labels: SRC with its interval, PC, MAE, RMSE.

Intervals come from a bootstrap over groups (persons) that is widened for few of them; how, and what
simulations showed of it, is told at bootstrap.interval.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import stats

from stages.fit.bootstrap import draws, group_codes, interval

FloatArray = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Metrics:
    """Agreement of n predictions with their labels.

    Attributes
    ----------
    n : int
        Clips with a finite prediction and a finite label.
    src : float
        Spearman's rank correlation; NaN where it is not defined (n < 3, or one side constant).
    src_low, src_high : float
        Bounds of the 95 % bootstrap interval of ``src``, see bootstrap.py; NaN where not defined.
    pc : float
        Pearson's correlation; NaN where not defined.
    mae, rmse : float
        In label units; NaN when n is 0.
    groups : int
        Groups (persons) that the bootstrap drew from.
    """

    n: int
    src: float
    src_low: float
    src_high: float
    pc: float
    mae: float
    rmse: float
    groups: int

    def to_dict(self) -> dict[str, float | int | None]:
        """Values by name; None where a value is not defined, since JSON knows no NaN."""
        return {
            name: None if isinstance(value, float) and math.isnan(value) else value
            for name, value in vars(self).items()
        }


def _defined(a: FloatArray, b: FloatArray) -> bool:
    return len(a) >= 3 and bool(np.ptp(a) > 0) and bool(np.ptp(b) > 0)


def spearman(prediction: FloatArray, score: FloatArray) -> float:
    """Spearman's rank correlation (n,), (n,) -> -1..1; NaN if n < 3 or one side is constant."""
    if not _defined(prediction, score):
        return math.nan
    return float(stats.spearmanr(prediction, score).statistic)


def pearson(prediction: FloatArray, score: FloatArray) -> float:
    """Pearson's correlation (n,), (n,) -> -1..1; NaN if n < 3 or one side is constant."""
    if not _defined(prediction, score):
        return math.nan
    with warnings.catch_warnings():  # scipy warns of nearly constant input; the value stands
        warnings.simplefilter("ignore")
        return float(stats.pearsonr(prediction, score).statistic)


def bootstrap_src(
    prediction: FloatArray,
    score: FloatArray,
    group: Sequence[object],
    *,
    samples: int = 2000,
    confidence: float = 0.95,
    seed: int = 0,
) -> tuple[float, float]:
    """Interval of SRC when whole groups are drawn with replacement, see bootstrap.interval.

    Clips of one person are not independent, so the person is what is drawn; with one clip a group
    this is the ordinary bootstrap. NaN, NaN if SRC is not defined in more than half of the draws or
    if there are fewer than two groups.
    """
    if len(prediction) < 3:
        return math.nan, math.nan
    code = group_codes(group)
    values = draws("src", prediction, score, code, samples=samples, seed=seed)
    src = spearman(prediction, score)
    return interval("src", src, values, int(code.max()) + 1, confidence)


def measure(
    prediction: npt.ArrayLike,
    score: npt.ArrayLike,
    group: Sequence[object] | None = None,
    *,
    samples: int = 2000,
    seed: int = 0,
) -> Metrics:
    """Compare predictions with labels.

    Parameters
    ----------
    prediction, score : (n,) float
        In the same units. Pairs of which one is not finite are left out and not counted.
    group : (n,) optional
        What to keep together in the bootstrap, usually the person; left out, each clip by itself.
    samples, seed : int
        Of the bootstrap.
    """
    p, g = np.asarray(prediction, np.float64), np.asarray(score, np.float64)
    if p.shape != g.shape or p.ndim != 1:
        raise ValueError(f"prediction and score must both be (n,), not {p.shape} and {g.shape}")
    keys = list(group) if group is not None else list(range(len(p)))
    if len(keys) != len(p):
        raise ValueError(f"group must have {len(p)} entries, not {len(keys)}")
    keep = np.isfinite(p) & np.isfinite(g)
    keys = [k for k, kept in zip(keys, keep, strict=True) if kept]
    p, g = p[keep], g[keep]
    src = spearman(p, g)
    low, high = math.nan, math.nan
    if not math.isnan(src):
        low, high = bootstrap_src(p, g, keys, samples=samples, seed=seed)
    error = p - g
    return Metrics(
        n=len(p),
        src=src,
        src_low=low,
        src_high=high,
        pc=pearson(p, g),
        mae=float(np.abs(error).mean()) if len(p) else math.nan,
        rmse=float(np.sqrt((error**2).mean())) if len(p) else math.nan,
        groups=len({str(k) for k in keys}),
    )
