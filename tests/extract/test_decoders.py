from __future__ import annotations

import os
import shutil
import subprocess
import sys
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
import pytest

from stages.extract.decoders import OpenCvDecoder, PyAvDecoder
from stages.extract.video import UnreadableClipError
from store.schema import Status
from tests.testing.av_clips import AV1, MARKS, damage, frames, hum, read, write_av
from tests.testing.clips import write_video


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


def test_pictures_with_exif_data_inside(tmp_path: Path) -> None:
    path = tmp_path / "a.avi"
    exif = b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x01\0\0\0\0\0\0"
    with av.open(str(path), "w") as file:
        stream: Any = file.add_stream("mjpeg", rate=25)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuvj420p"
        for i, image in enumerate(frames(40)):
            data = cv2.imencode(".jpg", image)[1].tobytes()
            segment = b"\xff\xe1" + (len(exif) + 2).to_bytes(2, "big") + exif
            packet = av.Packet(data[:2] + segment + data[2:])
            packet.stream, packet.pts, packet.dts = stream, i, i
            packet.time_base = Fraction(1, 25)
            file.mux(packet)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    reader, times, _ = read(path)  # cut off, so that PyAV is asked for more
    assert reader.info.status is Status.TRUNCATED
    assert 10 < len(times) < 30
    decoder = PyAvDecoder(path)
    assert len(list(decoder.pictures(lambda index, time: False))) >= len(times)
    decoder.close()


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
