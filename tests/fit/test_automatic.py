from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats

from stages.fit.automatic import automatic_labels, channel_names, choose_score
from stages.fit.formula import FormulaError
from stages.fit.labels import LabelError
from stages.fit.video_info import InfoError, VideoInfo, info_path, read_info

NOW = 1_700_000_000.0
DAY = 86400
TOLD: dict[str, Any] = {
    "id": "7",
    "extractor_key": "TikTok",
    "like_count": 30,
    "view_count": 1000,
    "comment_count": None,
    "repost_count": 2,
    "duration": 12.5,
    "timestamp": NOW - 10 * DAY,
    "epoch": NOW - 2 * DAY,
    "uploader": "ann",
    "uploader_id": "11",
}


def write(folder: Path, told: object, name: str = "a.info.json") -> Path:
    path = folder / name
    path.write_text(told if isinstance(told, str) else json.dumps(told), "utf-8")
    return path


def changed(**fields: object) -> dict[str, Any]:
    return {**TOLD, **fields}


def test_what_a_file_says(tmp_path: Path) -> None:
    info = read_info(write(tmp_path, TOLD), NOW)
    assert info.numbers == {
        "likes": 30, "views": 1000, "reposts": 2, "duration_s": 12.5, "age_days": 8.0,
    }  # fmt: skip
    assert (info.video, info.channel, info.channel_name) == ("tiktok 7", "tiktok 11", "ann")
    assert not info.read_at_guessed


def test_the_file_beside_a_clip() -> None:
    assert info_path(Path("x/a.b [id].mp4")) == Path("x/a.b [id].info.json")


def test_a_date_alone_and_no_moment_of_reading(tmp_path: Path) -> None:
    path = write(tmp_path, changed(timestamp=None, upload_date="20231101", epoch=None))
    os.utime(path, (NOW, NOW))
    info = read_info(path, NOW)
    assert info.numbers["age_days"] == pytest.approx(13.43, abs=0.01)
    assert info.read_at_guessed


def test_a_file_that_says_nothing_has_no_numbers(tmp_path: Path) -> None:
    assert read_info(write(tmp_path, {}), time.time()) == VideoInfo()


@pytest.mark.parametrize(
    ("told", "said"),
    [
        ("{", "is not JSON"),
        ("[" * 100_000, "is not JSON"),
        ("[]", "expected a JSON object, found list"),
        ({"_type": "playlist", "entries": []}, "about a playlist"),
        (changed(like_count=-1), "like_count: expected a number from 0, found -1"),
        (changed(like_count="30"), "like_count: expected a number, found '30'"),
        (changed(like_count=True), "like_count: expected a number, found 'True'"),
        (changed(view_count=1000.5), "view_count: expected a whole number, found 1000.5"),
        ('{"view_count": NaN}', "view_count: not a possible number"),
        ('{"view_count": 1' + "0" * 400 + "}", "view_count: not a possible number"),
        (changed(view_count=10**13), "view_count: 1e"),
        (changed(like_count=1001), "like_count 1001 is more than view_count 1000"),
        (changed(timestamp=NOW + 3 * DAY), "was uploaded in the future, 2023-11-17"),
        (changed(timestamp=None, upload_date="29991231"), "was uploaded in the future"),
        (changed(epoch=NOW + 3 * DAY), "read in the future"),
        (changed(timestamp=NOW - DAY / 2, epoch=NOW - 2 * DAY), "after its counts were read"),
        (changed(timestamp=NOW * 1000), "no Unix time"),
        (changed(timestamp=None, upload_date="2023-11-01"), "expected YYYYMMDD"),
        (changed(timestamp=None, upload_date="18991231"), "before there were such uploads"),
    ],
)
def test_what_cannot_be_is_refused(tmp_path: Path, told: object, said: str) -> None:
    with pytest.raises(InfoError, match=said):
        read_info(write(tmp_path, told), NOW)


def test_bytes_that_are_no_text(tmp_path: Path) -> None:
    (tmp_path / "a.info.json").write_bytes(b'{"id": "\xff"}')
    with pytest.raises(InfoError, match="is not JSON"):
        read_info(tmp_path / "a.info.json", NOW)


def infos(n: int = 12) -> list[tuple[str, VideoInfo]]:
    rng = np.random.default_rng(0)
    made = []
    for k in range(n):
        views = float(rng.integers(100, 100_000))
        numbers = {"views": views, "likes": float(rng.integers(0, int(views)))}
        numbers["age_days"] = float(rng.uniform(0, 400))
        made.append((f"{k}.mp4", VideoInfo(numbers, f"s {k}", f"c {k % 2}", f"ch{k % 2}")))
    return made


def test_scores_are_their_formulas() -> None:
    clips = infos()
    views, likes, age = (
        np.array([info.numbers[name] for _, info in clips])
        for name in ("views", "likes", "age_days")
    )
    found = {
        name: automatic_labels(clips, choose_score(name)).table["score"].to_numpy()
        for name in ("like-rate", "log-likes-given-views", "age-corrected",
                     "log1p(like_count) / (1 + age_days)")
    }  # fmt: skip
    np.testing.assert_allclose(found["like-rate"], likes / views)
    for name, x, y in (
        ("log-likes-given-views", views, likes),
        ("age-corrected", age, views),
    ):
        slope, intercept = np.polyfit(np.log1p(x), np.log1p(y), 1)
        expected = np.log1p(y) - intercept - slope * np.log1p(x)
        np.testing.assert_allclose(found[name], expected, atol=1e-10)
        assert abs(stats.pearsonr(found[name], np.log1p(x)).statistic) < 1e-9
    np.testing.assert_allclose(
        found["log1p(like_count) / (1 + age_days)"], np.log1p(likes) / (1 + age)
    )


def test_raw_numbers_stand_beside_and_channels_are_subsets() -> None:
    table = automatic_labels(infos(), choose_score("like-rate")).table
    assert table.columns.tolist()[:5] == ["clip", "score", "subset", "likes", "views"]
    assert table["subset"].tolist() == ["ch0", "ch1"] * 6
    assert table["views"].tolist() == [int(info.numbers["views"]) for _, info in infos()]
    assert table["saves"].isna().all()


def test_clips_without_what_the_score_needs_are_left_out_with_the_reason() -> None:
    clips = [
        *infos(4),
        ("no_likes.mp4", VideoInfo({"views": 5.0})),
        ("no_views.mp4", VideoInfo({"views": 0.0, "likes": 0.0})),
        ("twice.mp4", infos(1)[0][1]),
    ]
    made = automatic_labels(clips, choose_score("like-rate"))
    assert made.table["clip"].tolist() == ["0.mp4", "1.mp4", "2.mp4", "3.mp4"]
    reasons = dict(made.left_out)
    assert reasons["no_likes.mp4"] == "does not say like_count"
    assert reasons["no_views.mp4"].startswith("no finite score")
    assert reasons["twice.mp4"] == "is the same video as 0.mp4"


def test_any_number_of_the_file_may_stand_in_a_formula(tmp_path: Path) -> None:
    told = changed(average_rating=4.5, fps=25, huge=10**400, flag=True, words="7", score=3)
    info = read_info(write(tmp_path, told), NOW)
    assert info.others == {"average_rating": 4.5, "fps": 25.0, "timestamp": TOLD["timestamp"],
                           "epoch": TOLD["epoch"]}  # fmt: skip
    score = choose_score("average_rating * likes", info.others)
    made = automatic_labels([("a.mp4", info), ("b.mp4", VideoInfo({"likes": 3.0}))], score)
    assert made.table["score"].tolist() == [4.5 * 30]
    assert made.table["average_rating"].tolist() == [4.5]
    assert made.left_out == [("b.mp4", "does not say average_rating")]


def test_few_views_are_told_and_can_be_left_out() -> None:
    clips = [*infos(6), ("one.mp4", VideoInfo({"views": 1.0, "likes": 1.0}, channel="c"))]
    made = automatic_labels(clips, choose_score("like-rate"))
    assert any("1 clips have fewer than 100 views" in note for note in made.notes)
    made = automatic_labels(clips, choose_score("like-rate"), 100)
    assert dict(made.left_out) == {"one.mp4": "has 1 views, 100 at least wanted"}
    assert made.notes == []


def test_equal_counts_are_told_and_too_few_refused() -> None:
    same = [(f"{k}.mp4", VideoInfo({"views": 10.0, "likes": 2.0})) for k in range(4)]
    made = automatic_labels(same, choose_score("log-likes-given-views"))
    assert made.table["score"].tolist() == [0] * 4
    assert any("all scores are the same" in note for note in made.notes)
    assert any("4 clips name no channel" in note for note in made.notes)
    with pytest.raises(LabelError, match="2 clips have the counts"):
        automatic_labels(same[:2], choose_score("log-likes-given-views"))


def test_channels_of_one_name_are_told_apart_and_a_renamed_one_stays_one() -> None:
    given = [("a 1", "ann"), ("a 2", "ann"), ("a 3", "bob"), ("a 3", "bobby"), ("", ""),
             ("a 4", "x\x1b[31m\u202ey")]  # fmt: skip
    names = channel_names([VideoInfo(channel=c, channel_name=n) for c, n in given])
    assert names == ["ann (a 1)", "ann (a 2)", "bob", "bob", "", "x%1B[31m%E2%80%AEy"]


@pytest.mark.parametrize("text", ["popularity", "7", "likes.real"])
def test_no_such_score(text: str) -> None:
    with pytest.raises(FormulaError) as caught:
        choose_score(text)
    assert "likes" in caught.value.hint
