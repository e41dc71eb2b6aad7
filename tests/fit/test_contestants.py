from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import store
from stages.fit.config import ConfigError
from stages.fit.contestants import (
    attribute_columns,
    attribute_ridge,
    attribute_table,
    choose_contestants,
)
from stages.fit.fitting import shuffle_frames
from stages.fit.loader import ClipLoader
from stages.fit.models import ModelError
from stages.fit.spaces import Search
from stages.fit.spans import clip_spans


def test_the_baselines_stand_by_whatever_is_asked_for() -> None:
    found = choose_contestants(["2stcn"], ["epochs=3", "model.channels=4"], ["gender"])
    assert [c.name for c in found] == [
        "2stcn",
        "2stcn (frames shuffled)",
        "meanpool",
        "attributes only",
        "constant",
    ]
    assert [c.shuffled for c in found] == [False, True, False, False, False]
    assert found[1].config.model_options == {"channels": 4}
    assert all(c.config.train.epochs == 3 for c in found)
    assert found[1].slug == "2stcn-frames-shuffled"


def test_meanpool_stands_once_and_is_not_shuffled() -> None:
    found = choose_contestants(["meanpool", "2stcn"], [], [])
    assert [c.name for c in found] == ["meanpool", "2stcn", "2stcn (frames shuffled)", "constant"]
    found = choose_contestants(["deep", "meanpool", "blind"], ["model.regressor=ridge"], [])
    assert [c.name for c in found] == ["deep", "meanpool", "blind", "constant"]
    assert [c.config.stream for c in found[:2]] == ["appearance+embedding", "appearance"]
    (deep,) = choose_contestants(["deep"], ["stream=embedding"], [])[:1]
    assert deep.config.stream == "embedding"


def test_unknown_models_and_settings_are_refused() -> None:
    with pytest.raises(ModelError, match="no model named 'lstm'") as caught:
        choose_contestants(["lstm"], [], [])
    assert "2stcn" in caught.value.hint and "meanpool" in caught.value.hint
    with pytest.raises(ConfigError, match="did you mean 'model.channels'"):
        choose_contestants(["2stcn", "meanpool"], ["model.chanels=3"], [])
    with pytest.raises(ModelError, match="channels"):
        choose_contestants(["meanpool"], ["model.channels=3"], [])
    with pytest.raises(ConfigError, match="each model once"):
        choose_contestants(["2stcn", "2stcn"], [], [])
    with pytest.raises(ConfigError, match="none given"):
        choose_contestants([], [], [])


def test_attributes_are_known_names_or_those_given() -> None:
    table = pd.DataFrame(
        {"clip": ["a", "b"], "score": [1.0, 2.0], "Gender": ["f", "m"], "views": ["9", "8"],
         "sex": ["f", "f"]}
    )  # fmt: skip
    assert attribute_columns(table, []) == (["Gender"], ["sex"])  # one value says nothing
    assert attribute_columns(table, ["views"]) == (["views"], [])
    with pytest.raises(ConfigError, match="no column 'age'"):
        attribute_columns(table, ["age"])


def test_attributes_predict_by_numbers_and_words_with_gaps() -> None:
    rng = np.random.default_rng(0)
    age, sex = rng.integers(18, 60, size=120), rng.choice(["f", "m"], size=120)
    table = pd.DataFrame({"age": age.astype(str), "sex": sex})
    table.loc[3, "age"] = ""
    score = age / 10 + 3.0 * (sex == "f")
    columns = attribute_table(table, ["age", "sex"])
    model = attribute_ridge(table, ["age", "sex"]).fit(columns[:80], score[:80])
    assert np.corrcoef(model.predict(columns[80:]), score[80:])[0, 1] > 0.99
    stranger = pd.DataFrame({"age": [30.0], "sex": ["other"]})
    assert np.isfinite(model.predict(stranger)).all()


@pytest.fixture
def clips(made: tuple[Path, Path]) -> Iterator[tuple[ClipLoader, ClipLoader]]:
    source = store.open(made[0])
    spans = list(clip_spans(source).values())[:6]
    yield ClipLoader(source, spans), ClipLoader(source, spans, change=shuffle_frames(3))


def test_shuffled_frames_are_the_same_frames_in_another_order(
    clips: tuple[ClipLoader, ClipLoader],
) -> None:
    moved = 0
    for a, b in zip(clips[0].iter_clips(), clips[1].iter_clips(), strict=True):
        order = np.array([np.flatnonzero((a.landmark == row).all(axis=1))[0]
                          for row in b.landmark[b.valid]])  # fmt: skip
        assert len(set(order)) == len(order) == a.valid.sum()
        np.testing.assert_array_equal(b.appearance[b.valid], a.appearance[order])
        np.testing.assert_array_equal(a.timestamp, b.timestamp)
        moved += int((np.diff(order) < 0).sum())
    assert moved > 6


def test_a_clip_is_shuffled_the_same_way_every_time_it_is_read(
    clips: tuple[ClipLoader, ClipLoader],
) -> None:
    first = [c.landmark for c in clips[1].iter_clips()]
    clips[1].release()
    again = [c.landmark for c in clips[1].iter_clips()]
    assert all((a == b).all() for a, b in zip(first, again, strict=True))
    other = [shuffle_frames(4)(c).landmark for c in clips[0].iter_clips()]
    assert any((a != b).any() for a, b in zip(first, other, strict=True))


def test_options_go_to_the_pooled_models_that_take_them() -> None:
    settings = ["model.regressor=boosting", "model.channels=4"]
    found = choose_contestants(["2stcn", "statpool"], settings, [])
    assert [c.name for c in found] == [
        "2stcn",
        "statpool",
        "2stcn (frames shuffled)",
        "statpool (frames shuffled)",
        "meanpool",
        "constant",
    ]
    assert found[0].config.model_options == {"channels": 4}
    assert found[1].config.model_options == {"regressor": "boosting"}
    assert found[4].config.model_options == {}
    with pytest.raises(ModelError, match="none"):
        choose_contestants(["statpool"], ["model.regressor=none"], [])


def test_the_regressor_decides_what_else_can_be_set() -> None:
    chosen = choose_contestants(["meanpool"], ["model.c=3", "model.regressor=svr"], [])[0]
    assert chosen.config.model_options == {"regressor": "svr", "c": "3"}
    with pytest.raises(ModelError, match="no option 'c'"):
        choose_contestants(["meanpool"], ["model.c=3"], [])


def test_tuned_contestants_stand_beside_the_models_asked_for() -> None:
    found = choose_contestants(["2stcn", "meanpool"], [], [], Search(5, keys=()))
    assert [c.name for c in found[:4]] == [
        "2stcn", "meanpool", "2stcn (tuned)", "meanpool (tuned)",
    ]  # fmt: skip
    assert [c.search is not None for c in found] == [False, False, True, True] + 2 * [False]
    assert "search" not in found[0].settings()
    assert found[2].settings()["search"]["trials"] == 5
    with pytest.raises(ConfigError, match="'channels' is not searched for meanpool"):
        choose_contestants(["meanpool"], [], [], Search(5, keys=("channels",)))
