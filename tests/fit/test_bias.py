from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest

from stages.fit.bias import attribute_sentences, compare_levels, level_columns
from stages.fit.bootstrap import draws, group_codes


def people(persons: int, clips: int, seed: int) -> tuple[list[str], list[str], np.ndarray]:
    """Persons of two sexes in turn, clips of each: group, level and a score (n,) of their own."""
    rng = np.random.default_rng(seed)
    who = np.repeat(np.arange(persons), clips)
    score = rng.normal(size=persons)[who] + rng.normal(size=persons * clips)
    return [f"p{k}" for k in who], ["fm"[k % 2] for k in who], score


def test_a_planted_difference_of_the_mean_error_is_found() -> None:
    group, level, score = people(40, 4, 0)
    rng = np.random.default_rng(1)
    prediction = score + rng.normal(size=len(score)) * 0.3
    prediction += np.where(np.asarray(level) == "m", 0.8, 0.0)
    found = compare_levels("sex", level, prediction, score, group, samples=500)
    assert [(part.name, part.n, part.groups) for part in found.levels] == [
        ("f", 80, 20),
        ("m", 80, 20),
    ]
    (d,) = found.bias
    assert (d.first, d.second) == ("f", "m")
    assert d.low < -0.8 < d.high < 0
    assert d.holds
    men = found.levels[1]
    assert men.bias.low < 0.8 < men.bias.high
    assert not found.src[0].holds
    said = attribute_sentences(found)
    assert said[0].startswith("The model errs upwards for m compared with f: the mean error")
    assert said[1].startswith("No difference of SRC between levels is shown")


def test_a_planted_difference_of_the_ranks_is_found() -> None:
    group, level, score = people(60, 3, 2)
    rng = np.random.default_rng(3)
    noise = np.where(np.asarray(level) == "m", 4.0, 0.2)
    found = compare_levels(
        "sex", level, score + rng.normal(size=len(score)) * noise, score, group, samples=500
    )
    (d,) = found.src
    assert d.value > 0.3
    assert d.holds
    assert "ranks better for f compared with m" in " ".join(attribute_sentences(found))


def test_where_there_is_no_difference_intervals_hold_zero_as_often_as_they_say() -> None:
    held = 0
    for seed in range(120):
        group, level, score = people(16, 3, seed)
        own = np.random.default_rng(seed + 1000).normal(size=16)
        prediction = score + np.repeat(own, 3)  # persons err in their own way
        found = compare_levels("sex", level, prediction, score, group, samples=200)
        held += found.bias[0].low <= 0 <= found.bias[0].high
    assert 108 <= held <= 120  # 95 % of 120 are 114


def test_levels_of_few_persons_are_shown_and_not_compared() -> None:
    group = ["a"] * 6 + ["b"] * 6 + ["c", "d", "e"] * 2
    level = ["x"] * 12 + ["y"] * 6
    rng = np.random.default_rng(0)
    score = rng.normal(size=18)
    found = compare_levels("kind", level, score + rng.normal(size=18), score, group, samples=200)
    assert [part.groups for part in found.levels] == [2, 3]
    assert found.bias == found.src == []
    assert attribute_sentences(found)[0].startswith("The mean error of levels is not compared")
    one = compare_levels("kind", ["x", "y", "", ""], *np.eye(2, 4), ["a", "b", "c", "d"])
    assert [part.n for part in one.levels] == [1, 1]
    assert math.isnan(one.levels[0].bias.low)
    assert math.isnan(one.levels[0].src.value)


def test_more_than_six_subsets_are_shown_and_not_compared() -> None:
    rng = np.random.default_rng(0)
    level = [f"S{k % 8}" for k in range(80)]
    assert level_columns(pd.DataFrame({"subset": level, "genre": level})) == {"subset": level}
    group, score = [f"p{k}" for k in range(80)], rng.normal(size=80)
    found = compare_levels("subset", level, score, score + 0.1, group, samples=100)
    assert [part.bias.value for part in found.levels] == pytest.approx([-0.1] * 8)
    assert found.bias == found.src == []


def test_which_columns_tell_clips_apart() -> None:
    table = pd.DataFrame(
        {
            "clip": list("abcdefgh"),
            "score": range(8),
            "person": ["p", "q"] * 4,
            "subset": ["S0", "S1"] * 4,
            "age": ["20", "21", "22", "23", "40", "41", "42", ""],
            "raters": [str(k) for k in range(8)],
            "all alike": ["x"] * 8,
            "tone": ["I", "II", "", "IV", "I", "II", "IV", "I"],
        }
    )
    found = level_columns(table)
    assert list(found) == ["subset", "age", "tone"]
    assert found["age"] == ["up to 23"] * 4 + ["above 23"] * 3 + [""]
    assert found["tone"][2] == ""


def test_draws_within_a_part_belong_together() -> None:
    group, level, score = people(10, 3, 5)
    prediction = score + np.random.default_rng(6).normal(size=30)
    code, men = group_codes(group), np.asarray(level) == "m"
    parts = [draws("bias", prediction, score, code, within=w, samples=50) for w in (men, ~men)]
    everyone = draws("bias", prediction, score, code, samples=50)
    low, high = np.minimum(*parts), np.maximum(*parts)
    both = np.isfinite(parts[0]) & np.isfinite(parts[1])
    assert both.sum() > 40
    assert ((low <= everyone + 1e-12) & (everyone <= high + 1e-12))[both].all()
    whole = draws("src", prediction, score, code, within=np.ones(30, bool), samples=50)
    assert whole == pytest.approx(draws("src", prediction, score, code, samples=50))
