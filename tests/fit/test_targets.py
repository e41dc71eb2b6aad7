from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from stages.fit.targets import Normalise, Target

SCORE = np.array([1.0, 2, 3, 6, 10, 30, 20, 60])
SUBSET = ["a"] * 4 + ["b"] * 4


def test_zscores_are_by_subset() -> None:
    found = Target("zscore", SCORE, SUBSET)(SCORE, SUBSET)
    np.testing.assert_allclose(found[:4], stats.zscore(SCORE[:4]))
    np.testing.assert_allclose(found[4:], stats.zscore(SCORE[4:]))


def test_ranks_are_by_subset_and_ties_share_theirs() -> None:
    target = Target("rank", SCORE, SUBSET)
    found = target(SCORE, SUBSET)
    np.testing.assert_allclose(found[:4], stats.norm.ppf(np.arange(1, 5) / 5))
    assert stats.rankdata(found[4:]).tolist() == [1, 3, 2, 4]
    assert target([2.5], ["a"])[0] == pytest.approx(0)
    tied = Target("rank", [1.0, 1, 1, 4], ["a"] * 4)
    assert tied([1.0], ["a"])[0] == pytest.approx(stats.norm.ppf(2 / 5))


@pytest.mark.parametrize("kind", ["none", "zscore", "rank"])
def test_test_clips_change_nothing_and_keep_their_order(kind: Normalise) -> None:
    target = Target(kind, SCORE, SUBSET)
    alone = target([5.0], ["a"])
    among = target([1000.0, 5.0, -3.0, 7.0], ["a", "a", "a", "b"])
    assert among[1] == alone[0]
    assert among[2] < among[1] < among[0] and np.isfinite(among).all()


@pytest.mark.parametrize("kind", ["zscore", "rank"])
def test_a_subset_that_was_not_trained_on_takes_the_scale_of_all(kind: Normalise) -> None:
    target = Target(kind, SCORE, SUBSET)
    everything = Target(kind, SCORE, ["x"] * 8)
    assert target([7.0], ["new"])[0] == everything([7.0], ["x"])[0]


def test_none_leaves_scores_as_they_are() -> None:
    np.testing.assert_array_equal(Target("none", SCORE, SUBSET)(SCORE, SUBSET), SCORE)
