"""Blind features: numbers of a clip that keep the score and do not tell a named attribute.

Source: "Emotional-blinded representations" (paper 12 of papers.md, arXiv 2009.08704; its abstract
alone was read), whose case study is attractiveness: learned vectors from which expression cannot be
told. Ours is a closed form and no adversary. Taking class means away, as the nullspace projections
do (Ravfogel and others, ACL 2020; LEACE, Belrose and others, 2023), blinds linear classifiers only;
so the whole distributions of the classes are moved onto each other: the sliced Wasserstein
barycentre (Bonneel and others, 2015), of which every step matches quantiles along the axes of a
random rotation.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
from sklearn.cross_decomposition import PLSRegression
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, KFold, cross_val_predict
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVR

from stages.fit.batches import ClipData
from stages.fit.models.base import ModelError
from stages.fit.plain import Arrays, Linear, Plain, packed, plain, unpacked
from stages.fit.pooled_base import INNER_FOLDS, PooledModel, Sample, number, refuse_unknown
from stages.fit.summaries import FloatArray, time_average

STEPS = 20
KNOTS = 50  # quantiles of each class along each axis
LEAST_CLIPS = 2  # of each value


class BlindRegressor(PooledModel):
    """SVR on features from which an attribute (gender, unless another is named) cannot be told.

    1. A logistic regression learns the attribute; from here on its answer stands for it, so that
    new clips need no label. 2. What predicts the score within the classes becomes ``dims``
    features: an RBF SVR's prediction, and the best directions by partial least squares. 3. There
    each class is moved onto the barycentre of all, so that they have one distribution. 4. A second
    RBF SVR predicts the score from what is left. All see training clips alone, and 3 and 4 see the
    first SVR's predictions of inner folds. ``transform`` gives the features themselves.

    What the score owes to the attribute itself is lost, and is meant to be.

    Parameters
    ----------
    name, seed
    attribute : str
        Column of the labels; ``gender`` if left out.
    dims : int
        Features. More keep a little more of the score (PC .876 with one, .877 with two on 1,650
        portraits) and leave more for a classifier to find: only along one axis do the classes'
        distributions become equal exactly.
    """

    options = ("attribute", "dims")

    def __init__(self, name: str = "blind", seed: int = 0, **options: Any) -> None:
        super().__init__(name, seed)
        refuse_unknown(name, options, self.options)
        self.attribute = str(options.get("attribute", "gender"))
        self._dims = int(number(name, "dims", options.get("dims", 1), 1, 512))
        self._arrays: Arrays = {}
        self._first: Plain = Linear(np.zeros(0), np.zeros(1))  # within the classes
        self._value: Plain = self._first  # of the blind features

    def _summarise(self, clip: ClipData) -> list[FloatArray]:
        return time_average(clip)

    def _fit(self, sample: Sample) -> None:
        count = np.bincount(sample.attribute, minlength=len(sample.values))
        if count.min() < LEAST_CLIPS:
            rare = sample.values[int(count.argmin())]
            raise ModelError(
                f"model '{self.name}': '{rare}' stands in the column '{self.attribute}' only once",
                "blinding compares distributions: leave rare values out, or join them",
            )
        scaler = StandardScaler().fit(sample.x)
        x, who = scaler.transform(sample.x), sample.attribute
        # As strong as needed for a thousand correlated columns; on stills 99 % are told rightly.
        teller = LogisticRegression(C=0.01, max_iter=500).fit(x, who)
        coef, intercept = np.atleast_2d(teller.coef_), np.atleast_1d(teller.intercept_)
        if len(sample.values) == 2:  # one row for two classes: the other's is 0
            coef, intercept = np.stack([0 * coef[0], coef[0]]), np.array([0.0, intercept[0]])
        within, target = x.copy(), sample.target.copy()
        for value in range(len(sample.values)):
            mine = who == value
            within[mine] -= within[mine].mean(axis=0)
            target[mine] -= target[mine].mean()
        folds = KFold(INNER_FOLDS, shuffle=True, random_state=self.seed)
        machine = SVR(C=1.5, gamma=0.4 / x.shape[1])
        first = cross_val_predict(machine, x, target, cv=folds)
        self._first = plain(machine.fit(x, target))
        more = min(self._dims - 1, x.shape[0] - 1, x.shape[1])
        direction = np.zeros((x.shape[1], 0))
        if more:
            direction = PLSRegression(more, scale=False).fit(within, target).x_rotations_
            direction = direction / np.maximum((within @ direction).std(axis=0), 1e-12)
        self._arrays = {
            "mean": np.asarray(scaler.mean_, np.float64),
            "scale": np.asarray(scaler.scale_, np.float64),
            "coef": np.asarray(coef, np.float64),
            "intercept": np.asarray(intercept, np.float64),
            "direction": np.asarray(direction, np.float64),
            "spread": np.array([max(float(first.std()), 1e-12)]),
        }
        z = self._raw(x, first)
        self._arrays |= _transport(z, who, len(sample.values), self.seed)
        z = self._blinded(x, first)
        grid = {"C": (0.3, 1.0, 3.0), "gamma": [w / z.shape[1] for w in (0.1, 0.3, 1.0)]}
        search = GridSearchCV(SVR(), grid, scoring="neg_mean_squared_error", cv=folds)
        search.fit(z, sample.target)
        self._value = plain(search.best_estimator_)
        self.strength = {name: float(value) for name, value in search.best_params_.items()}

    def _standard(self, x: FloatArray) -> FloatArray:
        return np.asarray((x - self._arrays["mean"]) / self._arrays["scale"], np.float64)

    def _raw(self, standard: FloatArray, first: FloatArray) -> FloatArray:
        """(n, dims): the first SVR's predictions and the directions, still telling who."""
        directions = standard @ self._arrays["direction"]
        return np.column_stack([first / self._arrays["spread"][0], directions])

    def _blinded(self, standard: FloatArray, first: FloatArray) -> FloatArray:
        a = self._arrays
        who = (standard @ a["coef"].T + a["intercept"]).argmax(axis=1)
        z = self._raw(standard, first)
        for rotation, quantiles, common in zip(
            a["rotation"], a["quantiles"], a["common"], strict=True
        ):
            z = _moved(z, who, rotation, quantiles, common)
        return z

    def _features(self, x: FloatArray) -> FloatArray:
        standard = self._standard(x)
        return self._blinded(standard, self._first(standard))

    def _predict(self, x: FloatArray) -> FloatArray:
        return self._value(self._features(x))

    def transform(self, clips: Iterable[ClipData]) -> FloatArray:
        """Return the blind features (n, dims) of clips; NaN for one without a valid frame.

        Raises
        ------
        RuntimeError
            Before ``fit``.
        """
        x, seen = self._seen(clips)
        found = np.full((len(x), self._arrays["rotation"].shape[1]), np.nan)
        if seen.any():
            found[seen] = self._features(x[seen])
        return found

    def state(self) -> tuple[dict[str, Any], Arrays]:
        """Return all four steps."""
        kinds, arrays = packed({"regressor": self._value, "first": self._first})
        return {"kinds": kinds}, {**arrays, **self._arrays}

    def restore(self, told: Mapping[str, Any], arrays: Arrays) -> None:
        """Become the fitted model that ``state`` described."""
        parts = unpacked(told["kinds"], arrays)
        self._value, self._first = parts["regressor"], parts["first"]
        names: tuple[str, ...] = ("mean", "scale", "coef", "intercept", "direction", "spread")
        names += ("rotation", "quantiles", "common")
        self._arrays = {name: arrays[name] for name in names}


def _transport(z: FloatArray, who: npt.NDArray[np.int64], classes: int, seed: int) -> Arrays:
    """Find steps that move classes (n, d) onto their barycentre.

    Returns
    -------
    dict
        ``rotation`` (STEPS, d, d), ``quantiles`` (STEPS, classes, KNOTS, d) of each class along the
        rotated axes, ``common`` (STEPS, KNOTS, d): their mean, which each class is given.
    """
    rng = np.random.default_rng(seed)
    level = (np.arange(KNOTS) + 0.5) / KNOTS
    steps: dict[str, list[FloatArray]] = {"rotation": [], "quantiles": [], "common": []}
    for _ in range(STEPS):
        rotation, _ = np.linalg.qr(rng.normal(size=(z.shape[1],) * 2))
        turned = z @ rotation
        quantiles = np.stack([np.quantile(turned[who == c], level, axis=0) for c in range(classes)])
        common = quantiles.mean(axis=0)
        z = _moved(z, who, rotation, quantiles, common)
        for name, value in zip(steps, (rotation, quantiles, common), strict=True):
            steps[name].append(value)
    return {name: np.stack(values) for name, values in steps.items()}


def _moved(
    z: FloatArray,
    who: npt.NDArray[np.int64],
    rotation: FloatArray,
    quantiles: FloatArray,
    common: FloatArray,
) -> FloatArray:
    """Give each class the common quantiles along the axes of one rotation."""
    turned = z @ rotation
    for value, own in enumerate(quantiles):
        mine = who == value
        for axis in range(turned.shape[1]):
            turned[mine, axis] = _mapped(turned[mine, axis], own[:, axis], common[:, axis])
    return np.asarray(turned @ rotation.T, np.float64)


def _mapped(x: FloatArray, source: FloatArray, target: FloatArray) -> FloatArray:
    """Map values by pairs of quantiles, linearly between them; beyond them by the last shift."""
    inside = np.clip(x, source[0], source[-1])
    return np.asarray(np.interp(inside, source, target) + (x - inside), np.float64)
