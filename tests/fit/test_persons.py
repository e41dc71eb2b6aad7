from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import store
from stages.fit import persons
from stages.fit.persons import PersonsError, cluster_persons, compare_persons, mean_embeddings
from stages.fit.spans import clip_spans
from tests.fit.study_clips import like_lite


def test_persons_as_far_apart_as_the_lite_packs_are_found_exactly() -> None:
    rng = np.random.default_rng(0)
    who = np.sort(rng.integers(40, size=200))
    noisy = like_lite(rng, who) + rng.normal(size=(200, 512)) * 0.01
    noisy /= np.linalg.norm(noisy, axis=1, keepdims=True)
    agreed = compare_persons(cluster_persons(noisy), [f"p{k}" for k in who])
    assert (agreed.rand, agreed.merged, agreed.divided) == (1.0, 0, 0)


def test_the_threshold_decides() -> None:
    rows = like_lite(np.random.default_rng(1), [0, 0, 0, 1, 1, 1])
    assert len(set(cluster_persons(rows, 0.9))) == 6
    assert len(set(cluster_persons(rows, 0.3))) == 2
    assert len(set(cluster_persons(rows, -0.5))) == 1


def test_persons_are_numbered_by_first_appearance() -> None:
    rows = like_lite(np.random.default_rng(2), [1, 0, 1, 0])
    assert cluster_persons(rows) == ["person 0001", "person 0002", "person 0001", "person 0002"]
    assert cluster_persons(rows[:1]) == ["person 0001"]


def test_differences_from_the_named_persons_are_told() -> None:
    agreed = compare_persons(["1", "1", "2", "3", "3", "9"], ["a", "b", "c", "c", "c", ""])
    assert (agreed.found, agreed.named, agreed.merged, agreed.divided) == (3, 3, 1, 1)
    assert "1 of those found bear several names, 1 names fall on several" in agreed.sentence()


def test_mean_embeddings_are_of_valid_frames_in_the_order_asked_for(
    made: tuple[Path, Path],
) -> None:
    source = store.open(made[0])
    spans = list(clip_spans(source).values())[4:1:-1]
    rows = mean_embeddings(source, spans)
    held = source.clip(spans[0].clip)
    mean = held["embedding"][held["valid"]].astype(np.float64).mean(axis=0)
    np.testing.assert_allclose(rows[0], mean / np.linalg.norm(mean), atol=1e-12)
    np.testing.assert_allclose(np.linalg.norm(rows, axis=1), 1)


def test_too_many_clips_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(persons, "MOST_CLIPS", 3)
    with pytest.raises(PersonsError, match="at most 3 clips, these are 4") as caught:
        cluster_persons(np.eye(4))
    assert "--group person" in caught.value.hint
