"""Models that pool over time and then regress: ``meanpool`` and ``statpool``.

Source: meanpool is the standing rival of every temporal model (a time average of frozen features
into ridge or an RBF support vector regression, as the winner of SMP 2025 pools XCLIP's frames);
statpool is statistical pooling (mean, deviation, quantiles) as in LEYA's face branch (ABAW-10,
arXiv 2603.12848), here also of the landmarks' velocities and accelerations. Abstracts alone were
read of both, see papers.md; the choice of statistics and of regressors is ours.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, get_args

import numpy as np
from sklearn.ensemble import HistGradientBoostingRegressor
from sklearn.linear_model import Ridge, RidgeCV
from sklearn.model_selection import GridSearchCV, GroupKFold, KFold
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVR

from stages.fit.batches import ClipData
from stages.fit.grouped_choice import Codes, has_groups, ridge_alpha, tree_count
from stages.fit.models.base import Description, ModelError, choose, source_of
from stages.fit.plain import Arrays, Linear, Plain, packed, plain, unpacked
from stages.fit.pooled_base import INNER_FOLDS, PooledModel, Sample
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
# Its time grows with the square of the clips: so many at most choose C and width, all are fitted.
SVR_CHOICE = 1500


def option_names(kind: str) -> tuple[str, ...]:
    """Return the options that one of them takes, with one regressor or another."""
    strengths = (option for regressor in REGRESSORS[kind] for option in STRENGTHS[regressor])
    return ("regressor", "streams", *strengths)


def describe(name: str) -> Description:
    """Return what a pooled model is, as models.describe does for the networks."""
    return Description(name, SUMMARIES[name], source_of(__doc__ or ""))


class PooledRegressor(PooledModel):
    """Regression on one vector a clip; stills are clips of one frame.

    The clips are standardised column by column and their labels to mean 0 and deviation 1, from the
    clips fitted on alone. In statpool the blocks (appearance, positions, velocities, accelerations)
    then get the same sum of squares, so that a narrow one is not lost among wide ones. How strongly
    to regularise is chosen on these clips too, with whole groups (persons) held out where ``fit``
    is told of any: ridge by leave-one-out over alpha 1e-4 to 1e6, ``svr`` by 3 folds of at most
    1,500 clips over C and gamma, and ``boosting`` by early stopping. What is set is not chosen.

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
        super().__init__(choose("kind", kind, POOLED), seed)
        self.regressor = choose("regressor", options.pop("regressor", "ridge"), REGRESSORS[kind])
        streams = options.pop("streams", "both")
        for option in sorted(set(options) - set(STRENGTHS[self.regressor])):
            more = "; ".join(f"with {r} {', '.join(STRENGTHS[r])}" for r in REGRESSORS[kind])
            raise ModelError(
                f"model '{kind}' has no option '{option}' with {self.regressor}",
                f"options of {kind}: regressor, streams; {more}",
            )
        self._given = {name: _positive(name, value) for name, value in options.items()}
        choose("streams", streams, get_args(Streams))
        self._streams: Streams = streams
        self._mean = self._factor = np.zeros(0)
        self._value: Plain = Linear(np.zeros(0), np.zeros(1))

    def _summarise(self, clip: ClipData) -> list[FloatArray]:
        summary = time_average if self.name == "meanpool" else statistics
        return summary(clip, self._streams)

    def _fit(self, sample: Sample) -> None:
        scaler = StandardScaler().fit(sample.x)
        self._mean = np.asarray(scaler.mean_, np.float64)
        self._factor = _weights(sample.sizes) / np.asarray(scaler.scale_, np.float64)
        x = (sample.x - self._mean) * self._factor
        estimator = self._estimator(x, sample.target, sample.group)
        estimator.fit(x, sample.target)
        self.strength = _strength(estimator)
        best = estimator.best_estimator_ if isinstance(estimator, GridSearchCV) else estimator
        self._value = plain(best)

    def _predict(self, x: FloatArray) -> FloatArray:
        return self._value((x - self._mean) * self._factor)

    def state(self) -> tuple[dict[str, Any], Arrays]:
        """Return scaling and regressor."""
        kinds, arrays = packed({"regressor": self._value})
        return {"kinds": kinds}, {**arrays, "mean": self._mean, "factor": self._factor}

    def restore(self, told: Mapping[str, Any], arrays: Arrays) -> None:
        """Become the fitted model that ``state`` described."""
        self._value = unpacked(told["kinds"], arrays)["regressor"]
        self._mean, self._factor = arrays["mean"], arrays["factor"]

    def _estimator(self, x: FloatArray, y: FloatArray, group: Codes) -> Any:
        given = self._given
        grouped = has_groups(group)
        if self.regressor == "ridge":
            if "alpha" in given:
                return Ridge(given["alpha"])
            return Ridge(ridge_alpha(x, y, group, ALPHAS)) if grouped else RidgeCV(ALPHAS)
        if self.regressor == "boosting":
            return self._boosting(x, y, group)
        rows, columns = x.shape
        chosen = {k: (given[k],) if k in given else values for k, values in SVR_GRID.items()}
        grid = {"C": chosen["c"], "gamma": [width / columns for width in chosen["gamma"]]}
        some = np.random.default_rng(self.seed).permutation(rows)[:SVR_CHOICE]
        count = min(INNER_FOLDS, len(np.unique(group[some])))
        splits = (
            GroupKFold(count)
            if grouped and count > 1
            else KFold(INNER_FOLDS, shuffle=True, random_state=self.seed)
        )
        parts = splits.split(some, groups=group[some] if grouped else None)
        folds = [(some[train], some[test]) for train, test in parts]
        machine = SVR(epsilon=given.get("epsilon", EPSILON))
        if len(grid["C"]) == len(grid["gamma"]) == 1:  # nothing to choose
            return machine.set_params(C=grid["C"][0], gamma=grid["gamma"][0])
        return GridSearchCV(machine, grid, scoring="neg_mean_squared_error", cv=folds)

    def _boosting(self, x: FloatArray, y: FloatArray, group: Codes) -> Any:
        rows = len(x)
        machine = HistGradientBoostingRegressor(
            learning_rate=self._given.get("rate", 0.05),
            max_iter=300,
            max_leaf_nodes=int(self._given.get("leaves", 8)),
            min_samples_leaf=min(20, max(1, rows // 4)),
            l2_regularization=1.0,
            max_features=0.1,
            # Stopping early needs clips to stop by; of a handful they would be one or two.
            early_stopping=rows >= 50,
            random_state=self.seed,
        )
        if rows >= 50 and has_groups(group):
            machine.set_params(early_stopping=False)
            machine.set_params(max_iter=tree_count(machine, x, y, group, self.seed))
        return machine


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
