from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from store.schema import Status
from tests.testing.av_clips import MARKS, frames, pts_seconds, read, write_av


@pytest.mark.parametrize("start", [0, 5000])
@pytest.mark.parametrize(
    ("name", "codec", "options"),
    [
        ("a.mp4", "mpeg4", {}),
        ("a.mp4", "libx264", {"bf": "3"}),
        ("a.mkv", "libx264", {"bf": "3"}),
        ("a.ts", "libx264", {"bf": "3"}),
        ("a.webm", "libvpx-vp9", {"deadline": "realtime"}),
    ],
)
def test_times_are_those_of_the_frames(
    tmp_path: Path, name: str, codec: str, options: dict[str, str], start: int, either_decoder: str
) -> None:
    marks = [start + mark for mark in MARKS]
    path = write_av(tmp_path / name, frames(), marks, codec, options=options)
    reader, times, _ = read(path)
    np.testing.assert_allclose(times, np.array(MARKS) / 1000, rtol=0, atol=1e-3)
    np.testing.assert_allclose(times, pts_seconds(path), rtol=0, atol=1e-6)
    assert (reader.info.status, reader.info.message) == (Status.OK, "")
    assert reader.info.variable_frame_rate


def test_what_an_edit_list_cuts_away_is_neither_shown_nor_missed(
    tmp_path: Path, either_decoder: str
) -> None:
    path = write_av(
        tmp_path / "a.mp4", frames(60), [40 * i - 1600 for i in range(60)], "libx264"
    )  # the first 40 frames lie before 0
    with av.open(str(path)) as file:
        assert file.streams.video[0].frames == 60
    reader, times, _ = read(path)
    np.testing.assert_allclose(times, np.arange(20) / 25, rtol=0, atol=1e-3)
    assert (reader.info.status, reader.info.message) == (Status.OK, "")


def test_frames_without_times_get_some(tmp_path: Path, either_decoder: str) -> None:
    path = write_av(
        tmp_path / "a.mp4", frames(), codec="libx264", format="h264", base=Fraction(1, 25)
    )
    reader, times, _ = read(path)
    np.testing.assert_allclose(times, np.arange(len(MARKS)) / 25, atol=1e-3)
    assert "timestamps missing" in reader.info.message
