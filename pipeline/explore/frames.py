"""Frames of the clips as small JPEGs, decoded when they are asked for, whatever their codec.

The decoder that extracted a clip decodes it here, from its start, so that frame i is what row i of
the store tells of. What was decoded last stays open and goes on from there: playing costs each
frame once. Going back beyond what is kept, or to another frame far ahead, decodes up to it.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator
from pathlib import Path

import cv2

from stages.extract.inputs import find_clips
from stages.extract.reopen import reopen
from stages.extract.upright import Image, resized
from stages.extract.video import ClipReader, UnreadableClipError
from store.errors import FacepipeError
from store.schema import ClipRecord

HEIGHT, WIDTH = 480, 1280  # pixels of a picture at most
QUALITY = 85
OPEN = 2  # clips
KEPT_BYTES = 32 << 20  # of JPEGs
BEFORE = 24  # frames that are kept on the way to one that was asked for, for steps back


class FrameError(FacepipeError, ValueError):
    """A frame cannot be shown; the message is for who looks at the page."""


class NotWantedError(Exception):
    """Who asked has left."""


class _Reel:
    """An open clip and the number of the frame that it gives next."""

    def __init__(self, reader: ClipReader) -> None:
        self._reader, self._frames = reader, iter(reader)
        self.next = 0

    def read(self) -> Image | None:
        """Return the next picture; None behind the last."""
        frame = next(self._frames, None)
        self.next += 1
        return None if frame is None else frame.image

    def close(self) -> None:
        """Give the file back."""
        self._reader.__exit__(None, None, None)


class Frames:
    """JPEGs of the frames of a folder's clips; used by one thread at a time.

    Parameters
    ----------
    folder : Path
        The folder that was extracted.

    Raises
    ------
    InputError
        The folder holds no videos.
    """

    def __init__(self, folder: Path) -> None:
        self._paths = {source.clip: source.path for source in find_clips([folder])}
        self._reels: OrderedDict[str, _Reel] = OrderedDict()
        self._kept: OrderedDict[tuple[str, int], bytes] = OrderedDict()
        self._bytes = 0

    def jpeg(
        self, record: ClipRecord, index: int, wanted: Callable[[], bool] = lambda: True
    ) -> bytes:
        """Return a frame of a clip, upright, at most 480 pixels high.

        ``wanted`` is asked before each frame that is decoded on the way.

        Raises
        ------
        FrameError
            There is no such file in the folder, another one than was extracted, or it cannot be
            decoded up to there. NotWantedError.
        """
        key = record.clip, index
        if key not in self._kept:
            try:
                for number, image in self._decode(record, index, wanted):
                    self._keep((record.clip, number), _encode(image))
            except (FrameError, UnreadableClipError) as error:
                self._close(record.clip)
                raise FrameError(str(error)) from None
        self._kept.move_to_end(key)
        return self._kept[key]

    def close(self) -> None:
        """Give the files back."""
        for clip in list(self._reels):
            self._close(clip)

    def _decode(
        self, record: ClipRecord, index: int, wanted: Callable[[], bool]
    ) -> Iterator[tuple[int, Image]]:
        """Yield a frame's number and picture, after those of a few frames before it."""
        reel = self._reel(record, index)
        while reel.next <= index:
            if not wanted():
                raise NotWantedError
            image = reel.read()
            if image is None:
                raise FrameError(
                    f"the file has {reel.next - 1} frames, the store {record.frames} of this clip"
                )
            if reel.next > index - BEFORE:
                yield reel.next - 1, image

    def _reel(self, record: ClipRecord, index: int) -> _Reel:
        """Return the clip open before a frame."""
        clip = record.clip
        if clip in self._reels and self._reels[clip].next > index:
            self._close(clip)
        if clip not in self._reels:
            if clip not in self._paths:
                raise FrameError("the videos' folder holds no file of this name")
            self._reels[clip] = _Reel(reopen(self._paths[clip], record))
        self._reels.move_to_end(clip)
        if len(self._reels) > OPEN:
            self._close(next(iter(self._reels)))
        return self._reels[clip]

    def _close(self, clip: str) -> None:
        if reel := self._reels.pop(clip, None):
            reel.close()

    def _keep(self, key: tuple[str, int], data: bytes) -> None:
        self._bytes += len(data) - len(self._kept.pop(key, b""))
        self._kept[key] = data
        while self._bytes > KEPT_BYTES:
            self._bytes -= len(self._kept.popitem(last=False)[1])


def _encode(image: Image) -> bytes:
    h, w = image.shape[:2]
    scale = min(1.0, HEIGHT / h, WIDTH / w)
    small = resized(image, round(w * scale), round(h * scale))
    done, data = cv2.imencode(".jpg", small, [cv2.IMWRITE_JPEG_QUALITY, QUALITY])
    if not done:
        raise RuntimeError("OpenCV cannot write JPEG")
    return data.tobytes()
