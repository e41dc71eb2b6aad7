"""What a table supports and what it does not, in words."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from stages.fit.compare import ALL, Comparison, Difference, Row
from stages.fit.contestants import SHUFFLED
from stages.fit.fold_runs import Diverged
from stages.fit.study import Design

FEW_GROUPS = 10


def span(low: float, high: float) -> str:
    """Return an interval as text."""
    return f"{low:.3f} to {high:.3f}"


def p_value(p: float) -> str:
    """Return a p value as text."""
    return "p < .001" if p < 0.001 else f"p = {p:.3f}".replace("0.", ".", 1)


def divergence_sentences(diverged: Mapping[str, Sequence[Diverged]], design: Design) -> list[str]:
    """Say which folds have the training mean in place of a prediction, and why."""
    folds = design.repeats * design.folds
    return [
        f"DIVERGED: training of {name} came to no finite result in {len(lost)} of {folds} folds, "
        "whose clips are predicted by the mean of their training labels; its figures are those of "
        f"a model that fails so often. Repeat {lost[0].repeat}, fold {lost[0].fold}: "
        f"{lost[0].message}."
        for name, lost in diverged.items()
    ]


def subset_sentences(comparison: Comparison, subset: str, raw: bool = False) -> list[str]:
    """Say which contestants rank better than chance on one subset."""
    rows = comparison.of(subset, raw)
    above = [row for row in rows if row.src.low > 0]
    below = [row for row in rows if row.src.high < 0]
    unclear = [row for row in rows if row.src.low <= 0 <= row.src.high]
    undefined = [row for row in rows if math.isnan(row.src.low)]
    sentences = []
    if above:
        sentences.append(f"Better than chance: {_listed(above)}.")
    else:
        sentences.append("The data supports for none of them that it ranks better than chance.")
    if unclear:
        sentences.append(f"Not shown to rank at all, as the interval holds 0: {_listed(unclear)}.")
    if below:
        sentences.append(
            f"Below chance: {_listed(below)}; predictions that hardly leave the training mean do "
            "that, since it is low where the tested fold lies high."
        )
    if undefined:
        sentences.append(f"Without a rank correlation: {_listed(undefined)}.")
    groups = rows[0].groups
    if groups < FEW_GROUPS:
        sentences.append(
            f"Only {groups} group(s) of clips are behind these intervals: they are rough."
        )
    if subset != ALL:
        sentences.append("Contestants are not compared within a subset; see All.")
    return sentences


def _listed(rows: Sequence[Row]) -> str:
    return ", ".join(row.name for row in rows)


def difference_sentences(comparison: Comparison, asked: Sequence[str]) -> list[str]:
    """Say of each model asked for what it is shown to beat, on all clips, and what not."""
    others = [row.name for row in comparison.of(ALL)]
    sentences = []
    for name in asked:
        mine = {o: d for o in others if o != name and (d := comparison.difference(name, o))}
        better = [_against(o, d) for o, d in mine.items() if d.holds and d.value > 0]
        worse = [_against(o, d) for o, d in mine.items() if d.holds and d.value < 0]
        equal = [_against(o, d) for o, d in mine.items() if not d.holds]
        said = []
        if better:
            said.append(f"ranks better than {'; '.join(better)}")
        if worse:
            said.append(f"ranks worse than {'; '.join(worse)}")
        if said:
            sentences.append(f"The data supports that {name} {', and '.join(said)}.")
        if equal:
            sentences.append(
                f"The data supports no difference between {name} and {'; '.join(equal)}: "
                "that is not evidence that they are equal."
            )
        order = mine.get(name + SHUFFLED)
        if order is not None:
            sentences.append(_order(name, order))
    alone = [d for d in comparison.differences if not d.holds and (d.low > 0 or d.high < 0)]
    if alone:
        sentences.append(
            f"{len(alone)} of the {len(comparison.differences)} differences have an interval that "
            "leaves out 0 and are not supported all the same: an interval is for its difference "
            "alone, p is corrected for all of them (Holm)."
        )
    return sentences


def _against(other: str, difference: Difference) -> str:
    return (
        f"{other} ({difference.value:+.3f}, {span(difference.low, difference.high)}, "
        f"{p_value(difference.p_holm)})"
    )


def _order(name: str, difference: Difference) -> str:
    if difference.holds and difference.value > 0:
        return f"The order of the frames matters to {name}: it ranks worse with them shuffled."
    return f"The data does not show that {name} makes use of the order of the frames."
