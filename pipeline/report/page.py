"""The page: which clips are shown, the charts, and the template that puts them together."""

from __future__ import annotations

import base64
import hashlib
import math
import os
from collections.abc import Callable, Mapping
from contextlib import closing, nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from pipeline import __version__
from pipeline.report import quality
from pipeline.report.attention import attend
from pipeline.report.charts import Chart, chart, curve, histogram, span, symbol
from pipeline.report.curves import clip_chart, told_frames, winner
from pipeline.report.facts import (
    Facts,
    judge,
    judge_attributes,
    read_facts,
    settings,
)
from pipeline.report.films import FRAMES, Film, Films
from stages.fit.compare import ALL, Estimate
from stages.fit.explain import NOTES as ATTENTION_NOTES
from stages.fit.frames import ClipFrames
from stages.fit.report import estimate_text
from stages.fit.verdict import p_value
from store import Store, Stores
from store.errors import ClipNotFoundError, FacepipeError

SHOWN = 10  # clips in each list
MOST_POINTS, MOST_ROWS = 1500, 2000  # clips on the scatter plot and in the table
MOST_READ = 400  # clips whose frames are read for what attention goes with
SECTIONS = (
    ("trained", "Training"),
    ("src", "Rank correlation"),
    ("scatter", "Predicted against true"),
    ("distribution", "Distribution"),
    ("learning", "Learning curves"),
    ("clips", "Clips"),
    ("attention", "Attention"),
    ("bias", "Errors by attribute"),
    ("quality", "Data quality"),
    ("table", "All clips"),
    ("reading", "How to read this"),
)


class ReportError(FacepipeError, ValueError):
    """The page cannot be made from what is there, or not be written."""


@dataclass(frozen=True)
class Options:
    """What was asked for; ``videos``: the folder that was extracted, None to show no frames."""

    run: Path
    store: list[str] | None = None
    videos: Path | None = None
    blur: bool = False


@dataclass(frozen=True)
class Card:
    """A clip in a list: its row of the table, its chart and its film, where there are such.

    ``held``: whether the store has frames of it. A still has no chart.
    """

    row: dict[str, Any]
    held: bool
    chart: Chart | None
    film: Film | None


@dataclass(frozen=True)
class CardList:
    """One of the four lists."""

    id: str
    title: str
    text: str
    cards: list[Card]


Steps = Callable[[str, int, int], None]


def unheard(step: str, done: int, total: int) -> None:
    """Tell nobody."""


def write_report(
    options: Options,
    out: Path,
    progress: Steps = unheard,
    warn: Callable[[str], None] = lambda line: None,
) -> int:
    """Write the page and return its size in bytes; written whole or not at all.

    Parameters
    ----------
    options : Options
    out : Path
    progress : callable
        Told of each step, how many clips are done, of how many.
    warn : callable
        Gets what is amiss with a page that can be made all the same.

    Raises
    ------
    ReportError, RunError, StoreError, StoreMismatchError, InputError
    """
    if not out.parent.is_dir():
        raise ReportError(f"{out}: the folder {out.parent} does not exist", "make it first")
    text = render(options, progress, warn)
    partial = out.with_name(f".{out.name}.{os.getpid()}.partial")
    try:
        partial.write_text(text, encoding="utf-8")
        os.replace(partial, out)
    except OSError as error:
        raise ReportError(f"{out}: cannot be written ({error.strerror})", "change --out") from None
    finally:
        partial.unlink(missing_ok=True)
    return out.stat().st_size


def render(
    options: Options,
    progress: Steps = unheard,
    warn: Callable[[str], None] = lambda line: None,
) -> str:
    """Return the page as text, see write_report."""
    facts = read_facts(options.run, options.store)
    with nullcontext() if facts.source is None else closing(facts.source):
        return _render(options, facts, progress, warn)


def _holds(source: Store | Stores, clip: str) -> bool:
    try:
        source.record(clip)
    except ClipNotFoundError:
        return False
    return True


def _render(options: Options, facts: Facts, progress: Steps, warn: Callable[[str], None]) -> str:
    if options.videos is not None and facts.source is None:
        raise ReportError(
            f"{facts.store_path}: there is no store, and frames are shown by what it says of them",
            "say where it is with --store",
        )
    if facts.source is not None and not any(
        _holds(facts.source, c) for c in facts.held_out["clip"]
    ):
        raise ReportError(
            f"{facts.store_path}: holds none of the {len(facts.held_out)} held-out clips of "
            f"{options.run}",
            "give the store that the run was fitted on with --store",
        )
    films = None if options.videos is None else Films(options.videos, options.blur)
    read = facts.held_out["clip"]
    if films is not None and (found := sum(clip in films for clip in read)) < len(read):
        warn(
            f"{found} of {len(read)} clips found below {options.videos}; give the folder that was "
            "extracted"
        )
    some = read.iloc[np.unique(np.linspace(0, len(read) - 1, MOST_READ).round().astype(int))]
    wanted = [*some, *(c for *_, part in choose(facts) for c in part["clip"])]
    told = told_frames(facts, wanted, partial(progress, "reading frames"))
    lists = card_lists(facts, told, films, progress)
    verdict = judge(facts)
    environment = Environment(
        loader=PackageLoader("pipeline.report", "page"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "estimate": estimate_text,
        "p_value": p_value,
        "number": _number,
        "reach": _reach,
    }
    style, script = (_part(name) for name in ("page.css", "page.js"))
    return environment.get_template("page.html").render(
        version=__version__,
        symbol=symbol,
        sections=SECTIONS,
        style=Markup(style),
        script=Markup(script),
        style_hash=_hash(style),
        script_hash=_hash(script),
        facts=facts,
        options=options,
        settings=settings(facts),
        subsets=sorted({s for s in facts.held_out["subset"] if s}),
        all=ALL,
        comparison=verdict.comparison,
        words=verdict.words,
        scatter=scatter(facts),
        scores=score_distribution(facts),
        learning=learning_curves(facts),
        lists=lists,
        attention=attend(facts, {clip: told[clip] for clip in some if clip in told}),
        attention_notes=ATTENTION_NOTES,
        attributes=judge_attributes(facts),
        quality=None if facts.source is None else quality.look(facts.source),
        rows=_rows(facts.held_out.head(MOST_ROWS)),
        unlisted=max(len(facts.held_out) - MOST_ROWS, 0),
        unplotted=max(len(facts.held_out) - MOST_POINTS, 0),
    )


def _part(name: str) -> str:
    return (Path(__file__).parent / "page" / name).read_text(encoding="utf-8")


def _hash(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def _number(value: float, digits: int = 3) -> str:
    return "" if value is None or math.isnan(value) else f"{value:.{digits}f}"


def _reach(estimate: Estimate) -> float:
    ends = [abs(v) for v in (estimate.low, estimate.high) if math.isfinite(v)]
    return max(ends, default=0.0)


def _rows(table: pd.DataFrame) -> list[dict[str, Any]]:
    columns = ["clip", "subset", "group", "score", "prediction", "error", "off"]
    found: list[dict[str, Any]] = table[columns].to_dict("records")
    return found


def scatter(facts: Facts) -> Chart:
    """Predicted against true scores of the held-out clips; a symbol a subset."""
    table = facts.held_out
    if len(table) > MOST_POINTS:
        table = table.sample(MOST_POINTS, random_state=0)
    both = span(np.concatenate([table["score"], table["prediction"]]))
    made = chart(
        "Predicted against true score of the held-out clips",
        both, both, "true score, relative to its subset" if facts.relative else "true score",
        "predicted", (560, 460), by="point",
    )  # fmt: skip
    low, high = both
    made.line([low, high], [low, high], "equal")
    subsets = sorted(set(table["subset"]))
    for row in _rows(table):
        tip = f"{row['clip']}: true {row['score']:.3f}, predicted {row['prediction']:.3f}"
        tip += f", subset {row['subset']}" if row["subset"] else ""
        number = subsets.index(row["subset"])
        made.point(row["score"], row["prediction"], number, row, tip)
    if subsets != [""]:
        made.legend = [(f"point c{k % 6}", s or "no subset") for k, s in enumerate(subsets)]
    return made


def score_distribution(facts: Facts) -> Chart | None:
    """Distribution of the true scores in training and test, and of the predictions."""
    train = facts.clips[facts.clips["part"] == "train"]
    return histogram(
        "Distribution of scores",
        [
            ("true, held out", facts.held_out["score"].to_numpy()),
            ("predicted, held out", facts.held_out["prediction"].to_numpy()),
            ("true, trained on", train["score"].to_numpy()),
        ],
        "score",
    )


def learning_curves(facts: Facts) -> list[Chart]:
    """Loss, and what the validation clips said, over the epochs."""
    epochs, best = facts.epochs, facts.run.best_epoch
    shown = (
        ("train_loss", "Training loss"),
        ("val_mse", "Squared error on validation clips"),
        ("val_src", "SRC on validation clips"),
    )
    return [
        curve(title, epochs["epoch"], epochs[name], "epoch", name, best, f"epoch {best}, chosen")
        for name, title in shown
        if name in epochs
    ]


def choose(facts: Facts) -> list[tuple[str, str, str, pd.DataFrame]]:
    """Id, title, text and clips of each list: best and worst, matching and mismatching."""
    table = facts.held_out
    by_score = table.sort_values(["prediction", "clip"], ascending=[False, True])
    far = table.assign(far=table["error"].abs()).sort_values(["off", "far", "clip"])
    return [
        ("best", "Ten best", "Rated highest by the model.", by_score.head(SHOWN)),
        ("worst", "Ten worst", "Rated lowest by the model.", by_score[::-1].head(SHOWN)),
        (
            "matching",
            "Matching",
            "Predicted and true place among the held-out clips agree best.",
            far.head(SHOWN),
        ),
        (
            "mismatching",
            "Mismatching",
            "Predicted and true place are farthest apart.",
            far[::-1].head(SHOWN),
        ),
    ]


def card_lists(
    facts: Facts,
    told: Mapping[str, ClipFrames],
    films: Films | None,
    progress: Steps,
) -> list[CardList]:
    """Put the lists together, with curves and films."""
    lists = choose(facts)
    clips = list(dict.fromkeys(clip for *_, part in lists for clip in part["clip"]))
    shown: dict[str, Film] = {}
    if films is not None:
        for done, clip in enumerate(clips, start=1):
            if clip in told:
                shown[clip] = film_of(facts, films, told[clip])
            progress("filmstrips", done, len(clips))

    def card(row: dict[str, Any]) -> Card:
        frames, film = told.get(row["clip"]), shown.get(row["clip"])
        if frames is None:
            return Card(row, False, None, film)
        shots = [] if film is None else [p.time for p in film.pictures]
        drawn = None
        if len(frames.valid) > 1:
            drawn = clip_chart(frames, f"Score by frame of {row['clip']}", shots)
        return Card(row, True, drawn, film)

    return [
        CardList(name, title, text, [card(row) for row in _rows(part)])
        for name, title, text, part in lists
    ]


def film_of(facts: Facts, films: Films, told: ClipFrames) -> Film:
    """Frames spread over what the model saw of a clip, and the one that won."""
    assert facts.source is not None
    record = next(facts.source.records(subset=[told.clip], where="track = 0"))
    box = np.asarray(facts.source.clip(told.clip, arrays=["box"])["box"], np.float64)
    read = np.flatnonzero(np.isfinite(told.score))
    places = np.unique(np.linspace(read[0], read[-1], FRAMES).round().astype(int))
    times = [float(told.timestamp[k]) for k in places]
    width = float(np.nanmax(box[:, 2] - box[:, 0]))
    return films.film(record, times, float(told.timestamp[winner(told)]), width)
