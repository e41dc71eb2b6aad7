from __future__ import annotations

import pandas as pd
import pytest
from scipy.stats import binomtest

from stages.fit.tasks import TaskError, accuracy_of, attributes_of, find_tasks

TABLE = pd.DataFrame(
    {
        "clip": ["a", "b", "c", "d"],
        "score": [1.0, 2.0, 3.0, 4.0],
        "subset": ["S0", "S1", "S0", "S1"],
        "person": ["p", "q", "r", "s"],
        "gender": ["f", "m", "", "f"],
        "race": ["x", "z", "y", "x"],
        "age": ["20", "31", "44", "20"],
        "place": ["here", "here", "here", "here"],
    }
)


def test_tasks_are_columns_of_words_with_two_classes_or_more() -> None:
    words = attributes_of(TABLE)
    assert words["b"] == {
        "subset": "S1",
        "gender": "m",
        "race": "z",
        "age": "31",
        "place": "here",
    }
    assert find_tasks(words, None) == {"gender": ["f", "m"], "race": ["x", "y", "z"]}


def test_named_columns_are_taken_in_their_order_numbers_and_subsets_too() -> None:
    words = attributes_of(TABLE)
    found = find_tasks(words, ["age", "subset"])
    assert list(found.items()) == [("age", ["20", "31", "44"]), ("subset", ["S0", "S1"])]
    assert find_tasks(words, []) == {} and find_tasks({}, None) == {}
    with pytest.raises(TaskError, match="no column 'sex'"):
        find_tasks(words, ["sex"])
    with pytest.raises(TaskError, match="'place' has 1 class"):
        find_tasks(words, ["place"])


def test_words_of_too_many_kinds_are_no_classes() -> None:
    many = {str(k): {"name": f"n{k}", "hand": "lr"[k % 2]} for k in range(21)}
    assert find_tasks(many, None) == {"hand": ["l", "r"]}


def test_accuracy_is_the_mean_over_repeats_with_wilsons_interval() -> None:
    truth = ["f", "m", "", "f", "f"]
    told = [["f", "m", "m", "m", "f"], ["f", "f", "f", "m", "f"]]
    found = accuracy_of("gender", told, truth, list("abcde"))
    assert found is not None
    assert (found.n, found.accuracy, found.majority) == (4, 5 / 8, 3 / 4)
    found = accuracy_of("gender", told[:1], truth, list("abcde"))
    assert found is not None
    want = binomtest(3, 4).proportion_ci(method="wilson")
    assert (found.low, found.high) == pytest.approx((want.low, want.high), abs=1e-12)
    fewer = accuracy_of("gender", told[:1], truth, list("aacab"))
    assert fewer is not None and fewer.low < found.low  # clips of one person are one trial
    assert accuracy_of("gender", told, [""] * 5, list("abcde")) is None
