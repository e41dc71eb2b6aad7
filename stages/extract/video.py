"""One clip -> upright frames with true timestamps, and a status that tells the truth.

Header fields lie (field.md): the frame count is a claim that is compared with what was decoded, and
a frame's time is what the decoder says after reading it, never index / fps. A still image is a clip
of one frame at t = 0.

OpenCV decodes. Where it cannot open a file, decodes nothing, or ends before the header says, PyAV
goes through the file once more, and what it has after OpenCV's last frame is added. Frames that
were handed out stay handed out; if PyAV has no more, the clip is OpenCV's alone.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import NamedTuple

import cv2
import numpy as np

from stages.extract import contents
from stages.extract.clock import Clock
from stages.extract.decoders import (
    Decoder,
    DecoderError,
    Findings,
    OpenCvDecoder,
    PyAvDecoder,
    list_streams,
)
from stages.extract.upright import Image as Image
from stages.extract.upright import resized
from store.schema import Status

# fmt: off
VIDEO_SUFFIXES = frozenset((
    ".mp4", ".mov", ".m4v", ".webm", ".mkv", ".avi", ".3gp", ".3g2", ".flv", ".wmv", ".mpg",
    ".mpeg", ".mts", ".m2ts", ".ts", ".ogv", ".gif",
))
# fmt: on
IMAGE_SUFFIXES = frozenset((".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff"))

_LOST_FRACTION = 0.05  # fewer frames lost than this: headers are off by so much in healthy files
_LOST_FRAMES = 2
_SAME_TIME_S = 1e-6


class UnreadableClipError(Exception):
    """No frame of this file can be decoded; the message says what was found instead."""


def check_regular(path: Path) -> None:
    """Refuse pipes, devices and folders: reading them may never end.

    Raises
    ------
    UnreadableClipError
    """
    if not path.is_file():
        raise UnreadableClipError("not a regular file")


class Frame(NamedTuple):
    """One decoded frame: its time in seconds and its upright picture (h, w, 3) uint8 BGR."""

    timestamp: float
    image: Image


@dataclass
class ClipInfo:
    """What a clip's header claims and, once it was read to its end, what was found.

    ``width``, ``height``: square pixels of the upright frame. ``rotation``: degrees clockwise by
    which stored pictures were turned, after left and right were swapped if ``mirrored``.
    ``claimed_frames``: the header's count, None if it has none. ``fps``: measured from timestamps
    when two frames or more were decoded, else the header's. ``decoder``: what decoded, with
    version; two joined by '+' when the second went on where the first had ended.
    """

    width: int = 0
    height: int = 0
    rotation: int = 0
    mirrored: bool = False
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
    obey : bool
        Whether a video is turned and mirrored as its display matrix says (`tags.tag_is_false`).

    Raises
    ------
    UnreadableClipError
        On opening or on the first frame, when nothing can be decoded.
    """

    def __init__(self, path: Path, obey: bool = True) -> None:
        self.path, self._obey = path, obey
        self.info = ClipInfo()
        self._open: Decoder | None = None
        self._codec = ""
        self._fps: float | None = None  # the header's
        self._times: list[float] = []
        self._clock = Clock()
        self._rescaled = 0
        self._findings = Findings()
        self._failures: list[str] = []
        if not path.exists():
            raise UnreadableClipError("file has vanished")
        check_regular(path)
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
        if self._open is not None:
            self._open.close()
            self._open = None

    def __iter__(self) -> Iterator[Frame]:
        still, image_name = contents.still(self.path), self.path.suffix.lower() in IMAGE_SUFFIXES
        moving = image_name and contents.moves(self.path)
        if still or (image_name and not moving):
            yield self._still()
            if still and not image_name:
                self.info.message = f"{still} in spite of its name"
            return
        for decoder in self._decoders():
            yield from self._read(decoder)
        if not self._times:
            raise UnreadableClipError(self._why_nothing())
        self._conclude()
        if moving:
            notes = ["a video in spite of its name", self.info.message]
            self.info.message = "; ".join(filter(None, notes))

    def _still(self) -> Frame:
        # imdecode of bytes, not imread of a name: names that are not valid UTF-8 work too.
        data = np.fromfile(self.path, np.uint8)
        try:
            image = cv2.imdecode(data, cv2.IMREAD_COLOR)  # applies the EXIF orientation
        except cv2.error:  # a size that no image has
            image = None
        if image is None:
            raise UnreadableClipError(f"not a readable image ({contents.kind(self.path)})")
        self._size(np.asarray(image, np.uint8))
        self.info.decoder = f"opencv {cv2.__version__} imdecode"
        self.info.claimed_frames = self.info.frames = 1
        return Frame(0.0, np.asarray(image, np.uint8))

    def _decoders(self) -> Iterator[Decoder]:
        """Open one decoder after the other, until one has reached the end of the clip."""
        for kind in (OpenCvDecoder, PyAvDecoder):
            try:
                self._open = decoder = kind(self.path.resolve(), self._obey)
            except DecoderError:
                continue
            header, info = decoder.header, self.info
            info.claimed_frames = info.claimed_frames or header.frames
            info.fps = self._fps = self._fps or header.fps
            self._codec = self._codec or header.codec
            yield decoder
            decoder.close()
            self._open = None
            if self._times and not self._failures and not self._ends_early():
                return

    def _read(self, decoder: Decoder) -> Iterator[Frame]:
        """Yield a decoder's frames after those that were read before it."""
        info, step, done = self.info, 1.0 / (self._fps or 30.0), len(self._times)
        # Rebuilt times are not the file's: then the frames are counted off instead.
        known = self._clock.last + _SAME_TIME_S if not self._clock.repaired else -math.inf

        def skip(index: int, time: float) -> bool:
            return time <= known if math.isfinite(time + known) else index < done

        try:
            for told, picture in decoder.pictures(skip):
                time = self._clock(told, step)
                if len(self._times) == done:
                    info.decoder = " + ".join(filter(None, [info.decoder, decoder.name]))
                if not self._times:
                    self._size(picture)
                    info.rotation = decoder.upright.rotation
                    info.mirrored = decoder.upright.mirrored
                elif picture.shape[:2] != (info.height, info.width):
                    picture = resized(picture, info.width, info.height)
                    self._rescaled += 1
                self._times.append(time)
                yield Frame(time, picture)
        except DecoderError as error:
            self._failures.append(f"decoder error: {error}")
        self._findings = decoder.findings

    def _size(self, image: Image) -> None:
        self.info.height, self.info.width = image.shape[:2]

    def _lost(self) -> int:
        """Return the number of frames that the header promises and that are not there."""
        claimed, promised = self.info.claimed_frames or 0, self._findings.promised_s
        if promised is not None and self._fps:  # without the frames that an edit list cuts away
            claimed = min(claimed, round(promised * self._fps))
        lost = claimed - len(self._times)
        return lost if lost > max(_LOST_FRAMES, _LOST_FRACTION * claimed) else 0

    def _ends_early(self) -> bool:
        """Whether the end is missing: frames are lost, and time with them."""
        fps, found = self._fps, self._findings
        if not (lost := self._lost()) or not fps:
            return lost > 0
        promised = (lost + len(self._times)) / fps
        duration = self._duration()
        if not found.counted:  # promised is when the file ends, perhaps with sound after the video
            duration = max(duration, found.reached_s)
        return promised - duration > max(_LOST_FRAMES / fps, _LOST_FRACTION * promised)

    def _duration(self) -> float:
        if len(self._times) == 1:
            return 1.0 / self._fps if self._fps else 0.0
        return self._times[-1] - self._times[0] + float(np.median(np.diff(self._times)))

    def _conclude(self) -> None:
        info, times = self.info, self._times
        info.frames, info.duration_s = len(times), self._duration()
        notes = list(self._failures)
        if not self._obey:
            notes.append("its rotation tag would lay faces on their side, and was ignored")
        if self._ends_early():
            info.status = Status.TRUNCATED
            notes.insert(0, f"ends after {info.frames} of {info.claimed_frames} frames")
        elif self._lost() and self._findings.counted:
            notes.append(f"{info.frames} frames where the header says {info.claimed_frames}")
        if len(times) > 1:
            gaps = np.diff(times)
            info.fps = (len(times) - 1) / (times[-1] - times[0])
            info.variable_frame_rate = bool(gaps.max() > 1.5 * np.median(gaps))
        if self._findings.damaged:
            notes.append(f"damaged packets skipped: {self._findings.damaged}")
        if self._rescaled:
            notes.append(f"{self._rescaled} frames of another size, scaled to the first one's")
        if self._clock.repaired:
            notes.append(f"{self._clock.repaired} timestamps missing or not increasing, rebuilt")
        info.message = "; ".join(notes)

    def _why_nothing(self) -> str:
        if self._codec:
            claim = self.info.claimed_frames
            promised = f", header says {claim} frames" if claim else ""
            found = f"opened, but no frame could be decoded (codec {self._codec}{promised}"
            return "; ".join([found + contents.lack(self.path) + ")", *self._failures])
        try:
            streams = list_streams(self.path)
        except DecoderError:
            return f"no video stream could be opened ({contents.kind(self.path)})"
        if not any(streams):
            return f"no streams in the file ({contents.kind(self.path)})"
        if streams.video:
            return f"no decoder for its video ({', '.join(streams.video)})"
        audio = [f"audio only ({', '.join(streams.audio)})"] if streams.audio else []
        return f"no video stream: {', '.join(audio + list(streams.others))}"
