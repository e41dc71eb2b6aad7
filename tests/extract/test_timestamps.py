from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stages.extract.clock import Clock
from store.schema import Status
from tests.testing.av_clips import MARKS, frames, pts_seconds, read, write_av

NAN = float("nan")


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


def test_a_time_that_repeats_moves_no_other(tmp_path: Path, either_decoder: str) -> None:
    marks = [40 * i - 40 * (i > 10) for i in range(72)]
    made, path = tmp_path / "made.mkv", tmp_path / "a.mkv"
    write_av(made, frames(72), codec="mpeg4")
    with av.open(str(made)) as file, av.open(str(path), "w") as out:
        stream = out.add_stream_from_template(file.streams.video[0])
        for packet, mark in zip(file.demux(video=0), marks, strict=False):
            if packet.size:
                packet.stream, packet.pts, packet.dts = stream, mark, mark
                out.mux(packet)
    assert pts_seconds(path) == [mark / 1000 for mark in marks]
    reader, times, _ = read(path)
    np.testing.assert_allclose(times, np.array(marks) / 1000, rtol=0, atol=1e-3)
    assert (np.diff(times) > 0).all()
    assert reader.info.message == "1 timestamps missing or not increasing, rebuilt"


FPS25 = 0.04


@pytest.mark.parametrize(
    ("told", "expected"),
    [
        ([0, 1, 1, 2, 3], [0, 1, 1, 2, 3]),  # twice
        ([0, 2, 1, 3, 5, 4, 6], [0, 2, 2, 3, 5, 5, 6]),  # in the wrong order
        ([0, NAN, 2, NAN, NAN, 5], [0, 1, 2, 3, 4, 5]),
        ([NAN, NAN, NAN], [0, 1, 2]),
        ([20, 21, 0, 23, 24], [20, 21, 22, 23, 24]),  # one that is far off
        ([*range(5), *range(5), *range(5)], range(15)),  # starts over
        ([0, 1, 2, 3, 0, 2, 3, 9], [0, 1, 2, 3, 4, 6, 7, 9]),  # and keeps its own distances
        ([5, 5, 5, 5, 6, 7, 9], [5, 5, 6, 7, 7, 7, 9]),  # stands still for a while
        ([-3, -2, -2, 0], [-3, -2, -2, 0]),
    ],
)
def test_the_clock_goes_on(told: list[float], expected: list[float]) -> None:
    clock = Clock()
    times = [clock(FPS25 * time, FPS25) for time in told]
    np.testing.assert_allclose(times, FPS25 * np.array(expected), rtol=0, atol=1e-3)
    assert (np.diff(times) > 0).all()
    taken_over = [FPS25 * time == found for time, found in zip(told, times, strict=True)]
    assert clock.repaired == taken_over.count(False)


@given(st.lists(st.floats(-1e7, 1e7) | st.just(NAN), max_size=60), st.floats(1e-3, 10))
def test_the_clock_never_goes_back(told: list[float], step: float) -> None:
    clock = Clock()
    times = [clock(time, step) for time in told]
    assert (np.diff(times) > 0).all()
    assert np.isfinite(times).all()


def test_frames_without_times_get_some(tmp_path: Path, either_decoder: str) -> None:
    path = write_av(
        tmp_path / "a.mp4", frames(), codec="libx264", format="h264", base=Fraction(1, 25)
    )
    reader, times, _ = read(path)
    np.testing.assert_allclose(times, np.arange(len(MARKS)) / 25, atol=1e-3)
    assert "timestamps missing" in reader.info.message
