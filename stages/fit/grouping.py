"""Which clips are kept together in the folds, and what there is to say about it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from stages.fit.folds import Folds, grouped_folds, leak
from stages.fit.labels import Labels
from stages.fit.persons import PersonsError, cluster_persons, compare_persons, mean_embeddings
from stages.fit.spans import ClipSpan, FeatureStore, MissingFeaturesError

GroupBy = Literal["person", "clip", "auto"]
GROUPS: tuple[GroupBy, ...] = get_args(GroupBy)


@dataclass(frozen=True)
class Grouping:
    """Who is kept together, and what there is to say about it.

    ``group`` (n,) names; ``folds`` (repeats, n); ``sentences`` tell what was found and what leaks.
    """

    group: list[str]
    folds: Folds
    sentences: list[str]


def find_groups(
    by: GroupBy,
    source: FeatureStore,
    spans: Sequence[ClipSpan],
    labels: Labels,
    deal: tuple[int, int, int],
) -> Grouping:
    """Group clips and deal the groups to folds.

    Persons are looked for in the embeddings whatever is kept together, so that a leak is told.

    Parameters
    ----------
    by : "person", "clip" or "auto"
    source : FeatureStore
    spans : sequence of n ClipSpan
        In the order of the labels.
    labels : Labels
    deal : folds, repeats, seed

    Raises
    ------
    PersonsError
        ``person`` without such a column.
    PersonsError, MissingFeaturesError
        ``auto`` where persons cannot be found.
    SplitError
        Too few groups.
    """
    named = labels.frame["person"].tolist()
    if by == "person" and not any(named):
        raise PersonsError(
            f"{labels.path}: no column person, or nothing in it",
            "give --group auto, or fill in the column",
        )
    sentences: list[str] = []
    found: list[str] | None = None
    try:
        found = cluster_persons(mean_embeddings(source, spans))
    except (PersonsError, MissingFeaturesError):
        if by == "auto":
            raise
        sentences.append("Persons were not looked for in the embeddings: a leak would not show.")
    group = {
        "auto": found or [],
        "person": labels.groups,
        "clip": [f"clip {span.clip}" for span in spans],
    }[by]
    folds, repeats, seed = deal
    dealt = grouped_folds(labels.frame["score"].to_numpy(), group, folds, repeats, seed)
    if found is not None:
        if any(named):
            sentences.append(compare_persons(found, named).sentence())
        if by == "auto":
            count = len(set(found))
            sentences.append(f"Groups are the {count} persons that the embeddings show.")
        else:
            what = {"person": "named persons", "clip": "single clips"}[by]
            sentences.append(leak(dealt, found).sentence(what))
    nameless = sum(not name for name in named)
    if by == "person" and nameless:
        sentences.append(f"{nameless} clips name no person; each is a group by itself.")
    return Grouping(group, dealt, sentences)
