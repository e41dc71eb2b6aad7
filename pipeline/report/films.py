"""A few frames of a clip as small JPEG data URIs, recognisable only where that is wanted."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

from stages.extract.inputs import find_clips
from stages.extract.reopen import reopen
from stages.extract.video import UnreadableClipError
from store.schema import ClipRecord

FRAMES = 8
HEIGHT = 128  # pixels of a picture in a strip
QUALITY = 72
ACROSS_FACE = 4  # blurred: a face is so many blocks wide, of which no eye or mouth is one
BLOCKS = 14  # and the whole picture so many, whatever is in it

Image = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Picture:
    """One frame of a strip: seconds from the start, a data URI, its size, whether it won."""

    time: float
    uri: str
    width: int
    height: int
    won: bool


@dataclass(frozen=True)
class Film:
    """The pictures of a clip in the order of time; if there is none, ``why``."""

    pictures: list[Picture]
    why: str = ""


class Films:
    """The videos of a folder, by the ids that the store has for them.

    Parameters
    ----------
    folder : Path
        As it was given to `pipeline extract`.
    blur : bool
        Show no face recognisably: every picture is averaged over large blocks as a whole, for the
        detector may have missed a face that a reader would know.

    Raises
    ------
    InputError
        The folder does not exist or holds no videos.
    """

    def __init__(self, folder: Path, blur: bool) -> None:
        self._paths = {source.clip: source.path for source in find_clips([folder])}
        self._blur = blur

    def __contains__(self, clip: str) -> bool:
        """Whether there is a file of that id."""
        return clip in self._paths

    def film(
        self,
        record: ClipRecord,
        times: Sequence[float],
        winner: float,
        face_width: float,
    ) -> Film:
        """Decode the frames of a clip that are shown at ``times`` and at ``winner``, in seconds.

        ``face_width``: of the face in pixels of the frame, for the blocks of a blurred one.
        """
        path = self._paths.get(record.clip)
        if path is None:
            return Film([], "the videos' folder holds no file of this name")
        wanted = sorted({*times, winner})
        pictures: list[Picture] = []
        try:
            with reopen(path, record) as reader:
                for frame in reader:
                    if frame.timestamp >= wanted[len(pictures)] - 1e-6:
                        time = wanted[len(pictures)]
                        uri, size = self._encode(frame.image, face_width)
                        pictures.append(Picture(time, uri, *size, time == winner))
                        if len(pictures) == len(wanted):
                            break
        except UnreadableClipError as error:
            return Film([], str(error))
        return Film(pictures)

    def _encode(self, image: Image, face_width: float) -> tuple[str, tuple[int, int]]:
        h, w = image.shape[:2]
        size = max(round(w * HEIGHT / h), 1), HEIGHT
        if self._blur:
            image = pixelate(image, face_width)
        small = cv2.resize(
            image, size, interpolation=cv2.INTER_NEAREST if self._blur else cv2.INTER_AREA
        )
        done, data = cv2.imencode(".jpg", small, [cv2.IMWRITE_JPEG_QUALITY, QUALITY])
        if not done:
            raise RuntimeError("OpenCV cannot write JPEG")
        return f"data:image/jpeg;base64,{base64.b64encode(data).decode()}", size


def pixelate(image: Image, face_width: float) -> Image:
    """Average a picture over squares: (h, w, 3) -> (rows, columns, 3), a pixel a square.

    A face is at most 4 squares wide, and the picture's longer side at most 14.
    """
    h, w = image.shape[:2]
    side = max(face_width / ACROSS_FACE if face_width > 0 else 0.0, max(h, w) / BLOCKS, 1.0)
    blocks = max(round(w / side), 1), max(round(h / side), 1)
    return np.asarray(cv2.resize(image, blocks, interpolation=cv2.INTER_AREA), np.uint8)
