from __future__ import annotations

import numpy as np
import pytest
from sklearn.ensemble import HistGradientBoostingRegressor
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import RBF, ConstantKernel, WhiteKernel
from sklearn.linear_model import BayesianRidge, RidgeCV
from sklearn.svm import SVR

from stages.fit.plain import packed, plain, unpacked

GP = ConstantKernel(2.0) * RBF(1.5) + WhiteKernel(0.1)


@pytest.mark.parametrize(
    "model",
    [
        RidgeCV([0.1, 1.0]),
        BayesianRidge(),
        SVR(C=2.0, gamma=0.1),
        GaussianProcessRegressor(GP),
        HistGradientBoostingRegressor(max_iter=30, min_samples_leaf=3, max_leaf_nodes=8),
        HistGradientBoostingRegressor(max_iter=3, min_samples_leaf=500),  # nothing but roots
    ],
    ids=lambda model: type(model).__name__,
)
def test_plain_arrays_predict_what_the_regressor_predicts(model: object) -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(120, 5))
    y = np.sin(x[:, 0]) + x[:, 1] * x[:, 2] + rng.normal(size=120) * 0.1
    model.fit(x[:80], y[:80])  # type: ignore[attr-defined]
    found = plain(model)
    many = np.tile(x[80:], (30, 1))  # more than are computed at once
    expected = model.predict(many)  # type: ignore[attr-defined]
    np.testing.assert_allclose(found(many), expected, rtol=1e-9, atol=1e-9)
    again = unpacked(*packed({"a": found}))["a"]
    np.testing.assert_array_equal(again(many), found(many))
