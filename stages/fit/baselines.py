"""Trivial rivals that stand beside every model: what the features say without time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from sklearn.linear_model import RidgeCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from stages.fit.loader import ClipLoader

ALPHAS = np.logspace(-4, 6, 21)


@dataclass(frozen=True)
class BaselinePredictions:
    """Predictions of the clips asked for, in the loaders' label units, and the alpha chosen."""

    clips: list[str]
    prediction: npt.NDArray[np.float64]
    alpha: float


def time_average(loader: ClipLoader) -> tuple[list[str], npt.NDArray[np.float64]]:
    """Mean over the valid frames of both streams: clip ids, (n, Da + 136) float64."""
    clips, rows = [], []
    for clip in loader.iter_clips():
        clips.append(clip.clip)
        streams = (clip.appearance, clip.landmark)
        rows.append(np.concatenate([s[clip.valid].mean(axis=0, dtype=np.float64) for s in streams]))
    return clips, np.stack(rows)


def time_average_ridge(fit_on: Sequence[ClipLoader], predict_on: ClipLoader) -> BaselinePredictions:
    """Ridge regression on time-averaged features, the standing rival of every temporal model.

    Mean over the valid frames of the same two streams that a network reads -> StandardScaler ->
    RidgeCV (alphas 1e-4 to 1e6, chosen by leave-one-out on the clips it is fitted on).

    Parameters
    ----------
    fit_on : loaders with labels
        Training and validation part: ridge needs no epoch chosen, so it gets both.
    predict_on : loader
        The test part of the same split.
    """
    names: list[str] = []
    features, scores = [], []
    for loader in fit_on:
        clips, x = time_average(loader)
        names += clips
        features.append(x)
        scores += [loader.scores[c] for c in clips]
    model = make_pipeline(StandardScaler(), RidgeCV(ALPHAS))
    model.fit(np.concatenate(features), np.asarray(scores))
    clips, x = time_average(predict_on)
    prediction = np.asarray(model.predict(x), np.float64)
    return BaselinePredictions(clips, prediction, float(model[-1].alpha_))
