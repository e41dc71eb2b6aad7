from __future__ import annotations

import math
import warnings

import numpy as np
import pandas as pd
import pingouin
import pytest
from sklearn.metrics import mean_squared_error

from stages.fit.agreement import agree, icc31, mse
from stages.fit.bootstrap import draw_weights, interval


@pytest.mark.parametrize("seed", range(4))
def test_icc_and_mse_are_those_of_the_references(seed: int) -> None:
    rng = np.random.default_rng(seed)
    n = int(rng.integers(5, 60))
    y = rng.integers(0, 6, n).astype(float)
    x = rng.normal(0.5) + rng.uniform(0.2, 1.5) * y + rng.normal(size=n)
    long = pd.DataFrame(
        {
            "frame": np.tile(np.arange(n), 2),
            "rater": np.repeat(["model", "label"], n),
            "value": np.r_[x, y],
        }
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        table = pingouin.intraclass_corr(long, "frame", "rater", "value").set_index("Type")
    name = "ICC3" if "ICC3" in table.index else "ICC(C,1)"
    assert abs(icc31(x, y) - float(table.loc[name, "ICC"])) < 1e-9
    assert abs(mse(x, y) - mean_squared_error(y, x)) < 1e-9


def test_icc_knows_offset_from_scale() -> None:
    y = np.arange(10.0)
    assert icc31(y + 3, y) == pytest.approx(1)  # consistency: an offset is forgiven
    assert icc31(2 * y, y) == pytest.approx(0.8)  # 2 * 2 / (4 + 1)
    assert icc31(-y, y) == pytest.approx(-1)
    assert math.isnan(icc31(np.ones(4), np.ones(4)))
    assert math.isnan(icc31([1.0], [1.0])) and math.isnan(mse([], []))


def test_interval_is_the_one_of_draws_made_frame_by_frame() -> None:
    rng = np.random.default_rng(0)
    person = np.repeat(np.arange(6), 20)
    y = rng.normal(size=120) + rng.normal(size=6)[person] + 100
    x = y + rng.normal(size=120) * 0.7
    x[3] = np.nan
    found = agree(x, y, person.tolist(), samples=300, seed=1)
    assert (found.n, found.groups) == (119, 6)
    assert found.icc == pytest.approx(icc31(np.delete(x, 3), np.delete(y, 3)))
    assert found.icc_low < found.icc < found.icc_high
    assert found.mse_low < found.mse < found.mse_high
    values = []
    rows = np.flatnonzero(np.isfinite(x))
    for block in draw_weights(np.arange(6), 300, 1):
        for weights in block:
            drawn = np.repeat(rows, weights[person[rows]].astype(int))
            values.append(icc31(x[drawn], y[drawn]))
    expected = interval("pc", found.icc, np.asarray(values), 6)
    assert (found.icc_low, found.icc_high) == pytest.approx(expected, abs=1e-9)


def test_nothing_known_is_nan_not_an_error() -> None:
    found = agree(np.full(3, np.nan), np.zeros(3), ["a", "b", "c"])
    assert found.n == 0 and found.to_dict()["icc"] is None
