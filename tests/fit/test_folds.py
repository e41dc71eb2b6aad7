from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stages.fit.folds import check_training_sides, grouped_folds, inner_split, leak
from stages.fit.protocol import SplitError


@settings(max_examples=25, deadline=None)
@given(st.integers(8, 20), st.integers(1, 5), st.integers(2, 5), st.integers(0, 99))
def test_no_group_stands_in_two_folds_and_every_clip_is_tested_once(
    persons: int, each: int, folds: int, seed: int
) -> None:
    group = [f"p{k % persons}" for k in range(persons * each)]
    score = np.random.default_rng(seed).normal(size=len(group))
    dealt = grouped_folds(score, group, folds, 2, seed)
    assert dealt.shape == (2, len(group))
    for row in dealt:
        assert set(row) == set(range(folds))
        for person in set(group):
            assert len({f for f, g in zip(row, group, strict=True) if g == person}) == 1


def test_seeded_and_dealt_anew_in_each_repeat() -> None:
    group = [str(k) for k in range(40)]
    score = np.random.default_rng(0).normal(size=40)
    first = grouped_folds(score, group, 4, 3, seed=1)
    np.testing.assert_array_equal(grouped_folds(score, group, 4, 3, seed=1), first)
    assert (grouped_folds(score, group, 4, 3, seed=2) != first).any()
    assert (first[0] != first[1]).any() and (first[1] != first[2]).any()
    np.testing.assert_array_equal(grouped_folds(score, group, 4, 1, seed=1), first[:1])


def test_folds_are_of_like_size_and_score() -> None:
    rng = np.random.default_rng(3)
    group = [f"p{k % 30}" for k in range(120)]
    score = rng.normal(size=120)
    for row in grouped_folds(score, group, 5, 3):
        assert set(np.bincount(row)) == {24}
        means = [score[row == fold].mean() for fold in range(5)]
        by_chance = [score[rng.permutation(120)[:24]].mean() for _ in range(200)]
        assert np.std(means) < np.std(by_chance)


def test_the_inner_split_keeps_groups_together() -> None:
    group = [f"p{k % 15}" for k in range(60)]
    chooses = inner_split(np.arange(60.0), group, 0.2, seed=1)
    assert chooses.sum() == 12
    mine = {g for g, c in zip(group, chooses, strict=True) if c}
    assert not mine & {g for g, c in zip(group, chooses, strict=True) if not c}
    np.testing.assert_array_equal(chooses, inner_split(np.arange(60.0), group, 0.2, seed=1))


def test_too_few_groups() -> None:
    with pytest.raises(SplitError, match=r"40 labelled clips of 4 group.*at least 5") as caught:
        grouped_folds(np.arange(40.0), [f"p{k % 4}" for k in range(40)], 4)
    assert "fewer --folds" in caught.value.hint
    with pytest.raises(SplitError, match="2 folds"):
        grouped_folds(np.arange(40.0), [str(k) for k in range(40)], 1)
    with pytest.raises(SplitError, match="9 training clips in 9 groups"):
        inner_split(np.arange(9.0), [str(k) for k in range(9)])
    with pytest.raises(SplitError, match="in 1 groups"):
        inner_split(np.arange(20.0), ["a"] * 20)


def test_networks_need_two_groups_beside_the_tested_fold() -> None:
    """3 groups in 2 folds: one side has a single group, and more folds are not to be had."""
    three = ["a"] * 6 + ["b"] * 6 + ["c"] * 6
    with pytest.raises(SplitError, match="3 groups .* in 2 folds leave 1 to train on") as caught:
        check_training_sides(grouped_folds(np.arange(18.0), three, 2, 1), three)
    assert "at least 4 persons, for --folds 3" in caught.value.hint
    uneven = [*three, "d"]
    folds = np.array([[0] * 18 + [1]])
    with pytest.raises(SplitError, match="leave 1") as caught:
        check_training_sides(folds, uneven)
    assert caught.value.hint == "ask for --folds 3"
    check_training_sides(grouped_folds(np.arange(19.0), uneven, 3, 2), uneven)


def test_leaks_are_counted_and_told() -> None:
    folds = np.array([[0, 1, 0, 1, 0, 0], [0, 0, 1, 1, 0, 1]])
    persons = ["a", "a", "b", "b", "c", "d"]
    found = leak(folds, persons)
    # Repeat 0: a and b on both sides, 4 clips of 6. Repeat 1: nobody.
    assert (found.persons, found.all_persons) == (2, 4)
    assert found.share == pytest.approx(2 / 6)
    assert found.sentence("single clips").startswith(
        "LEAK: folds made of single clips put 2 of the 4 persons that the embeddings show on both "
        "sides; 33% of the tested clips show somebody whom the model was trained on."
    )


def test_no_leak_is_told_too() -> None:
    found = leak(np.array([[0, 0, 1]]), ["a", "a", "b"])
    assert found.sentence("persons").startswith("No leak was found: none of the 2 persons")
