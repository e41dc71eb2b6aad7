"""From a folder of downloads to a file of labels: the clips of stage one, the scores of stage two.

Both stages are asked, and neither knows the other: clips get the ids that `pipeline extract` gives.
"""

from __future__ import annotations

import csv
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from stages.extract.inputs import Source, find_clips
from stages.extract.video import IMAGE_SUFFIXES
from stages.fit.automatic import AutomaticLabels, automatic_labels, choose_score
from stages.fit.labels import LabelError
from stages.fit.video_info import SUFFIX, InfoError, VideoInfo, info_path, read_info
from store.printable import printable
from store.progress import Progress, unheard
from store.tables import write_csv


@dataclass(frozen=True)
class Written:
    """Labels, where they are, and where it says which clips have none and why."""

    labels: AutomaticLabels
    out: Path
    left_out: Path

    def to_dict(self) -> dict[str, Any]:
        """Return it as JSON types."""
        return {
            "labels": str(self.out),
            "left_out_table": str(self.left_out),
            "clips": len(self.labels.table),
            "subsets": self.labels.table["subset"].value_counts().sort_index().to_dict(),
            "left_out": [{"file": f, "reason": reason} for f, reason in self.labels.left_out],
            "notes": self.labels.notes,
        }


def labels_from_info(
    videos: Sequence[Path],
    out: Path,
    score: str,
    min_views: int = 0,
    progress: Progress = unheard,
) -> Written:
    """Score the clips below some folders by their .info.json and write a file of labels.

    Parameters
    ----------
    videos : sequence of Path
        As for extract.
    out : Path
        CSV: clip, score, subset, and the numbers behind the score; beside it NAME-left-out.csv
        with file and reason. Replaced if it is such a file, never if it is another.
    score : str
        A name or a formula, see automatic.choose_score.
    min_views : int
        Clips with fewer are left out.
    progress : callable
        Told how many clips' files are read, of how many.

    Raises
    ------
    InputError, FormulaError
    LabelError
        No clip has a score, or ``out`` is not to be replaced or cannot be written.
    """
    _check_ours(out)
    sources = find_clips(videos)
    infos, without = _read(sources, time.time(), progress)
    chosen = choose_score(score, {name for _, info in infos for name in info.others})
    without += [(name, "has no clip beside it") for name in _alone(videos, sources)]
    made = automatic_labels([(source.clip, info) for source, info in infos], chosen, min_views)
    without += made.left_out
    labels = AutomaticLabels(made.table, sorted(without), made.notes)
    left_out = out.with_name(f"{out.stem}-left-out.csv")
    try:
        write_csv(pd.DataFrame(labels.left_out, columns=["file", "reason"]), left_out)
        if labels.table.empty:
            file, reason = (labels.left_out or [("", "")])[0]
            raise LabelError(
                f"none of {len(labels.left_out)} files has a score; the first, {file}: {reason}",
                f"all reasons are in {left_out}; yt-dlp --write-info-json leaves such files",
            )
        write_csv(labels.table, out)
    except OSError as error:
        raise LabelError(f"{out}: cannot be written ({error.strerror})", "change --out") from None
    return Written(labels, out, left_out)


def _read(
    sources: Sequence[Source], now: float, progress: Progress
) -> tuple[list[tuple[Source, VideoInfo]], list[tuple[str, str]]]:
    """Read the file beside each clip; videos first, so that of two forms of one the video stays."""
    infos: list[tuple[Source, VideoInfo]] = []
    without: list[tuple[str, str]] = []
    moving = {s.path.with_suffix("") for s in sources if not _is_still(s)}
    for done, source in enumerate(sorted(sources, key=lambda s: (_is_still(s), s))):
        progress(done, len(sources))
        if _is_still(source) and source.path.with_suffix("") in moving:
            without.append((source.clip, "is a still beside the video of that name"))
            continue
        path = info_path(source.path)
        try:
            infos.append((source, read_info(path, now)))
        except FileNotFoundError:
            without.append((source.clip, f"has no {SUFFIX} beside it"))
        except OSError as error:
            without.append((source.clip, f"its {SUFFIX} cannot be read ({error.strerror})"))
        except InfoError as error:
            without.append((source.clip, f"its {SUFFIX}: {error}"))
    return infos, without


def _is_still(source: Source) -> bool:
    return source.path.suffix.lower() in IMAGE_SUFFIXES


def _alone(videos: Sequence[Path], sources: Sequence[Source]) -> Iterator[str]:
    """Yield the .info.json files of folders that were given that belong to no clip."""
    clips = {info_path(source.path) for source in sources}
    for root in videos:
        for path in sorted(root.rglob(f"*{SUFFIX}")) if root.is_dir() else ():
            if path not in clips and not path.name.startswith("."):
                yield printable(path.relative_to(root).as_posix())


def _check_ours(out: Path) -> None:
    """Refuse to replace what is no table of these: labels are the work of many hours."""
    ours = ["clip", "score", "subset", "likes"]
    try:
        with out.open(encoding="utf-8", newline="") as file:
            header = next(csv.reader(file), [])
    except FileNotFoundError:
        return
    except (OSError, ValueError, csv.Error):
        header = ["?"]
    if header[:4] != ours:
        raise LabelError(
            f"{out} is there already and was not made by this command",
            "name another file with --out, or move that one away",
        )
