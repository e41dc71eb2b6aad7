from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from store.printable import printable
from store.tables import guard, unguard, write_csv

SIGNS = "=+-@\uff1d\uff0b\uff0d\uff20"


@given(st.text(alphabet=st.sampled_from("=+-@'\" ;\t\r\n0.e" + "a,|\uff1d"), max_size=12))
def test_any_text_comes_back(text: str) -> None:
    assert unguard(guard(text)) == text


@given(st.text())
def test_text_without_a_sign_is_left_alone(text: str) -> None:
    if not set(text) & set(SIGNS + "\t\r\n"):
        assert guard(text) == unguard(text) == text


@pytest.mark.parametrize("number", ["-1", "+2.5e-3", "0", "-.5", "1e9", "-3."])
def test_numbers_are_left_alone(number: str) -> None:
    assert guard(number) == number


@pytest.mark.parametrize(
    ("text", "cell"),
    [
        ("=1+1", "'=1+1"),
        ("@SUM(A1)", "'@SUM(A1)"),
        ("-1+cmd|' /C calc'!A0", "'-1+cmd|' /C calc'!A0"),
        ("\tx", "'\tx"),
        ('"=1', "'\"=1"),
        (" =1", "' =1"),
        ("a;=1+1", "a;'=1+1"),
        ('a; "+1', "a;' \"+1"),
        ("'=1", "''=1"),
        ("\uff1d1", "'\uff1d1"),
        ("it's a-b=c; d", "it's a-b=c; d"),
    ],
)
def test_what_a_spreadsheet_would_compute_gets_an_apostrophe(text: str, cell: str) -> None:
    assert guard(text) == cell


def test_a_table_is_safe_and_its_numbers_are_exact(tmp_path: Path) -> None:
    table = pd.DataFrame(
        {
            "=clip": pd.Series(
                ["=1.mp4", 'q"uo,te', "two\nlines\rthree", "\x1b[31mred", "bad\udcff"], dtype=object
            ),
            "score": [-1.5, 1 / 3, np.nan, np.inf, -2e-300],
            "n": [-1, 0, 1, 2, 3],
            "kind": pd.Categorical(["-x", "b", "b", "b", "b"]),
        }
    )
    write_csv(table, tmp_path / "t.csv")
    with (tmp_path / "t.csv").open(newline="", encoding="utf-8") as file:
        head, *rows = csv.reader(file)
    assert head == ["'=clip", "score", "n", "kind"]
    clips = ["'=1.mp4", 'q"uo,te', "two\nlines%0Dthree", "%1B[31mred", "bad%FF"]
    assert [row[0] for row in rows] == clips
    found = [float(row[1] or "nan") for row in rows]
    np.testing.assert_array_equal(found, table["score"])
    assert [row[2] for row in rows] == ["-1", "0", "1", "2", "3"]
    assert rows[0][3] == "'-x"
    assert table["=clip"][0] == "=1.mp4"
    assert [p.name for p in tmp_path.iterdir()] == ["t.csv"]


def test_a_table_that_cannot_be_written_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "t.csv").mkdir()
    with pytest.raises(OSError):
        write_csv(pd.DataFrame({"a": [1]}), tmp_path / "t.csv")
    assert [p.name for p in tmp_path.iterdir()] == ["t.csv"]


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("ümlaut 日本 <b>100%</b>.mp4", "ümlaut 日本 <b>100%</b>.mp4"),
        ("\x1b]0;x\x07", "%1B]0;x%07"),
        ("a\u202egnp.mp4", "a%E2%80%AEgnp.mp4"),
        ("bad\udcff", "bad%FF"),
        ("half\ud800", "half%ED%A0%80"),
    ],
)
def test_what_does_not_print_is_spelt_out(text: str, shown: str) -> None:
    assert printable(text) == shown and shown.isprintable()
    assert printable(text, keep=text) == text
