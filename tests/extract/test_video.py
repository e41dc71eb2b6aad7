from __future__ import annotations

import shutil
from fractions import Fraction
from pathlib import Path

import cv2
import numpy as np
import pytest

from store.schema import Status
from tests.testing.av_clips import AV1, frames, read, write_av
from tests.testing.clips import moving_square, picture


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


def test_a_still_is_a_clip_of_one_frame(tmp_path: Path) -> None:
    image = picture([(100, 100, 60)])
    path = tmp_path / "still.png"
    cv2.imwrite(str(path), image)
    reader, times, images = read(path)
    assert times == [0.0]
    np.testing.assert_array_equal(images[0], image)
    assert (reader.info.frames, reader.info.width, reader.info.height) == (1, 320, 240)


def test_percent_signs_and_foreign_letters_in_names(tmp_path: Path) -> None:
    made = moving_square(tmp_path / "a.mp4", frames=5)
    for name in ("100%03d 日本語.mp4", "spaced out.mp4", "ünïcode.MP4"):
        path = tmp_path / name
        shutil.copy(made, path)
        _, times, _ = read(path)
        assert len(times) == 5, name


@pytest.mark.parametrize(
    ("name", "codec", "pix_fmt"),
    [
        ("ten_bit.mp4", "libx264", "yuv420p10le"),
        ("grey.mp4", "libx264", "gray"),
        ("deep_grey.mkv", "ffv1", "gray16le"),
        ("full_colour.mp4", "libx264", "yuv444p"),
        ("transparent.webm", "libvpx-vp9", "yuva420p"),
        ("palette.gif", "gif", "rgb8"),
        ("av1.mp4", AV1, "yuv420p"),
    ],
)
def test_pixel_formats(
    tmp_path: Path, name: str, codec: str, pix_fmt: str, either_decoder: str
) -> None:
    drawn = frames(5)
    reader, times, images = read(write_av(tmp_path / name, drawn, None, codec, pix_fmt))
    assert (reader.info.status, len(times), reader.info.message) == (Status.OK, 5, "")
    assert {(image.shape, image.dtype.name) for image in images} == {((48, 64, 3), "uint8")}
    grey = [cv2.cvtColor(image, cv2.COLOR_BGR2GRAY).astype(int) for image in (images[2], drawn[2])]
    # Grey ones are written in 'limited range', which not every decoder stretches again.
    assert np.abs(grey[0] - grey[1]).mean() < 20


def test_odd_sizes(tmp_path: Path, either_decoder: str) -> None:
    drawn = [np.ascontiguousarray(image[:47, :63]) for image in frames(5)]
    _, _, images = read(write_av(tmp_path / "a.webm", drawn, codec="libvpx-vp9"))
    assert [image.shape for image in images] == [(47, 63, 3)] * 5
    assert np.abs(images[0].astype(int) - drawn[0]).mean() < 8


def test_8k(tmp_path: Path, either_decoder: str) -> None:
    big = np.zeros((4320, 7680, 3), np.uint8)
    big[:, 3840:] = 200
    reader, _, images = read(
        write_av(tmp_path / "a.mp4", [big] * 2, codec="mjpeg", pix_fmt="yuvj420p")
    )
    assert (reader.info.frames, reader.info.width, reader.info.height) == (2, 7680, 4320)
    assert images[1][2000, 1000].max() < 10
    assert images[1][2000, 6000].min() > 190


def test_a_size_that_changes_on_the_way(tmp_path: Path, either_decoder: str) -> None:
    small = write_av(tmp_path / "a.ts", frames(), codec="libx264")
    large = [cv2.resize(image, (96, 80)) for image in frames()]
    later = write_av(tmp_path / "b.ts", large, [400 + 40 * i for i in range(8)], "libx264")
    path = tmp_path / "both.ts"
    path.write_bytes(small.read_bytes() + later.read_bytes())
    _, times, images = read(path)
    assert len(times) == 16
    assert {image.shape for image in images} == {(48, 64, 3)}


@pytest.mark.parametrize("name", ["a.jpg", "a.PNG", "a.webp"])
@pytest.mark.parametrize(("made", "codec"), [("a.mp4", "libx264"), ("a.avi", "mpeg4")])
def test_a_video_named_as_an_image_is_a_video(
    tmp_path: Path, made: str, codec: str, name: str
) -> None:
    base = Fraction(1, 25)
    write_av(tmp_path / made, frames(5), range(5), codec, base=base).rename(tmp_path / name)
    reader, times, _ = read(tmp_path / name)
    np.testing.assert_allclose(times, np.arange(5) / 25, atol=1e-3)
    assert reader.info.message == "a video in spite of its name"


def test_a_webp_is_a_still(tmp_path: Path) -> None:
    path = tmp_path / "a.webp"
    cv2.imwrite(str(path), frames(1)[0])
    reader, times, _ = read(path)
    assert (times, reader.info.message) == ([0.0], "")


def test_a_jpeg_named_mp4_is_a_still(tmp_path: Path) -> None:
    made, path = tmp_path / "a.jpg", tmp_path / "a.mp4"
    cv2.imwrite(str(made), frames(1)[0])
    made.rename(path)
    reader, times, images = read(path)
    assert (times, images[0].shape) == ([0.0], (48, 64, 3))
    assert reader.info.message == "a JPEG image in spite of its name"
