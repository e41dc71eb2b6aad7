from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from stages.fit.bootstrap import draws
from stages.fit.compare import ALL, Comparison, Difference, compare, holm, pair_differences
from stages.fit.verdict import difference_sentences, p_value, subset_sentences


def study(noise: dict[str, float], n: int = 240, seed: int = 0, repeats: int = 2) -> Comparison:
    """Contestants whose predictions are the label plus noise of that deviation."""
    rng = np.random.default_rng(seed)
    score = rng.normal(size=n)
    predictions = {
        name: score + sd * rng.normal(size=(repeats, n)) for name, sd in noise.items()
    } | {"constant": np.repeat(rng.normal(size=(repeats, 1)), n, axis=1)}
    return compare(
        predictions,
        np.tile(score, (repeats, 1)),
        score,
        ["a", "b"] * (n // 2),
        [f"p{k % 40}" for k in range(n)],
        without_order=["constant"],
        samples=300,
    )


def test_estimates_are_means_over_the_repeats_of_what_scipy_says() -> None:
    rng = np.random.default_rng(0)
    p, g = np.round(rng.normal(size=(3, 50)), 1), np.round(rng.normal(size=(3, 50)), 1)
    subset = np.array(["x"] * 20 + ["y"] * 25 + [""] * 5)
    found = compare({"m": p}, g, g[0], subset.tolist(), [str(k) for k in range(50)], samples=50)
    assert found.subsets() == [ALL, "x", "y"]
    for name, here in ((ALL, np.ones(50, bool)), ("y", subset == "y")):
        (row,) = found.of(name)
        pairs = list(zip(p[:, here], g[:, here], strict=True))
        src = np.mean([stats.spearmanr(a, b).statistic for a, b in pairs])
        pc = np.mean([stats.pearsonr(a, b).statistic for a, b in pairs])
        assert row.src.value == pytest.approx(src, abs=1e-12)
        assert row.estimates["pc"].value == pytest.approx(pc, abs=1e-12)
        assert row.estimates["mae"].value == pytest.approx(np.abs(p - g)[:, here].mean())
        assert row.estimates["rmse"].value == pytest.approx(
            np.mean([np.sqrt(((a - b) ** 2).mean()) for a, b in pairs])
        )
        assert row.n == row.groups == here.sum()
        assert all(e.low < e.value < e.high for e in row.estimates.values())


def test_a_constant_has_errors_but_no_order_though_it_differs_between_folds() -> None:
    found = study({"good": 0.5})
    (row,) = [r for r in found.of(ALL) if r.name == "constant"]
    assert math.isnan(row.src.value) and math.isnan(row.estimates["pc"].value)
    assert row.estimates["mae"].low < row.estimates["mae"].value
    assert all("constant" not in (d.first, d.second) for d in found.differences)


def test_a_better_model_is_found_and_equal_ones_are_not_told_apart() -> None:
    found = study({"good": 0.5, "poor": 2.0, "poor too": 2.0})
    better = found.difference("good", "poor")
    assert better is not None and better.holds and better.low > 0
    same = found.difference("poor", "poor too")
    assert same is not None and not same.holds and same.low < 0 < same.high
    turned = found.difference("poor", "good")
    assert turned is not None and turned.value == -better.value and turned.p == better.p
    assert (turned.low, turned.high) == (-better.high, -better.low)
    assert found.difference("good", "nobody") is None


def test_one_subset_that_is_everything_is_not_shown_twice() -> None:
    g = np.arange(12.0)[None]
    found = compare({"m": g}, g, g[0], ["a"] * 12, [str(k) for k in range(12)], samples=20)
    assert found.subsets() == [ALL]


def test_raw_scores_are_kept_beside_normalised_ones() -> None:
    rng = np.random.default_rng(0)
    target = rng.normal(size=(1, 60))
    subset = ["a"] * 30 + ["b"] * 30
    score = target[0] * [1] * 60 + np.repeat([0.0, -100.0], 30)
    group = [str(k) for k in range(60)]
    found = compare({"m": target}, target, score, subset, group, normalised=True, samples=50)
    assert found.of(ALL)[0].src.value == pytest.approx(1)
    raw = found.of(ALL, raw=True)[0]
    assert raw.src.value == pytest.approx(stats.spearmanr(target[0], score).statistic, abs=1e-12)
    assert found.of("a", raw=True)[0].src.value == pytest.approx(1)
    assert math.isnan(raw.estimates["mae"].value)


def test_holm_by_hand() -> None:
    # Sorted .01 .02 .03 .04 -> .04, .06, .06, .06 (never below the one before).
    assert holm([0.04, 0.01, 0.03, 0.02]) == pytest.approx([0.06, 0.04, 0.06, 0.06])
    assert holm([0.5, 0.9]) == [1.0, 1.0]
    assert holm([]) == []


def test_models_that_are_equally_good_are_told_apart_in_5_percent_of_studies() -> None:
    rng = np.random.default_rng(4)
    code, found = np.repeat(np.arange(15), 4), 0
    for trial in range(600):
        person = rng.normal(size=(3, 15))[:, code]
        g, a, b = person + rng.normal(size=(3, 60))
        a, b = a + g, b + g
        drawn = {name: draws("src", p, g, code, samples=150, seed=trial)
                 for name, p in (("a", a), ("b", b))}  # fmt: skip
        src = {"a": stats.spearmanr(a, g).statistic, "b": stats.spearmanr(b, g).statistic}
        (difference,) = pair_differences(src, drawn, 15)
        found += difference.p < 0.05
        assert (difference.p < 0.05) == (not difference.low <= 0 <= difference.high)
    assert 0.02 <= found / 600 <= 0.08


def test_only_questions_that_were_asked_are_corrected_for() -> None:
    rng = np.random.default_rng(0)
    drawn = {name: rng.normal(size=50) for name in "abcd"}
    estimates = dict.fromkeys("abcd", 0.2) | {"a": 1.9}
    found = pair_differences(estimates, drawn, 30, asked=["a"])
    assert [(d.first, d.second) for d in found] == [("a", "b"), ("a", "c"), ("a", "d")]
    smallest = min(found, key=lambda d: d.p)
    assert smallest.p_holm == pytest.approx(3 * smallest.p)
    assert len(pair_differences(estimates, drawn, 30)) == 6


def test_identical_predictions_do_not_differ() -> None:
    values = np.linspace(0, 0.5, 40)
    (difference,) = pair_differences({"a": 0.3, "b": 0.3}, {"a": values, "b": values}, 9)
    assert (difference.value, difference.p, difference.holds) == (0, 1, False)


def test_the_sentence_says_what_holds_and_what_does_not() -> None:
    found = study({"good": 0.5, "good (frames shuffled)": 0.5, "poor": 30.0})
    text = " ".join(subset_sentences(found, ALL))
    assert "Better than chance: good, good (frames shuffled)." in text
    assert "Not shown to rank at all, as the interval holds 0: poor." in text
    assert "Without a rank correlation: constant." in text
    text = " ".join(difference_sentences(found, ["good"]))
    assert "The data supports that good ranks better than poor (+" in text
    assert "supports no difference between good and good (frames shuffled)" in text
    assert "not evidence that they are equal" in text
    assert "The data does not show that good makes use of the order of the frames." in text


def test_nothing_better_than_chance_and_few_groups_are_said() -> None:
    rng = np.random.default_rng(1)
    p, g = rng.normal(size=(2, 1, 40))
    found = compare({"m": p}, g, g[0], [""] * 40, [str(k % 5) for k in range(40)], samples=100)
    text = " ".join(subset_sentences(found, ALL))
    assert text.startswith("The data supports for none of them that it ranks better than chance.")
    assert "Only 5 group(s)" in text


def test_p_values_are_printed_as_far_as_they_go() -> None:
    assert [p_value(p) for p in (0.0002, 0.0123, 1.0)] == ["p < .001", "p = .012", "p = 1.000"]


def test_a_difference_holds_after_correction_only() -> None:
    assert not Difference("a", "b", 0.1, 0.01, 0.2, 0.04, 0.12).holds
    assert Difference("a", "b", 0.1, 0.01, 0.2, 0.01, 0.03).holds


def test_an_interval_without_0_that_is_not_supported_is_explained() -> None:
    rng = np.random.default_rng(0)
    values = {name: 0.1 * rng.normal(size=200) for name in "abcd"}
    found = Comparison([], pair_differences({"a": 0.36, "b": 0, "c": 0, "d": 0}, values, 200), [])
    alone = [d for d in found.differences if not d.holds and d.low > 0]
    assert alone
    text = " ".join(difference_sentences(found, []))
    assert text.startswith(f"{len(alone)} of the 6 differences have an interval that leaves out 0")
    assert difference_sentences(Comparison([], [], []), []) == []
