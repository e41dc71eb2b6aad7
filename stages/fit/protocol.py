"""Who is trained on, who chooses the epoch, who is tested: a split that keeps groups together."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
import numpy.typing as npt

from store.errors import FacepipeError

Part = Literal["train", "val", "test"]
PARTS: tuple[Part, ...] = ("train", "val", "test")
MIN_TRAIN, MIN_OTHER = 8, 3
TRIALS = 200


class SplitError(FacepipeError, ValueError):
    """Too few labelled clips, or too few groups, to train, choose and test."""


def split_groups(
    score: npt.ArrayLike,
    group: Sequence[str],
    *,
    val: float = 0.15,
    test: float = 0.2,
    seed: int = 0,
) -> list[Part]:
    """Divide clips into train, val and test so that no group stands in two of them.

    Groups are dealt in random order, each to the part that lacks the largest share of its clips.
    Of 200 such deals the one is taken that comes nearest to the sizes asked for and whose parts'
    scores have the most similar mean and spread.

    Parameters
    ----------
    score : (n,) float
    group : (n,) str
        Person, or the clip itself where persons are not known.
    val, test : float
        Shares of the clips, each above 0, together below 1.
    seed : int

    Returns
    -------
    list of n part names

    Raises
    ------
    SplitError
        With the numbers, and what to do.
    """
    g = np.asarray(score, np.float64)
    n = len(g)
    if not (0 < val < 1 and 0 < test < 1 and val + test < 1):
        raise SplitError(
            f"split.val ({val:g}) and split.test ({test:g}) must be above 0, their sum below 1",
            "for example split.val=0.15 split.test=0.2",
        )
    _, code = np.unique(np.asarray(group, dtype=str), return_inverse=True)
    sizes = np.bincount(code) if n else np.zeros(0, np.int64)
    if len(sizes) < 3:
        raise SplitError(
            f"{n} labelled clips of {len(sizes)} group(s) (persons); a split needs at least 3 "
            "groups, since none may stand in two parts",
            "label clips of more persons, or set group=clip if it does not matter who is on a clip",
        )
    want = np.array([1 - val - test, val, test]) * n
    least = np.array([MIN_TRAIN, MIN_OTHER, MIN_OTHER])
    best = deal_groups(g, code, want, least, np.random.default_rng(seed))
    if best is None:
        raise SplitError(
            f"{n} labelled clips in {len(sizes)} groups (largest: {int(sizes.max())} clips) are "
            f"too few for at least {MIN_TRAIN} to train, {MIN_OTHER} to validate and {MIN_OTHER} "
            f"to test with val={val:g}, test={test:g}",
            "label more clips, or raise split.val and split.test if those parts are too small"
            if n >= least.sum()
            else f"label at least {least.sum()} clips that show a face; hundreds say more",
        )
    return [PARTS[k] for k in best]


def deal_groups(
    score: npt.NDArray[np.float64],
    code: npt.NDArray[np.intp],
    want: npt.NDArray[np.float64],
    least: npt.NDArray[np.int64],
    rng: np.random.Generator,
    trials: int = TRIALS,
) -> npt.NDArray[np.intp] | None:
    """Best of some random deals of whole groups to P parts: sizes as asked, scores alike.

    Parameters
    ----------
    score : (n,) float
    code : (n,) int
        Groups numbered from 0.
    want, least : (P,)
        Clips asked for, and at least, in each part.
    rng : Generator
    trials : int

    Returns
    -------
    (n,) int, the part of each clip; None if no deal gave every part its least
    """
    n, spread = len(score), float(score.std()) or 1.0
    sizes = np.bincount(code)
    best: tuple[float, npt.NDArray[np.intp]] | None = None
    for _ in range(trials):
        part_of = _deal(sizes, want, rng)
        parts = part_of[code]  # (n,)
        counts = np.bincount(parts, minlength=len(want))
        if (counts < least).any():
            continue
        cost = float((np.abs(counts - want) / n).sum())
        for k in range(len(want)):
            here = score[parts == k]
            cost += 0.25 * abs(here.mean() - score.mean()) / spread
            cost += 0.25 * abs(here.std() - score.std()) / spread
        if best is None or cost < best[0]:
            best = cost, parts
    return None if best is None else best[1]


def _deal(
    sizes: npt.NDArray[np.int64], want: npt.NDArray[np.float64], rng: np.random.Generator
) -> npt.NDArray[np.intp]:
    """Give every group a part: always the one that lacks the largest share of what it wants."""
    part = np.empty(len(sizes), np.intp)
    have = np.zeros(len(want))
    # Large groups first, or the last of them could only overfill a small part.
    for group in sorted(rng.permutation(len(sizes)), key=lambda k: -int(sizes[k] > want[1:].min())):
        part[group] = np.argmax((want - have - sizes[group] / 2) / want)
        have[part[group]] += sizes[group]
    return part
