"""`pipeline fit`: settings from the command line, a run folder by date, the result as a table."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from pipeline import console
from stages.fit.config import FitConfig, apply_overrides
from stages.fit.labels import LabelError
from stages.fit.metrics import Metrics
from stages.fit.run import BASELINE, FitResult
from stages.fit.run import fit as run_fit
from stages.fit.tasks_report import COLUMNS, tasks_rows


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
            "tasks": [vars(task) for task in self.result.tasks],
        }


def fit_model(
    model: str,
    store: str | Path | list[str] | Sequence[Path],
    labels: Path,
    run: Path | None,
    settings: Sequence[str],
    runs: Path,
    overwrite: bool = False,
) -> Fitted:
    """Fit a model, on one store or on several read as one, with a progress bar.

    Raises
    ------
    StoreError, LabelError, ConfigError, SplitError, ModelError, RunError
    """
    config = apply_overrides(FitConfig(model=model), settings)
    if not labels.is_file():
        raise LabelError(
            f"{labels}: no such file; a CSV with the columns clip,score is needed to fit",
            "write one line for each clip of the store, or name the file with --labels",
        )
    target = run or runs / f"{model}-{datetime.now():%Y%m%d-%H%M%S}"
    with console.epoch_progress(config.train.epochs) as epoch:
        result = run_fit(store, labels, target, config, console.note, epoch, overwrite=overwrite)
    return Fitted(result, config)


def show_fit(fitted: Fitted) -> None:
    """Print the held-out figures with their intervals, and what they allow to say."""
    result, name = fitted.result, fitted.config.model
    rows = [_row(name, result.test), _row("time-averaged ridge", result.baseline)]
    columns = ["held-out clips", "SRC", "95 % interval", "PC", "MAE", "RMSE", "n"]
    console.table("", columns, rows)
    if result.tasks:
        console.table("beside the score", list(COLUMNS), tasks_rows({name: result.tasks}))
    console.result(f"epoch {result.best_epoch} of {len(result.epochs)}, chosen on validation clips")
    if math.isnan(result.test.src_low):
        console.result("No rank correlation: all predictions, or all labels, are the same.")
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
