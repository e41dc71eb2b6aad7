"""Every contestant in every fold, in one process or several; what is done is kept."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from concurrent.futures import as_completed
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pebble

from stages.fit.contestants import Contestant
from stages.fit.frames import ClipFrames, load_frames, save_frames
from stages.fit.grouping import Grouping
from stages.fit.study import Design, FloatArray, Study
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


def _run_task(study: Study, folder: Path, frames: bool, task: Task) -> None:
    """Predict one fold and keep it; each file appears whole or not at all."""
    told: list[ClipFrames] = []
    wanted = frames and task[0].tells_frames
    prediction, details = study.predict(*task, folder, told.append if wanted else None)
    target = fold_file(folder, task)
    target.parent.mkdir(parents=True, exist_ok=True)
    if wanted:
        save_frames(frames_file(folder, task), told)
    partial = target.with_suffix(f".{os.getpid()}.partial")
    partial.write_text(json.dumps({"prediction": prediction.tolist(), **details}) + "\n")
    os.replace(partial, target)


def _kept(study: Study, folder: Path, task: Task) -> list[float] | None:
    """Predictions that are kept of a fold; None if there are none, or no whole ones."""
    _, repeat, fold = task
    try:
        found = json.loads(fold_file(folder, task).read_text())["prediction"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    whole = isinstance(found, list) and len(found) == (study.grouping.folds[repeat] == fold).sum()
    return found if whole else None


_worker: Study | None = None


def _start_worker(design: Design, grouping: Grouping) -> None:
    global _worker
    _worker = Study(design, grouping)


def _work(folder: Path, frames: bool, task: Task) -> Task:
    assert _worker is not None
    _run_task(_worker, folder, frames, task)
    return task


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
        lacks = frames and task[0].tells_frames and load_frames(frames_file(folder, task)) is None
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
    """Spawn, not fork: torch and the loaders' threads do not survive a fork."""
    with pebble.ProcessPool(
        min(jobs, len(todo)),
        context=get_context("spawn"),
        initializer=_start_worker,
        initargs=(study.design, study.grouping),
    ) as pool:
        waiting = [pool.schedule(_work, args=(folder, frames, task)) for task in todo]
        try:
            for future in as_completed(waiting):
                done(future.result())
        except pebble.ProcessExpired:
            pool.stop()
            raise StudyError(
                f"{folder}: a process that fitted a fold was killed, for want of memory most often",
                "run the same command again with fewer --jobs; folds that are done are kept",
            ) from None
        except BaseException:
            pool.stop()
            raise
