"""One clip -> upright frames with true timestamps, and a status that tells the truth.

Header fields lie (field.md): the frame count is a claim that is compared with what was decoded, and
a frame's time is what the decoder says after reading it, never index / fps. A still image is a clip
of one frame at t = 0.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

# Read by OpenCV when the first capture opens. The decoder's own chatter says nothing that the
# status does not, and a "video" that is really a playlist must not reach for the network.
os.environ.setdefault("OPENCV_LOG_LEVEL", "SILENT")
os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")
os.environ.setdefault("OPENCV_FFMPEG_CAPTURE_OPTIONS", "protocol_whitelist;file")

import cv2  # noqa: E402

from store.schema import Status  # noqa: E402

Image = npt.NDArray[np.uint8]

# fmt: off
VIDEO_SUFFIXES = frozenset((
    ".mp4", ".mov", ".m4v", ".webm", ".mkv", ".avi", ".3gp", ".3g2", ".flv", ".wmv", ".mpg",
    ".mpeg", ".mts", ".m2ts", ".ts", ".ogv", ".gif",
))
# fmt: on
IMAGE_SUFFIXES = frozenset((".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff"))

_LOST_FRACTION = 0.05  # fewer frames lost than this: headers are off by so much in healthy files
_LOST_FRAMES = 2
_MAX_HEADER_FPS = 1000.0


class UnreadableClipError(Exception):
    """No frame of this file can be decoded; the message says what was found instead."""


class Frame(NamedTuple):
    """One decoded frame: its time in seconds and its upright picture (h, w, 3) uint8 BGR."""

    timestamp: float
    image: Image


@dataclass
class ClipInfo:
    """What a clip's header claims and, once it was read to its end, what was found.

    ``width``, ``height``: pixels of the upright frame. ``rotation``: degrees that were undone.
    ``claimed_frames``: the header's count, None if it has none. ``fps``: measured from timestamps
    when two frames or more were decoded, else the header's.
    """

    width: int = 0
    height: int = 0
    rotation: int = 0
    fps: float | None = None
    claimed_frames: int | None = None
    decoder: str = ""
    frames: int = 0
    duration_s: float = 0.0
    status: Status = Status.OK
    message: str = ""
    variable_frame_rate: bool = False


class ClipReader:
    """Iterate over the frames of a clip; afterwards ``info`` holds what became of it.

    Parameters
    ----------
    path : Path
        A video or a still image.

    Raises
    ------
    UnreadableClipError
        On opening or on the first frame, when nothing can be decoded.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.info = ClipInfo()
        self._capture: cv2.VideoCapture | None = None
        self._times: list[float] = []
        self._repaired = 0
        if not path.exists():
            raise UnreadableClipError("file has vanished")
        if path.stat().st_size == 0:
            raise UnreadableClipError("file is empty (0 bytes)")

    def __enter__(self) -> ClipReader:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._capture is not None:
            self._capture.release()
            self._capture = None

    def __iter__(self) -> Iterator[Frame]:
        if self.path.suffix.lower() in IMAGE_SUFFIXES:
            yield self._still()
            return
        frames = self._video()
        try:
            for frame in frames:
                self._times.append(frame.timestamp)
                yield frame
        except cv2.error as error:  # some broken streams raise instead of ending
            self.info.message = f"decoder error: {_first_line(str(error))}"
        if not self._times:
            raise UnreadableClipError(self._why_nothing())
        self._conclude()

    def _still(self) -> Frame:
        # imdecode of bytes, not imread of a name: names that are not valid UTF-8 work too.
        data = np.fromfile(self.path, np.uint8)
        image = cv2.imdecode(data, cv2.IMREAD_COLOR)  # applies the EXIF orientation
        if image is None:
            raise UnreadableClipError(f"not a readable image ({_magic(self.path)})")
        self._size(np.asarray(image, np.uint8))
        self.info.decoder = f"opencv {cv2.__version__} imdecode"
        self.info.claimed_frames = self.info.frames = 1
        return Frame(0.0, np.asarray(image, np.uint8))

    def _video(self) -> Iterator[Frame]:
        # FFmpeg only: the image-sequence backend would read '%' in a file name as a pattern.
        self._capture = cap = cv2.VideoCapture(
            str(self.path.resolve()), cv2.CAP_FFMPEG, [cv2.CAP_PROP_N_THREADS, 1]
        )
        if not cap.isOpened():
            raise UnreadableClipError(f"no video stream could be opened ({_magic(self.path)})")
        cap.set(cv2.CAP_PROP_ORIENTATION_AUTO, 1)  # the default differs between OpenCV versions
        info = self.info
        info.decoder = f"opencv {cv2.__version__} ffmpeg"
        claimed = cap.get(cv2.CAP_PROP_FRAME_COUNT)
        info.claimed_frames = int(claimed) if math.isfinite(claimed) and claimed > 0 else None
        fps = cap.get(cv2.CAP_PROP_FPS)
        info.fps = fps if math.isfinite(fps) and 0 < fps <= _MAX_HEADER_FPS else None
        rotation = int(cap.get(cv2.CAP_PROP_ORIENTATION_META)) % 360
        info.rotation = rotation if rotation in (90, 180, 270) else 0  # else it was not applied
        step = 1.0 / (info.fps or 30.0)
        last = -math.inf
        while True:
            got, image = cap.read()
            if not got or image is None:
                return
            # POS_MSEC after the read is this frame's presentation time; before it, the previous
            # frame's (measured: off by up to 500 ms on variable frame rates).
            time = cap.get(cv2.CAP_PROP_POS_MSEC) / 1000.0
            if not math.isfinite(time) or time <= last:
                time = last + step if last > -math.inf else 0.0
                self._repaired += 1
            last = time
            if image.ndim == 2:
                image = cv2.cvtColor(image, cv2.COLOR_GRAY2BGR)
            picture = np.asarray(image, np.uint8)
            if not self._times:
                self._size(picture)
            yield Frame(time, picture)

    def _size(self, image: Image) -> None:
        self.info.height, self.info.width = image.shape[:2]

    def _conclude(self) -> None:
        info, times = self.info, np.asarray(self._times)
        info.frames = len(times)
        header_fps = info.fps
        if len(times) > 1:
            gaps = np.diff(times)
            span = float(times[-1] - times[0])
            info.fps = (len(times) - 1) / span
            info.variable_frame_rate = bool(gaps.max() > 1.5 * np.median(gaps))
            info.duration_s = span + float(np.median(gaps))
        else:
            info.duration_s = 1.0 / header_fps if header_fps else 0.0
        notes = [info.message] if info.message else []
        lost = (info.claimed_frames or 0) - info.frames
        if lost > max(_LOST_FRAMES, _LOST_FRACTION * (info.claimed_frames or 0)):
            promised = (info.claimed_frames or 0) / header_fps if header_fps else math.inf
            if info.duration_s < (1 - _LOST_FRACTION) * promised:
                info.status = Status.TRUNCATED
                notes.insert(0, f"ends after {info.frames} of {info.claimed_frames} frames")
            else:  # a count estimated from the duration, or frames lost on the way to the end
                notes.append(f"{info.frames} frames where the header says {info.claimed_frames}")
        if self._repaired:
            notes.append(f"{self._repaired} timestamps missing or not increasing, rebuilt")
        info.message = "; ".join(notes)

    def _why_nothing(self) -> str:
        codec = ""
        if self._capture is not None:
            code = int(self._capture.get(cv2.CAP_PROP_FOURCC))
            letters = code.to_bytes(4, "little", signed=False) if code > 0 else b""
            codec = letters.decode("ascii", "replace").strip("\0 ")
        claim = self.info.claimed_frames
        promised = f", header says {claim}" if claim else ""
        detail = f"; {self.info.message}" if self.info.message else ""
        return f"opened, but no frame could be decoded (codec {codec or '?'}{promised}){detail}"


def _magic(path: Path) -> str:
    """Say in a few words what the first bytes look like."""
    head = path.open("rb").read(64)
    known = {
        b"version https://git-lfs": "a git-LFS pointer, not the file itself: run 'git lfs pull'",
        b"\xff\xd8\xff": "a JPEG image",
        b"\x89PNG": "a PNG image",
        b"<!DOCTYPE": "an HTML page",
        b"<html": "an HTML page",
        b"#EXTM3U": "a playlist",
        b"\x1aE\xdf\xa3": "a Matroska/WebM file without readable video",
    }
    for magic, name in known.items():
        if head.startswith(magic):
            return name
    if head[4:8] in (b"ftyp", b"moov", b"free", b"mdat", b"skip", b"wide"):
        return "an MP4/MOV file without readable video: audio only, or its index is missing"
    if all(32 <= byte < 127 or byte in b"\r\n\t" for byte in head):
        return "plain text"
    return "unknown content"


def _first_line(text: str) -> str:
    return text.strip().splitlines()[0][:200] if text.strip() else "unknown"
