"""`pipeline labels from-info`: a folder of downloads in, labels that fit reads out."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pandas as pd
import pytest

from pipeline.automatic_labels import labels_from_info
from stages.fit.labels import LabelError, read_labels


@pytest.fixture
def videos(tmp_path: Path) -> Path:
    """Six clips of two channels, and much that comes with them."""
    folder = tmp_path / "videos"
    (folder / "deep").mkdir(parents=True)
    now = time.time()
    for k in range(6):
        clip = folder / ("deep" if k % 2 else "") / f"c{k}.mp4"
        clip.write_bytes(b"x")
        told = {"id": str(k), "view_count": 1000, "like_count": 10 * k, "channel_id": f"id{k % 2}",
                "channel": f"=ch{k % 2}", "timestamp": now - 5 * 86400, "epoch": now}  # fmt: skip
        clip.with_suffix(".info.json").write_text(json.dumps(told))
    (folder / "c0.jpg").write_bytes(b"thumbnail")
    (folder / "c0.webm").write_bytes(b"the same video")
    (folder / "bare.mp4").write_bytes(b"x")
    (folder / "list.info.json").write_text('{"_type": "playlist"}')
    (folder / "odd.mp4").write_bytes(b"x")
    (folder / "odd.info.json").write_text('{"like_count": -3}')
    return folder


def test_labels_are_read_by_fit_and_reasons_stand_beside(videos: Path, tmp_path: Path) -> None:
    written = labels_from_info([videos], tmp_path / "labels.csv", "like-rate")
    clips = ["c0.mp4", "c2.mp4", "c4.mp4", "deep/c1.mp4", "deep/c3.mp4", "deep/c5.mp4"]
    frame = read_labels(tmp_path / "labels.csv", clips).frame
    assert frame["clip"].tolist() == clips
    assert frame["score"].tolist() == [0, 0.02, 0.04, 0.01, 0.03, 0.05]
    assert frame["subset"].tolist() == ["=ch0"] * 3 + ["=ch1"] * 3
    assert frame["likes"].tolist() == ["0", "20", "40", "10", "30", "50"]
    assert pd.read_csv(tmp_path / "labels.csv")["subset"][0] == "'=ch0"

    assert written.labels.left_out == [
        ("bare.mp4", "has no .info.json beside it"),
        ("c0.jpg", "is a still beside the video of that name"),
        ("c0.webm", "is the same video as c0.mp4"),
        ("list.info.json", "has no clip beside it"),
        ("odd.mp4", "its .info.json: like_count: expected a number from 0, found -3"),
    ]
    table = pd.read_csv(tmp_path / "labels-left-out.csv")
    assert list(table.itertuples(index=False, name=None)) == written.labels.left_out
    assert json.loads(json.dumps(written.to_dict()))["subsets"] == {"=ch0": 3, "=ch1": 3}


def test_only_labels_of_its_own_are_replaced(videos: Path, tmp_path: Path) -> None:
    out = tmp_path / "labels.csv"
    labels_from_info([videos], out, "like-rate")
    labels_from_info([videos], out, "log1p(likes)")
    assert pd.read_csv(out)["score"].max() > 3
    out.write_text("clip,score\nc0.mp4,4\n")
    with pytest.raises(LabelError, match="was not made by this command"):
        labels_from_info([videos], out, "like-rate")
    assert out.read_text() == "clip,score\nc0.mp4,4\n"


def test_no_clip_with_a_score_is_one_clear_error(videos: Path, tmp_path: Path) -> None:
    with pytest.raises(LabelError, match=r"none of \d+ files has a score") as caught:
        labels_from_info([videos], tmp_path / "labels.csv", "saves")
    assert "labels-left-out.csv" in caught.value.hint
    assert not (tmp_path / "labels.csv").exists()
    with pytest.raises(LabelError, match="cannot be written"):
        labels_from_info([videos], tmp_path / "no" / "labels.csv", "like-rate")
