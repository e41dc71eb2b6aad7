from __future__ import annotations

import math

import pytest

from stages.fit.formula import LONGEST, Formula, FormulaError

NAMES = ("likes", "views", "age_days")
VALUES = {"likes": 3.0, "views": 100.0, "age_days": 4.0}


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("likes / views", 0.03),
        (" -likes + 2 * (views - age_days) ** 2 ", -3 + 2 * 96**2),
        ("log1p(likes) - log(views)", math.log1p(3) - math.log(100)),
        ("max(likes, age_days, 1e-3)", 4.0),
        ("min(likes, 2) + abs(-1) + sqrt(age_days) + log10(views) + exp(0)", 8.0),
    ],
)
def test_arithmetic(text: str, value: float) -> None:
    assert Formula(text, NAMES)(VALUES) == pytest.approx(value, rel=1e-15)


def test_names_are_those_used() -> None:
    assert Formula("log(likes) / likes + min(views, 1)", NAMES).names == {"likes", "views"}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "is not arithmetic"),
        ("likes\n\n+", "is not arithmetic"),
        ("likes; views", "is not arithmetic"),
        ("likes\x00", "is not arithmetic"),
        ("(" * 240 + "likes" + ")" * 240, "is not arithmetic"),
        ("likes" * LONGEST, "characters long"),
        ("dislikes", "names 'dislikes', which there is not"),
        ("log", "names 'log', which there is not"),
        ("__import__('os').system('true')", "no arithmetic"),
        ("likes.real", "no arithmetic"),
        ("().__class__.__bases__[0]", "no arithmetic"),
        ("[x for x in (1, 2)]", "no arithmetic"),
        ("(lambda: 1)()", "no arithmetic"),
        ("likes if views else 0", "no arithmetic"),
        ("likes > views", "no arithmetic"),
        ("likes // 2", "no arithmetic"),
        ("f'{likes}'", "no arithmetic"),
        ("'a' * 9", "no arithmetic"),
        ("2j", "no arithmetic"),
        ("True", "which is no number"),
        ("log(*likes)", "no arithmetic"),
        ("log(likes, base=2)", "no arithmetic"),
        ("log(likes, 2)", "takes one number"),
        ("max(likes)", "takes two numbers or more"),
        ("9" * 400, "too large"),
        ("open('x')", "no arithmetic"),
    ],
)
def test_all_else_is_refused(text: str, said: str) -> None:
    with pytest.raises(FormulaError, match=said) as caught:
        Formula(text, NAMES)
    assert caught.value.exit_code == 2 and "\n" not in str(caught.value)


@pytest.mark.parametrize("text", ["1 / (likes - 3)", "log(likes - 3)", "exp(views ** 9)",
                                  "9 ** 9 ** 9 ** likes", "(0 - views) ** 0.5"])  # fmt: skip
def test_what_is_no_finite_number_is_an_error(text: str) -> None:
    with pytest.raises((ArithmeticError, ValueError)):
        Formula(text, NAMES)(VALUES)
