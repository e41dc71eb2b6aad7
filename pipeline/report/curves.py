"""What a model says of single frames of chosen clips, and the charts under their filmstrips."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from pipeline.report.charts import Axis, Chart, Mark, span
from pipeline.report.facts import Facts
from stages.fit.frames import ClipFrames, FrameSink
from stages.fit.pooled_base import PooledModel
from stages.fit.run_folder import make_loader
from stages.fit.spans import clip_spans
from stages.fit.trainer import predict
from store.progress import Progress, unheard

MOST_POINTS = 240  # on a chart of 480 pixels more could not be seen


def told_frames(
    facts: Facts, clips: Sequence[str], progress: Progress = unheard
) -> dict[str, ClipFrames]:
    """Run the model over clips and keep what it says of every frame; told of how many clips.

    {} without a store, and of models that say nothing of single frames.

    Clips of which the model reads no frame with a face are left out.
    """
    found: dict[str, ClipFrames] = {}
    network = facts.run.model
    if facts.source is None or not facts.tells_frames or isinstance(network, PooledModel):
        return found
    run, spans = facts.run, clip_spans(facts.source)
    wanted = [spans[clip] for clip in dict.fromkeys(clips) if clip in spans]
    if wanted:

        def take(told: ClipFrames) -> None:
            found[told.clip] = told
            progress(len(found), len(wanted))

        sink = FrameSink(facts.source, spans, take)
        with run.with_features(facts.source) as config:
            loader = make_loader(facts.source, wanted, {}, config)
            predict(network, loader, config.train.batch_size, sink.watch(run.label))
    return {clip: frames for clip, frames in found.items() if np.isfinite(frames.score).any()}


def winner(told: ClipFrames) -> int:
    """Index of the frame with the largest part in the clip's score.

    Where all have the same part, as under a mean, or the model cannot tell: the one with the
    highest score.
    """
    part = np.abs(np.nan_to_num(told.won))
    read = np.isfinite(told.score)
    if part.max() > 1.5 * part[read].mean():
        return int(part.argmax())
    return int(np.nanargmax(told.score))


def clip_chart(told: ClipFrames, title: str, shots: Sequence[float]) -> Chart:
    """Score and attention over time, one above the other; a rule at the frame that won.

    ``shots``: times of the pictures above, which get thin rules.
    """
    won = winner(told)
    read = np.flatnonzero(np.isfinite(told.score))
    first, last = int(read[0]), int(read[-1])
    keep = np.linspace(first, last, min(last - first + 1, MOST_POINTS)).round().astype(int)
    keep = np.unique(np.append(keep, won))
    time, score, attention = told.timestamp[keep], told.score[keep], told.attention[keep]
    both = bool(np.isfinite(attention).any())
    width, height = 480, 190 if both else 120
    across = Axis(*span(told.timestamp[first : last + 1], 0.01), 46, width - 8, "seconds", 6)
    made = Chart(title, across, Axis(*span(score, 0.1), 82, 8, "score", 3), width, height)
    panels = [(made, score, "c0")]
    if both:
        made.second = Axis(*span(attention, 0.1), 154, 96, "attention", 2)
        panels.append((Chart("", across, made.second, width, height), attention, "c1"))
    for panel, values, kind in panels:
        for shot in shots:
            panel.rule("shot", x=shot)
        panel.rule("chosen", x=float(told.timestamp[won]))
        panel.line(time, values, kind)
        if panel is not made:
            made.marks += panel.marks
    place = across.at(float(told.timestamp[won])), made.y.at(float(told.score[won]))
    made.marks.append(Mark("winner", "M-4 0a4 4 0 1 0 8 0a4 4 0 1 0-8 0", *place))
    for k, frame in enumerate(keep):
        if np.isfinite(score[k]):
            text = f"{time[k]:.2f} s: score {score[k]:.3f}"
            text += f", attention {attention[k]:.3f}" if np.isfinite(attention[k]) else ""
            text += ", won" if frame == won else ""
            made.tip(float(time[k]), float(score[k]), text)
    return made
