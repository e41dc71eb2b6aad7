"""From out-of-fold predictions to tables: estimates with intervals, and differences with tests."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
import numpy.typing as npt
from scipy import stats

from stages.fit.bootstrap import STATISTICS, Statistic, draws, group_codes, interval
from stages.fit.metrics import pearson, spearman

FloatArray = npt.NDArray[np.float64]
ALL = "All"


@dataclass(frozen=True)
class Estimate:
    """A statistic, mean over the repeats, and its 95 % interval; NaN where not defined."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Row:
    """One contestant on one subset: n clips in ``groups`` groups."""

    name: str
    subset: str
    n: int
    groups: int
    estimates: Mapping[Statistic, Estimate]

    @property
    def src(self) -> Estimate:
        """Spearman's rank correlation."""
        return self.estimates["src"]


@dataclass(frozen=True)
class Difference:
    """SRC of ``first`` minus SRC of ``second`` on all clips, on the same draws of groups.

    ``p`` is two-sided; ``p_holm`` is corrected for all the differences it was tested with.
    """

    first: str
    second: str
    value: float
    low: float
    high: float
    p: float
    p_holm: float

    @property
    def holds(self) -> bool:
        """Whether the data supports it at 5 %, corrected."""
        return self.p_holm < 0.05


@dataclass(frozen=True)
class Comparison:
    """All that the tables show.

    ``rows`` by subset and contestant, All first; ``differences`` on All; ``raw`` rows measured
    against the scores as they were, where the target was normalised.
    """

    rows: list[Row]
    differences: list[Difference]
    raw: list[Row]

    def of(self, subset: str, raw: bool = False) -> list[Row]:
        """Rows of one subset."""
        return [row for row in (self.raw if raw else self.rows) if row.subset == subset]

    def subsets(self) -> list[str]:
        """Names of the subsets, All first."""
        return list(dict.fromkeys(row.subset for row in self.rows))

    def difference(self, first: str, second: str) -> Difference | None:
        """Return the difference of two contestants, whichever way round it was tested."""
        for found in self.differences:
            if (found.first, found.second) == (first, second):
                return found
            if (found.first, found.second) == (second, first):
                low, high = -found.high, -found.low
                return Difference(first, second, -found.value, low, high, found.p, found.p_holm)
        return None


def compare(
    predictions: Mapping[str, FloatArray],
    target: FloatArray,
    score: FloatArray,
    subset: Sequence[str],
    group: Sequence[str],
    *,
    normalised: bool = False,
    without_order: Collection[str] = (),
    asked: Collection[str] | None = None,
    samples: int = 2000,
    seed: int = 0,
) -> Comparison:
    """Measure contestants on pooled out-of-fold predictions.

    A statistic is taken over all clips of one repeat and averaged over the repeats; predictions are
    not averaged, since the mean of several models is another, better one.

    Parameters
    ----------
    predictions : dict of (R, n) float
        By contestant.
    target : (R, n) float
        What was to be predicted; differs between repeats if it was normalised fold by fold.
    score : (n,) float
        As in the labels.
    subset, group : (n,) str
        Subsets may be empty; whole groups are drawn in the bootstrap.
    normalised : bool
        Also measure SRC and PC against ``score``.
    without_order : collection of str
        Contestants that give all clips of a fold one value. They have no SRC and no PC: pooled over
        folds those would only say that the mean of the others is low where a fold lies high.
    asked : collection of str, optional
        Differences are tested between these and everyone else, so that p is not corrected for
        questions that nobody asked; left out, between all.
    samples, seed : int
        Of the bootstrap; the draws are the same for all contestants.
    """
    code_of = group_codes(group)
    names = np.asarray(subset, dtype=str)
    parts = {ALL: np.ones(len(names), bool)}
    # A channel may be called like the row of all clips, and must not take its place.
    parts |= {f"{s} (subset)" if s == ALL else str(s): names == s for s in np.unique(names) if s}
    if len(parts) == 2:  # one subset that is everything, or some clips have none
        parts = {k: v for k, v in parts.items() if k == ALL or not v.all()}
    rows: list[Row] = []
    raw: list[Row] = []
    drawn: dict[str, FloatArray] = {}
    repeats = np.broadcast_to(score, target.shape)
    for part, here in parts.items():
        code = group_codes([str(k) for k in code_of[here]])
        for name, prediction in predictions.items():
            wanted: list[Statistic] = ["mae", "rmse"] if name in without_order else [*STATISTICS]
            row, values = _measure(
                name, part, prediction[:, here], target[:, here], code, wanted, samples, seed
            )
            rows.append(row)
            if part == ALL and name not in without_order and not math.isnan(row.src.value):
                drawn[name] = values
            if normalised:
                wanted = [s for s in wanted if s in ("src", "pc")]
                row, _ = _measure(
                    name, part, prediction[:, here], repeats[:, here], code, wanted, samples, seed
                )
                raw.append(row)
    estimates = {row.name: row.src.value for row in rows if row.subset == ALL}
    groups = int(code_of.max()) + 1
    return Comparison(rows, pair_differences(estimates, drawn, groups, asked), raw)


def _measure(
    name: str,
    subset: str,
    prediction: FloatArray,
    target: FloatArray,
    code: npt.NDArray[np.intp],
    wanted: Sequence[Statistic],
    samples: int,
    seed: int,
) -> tuple[Row, FloatArray]:
    """One row, and the draws of its SRC; (R, n), (R, n), (n,) -> row, (samples,)."""
    groups = int(code.max()) + 1
    nothing = Estimate(math.nan, math.nan, math.nan)
    estimates: dict[Statistic, Estimate] = dict.fromkeys(STATISTICS, nothing)
    src_draws = np.full(samples, np.nan)
    for statistic in wanted:
        pairs = zip(prediction, target, strict=True)
        value = float(np.mean([_estimate(statistic, p, g) for p, g in pairs]))
        if math.isnan(value):
            continue
        values = draws(statistic, prediction, target, code, samples=samples, seed=seed)
        estimates[statistic] = Estimate(value, *interval(statistic, value, values, groups))
        if statistic == "src":
            src_draws = values
    return Row(name, subset, prediction.shape[1], groups, estimates), src_draws


def _estimate(statistic: Statistic, p: FloatArray, g: FloatArray) -> float:
    if statistic == "src":
        return spearman(p, g)
    if statistic == "pc":
        return pearson(p, g)
    error = np.abs(p - g)
    return float(error.mean()) if statistic == "mae" else math.sqrt(float((error**2).mean()))


def pair_differences(
    estimates: Mapping[str, float],
    drawn: Mapping[str, FloatArray],
    groups: int,
    asked: Collection[str] | None = None,
) -> list[Difference]:
    """Test pairs of contestants: paired draws, Student's t, Holm's correction over these pairs.

    Parameters
    ----------
    estimates : dict of float
        SRC on all clips.
    drawn : dict of (samples,) float
        SRC in each draw, the same draws for all.
    groups : int
    asked : collection of str, optional
        At least one of a pair is among these; left out, all pairs.
    """
    found = []
    for first, second in combinations(drawn, 2):
        if asked is not None and first not in asked and second not in asked:
            continue
        value = estimates[first] - estimates[second]
        values = drawn[first] - drawn[second]
        low, high = interval("difference", value, values, groups)
        if math.isnan(low):
            continue
        error = float(values[np.isfinite(values)].std())
        t = abs(value) / error if error > 0 else (math.inf if value else 0.0)
        found.append((first, second, value, low, high, float(2 * stats.t.sf(t, groups - 1))))
    corrected = holm([row[-1] for row in found])
    return [Difference(*row, p_holm) for row, p_holm in zip(found, corrected, strict=True)]


def holm(p: Sequence[float]) -> list[float]:
    """Correct p values for their number by Holm's step-down method (1979), in the order given."""
    values = np.asarray(p, np.float64)
    order = np.argsort(values, kind="stable")
    stepped = values[order] * np.arange(len(values), 0, -1)
    corrected = np.empty(len(values))
    corrected[order] = np.minimum(np.maximum.accumulate(stepped), 1)
    return [float(value) for value in corrected]
