"""Repeated K-fold with groups kept together, the inner split, and what leaks between the sides."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from stages.fit.bootstrap import group_codes
from stages.fit.protocol import MIN_OTHER, MIN_TRAIN, TRIALS, SplitError, deal_groups

Folds = npt.NDArray[np.intp]
LEAK = "LEAK"  # how a sentence on a leak begins


def grouped_folds(
    score: npt.ArrayLike, group: Sequence[str], folds: int = 5, repeats: int = 5, seed: int = 0
) -> Folds:
    """Deal clips to folds so that no group stands in two of them, anew in every repeat.

    As in protocol.split_groups the deal is taken, of many random ones, whose folds are nearest in
    size and have the most similar scores: the mean of the other folds is then hardly lower where
    the fold itself lies high, which would make even a constant look negatively correlated.

    Parameters
    ----------
    score : (n,) float
    group : (n,) str
    folds, repeats, seed : int

    Returns
    -------
    (repeats, n) int, the fold in which a clip is tested

    Raises
    ------
    SplitError
        Fewer groups than folds, or a fold that would leave too few clips.
    """
    g = np.asarray(score, np.float64)
    code = group_codes(group)
    groups = len(np.unique(code))
    if folds < 2 or repeats < 1:
        raise SplitError(f"at least 2 folds and 1 repeat are needed, not {folds} and {repeats}")
    if groups < folds + 1:
        raise SplitError(
            f"{len(g)} labelled clips of {groups} group(s) (persons); {folds} folds and the split "
            f"within them need at least {folds + 1}",
            "ask for fewer --folds, or label clips of more persons",
        )
    want = np.full(folds, len(g) / folds)
    least = np.ones(folds, np.int64)
    rows = []
    for repeat in range(repeats):
        rng = np.random.default_rng((seed, repeat))
        dealt = deal_groups(g, code, want, least, rng, _trials(groups))
        if dealt is None:
            raise SplitError(
                f"{len(g)} clips in {groups} groups (largest: {int(np.bincount(code).max())} "
                f"clips) cannot be dealt to {folds} folds",
                "ask for fewer --folds",
            )
        rows.append(dealt)
    return np.stack(rows)


def inner_split(
    score: npt.ArrayLike, group: Sequence[str], val: float = 0.15, seed: int = 0
) -> npt.NDArray[np.bool_]:
    """Which of an outer fold's training clips choose the epoch; whole groups, never the test fold.

    Parameters
    ----------
    score, group : (n,)
    val : float
        Share of the clips; a larger one where it would be less than 3 clips.
    seed : int

    Returns
    -------
    (n,) bool, True for validation

    Raises
    ------
    SplitError
        Too few clips or groups.
    """
    g = np.asarray(score, np.float64)
    code = group_codes(group)
    groups, n = len(np.unique(code)), len(g)
    # Whole groups are dealt: of a few large ones a small share would round to nothing.
    chosen = max(val * n, MIN_OTHER + n / max(groups, 1) / 2)
    want, least = np.array([n - chosen, chosen]), np.array([MIN_TRAIN, MIN_OTHER])
    rng = np.random.default_rng(seed)
    dealt = deal_groups(g, code, want, least, rng, _trials(groups)) if groups >= 2 else None
    if dealt is None:
        raise SplitError(
            f"{n} training clips in {groups} groups are too few for at least {MIN_TRAIN} to train "
            f"on and {MIN_OTHER} to choose the epoch",
            "ask for more --folds, so that more is left to train on, or label more clips"
            if groups > 1
            else "label clips of more persons",
        )
    return np.asarray(dealt == 1)


def check_training_sides(folds: Folds, group: Sequence[str]) -> None:
    """Make sure that every fold leaves two groups: one to train on, one to choose the epoch.

    Raises
    ------
    SplitError
        Says which number of folds would do, if any.
    """
    code = group_codes(group)
    groups = len(np.unique(code))
    least = min(
        len(np.unique(code[fold_of != fold])) for fold_of in folds for fold in np.unique(fold_of)
    )
    if least < 2:
        raise SplitError(
            f"{groups} groups (persons) in {int(folds.max()) + 1} folds leave {least} to train on; "
            "a network needs 2, one of which chooses its epoch",
            # Three folds, none of them empty: whichever is tested, two others hold a group each.
            "ask for --folds 3"
            if groups > 3
            else "label clips of at least 4 persons, for --folds 3",
        )


def _trials(groups: int) -> int:
    """Fewer deals of many groups: each is slower, and nearly as good as the best."""
    return int(np.clip(20_000 // groups, 10, TRIALS))


@dataclass(frozen=True)
class Leak:
    """How far persons stand on both sides of folds that were made of other groups.

    ``persons`` of ``all_persons`` do so in some fold, and ``share`` of the tested clips, mean over
    folds and repeats, show a person of whom other clips were trained on.
    """

    persons: int
    all_persons: int
    share: float

    def sentence(
        self, groups: str, known_by: str = "that the embeddings show", parts: str = "folds"
    ) -> str:
        """Say it in words.

        Parameters
        ----------
        groups : str
            What was kept together.
        known_by : str
            Which persons are meant.
        parts : str
            What the groups were dealt to.
        """
        if self.persons == 0:
            return (
                f"No leak was found: none of the {self.all_persons} persons {known_by} stands on "
                f"both sides of {parts} made of {groups}."
            )
        return (
            f"{LEAK}: {parts} made of {groups} put {self.persons} of the {self.all_persons} "
            f"persons {known_by} on both sides; {self.share:.0%} of the tested clips show somebody "
            "whom the model was trained on. The figures may be recognition of persons and their "
            "intervals too narrow; group auto keeps persons apart."
        )


def leak(folds: Folds, persons: Sequence[str], tested: npt.NDArray[np.bool_] | None = None) -> Leak:
    """Count persons on both sides: folds (repeats, n), persons (n,).

    ``tested`` (n,) tells which clips are: all, in one fold or another, if left out.
    """
    code = group_codes(persons)
    count = int(code.max()) + 1
    both = np.zeros(count, bool)
    shares = []
    for fold_of in folds:
        seen = np.zeros((count, int(folds.max()) + 1), np.int64)
        np.add.at(seen, (code, fold_of), 1)
        split = (seen > 0).sum(axis=1) > 1  # (persons,): stands in more than one fold
        both |= split
        here = split[code] if tested is None else split[code][tested]
        shares.append(float(here.mean()) if len(here) else 0.0)
    return Leak(int(both.sum()), count, float(np.mean(shares)))
