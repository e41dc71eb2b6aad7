"""What a store of format 1 holds: names, shapes, dtypes and the record of one clip (FORMAT.md)."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, fields
from enum import StrEnum

import numpy as np
import numpy.typing as npt

FORMAT_VERSION = 1
EMBEDDING_DIM = 512
LANDMARK_DIM = 136
CHUNK_ROWS = 512
SHARD_ROWS = 8_192  # 21 MB of all arrays: what a flush puts together in memory
FLUSH_ROWS = 16_384  # two shards: what a writer holds beside it
CROP_SHARD_ROWS = 128  # 19 MB at 224 pixels
CROP_FLUSH_ROWS = 2_048
FEATURE_DTYPES = ("float16", "float32")


class Status(StrEnum):
    """How the extraction of one clip ended.

    ``ok``: read to its end, a face in at least one frame. ``truncated``: frames were stored, but
    the file ended or broke before the length that its header promises. ``no_face``: frames were
    decoded, none holds a face. ``unreadable``: the file's fault, no frame could be decoded, no
    rows. ``failed``: this program's or machine's fault (worker died, time limit), no rows.
    """

    OK = "ok"
    TRUNCATED = "truncated"
    NO_FACE = "no_face"
    UNREADABLE = "unreadable"
    FAILED = "failed"

    @property
    def has_rows(self) -> bool:
        """Whether clips of this status own rows in the arrays."""
        return self in (Status.OK, Status.TRUNCATED, Status.NO_FACE)


@dataclass(frozen=True)
class ArraySpec:
    """One per-frame array: (N, *tail) of ``dtype``; ``masked`` arrays are NaN where not valid."""

    name: str
    tail: tuple[int, ...]
    dtype: str
    masked: bool

    @property
    def row_bytes(self) -> int:
        """Bytes of one row, before compression."""
        return np.dtype(self.dtype).itemsize * math.prod(self.tail)


def array_specs(feature_dtype: str = "float16") -> tuple[ArraySpec, ...]:
    """Return the arrays of format 1, in the order in which digests run over them."""
    return (
        ArraySpec("embedding", (EMBEDDING_DIM,), feature_dtype, True),
        ArraySpec("appearance", (EMBEDDING_DIM,), feature_dtype, True),
        ArraySpec("landmark", (LANDMARK_DIM,), "float32", True),
        ArraySpec("timestamp", (), "float64", False),
        ArraySpec("box", (4,), "float32", True),
        ArraySpec("score", (), "float32", True),
        ArraySpec("valid", (), "bool", False),
    )


def crop_spec(crop_size: int) -> ArraySpec:
    """Return the array of crops; not per frame, so not among ``array_specs``."""
    return ArraySpec("crop", (crop_size, crop_size, 3), "uint8", False)


@dataclass(frozen=True)
class ClipCrops:
    """Aligned pictures of the face of one track, k of them, S pixels high and wide.

    Attributes
    ----------
    frames : (k,) int64
        Numbers of the track's frames that they show, ascending, counted from 0; all of them valid.
    images : (k, S, S, 3) uint8
        RGB, 0 where the frame ends.
    """

    frames: npt.NDArray[np.int64]
    images: npt.NDArray[np.uint8]


@dataclass(frozen=True)
class ClipRows:
    """The per-frame arrays of one face track of a clip, n rows each, row i the same frame.

    Attributes
    ----------
    embedding, appearance : (n, 512) floating
        The recognition net's output, and its 512 channels before the last linear layer.
    landmark : (n, 136) float32
        x0, y0, x1, y1, ... in iBUG-68 order, pixels of the upright frame.
    timestamp : (n,) float64
        Seconds from the start of the clip, strictly increasing.
    box : (n, 4) float32
        x1, y1, x2, y2 of the face, pixels of the upright frame.
    score : (n,) float32
        Detector's confidence, 0 to 1.
    valid : (n,) bool
        False where the frame holds no face of this track; there the arrays above but
        ``timestamp`` are NaN.
    crops : ClipCrops, optional
        In stores that hold crops. No per-frame array: `as_dict` leaves it out.
    """

    embedding: npt.NDArray[np.floating]
    appearance: npt.NDArray[np.floating]
    landmark: npt.NDArray[np.float32]
    timestamp: npt.NDArray[np.float64]
    box: npt.NDArray[np.float32]
    score: npt.NDArray[np.float32]
    valid: npt.NDArray[np.bool_]
    crops: ClipCrops | None = None

    def __len__(self) -> int:
        return len(self.timestamp)

    @classmethod
    def empty(cls, timestamp: npt.NDArray[np.float64]) -> ClipRows:
        """Rows of a clip in which no frame holds a face: NaN everywhere, (n,) true times."""
        n = len(timestamp)
        arrays = {
            spec.name: np.full((n, *spec.tail), np.nan, np.float32)
            for spec in array_specs("float32")
            if spec.masked
        }
        return cls(
            **arrays,
            timestamp=np.asarray(timestamp, np.float64),
            valid=np.zeros(n, np.bool_),
            crops=None,
        )

    def as_dict(self) -> dict[str, npt.NDArray[np.generic]]:
        """Return the arrays by name."""
        return {f.name: getattr(self, f.name) for f in fields(self) if f.name != "crops"}


@dataclass(frozen=True)
class ClipRecord:
    """One row of the index: what became of one face track of one clip.

    ``clip`` is the path below the folder that was extracted, with ``/`` and with the extension.
    ``start`` (first row in the arrays), ``rows_sha256`` and ``session`` are filled by the writer.
    """

    clip: str
    status: Status
    track: int = 0
    message: str = ""
    frames: int = 0
    valid_frames: int = 0
    claimed_frames: int | None = None
    fps: float | None = None
    duration_s: float | None = None
    width: int | None = None
    height: int | None = None
    rotation: int = 0
    decoder: str = ""
    content_sha256: str = ""
    size_bytes: int = 0
    mtime_ns: int = 0
    start: int | None = None
    rows_sha256: str = ""
    session: int | None = None
    details: dict[str, object] = field(default_factory=dict)
