"""The standing rival of every network: what the features say without time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain

import numpy as np
import numpy.typing as npt

from stages.fit.loader import ClipLoader
from stages.fit.pooled import PooledRegressor


@dataclass(frozen=True)
class BaselinePredictions:
    """Predictions of the clips asked for, in the loaders' label units, and the alpha chosen."""

    clips: list[str]
    prediction: npt.NDArray[np.float64]
    alpha: float


def time_average_ridge(fit_on: Sequence[ClipLoader], predict_on: ClipLoader) -> BaselinePredictions:
    """Ridge regression on time-averaged features: ``meanpool`` on both streams.

    Parameters
    ----------
    fit_on : loaders with labels
        Training and validation part: ridge needs no epoch chosen, so it gets both.
    predict_on : loader
        The test part of the same split.
    """
    scores = [loader.scores[span.clip] for loader in fit_on for span in loader.clips]
    # One clip after the other: the budget of the loaders holds for their clips, not for a list.
    clips = chain.from_iterable(loader.iter_clips() for loader in fit_on)
    model = PooledRegressor("meanpool").fit(clips, scores)
    names = [span.clip for span in predict_on.clips]
    prediction = model.predict(predict_on.iter_clips())
    return BaselinePredictions(names, prediction, model.strength["alpha"])
