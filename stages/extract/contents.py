"""What a file holds, from its own bytes: its kind in a few words, and what MP4 boxes say."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import BinaryIO

from stages.extract.upright import Matrix

_MAGIC = {
    b"version https://git-lfs": "a git-LFS pointer, not the file itself: run 'git lfs pull'",
    b"\xff\xd8\xff": "a JPEG image",
    b"\x89PNG\r\n\x1a\n": "a PNG image",
    b"<!DOCTYPE": "an HTML page",
    b"<html": "an HTML page",
    b"#EXTM3U": "a playlist, which names other files",
    b"ffconcat": "a concat script, which names other files",
    b"\x1aE\xdf\xa3": "a Matroska/WebM file without readable video",
    b"ID3": "an MP3 sound file",
    b"PK\x03\x04": "a ZIP archive",
    b"%PDF": "a PDF document",
}
# What a container or a raw stream begins with. None of these can name another file.
_VIDEO = (
    b"\x1aE\xdf\xa3", b"RIFF", b"FLV", b"OggS", b"GIF8", b"DKIF", b".RMF",
    b"0&\xb2u\x8ef\xcf\x11",  # ASF: .wmv
    b"\0\0\1", b"\0\0\0\1",  # MPEG program and elementary streams, H.264, H.265
)  # fmt: skip
_TS_PACKETS = ((0, 188), (4, 192))  # offset of the sync byte, size of a packet: .ts, .m2ts
_STILLS = ("a JPEG image", "a PNG image")
_MP4_BOXES = frozenset(
    (
        b"ftyp",
        b"moov",
        b"free",
        b"mdat",
        b"skip",
        b"wide",
        b"moof",
        b"styp",
        b"pnot",
        b"sidx",
        b"uuid",
        b"pdin",
    )
)
_HEIF_BRANDS = (b"heic", b"heix", b"mif1", b"avif")
_HEAD = 256
_MAX_BOXES = 10_000  # a file of nothing but empty boxes must not take for ever
_MAX_OFFSET = 1 << 62  # sizes in broken headers go up to 2**64, seek() does not


def kind(path: Path) -> str:
    """Say in a few words what a file without readable video is."""
    head = _head(path)
    for magic, name in _MAGIC.items():
        if head.startswith(magic):
            return name
    if _is_heif(head):
        return "a HEIC or AVIF image"
    if head[4:8] in _MP4_BOXES:
        return f"an MP4/MOV file whose index is {_index(path)}"
    if all(32 <= byte < 127 or byte in b"\r\n\t" for byte in head[:64]):
        return "plain text"
    return "unknown content"


def holds_itself(path: Path) -> bool:
    """Whether the first bytes are those of a kind of video that holds all of its data itself.

    FFmpeg goes by the bytes and not by the name: to it, a text file ``x.mp4`` can be a playlist, a
    concat script or a session description, and it opens every file and address in it.
    """
    head = _head(path)
    if head.startswith(_VIDEO) or head[4:8] in _MP4_BOXES:
        return True
    return any(head[at::size][:2] == b"GG" for at, size in _TS_PACKETS)


def still(path: Path) -> str | None:
    """Return what kind of still image the bytes are, whatever the name says; None if none."""
    head = _head(path)
    return next(
        (name for m, name in _MAGIC.items() if head.startswith(m) and name in _STILLS), None
    )


def moves(path: Path) -> bool:
    """Whether the bytes are a video's and not those of a still image in a video's container."""
    head = _head(path)
    return holds_itself(path) and head[8:12] != b"WEBP" and not _is_heif(head)


def counts_frames(path: Path) -> bool:
    """Whether this kind of file holds its number of frames; OpenCV makes one up where not."""
    head = _head(path)
    return head[4:8] in _MP4_BOXES or head.startswith(b"RIFF")


def lack(path: Path) -> str:
    """Say what an MP4 lacks by its outermost boxes: ', ...', or '' where all is there."""
    size, boxes = path.stat().st_size, _top(path)
    end = max((stop for _, _, stop in boxes), default=0)
    if end > size:
        return f", cut off: {size} of {end} bytes"
    if boxes and not any(name == b"mdat" for name, _, _ in boxes):
        return ", the file holds no media data"
    return ""


def _index(path: Path) -> str:
    """Say what is wrong with the boxes of an MP4 that cannot be opened."""
    boxes = _top(path)
    if (end := boxes[-1][2] if boxes else 0) < path.stat().st_size:
        return f"out of reach: malformed box at byte {end}"
    state = "damaged" if any(name == b"moov" for name, _, _ in boxes) else "missing"
    return state + lack(path)


def _top(path: Path) -> list[tuple[bytes, int, int]]:
    """Return (type, start of the body, end) of the outermost boxes; none if this is no MP4."""
    if _head(path)[4:8] not in _MP4_BOXES:
        return []
    with path.open("rb") as file:
        return list(_boxes(file, 0, path.stat().st_size))


def display_matrix(path: Path) -> Matrix | None:
    """Return the display matrix of the first video track of an MP4/MOV; None for other files.

    Read here because OpenCV tells the angle only, which hides a mirror, and asking PyAV costs as
    much as opening the clip once more (measured: 1 to 30 ms; this: 0.1).
    """
    if _head(path)[4:8] not in _MP4_BOXES:
        return None
    with path.open("rb") as file:
        for box, start, stop in _boxes(file, 0, path.stat().st_size):
            if box == b"moov":
                return _movie_matrix(file, start, stop)
    return None


def _movie_matrix(file: BinaryIO, start: int, stop: int) -> Matrix | None:
    movie: Matrix | None = None
    for box, begin, end in _boxes(file, start, stop):
        if box == b"mvhd":
            movie = _matrix(file, begin, (36, 48))
        elif box == b"trak":
            track, video = None, False
            for inner, at, until in _boxes(file, begin, end):
                if inner == b"tkhd":
                    track = _matrix(file, at, (40, 52))
                elif inner == b"mdia":
                    video = any(
                        name == b"hdlr" and _read(file, where + 8, 4) == b"vide"
                        for name, where, _ in _boxes(file, at, until)
                    )
            if video:
                return track @ movie if track is not None and movie is not None else track
    return None


def _matrix(file: BinaryIO, start: int, offsets: tuple[int, int]) -> Matrix | None:
    """Read the matrix of a header box whose versions 0 and 1 hold it at these offsets."""
    version = _read(file, start, 1)
    data = _read(file, start + offsets[version == b"\x01"], 20)
    if len(data) < 20:
        return None
    a, b, _, c, d = (value / 65536 for value in struct.unpack(">5i", data))
    return Matrix(a, b, c, d)


def _boxes(file: BinaryIO, start: int, stop: int) -> Iterator[tuple[bytes, int, int]]:
    """Yield (type, start of the body, end) of the boxes between two offsets."""
    return islice(_walk(file, start, stop), _MAX_BOXES)


def _walk(file: BinaryIO, start: int, stop: int) -> Iterator[tuple[bytes, int, int]]:
    while start + 8 <= stop:
        head = _read(file, start, 16)
        if len(head) < 8:
            return
        size, body = int.from_bytes(head[:4]), 8
        if size == 1:
            size, body = int.from_bytes(head[8:]), 16
        elif size == 0:  # to the end of the file
            size = stop - start
        if size < body:
            return
        yield head[4:8], start + body, start + size
        start += size


def _read(file: BinaryIO, at: int, count: int) -> bytes:
    if at >= _MAX_OFFSET:
        return b""
    file.seek(at)
    return file.read(count)


def _is_heif(head: bytes) -> bool:
    return head[4:8] == b"ftyp" and head[8:12] in _HEIF_BRANDS


def _head(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(_HEAD)
