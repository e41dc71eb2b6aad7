"""From the paths that a user gives to the list of clips to extract."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from stages.extract.video import IMAGE_SUFFIXES, VIDEO_SUFFIXES
from store.clip_id import MAX_LENGTH, check_clip_id
from store.errors import ClipIdError, FacepipeError
from store.printable import printable

_SUFFIXES = VIDEO_SUFFIXES | IMAGE_SUFFIXES


class InputError(FacepipeError, ValueError):
    """The paths that were given hold no clips, or two clips of one name."""


@dataclass(frozen=True, order=True, slots=True)
class Source:
    """A clip to extract: its id in the store and the file."""

    clip: str
    path: Path


@dataclass(frozen=True)
class Part:
    """The ``i``-th of ``n`` parts of all clips, counted from 1.

    A hash of the clip's id decides, so that clips stay in their part when others come or go and
    however they are listed.
    """

    i: int = 1
    n: int = 1

    @classmethod
    def parse(cls, text: str) -> Part:
        """Read ``I/N``.

        Raises
        ------
        InputError
            It is not of that form, or I is not one of 1 to N.
        """
        match = re.fullmatch(r"([0-9]{1,6})/([0-9]{1,6})", text.strip())
        if match is None or not 1 <= int(match[1]) <= int(match[2]):
            raise InputError(
                f"--part {text}: expected I/N with I from 1 to N",
                "such as --part 1/4 on the first of four machines, --part 2/4 on the second",
            )
        return cls(int(match[1]), int(match[2]))

    def of(self, sources: Sequence[Source]) -> list[Source]:
        """Return the clips of this part."""
        if self.n == 1:
            return list(sources)
        return [source for source in sources if self.holds(source.clip)]

    def holds(self, clip: str) -> bool:
        """Whether a clip belongs to this part."""
        digest = hashlib.sha256(clip.encode()).digest()
        return int.from_bytes(digest[:8], "big") % self.n == self.i - 1

    def store(self, default: Path) -> Path:
        """Return where this part goes if the user does not say: NAME.I-of-N.store."""
        if self.n == 1:
            return default
        return default.with_name(f"{default.stem}.{self.i}-of-{self.n}{default.suffix}")


def find_clips(paths: Sequence[Path]) -> list[Source]:
    """List the videos and still images under some paths, sorted by clip id.

    Folders are searched recursively, linked ones as well, but none twice; a clip's id is its path
    below the folder that was given, with ``/`` between the parts, and for a file that was given
    itself its name; what cannot stand in an id is written ``%XX`` (store.printable). Hidden files
    (among them macOS's ``._x.mp4``) are passed over.

    Raises
    ------
    InputError
        If a path does not exist, nothing is found, or two files would get one id.
    """
    found: dict[str, Path] = {}
    for root in paths:
        for clip, path in _under(root):
            other = found.setdefault(clip, path)
            if other is not path and other != path and not other.samefile(path):
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
    return [Source(clip, found[clip]) for clip in sorted(found)]


def _under(root: Path) -> Iterator[tuple[str, Path]]:
    if root.is_file():
        if not _is_clip(root.name):
            raise InputError(
                f"{root}: not a video or image by its name",
                "looked for " + " ".join(sorted(VIDEO_SUFFIXES | IMAGE_SUFFIXES)),
            )
        yield clip_id(root.name), root
        return
    if not root.is_dir():
        raise InputError(f"{root}: no such file or folder", "give a folder of videos, or files")
    searched: set[Path] = set()
    for folder, subfolders, names in os.walk(root, followlinks=True):
        here = Path(folder)
        if (real := here.resolve()) in searched:
            subfolders.clear()
            continue
        searched.add(real)
        # A store keeps no videos, but its folder may lie among them.
        subfolders[:] = sorted(
            n
            for n in subfolders
            if not n.startswith(".") and n[-6:] != ".store" and not _leads_back(here / n, root)
        )
        below = "" if here == root else f"{here.relative_to(root).as_posix()}/"
        for name in names:
            if _is_clip(name):
                yield clip_id(below + name), here / name


def _leads_back(folder: Path, root: Path) -> bool:
    """Whether it is a link to what is searched anyway, or to a folder above that."""
    if not folder.is_symlink():
        return False
    real, top = folder.resolve(), root.resolve()
    return real.is_relative_to(top) or top.is_relative_to(real)


def _is_clip(name: str) -> bool:
    suffix = os.path.splitext(name)[1].lower()
    return not name.startswith(".") and suffix in _SUFFIXES


def clip_id(name: str) -> str:
    """Return the id of a file by its name or path below a folder: that, with ``%XX`` if need be."""
    clip = printable(name)
    if "\\" in clip or clip[1:2] == ":":  # a separator, a drive letter on other systems
        try:
            check_clip_id(clip)
        except ClipIdError:
            clip = clip.replace("\\", "%5C").replace(":", "%3A")
    if len(clip) > MAX_LENGTH:
        clip = f"{clip[: MAX_LENGTH - 40]}%~{hashlib.sha256(clip.encode()).hexdigest()[:32]}"
    return clip
