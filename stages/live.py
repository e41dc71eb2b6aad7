"""A camera or a file -> a running score, frame by frame: beside `score.py` the other user of both.

Nothing is looked at before its turn. A running score is what the model gives for a clip that ends
here, from the same rows that a store would hold (features in float16), by the same code that scores
stores. What the model does within these rows is its own: only one with ``causal`` set has scores of
frames that later frames leave as they are.
"""

from __future__ import annotations

import contextlib
import math
import os
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np

import store
from stages.extract.device import Device, Precision
from stages.extract.engine import ahead
from stages.extract.inputs import InputError, clip_id
from stages.extract.layer_run import pack_of
from stages.extract.live import LiveExtractor, LiveFace, camera
from stages.extract.nets import Nets, open_nets
from stages.extract.overlay import VideoOut, draw_face, draw_text, thickness
from stages.extract.recipe import Recipe
from stages.extract.run import provenance
from stages.extract.sessions import resolve_device
from stages.extract.tags import tag_is_false
from stages.extract.video import ClipReader, Frame, Image, UnreadableClipError
from stages.fit.prediction_interval import half_width_of
from stages.fit.reproducible import one_thread
from stages.fit.run import Run, load_run
from store.clip_id import check_clip_id
from store.schema import ClipRecord, ClipRows, Status

CAMERA_WINDOW_S = 60.0
WINDOW = "facepipe"
_RECENT = 100  # frames whose latency is shown
# Scoring goes over all rows so far, so that a long clip cannot be scored after every frame: what is
# shown is never older than this part of the frames, and each row is read so many times in all.
_FRESH = 50
_TO_WRITE = 2  # pictures that wait to be drawn and written


@dataclass(frozen=True)
class LiveOptions:
    """What is scored, and how.

    Attributes
    ----------
    source : str
        A camera's number, or the path of a video.
    run : Path
        A run folder.
    out : Path, optional
        An mp4 of what is seen. Left out: a window where there is a screen, else ``live.mp4``.
    pack : str, optional
        Where the run's pack is; by the name that the run noted if not given.
    device : Device
    every : int, optional
        The detector looks at least at every so many-th frame; as in the run if not given.
    window_s : float, optional
        Seconds that are scored: older frames are forgotten. Left out: a file whole, of a camera
        CAMERA_WINDOW_S.
    store : Path, optional
        Keep the rows that were scored last in this store, under the file's name.
    """

    source: str
    run: Path
    out: Path | None = None
    pack: str | None = None
    device: Device = Device.AUTO
    every: int | None = None
    window_s: float | None = None
    store: Path | None = None

    @property
    def camera(self) -> int | None:
        """Its number, if the source is a camera."""
        return int(self.source) if self.source.isdecimal() else None


@dataclass
class LiveResult:
    """What came of it.

    ``score``: the last one, in label units, None without a face. ``error``, ``half_width``: root
    mean square error of the run's held-out clips, and how far to either side of a score its 95 %
    prediction interval goes (see prediction_interval.half_width). ``latency_ms``: of every frame,
    from its picture to its score. ``seconds``: of the whole, decoding, drawing and writing
    included. ``out``: the mp4, if any.
    """

    frames: int = 0
    valid_frames: int = 0
    score: float | None = None
    error: float | None = None
    half_width: float = math.nan
    seconds: float = 0.0
    out: Path | None = None
    latency_ms: list[float] = field(default_factory=list, repr=False)

    @property
    def interval(self) -> tuple[float, float]:
        """Ends of the last score's 95 % prediction interval; NaN where there is none."""
        score = math.nan if self.score is None else self.score
        return score - self.half_width, score + self.half_width

    def to_dict(self) -> dict[str, Any]:
        """Return it as JSON types."""
        low, high = self.interval
        median, late = percentiles(self.latency_ms)
        return {
            "frames": self.frames,
            "valid_frames": self.valid_frames,
            "score": self.score,
            "score_low": low,
            "score_high": high,
            "held_out_rmse": self.error,
            "frames_per_s": self.frames / self.seconds if self.seconds else None,
            "latency_ms": {"median": median, "p95": late},
            "out": str(self.out) if self.out else None,
        }


def percentiles(latency_ms: list[float]) -> tuple[float, float]:
    """Median and 95th percentile; NaN of nothing."""
    if not latency_ms:
        return math.nan, math.nan
    median, late = np.percentile(latency_ms, [50, 95])
    return float(median), float(late)


class RunningScore:
    """The rows so far, and what a run says of them.

    Parameters
    ----------
    run : Run
    window_s : float, optional
        Older rows are forgotten.
    """

    def __init__(self, run: Run, window_s: float | None = None) -> None:
        self._run, self._window_s = run, window_s
        self._times: list[float] = []
        self._faces: list[LiveFace | None] = []
        self._since = 0
        self.score: float | None = None

    def add(self, timestamp: float, face: LiveFace | None) -> float | None:
        """Take the next frame; return the score as it stands, None before the first face.

        With another person it begins anew.
        """
        if face is not None and face.someone_new:
            self._times, self._faces, self.score = [], [], None
        self._times.append(timestamp)
        self._faces.append(face)
        if self._window_s is not None:
            while timestamp - self._times[0] > self._window_s:
                del self._times[0], self._faces[0]
        self._since += 1
        if self._since >= max(1, len(self._times) // _FRESH):
            self.settle()
        return self.score

    def settle(self) -> float | None:
        """Score the rows as they are now."""
        self._since = 0
        if any(face is not None for face in self._faces):
            self.score = self._run.predict_rows(self.rows())
        else:
            self.score = None
        return self.score

    def rows(self) -> ClipRows:
        """Return what a store would hold of the frames so far."""
        rows = ClipRows.empty(np.asarray(self._times))
        at = np.array([face is not None for face in self._faces], np.bool_)
        found = [face for face in self._faces if face is not None]
        rows.valid[at] = True
        if found:
            rows.embedding[at] = [face.embedding for face in found]
            rows.appearance[at] = [face.appearance for face in found]
            rows.landmark[at] = np.stack([face.landmark for face in found]).reshape(len(found), -1)
            rows.box[at] = [face.box for face in found]
            rows.score[at] = [face.score for face in found]
        half = np.float16  # as stores keep them
        return replace(
            rows, embedding=rows.embedding.astype(half), appearance=rows.appearance.astype(half)
        )


def live(
    options: LiveOptions,
    echo: Callable[[str], None] = lambda line: None,
    progress: Callable[[int, int | None], None] = lambda done, total: None,
) -> LiveResult:
    """Score a camera or a file frame by frame, and show it or write it down.

    Ends with the file or the camera, with q or Escape in the window, or with Ctrl-C; what was
    written until then is whole. ``progress`` gets every frame's number and how many the file says
    that it has; None of a camera.

    Raises
    ------
    RunError, PackError, DeviceError, InputError, OverlayError, StoreError
    """
    if options.camera is None and not Path(options.source).is_file():
        wrong = "is a folder" if Path(options.source).is_dir() else "no such file"
        raise InputError(f"{options.source}: {wrong}", "give a camera's number, or a video")
    run = load_run(options.run)
    run.check_rows()
    made_with = run.provenance["store"]
    pack = pack_of(made_with["pack"], options.pack, echo)
    precision = Precision(made_with["recipe"].get("precision", Precision.F32))
    device, _ = resolve_device(options.device, pack.landmark, precision)
    recipe = Recipe(
        every=options.every or made_with["recipe"].get("every", Recipe.every),
        detector_sizes=tuple(made_with["recipe"].get("detector_sizes", pack.detection.sizes)),
        detector_threshold=pack.detection.threshold,
        precision=str(precision),
    )
    # One thread: two would gain little on one face at a time, and where the machine has other work
    # they wait for each other (2 cores shared with two more processes: 8 frames/s instead of 43).
    nets = open_nets(pack, device, recipe, threads=1, flush_denormals=True)
    extractor = LiveExtractor(nets, recipe.every, follows=pack.refine is not None)
    window_s = options.window_s
    if window_s is None and options.camera is not None:
        window_s = CAMERA_WINDOW_S
    running = RunningScore(run, window_s)
    error = run.metrics.get("test", {}).get("rmse")
    result = LiveResult(error=error, half_width=half_width_of(options.run))
    begin = time.perf_counter()
    with one_thread(), _Output(options) as output, contextlib.suppress(KeyboardInterrupt):
        for frame, total in _frames(options, nets):
            started = time.perf_counter()
            face = extractor.look(frame.image)
            result.score = running.add(frame.timestamp, face)
            result.latency_ms.append((time.perf_counter() - started) * 1000)
            result.frames += 1
            result.valid_frames += face is not None
            progress(result.frames, total)
            draw = partial(_drawn, frame, face, *_told(frame, result))
            if not output.put(draw, frame.timestamp):
                break
    if not result.frames:
        raise InputError(f"{options.source}: no frame was read", "give another --source")
    result.score = running.settle()
    result.seconds = time.perf_counter() - begin
    result.out = output.written
    if options.store is not None:
        told = provenance(pack, recipe, device.provider)
        _keep(options.store, options.source, running.rows(), told)
    return result


def _frames(options: LiveOptions, nets: Nets) -> Iterator[tuple[Frame, int | None]]:
    """Yield frames, and how many there are in all, as far as is known."""
    if options.camera is not None:
        for frame in camera(options.camera):
            yield frame, None
        return
    path = Path(options.source)
    try:
        # One core decodes while the other looks.
        with (
            ClipReader(path, _obey(path, nets)) as reader,
            contextlib.closing(ahead(reader)) as frames,
        ):
            for frame in frames:
                yield frame, reader.info.claimed_frames
    except UnreadableClipError as error:
        raise InputError(f"{path}: {error}", "give a camera's number, or a video") from None


def _obey(path: Path, nets: Nets) -> bool:
    """Whether a file's rotation tag is to be believed, which is settled before it is played."""
    asking = tag_is_false(path)
    try:
        request = next(asking)
        while True:
            request = asking.send(nets.detector.detect_many([request.image])[0])
    except StopIteration as end:
        return not end.value


def _told(frame: Frame, result: LiveResult) -> tuple[str, str]:
    """Return the lines above and below the picture, as things stand now."""
    above = "no face yet" if result.score is None else f"score {result.score:.2f}"
    low, high = result.interval
    if math.isfinite(low):
        above += f" ({low:.2f} to {high:.2f} in 95 of 100)"
    median, late = percentiles(result.latency_ms[-_RECENT:])
    return above, f"{frame.timestamp:.2f} s  {median:.0f} ms a frame, 95 % within {late:.0f} ms"


def _drawn(frame: Frame, face: LiveFace | None, above: str, below: str) -> Image:
    picture = frame.image.copy()
    if face is not None:
        draw_face(picture, face.box, face.landmark, f"{face.score:.2f}")
    thick = thickness(picture)
    draw_text(picture, above, (6 * thick, 18 * thick))
    draw_text(picture, below, (6 * thick, picture.shape[0] - 6 * thick))
    return picture


class _Output:
    """A window, or a video that appears when all of it is written, by a thread of its own."""

    def __init__(self, options: LiveOptions) -> None:
        out = options.out
        if out is None and not _has_screen():
            out = Path("live.mp4")
        source = Path(options.source) if options.camera is None else None
        self._video = VideoOut(out, source) if out is not None else None
        self._thread = ThreadPoolExecutor(1, "facepipe-live")
        self._waiting: deque[Future[None]] = deque()
        self.written: Path | None = None

    def __enter__(self) -> _Output:
        return self

    def put(self, draw: Callable[[], Image], time: float) -> bool:
        """Show or write the next picture, of ``time`` s; False when the user has seen enough."""
        video = self._video
        if video is None:
            cv2.imshow(WINDOW, draw())
            return cv2.waitKey(1) & 0xFF not in (ord("q"), 27)
        # Drawing and encoding 1080p must not wait in line behind the nets (benchmarks/live.py).
        self._waiting.append(self._thread.submit(lambda: video.write(draw(), time)))
        self._wait(_TO_WRITE)
        self.written = video.out
        return True

    def _wait(self, left: int) -> None:
        while len(self._waiting) > left:
            self._waiting.popleft().result()

    def __exit__(self, *_: object) -> None:
        if self._video is None:
            cv2.destroyAllWindows()
            return
        try:
            self._wait(0)
            self._video.finish()
        finally:
            self._thread.shutdown(cancel_futures=True)
            self._video.discard()


def _has_screen() -> bool:
    """Whether a window can be shown; asking OpenCV without one would end the process."""
    if sys.platform in ("win32", "darwin"):
        return True
    return bool(os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))


def _keep(path: Path, source: str, rows: ClipRows, told: dict[str, Any]) -> None:
    clip = f"camera{source}" if source.isdecimal() else clip_id(Path(source).name)
    check_clip_id(clip)
    valid = int(rows.valid.sum())
    record = ClipRecord(
        clip,
        Status.OK if valid else Status.NO_FACE,
        frames=len(rows),
        valid_frames=valid,
        duration_s=float(rows.timestamp[-1] - rows.timestamp[0]),
        decoder="live",
    )
    with store.Writer(path, told) as writer:
        writer.append(record, rows)
        writer.flush()
