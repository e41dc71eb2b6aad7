"""Models that pool over time and then regress: ``meanpool`` and ``statpool``.

Source: meanpool is the standing rival of every temporal model (a time average of frozen features
into ridge or an RBF support vector regression, as the winner of SMP 2025 pools XCLIP's frames);
statpool is statistical pooling (mean, deviation, quantiles) as in LEYA's face branch (ABAW-10,
arXiv 2603.12848), here also of the landmarks' velocities and accelerations. Abstracts alone were
read of both, see papers.md; the choice of statistics and of regressors is ours.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any, Self, get_args

import numpy as np
import numpy.typing as npt
from sklearn.ensemble import HistGradientBoostingRegressor
from sklearn.linear_model import Ridge, RidgeCV
from sklearn.model_selection import GridSearchCV, KFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, StandardScaler
from sklearn.svm import SVR

from stages.fit.batches import ClipData
from stages.fit.models.base import Description, ModelError, choose, source_of
from stages.fit.summaries import FloatArray, Streams, statistics, time_average

POOLED: tuple[str, ...] = ("meanpool", "statpool")
SUMMARIES = {
    "meanpool": "Ridge or support vector regression on the time average of the features.",
    "statpool": "Ridge or gradient boosting on statistics of features and landmark motion.",
}
REGRESSORS = {"meanpool": ("ridge", "svr"), "statpool": ("ridge", "boosting")}
ALPHAS = np.logspace(-4, 6, 21)
# gamma in units of 1 / columns: what a standardised column adds to a squared distance is about 2.
SVR_GRID = {"c": (1.0, 3.0, 10.0), "gamma": (0.3, 1.0)}
EPSILON = 0.1
# What sets how strongly a regressor is regularised; it is not chosen then.
STRENGTHS = {"ridge": ("alpha",), "svr": ("c", "epsilon", "gamma"), "boosting": ("rate", "leaves")}
INNER_FOLDS = 3
# Its time grows with the square of the clips: so many at most choose C and width, all are fitted.
SVR_CHOICE = 1500


def describe(name: str) -> Description:
    """Return what a pooled model is, as models.describe does for the networks."""
    return Description(name, SUMMARIES[name], source_of(__doc__ or ""))


class PooledRegressor:
    """Regression on one vector a clip; stills are clips of one frame.

    The clips are standardised column by column and their labels to mean 0 and deviation 1, from the
    clips fitted on alone. In statpool the blocks (appearance, positions, velocities, accelerations)
    then get the same sum of squares, so that a narrow one is not lost among wide ones. How strongly
    to regularise is chosen on these clips too: ridge by leave-one-out over alpha 1e-4 to 1e6,
    ``svr`` by 3 folds of at most 1,500 clips over C and gamma, and ``boosting`` by early
    stopping. These inner folds do not know of groups (persons); what is set is not chosen.

    Parameters
    ----------
    kind : "meanpool" or "statpool"
    seed : int
        Of the inner folds and of the boosting.
    regressor : str, optional
        ``ridge`` (the default) or ``svr`` for meanpool, ``ridge`` or ``boosting`` for statpool.
    streams : "both", "appearance" or "landmarks", optional
        What is read of a clip; both if left out. The appearance may have any width, so that
        embedding and appearance can be given side by side.
    alpha : float, optional
        Of ``ridge``: weight of the penalty.
    c, epsilon, gamma : float, optional
        Of ``svr``: weight of the errors, how large ones are free (in deviations of the label), and
        the kernel's, in units of 1 / columns.
    rate : float, optional
    leaves : int, optional
        Of ``boosting``: learning rate and leaves of a tree.

    Attributes
    ----------
    strength : dict
        What was chosen: alpha, or C and gamma, or the number of trees. Empty before ``fit``.

    Raises
    ------
    ModelError
        No such kind, or an option that it does not take.
    """

    def __init__(self, kind: str, seed: int = 0, **options: Any) -> None:
        self.kind = choose("kind", kind, POOLED)
        self.seed = seed
        self.regressor = choose(
            "regressor", options.pop("regressor", "ridge"), REGRESSORS[self.kind]
        )
        streams = options.pop("streams", "both")
        strengths = STRENGTHS[self.regressor]
        unknown = sorted(set(options) - set(strengths))
        if unknown:
            raise ModelError(
                f"model '{kind}' has no option '{unknown[0]}'",
                f"options of {kind} with {self.regressor}: regressor, streams, "
                + ", ".join(strengths),
            )
        self._given = {name: _positive(name, value) for name, value in options.items()}
        choose("streams", streams, get_args(Streams))
        self._streams: Streams = streams
        self._summary: Callable[[ClipData, Streams], list[FloatArray]] = (
            time_average if self.kind == "meanpool" else statistics
        )
        self._model: Any = None
        self._label = (0.0, 1.0)
        self.strength: dict[str, float] = {}

    def _features(self, clips: Iterable[ClipData]) -> tuple[FloatArray, list[int]]:
        """(n, D), one row a clip, NaN for one without a valid frame; columns of each block."""
        rows: list[FloatArray] = []
        sizes: list[int] = []
        for clip in clips:
            blocks = self._summary(clip, self._streams)
            sizes = [len(block) for block in blocks]
            rows.append(np.concatenate(blocks))
        return np.stack(rows) if rows else np.zeros((0, 0)), sizes

    def fit(self, clips: Iterable[ClipData], score: npt.ArrayLike) -> Self:
        """Fit on n clips and their labels; clips without a valid frame are left out.

        Parameters
        ----------
        clips : n clips
        score : (n,) float, label units

        Raises
        ------
        ValueError
            Other than n labels, a label that is not finite, or fewer than 3 clips with a face.
        """
        x, sizes = self._features(clips)
        y = np.asarray(score, np.float64)
        if y.shape != (len(x),):
            raise ValueError(f"score must be ({len(x)},) as there are so many clips, not {y.shape}")
        if not np.isfinite(y).all():
            raise ValueError("every label must be finite")
        seen = np.isfinite(x).all(axis=1)
        x, y = x[seen], y[seen]
        if len(x) < INNER_FOLDS:
            raise ValueError(f"at least {INNER_FOLDS} clips with a face are needed, not {len(x)}")
        self._label = (float(y.mean()), float(y.std()) or 1.0)
        target = (y - self._label[0]) / self._label[1]
        balanced = FunctionTransformer(partial(np.multiply, _weights(sizes)))
        estimator = self._estimator(x.shape[1], len(x))
        self._model = make_pipeline(StandardScaler(), balanced, estimator).fit(x, target)
        self.strength = _strength(self._model[-1])
        return self

    def predict(self, clips: Iterable[ClipData]) -> FloatArray:
        """(n,) predictions in label units; the mean label for a clip without a valid frame.

        Raises
        ------
        RuntimeError
            Before ``fit``.
        """
        if self._model is None:
            raise RuntimeError(f"{self.kind} must be fitted before it can predict")
        x, _ = self._features(clips)
        seen = np.isfinite(x).all(axis=1)
        result = np.zeros(len(x))
        if seen.any():
            result[seen] = self._model.predict(x[seen])
        return result * self._label[1] + self._label[0]

    def _estimator(self, columns: int, rows: int) -> Any:
        given = self._given
        if self.regressor == "ridge":
            return Ridge(given["alpha"]) if "alpha" in given else RidgeCV(ALPHAS)
        if self.regressor == "boosting":
            # Stopping early needs clips to stop by; of a handful they would be one or two.
            return HistGradientBoostingRegressor(
                learning_rate=given.get("rate", 0.05),
                max_iter=300,
                max_leaf_nodes=int(given.get("leaves", 8)),
                min_samples_leaf=min(20, max(1, rows // 4)),
                l2_regularization=1.0,
                max_features=0.1,
                early_stopping=rows >= 50,
                random_state=self.seed,
            )
        chosen = {k: (given[k],) if k in given else values for k, values in SVR_GRID.items()}
        grid = {"C": chosen["c"], "gamma": [width / columns for width in chosen["gamma"]]}
        splits = KFold(INNER_FOLDS, shuffle=True, random_state=self.seed)
        some = np.random.default_rng(self.seed).permutation(rows)[:SVR_CHOICE]
        folds = [(some[train], some[test]) for train, test in splits.split(some)]
        machine = SVR(epsilon=given.get("epsilon", EPSILON))
        if len(grid["C"]) == len(grid["gamma"]) == 1:  # nothing to choose
            return machine.set_params(C=grid["C"][0], gamma=grid["gamma"][0])
        return GridSearchCV(machine, grid, scoring="neg_mean_squared_error", cv=folds)


def _positive(name: str, value: object) -> float:
    """Read a number above 0, as it comes from `--set`; leaves are a whole number from 2 on."""
    try:
        number = float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        number = math.nan
    least = 2 if name == "leaves" else 0
    if not (math.isfinite(number) and number > 0 and number >= least):
        raise ModelError(f"{name} must be a number {'from 2 on' if least else 'above 0'}, "
                         f"not {value!r}")  # fmt: skip
    return number


def _weights(sizes: list[int]) -> FloatArray:
    """Weight of every column that gives the blocks one sum of squares, 1 on average over them."""
    return np.concatenate([np.full(n, np.sqrt(sum(sizes) / len(sizes) / n)) for n in sizes])


def _strength(fitted: Any) -> dict[str, float]:
    """Return what a fitted regressor chose for itself."""
    if isinstance(fitted, RidgeCV):
        return {"alpha": float(fitted.alpha_)}
    if isinstance(fitted, Ridge):
        return {"alpha": float(fitted.alpha)}
    if isinstance(fitted, SVR):
        return {"C": float(fitted.C), "gamma": float(fitted.gamma)}
    if isinstance(fitted, GridSearchCV):
        return {name: float(value) for name, value in fitted.best_params_.items()}
    return {"trees": float(fitted.n_iter_)}
