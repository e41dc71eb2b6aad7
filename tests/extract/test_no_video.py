from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import av
import pytest

from stages.extract.decoders import DecoderError, OpenCvDecoder, PyAvDecoder
from stages.extract.video import ClipReader, UnreadableClipError
from tests.testing.av_clips import frames, hum, read, write_av
from tests.testing.clips import moving_square


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


def test_a_still_that_is_none(tmp_path: Path) -> None:
    path = tmp_path / "still.jpg"
    path.write_text("not a picture")
    with pytest.raises(UnreadableClipError, match="not a readable image"):
        read(path)


def test_a_photo_of_a_phone_named_jpg(tmp_path: Path) -> None:
    path = tmp_path / "a.jpg"
    path.write_bytes(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(64))
    with pytest.raises(UnreadableClipError, match="not a readable image .a HEIC or AVIF image"):
        read(path)


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
