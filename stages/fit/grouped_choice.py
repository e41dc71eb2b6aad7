"""How strongly to regularise, chosen on clips that share no group (person) with those fitted on."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from sklearn.ensemble import HistGradientBoostingRegressor
from sklearn.model_selection import GroupShuffleSplit

FloatArray = npt.NDArray[np.float64]
Codes = npt.NDArray[np.int64]
HELD_OUT = 0.1  # share of the clips that boosting stops by, as scikit-learn's own
PATIENCE = 10  # trees without a lower error before it stops, as well


def has_groups(group: Codes) -> bool:
    """Whether some clips share a group, and not all of them one: else there is nothing to heed."""
    return 1 < len(np.unique(group)) < len(group)


def ridge_alpha(x: FloatArray, y: FloatArray, group: Codes, alphas: FloatArray) -> float:
    """Return the alpha with the least squared error where one group at a time is left out.

    Ridge need not be fitted once a group: with H what turns labels into fitted values, those of a
    group that was left out err by (I - H_gg)^-1 times the residuals, as with single clips.

    Parameters
    ----------
    x : (n, D)
    y : (n,)
    group : (n,) int
        Two groups or more.
    alphas : (A,)
    """
    centred = x - x.mean(axis=0)
    if len(x) <= x.shape[1]:
        squares, basis = np.linalg.eigh(centred @ centred.T)
        squares = np.maximum(squares, 0)
    else:
        basis, singular, _ = np.linalg.svd(centred, full_matrices=False)
        squares = singular**2
    off = y - y.mean()
    along = basis.T @ off
    rows_of = [np.flatnonzero(group == code) for code in np.unique(group)]
    errors = []
    for alpha in alphas:
        shrink = squares / (squares + alpha)
        residual = off - basis @ (shrink * along)
        total = 0.0
        for rows in rows_of:
            hat = (basis[rows] * shrink) @ basis[rows].T + 1 / len(y)
            left_out = np.linalg.solve(np.eye(len(rows)) - hat, residual[rows])
            total += float(left_out @ left_out)
        errors.append(total)
    return float(alphas[int(np.argmin(errors))])


def tree_count(
    machine: HistGradientBoostingRegressor, x: FloatArray, y: FloatArray, group: Codes, seed: int
) -> int:
    """Return after how many trees boosting stops gaining on groups that were left out.

    Parameters
    ----------
    machine : HistGradientBoostingRegressor
        Without early stopping of its own, which draws clips whoever they are of; fitted here.
    x, y : (n, D), (n,)
    group : (n,) int
    seed : int
        Of the groups that are left out, a tenth.
    """
    split = GroupShuffleSplit(1, test_size=HELD_OUT, random_state=seed)
    ((train, held),) = split.split(x, groups=group)
    machine.fit(x[train], y[train])
    best, trees = np.inf, 1
    predictions: Any = machine.staged_predict(x[held])
    for count, prediction in enumerate(predictions, start=1):
        error = float(((prediction - y[held]) ** 2).mean())
        if error < best:
            best, trees = error, count
        elif count - trees >= PATIENCE:
            break
    return trees
