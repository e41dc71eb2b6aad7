"""`pipeline fit`: settings from the command line, a run folder by date, the result as a table."""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import pandas as pd

from pipeline import console
from pipeline.errors import interrupted
from stages.fit import models
from stages.fit.config import FitConfig, apply_overrides
from stages.fit.frames import csv_writer
from stages.fit.labels import LabelError
from stages.fit.metrics import Metrics
from stages.fit.reproducible import one_thread
from stages.fit.run import BASELINE, FitResult, raw_metrics
from stages.fit.run import fit as run_fit
from stages.fit.tasks_report import COLUMNS, tasks_rows
from stages.fit.tuned import optimism, read_best


@dataclass(frozen=True)
class Fitted:
    """A finished run and the configuration that made it."""

    result: FitResult
    config: FitConfig

    def to_dict(self) -> dict[str, Any]:
        """Return it as JSON types."""
        return {
            "run": str(self.result.run_dir),
            "model": self.config.model,
            "best_epoch": self.result.best_epoch,
            "test": self.result.test.to_dict(),
            "validation": self.result.val.to_dict(),
            "baselines": {BASELINE: self.result.baseline.to_dict()},
            **raw_metrics(self.result.raw),
            "tasks": [vars(task) for task in self.result.tasks],
        }


def fit_model(
    model: str | None,
    store: str | Path | list[str] | Sequence[Path],
    labels: Path,
    run: Path | None,
    settings: Sequence[str],
    runs: Path,
    overwrite: bool = False,
    config: Path | None = None,
    per_frame: Path | None = None,
) -> Fitted:
    """Fit a model, on one store or on several read as one, with a progress bar.

    ``config`` is a best.json of `pipeline tune`: its model, if none is given, and its settings.

    Raises
    ------
    StoreError, LabelError, ConfigError, SplitError, ModelError, RunError, FrameWriteError
    """
    best = read_best(config) if config else None
    model = model or (best.model if best else FitConfig().model)
    wanted = [*(best.overrides() if best else []), *settings]
    chosen = apply_overrides(FitConfig(model=model), wanted)
    if not labels.exists():
        raise LabelError(
            f"{labels}: no such file; a CSV with the columns clip,score is needed to fit",
            "write one line for each clip of the store, or name the file with --labels",
        )
    target = run or runs / f"{model}-{datetime.now():%Y%m%d-%H%M%S}"
    # Told once there is something to go on with, and not before a fault of the labels.
    where = iter([] if run else [f"run: {target}; interrupted, it goes on if given --run {target}"])
    take = None if per_frame is None else csv_writer(per_frame)
    again = f"what was finished is kept, the same command with --run {target} goes on from there"
    # More threads make nets that read features slower, and change the last bits (as in evaluate).
    pictures = models.pictures(chosen.model, chosen.model_options)
    threads = nullcontext() if pictures else one_thread()
    with threads, interrupted(again), console.epoch_progress(chosen.train.epochs) as epoch:

        def progress(row: dict[str, float]) -> None:
            for line in where:
                console.note(line)
            epoch(row)

        result = run_fit(
            store, labels, target, chosen, console.note, progress, overwrite=overwrite, take=take
        )
    if best:
        split = pd.read_csv(target / "split.csv", dtype=str)
        told = optimism(split.loc[split["part"] == "test", "clip"].tolist(), best.tuned_on)
        if told:
            console.warn(told)
    return Fitted(result, chosen)


def show_fit(fitted: Fitted) -> None:
    """Print the held-out figures with their intervals, and what they allow to say."""
    result, name = fitted.result, fitted.config.model
    rows = [_row(name, result.test), _row("time-averaged ridge", result.baseline)]
    columns = ["held-out clips", "SRC", "95 % interval", "PC", "MAE", "RMSE", "n"]
    console.table("", columns, rows)
    if result.tasks:
        console.table("beside the score", list(COLUMNS), tasks_rows({name: result.tasks}))
    if result.raw is not None:
        console.result(
            f"Scores relative to their subset ({fitted.config.normalise}), by the training clips. "
            "The same predictions against the scores as they are:"
        )
        named = zip((name, "time-averaged ridge"), result.raw, strict=True)
        raw = [[*_row(*row)[:4], row[1].n] for row in named]
        console.table("", ["raw scores", *columns[1:4], "n"], raw)
    if result.epochs:
        epochs = f"epoch {result.best_epoch} of {len(result.epochs)}"
        console.result(f"{epochs}, chosen on validation clips")
    if math.isnan(result.test.src_low):
        console.result("No rank correlation: all predictions, or all labels, are the same.")
    elif result.test.src_low > 0 and result.leaks:
        console.result("The ranking is better than chance, on people some of whom the model knows.")
    elif result.test.src_low > 0:
        console.result("The ranking is better than chance on people that the model has not seen.")
    else:
        console.result("The interval holds 0: these clips do not show that the model ranks at all.")
    console.result(f"run: {result.run_dir}")


def _row(name: str, metrics: Metrics) -> list[object]:
    span = f"{metrics.src_low:.3f} to {metrics.src_high:.3f}"
    values = (metrics.src, metrics.pc, metrics.mae, metrics.rmse)
    src, *rest = ("undefined" if math.isnan(value) else f"{value:.3f}" for value in values)
    return [name, src, "undefined" if math.isnan(metrics.src_low) else span, *rest, metrics.n]
