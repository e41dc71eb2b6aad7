"""Which clips are kept together in the folds, and what there is to say about it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt
from sklearn.model_selection import GroupKFold

from stages.fit.folds import Folds, grouped_folds, leak
from stages.fit.labels import Labels
from stages.fit.persons import PersonsError, cluster_persons, compare_persons, mean_embeddings
from stages.fit.spans import ClipSpan, FeatureStore, MissingFeaturesError
from store.foreign_csv import read_table
from store.tables import unguard

GroupBy = Literal["person", "clip", "auto"]
GROUPS: tuple[GroupBy, ...] = get_args(GroupBy)
PersonsBy = Literal["auto", "person", "folder", "clip"]


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


def persons_without_labels(
    by: PersonsBy, source: FeatureStore, spans: Sequence[ClipSpan], table: Path | None
) -> tuple[list[str], str]:
    """Whose clips are kept together where there are no scores, and the sentence that says so.

    Parameters
    ----------
    by : "auto", "person", "folder" or "clip"
        ``person``: the column of ``table``. ``folder``: the first folder of a clip's id. ``auto``:
        the column where it is filled in; else persons found by clustering the embeddings; else, in
        a store without embeddings, the clip.
    source : FeatureStore
    spans : sequence of n ClipSpan
    table : Path, optional
        A CSV file with the columns clip and person, if there is one.

    Returns
    -------
    group, sentence
        n names.

    Raises
    ------
    PersonsError
        ``person`` without such a file or column, ``folder`` with a clip in none.
    """
    clips = [span.clip for span in spans]
    if by == "clip":
        return [f"clip {clip}" for clip in clips], "Each clip is taken for a person of its own."
    if by == "folder":
        bare = [clip for clip in clips if "/" not in clip]
        if bare:
            raise PersonsError(f"clip {bare[0]!r} lies in no folder", "choose another group")
        group = [f"folder {clip.split('/')[0]}" for clip in clips]
        return group, f"Groups are the {len(set(group))} folders of the clips."
    named = {} if table is None or not table.is_file() else _named_persons(table)
    if by == "person" or any(clip in named for clip in clips):
        found = [named.get(clip, "") for clip in clips]
        if not any(found):
            raise PersonsError(
                f"{table}: expected a CSV file with the columns clip and person, got none that "
                "names a clip of the store",
                "name one with --labels, or set group=auto",
            )
        group = [f"person {n}" if n else f"clip {c}" for n, c in zip(found, clips, strict=True)]
        return group, f"Groups are the {len(set(found) - {''})} persons that {table} names."
    try:
        group = cluster_persons(mean_embeddings(source, spans))
    except MissingFeaturesError:
        group = [f"clip {clip}" for clip in clips]
        return group, "The store holds no embeddings to find persons by: each clip is a group."
    return group, f"Groups are the {len(set(group))} persons that the embeddings show."


def _named_persons(table: Path) -> dict[str, str]:
    """Person by clip id, of a CSV file that has both columns; {} without them."""
    frame = read_table(table)
    if not {"clip", "person"} <= set(frame.columns):
        return {}
    return {
        unguard(c): unguard(p) for c, p in zip(frame["clip"], frame["person"], strict=True) if p
    }


def deal_persons(group: Sequence[str], folds: int) -> list[npt.NDArray[np.intp]]:
    """Places of the clips of each fold, no group in two: as many folds as asked, or as groups.

    Raises
    ------
    PersonsError
        One group alone.
    """
    groups = len(set(group))
    if groups < 2:
        raise PersonsError(
            f"{len(group)} clips of {groups} person(s): nobody is left to hold out",
            "add clips of other persons, or set group=clip",
        )
    parts = GroupKFold(min(folds, groups)).split(np.zeros(len(group)), groups=group)
    return [test for _, test in parts]
