"""What attention goes with: pose and expression measured from the landmarks, frame by frame.

The 2S-TCN slides say that attention falls for faces that are not frontal and for distorted ones,
and rises for smiles. Here it is asked of every network that has attention, on clips whose groups it
was not fitted on.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd

from stages.fit.bootstrap import draw_weights, draws, group_codes, interval
from stages.fit.compare import Estimate
from stages.fit.contestants import Contestant
from stages.fit.fold_runs import StudyError, diverged_folds, frames_file
from stages.fit.frames import ClipFrames, csv_writer, load_frames
from stages.fit.geometry import Geometry, measure_geometry
from stages.fit.metrics import spearman
from stages.fit.report import estimate_text, markdown_table
from stages.fit.study import Study
from store.tables import write_csv

FloatArray = npt.NDArray[np.float64]
EXPLAIN = "explain.csv"
LEAST_FRAMES = 8  # of a clip, for a rank correlation within it
# Frames in a draw of the pooled correlation's bootstrap. Frames of a clip are alike, so that its
# interval hangs on clips and groups; all frames of a thousand clips would take hours.
MOST_DRAWN = 10_000


@dataclass(frozen=True)
class Measure:
    """A number a frame, and which way the slides say that attention goes with it."""

    name: str
    of: Callable[[Geometry], FloatArray]
    claimed: int


MEASURES = (
    Measure("|yaw|", lambda g: np.abs(g.yaw), -1),
    Measure("|roll|", lambda g: np.abs(g.roll), -1),
    Measure("mouth opening", lambda g: g.mouth_opening, -1),
    Measure("smile", lambda g: g.smile, 1),
)


@dataclass(frozen=True)
class Link:
    """How one network's attention goes with one measure, in Spearman's rank correlation.

    Attributes
    ----------
    contestant, measure : str
    claimed : -1 or 1
        The sign that the slides state.
    within : Estimate
        Mean over clips of the correlation over a clip's frames: what changes in one face.
    clips, groups : int
        Clips in ``within``: those with LEAST_FRAMES frames in which both vary.
    pooled : Estimate
        Over all frames of all clips: differences between people, and between the networks of the
        folds, are in it too.
    frames : int
        Frames in ``pooled``.
    """

    contestant: str
    measure: str
    claimed: int
    within: Estimate
    clips: int
    groups: int
    pooled: Estimate
    frames: int

    @property
    def direction(self) -> int:
        """-1 or 1 where the interval of ``within`` lies on one side of 0, else 0."""
        return int(self.within.low > 0) - int(self.within.high < 0)


def link(
    attention: Sequence[Sequence[FloatArray]],
    measured: Sequence[FloatArray],
    group: Sequence[object],
    *,
    samples: int = 2000,
    seed: int = 0,
) -> tuple[Estimate, int, int, Estimate, int]:
    """Correlate attention with one measure; every statistic is a mean over the repeats.

    Parameters
    ----------
    attention : (R, n) sequences of (frames,) float
        Of each clip in each repeat; NaN in frames that do not count.
    measured : (n,) sequences of (frames,) float
        NaN in frames that do not count.
    group : (n,)
        Whole groups are drawn in the bootstrap.
    samples, seed : int

    Returns
    -------
    within, clips, groups, pooled, frames
        As in Link.
    """
    counts = [np.isfinite(m) for m in measured]
    for repeat in attention:
        counts = [c & np.isfinite(a) for c, a in zip(counts, repeat, strict=True)]
    table = np.array(
        [
            [
                spearman(a[c], m[c]) if c.sum() >= LEAST_FRAMES else math.nan
                for a, m, c in zip(repeat, measured, counts, strict=True)
            ]
            for repeat in attention
        ]
    )  # (R, n)
    r = table.mean(axis=0)
    known = np.flatnonzero(np.isfinite(r)).tolist()
    nothing = Estimate(math.nan, math.nan, math.nan)
    within, groups = nothing, 0
    if len(known):
        code = group_codes([group[k] for k in known])
        groups = int(code.max()) + 1
        value = float(r[known].mean())
        drawn = np.concatenate(
            [w @ r[known] / w.sum(axis=1) for w in draw_weights(code, samples, seed)]
        )
        within = Estimate(value, *interval("difference", value, drawn, groups))

    here = [k for k, c in enumerate(counts) if c.any()]
    frames = sum(int(counts[k].sum()) for k in here)
    if not here:
        return within, len(known), groups, nothing, 0
    flat = np.concatenate([measured[k][counts[k]] for k in here])
    each = [np.concatenate([repeat[k][counts[k]] for k in here]) for repeat in attention]
    value = float(np.mean([spearman(a, flat) for a in each]))
    if math.isnan(value):
        return within, len(known), groups, nothing, frames
    some = _evenly([int(counts[k].sum()) for k in here], max(MOST_DRAWN // len(here), 2))
    owner = np.repeat(here, [int(counts[k].sum()) for k in here])[some]
    code = group_codes([group[k] for k in owner])
    a = np.stack([values[some] for values in each])
    m = np.broadcast_to(flat[some], a.shape)
    drawn = draws("src", a, m, code, samples=samples, seed=seed)
    pooled = Estimate(value, *interval("src", value, drawn, int(code.max()) + 1))
    return within, len(known), groups, pooled, frames


def _evenly(sizes: Sequence[int], most: int) -> npt.NDArray[np.intp]:
    """Places of at most ``most`` frames of each clip, evenly spaced, in all frames joined."""
    first = np.cumsum([0, *sizes[:-1]])
    picks = [
        start + np.unique(np.linspace(0, n - 1, min(n, most)).round().astype(np.intp))
        for start, n in zip(first, sizes, strict=True)
    ]
    return np.concatenate(picks)


def told_frames(
    study: Study, contestants: Sequence[Contestant], folder: Path
) -> dict[str, list[dict[str, ClipFrames]]]:
    """Return what networks said of each clip's frames, out of fold: by contestant, then by repeat.

    Networks whose training diverged in a fold are left out: they said nothing of its clips.

    Raises
    ------
    StudyError
        What was kept is gone.
    """
    found: dict[str, list[dict[str, ClipFrames]]] = {}
    for contestant in contestants:
        if not contestant.tells_frames or diverged_folds(study, folder, contestant):
            continue
        found[contestant.name] = repeats = []
        for repeat in range(study.design.repeats):
            clips: dict[str, ClipFrames] = {}
            for fold in range(study.design.folds):
                kept = load_frames(frames_file(folder, (contestant, repeat, fold)))
                if kept is None:
                    raise StudyError(
                        f"{folder}: a fold of {contestant.name} was removed meanwhile",
                        "run the same command again",
                    )
                clips |= {frames.clip: frames for frames in kept}
            repeats.append(clips)
    return found


def explain(
    study: Study,
    told: Mapping[str, Sequence[Mapping[str, ClipFrames]]],
    *,
    samples: int = 2000,
) -> list[Link]:
    """Correlate the attention of every network that has any with every measure, out of fold."""
    geometry = [_geometry(study, clip) for clip in study.clips]
    measured = {m.name: [m.of(g) for g in geometry] for m in MEASURES}
    links = []
    for name, repeats in told.items():
        attention = [[clips[clip].attention for clip in study.clips] for clips in repeats]
        if not any(np.isfinite(a).any() for a in attention[0]):
            continue
        for m in MEASURES:
            within, clips, groups, pooled, frames = link(
                attention,
                measured[m.name],
                study.grouping.group,
                samples=samples,
                seed=study.design.seed,
            )
            links.append(Link(name, m.name, m.claimed, within, clips, groups, pooled, frames))
    return links


def _geometry(study: Study, clip: str) -> Geometry:
    span = study.spans[clip]
    rows = slice(span.start, span.start + span.frames)
    return measure_geometry(np.asarray(study.source.dask("landmark")[rows].compute()))


def write_frames(
    folder: Path,
    contestants: Sequence[Contestant],
    told: Mapping[str, Sequence[Mapping[str, ClipFrames]]],
) -> None:
    """Write one CSV a clip, below a folder for each network and repeat.

    Raises
    ------
    FrameWriteError
    """
    for contestant in contestants:
        for repeat, clips in enumerate(told.get(contestant.name, ())):
            write = csv_writer(folder / contestant.slug / f"repeat{repeat}")
            for frames in clips.values():
                write(frames)


def write_links(folder: Path, links: Sequence[Link]) -> None:
    """Write explain.csv: a line a network and measure."""
    lines = [
        {
            "contestant": one.contestant,
            "measure": one.measure,
            "claimed": one.claimed,
            **{f"{kind}_{key}": value for kind in ("within", "pooled")
               for key, value in vars(getattr(one, kind)).items()},
            "clips": one.clips,
            "groups": one.groups,
            "frames": one.frames,
        }
        for one in links
    ]  # fmt: skip
    columns = ["contestant", "measure", "claimed"]
    table = pd.DataFrame(lines) if lines else pd.DataFrame(columns=columns)
    write_csv(table, folder / EXPLAIN)


def explain_text(links: Sequence[Link], without: Sequence[str]) -> str:
    """Return the section of the report: a table, and in words what it supports."""
    parts = ["## What attention goes with"]
    if links:
        columns = ["", "measure", "within clips", "clips", "pooled", "frames"]
        parts.append(markdown_table(columns, [
            [one.contestant, one.measure.replace("|", "\\|"), estimate_text(one.within), one.clips,
             estimate_text(one.pooled), one.frames]
            for one in links
        ]))  # fmt: skip
        parts.append(" ".join(explain_sentences(links)))
        parts.append(NOTES)
    if without:
        parts.append(f"Without attention: {', '.join(without)}.")
    return "\n\n".join(parts)


NOTES = """\
Spearman's rank correlation of a frame's attention with what its landmarks show, on clips whose
groups the network had not seen; yaw and roll without their sign. Within clips: over the frames of a
clip, then the mean over clips. Pooled: over all frames, so that people and folds that differ in
both are in it. Brackets hold 95 % intervals of a bootstrap that draws whole groups, not corrected
for the number of rows. Each measure is a closed form on a few landmarks (stages/fit/geometry.py
says what disturbs it), and these landmarks are also what the gate reads: a link says what the
network looks at, not what raters do."""


def explain_sentences(links: Sequence[Link]) -> list[str]:
    """Say of each network what its attention goes with, and what is left of the slides' claim."""
    sentences = []
    for name in dict.fromkeys(one.contestant for one in links):
        mine = [one for one in links if one.contestant == name]
        falls = [_with(one) for one in mine if one.direction < 0]
        rises = [_with(one) for one in mine if one.direction > 0]
        open_ = [one.measure for one in mine if not one.direction]
        said = [f"falls with {' and '.join(falls)}"] if falls else []
        said += [f"rises with {' and '.join(rises)}"] if rises else []
        if said:
            sentences.append(f"Within clips the attention of {name} {' and '.join(said)}.")
        if open_:
            sentences.append(
                f"The data shows no link of {name}'s attention with {' or '.join(open_)} within "
                "clips: that is not evidence that there is none."
            )
        agrees = [one.measure for one in mine if one.direction == one.claimed]
        against = [one.measure for one in mine if one.direction == -one.claimed]
        text = (
            "The slides' claim, that attention falls for faces that are not frontal and distorted "
            f"ones and rises for smiles, holds for {name} on this data "
        )
        text += f"in {' and '.join(agrees)}" if agrees else "in nothing that was measured"
        sentences.append(
            text + (f"; the opposite holds in {' and '.join(against)}." if against else ".")
        )
    return sentences


def _with(one: Link) -> str:
    return f"{one.measure} ({estimate_text(one.within)})"
