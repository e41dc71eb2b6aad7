"""What may be the id of a clip."""

from __future__ import annotations

import re
import unicodedata

from store.errors import ClipIdError

MAX_LENGTH = 1024


def check_clip_id(clip: str) -> None:
    r"""Refuse ids that are empty, absolute, climb out of a folder or cannot be written down.

    An id is a relative path with ``/`` between its parts. ``\`` may stand in a file's name, but is
    read as a separator too, since exports make files of ids and some systems would climb by it.

    Raises
    ------
    ClipIdError
        Names the id and the rule that it breaks.
    """
    reason = _reason(clip)
    if reason:
        raise ClipIdError(
            f"clip id {clip[:80]!r} {reason}",
            "A clip id is the file's path below the extracted folder, such as 'day1/clip.mp4'.",
        )


def _reason(clip: str) -> str:
    if not clip:
        return "is empty"
    if len(clip) > MAX_LENGTH:
        return f"is too long: expected at most {MAX_LENGTH} characters, got {len(clip)}"
    if any(unicodedata.category(c) == "Cc" for c in clip):
        return "holds a control character"
    if any(unicodedata.category(c) == "Cs" for c in clip):
        return "is not valid Unicode (undecodable bytes in the file's name)"
    if re.match(r"[A-Za-z]:", clip):
        return "starts with a drive letter"
    if clip[0] in "/\\":
        return "is absolute"
    for part in re.split(r"[/\\]", clip):
        if part in ("", ".", ".."):
            return f"holds the path component {part!r}"
    return ""
