"""What yt-dlp leaves beside a clip: one .info.json, read and checked.

The fields' names and units are those of yt-dlp's README, "Output template". Whatever a site does
not say is missing or null there.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

SUFFIX = ".info.json"
DAY_S = 86400.0
# Our names of yt-dlp's fields that are numbers; `age_days` is counted from two others.
COUNTS = {
    "likes": "like_count",
    "views": "view_count",
    "comments": "comment_count",
    "reposts": "repost_count",
    "saves": "save_count",
    "followers": "channel_follower_count",
}
NUMBERS = (*COUNTS, "duration_s", "age_days")
COLUMNS = ("clip", "score", "subset", "person")  # of the labels, which no field may replace
MOST = 1e12  # views of anything, ever; a larger count is a fault
EARLIEST = datetime(1990, 1, 1, tzinfo=UTC).timestamp()


class InfoError(ValueError):
    """A file that says nothing, or what cannot be; the message is the reason, without the file."""


@dataclass(frozen=True)
class VideoInfo:
    """What one .info.json says of its clip.

    Attributes
    ----------
    numbers : dict of str to float
        Those of NUMBERS that the file has: counts, seconds, and days from the upload to the moment
        that the counts were read.
    video : str
        Site and id, the same for two downloads of one video; empty if the file does not say.
    channel : str
        What tells the channel from others: site and id, or its name. Empty if it is not said.
    channel_name : str
        Its name for people; the id where there is none.
    others : dict of str to float
        Every other finite number on the top level of the file, by its name there; unchecked.
    read_at_guessed : bool
        No ``epoch`` in the file: its own time of change stands for the moment of reading.
    """

    numbers: dict[str, float] = field(default_factory=dict)
    video: str = ""
    channel: str = ""
    channel_name: str = ""
    read_at_guessed: bool = False
    others: dict[str, float] = field(default_factory=dict)


def info_path(clip: Path) -> Path:
    """Return where yt-dlp leaves the .info.json of a clip: NAME.info.json for NAME.mp4."""
    return clip.with_name(clip.stem + SUFFIX)


def read_info(path: Path, now: float) -> VideoInfo:
    """Read and check one .info.json.

    Parameters
    ----------
    path : Path
    now : float
        Unix time; nothing can have been uploaded, or its counts read, a day after it.

    Raises
    ------
    InfoError
        Not JSON, not of one video, a count that is negative, too large or no whole number, more
        likes than views, an upload in the future or after the counts were read.
    OSError
        The file cannot be read.
    """
    raw = path.read_bytes()
    try:
        told = json.loads(raw.decode("utf-8-sig"))
    except (ValueError, RecursionError):
        raise InfoError("is not JSON") from None
    if not isinstance(told, dict):
        raise InfoError(f"expected a JSON object, found {type(told).__name__}")
    if told.get("_type", "video") != "video":
        raise InfoError(f"is about a {str(told['_type'])[:20]}, not about one video")
    numbers = {}
    for name, key in COUNTS.items():
        if (value := _number(told, key, MOST)) is not None:
            if value != int(value):
                raise InfoError(f"{key}: expected a whole number, found {value:g}")
            numbers[name] = value
    if (seconds := _number(told, "duration", 1e7)) is not None:
        numbers["duration_s"] = seconds
    if numbers.get("likes", 0.0) > numbers.get("views", math.inf):
        raise InfoError(
            f"like_count {numbers['likes']:.0f} is more than view_count {numbers['views']:.0f}"
        )
    epoch = _number(told, "epoch", math.inf)
    read_at = path.stat().st_mtime if epoch is None else epoch
    if read_at > now + DAY_S:
        raise InfoError(f"epoch: its counts were read in the future, {_day(read_at)}")
    uploaded = _uploaded(told)
    if uploaded is not None:
        if uploaded > now + DAY_S:
            raise InfoError(f"was uploaded in the future, {_day(uploaded)}")
        if uploaded > read_at + DAY_S:
            raise InfoError(
                f"was uploaded on {_day(uploaded)}, after its counts were read on {_day(read_at)}"
            )
        numbers["age_days"] = max(0.0, (read_at - uploaded) / DAY_S)
    site = _text(told, "extractor_key", "extractor", "ie_key").lower()
    video = _text(told, "id")
    channel = _text(told, "channel_id", "uploader_id")
    name = _text(told, "uploader", "channel", "creator", "uploader_id", "channel_id")
    return VideoInfo(
        numbers,
        f"{site} {video}" if video else "",
        f"{site} {channel or name}" if channel or name else "",
        name,
        epoch is None and uploaded is not None,
        _others(told),
    )


def _others(told: dict[str, Any]) -> dict[str, float]:
    """Return what a formula may ask for beside NUMBERS and what they are read from."""
    known = {*NUMBERS, *COUNTS.values(), *COLUMNS, "duration"}
    return {
        key: float(value)
        for key, value in told.items()
        if key not in known
        and isinstance(value, int | float)
        and not isinstance(value, bool)
        and abs(value) < 1e300  # neither infinite nor NaN, and no int that is too long
    }


def _number(told: dict[str, Any], key: str, most: float) -> float | None:
    """Return a number from 0 to ``most``, None where it is not said."""
    value = told.get(key)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise InfoError(f"{key}: expected a number, found {str(value)[:40]!r}")
    if not math.isfinite(value) if isinstance(value, float) else value.bit_length() > 60:
        raise InfoError(f"{key}: not a possible number")
    if value < 0:
        raise InfoError(f"{key}: expected a number from 0, found {value:g}")
    if value > most:
        raise InfoError(f"{key}: {value:g} is more than can be")
    return float(value)


def _uploaded(told: dict[str, Any]) -> float | None:
    """Return the Unix time of the upload; of a date without a time, its noon in UTC."""
    moment = _number(told, "timestamp", math.inf)
    if moment is not None:
        if moment < EARLIEST or moment > 1e11:
            raise InfoError(f"timestamp: {moment:g} is no Unix time of an upload, in seconds")
        return moment
    date = told.get("upload_date")
    if date is None:
        return None
    try:
        day = datetime.strptime(str(date), "%Y%m%d").replace(hour=12, tzinfo=UTC)
    except ValueError:
        raise InfoError(f"upload_date: expected YYYYMMDD, found {str(date)[:40]!r}") from None
    if day.timestamp() < EARLIEST:
        raise InfoError(f"upload_date: {date} is before there were such uploads")
    return day.timestamp()


def _day(moment: float) -> str:
    try:
        return f"{datetime.fromtimestamp(moment, UTC):%Y-%m-%d}"
    except (ValueError, OverflowError, OSError):
        return f"Unix time {moment:g}"


def _text(told: dict[str, Any], *keys: str) -> str:
    """Return the first of some fields that says something."""
    for key in keys:
        value = told.get(key)
        if isinstance(value, str | int) and not isinstance(value, bool) and str(value).strip():
            return " ".join(str(value).split())
    return ""
