"""Scores that nobody gave: from the counts of views and likes that a site shows.

docs/labels.md says what each is worth.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy import stats

from stages.fit.formula import Formula, FormulaError
from stages.fit.labels import LabelError
from stages.fit.video_info import COUNTS, NUMBERS, VideoInfo
from store.printable import printable

FloatArray = npt.NDArray[np.float64]
LEAST = 3  # clips through which a line is laid
FEW_VIEWS = 100
ALIASES = {**{key: name for name, key in COUNTS.items()}, "duration": "duration_s"}


@dataclass(frozen=True)
class Score:
    """How a score comes from the numbers of a clip.

    Attributes
    ----------
    needs : tuple of str
        Those of NUMBERS, or of the files' other fields, without which a clip has no score.
    of : callable
        From a table with those columns to (n,) scores, NaN where there is none.
    """

    needs: tuple[str, ...]
    of: Callable[[pd.DataFrame], FloatArray]


def like_rate(table: pd.DataFrame) -> FloatArray:
    """Likes over views, 0 to 1; NaN without a view."""
    views = table["views"].to_numpy(np.float64)
    likes = table["likes"].to_numpy(np.float64)
    return np.asarray(np.divide(likes, views, out=np.full(len(table), np.nan), where=views > 0))


def log_likes_given_views(table: pd.DataFrame) -> FloatArray:
    """ln(1 + likes) less what ln(1 + views) lets expect, by least squares over all clips."""
    return _residual(np.log1p(table["views"]), np.log1p(table["likes"]))


def age_corrected(table: pd.DataFrame) -> FloatArray:
    """ln(1 + views) less what ln(1 + age in days) lets expect, by least squares over all clips."""
    return _residual(np.log1p(table["age_days"]), np.log1p(table["views"]))


SCORES = {
    "like-rate": Score(("likes", "views"), like_rate),
    "log-likes-given-views": Score(("likes", "views"), log_likes_given_views),
    "age-corrected": Score(("views", "age_days"), age_corrected),
}


def _residual(x: npt.ArrayLike, y: npt.ArrayLike) -> FloatArray:
    x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)
    if len(y) < LEAST:
        raise LabelError(
            f"{len(y)} clips have the counts for this score, and it compares at least {LEAST}",
            "use --score like-rate, which looks at each clip by itself",
        )
    if np.ptp(x) == 0:  # nothing to correct for
        return np.asarray(y - y.mean(), np.float64)
    line = stats.linregress(x, y)
    return np.asarray(y - (line.intercept + line.slope * x), np.float64)


def choose_score(text: str, fields: Iterable[str] = ()) -> Score:
    """Return a score by its name, or by a formula over NUMBERS or yt-dlp's own field names.

    Parameters
    ----------
    text : str
    fields : iterable of str
        Further numbers that the files hold, see VideoInfo.others.

    Raises
    ------
    FormulaError
        It is neither.
    """
    if text.strip() in SCORES:
        return SCORES[text.strip()]
    try:
        formula = Formula(text, [*NUMBERS, *ALIASES, *sorted(set(fields))])
    except FormulaError as error:
        raise FormulaError(
            str(error), f"by name: {', '.join(SCORES)}; or a formula over {error.hint}"
        ) from None
    needs = {name: ALIASES.get(name, name) for name in sorted(formula.names)}
    if not needs:
        raise FormulaError(
            f"the formula '{text.strip()[:80]}' is the same for every clip",
            f"names: {', '.join(NUMBERS)}",
        )

    def of(table: pd.DataFrame) -> FloatArray:
        found = np.full(len(table), np.nan)
        columns = {name: table[column].tolist() for name, column in needs.items()}
        for row in range(len(table)):
            try:
                found[row] = formula({name: values[row] for name, values in columns.items()})
            except (ArithmeticError, ValueError):  # a division by zero, a logarithm of zero
                continue
        return found

    return Score(tuple(sorted(set(needs.values()))), of)


@dataclass(frozen=True)
class AutomaticLabels:
    """Clips with a score, and those without.

    Attributes
    ----------
    table : DataFrame
        ``clip``, ``score`` (float64), ``subset`` (the channel) and NUMBERS as they were read,
        empty where the site did not say.
    left_out : list of (file, reason)
    notes : list of str
        What is no fault but should be known.
    """

    table: pd.DataFrame
    left_out: list[tuple[str, str]]
    notes: list[str] = field(default_factory=list)


def automatic_labels(
    clips: Sequence[tuple[str, VideoInfo]], score: Score, min_views: int = 0
) -> AutomaticLabels:
    """Score clips by what their .info.json says.

    Of two clips that are one video the first is kept: with one on either side of a split the
    other would be known.

    Parameters
    ----------
    clips : sequence of (clip id, VideoInfo)
    score : Score
    min_views : int
        Clips with fewer views, or of which they are not known, are left out, if above 0.

    Raises
    ------
    LabelError
        A score that compares clips has too few of them.
    """
    kept: list[tuple[str, VideoInfo]] = []
    left_out: list[tuple[str, str]] = []
    first: dict[str, str] = {}
    for clip, info in clips:
        needs = [*score.needs, *(["views"] if min_views and "views" not in score.needs else [])]
        known = info.others | info.numbers
        missing = [COUNTS.get(n, n) for n in needs if n not in known]
        if missing:
            left_out.append((clip, f"does not say {' and '.join(missing)}"))
        elif min_views and known["views"] < min_views:
            left_out.append((clip, f"has {known['views']:.0f} views, {min_views} at least wanted"))
        elif info.video and first.setdefault(info.video, clip) != clip:
            left_out.append((clip, f"is the same video as {first[info.video]}"))
        else:
            kept.append((clip, info))
    numbers = [*NUMBERS, *(name for name in score.needs if name not in NUMBERS)]
    table = pd.DataFrame(
        [{"clip": clip, **info.others, **info.numbers} for clip, info in kept],
        columns=["clip", *numbers],
    ).astype(dict.fromkeys(numbers, np.float64))
    table.insert(1, "subset", channel_names([info for _, info in kept]))
    table.insert(1, "score", score.of(table) if len(table) else np.empty(0))
    without = table["score"].isna()
    reason = "no finite score comes of its counts (no views, most often)"
    left_out += [(str(clip), reason) for clip in table.loc[without, "clip"]]
    table = table[~without].reset_index(drop=True).astype(dict.fromkeys(COUNTS, "Int64"))
    return AutomaticLabels(table, left_out, _notes(kept, table, score))


def channel_names(infos: Sequence[VideoInfo]) -> list[str]:
    """Return a name for each clip's channel: one a channel, and no two channels with one.

    The name is the first that the channel goes by; where two channels share it, their ids follow.
    """
    name_of: dict[str, str] = {}
    for info in infos:
        name_of.setdefault(info.channel, printable(info.channel_name))
    channels_of: dict[str, int] = {}
    for name in name_of.values():
        channels_of[name] = channels_of.get(name, 0) + 1
    return [
        name if channels_of[name] == 1 else f"{name} ({printable(info.channel)})"
        for info in infos
        for name in [name_of[info.channel]]
    ]


def _notes(kept: Sequence[tuple[str, VideoInfo]], table: pd.DataFrame, score: Score) -> list[str]:
    notes = []
    few = int((table["views"] < FEW_VIEWS).sum())
    if few and "views" in score.needs:
        notes.append(
            f"{few} clips have fewer than {FEW_VIEWS} views: their scores are mostly chance (1 "
            "like of 1 view is the best like rate there is) and pull at what is compared with "
            f"them; --min-views {FEW_VIEWS} leaves them out"
        )
    nameless = sum(not info.channel for _, info in kept)
    if nameless:
        notes.append(f"{nameless} clips name no channel; their subset is empty")
    guessed = sum(info.read_at_guessed for _, info in kept)
    if guessed:
        notes.append(
            f"{guessed} files do not say when their counts were read (epoch): the age of those "
            "clips counts up to the file's last change"
        )
    if len(table) > 1 and np.ptp(table["score"].to_numpy()) == 0:
        notes.append("all scores are the same: there is nothing to learn from them")
    return notes
