"""`pipeline demo`: the whole path, from real faces to held-out figures and a table of scores."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

from pipeline import console
from pipeline.demo.faces import cut_portraits
from pipeline.demo.motion import describe_label
from pipeline.demo.render import render_clips
from pipeline.demo.sources import fetch_clips, fetch_photos
from pipeline.fitting import Fitted, fit_model
from pipeline.report.page import Options, write_report
from stages import score as scoring
from stages.extract import packs
from stages.extract.run import ExtractOptions, Summary, extract
from stages.fit.run import BASELINE

CLIPS = 160
HELD_OUT = 0.4  # of about 20 persons: at least 36 clips of people that the model has not seen
PACK = "lite"
_RENDERED = "rendered.json"


def run_demo(folder: Path, seed: int) -> dict[str, Any]:
    """Render, extract, fit and score below ``folder``; what is there already is kept.

    Parameters
    ----------
    folder : Path
        Gets ``real_clips`` and ``photos``, and ``seed-N`` with ``videos``, ``features.store``,
        ``run``, ``scores.csv`` and ``report.html``.
    seed : int
        Of the rendered clips, of the split and of the training.

    Returns
    -------
    dict
        JSON types: ``src`` of both models on held-out clips, their 95 % intervals, the number of
        held-out clips and persons, where everything is, seconds for each step.

    Raises
    ------
    FacepipeError
        Of any step.
    """
    clock = _Clock()
    home = folder / f"seed-{seed}"
    home.mkdir(parents=True, exist_ok=True)
    with console.work_progress("installing") as progress:
        pack = packs.install(PACK, console.note, progress)
    with console.work_progress("fetching clips") as progress:
        real = fetch_clips(folder / "real_clips", echo=console.note, progress=progress)
    clock.lap("fetch")
    videos = _render(folder, home / "videos", seed, pack)
    clock.lap("render")
    summary = _extract(videos, home / "features.store")
    clock.lap("extract")
    fitted = fit_model(
        "2stcn",
        home / "features.store",
        videos / "labels.csv",
        home / "run",
        [f"seed={seed}", f"split.test={HELD_OUT}", "group=person"],  # it knows who is who
        folder,
        overwrite=True,
    )
    clock.lap("fit")
    console.note(f"scoring {len(real)} real clips")
    with console.clip_progress() as progress:
        scored = scoring.score(
            ExtractOptions([folder / "real_clips"], folder / "real_clips.store"),
            home / "run",
            home / "scores.csv",
            keep_store=True,
            echo=console.note,
            started=progress.started,
            finished=progress.finished,
        )
    clock.lap("score")
    with console.fold_progress("report") as step:
        write_report(
            Options(home / "run", [str(home / "features.store")], videos),
            home / "report.html",
            step,
        )
    clock.lap("report")
    return _told(fitted, summary, home, scoring.scored(scored), clock.seconds)


def _render(folder: Path, videos: Path, seed: int, pack: Path) -> Path:
    marker = videos / _RENDERED
    if marker.is_file():
        console.note(f"{videos}: rendered before")
        return videos
    with console.work_progress("fetching photos") as progress:
        photos = fetch_photos(folder / "photos", echo=console.note, progress=progress)
    portraits = cut_portraits(photos, pack)
    console.note(f"rendering {CLIPS} clips of {len(portraits)} persons")
    with console.work_progress("rendering") as progress:
        render_clips(portraits, videos, CLIPS, seed, progress=progress)
    sources = {portrait.person: portrait.source for portrait in portraits}
    marker.write_text(json.dumps({"seed": seed, "clips": CLIPS, "persons": sources}, indent=2))
    return videos


def _extract(videos: Path, store: Path) -> Summary:
    with console.clip_progress() as progress:
        return extract(
            ExtractOptions([videos], store, PACK),
            console.note,
            progress.started,
            progress.finished,
        )


def _told(
    fitted: Fitted, summary: Summary, home: Path, scored: int, seconds: dict[str, float]
) -> dict[str, Any]:
    test, rival = fitted.result.test.to_dict(), fitted.result.baseline.to_dict()
    return {
        "src": {"2stcn": test["src"], BASELINE: rival["src"]},
        "src_ci95": {
            "2stcn": [test["src_low"], test["src_high"]],
            BASELINE: [rival["src_low"], rival["src_high"]],
        },
        "held_out": {"clips": test["n"], "persons": test["groups"]},
        "label": describe_label(),
        "videos": str(home / "videos"),
        "store": str(summary.store),
        "run": str(fitted.result.run_dir),
        "scores": str(home / "scores.csv"),
        "report": str(home / "report.html"),
        "real_clips_scored": scored,
        "seconds": seconds,
    }


def show_demo(told: dict[str, Any]) -> None:
    """Print the result for a person."""
    rows: list[list[object]] = []
    for name, src in told["src"].items():
        low, high = told["src_ci95"][name]
        span = "undefined" if low is None else f"{low:.2f} to {high:.2f}"
        rows.append([name, "undefined" if src is None else f"{src:.3f}", span])
    held_out = told["held_out"]
    console.table(
        f"SRC on {held_out['clips']} held-out clips of {held_out['persons']} persons that no model "
        "has seen",
        ["model", "SRC", "95 % interval"],
        rows,
    )
    console.result(told["label"])
    for name in ("videos", "store", "run", "scores", "report"):
        console.result(f"{name}: {told[name]}")
    console.result(
        f"{told['real_clips_scored']} real clips scored; on them the score means just as little"
    )


class _Clock:
    def __init__(self) -> None:
        self._last = time.perf_counter()
        self.seconds: dict[str, float] = {}

    def lap(self, name: str) -> None:
        now = time.perf_counter()
        self.seconds[name] = round(now - self._last, 1)
        self._last = now
