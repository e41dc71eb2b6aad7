"""Two decoders behind one face: OpenCV's FFmpeg, and PyAV's where that gives up.

OpenCV is the quicker one, but it stops at the first packet that it cannot decode, cannot open some
files, and its wheels decode no AV1 in software. PyAV's wheels do, and go on after a bad packet.
"""

from __future__ import annotations

import math
import os
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, cast

import cv2
import numpy as np

from stages.extract.contents import counts_frames, display_matrix, holds_itself
from stages.extract.upright import Image, Matrix, Upright

if TYPE_CHECKING:
    from av.audio.stream import AudioStream
    from av.container import InputContainer
    from av.packet import Packet
    from av.sidedata.sidedata import SideData
    from av.video.codeccontext import VideoCodecContext
    from av.video.frame import VideoFrame
    from av.video.stream import VideoStream

# A "video" may be a playlist or a concat script under another name, which would make FFmpeg open
# any file or address that it names. So only formats are allowed that hold everything themselves.
# (A protocol whitelist alone lets a concat script read every local file.)
# fmt: off
_FORMATS = ",".join((
    "aac", "ac3", "amr", "apng", "asf", "av1", "avi", "bmp_pipe", "dv", "flac", "flv", "gif",
    "h263", "h264", "hevc", "ivf", "jpeg_pipe", "live_flv", "m4v", "matroska", "mjpeg", "mov",
    "mp3", "mpeg", "mpegts", "mpegtsraw", "mpegvideo", "mxf", "nut", "obu", "ogg", "png_pipe",
    "rm", "swf", "tiff_pipe", "vc1", "vvc", "wav", "webp_pipe", "wtv", "yuv4mpegpipe",
))
# fmt: on
_OPTIONS = {"protocol_whitelist": "file", "format_whitelist": _FORMATS}

# Read by OpenCV when a capture opens; set, not defaulted, since it is a guard. The decoder's own
# chatter says nothing that the status does not.
os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")
os.environ["OPENCV_FFMPEG_CAPTURE_OPTIONS"] = "|".join(f"{k};{v}" for k, v in _OPTIONS.items())

# Not OPENCV_LOG_LEVEL: it is read when cv2 is first imported, which may have been long ago.
_logging: Any = cv2 if hasattr(cv2, "setLogLevel") else cv2.utils.logging  # OpenCV 4, 5
_logging.setLogLevel(0)

_MAX_HEADER_FPS = 1000.0
_MAX_TIME_S = 1e7  # four months: a time beyond that comes from a broken header
_COVERS = frozenset(("mjpe", "MJPG", "jpeg", "png ", "mpng", "bmp ", "gif "))


class DecoderError(Exception):
    """The decoder cannot open the file, or breaks down on the way; one line says why."""


@dataclass
class Header:
    """What the header claims: number of frames, frames/s and codec, each None or '' if unknown."""

    frames: int | None = None
    fps: float | None = None
    codec: str = ""


@dataclass
class Findings:
    """What PyAV met on its way through a file.

    ``damaged``: packets that could not be decoded. ``counted``: whether the number of frames is in
    the file and not made up from its duration. ``promised_s``: the
    video's duration in an MP4's header, without what an edit list cuts away, None elsewhere.
    ``reached_s``: end of the last packet of any stream, on the clock of the file's duration.
    """

    damaged: int = 0
    counted: bool = True
    promised_s: float | None = None
    reached_s: float = 0.0


class Picture(NamedTuple):
    """One decoded frame: seconds since the start of the stream (NaN if unknown), upright BGR."""

    time: float
    image: Image


class Decoder(Protocol):
    """An open clip. ``pictures`` goes through it once, from the start."""

    name: str
    header: Header
    upright: Upright
    findings: Findings

    def pictures(self, skip: Callable[[int, float], bool]) -> Iterator[Picture]:
        """Yield the frames for which ``skip(index, time)`` is False.

        Raises
        ------
        DecoderError
            When the decoder breaks down; the frames so far are good.
        """

    def close(self) -> None:
        """Give the file back."""


class OpenCvDecoder:
    """OpenCV with its FFmpeg backend; never the image-sequence one, which reads '%' as a pattern.

    ``obey``: whether pictures are turned as the file's display matrix says.

    Raises
    ------
    DecoderError
        When it finds no video in the file, or only a cover picture.
    """

    def __init__(self, path: Path, obey: bool = True) -> None:
        if not holds_itself(path):  # OpenCV 4.11 does not heed the lists above
            raise DecoderError("not a known kind of video file")
        self.name = f"opencv {cv2.__version__} ffmpeg"
        self.findings = Findings(counted=counts_frames(path))
        try:
            str(path).encode()  # a name that is not UTF-8 crashes OpenCV (4.11 and 5.0)
            cap = cv2.VideoCapture(str(path), cv2.CAP_FFMPEG, [cv2.CAP_PROP_N_THREADS, 1])
        except (cv2.error, UnicodeEncodeError) as error:
            raise DecoderError(first_line(error)) from None
        if not cap.isOpened():
            raise DecoderError("no video stream")
        self._capture = cap
        code = int(cap.get(cv2.CAP_PROP_FOURCC))
        letters = code.to_bytes(4, "little").decode("ascii", "replace") if 0 < code < 2**32 else ""
        self.header = Header(
            frames=_count(cap.get(cv2.CAP_PROP_FRAME_COUNT)),
            fps=_rate(cap.get(cv2.CAP_PROP_FPS)),
            codec=letters.strip("\0 "),
        )
        if letters in _COVERS and not list_streams(path).video:
            raise DecoderError("a cover picture is the only video stream")
        cap.set(cv2.CAP_PROP_ORIENTATION_AUTO, 0)
        matrix = display_matrix(path)
        if matrix is None:
            matrix = Matrix.turn(_number(cap.get(cv2.CAP_PROP_ORIENTATION_META)))
        wide, high = cap.get(cv2.CAP_PROP_SAR_NUM), cap.get(cv2.CAP_PROP_SAR_DEN)
        self.upright = Upright(matrix if obey else None, wide / high if high else 1.0)

    def pictures(self, skip: Callable[[int, float], bool]) -> Iterator[Picture]:
        """Yield the frames for which ``skip(index, time)`` is False."""
        index, before = 0, -1.0
        while True:
            try:
                got, image = self._capture.read()
                # POS_MSEC after the read is this frame's presentation time; before it, the
                # previous frame's (measured: off by up to 500 ms on variable frame rates).
                time = _time(self._capture.get(cv2.CAP_PROP_POS_MSEC) / 1000.0)
            except cv2.error as error:  # some broken streams raise instead of ending
                raise DecoderError(first_line(error)) from None
            if not got or image is None:
                return
            if time == 0.0 <= before:  # what OpenCV says of a frame without a time
                time = math.nan
            else:
                before = time
            if not skip(index, time):
                if image.ndim == 2:
                    image = cv2.cvtColor(image, cv2.COLOR_GRAY2BGR)
                yield Picture(time, self.upright(np.asarray(image, np.uint8)))
            index += 1

    def close(self) -> None:
        """Give the file back."""
        self._capture.release()


class PyAvDecoder:
    """PyAV, packet by packet, so that a packet that cannot be decoded costs only its own frames.

    ``obey`` as for `OpenCvDecoder`.

    Raises
    ------
    DecoderError
        When it cannot open the file or finds no video in it.
    """

    def __init__(self, path: Path, obey: bool = True) -> None:
        import av
        from av.video.reformatter import VideoReformatter

        self._path = path
        self._container = _open(path)
        stream = _video_stream(self._container)
        # A stream of a codec that FFmpeg does not know has no context, whatever the hints say.
        if stream is None or cast(object, stream.codec_context) is None:
            self._container.close()
            raise DecoderError("no video stream that can be decoded")
        stream.codec_context.thread_count = 1
        self._stream = stream
        self._error = av.error.FFmpegError
        self._reformatter = VideoReformatter()
        self.name = f"pyav {av.__version__} {stream.codec_context.codec.name}"
        rate = stream.average_rate or stream.guessed_rate
        self.header = Header(
            frames=_count(stream.frames),
            fps=_rate(float(rate) if rate else math.nan),
            codec=stream.codec_context.name,
        )
        self._obey = obey
        self.upright = Upright()
        self.findings = Findings(counted=self.header.frames is not None)
        length, base = stream.duration, stream.time_base
        # Elsewhere FFmpeg makes the duration fit what is left of the file.
        if "mov" in self._container.format.name and length and base:
            self.findings.promised_s = float(length * base)

    def pictures(self, skip: Callable[[int, float], bool]) -> Iterator[Picture]:
        """Yield the frames for which ``skip(index, time)`` is False."""
        for index, frame in enumerate(self._frames()):
            if index == 0:
                aspect = self._stream.sample_aspect_ratio
                matrix = self._matrix(frame) if self._obey else None
                self.upright = Upright(matrix, float(aspect) if aspect else 1.0)
            time = self._seconds(frame)
            if not skip(index, time):
                # one reformatter for all frames: a frame's own would build its tables each time
                bgr = self._reformatter.reformat(frame, format="bgr24").to_ndarray()
                yield Picture(time, self.upright(np.asarray(bgr, np.uint8)))

    def _matrix(self, frame: VideoFrame) -> Matrix | None:
        try:
            return _side_matrix(frame)
        except ValueError:  # PyAV 18 knows no name for some side data, such as EXIF
            return display_matrix(self._path)

    def _frames(self) -> Iterator[VideoFrame]:
        for packet in self._packets():
            try:
                frames = self._stream.decode(packet)
            except EOFError:  # the decoder was flushed already
                return
            except (self._error, ValueError, MemoryError):
                self.findings.damaged += packet is not None
                continue
            yield from frames

    def _packets(self) -> Iterator[Packet[VideoStream] | None]:
        """Yield the stream's packets, then None, which flushes the frames that wait."""
        found = self.findings
        packets = self._container.demux()
        while True:
            try:
                packet = next(packets)
            except (StopIteration, EOFError):
                break
            except (self._error, ValueError):  # the file breaks off inside a packet
                found.damaged += 1
                break
            if not packet.size:  # PyAV's own flush packet
                continue
            if packet.pts is not None and packet.time_base is not None:
                end = float((packet.pts + (packet.duration or 0)) * packet.time_base)
                found.reached_s = max(found.reached_s, end)
            if packet.stream_index == self._stream.index:
                yield cast("Packet[VideoStream]", packet)
        yield None

    def _seconds(self, frame: VideoFrame) -> float:
        """Return a frame's time since the stream's start, which is what OpenCV counts from."""
        stamp = frame.pts if frame.pts is not None else frame.dts
        base = frame.time_base or self._stream.time_base
        if stamp is None or base is None:
            return math.nan
        return _time(float((stamp - (self._stream.start_time or 0)) * base))

    def close(self) -> None:
        """Give the file back."""
        self._container.close()


class Streams(NamedTuple):
    """Codecs of the streams of a file; ``video`` leaves cover pictures out."""

    video: tuple[str, ...]
    audio: tuple[str, ...]
    others: tuple[str, ...]


def list_streams(path: Path) -> Streams:
    """List what a file holds, after its header.

    Raises
    ------
    DecoderError
        When the file cannot be opened at all.
    """
    with _open(path) as container:
        streams = container.streams
        covers = [s for s in streams.video if _is_cover(s)]
        return Streams(
            tuple(_codec(s) for s in streams.video if s not in covers),
            tuple(_codec(s) for s in streams.audio),
            ("cover picture",) * len(covers)
            + tuple(s.type for s in streams if s.type not in ("video", "audio")),
        )


def first_line(error: Exception) -> str:
    """Return the first line of an error's text."""
    text = str(error).strip()
    return text.splitlines()[0][:200] if text else type(error).__name__


def _open(path: Path) -> InputContainer:
    # Imported here: it takes a tenth of a second, and most clips never need it. Its log is silent
    # unless the program around us turns it on.
    import av

    try:
        return av.open(str(path), options=dict(_OPTIONS), metadata_errors="replace")
    except (av.error.FFmpegError, OSError, ValueError) as error:
        raise DecoderError(first_line(error)) from None


def _video_stream(container: InputContainer) -> VideoStream | None:
    return next((s for s in container.streams.video if not _is_cover(s)), None)


def _codec(stream: VideoStream | AudioStream) -> str:
    context = cast("VideoCodecContext | None", stream.codec_context)
    return context.name if context is not None else "unknown codec"


def _is_cover(stream: VideoStream) -> bool:
    from av.stream import Disposition

    return bool(stream.disposition & Disposition.attached_pic)


def _side_matrix(frame: VideoFrame) -> Matrix | None:
    # By name works in every version of PyAV; its type hints say that this gives an object.
    data = cast("SideData | None", frame.side_data.get("DISPLAYMATRIX"))
    if data is None:
        return None
    a, b, _, c, d = (value / 65536 for value in struct.unpack("=5i", bytes(data)[:20]))
    return Matrix(a, b, c, d)


def _count(claimed: float) -> int | None:
    return int(claimed) if math.isfinite(claimed) and claimed > 0 else None


def _rate(fps: float) -> float | None:
    return fps if math.isfinite(fps) and 0 < fps <= _MAX_HEADER_FPS else None


def _number(value: float) -> float:
    return value if math.isfinite(value) else 0.0


def _time(seconds: float) -> float:
    return seconds if abs(seconds) < _MAX_TIME_S else math.nan
