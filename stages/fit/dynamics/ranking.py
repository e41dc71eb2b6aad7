"""How well representations rank the frames around theirs: per clip, against bounds, with intervals.

Ranking accuracy is the share of pairs (a, b) on one side of t, a nearer to t than b, with S(d_t,
V_a) > S(d_t, V_b): of a clip over all its targets t, and the mean over clips. Chance is 1/2.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from sklearn.exceptions import ConvergenceWarning
from sklearn.svm import LinearSVC
from torch import Tensor

from stages.fit.bootstrap import draw_weights, group_codes, interval
from stages.fit.dynamics.rank_loss import ranked, sides
from stages.fit.dynamics.windows import around

FloatArray = npt.NDArray[np.float64]


def accuracy(d: Tensor, places: Tensor, frames: Tensor, seen: Tensor, reach: int) -> float:
    """Ranking accuracy of one clip at one scale; NaN without a pair.

    Parameters
    ----------
    d : (B, K) float
        Representations of the targets.
    places : (B,) int
        Which frames those are.
    frames : (n, K) float
        V of every frame.
    seen : (n,) bool
    reach : int
        T.
    """
    rows, there = around(places, len(frames), reach)
    score = (d @ frames.T).gather(1, rows)  # (B, 2T + 1)
    right, pairs = ranked(score, there & seen[rows])
    total = float(pairs.sum())
    return float(right.sum()) / total if total else math.nan


def rank_svm(places: Tensor, frames: Tensor, seen: Tensor, reach: int) -> float:
    """Accuracy of a RankSVM fitted to each target's own window and tested on it: the upper bound.

    As in the slides ("each classifier only rank its training frames"): d_t is the normal of a
    linear support vector machine on the differences V_a - V_b of the pairs to be ranked.
    """
    rows, there = around(places, len(frames), reach)
    vectors, known = sides(_coordinates(frames[rows])), sides(there & seen[rows])
    right = total = 0
    upper = torch.ones(reach, reach).triu(1).bool()
    for window, mask in zip(vectors[:, :, 1:], known[:, :, 1:], strict=True):  # t is in no pair
        delta = (window[:, :, None] - window[:, None, :]).double()  # (2, T, T, K)
        pair = mask[:, :, None] & mask[:, None, :] & upper
        rows_of = delta[pair].numpy()  # (pairs, K)
        if not len(rows_of):
            continue
        sign = np.where(np.arange(len(rows_of)) % 2, -1.0, 1.0)  # a classifier needs two classes
        if len(rows_of) == 1:
            right, total = right + 1, total + 1  # one pair can always be ranked
            continue
        machine = LinearSVC(C=1.0, fit_intercept=False, dual=True, max_iter=2000, random_state=0)
        with warnings.catch_warnings():  # a bound that is a hair too low is one all the same
            warnings.simplefilter("ignore", ConvergenceWarning)
            machine.fit(rows_of * sign[:, None], sign)
        right += int((rows_of @ machine.coef_[0] > 0).sum())
        total += len(rows_of)
    return right / total if total else math.nan


def _coordinates(window: Tensor) -> Tensor:
    """Frames of windows in a basis of what they span: inner products, so the machine, are the same.

    (B, W, K) -> (B, W, min(W, K))
    """
    if window.shape[2] <= window.shape[1]:
        return window
    r: Tensor = torch.linalg.qr(window.double().transpose(1, 2))[1]  # (B, W, W)
    return r.transpose(1, 2)


@dataclass(frozen=True)
class Share:
    """A mean over clips with its 95 % interval, persons drawn whole; NaN where not defined."""

    value: float
    low: float
    high: float

    def to_dict(self) -> dict[str, float | None]:
        """Values by name, None for NaN."""
        return {k: None if math.isnan(v) else v for k, v in vars(self).items()}


def clustered(
    values: FloatArray, group: Sequence[str], samples: int, seed: int, least: float = 0.0
) -> Share:
    """Mean of values (n,), one a clip, and its interval, see bootstrap.interval; NaN left out.

    ``least``: the smallest value that there is; the largest is 1.
    """
    known = np.isfinite(values)
    if not known.any():
        return Share(math.nan, math.nan, math.nan)
    x = values[known]
    code = group_codes([g for g, k in zip(group, known, strict=True) if k])
    drawn = np.concatenate(
        [weights @ x / weights.sum(axis=1) for weights in draw_weights(code, samples, seed)]
    )
    mean = float(x.mean())
    low, high = interval("difference", mean, drawn, int(code.max()) + 1)
    return Share(mean, max(low, least), min(high, 1.0))


@dataclass(frozen=True)
class ScaleResult:
    """What one scale came to on frames that its generator has not learnt from.

    ``mdr``: the generator; ``still``: V_t itself for d_t, which costs no training; ``gain``: the
    difference of the two, clip by clip; ``rank_svm``: the upper bound.
    """

    window: int
    mdr: Share
    still: Share
    gain: Share
    rank_svm: Share

    def to_dict(self) -> dict[str, Any]:
        """As JSON types."""
        shares = ("mdr", "still", "gain", "rank_svm")
        return {
            "window": self.window,
            "chance": 0.5,
            **{name: getattr(self, name).to_dict() for name in shares},
        }


def scale_results(
    windows: Sequence[int],
    table: dict[str, FloatArray],
    group: Sequence[str],
    samples: int,
    seed: int,
) -> list[ScaleResult]:
    """Results of every scale from (n, scales) accuracies by ``mdr``, ``still``, ``rank_svm``."""
    columns = {**table, "gain": table["mdr"] - table["still"]}
    return [
        ScaleResult(
            window,
            **{
                name: clustered(v[:, k], group, samples, seed, -1.0 if name == "gain" else 0.0)
                for name, v in columns.items()
            },
        )
        for k, window in enumerate(windows)
    ]
