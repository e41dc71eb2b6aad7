from __future__ import annotations

import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest

from stages.extract.video import ClipReader, UnreadableClipError
from store.schema import Status
from tests.testing.clips import moving_square, picture, write_video


def read(path: Path) -> tuple[ClipReader, list[float], list[np.ndarray]]:
    with ClipReader(path) as reader:
        frames = list(reader)
    return reader, [f.timestamp for f in frames], [f.image for f in frames]


def test_frames_times_and_header(tmp_path: Path) -> None:
    reader, times, images = read(moving_square(tmp_path / "a.mp4", frames=12))
    assert len(images) == 12
    assert images[0].shape == (240, 320, 3)
    np.testing.assert_allclose(times, np.arange(12) / 25, atol=1e-3)
    info = reader.info
    assert (info.width, info.height, info.frames, info.claimed_frames) == (320, 240, 12, 12)
    assert info.status is Status.OK
    assert info.message == ""
    assert info.fps == pytest.approx(25, abs=0.01)
    assert info.duration_s == pytest.approx(0.48, abs=0.01)
    assert not info.variable_frame_rate


def test_a_clip_that_ends_early_is_truncated(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    frames = [rng.integers(0, 255, (240, 320, 3), np.uint8) for _ in range(50)]
    whole = write_video(tmp_path / "whole.avi", frames)
    data = whole.read_bytes()
    cut = tmp_path / "cut.avi"
    cut.write_bytes(data[: len(data) * 6 // 10])
    reader, times, _ = read(cut)
    assert reader.info.status is Status.TRUNCATED
    assert 10 < len(times) < 45
    assert f"{len(times)} of 50 frames" in reader.info.message


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"", "0 bytes"),
        (b"hello, this is a text file\n" * 4, "plain text"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\n", "git lfs pull"),
        (b"<!DOCTYPE html><html></html>", "HTML"),
        (b"\x00\x01\x02\x03" * 50, "unknown content"),
    ],
)
def test_what_is_no_video_says_what_it_is(tmp_path: Path, content: bytes, expected: str) -> None:
    path = tmp_path / "x.mp4"
    path.write_bytes(content)
    with pytest.raises(UnreadableClipError, match=expected):
        read(path)


def test_an_mp4_without_its_index_says_so(tmp_path: Path) -> None:
    path = moving_square(tmp_path / "a.mp4")
    data = path.read_bytes()
    path.write_bytes(data[: data.index(b"moov") - 4])
    with pytest.raises(UnreadableClipError, match="index is missing"):
        read(path)


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(UnreadableClipError, match="vanished"):
        ClipReader(tmp_path / "no.mp4")


def test_a_still_is_a_clip_of_one_frame(tmp_path: Path) -> None:
    image = picture([(100, 100, 60)])
    path = tmp_path / "still.png"
    cv2.imwrite(str(path), image)
    reader, times, images = read(path)
    assert times == [0.0]
    np.testing.assert_array_equal(images[0], image)
    assert (reader.info.frames, reader.info.width, reader.info.height) == (1, 320, 240)


def test_a_still_that_is_none(tmp_path: Path) -> None:
    path = tmp_path / "still.jpg"
    path.write_text("not a picture")
    with pytest.raises(UnreadableClipError, match="not a readable image"):
        read(path)


def test_exif_orientation_is_honoured(tmp_path: Path) -> None:
    from PIL import Image as PilImage

    tall = np.zeros((40, 20, 3), np.uint8)
    tall[:10] = 255
    exif = PilImage.Exif()
    exif[0x0112] = 3  # stored upside down
    path = tmp_path / "turned.png"
    PilImage.fromarray(np.rot90(tall, 2).copy()).save(path, exif=exif)
    _, _, images = read(path)
    np.testing.assert_array_equal(images[0], tall)


def test_percent_signs_and_foreign_letters_in_names(tmp_path: Path) -> None:
    made = moving_square(tmp_path / "a.mp4", frames=5)
    for name in ("100%03d 日本語.mp4", "spaced out.mp4", "ünïcode.MP4"):
        path = tmp_path / name
        shutil.copy(made, path)
        _, times, _ = read(path)
        assert len(times) == 5, name


def test_a_rotation_tag_turns_the_picture_upright(tmp_path: Path) -> None:
    path = moving_square(tmp_path / "a.mp4", frames=5)
    data = bytearray(path.read_bytes())
    # The display matrix of the track header, 16.16 fixed point: rotate by 90 degrees clockwise.
    identity = b"".join(v.to_bytes(4, "big") for v in (65536, 0, 0, 0, 65536, 0, 0, 0, 0x40000000))
    turned = b"".join(
        (v % 2**32).to_bytes(4, "big") for v in (0, 65536, 0, -65536, 0, 0, 0, 0, 0x40000000)
    )
    track = data.index(b"tkhd")
    at = data.index(identity, track)
    data[at : at + 36] = turned
    path.write_bytes(data)
    reader, _, images = read(path)
    assert images[0].shape == (320, 240, 3)
    assert (reader.info.width, reader.info.height, reader.info.rotation) == (240, 320, 90)
    # The square's centre (90, 110) of 320 x 240 comes to lie at (239 - 110, 90).
    y, x = np.argwhere(images[0][..., 0] > 120).mean(axis=0)
    assert (x, y) == pytest.approx((129, 90), abs=3)


def test_variable_frame_rate_is_noticed_and_times_are_kept(tmp_path: Path) -> None:
    av = pytest.importorskip("av")
    path = tmp_path / "vfr.mp4"
    marks = [0, 40, 80, 300, 340, 900]
    with av.open(str(path), "w") as file:
        stream = file.add_stream("mpeg4", rate=25)
        stream.width, stream.height = 320, 240
        stream.codec_context.time_base = stream.time_base = __import__("fractions").Fraction(
            1, 1000
        )
        for mark in marks:
            frame = av.VideoFrame.from_ndarray(picture([(100, 100, 60)]), format="bgr24")
            frame.pts = mark
            file.mux(stream.encode(frame))
        file.mux(stream.encode())
    reader, times, _ = read(path)
    np.testing.assert_allclose(times, np.array(marks) / 1000, atol=1e-3)
    assert reader.info.variable_frame_rate
