"""What a model's attention goes with: pose and expression, on the held-out clips."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from pipeline.report.charts import Chart, chart, span
from pipeline.report.facts import Facts
from stages.fit.explain import MEASURES, Link, explain_sentences, link
from stages.fit.frames import ClipFrames
from stages.fit.geometry import measure_geometry

BINS = 12
PLOTTED = {
    "yaw": "yaw in degrees",
    "roll": "roll in degrees",
    "mouth_opening": "mouth opening, in distances between the eyes",
    "smile": "smile, in distances between the eyes",
}


@dataclass(frozen=True)
class Attention:
    """``links``: rank correlations of attention with each measure; ``words``; and charts.

    Over ``clips`` clips.
    """

    clips: int
    links: list[Link]
    words: list[str]
    charts: list[Chart]


def attend(facts: Facts, told: Mapping[str, ClipFrames]) -> Attention | None:
    """Lay attention beside what the landmarks show; None in models without attention.

    Parameters
    ----------
    facts : Facts
    told : mapping of clip id to ClipFrames
        Of clips that the model was not fitted on.
    """
    here = {clip: f for clip, f in told.items() if np.isfinite(f.attention).any()}
    if not here or facts.source is None:
        return None
    geometry = [
        measure_geometry(facts.source.clip(clip, arrays=["landmark"])["landmark"]) for clip in here
    ]
    attention = [frames.attention for frames in here.values()]
    group_of = dict(zip(facts.clips["clip"], facts.clips["group"], strict=True))
    groups = [group_of[clip] for clip in here]
    config = facts.run.config
    links = [
        Link(
            facts.model,
            m.name,
            m.claimed,
            *link(
                [attention],
                [m.of(g) for g in geometry],
                groups,
                samples=config.bootstrap,
                seed=config.seed,
            ),
        )
        for m in MEASURES
    ]
    flat = np.concatenate(attention)
    charts = []
    for name, label in PLOTTED.items():
        drawn = _binned(name, label, np.concatenate([getattr(g, name) for g in geometry]), flat)
        charts += [] if drawn is None else [drawn]
    return Attention(len(here), links, explain_sentences(links), charts)


def _binned(
    name: str, label: str, measured: np.ndarray, attention: np.ndarray
) -> Chart | None:  # (frames,), (frames,)
    """Median and quartiles of attention in bins of equally many frames."""
    known = np.isfinite(measured) & np.isfinite(attention)
    m, a = measured[known], attention[known]
    if len(m) < 2 * BINS or np.ptp(m) == 0:
        return None
    parts = np.array_split(np.argsort(m, kind="stable"), BINS)
    x = [float(np.median(m[part])) for part in parts]
    low, middle, high = (
        [float(v) for v in values]
        for values in zip(*(np.quantile(a[part], (0.25, 0.5, 0.75)) for part in parts), strict=True)
    )
    title = f"Attention against {name.replace('_', ' ')}"
    made = chart(title, span(x), span([*low, *high]), label, "attention", (360, 240))
    made.band(x, low, high, "c1")
    made.line(x, middle, "c1")
    for k, part in enumerate(parts):
        made.tip(
            x[k],
            middle[k],
            f"{name.replace('_', ' ')} {m[part].min():.3g} to {m[part].max():.3g}: attention "
            f"{middle[k]:.3f}, half of the frames {low[k]:.3f} to {high[k]:.3f}",
        )
    return made
