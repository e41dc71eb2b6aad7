"""Which clips are kept together in the folds, and what there is to say about it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from sklearn.model_selection import GroupKFold

from stages.fit.bootstrap import group_codes
from stages.fit.folds import Folds, grouped_folds, leak
from stages.fit.labels import Labels
from stages.fit.persons import MEASURED_PACK, PersonsError, compare_persons, find_persons
from stages.fit.protocol import Part, split_groups
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


@dataclass(frozen=True)
class Together:
    """Groups of clips, before they are dealt.

    Attributes
    ----------
    by : "person", "clip" or "auto"
    group : list of n str
    found : list of n str, optional
        Persons that the embeddings show; None where they were not looked for.
    named : list of n str
        The column person, empty where it is.
    sentences : list of str
    """

    by: GroupBy
    group: list[str]
    found: list[str] | None
    named: list[str]
    sentences: list[str]

    def leaks(
        self,
        dealt: Folds,
        parts: str = "folds",
        tested: npt.NDArray[np.bool_] | None = None,
    ) -> list[str]:
        """Say who stands on both sides of ``dealt`` (repeats, n), by either notion of a person."""
        made_of = {
            "person": "named persons",
            "clip": "single clips",
            "auto": "clips that the embeddings or the column person give to one person",
        }[self.by]
        told = []
        for persons, known_by in (
            (self.found, "that the embeddings show"),
            (self.named, "that the column person names"),
        ):
            has = np.array([bool(name) for name in persons or ()], bool)
            if not has.any() or persons is None:
                continue
            names = [name for name in persons if name]
            leaked = leak(dealt[:, has], names, None if tested is None else tested[has])
            by_itself = known_by.startswith("that the column") == (self.by == "person")
            if leaked.persons or not (by_itself or self.by == "auto"):
                told.append(leaked.sentence(made_of, known_by, parts))
        return told


def keep_together(
    by: GroupBy,
    source: FeatureStore,
    spans: Sequence[ClipSpan],
    labels: Labels,
    *,
    needed: bool = True,
) -> Together:
    """Group clips so that nobody can stand on two sides.

    Under ``auto`` two clips are of one group if the embeddings or the column person give them to
    one person, or a chain of such clips joins them: a person whose clips fall into two clusters is
    still one, and so are two names that the embeddings take for one face.

    Persons are looked for in the embeddings whatever is kept together, so that a leak is told.

    Parameters
    ----------
    by : "person", "clip" or "auto"
    source : FeatureStore
    spans : sequence of n ClipSpan
        In the order of the labels.
    labels : Labels
    needed : bool
        Whether ``auto`` without embeddings and without names is an error; else each clip is a group
        by itself, and a sentence says so.

    Raises
    ------
    PersonsError
        ``person`` without such a column.
    PersonsError, MissingFeaturesError
        ``auto`` where persons cannot be found and none are named.
    """
    named = labels.frame["person"].tolist()
    if by == "person" and not any(named):
        raise PersonsError(
            f"{labels.path}: no column person, or nothing in it",
            "choose group auto, or fill in the column",
        )
    sentences: list[str] = []
    found: list[str] | None = None
    try:
        found = find_persons(source, spans)
    except (PersonsError, MissingFeaturesError):
        if by == "auto" and needed and not any(named):
            raise
        sentences.append("Persons were not looked for in the embeddings: a leak would not show.")
    pack = source.provenance.get("pack", {}).get("name", "")
    if found is not None and pack != MEASURED_PACK:
        sentences.append(
            f"What counts as one person was measured for the pack {MEASURED_PACK}; these "
            f"embeddings are of {pack or 'no known pack'}: see whether the number of persons is "
            "about right."
        )
    if found is not None and any(named):
        sentences.append(compare_persons(found, named).sentence())
    if by == "clip":
        group = [f"clip {span.clip}" for span in spans]
    elif by == "person" or found is None:
        group = labels.groups
        nameless = sum(not name for name in named)
        if nameless:
            sentences.append(f"{nameless} clips name no person; each is a group by itself.")
    else:
        group = joined(found, labels.groups)
        count = len(set(group))
        by_both = "embeddings and the column person" if any(named) else "embeddings"
        sentences.append(f"Groups are the {count} persons that the {by_both} show.")
    return Together(by, group, found, named, sentences)


def joined(found: Sequence[str], named: Sequence[str]) -> list[str]:
    """Name groups of n clips that share a person by either list, or are joined by a chain of such.

    Returns
    -------
    list of n str
        ``person 0001`` and so on, numbered by first appearance.
    """
    a, b = group_codes(found), group_codes(named)
    first = int(a.max(initial=-1)) + 1
    nodes = first + int(b.max(initial=-1)) + 1
    edges = coo_array((np.ones(len(a)), (a, first + b)), shape=(nodes, nodes))
    _, part = connected_components(edges, directed=False)
    number: dict[int, int] = {}
    return [f"person {number.setdefault(int(k), len(number) + 1):04d}" for k in part[a]]


def find_groups(
    by: GroupBy,
    source: FeatureStore,
    spans: Sequence[ClipSpan],
    labels: Labels,
    deal: tuple[int, int, int],
) -> Grouping:
    """Group clips, see keep_together, and deal the groups to folds.

    ``deal`` is folds, repeats, seed.

    Raises
    ------
    PersonsError, MissingFeaturesError
        As keep_together.
    SplitError
        Too few groups.
    """
    kept = keep_together(by, source, spans, labels)
    folds, repeats, seed = deal
    dealt = grouped_folds(labels.frame["score"].to_numpy(), kept.group, folds, repeats, seed)
    return Grouping(kept.group, dealt, [*kept.sentences, *kept.leaks(dealt)])


def find_split(
    by: GroupBy,
    source: FeatureStore,
    spans: Sequence[ClipSpan],
    labels: Labels,
    shares: tuple[float, float],
    seed: int,
) -> tuple[list[str], list[Part], list[str]]:
    """Group clips, see keep_together, and split the groups once: what `pipeline fit` tests on.

    ``shares`` are those of the validation and of the test clips. A store without embeddings is
    split by the names there are.

    Returns
    -------
    group, part, sentences

    Raises
    ------
    PersonsError
        ``person`` without such a column.
    SplitError
        Too few clips or groups.
    """
    kept = keep_together(by, source, spans, labels, needed=False)
    val, test = shares
    parts = split_groups(
        labels.frame["score"].to_numpy(), kept.group, val=val, test=test, seed=seed
    )
    tested = np.array([part == "test" for part in parts])
    sides = tested.astype(np.intp)[None]
    return kept.group, parts, [*kept.sentences, *kept.leaks(sides, "parts", tested)]


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
        group = find_persons(source, spans)
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
