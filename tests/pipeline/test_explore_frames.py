"""Frames of clips as JPEGs: any order gives the same, memory and open files are bounded."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from pipeline.explore import frames as module
from pipeline.explore.frames import FrameError, Frames, NotWantedError
from stages.extract.video import ClipReader
from store.schema import ClipRecord, Status
from tests.testing.clips import moving_square, tagged

COUNT = 40


def record_of(path: Path) -> ClipRecord:
    """Return what the store would say of a clip."""
    with ClipReader(path) as reader:
        frames = len(list(reader))
    info = reader.info
    return ClipRecord(
        path.name,
        Status.OK,
        frames=frames,
        rotation=info.rotation,
        content_sha256=hashlib.sha256(path.read_bytes()).hexdigest(),
    )


@pytest.fixture
def clips(tmp_path: Path) -> list[ClipRecord]:
    paths = [moving_square(tmp_path / f"{k}.mp4", COUNT, (60 + 9 * k, 110, 80)) for k in range(3)]
    tagged(paths[1], (0, 1, -1, 0))
    return [record_of(path) for path in paths]


@pytest.fixture
def frames(clips: list[ClipRecord], tmp_path: Path) -> Iterator[Frames]:
    opened = Frames(tmp_path)
    yield opened
    opened.close()


def pictures(path: Path) -> list[np.ndarray]:
    """Decode a clip as the extraction does."""
    with ClipReader(path) as reader:
        return [frame.image for frame in reader]


def test_in_any_order_each_is_its_own(
    frames: Frames, clips: list[ClipRecord], tmp_path: Path
) -> None:
    for record in clips[:2]:
        expected = pictures(tmp_path / record.clip)
        for number in (0, 1, 2, 39, 38, 12, 0, 20, 13):
            data = np.frombuffer(frames.jpeg(record, number), np.uint8)
            image = np.asarray(cv2.imdecode(data, cv2.IMREAD_COLOR), np.float64)
            off = [np.abs(image - other).mean() for other in expected]
            assert int(np.argmin(off)) == number and off[number] < 3
    assert clips[1].rotation == 90 and image.shape == (320, 240, 3)


def test_large_pictures_shrink(tmp_path: Path) -> None:
    picture = np.zeros((1000, 500, 3), np.uint8)
    cv2.imwrite(str(tmp_path / "tall.png"), picture)
    cv2.imwrite(str(tmp_path / "wide.png"), np.zeros((100, 4000, 3), np.uint8))
    frames = Frames(tmp_path)
    sizes = []
    for name in ("tall.png", "wide.png"):
        data = frames.jpeg(record_of(tmp_path / name), 0)
        sizes.append(cv2.imdecode(np.frombuffer(data, np.uint8), 1).shape[:2])  # type: ignore
    assert sizes == [(480, 240), (32, 1280)]


def test_playing_decodes_each_frame_once_and_a_step_back_none(
    frames: Frames, clips: list[ClipRecord]
) -> None:
    asked = []
    for number in range(COUNT):
        frames.jpeg(clips[0], number, lambda: asked.append(1) is None)
    assert len(asked) == COUNT
    frames.jpeg(clips[0], COUNT - 5, lambda: False)
    frames.close()
    frames.jpeg(clips[2], 30)  # and those before it are kept
    frames.jpeg(clips[2], 30 - module.BEFORE + 1, lambda: False)


def test_memory_and_files_are_bounded(
    frames: Frames, clips: list[ClipRecord], monkeypatch: pytest.MonkeyPatch
) -> None:
    one = len(frames.jpeg(clips[0], 0))
    monkeypatch.setattr(module, "KEPT_BYTES", 5 * one)
    for record in clips:
        for number in range(COUNT):
            frames.jpeg(record, number)
            kept = sum(map(len, frames._kept.values()))
            assert kept == frames._bytes <= 5 * one
    assert list(frames._reels) == [clips[1].clip, clips[2].clip]
    frames.close()
    assert not frames._reels


def test_who_has_left_is_not_worked_for(frames: Frames, clips: list[ClipRecord]) -> None:
    answers = iter([True] * 10)
    with pytest.raises(NotWantedError):
        frames.jpeg(clips[0], 39, lambda: next(answers, False))
    rest = []
    frames.jpeg(clips[0], 39, lambda: rest.append(1) is None)
    assert len(rest) == COUNT - 10  # it went on from where it had stopped


def test_what_cannot_be_shown_says_why(
    frames: Frames, clips: list[ClipRecord], tmp_path: Path
) -> None:
    longer = replace(clips[0], frames=50)
    with pytest.raises(FrameError, match="the file has 40 frames, the store 50 of this clip"):
        frames.jpeg(longer, 45)
    frames.jpeg(longer, 39)  # the rest can be seen
    for record, why in (
        (replace(clips[0], clip="none.mp4"), "holds no file of this name"),
        (replace(clips[0], content_sha256="0" * 64), "not the one that was extracted"),
        (replace(clips[1], content_sha256=""), "does not say which file was extracted"),
    ):
        with pytest.raises(FrameError, match=why):
            frames.jpeg(record, 1 if record is not clips[0] else 0)
    (tmp_path / clips[2].clip).unlink()
    with pytest.raises(FrameError, match="cannot be read"):
        frames.jpeg(clips[2], 0)
