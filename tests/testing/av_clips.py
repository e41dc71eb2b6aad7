"""Clips that OpenCV cannot write: any codec, pixel format, container, and time of every frame."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np

from stages.extract.video import ClipReader
from tests.testing.clips import picture

MS = Fraction(1, 1000)
# Wheels of PyAV carry one AV1 encoder or the other.
AV1 = next(c for c in ("libsvtav1", "libaom-av1") if c in av.codecs_available)
MARKS = [0, 40, 80, 300, 340, 900, 913, 1000]  # ms


def frames(count: int = len(MARKS)) -> list[np.ndarray]:
    """Draw (48, 64, 3) BGR pictures of a square that wanders."""
    return [picture([(20 + 2 * i % 20, 24, 20)], (64, 48)) for i in range(count)]


@contextmanager
def no_real_time() -> Iterator[None]:
    """Take back the real-time priority that SVT-AV1 gives the thread it is run in, as root.

    All that a process with it starts has it too, and yields to nobody: two busy ones hold two
    cores up for good, Chromium's in the kernel.
    """
    if not hasattr(os, "sched_getscheduler"):  # not Linux
        yield
        return
    before = os.sched_getscheduler(0), os.sched_getparam(0)
    try:
        yield
    finally:
        os.sched_setscheduler(0, *before)


@no_real_time()
def write_av(
    path: Path,
    images: Sequence[np.ndarray],
    marks: Sequence[int] | None = None,
    codec: str = "mpeg4",
    pix_fmt: str = "yuv420p",
    aspect: Fraction | None = None,
    options: dict[str, str] | None = None,
    container: dict[str, str] | None = None,
    format: str | None = None,
    base: Fraction = MS,
) -> Path:
    """Write pictures (h, w, 3) BGR as a video; ``marks`` are their times in units of ``base``.

    By default they are 40 ms apart. They are kept as they are, also where the first is not 0.
    """
    marks = marks if marks is not None else [round(i / 25 / base) for i in range(len(images))]
    with av.open(str(path), "w", format=format, options=container or {}) as file:
        stream: Any = file.add_stream(codec, rate=25, options=options or {})
        stream.height, stream.width = images[0].shape[:2]
        stream.pix_fmt = pix_fmt
        stream.codec_context.time_base = stream.time_base = base
        stream.codec_context.thread_count = 1
        if aspect is not None:
            stream.codec_context.sample_aspect_ratio = aspect
        for image, mark in zip(images, marks, strict=True):
            frame = av.VideoFrame.from_ndarray(image, format="bgr24")
            frame.pts, frame.time_base = mark, base
            file.mux(stream.encode(frame))
        file.mux(stream.encode())
    return path


def pts_seconds(path: Path) -> list[float]:
    """Return the frames' times as PyAV's pts tell them, from the stream's start."""
    with av.open(str(path)) as file:
        stream = file.streams.video[0]
        start = stream.start_time or 0
        return [float((f.pts - start) * f.time_base) for f in file.decode(stream)]  # type: ignore


def read(path: Path) -> tuple[ClipReader, list[float], list[np.ndarray]]:
    """Read a clip to its end; return the reader, the frames' times in seconds and pictures."""
    with ClipReader(path) as reader:
        found = list(reader)
    return reader, [f.timestamp for f in found], [f.image for f in found]


def hum(file: Any, stream: Any, seconds: float = 0.5) -> None:
    """Write silence into a stream of a file."""
    for i in range(int(seconds * 44100 / 1024)):
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), "fltp", "mono")
        frame.rate, frame.pts = 44100, 1024 * i
        file.mux(stream.encode(frame))
    file.mux(stream.encode())


def damage(path: Path, packet: int) -> Path:
    """Make one packet of an MP4 with H.264 undecodable."""
    with av.open(str(path)) as file:
        at = [p.pos for p in file.demux(video=0) if p.size][packet]
    data = bytearray(path.read_bytes())
    data[at : at + 4] = b"\xff\xff\xff\xff"  # the length of the unit that follows
    path.write_bytes(data)
    return path
