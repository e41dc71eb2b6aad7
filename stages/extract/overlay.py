"""What a store says of a clip, drawn on the clip: boxes, landmarks, track numbers, times."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING

import cv2
import numpy as np
import numpy.typing as npt

import store
from stages.extract.video import ClipReader, Image, UnreadableClipError
from store.errors import FacepipeError

if TYPE_CHECKING:
    from av.container import OutputContainer

_COLOURS = ((80, 220, 80), (80, 160, 255), (255, 160, 80), (200, 80, 220), (80, 220, 220))
# Parts of a face among its 68 landmarks, first to last + 1, and those whose ends meet.
LINES = ((0, 17), (17, 22), (22, 27), (27, 31), (31, 36), (36, 42), (42, 48), (48, 60), (60, 68))
CLOSED = {36, 42, 48, 60}

_FORMATS = {"": "mp4", ".mp4": "mp4", ".m4v": "mp4", ".mov": "mov", ".mkv": "matroska"}
_QUALITY = {"flags": "+qscale", "global_quality": str(3 * 118)}  # 3 of 1 (best) to 31


class OverlayError(FacepipeError, ValueError):
    """The clip and the store do not belong together, or the result cannot be written."""


def overlay(
    clip: str,
    path: Path,
    store_path: str | Path,
    out: Path,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> int:
    """Write a clip with what the store holds of it drawn into every frame.

    Parameters
    ----------
    clip : str
        The clip's id in the store.
    path : Path
        The clip itself.
    store_path : str or Path
        A store, or its URL as str.
    out : Path
        A video of upright frames at their own times, without sound (see `VideoOut`).
    progress : callable, optional
        Told how many frames are written, and of how many.

    Returns
    -------
    int
        Frames written.

    Raises
    ------
    OverlayError
        The file has another number of frames than the store's rows, or ``out`` is the clip
        itself, a folder, or cannot be written. StoreError, ClipNotFoundError.
    """
    if not path.is_file():
        raise OverlayError(f"{path}: no such file", "give the clip itself, as it was extracted")
    video = VideoOut(out, path)
    opened = store.open(store_path)
    tracks = [record for record in opened.records() if record.clip == clip]
    if not tracks or not tracks[0].status.has_rows:
        found = tracks[0].status if tracks else "nothing"
        raise OverlayError(
            f"{store_path}: holds no rows of clip {clip!r} (found: {found})",
            "see which clips it holds with: pipeline store digest STORE",
        )
    names = ["box", "landmark", "score", "valid", "timestamp"]
    rows = {record.track: opened.clip(clip, record.track, names) for record in tracks}
    expected = tracks[0].frames
    written = 0
    try:
        obey = bool(tracks[0].rotation or tracks[0].details.get("mirrored"))
        for image, time in _drawn(path, obey, rows, expected):
            video.write(image, time)
            written += 1
            progress(written, expected)
        video.finish()
    finally:
        video.discard()
    return written


class VideoOut:
    """A video without sound that appears under its name once it is whole.

    Each frame is shown at its own time, to 1 ms. PyAV writes it: OpenCV knows but one distance
    between frames, and cuts odd sizes by a pixel.

    Parameters
    ----------
    out : Path
        Its name; an mp4 unless that ends in .mov or .mkv.
    source : Path, optional
        What is drawn on, which is never written over.

    Raises
    ------
    OverlayError
        There or later, when nothing can be written there.
    """

    def __init__(self, out: Path, source: Path | None = None) -> None:
        self.out = out
        self._format = _FORMATS.get(out.suffix.lower(), "")
        self._partial = out.with_name(f".{out.stem}.{os.getpid()}.partial")
        self._container: OutputContainer | None = None
        self._last = -1  # ms
        if out.is_dir():
            raise OverlayError(f"{out}: is a folder", f"name a file: --out {out / 'annotated.mp4'}")
        if source is not None and out.exists() and source.exists() and out.samefile(source):
            raise OverlayError(
                f"{out}: is the clip itself, which would be written over",
                "give another --out",
            )
        if not self._format:
            raise OverlayError(
                f"{out}: cannot write a video of that kind",
                "give --out NAME.mp4 (or .m4v, .mov, .mkv)",
            )

    def write(self, image: Image, time: float) -> None:
        """Add a frame (h, w, 3) BGR that is shown at ``time`` s; they are all of one size."""
        import av

        with self._told():
            if self._container is None:
                self._container = av.open(str(self._partial), "w", format=self._format)
                self._stream = self._container.add_stream("mpeg4", rate=25, options=dict(_QUALITY))
                self._stream.height, self._stream.width = image.shape[:2]
                self._stream.pix_fmt = "yuv420p"
                self._stream.codec_context.time_base = self._stream.time_base = Fraction(1, 1000)
                self._first = time
            frame = av.VideoFrame.from_ndarray(image, format="bgr24")
            self._last = max(self._last + 1, round((time - self._first) * 1000))
            frame.pts, frame.time_base = self._last, Fraction(1, 1000)
            self._container.mux(self._stream.encode(frame))

    def finish(self) -> None:
        """Give what was written its name."""
        if self._container is None:
            return
        with self._told():
            self._container.mux(self._stream.encode())
            self._container.close()
            self._container = None
            self._partial.replace(self.out)

    def discard(self) -> None:
        """Leave nothing behind that is not finished."""
        if self._container is not None:
            with contextlib.suppress(OverlayError), self._told():
                self._container.close()
            self._container = None
        self._partial.unlink(missing_ok=True)

    @contextlib.contextmanager
    def _told(self) -> Iterator[None]:
        import av

        try:
            yield
        except (OSError, av.error.FFmpegError) as error:
            raise OverlayError(
                f"{self.out}: cannot write a video there ({error.strerror})",
                "give --out NAME.mp4 in a folder that is there and has room",
            ) from None


def _drawn(
    path: Path, obey: bool, rows: dict[int, dict[str, npt.NDArray[np.generic]]], expected: int
) -> Iterator[tuple[Image, float]]:
    count = 0
    try:
        with ClipReader(path, obey) as reader:
            for frame in reader:
                if count < expected:
                    yield _draw(frame.image, rows, count), frame.timestamp
                count += 1
    except UnreadableClipError as error:
        raise OverlayError(f"{path}: {error}") from None
    if count != expected:
        raise OverlayError(
            f"{path}: {count} frames, the store holds {expected} of this clip",
            "this is not the file that was extracted: give that one, or extract it again",
        )


def _draw(image: Image, rows: dict[int, dict[str, npt.NDArray[np.generic]]], index: int) -> Image:
    picture = image.copy()
    thick = thickness(picture)
    for track, arrays in rows.items():
        if not arrays["valid"][index]:
            continue
        colour = _COLOURS[track % len(_COLOURS)]
        label = f"track {track}  {float(arrays['score'][index]):.2f}"
        draw_face(picture, arrays["box"][index], arrays["landmark"][index], label, colour)
    first = next(iter(rows.values()))
    when = f"frame {index}  {float(first['timestamp'][index]):.3f} s"
    draw_text(picture, when, (6 * thick, picture.shape[0] - 6 * thick))
    return picture


def thickness(picture: Image) -> int:
    """Width in pixels of a line that is seen well in a picture of that size."""
    return int(max(1, round(max(picture.shape[:2]) / 600)))


def draw_face(
    picture: Image,
    box: npt.NDArray[np.generic],
    landmark: npt.NDArray[np.generic],
    label: str,
    colour: tuple[int, int, int] = _COLOURS[0],
) -> None:
    """Draw a box (4,), the lines of 68 landmarks, and a label above the box; pixels, in place."""
    thick = thickness(picture)
    corners = np.asarray(box, np.float64).round().astype(int)
    low, high = (int(corners[0]), int(corners[1])), (int(corners[2]), int(corners[3]))
    cv2.rectangle(picture, low, high, colour, thick)
    points = np.asarray(landmark, np.float64).reshape(68, 1, 2)
    for start, end in LINES:
        part = points[start:end].round().astype(np.int32)
        cv2.polylines(picture, [part], start in CLOSED, colour, thick, cv2.LINE_AA)
    draw_text(picture, label, (low[0], max(low[1] - 4 * thick, 14 * thick)), colour)


def draw_text(
    picture: Image, text: str, at: tuple[int, int], colour: tuple[int, int, int] = (255, 255, 255)
) -> None:
    """Write a line with a dark edge, its lower left corner at ``at``; in place."""
    thick = thickness(picture)
    for width, shade in ((3 * thick, (0, 0, 0)), (thick, colour)):
        cv2.putText(picture, text, at, cv2.FONT_HERSHEY_SIMPLEX, 0.5 * thick, shade, width)
