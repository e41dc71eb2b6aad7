from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
import pytest

from stages.extract import video
from stages.extract.decoders import DecoderError, OpenCvDecoder, PyAvDecoder
from stages.extract.video import ClipReader, UnreadableClipError
from store.schema import Status
from tests.testing.av_clips import AV1, pts_seconds, write_av
from tests.testing.clips import moving_square, picture, tagged, write_video


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


# --- upright, square pixels --------------------------------------------------------------------


def lopsided() -> np.ndarray:
    """Draw a picture that differs from itself under every turn and mirror."""
    image = np.full((48, 64, 3), 20, np.uint8)
    image[8:40, 8:16] = image[8:16, 8:48] = 220
    image[36:44, 48:60] = (220, 60, 60)
    return image


# Display matrix (ISO/IEC 14496-12: x' = a x + c y, y' = b x + d y) -> degrees, mirrored, and what
# it does to a picture.
ORIENTATIONS: dict[
    tuple[int, int, int, int], tuple[int, bool, Callable[[np.ndarray], np.ndarray]]
] = {
    (1, 0, 0, 1): (0, False, lambda p: p),
    (0, 1, -1, 0): (90, False, lambda p: np.rot90(p, -1)),
    (-1, 0, 0, -1): (180, False, lambda p: np.rot90(p, 2)),
    (0, -1, 1, 0): (270, False, lambda p: np.rot90(p, 1)),
    (-1, 0, 0, 1): (0, True, lambda p: p[:, ::-1]),
    (1, 0, 0, -1): (180, True, lambda p: p[::-1]),
    (0, 1, 1, 0): (270, True, lambda p: p.transpose(1, 0, 2)),
    (0, -1, -1, 0): (90, True, lambda p: np.rot90(p, 2).transpose(1, 0, 2)),
}


def refuse(path: Path, obey: bool = True) -> None:
    raise DecoderError("not today")


@pytest.fixture(params=["opencv", "pyav"])
def either_decoder(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    if request.param == "pyav":
        monkeypatch.setattr(video, "OpenCvDecoder", refuse)
    return str(request.param)


@pytest.mark.parametrize("matrix", ORIENTATIONS)
def test_pictures_come_out_as_a_player_shows_them(
    tmp_path: Path, matrix: tuple[int, int, int, int], either_decoder: str
) -> None:
    degrees, mirrored, turn = ORIENTATIONS[matrix]
    path = tagged(write_av(tmp_path / "a.mp4", [lopsided()] * 3), matrix)
    reader, _, images = read(path)
    assert reader.info.decoder.startswith(either_decoder)
    expected = turn(lopsided())
    assert (reader.info.rotation, reader.info.mirrored) == (degrees, mirrored)
    assert images[0].shape == expected.shape
    assert (reader.info.height, reader.info.width) == expected.shape[:2]
    assert np.abs(images[-1].astype(int) - expected).mean() < 8


def test_the_matrix_of_the_whole_movie_counts_too(tmp_path: Path, either_decoder: str) -> None:
    path = write_av(tmp_path / "a.mp4", [lopsided()] * 3)
    path = tagged(tagged(path, (0, 1, -1, 0)), (-1, 0, 0, 1), b"mvhd")  # turned, then mirrored
    _, _, images = read(path)
    expected = np.rot90(lopsided(), -1)[:, ::-1]
    assert np.abs(images[0].astype(int) - expected).mean() < 8


def test_a_matrix_that_nobody_films_with_is_left_alone(tmp_path: Path, either_decoder: str) -> None:
    for matrix in ((1, 1, -1, 1), (0, 0, 0, 0), (0, 0, 0, 1)):
        path = tagged(write_av(tmp_path / "a.mp4", [lopsided()] * 3), matrix)
        reader, _, images = read(path)
        assert reader.info.status is Status.OK
        assert images[0].shape == (48, 64, 3), matrix
        assert np.abs(images[0].astype(int) - lopsided()).mean() < 8, matrix


@pytest.mark.parametrize(
    ("aspect", "width"),
    [
        (Fraction(4, 3), 85),
        (Fraction(1, 2), 32),
        (Fraction(224, 225), 64),  # what a scaler leaves when it rounds to even numbers
        (Fraction(200, 1), 64),
    ],
)
def test_pixels_come_out_square(
    tmp_path: Path, aspect: Fraction, width: int, either_decoder: str
) -> None:
    path = write_av(tmp_path / "a.mkv", [lopsided()] * 3, aspect=aspect)
    reader, _, images = read(path)
    assert images[0].shape == (48, width, 3)
    assert (reader.info.width, reader.info.height) == (width, 48)
    wide = cv2.resize(lopsided(), (width, 48), interpolation=cv2.INTER_AREA)
    assert np.abs(images[0].astype(int) - wide).mean() < 12


def test_pixels_are_made_square_before_the_turn(tmp_path: Path, either_decoder: str) -> None:
    path = write_av(tmp_path / "a.mp4", [lopsided()] * 3, aspect=Fraction(2), codec="libx264")
    _, _, images = read(tagged(path, (0, 1, -1, 0)))
    assert images[0].shape == (128, 48, 3)


# --- timestamps --------------------------------------------------------------------------------

MARKS = [0, 40, 80, 300, 340, 900, 913, 1000]  # ms


def frames(count: int = len(MARKS)) -> list[np.ndarray]:
    return [picture([(20 + 2 * i % 20, 24, 20)], (64, 48)) for i in range(count)]


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


# --- sizes and pixel formats -------------------------------------------------------------------


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


# --- where OpenCV gives up ---------------------------------------------------------------------


def test_both_decoders_give_the_same(tmp_path: Path) -> None:
    path = write_av(tmp_path / "a.mp4", frames(), MARKS, "libx264", options={"bf": "3"})
    both = []
    for kind in (OpenCvDecoder, PyAvDecoder):
        decoder = kind(path)
        both.append(list(decoder.pictures(lambda index, time: False)))
        assert decoder.header.frames == len(MARKS)
        decoder.close()
    for one, other in zip(*both, strict=True):
        assert one.time == pytest.approx(other.time, abs=1e-6)
        assert np.abs(one.image.astype(int) - other.image).mean() < 2


def test_av1_is_decoded(tmp_path: Path) -> None:
    reader, times, _ = read(write_av(tmp_path / "a.mp4", frames(), MARKS, AV1))
    np.testing.assert_allclose(times, np.array(MARKS) / 1000, atol=1e-3)
    assert reader.info.status is Status.OK
    assert reader.info.claimed_frames == len(MARKS)
    # Also where a build of OpenCV decodes AV1 itself, one of the two is named, with its version.
    assert reader.info.decoder.split()[:2] in (
        ["pyav", av.__version__],
        ["opencv", cv2.__version__],
    )


def damage(path: Path, packet: int) -> Path:
    """Make one packet of an MP4 with H.264 undecodable."""
    with av.open(str(path)) as file:
        at = [p.pos for p in file.demux(video=0) if p.size][packet]
    data = bytearray(path.read_bytes())
    data[at : at + 4] = b"\xff\xff\xff\xff"  # the length of the unit that follows
    path.write_bytes(data)
    return path


def test_a_damaged_packet_costs_only_its_frame(tmp_path: Path) -> None:
    path = write_av(tmp_path / "a.mp4", frames(40), codec="libx264", options={"g": "1"})
    whole = read(path)[2]
    reader, times, images = read(damage(path, 10))
    assert reader.info.decoder == (f"opencv {cv2.__version__} ffmpeg + pyav {av.__version__} h264")
    assert reader.info.status is Status.OK
    assert reader.info.message == "damaged packets skipped: 1"
    kept = [i for i in range(40) if i != 10]
    np.testing.assert_allclose(times, np.array(kept) / 25, atol=1e-3)
    for i, image in zip(kept, images, strict=True):
        assert np.abs(image.astype(int) - whole[i]).mean() < 2


def test_an_mp4_cut_in_half_is_truncated(tmp_path: Path) -> None:
    options = {"movflags": "faststart"}
    rng = np.random.default_rng(0)
    noise = [rng.integers(0, 255, (48, 64, 3), np.uint8) for _ in range(40)]
    path = write_av(tmp_path / "a.mp4", noise, codec="libx264", container=options)
    data = path.read_bytes()
    start = data.index(b"mdat")
    path.write_bytes(data[: start + (len(data) - start) // 2])
    reader, times, _ = read(path)
    assert reader.info.status is Status.TRUNCATED
    assert 5 < len(times) < 35
    assert f"ends after {len(times)} of 40 frames" in reader.info.message
    assert (np.diff(times) > 0).all()


def test_sound_after_the_last_frame_is_no_missing_video(tmp_path: Path) -> None:
    path = tmp_path / "a.mkv"
    with av.open(str(path), "w") as file:
        stream = file.add_stream("libx264", rate=25)
        stream.width, stream.height = 64, 48
        sound: Any = file.add_stream("aac", rate=44100)
        for i, image in enumerate(frames(25)):
            frame = av.VideoFrame.from_ndarray(image, format="bgr24")
            frame.pts = i
            file.mux(stream.encode(frame))
        file.mux(stream.encode())
        hum(file, sound, seconds=4)
    reader, times, _ = read(path)
    assert len(times) == 25
    assert reader.info.status is Status.OK


# --- what is no video --------------------------------------------------------------------------


def hum(file: Any, stream: Any, seconds: float = 0.5) -> None:
    """Write silence into a stream of a file."""
    for i in range(int(seconds * 44100 / 1024)):
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), "fltp", "mono")
        frame.rate, frame.pts = 44100, 1024 * i
        file.mux(stream.encode(frame))
    file.mux(stream.encode())


def test_audio_only_says_so(tmp_path: Path) -> None:
    path = tmp_path / "a.mp4"
    with av.open(str(path), "w") as file:
        hum(file, file.add_stream("aac", rate=44100))
    with pytest.raises(UnreadableClipError, match=r"^no video stream: audio only \(aac\)$"):
        read(path)


def test_a_cover_picture_is_no_video(tmp_path: Path) -> None:
    path = tmp_path / "a.mp4"
    with av.open(str(path), "w") as file:
        sound: Any = file.add_stream("aac", rate=44100)
        cover: Any = file.add_stream("mjpeg", rate=25)
        cover.width, cover.height, cover.pix_fmt = 64, 48, "yuvj420p"
        cover.disposition = av.stream.Disposition.attached_pic
        frame = av.VideoFrame.from_ndarray(frames(1)[0], format="bgr24")
        frame.pts = 0
        file.mux(cover.encode(frame))
        file.mux(cover.encode())
        hum(file, sound)
    with pytest.raises(UnreadableClipError, match=r"audio only \(aac\), cover picture$"):
        read(path)


@pytest.mark.parametrize("suffix", [".mp4", ".m3u8", ".mkv"])
@pytest.mark.parametrize(
    ("script", "kind"),
    [
        ("#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:0.3,\n{}\n#EXT-X-ENDLIST\n", "a playlist"),
        ("ffconcat version 1.0\nfile '{}'\n", "a concat script"),
    ],
)
def test_no_file_makes_the_decoder_open_another(
    tmp_path: Path, script: str, kind: str, suffix: str
) -> None:
    secret = write_av(tmp_path / "secret.ts", frames(), codec="libx264")
    path = tmp_path / f"innocent{suffix}"
    path.write_text(script.format(secret.name))
    with pytest.raises(UnreadableClipError, match=f"could be opened .{kind}"):
        read(path)
    for decoder in (OpenCvDecoder, PyAvDecoder):
        with pytest.raises(DecoderError):
            decoder(path)


def test_a_jpeg_named_mp4_is_a_still(tmp_path: Path) -> None:
    made, path = tmp_path / "a.jpg", tmp_path / "a.mp4"
    cv2.imwrite(str(made), frames(1)[0])
    made.rename(path)
    reader, times, images = read(path)
    assert (times, images[0].shape) == ([0.0], (48, 64, 3))
    assert reader.info.message == "a JPEG image in spite of its name"


def test_messages_about_mp4_boxes(tmp_path: Path) -> None:
    path = write_av(tmp_path / "a.mp4", frames(), container={"movflags": "faststart"})
    data = path.read_bytes()
    media = data.index(b"mdat") - 4
    cases = {
        b"\0\0\0\x10ftypisom\0\0\0\0\0\0\0\x03free": "malformed box at byte 16",
        data[:20]: "index is missing, cut off: 20 of",
        data[:media]: "no frame could be decoded .*holds no media data",
        data[: media + 12]: f"cut off: {media + 12} of {len(data)} bytes",
    }
    for content, expected in cases.items():
        path.write_bytes(content)
        with pytest.raises(UnreadableClipError, match=expected):
            read(path)


def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    path = tmp_path / "a.mp4"
    os.mkfifo(path)
    with pytest.raises(UnreadableClipError, match="not a regular file"):
        read(path)


def test_a_name_that_is_not_utf8(tmp_path: Path) -> None:
    path = Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9.mp4"))
    if sys.platform != "linux":  # other systems allow no such names
        with pytest.raises(UnreadableClipError):
            read(path)
        return
    shutil.copy(write_av(tmp_path / "a.mp4", frames()), path)
    reader, times, _ = read(path)
    assert len(times) == len(MARKS)
    assert reader.info.decoder.startswith("pyav")  # OpenCV would crash


def test_decoders_are_silent(tmp_path: Path) -> None:
    path = write_av(tmp_path / "a.mp4", frames(40), codec="libx264", options={"g": "1"})
    damage(path, 10)
    (tmp_path / "b.mp4").write_bytes(path.read_bytes()[:500])
    shutil.copy(write_av(tmp_path / "c.mp4", frames(), codec=AV1), tmp_path / "d.mp4")
    code = (
        "import cv2, sys; from pathlib import Path\n"
        "from stages.extract.video import ClipReader, UnreadableClipError\n"
        "for name in sys.argv[1:]:\n"
        "    try: print(len(list(ClipReader(Path(name)))))\n"
        "    except UnreadableClipError: print('unreadable')\n"
    )
    names = [str(tmp_path / f"{letter}.mp4") for letter in "abd"]
    done = subprocess.run(
        [sys.executable, "-c", code, *names],
        capture_output=True,
        text=True,
        cwd=Path(__file__).parents[2],
    )
    assert done.stdout.split() == ["39", "unreadable", str(len(MARKS))]
    assert done.stderr == ""
