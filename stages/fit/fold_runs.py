"""Every contestant in every fold, in one process or several; what is done is kept."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from concurrent.futures import as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from stages.fit.contestants import Contestant
from stages.fit.frames import ClipFrames, load_frames, save_frames
from stages.fit.study import FloatArray, Study
from stages.fit.study_pool import study_pool
from store.errors import FacepipeError


class StudyError(FacepipeError, ValueError):
    """A folder that holds something else, or the folds of another study."""


Task = tuple[Contestant, int, int]


def fold_file(folder: Path, task: Task) -> Path:
    """Where the predictions of one contestant in one fold are kept."""
    contestant, repeat, fold = task
    return folder / "folds" / contestant.slug / f"repeat{repeat}-fold{fold}.json"


def frames_file(folder: Path, task: Task) -> Path:
    """Where what a network said of the frames of one fold is kept."""
    return fold_file(folder, task).with_suffix(".npz")


@dataclass(frozen=True)
class Diverged:
    """A fold in which training came to no finite result, and why; its training mean stands in."""

    repeat: int
    fold: int
    message: str


def diverged_folds(study: Study, folder: Path, contestant: Contestant) -> list[Diverged]:
    """Return the folds of a contestant, all done, in which its training diverged."""
    found = []
    for repeat in range(study.design.repeats):
        for fold in range(study.design.folds):
            message = _held(folder, (contestant, repeat, fold)).get("diverged")
            if message is not None:
                found.append(Diverged(repeat, fold, str(message)))
    return found


def _held(folder: Path, task: Task) -> dict[str, Any]:
    """Everything that is kept of a fold but its frames; {} for none, or no whole file."""
    try:
        found = json.loads(fold_file(folder, task).read_text())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _run_task(study: Study, folder: Path, frames: bool, task: Task) -> None:
    """Predict one fold and keep it; each file appears whole or not at all."""
    told: list[ClipFrames] = []
    wanted = frames and task[0].tells_frames
    prediction, details = study.predict(*task, folder, told.append if wanted else None)
    target = fold_file(folder, task)
    target.parent.mkdir(parents=True, exist_ok=True)
    if told:
        save_frames(frames_file(folder, task), told)
    partial = target.with_suffix(f".{os.getpid()}.partial")
    partial.write_text(json.dumps({"prediction": prediction.tolist(), **details}) + "\n")
    os.replace(partial, target)


def _kept(study: Study, folder: Path, task: Task) -> list[float] | None:
    """Predictions that are kept of a fold; None if there are none, or no whole ones."""
    _, repeat, fold = task
    found = _held(folder, task).get("prediction")
    whole = isinstance(found, list) and len(found) == (study.grouping.folds[repeat] == fold).sum()
    return found if whole else None


def run_folds(
    study: Study,
    contestants: Sequence[Contestant],
    folder: Path,
    jobs: int = 1,
    done: Callable[[Task], None] = lambda _: None,
    frames: bool = False,
) -> dict[str, FloatArray]:
    """Predict every clip by every contestant in every repeat; what lies in ``folder`` is kept.

    Parameters
    ----------
    study : Study
    contestants : sequence of Contestant
    folder : Path
    jobs : int
        Processes; the predictions do not depend on it.
    done : callable
        Called after each fold, those done before among them.
    frames : bool
        Keep what networks say of the frames, too, see frames_file; folds that were done without
        are done again.

    Returns
    -------
    dict of (repeats, n) float64
        Out-of-fold predictions by contestant, in the units of the target.

    Raises
    ------
    StudyError
        What was kept is gone when all is done; a process died.
    """
    folds = study.grouping.folds
    tasks = [
        (contestant, repeat, fold)
        for contestant in contestants
        for repeat in range(len(folds))
        for fold in range(study.design.folds)
    ]
    todo = []
    for task in tasks:
        tells = frames and task[0].tells_frames and "diverged" not in _held(folder, task)
        lacks = tells and load_frames(frames_file(folder, task)) is None
        if lacks or _kept(study, folder, task) is None:
            todo.append(task)
        else:
            done(task)
    if jobs == 1 or len(todo) < 2:
        for task in todo:
            _run_task(study, folder, frames, task)
            done(task)
    else:
        _in_processes(study, todo, folder, frames, jobs, done)
    found = {}
    for contestant in contestants:
        table = np.full(folds.shape, np.nan)
        for repeat in range(len(folds)):
            for fold in range(study.design.folds):
                kept = _kept(study, folder, (contestant, repeat, fold))
                if kept is None:
                    raise StudyError(
                        f"{folder}: a fold of {contestant.name} was removed meanwhile",
                        "run the same command again",
                    )
                table[repeat, folds[repeat] == fold] = kept
        found[contestant.name] = table
    return found


def _in_processes(
    study: Study,
    todo: Sequence[Task],
    folder: Path,
    frames: bool,
    jobs: int,
    done: Callable[[Task], None],
) -> None:
    killed = StudyError(
        f"{folder}: a process that fitted a fold was killed, for want of memory most often",
        "run the same command again with fewer --jobs; folds that are done are kept",
    )
    with study_pool(study, min(jobs, len(todo)), killed) as schedule:
        waiting = {schedule(_run_task, folder, frames, task): task for task in todo}
        for future in as_completed(waiting):
            future.result()
            done(waiting[future])
