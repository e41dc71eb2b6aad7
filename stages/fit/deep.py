"""Deep features and regression: several arrays of a store, several regressors, chosen by folds.

Source: HMTNet's SCUT-FBP step (Xiang and others, 2019, and their main/cd.py): a convolutional
layer's output, flattened, into Bayesian ridge; of TransFBP two layers side by side. Here any layers
that `pipeline features` has added, and any of five regressors. They are combined by ensemble
selection (R. Caruana and others, ICML 2004): whichever member lowers the error of the mean most is
added, again and again; ours is that the errors are those of inner folds.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, get_args

import numpy as np
import numpy.typing as npt
from sklearn.ensemble import HistGradientBoostingRegressor
from sklearn.exceptions import ConvergenceWarning
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import RBF, ConstantKernel, WhiteKernel
from sklearn.linear_model import BayesianRidge, RidgeCV
from sklearn.model_selection import KFold
from sklearn.svm import SVR

from stages.fit.batches import ClipData
from stages.fit.models.base import choose
from stages.fit.plain import Arrays, Kernel, Plain, packed, plain, unpacked
from stages.fit.pooled_base import INNER_FOLDS, PooledModel, Sample, refuse_unknown
from stages.fit.summaries import FloatArray, Streams, time_average

F32 = npt.NDArray[np.float32]
REGRESSORS = ("ridge", "bayes", "svr", "gp", "boosting")
COMBINE = ("mean", "best")
# Blocks of more columns are turned to their principal components: all that a kernel or a ridge sees
# of n clips are n directions, and of a 512 x 7 x 7 map the first 512 held 95 % of the variance.
WIDE, COMPONENTS = 2048, 512
ALPHAS = np.logspace(-6, 4, 21)
# (C, width): a clip's mean squared distance to others is 2 in every block, so widths are alike.
SVR_GRID = ((1.0, 0.4), (3.0, 0.4), (1.0, 0.8))
GP_CLIPS = 400  # of which the marginal likelihood chooses the kernel; its time grows with the cube
# Time and memory of kernels grow with the square and more: so many clips at most are fitted on.
KERNEL_CLIPS = 4000
STEPS = 12  # of the selection: weights are multiples of a twelfth


@dataclass(frozen=True)
class _Block:
    """How the columns of one block become a vector of mean square 1: standardise, project, scale.

    ``projection`` (columns, components) float32, or of no rows where there is none.
    """

    mean: F32
    factor: F32
    projection: F32

    @classmethod
    def of(cls, x: F32) -> _Block:
        """Take it from the clips fitted on, (n, columns)."""
        mean, sd = x.mean(axis=0), x.std(axis=0)
        # A channel that never changes tells nothing, and its deviation is rounding.
        factor = np.where(sd > 1e-6, 1 / np.maximum(sd, 1e-6), 0).astype(np.float32)
        factor /= np.float32(np.sqrt(max(int((factor > 0).sum()), 1)))
        if x.shape[1] <= WIDE:
            return cls(mean, factor, np.zeros((0, 0), np.float32))
        z = (x - mean) * factor
        values, vectors = np.linalg.eigh((z @ z.T).astype(np.float64))
        kept = [k for k in np.argsort(values)[::-1][:COMPONENTS] if values[k] > 1e-9 * values.max()]
        turned = z.T @ (vectors[:, kept] / np.sqrt(values[kept])).astype(np.float32)
        return cls(mean, factor, np.asarray(turned, np.float32))

    def __call__(self, x: F32) -> FloatArray:
        """(n, columns) -> (n, d)."""
        z = (x - self.mean) * self.factor
        return np.asarray(z @ self.projection if len(self.projection) else z, np.float64)


@dataclass(frozen=True)
class _Member:
    """A regressor and the block that it reads; -1: all of them side by side."""

    block: int
    regressor: str
    setting: tuple[float, ...] = ()

    @property
    def name(self) -> str:
        """What it is called in a run's files and in ``strength``."""
        where = "all" if self.block < 0 else f"block{self.block}"
        return "-".join([where, self.regressor, *(f"{s:g}" for s in self.setting)])


class DeepRegressor(PooledModel):
    """Ridge, Bayesian ridge, SVR, Gaussian process, boosting on layers, chosen by inner folds.

    Blocks are the arrays of the stream (``--set stream=appearance+embedding+LAYER``) and the
    landmarks, averaged over time; each is standardised, and turned to 512 principal components if
    it has more than 2,048 columns. Every regressor is tried on every block, and on all side by
    side (but for bayes and boosting beside others, as slow there), in 3 folds of the training
    clips; those whose mean predicts best are fitted on all.

    Parameters
    ----------
    name, seed
    regressor : str
        ``auto`` (all five), or some of ridge, bayes, svr, gp, boosting with + between.
    combine : "mean" or "best"
        Mean of the members that ensemble selection takes, or the one best member.
    streams : "both", "appearance" or "landmarks"

    Attributes
    ----------
    strength : dict
        The members' weights, and ``inner_error``: mean squared error of their mean in the inner
        folds, in units of the label's variance.
    """

    options = ("regressor", "combine", "streams")
    dtype = np.float32

    def __init__(self, name: str = "deep", seed: int = 0, **options: Any) -> None:
        super().__init__(name, seed)
        refuse_unknown(name, options, self.options)
        given = str(options.get("regressor", "auto"))
        named = REGRESSORS if given == "auto" else tuple(map(str.strip, given.split("+")))
        self._regressors = tuple(choose("regressor", one, REGRESSORS) for one in named)
        self._combine = choose("combine", options.get("combine", "mean"), COMBINE)
        streams = options.get("streams", "both")
        choose("streams", streams, get_args(Streams))
        self._streams: Streams = streams
        self._sizes: list[int] = []
        self._blocks: list[_Block] = []
        self._members: dict[str, tuple[int, float, Plain]] = {}  # block, weight, what it predicts

    def _summarise(self, clip: ClipData) -> list[FloatArray]:
        (whole,) = time_average(clip, self._streams)
        widths = clip.widths or (clip.appearance.shape[1],)
        if self._streams == "landmarks":
            widths = ()
        return (
            np.split(whole, np.cumsum(widths))
            if self._streams != "appearance"
            else np.split(whole, np.cumsum(widths)[:-1])
        )

    def _split(self, x: npt.NDArray[np.floating]) -> list[F32]:
        parts = np.split(np.asarray(x, np.float32), np.cumsum(self._sizes)[:-1], axis=1)
        return [np.ascontiguousarray(part) for part in parts]

    def _candidates(self) -> list[_Member]:
        places = list(range(len(self._sizes)))
        if len(places) > 1:
            places.append(-1)
        found = []
        for regressor in self._regressors:
            settings: tuple[tuple[float, ...], ...] = SVR_GRID if regressor == "svr" else ((),)
            wide = len(self._regressors) > 1 and regressor in ("bayes", "boosting")
            here = [place for place in places if place >= 0 or not wide]
            found += [_Member(place, regressor, s) for place in here for s in settings]
        return found

    def _fit(self, sample: Sample) -> None:
        self._sizes = sample.sizes
        parts = self._split(sample.x)
        self._blocks = [_Block.of(part) for part in parts]
        views, y = self._views(parts), sample.target
        members = self._candidates()
        found = np.zeros((len(members), len(y)))
        folds = KFold(INNER_FOLDS, shuffle=True, random_state=self.seed)
        for train, test in folds.split(y):
            some = self._some(train)
            for view, x in views.items():
                squares = _squares(x[some]) if "svr" in self._regressors else np.zeros((0, 0))
                for row, member in zip(found, members, strict=True):
                    if member.block == view:
                        row[test] = self._fitted(member, x, y, train, some, squares)(x[test])
        weights = selected(found, y, 1 if self._combine == "best" else STEPS)
        everyone = np.arange(len(y))
        some = self._some(everyone)
        self._members = {}
        for member, weight in zip(members, weights.tolist(), strict=True):
            if weight > 0:
                x = views[member.block]
                squares = _squares(x[some]) if member.regressor == "svr" else np.zeros((0, 0))
                value = self._fitted(member, x, y, everyone, some, squares)
                self._members[member.name] = (member.block, weight, value)
        self.strength = {name: weight for name, (_, weight, _) in self._members.items()}
        self.strength["inner_error"] = float(((weights @ found - y) ** 2).mean())

    def _some(self, rows: npt.NDArray[np.intp]) -> npt.NDArray[np.intp]:
        """Return the rows, or KERNEL_CLIPS of them."""
        if len(rows) <= KERNEL_CLIPS:
            return rows
        return np.random.default_rng(self.seed).permutation(rows)[:KERNEL_CLIPS]

    def _views(self, parts: list[F32]) -> dict[int, FloatArray]:
        """Return what members read: each block, and as -1 all of them, of mean square 1."""
        both = zip(self._blocks, parts, strict=True)
        views = {k: block(part) for k, (block, part) in enumerate(both)}
        views[-1] = np.concatenate(list(views.values()), axis=1) / np.sqrt(len(self._blocks))
        return views

    def _fitted(
        self,
        member: _Member,
        x: FloatArray,
        y: FloatArray,
        rows: npt.NDArray[np.intp],
        some: npt.NDArray[np.intp],
        squares: FloatArray,
    ) -> Plain:
        """Fit on ``rows``, kernels on ``some`` of them, whose squared distances are ``squares``."""
        if member.regressor == "svr":
            c, width = member.setting
            machine = SVR(kernel="precomputed", C=c, epsilon=0.1)
            machine.fit(np.exp(-width * squares), y[some])
            centres = x[some[machine.support_]]
            return Kernel(centres, machine.dual_coef_[0], np.array([width]), machine.intercept_)
        if member.regressor == "gp":
            return plain(_process(x[some], y[some], self.seed))
        if member.regressor == "ridge":
            return plain(RidgeCV(ALPHAS).fit(x[rows], y[rows]))
        if member.regressor == "bayes":
            return plain(BayesianRidge().fit(x[rows], y[rows]))
        return plain(
            HistGradientBoostingRegressor(
                learning_rate=0.1,
                max_iter=100,
                max_leaf_nodes=8,
                min_samples_leaf=min(20, max(1, len(rows) // 4)),
                l2_regularization=1.0,
                max_features=0.1,
                early_stopping=False,
                random_state=self.seed,
            ).fit(x[rows], y[rows])
        )

    def _predict(self, x: FloatArray) -> FloatArray:
        views = self._views(self._split(x))
        parts = [weight * value(views[block]) for block, weight, value in self._members.values()]
        return np.asarray(np.sum(parts, axis=0), np.float64)

    def state(self) -> tuple[dict[str, Any], Arrays]:
        """Return blocks, members and their weights."""
        kinds, arrays = packed({name: value for name, (_, _, value) in self._members.items()})
        for k, block in enumerate(self._blocks):
            arrays |= {f"scale{k}.{name}": array for name, array in vars(block).items()}
        members = {name: [block, weight] for name, (block, weight, _) in self._members.items()}
        return {"sizes": self._sizes, "kinds": kinds, "members": members}, arrays

    def restore(self, told: Mapping[str, Any], arrays: Arrays) -> None:
        """Become the fitted model that ``state`` described."""
        self._sizes = [int(size) for size in told["sizes"]]
        self._blocks = [
            _Block(*(arrays[f"scale{k}.{name}"] for name in ("mean", "factor", "projection")))
            for k in range(len(self._sizes))
        ]
        values = unpacked(told["kinds"], arrays)
        self._members = {
            name: (int(block), float(weight), values[name])
            for name, (block, weight) in told["members"].items()
        }


def selected(found: FloatArray, y: FloatArray, steps: int) -> FloatArray:
    """Weights (m,) of m members' predictions (m, n), by ensemble selection with replacement.

    Step by step the member is added, perhaps again, with which the mean of all that were added has
    the lowest squared error over the (n,) targets.
    """
    total, count = np.zeros(len(y)), np.zeros(len(found))
    for step in range(1, steps + 1):
        errors = (((total + found) / step - y) ** 2).mean(axis=1)
        best = int(np.argmin(errors))
        total, count[best] = total + found[best], count[best] + 1
    return np.asarray(count / steps, np.float64)


def _squares(x: FloatArray) -> FloatArray:
    """Return squared distances (n, n) between vectors (n, d)."""
    own = (x**2).sum(axis=1)
    return np.asarray(np.maximum(own[:, None] + own - 2 * x @ x.T, 0), np.float64)


def _process(x: FloatArray, y: FloatArray, seed: int) -> GaussianProcessRegressor:
    """Gaussian process whose kernel is chosen on some of the clips and then fitted on all."""
    some = np.random.default_rng(seed).permutation(len(x))[:GP_CLIPS]
    kernel = ConstantKernel(1.0, (1e-3, 1e4)) * RBF(1.0, (1e-2, 1e3)) + WhiteKernel(0.2, (1e-5, 10))
    with warnings.catch_warnings():  # a kernel at a bound is a kernel; the inner folds will tell
        warnings.simplefilter("ignore", ConvergenceWarning)
        chosen = GaussianProcessRegressor(kernel, random_state=seed).fit(x[some], y[some])
    return GaussianProcessRegressor(chosen.kernel_, optimizer=None).fit(x, y)
