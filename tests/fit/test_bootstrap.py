from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from stages.fit.bootstrap import Drawn, draw_weights, draws, group_codes, interval
from stages.fit.metrics import bootstrap_src

# Spearman's correlation of two normal variables of which this is Pearson's.
RHO = 0.5
TRUTH = 6 / math.pi * math.asin(RHO / 2)


def scipy_value(statistic: Drawn, p: np.ndarray, g: np.ndarray) -> float:
    return float((stats.spearmanr if statistic == "src" else stats.pearsonr)(p, g).statistic)


@pytest.mark.parametrize("statistic", ["src", "pc"])
@pytest.mark.parametrize("decimals", [0, 8])
def test_draws_are_what_scipy_says_of_the_clips_drawn(statistic: Drawn, decimals: int) -> None:
    rng = np.random.default_rng(0)
    code = np.repeat(np.arange(10), 4)
    g = np.round(rng.normal(size=40), decimals)
    p = np.round(g + rng.normal(size=40), decimals)
    times = np.concatenate(list(draw_weights(code, 60, 3))).astype(int)
    by_hand = [scipy_value(statistic, np.repeat(p, k), np.repeat(g, k)) for k in times]
    np.testing.assert_allclose(
        draws(statistic, p, g, code, samples=60, seed=3), by_hand, atol=1e-12
    )


def test_whole_groups_are_drawn_as_many_as_there_are() -> None:
    code = np.array([0, 0, 1, 2, 2, 2])
    weights = np.concatenate(list(draw_weights(code, 500, 0)))
    assert weights.shape == (500, 6)
    assert (weights[:, 0] == weights[:, 1]).all() and (weights[:, 3] == weights[:, 5]).all()
    assert (weights[:, [0, 2, 3]].sum(axis=1) == 3).all()
    assert set(np.unique(weights)) == {0, 1, 2, 3}


def test_draws_do_not_depend_on_how_many_fit_into_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    code = np.arange(12)
    rng = np.random.default_rng(1)
    p, g = rng.normal(size=(2, 12))
    whole = draws("src", p, g, code, samples=50)
    monkeypatch.setattr("stages.fit.bootstrap.CELLS", 12 * 7)
    np.testing.assert_array_equal(draws("src", p, g, code, samples=50), whole)


def test_a_draw_over_repeats_is_the_mean_of_them() -> None:
    rng = np.random.default_rng(2)
    p, g = rng.normal(size=(2, 3, 20))
    code = np.repeat(np.arange(5), 4)
    alone = [draws("src", p[r], g[r], code, samples=30) for r in range(3)]
    np.testing.assert_allclose(draws("src", p, g, code, samples=30), np.mean(alone, axis=0))


def test_constant_draws_are_not_a_number() -> None:
    p, g = np.array([1.0, 1, 1, 2]), np.arange(4.0)
    values = draws("src", p, g, np.arange(4), samples=400)
    without_the_two = np.concatenate(list(draw_weights(np.arange(4), 400, 0)))[:, 3] == 0
    assert np.isnan(values[without_the_two]).all() and np.isfinite(values).any()


def simulate(rng: np.random.Generator, groups: int, clips: int, within: float) -> tuple[float, ...]:
    """One data set of unequal groups; whether its interval lies below, around or above the truth.

    ``within`` is the share of the variance that clips of one person have in common.
    """
    sizes = 1 + rng.poisson(clips - 1, size=groups) if clips > 1 else np.ones(groups, int)
    code = np.repeat(np.arange(groups), sizes)
    mix = np.linalg.cholesky(np.array([[1, RHO], [RHO, 1]]))
    shared, own = mix @ rng.normal(size=(2, groups)), mix @ rng.normal(size=(2, len(code)))
    p, g = math.sqrt(within) * shared[:, code] + math.sqrt(1 - within) * own
    return bootstrap_src(p, g, code.tolist(), samples=200, seed=int(rng.integers(1 << 30)))


@pytest.mark.parametrize(
    ("groups", "clips", "within"),
    [(40, 1, 0.0), (100, 1, 0.0), (5, 8, 0.5), (8, 6, 0.8), (12, 5, 0.5), (30, 4, 0.7)],
)
def test_a_95_percent_interval_holds_the_truth_so_often(
    groups: int, clips: int, within: float
) -> None:
    rng = np.random.default_rng(7)
    held = [low <= TRUTH <= high for low, high in
            (simulate(rng, groups, clips, within) for _ in range(1000))]  # fmt: skip
    # 1,000 simulations of a true 95 % have a standard error of 0.7 %.
    assert 0.92 <= np.mean(held) <= 0.98


def test_taking_clips_of_one_person_for_independent_would_fail_that() -> None:
    rng = np.random.default_rng(8)
    held = 0
    for _ in range(300):
        code = np.repeat(np.arange(10), 8)
        mix = np.linalg.cholesky(np.array([[1, RHO], [RHO, 1]]))
        p, g = (mix @ rng.normal(size=(2, 10)))[:, code] + 0.5 * mix @ rng.normal(size=(2, 80))
        low, high = bootstrap_src(p, g, list(range(80)), samples=100)
        held += low <= TRUTH <= high
    assert held / 300 < 0.8


def test_intervals_stay_where_the_statistic_can_be() -> None:
    values = np.random.default_rng(0).normal(0.95, 0.1, size=500)
    low, high = interval("src", 0.95, values, 6)
    assert -1 < low < 0.95 < high < 1


def test_a_perfect_ranking_has_an_interval_that_ends_at_1() -> None:
    low, high = interval("src", 1.0, np.array([1.0, 0.9, 1.0]), 4)
    assert (low, high) == (0.9, 1.0)


def test_no_interval_without_two_groups_or_without_draws() -> None:
    assert all(map(math.isnan, interval("src", 0.5, np.array([0.5, 0.4]), 1)))
    assert all(map(math.isnan, interval("src", 0.5, np.array([np.nan, np.nan, 0.4]), 9)))
    assert all(map(math.isnan, interval("src", math.nan, np.array([0.1, 0.4]), 9)))


def test_group_codes_number_names() -> None:
    assert group_codes(["b", "a", "b"]).tolist() == [1, 0, 1]
