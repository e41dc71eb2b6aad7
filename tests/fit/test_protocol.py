from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stages.fit.protocol import MIN_OTHER, MIN_TRAIN, SplitError, split_groups


@settings(max_examples=30, deadline=None)
@given(st.integers(8, 25), st.integers(3, 8), st.integers(0, 1000))
def test_no_group_stands_in_two_parts(persons: int, each: int, seed: int) -> None:
    group = [f"p{k % persons}" for k in range(persons * each)]
    score = np.random.default_rng(seed).normal(size=len(group))
    parts = split_groups(score, group, val=0.2, test=0.3, seed=seed)
    assert all(len({p for p, g in zip(parts, group, strict=True) if g == x}) == 1 for x in group)
    assert set(parts) == {"train", "val", "test"}
    assert parts.count("train") >= MIN_TRAIN
    assert min(parts.count("val"), parts.count("test")) >= MIN_OTHER


def test_sizes_are_those_asked_for() -> None:
    group = [f"p{k % 20}" for k in range(120)]
    parts = split_groups(np.arange(120.0), group, val=0.15, test=0.4)
    assert [parts.count(p) for p in ("train", "val", "test")] == [54, 18, 48]


def test_seeded() -> None:
    group = [str(k) for k in range(60)]
    score = np.random.default_rng(0).normal(size=60)
    first = split_groups(score, group, seed=1)
    assert split_groups(score, group, seed=1) == first
    assert split_groups(score, group, seed=2) != first


def test_parts_have_similar_scores() -> None:
    rng = np.random.default_rng(3)
    score = rng.exponential(size=100)
    parts = np.array(split_groups(score, [str(k) for k in range(100)], val=0.2, test=0.2))
    for part in ("val", "test"):
        assert abs(score[parts == part].mean() - score.mean()) < 0.2 * score.std()


def test_one_large_group_and_many_small_ones() -> None:
    group = ["big"] * 50 + [f"p{k}" for k in range(50)]
    parts = split_groups(np.arange(100.0), group)
    assert set(parts[:50]) == {"train"}


def test_too_few_clips() -> None:
    with pytest.raises(SplitError, match=r"9 labelled clips in 9 groups") as caught:
        split_groups(np.arange(9.0), [str(k) for k in range(9)])
    assert "at least 14 clips" in caught.value.hint
    assert caught.value.exit_code == 2


def test_enough_clips_but_not_with_these_shares() -> None:
    with pytest.raises(SplitError, match=r"16 labelled clips in 16 groups") as caught:
        split_groups(np.arange(16.0), [str(k) for k in range(16)])
    assert "raise split.val and split.test" in caught.value.hint


def test_too_few_persons() -> None:
    with pytest.raises(SplitError, match=r"40 labelled clips of 2 group") as caught:
        split_groups(np.arange(40.0), ["a", "b"] * 20)
    assert "more persons" in caught.value.hint


@pytest.mark.parametrize(("val", "test"), [(0, 0.2), (0.5, 0.5), (0.2, 1.0), (-0.1, 0.3)])
def test_impossible_shares(val: float, test: float) -> None:
    with pytest.raises(SplitError, match="sum below 1"):
        split_groups(np.arange(40.0), [str(k) for k in range(40)], val=val, test=test)
