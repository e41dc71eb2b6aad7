"""What a model says of single frames of chosen clips, and the charts under their filmstrips."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pipeline.report.charts import Axis, Chart, Mark, span
from pipeline.report.facts import Facts
from stages.fit.run_folder import make_loader
from stages.fit.spans import clip_spans

FloatArray = npt.NDArray[np.float64]
MOST_POINTS = 240  # on a chart of 480 pixels more could not be seen


@dataclass(frozen=True)
class FrameCurves:
    """One clip as the model saw it, n frames.

    ``time`` (n,) seconds; ``valid`` (n,) bool; ``score`` (n,) in label units and ``attention``
    (n,), NaN where not valid, the latter None in models without; ``winner``: the frame with the
    highest score, an index into these.
    """

    clip: str
    time: FloatArray
    valid: npt.NDArray[np.bool_]
    score: FloatArray
    attention: FloatArray | None
    winner: int


def frame_curves(facts: Facts, clips: Sequence[str]) -> dict[str, FrameCurves]:
    """Run the model over clips and keep what it says of every frame; {} without a store."""
    if facts.source is None:
        return {}
    run = facts.run
    spans = clip_spans(facts.source)
    wanted = [spans[clip] for clip in dict.fromkeys(clips) if clip in spans]
    if not wanted:
        return {}
    found = {}
    loader = make_loader(facts.source, wanted, {}, run.config)
    for batch in loader.batches(run.config.train.batch_size):
        told = run.model.predict(batch.appearance, batch.landmark, batch.mask, batch.timestamp)
        for row, clip in enumerate(batch.clips):
            time = batch.timestamp[row].numpy()
            valid = batch.mask[row].numpy()
            n = int(np.flatnonzero(valid)[-1]) + 1  # what follows is padding, or shows no face
            time, valid = time[:n], valid[:n]
            score = told.frame_score[row, :n].double().numpy() * run.label.sd + run.label.mean
            score = np.where(valid, score, np.nan)
            attention = None
            if told.attention is not None:
                attention = np.where(valid, told.attention[row, :n].double().numpy(), np.nan)
            winner = int(np.nanargmax(score))
            found[clip] = FrameCurves(clip, time, valid, score, attention, winner)
    return found


def clip_chart(curves: FrameCurves, title: str) -> Chart:
    """Score and attention over time, one above the other; a rule at the frame that won."""
    n = len(curves.time)
    keep = np.unique(np.linspace(0, n - 1, min(n, MOST_POINTS)).round().astype(int))
    keep = np.unique(np.append(keep, curves.winner))
    time, score = curves.time[keep], curves.score[keep]
    both = curves.attention is not None
    width, height = 480, 190 if both else 120
    across = Axis(*span(curves.time, 0.01), 46, width - 8, "seconds", 6)
    up = Axis(*span(score, 0.1), 82, 8, "score", 3)
    made = Chart(title, across, up, width, height)
    made.rule("chosen", x=float(curves.time[curves.winner]))
    made.line(time, score, "c0")
    lower: Axis | None = None
    if curves.attention is not None:
        attention = curves.attention[keep]
        lower = Axis(*span(attention, 0.1), 154, 96, "attention", 2)
        beside = Chart("", across, lower, width, height)
        beside.rule("chosen", x=float(curves.time[curves.winner]))
        beside.line(time, attention, "c1")
        made.marks += beside.marks
        made.second = lower
    won = across.at(float(curves.time[curves.winner])), up.at(float(curves.score[curves.winner]))
    made.marks.append(Mark("winner", "M-4 0a4 4 0 1 0 8 0a4 4 0 1 0-8 0", *won))
    for k, frame in enumerate(keep):
        if not np.isfinite(score[k]):
            continue
        text = f"{time[k]:.2f} s: score {score[k]:.3f}"
        if curves.attention is not None:
            text += f", attention {curves.attention[frame]:.3f}"
        made.tip(
            float(time[k]), float(score[k]), text + (", won" if frame == curves.winner else "")
        )
    return made
