"""Where the label of one new clip lies, by how far a run was off on the clips it was tested on."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd

from stages.fit.run_files import PREDICTIONS, RunError

LEVEL = 0.95
_NORMAL = 1.96  # standard deviations to either side that hold 95 % of a normal distribution


def half_width(residuals: npt.NDArray[np.float64]) -> float:
    """Return how far the labels of new clips lie from their predictions in 95 of 100 cases.

    Split conformal prediction: of n held-out residuals the ceil((n + 1) 0.95)-th smallest in size,
    which holds a new clip's label with at least 95 % probability, whatever their distribution, if
    it is drawn as the held-out ones were. With fewer than 19 there is no such residual: then 1.96
    times their root mean square, as if they were normal. NaN of none.

    Parameters
    ----------
    residuals : (n,) float64
        Predictions less labels, of clips that the model did not learn from.
    """
    sizes = np.sort(np.abs(residuals[np.isfinite(residuals)]))
    if not len(sizes):
        return math.nan
    # In whole hundredths, for 0.95 is no binary fraction.
    rank = -(-(len(sizes) + 1) * round(100 * LEVEL) // 100)
    if rank > len(sizes):
        return _NORMAL * math.sqrt(float((sizes**2).mean()))
    return float(sizes[rank - 1])


def half_width_of(run_dir: Path) -> float:
    """Return ``half_width`` by the held-out clips of a run; NaN if it has no table of them.

    Raises
    ------
    RunError
        The table cannot be read.
    """
    path = run_dir / PREDICTIONS
    if not path.exists():
        return math.nan
    try:
        table = pd.read_csv(path, usecols=["part", "target", "prediction"])
        held = table[table["part"] == "test"]
        return half_width((held["prediction"] - held["target"]).to_numpy(np.float64))
    except (OSError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise RunError(f"{path}: cannot be read ({reason})", "fit again") from None
