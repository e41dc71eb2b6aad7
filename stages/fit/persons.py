"""Who is in which clip, found from the embeddings: the groups of `--group auto`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.cluster.hierarchy import fcluster, linkage
from sklearn.metrics import adjusted_rand_score

from stages.fit.bootstrap import group_codes
from stages.fit.loader import Budget, ClipLoader
from stages.fit.spans import ClipSpan, FeatureStore, check_arrays
from store.errors import FacepipeError

# Of the lite pack's embeddings two clips of one person have cosine 0.61 +- 0.12, of two people
# 0.01 +- 0.09. 0.35 is 2.2 deviations below the one and 3.8 above the other; the nearer to the
# other since there are many more pairs of that kind, and above 0.27, where both are as far,
# since a thousand clips have 500,000 pairs. Two people taken for one cost a group; one person taken
# for two would be a leak, but average linkage needs only the mean over his clips above it.
THRESHOLD = 0.35
MEASURED_PACK = "lite"
MOST_CLIPS = 20_000  # 1.6 GB of distances


class PersonsError(FacepipeError, ValueError):
    """Persons cannot be found, or are not named."""


def find_persons(source: FeatureStore, clips: Sequence[ClipSpan]) -> list[str]:
    """Name the person of each clip by its mean embedding, see cluster_persons.

    Raises
    ------
    PersonsError
        More than 20,000 clips.
    MissingFeaturesError
        Clips without embeddings.
    """
    _check_count(len(clips))  # before all of them are read
    return cluster_persons(mean_embeddings(source, clips))


def mean_embeddings(source: FeatureStore, clips: Sequence[ClipSpan]) -> npt.NDArray[np.float64]:
    """Mean embedding of each clip's valid frames, of length 1: (n, 512) in the order of ``clips``.

    Raises
    ------
    MissingFeaturesError
        Clips without embeddings.
    """
    check_arrays(source, clips, ("embedding",))
    loader = ClipLoader(source, clips, stream="embedding", landmarks="none", budget=Budget(0))
    found = {c.clip: c.appearance[c.valid].mean(axis=0, dtype="f8") for c in loader.iter_clips()}
    rows = np.stack([found[span.clip] for span in clips])
    length = np.linalg.norm(rows, axis=1, keepdims=True)
    return np.asarray(rows / np.maximum(length, 1e-12))


def cluster_persons(embeddings: npt.NDArray[np.float64], threshold: float = THRESHOLD) -> list[str]:
    """Name the person of each clip by agglomerative clustering, average linkage on cosines.

    Parameters
    ----------
    embeddings : (n, D) float, of length 1
    threshold : float
        Two clusters are one person if the mean cosine between their clips is above it.

    Returns
    -------
    list of n str
        ``person 0001`` and so on, numbered by first appearance.

    Raises
    ------
    PersonsError
        More than 20,000 clips.
    """
    n = len(embeddings)
    _check_count(n)
    if n < 2:
        return ["person 0001"] * n
    tree = linkage(embeddings, method="average", metric="cosine")
    raw = fcluster(tree, 1 - threshold, criterion="distance")
    number: dict[int, int] = {}
    return [f"person {number.setdefault(int(k), len(number) + 1):04d}" for k in raw]


def _check_count(clips: int) -> None:
    if clips > MOST_CLIPS:
        raise PersonsError(
            f"persons are found among at most {MOST_CLIPS} clips, these are {clips}",
            "name them in a column person and give --group person",
        )


@dataclass(frozen=True)
class Agreement:
    """Persons found beside persons named: how many, and where the two differ."""

    found: int
    named: int
    rand: float
    merged: int
    divided: int

    def sentence(self) -> str:
        """Say it in words."""
        text = (
            f"The embeddings show {self.found} persons, the column person names {self.named} "
            f"(adjusted Rand index {self.rand:.2f})"
        )
        if self.merged or self.divided:
            text += (
                f"; {self.merged} of those found bear several names, {self.divided} names fall on "
                "several of those found"
            )
        return text + "."


def compare_persons(found: Sequence[str], named: Sequence[str]) -> Agreement:
    """Compare persons found with those named, on the clips that have a name (others: "")."""
    pairs = [(f, n) for f, n in zip(found, named, strict=True) if n]
    a, b = group_codes([f for f, _ in pairs]), group_codes([n for _, n in pairs])
    both = set(zip(a.tolist(), b.tolist(), strict=True))
    counts = [np.bincount([pair[side] for pair in both]) for side in (0, 1)]
    return Agreement(
        found=len(counts[0]),
        named=len(counts[1]),
        rand=float(adjusted_rand_score(b, a)),
        merged=int((counts[0] > 1).sum()),
        divided=int((counts[1] > 1).sum()),
    )
