"""Fitted regressors of scikit-learn as plain arrays, so that a run can keep them.

A pickle would run code when it is read, and hangs on the version that wrote it. What these models
predict with is little: a vector of weights, centres of a kernel, or the nodes of trees.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float64]
Arrays = dict[str, npt.NDArray[Any]]
_ROWS = 1024  # at a time, so that distances to some thousand centres stay small


class Plain(ABC):
    """A function from vectors to numbers that is all in its arrays."""

    @abstractmethod
    def __call__(self, x: FloatArray) -> FloatArray:
        """Return (n,) values of (n, D) vectors."""

    def arrays(self) -> Arrays:
        """Return the arrays that make it up, by name."""
        return {f.name: getattr(self, f.name) for f in fields(self)}  # type: ignore[arg-type]


@dataclass(frozen=True)
class Linear(Plain):
    """``x @ weight + constant``: (D,) and (1,)."""

    weight: FloatArray
    constant: FloatArray

    def __call__(self, x: FloatArray) -> FloatArray:
        """Return (n,) values of (n, D) vectors."""
        value: FloatArray = x @ self.weight + self.constant[0]
        return value


@dataclass(frozen=True)
class Kernel(Plain):
    """Sum of ``weight`` * exp(-gamma |x - centre|^2) + constant: (m, D), (m,), (1,), (1,)."""

    centres: FloatArray
    weight: FloatArray
    gamma: FloatArray
    constant: FloatArray

    def __call__(self, x: FloatArray) -> FloatArray:
        """Return (n,) values of (n, D) vectors."""
        squares = (self.centres**2).sum(axis=1)
        found = np.empty(len(x))
        for begin in range(0, len(x), _ROWS):
            part = x[begin : begin + _ROWS]
            distance = (part**2).sum(axis=1)[:, None] + squares - 2 * part @ self.centres.T
            kernel = np.exp(-self.gamma[0] * np.maximum(distance, 0))
            found[begin : begin + _ROWS] = kernel @ self.weight
        return np.asarray(found + self.constant[0], np.float64)


@dataclass(frozen=True)
class Trees(Plain):
    """Sum of regression trees + constant, all nodes one after the other.

    ``root`` (trees,) first node of each; of each node ``feature``, ``threshold`` (x <= threshold
    goes left), ``left``, ``right`` (nodes; the node itself in a leaf) and ``value`` (0 if inner).
    ``depth`` (1,): steps from a root to the deepest leaf.
    """

    root: npt.NDArray[np.int64]
    feature: npt.NDArray[np.int64]
    threshold: FloatArray
    left: npt.NDArray[np.int64]
    right: npt.NDArray[np.int64]
    value: FloatArray
    depth: npt.NDArray[np.int64]
    constant: FloatArray

    def __call__(self, x: FloatArray) -> FloatArray:
        """Return (n,) values of (n, D) vectors."""
        at = np.tile(self.root, (len(x), 1))  # (n, trees)
        rows = np.arange(len(x))[:, None]
        for _ in range(int(self.depth[0])):
            goes_left = x[rows, self.feature[at]] <= self.threshold[at]
            at = np.where(goes_left, self.left[at], self.right[at])
        total: FloatArray = self.value[at].sum(axis=1) + self.constant[0]
        return total


KINDS: dict[str, type[Plain]] = {kind.__name__: kind for kind in (Linear, Kernel, Trees)}


def plain(model: Any) -> Plain:
    """Return what a fitted regressor predicts with: linear models, SVR, GP and boosting.

    Parameters
    ----------
    model : scikit-learn regressor
        With ``coef_``; SVR with an RBF kernel; a Gaussian process whose kernel is
        ``ConstantKernel() * RBF() + WhiteKernel()``; histogram boosting of squared errors.
    """
    name = type(model).__name__
    if name == "SVR":
        return Kernel(
            np.asarray(model.support_vectors_, np.float64),
            np.asarray(model.dual_coef_[0], np.float64),
            np.asarray([model._gamma], np.float64),
            np.asarray(model.intercept_, np.float64),
        )
    if name == "GaussianProcessRegressor":
        scale = float(model.kernel_.k1.k1.constant_value)
        return Kernel(
            np.asarray(model.X_train_, np.float64),
            np.asarray(model.alpha_, np.float64).ravel() * scale,
            np.asarray([0.5 / float(model.kernel_.k1.k2.length_scale) ** 2]),
            np.zeros(1),
        )
    if name == "HistGradientBoostingRegressor":
        return _trees(model)
    return Linear(np.asarray(model.coef_, np.float64), np.asarray([model.intercept_], np.float64))


def _trees(model: Any) -> Trees:
    parts: dict[str, list[npt.NDArray[Any]]] = {
        key: [] for key in ("feature", "threshold", "left", "right", "value")
    }
    roots: list[int] = []
    first = deepest = 0
    for (tree,) in model._predictors:
        nodes = tree.nodes
        itself = np.arange(len(nodes))
        leaf = nodes["is_leaf"].astype(bool)
        roots.append(first)
        parts["feature"].append(np.where(leaf, 0, nodes["feature_idx"]))
        parts["threshold"].append(np.where(leaf, 0.0, nodes["num_threshold"]))
        parts["left"].append(first + np.where(leaf, itself, nodes["left"]))
        parts["right"].append(first + np.where(leaf, itself, nodes["right"]))
        parts["value"].append(np.where(leaf, nodes["value"], 0.0))
        deepest = max(deepest, int(nodes["depth"].max()))
        first += len(nodes)
    joined = {key: np.concatenate(values) for key, values in parts.items()}
    return Trees(
        np.asarray(roots, np.int64),
        joined["feature"].astype(np.int64),
        joined["threshold"].astype(np.float64),
        joined["left"].astype(np.int64),
        joined["right"].astype(np.int64),
        joined["value"].astype(np.float64),
        np.asarray([deepest], np.int64),
        np.asarray(model._baseline_prediction, np.float64).ravel(),
    )


def packed(parts: Mapping[str, Plain]) -> tuple[dict[str, str], Arrays]:
    """Return the kinds of some functions by name, and all of their arrays as NAME.FIELD."""
    kinds = {name: type(part).__name__ for name, part in parts.items()}
    arrays = {
        f"{name}.{field}": array
        for name, part in parts.items()
        for field, array in part.arrays().items()
    }
    return kinds, arrays


def unpacked(kinds: Mapping[str, str], arrays: Mapping[str, npt.NDArray[Any]]) -> dict[str, Plain]:
    """Return the functions that ``packed`` took apart; KeyError for what is not there."""
    return {
        name: KINDS[kind](*(arrays[f"{name}.{f.name}"] for f in fields(KINDS[kind])))  # type: ignore[arg-type]
        for name, kind in kinds.items()
    }
