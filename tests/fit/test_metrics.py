from __future__ import annotations

import json
import math

import numpy as np
import pytest
from scipy import stats

from stages.fit.metrics import bootstrap_src, measure, pearson, spearman


@pytest.mark.parametrize("ties", [False, True])
def test_src_and_pc_agree_with_scipy(ties: bool) -> None:
    rng = np.random.default_rng(1)
    a, b = rng.normal(size=60), rng.normal(size=60)
    if ties:
        a, b = np.round(a), np.round(b)
    m = measure(a, b, samples=100)
    assert m.src == pytest.approx(stats.spearmanr(a, b).statistic, abs=1e-12)
    assert m.pc == pytest.approx(stats.pearsonr(a, b).statistic, abs=1e-12)


def test_src_of_distinct_ranks_is_the_printed_formula() -> None:
    p, g = np.array([1.0, 5, 2, 4, 3]), np.array([2.0, 3, 1, 5, 4])
    d = stats.rankdata(p) - stats.rankdata(g)
    assert spearman(p, g) == pytest.approx(1 - 6 * (d**2).sum() / (5 * 24), abs=1e-12)


def test_mae_rmse_and_n() -> None:
    m = measure([1.0, 2.0, 4.0], [1.0, 4.0, 3.0], samples=100)
    assert (m.n, m.mae) == (3, 1.0)
    assert m.rmse == pytest.approx(math.sqrt(5 / 3))


def test_constant_predictions_have_no_src_rather_than_0() -> None:
    m = measure([1.0] * 10, np.arange(10.0), samples=100)
    assert math.isnan(m.src) and math.isnan(m.pc) and math.isnan(m.src_low)
    assert m.mae == 3.7
    assert m.to_dict()["src"] is None
    assert json.loads(json.dumps(m.to_dict(), allow_nan=False))["n"] == 10


def test_pairs_that_are_not_finite_are_left_out_and_not_counted() -> None:
    m = measure([1, 2, np.nan, 4, 5], [1, 2, 3, np.inf, 5], ["a", "b", "c", "d", "a"], samples=100)
    assert (m.n, m.groups, m.mae) == (3, 2, 0.0)
    assert m.src == pytest.approx(1)


def test_no_clips_at_all() -> None:
    m = measure([], [])
    assert m.n == 0 and math.isnan(m.mae) and math.isnan(m.src)


def test_interval_is_seeded_and_holds_the_estimate() -> None:
    rng = np.random.default_rng(2)
    g = rng.normal(size=80)
    p = g + rng.normal(size=80)
    m = measure(p, g, samples=400, seed=3)
    assert m.src_low < m.src < m.src_high
    assert measure(p, g, samples=400, seed=3) == m
    assert measure(p, g, samples=400, seed=4).src_low != m.src_low


def test_interval_of_grouped_clips_is_wider() -> None:
    rng = np.random.default_rng(5)
    person = np.repeat(np.arange(8), 20)
    p, g = (rng.normal(size=8)[person] + 0.1 * rng.normal(size=160) for _ in range(2))
    alone = bootstrap_src(p, g, list(range(160)), samples=400)
    grouped = bootstrap_src(p, g, person.tolist(), samples=400)
    assert grouped[1] - grouped[0] > 2 * (alone[1] - alone[0])


def test_interval_covers_the_truth_about_as_often_as_it_says() -> None:
    rng = np.random.default_rng(6)
    rho = 0.5
    truth = 6 / math.pi * math.asin(rho / 2)  # Spearman of a bivariate normal
    hits = 0
    for trial in range(80):
        x = rng.normal(size=60)
        y = rho * x + math.sqrt(1 - rho**2) * rng.normal(size=60)
        low, high = bootstrap_src(x, y, list(range(60)), samples=100, seed=trial)
        hits += low <= truth <= high
    assert 0.86 <= hits / 80 <= 0.995


def test_one_group_has_no_interval() -> None:
    m = measure([1.0, 2, 3, 4], [1.0, 3, 2, 4], ["a"] * 4, samples=100)
    assert m.src == pytest.approx(0.8)
    assert math.isnan(m.src_low) and math.isnan(m.src_high)


def test_wrong_lengths_are_refused() -> None:
    with pytest.raises(ValueError, match=r"\(n,\)"):
        measure([1.0, 2.0], [1.0])
    with pytest.raises(ValueError, match="2 entries"):
        measure([1.0, 2.0], [1.0, 2.0], ["a"])


def test_two_clips_have_no_correlation() -> None:
    assert math.isnan(pearson(np.array([1.0, 2.0]), np.array([1.0, 2.0])))
