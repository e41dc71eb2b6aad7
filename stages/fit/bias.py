"""Whether a model errs or ranks differently for one group of people than for another."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pandas as pd

from stages.fit.bootstrap import Drawn, draws, group_codes, interval
from stages.fit.compare import Difference, Estimate, pair_differences
from stages.fit.contestants import KNOWN_ATTRIBUTES
from stages.fit.jackknife import error_interval
from stages.fit.metrics import spearman
from stages.fit.verdict import p_value

FloatArray = npt.NDArray[np.float64]
COMPARED: tuple[Drawn, ...] = ("bias", "src")
MOST_LEVELS, MOST_SUBSETS = 6, 30
FEWEST_CLIPS, FEWEST_GROUPS = 3, 3
NOT_ATTRIBUTES = ("clip", "score", "person")


@dataclass(frozen=True)
class Level:
    """Clips that share a value of an attribute.

    ``bias`` is the mean error (prediction less score, in label units), ``mae`` the mean absolute
    one, ``src`` Spearman's rank correlation among these clips; each with its 95 % interval, NaN
    where not defined. ``groups``: persons behind them.
    """

    name: str
    n: int
    groups: int
    bias: Estimate
    mae: Estimate
    src: Estimate


@dataclass(frozen=True)
class Attribute:
    """One column of the labels: its levels, and the differences between each two of them.

    ``bias`` and ``src`` hold differences of the mean error and of SRC, first less second. p is
    corrected by Holm's method for the pairs of levels of this attribute and statistic. Levels of
    fewer than three persons or clips are not compared, nor are more than six levels.
    """

    name: str
    levels: list[Level]
    bias: list[Difference]
    src: list[Difference]


def level_columns(table: pd.DataFrame) -> dict[str, list[str]]:
    """Values of every column of a label table by which clips can be told apart, as words.

    Words of a column stay as they are where there are 2 to 6 of them (subsets: to 30); numbers of
    an attribute of a known name (age) are cut at their median. Other columns are left out: a count
    of raters or of views is part of the label, and a name is not an attribute. Empty cells give "".

    Parameters
    ----------
    table : DataFrame
        A row a clip, cells as str.
    """
    found = {}
    for column in table.columns:
        if column in NOT_ATTRIBUTES:
            continue
        words = table[column].fillna("").astype(str)
        distinct = set(words) - {""}
        numbers = pd.to_numeric(words, errors="coerce")
        if len(distinct) > MOST_LEVELS and str(column).lower() in KNOWN_ATTRIBUTES:
            middle = float(numbers.median())
            if not math.isnan(middle):
                words = numbers.map(
                    lambda v, m=middle: (
                        "" if math.isnan(v) else f"up to {m:g}" if v <= m else f"above {m:g}"
                    )
                )
                distinct = set(words) - {""}
        most = MOST_SUBSETS if column == "subset" else MOST_LEVELS
        if 2 <= len(distinct) <= most:
            found[str(column)] = words.tolist()
    return found


def compare_levels(
    name: str,
    level: Sequence[str],
    prediction: FloatArray,
    score: FloatArray,
    group: Sequence[str],
    *,
    samples: int = 2000,
    seed: int = 0,
) -> Attribute:
    """Measure errors and ranks on the clips of each level, and the differences between levels.

    Differences come from one bootstrap that draws whole groups of all clips, so that persons who
    are in two levels count in both. Student's t has the degrees of freedom of the smallest level
    compared, which is on the safe side (Welch's lie between that and the sum).

    Parameters
    ----------
    name : str
        The attribute's.
    level : (n,) str
        Of each clip; clips with "" are left out.
    prediction, score : (n,) float
        In label units, finite.
    group : (n,) str
        Persons.
    samples, seed : int
        Of the bootstrap.
    """
    here = np.asarray(level, dtype=str)
    known = here != ""
    here, p, g = here[known], prediction[known], score[known]
    code = group_codes([str(k) for k, kept in zip(group, known, strict=True) if kept])
    levels: list[Level] = []
    values: dict[Drawn, dict[str, float]] = {"bias": {}, "src": {}}
    drawn: dict[Drawn, dict[str, FloatArray]] = {"bias": {}, "src": {}}
    fewest = len(code)
    for word in sorted(set(here.tolist())):
        within = here == word
        groups = len(set(code[within].tolist()))
        error = p[within] - g[within]
        found: dict[Drawn, float] = {
            "bias": float(error.mean()),
            "src": spearman(p[within], g[within]),
        }
        estimates: dict[Drawn, Estimate] = {}
        for statistic in COMPARED:
            d = draws(statistic, p, g, code, samples=samples, seed=seed, within=within)
            low, high = interval(statistic, found[statistic], d, groups)
            estimates[statistic] = Estimate(found[statistic], low, high)
            compared = groups >= FEWEST_GROUPS and within.sum() >= FEWEST_CLIPS
            if compared and not math.isnan(found[statistic]):
                values[statistic][word], drawn[statistic][word] = found[statistic], d
                fewest = min(fewest, groups)
        own = np.unique(code[within], return_inverse=True)[1]
        span = error_interval("mae", p[within], g[within], own)
        mae = Estimate(float(np.abs(error).mean()), *span)
        at = estimates["bias"], mae, estimates["src"]
        levels.append(Level(word, int(within.sum()), groups, *at))
    few = len(levels) <= MOST_LEVELS
    differences = {s: pair_differences(values[s], drawn[s] if few else {}, fewest) for s in values}
    return Attribute(name, levels, differences["bias"], differences["src"])


def attribute_sentences(attribute: Attribute) -> list[str]:
    """Say which differences between levels the data supports, and that the others are open."""
    sentences = []
    for what, verb, differences in (
        ("mean error", "errs upwards", attribute.bias),
        ("SRC", "ranks better", attribute.src),
    ):
        for d in differences:
            if not d.holds:
                continue
            more, less = (d.first, d.second) if d.value > 0 else (d.second, d.first)
            low, high = sorted((abs(d.low), abs(d.high)))
            sentences.append(
                f"The model {verb} for {more} compared with {less}: the {what} differs by "
                f"{abs(d.value):.3f} ({low:.3f} to {high:.3f}, {p_value(d.p_holm)})."
            )
        if differences and not any(d.holds for d in differences):
            sentences.append(
                f"No difference of {what} between levels is shown; that is not evidence that "
                "there is none."
            )
        if not differences:
            sentences.append(
                f"The {what} of levels is not compared: too few clips or persons, or more "
                "than six levels."
            )
    return sentences
