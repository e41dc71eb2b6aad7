"""From the paths that a user gives to the list of clips to extract."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from stages.extract.video import IMAGE_SUFFIXES, VIDEO_SUFFIXES
from store.errors import FacepipeError


class InputError(FacepipeError, ValueError):
    """The paths that were given hold no clips, or two clips of one name."""


@dataclass(frozen=True, order=True)
class Source:
    """A clip to extract: its id in the store and the file."""

    clip: str
    path: Path


def find_clips(paths: Sequence[Path]) -> list[Source]:
    """List the videos and still images under some paths, sorted by clip id.

    Folders are searched recursively; a clip's id is its path below the folder that was given, with
    ``/`` between the parts, and for a file that was given itself its name. Hidden files (among them
    macOS's ``._x.mp4``) are passed over.

    Raises
    ------
    InputError
        If a path does not exist, nothing is found, or two files would get one id.
    """
    found: dict[str, Path] = {}
    for root in paths:
        for clip, path in _under(root):
            other = found.setdefault(clip, path)
            if other != path and not other.samefile(path):
                raise InputError(
                    f"two files would both be clip {clip!r}: {other} and {path}",
                    "give the folder above both, or extract them into two stores",
                )
    if not found:
        where = ", ".join(str(path) for path in paths)
        raise InputError(
            f"{where}: no videos or images found",
            "looked for " + " ".join(sorted(VIDEO_SUFFIXES | IMAGE_SUFFIXES)),
        )
    return sorted(Source(clip, path) for clip, path in found.items())


def _under(root: Path) -> Iterator[tuple[str, Path]]:
    if root.is_file():
        if not _is_clip(root.name):
            raise InputError(
                f"{root}: not a video or image by its name",
                "looked for " + " ".join(sorted(VIDEO_SUFFIXES | IMAGE_SUFFIXES)),
            )
        yield _printable(root.name), root
        return
    if not root.is_dir():
        raise InputError(f"{root}: no such file or folder", "give a folder of videos, or files")
    for folder, subfolders, names in os.walk(root):
        # A store keeps no videos, but its folder may lie among them.
        subfolders[:] = sorted(
            n for n in subfolders if not n.startswith(".") and n[-6:] != ".store"
        )
        for name in names:
            if _is_clip(name):
                path = Path(folder) / name
                yield _printable(path.relative_to(root).as_posix()), path


def _is_clip(name: str) -> bool:
    suffix = os.path.splitext(name)[1].lower()
    return not name.startswith(".") and suffix in VIDEO_SUFFIXES | IMAGE_SUFFIXES


def _printable(name: str) -> str:
    """Escape what cannot stand in an index or a CSV: control characters, bytes that are no text."""
    text = name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
