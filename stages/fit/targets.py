"""What is predicted: the score as it is, or relative to its subset, by the training clips alone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt
from scipy import stats

Normalise = Literal["none", "zscore", "rank"]
NORMALISE: tuple[Normalise, ...] = get_args(Normalise)
LEAST = 3  # clips of a subset from which a scale can be had
FloatArray = npt.NDArray[np.float64]


class Target:
    """Scores put on a common scale, subset by subset; fitted on training clips only.

    ``zscore``: less the subset's mean, over its deviation. ``rank``: the normal deviate of the
    share of the subset's training clips that score lower, ties counted half. A subset with fewer
    than 3 training clips, or with equal scores, takes the scale of all training clips.

    Parameters
    ----------
    kind : "none", "zscore" or "rank"
    score, subset : (n,)
        Of the training clips.
    """

    def __init__(self, kind: Normalise, score: npt.ArrayLike, subset: Sequence[str]) -> None:
        self.kind = kind
        values, names = np.asarray(score, np.float64), np.asarray(subset, dtype=str)
        self._all = np.sort(values)
        self._of: dict[str, FloatArray] = {}
        for name in np.unique(names):
            here = np.sort(values[names == name])
            if len(here) >= LEAST and np.ptp(here) > 0:
                self._of[str(name)] = here

    def __call__(self, score: npt.ArrayLike, subset: Sequence[str]) -> FloatArray:
        """Transform (n,) scores of any clips, training or test."""
        values = np.asarray(score, np.float64)
        if self.kind == "none":
            return values.copy()
        out = np.empty(len(values))
        names = np.asarray(subset, dtype=str)
        for name in np.unique(names):
            here = names == name
            out[here] = self._scale(values[here], self._of.get(str(name), self._all))
        return out

    def _scale(self, values: FloatArray, known: FloatArray) -> FloatArray:
        if self.kind == "zscore":
            return np.asarray((values - known.mean()) / (known.std() or 1.0), np.float64)
        below = np.searchsorted(known, values, "left") + np.searchsorted(known, values, "right")
        # Half a clip at either end keeps the deviates of new extremes finite.
        return np.asarray(stats.norm.ppf((below / 2 + 0.5) / (len(known) + 1)), np.float64)
