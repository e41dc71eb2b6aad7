"""`pipeline fit --model mdr|au`: what is learnt of single frames, and its result as a table."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline import console

if TYPE_CHECKING:
    from stages.fit.action_units import AuResult
    from stages.fit.dynamics.run import MdrResult


def fit_frames(
    model: str,
    store: str | Sequence[Path] | list[str],
    labels: Path,
    run: Path | None,
    settings: Sequence[str],
    runs: Path,
    json: bool,
) -> None:
    """Fit ``mdr`` or ``au`` and show what it came to.

    Raises
    ------
    StoreError, ConfigError, PersonsError, RunError
    """
    target = run or runs / f"{model}-{datetime.now():%Y%m%d-%H%M%S}"
    if model == "mdr":
        told: MdrResult | AuResult = _mdr(store, labels, target, settings)
    else:
        told = _au(store, labels, target, settings)
    if json:
        console.emit(told.to_dict())
        return
    columns, rows, sentences = told.table()
    console.table("", columns, rows)
    for sentence in [*sentences, f"run: {told.run_dir}"]:
        console.say(sentence)


def _mdr(store: Any, labels: Path, target: Path, settings: Sequence[str]) -> MdrResult:
    from stages.fit.config import read_settings
    from stages.fit.dynamics.config import MdrConfig

    config = read_settings(MdrConfig, settings)
    if config.form == "pixel":
        from stages.fit.dynamics.pixels import fit_pixels as fit
    else:
        from stages.fit.dynamics.run import fit_mdr as fit
    passes = 0
    with console.fold_progress("training") as bar:

        def progress(row: dict[str, float]) -> None:
            nonlocal passes
            passes += row["epoch"] == 1
            bar(f"training, pass {passes}", int(row["epoch"]), config.epochs)

        return fit(store, target, config, labels, console.note, progress)


def _au(store: Any, labels: Path, target: Path, settings: Sequence[str]) -> AuResult:
    from stages.fit.action_units import fit_au
    from stages.fit.au_inputs import AuConfig
    from stages.fit.config import read_settings

    config = read_settings(AuConfig, settings)
    with console.fold_progress() as bar:
        return fit_au(store, labels, target, config, console.note, partial(bar, "folds"))
