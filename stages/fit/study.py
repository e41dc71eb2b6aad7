"""The engine behind `evaluate` and `ablate`: every contestant in every fold, resumable."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

import store
from stages.fit.contestants import (
    Contestant,
    attribute_columns,
    attribute_ridge,
    attribute_table,
)
from stages.fit.fitting import predict_scores, refit_network, shuffle_frames, train_network
from stages.fit.folds import inner_split
from stages.fit.grouping import GroupBy, Grouping, find_groups
from stages.fit.labels import Labels, read_labels
from stages.fit.loader import Budget, ClipLoader
from stages.fit.pooled import PooledRegressor
from stages.fit.run_folder import make_loader
from stages.fit.spans import clip_spans
from stages.fit.targets import Normalise, Target
from stages.fit.trainer import LabelScale
from store.errors import FacepipeError

FloatArray = npt.NDArray[np.float64]
Echo = Callable[[str], None]


@dataclass(frozen=True)
class Design:
    """How contestants are measured: everything but the contestants.

    Attributes
    ----------
    store : tuple of Path
        One store, or several that are read as one.
    labels : Path
    folds, repeats, seed : int
    group : "person", "clip" or "auto"
        What is kept together: the labels' person column, each clip by itself, or the persons that
        clustering finds.
    normalise : "none", "zscore" or "rank"
        See targets.py.
    val : float
        Share of an outer fold's training clips that chooses the epoch.
    attributes : tuple of str
        Columns for the attributes-only baseline; empty: those of well-known names.
    """

    store: tuple[Path, ...]
    labels: Path
    folds: int = 5
    repeats: int = 5
    group: GroupBy = "auto"
    normalise: Normalise = "none"
    val: float = 0.15
    seed: int = 0
    attributes: tuple[str, ...] = ()


class Study:
    """A store and its labels, divided into folds; fits contestants in them.

    Parameters
    ----------
    design : Design
    grouping : Grouping, optional
        What another process has found already; left out, persons are looked for.

    Raises
    ------
    StoreError, LabelError, SplitError, PersonsError, MissingFeaturesError
    """

    def __init__(self, design: Design, grouping: Grouping | None = None) -> None:
        self.design = design
        paths = design.store
        self.source = store.open(paths[0] if len(paths) == 1 else list(paths))
        self.spans = clip_spans(self.source)
        self.labels: Labels = read_labels(design.labels, self.spans)
        self.table = self.labels.frame
        self.score: FloatArray = self.table["score"].to_numpy(np.float64)
        self.clips: list[str] = self.table["clip"].tolist()
        self.subset: list[str] = self.table["subset"].tolist()
        self.attributes = attribute_columns(self.table, design.attributes)
        self.grouping = grouping or find_groups(
            design.group,
            self.source,
            [self.spans[clip] for clip in self.clips],
            self.labels,
            (design.folds, design.repeats, design.seed),
        )
        self._held: tuple[object, ClipLoader] | None = None

    def fingerprint(self) -> dict[str, Any]:
        """Everything about data and folds that predictions hang on, as JSON types."""
        frames = [(clip, self.spans[clip].frames) for clip in self.clips]
        folds = self.grouping.folds
        return {
            "folds": self.design.folds,
            "repeats": self.design.repeats,
            "group": self.design.group,
            "normalise": self.design.normalise,
            "val": self.design.val,
            "seed": self.design.seed,
            "attributes": self.attributes,
            "labels": self.labels.sha256,
            "pack": dict(self.source.provenance).get("pack", {}),
            "clips": _sha256(frames),
            "fold of each clip": _sha256(folds.tolist()),
        }

    def target(self, repeat: int, fold: int) -> FloatArray:
        """Return what is to be predicted in one fold, by its training clips' scale: (n,)."""
        seen = self.grouping.folds[repeat] != fold
        subset = np.asarray(self.subset, dtype=str)
        scale = Target(self.design.normalise, self.score[seen], subset[seen].tolist())
        return scale(self.score, self.subset)

    def predict(
        self, contestant: Contestant, repeat: int, fold: int
    ) -> tuple[FloatArray, dict[str, Any]]:
        """Fit on all folds but one and predict that one.

        Nothing of the fold's clips is known to the fit: their labels enter neither the target's
        scale nor the choice of the epoch.

        Returns
        -------
        prediction, details
            (m,) for the clips of the fold in the order of the table; what was chosen on the way.
        """
        test = self.grouping.folds[repeat] == fold
        target = self.target(repeat, fold)
        state = np.random.SeedSequence([self.design.seed, repeat, fold]).generate_state(1)
        seed = int(state[0])
        if contestant.kind == "constant":
            return np.full(int(test.sum()), target[~test].mean()), {}
        if contestant.kind == "attributes":
            columns = attribute_table(self.table, self.attributes)
            ridge = attribute_ridge(self.table, self.attributes)
            ridge.fit(columns[~test], target[~test])
            return np.asarray(ridge.predict(columns[test]), np.float64), {}
        if contestant.kind == "pooled":
            return self._pooled(contestant, target, test, seed), {}
        return self._network(contestant, target, test, seed)

    def _pooled(
        self, contestant: Contestant, target: FloatArray, test: npt.NDArray[np.bool_], seed: int
    ) -> FloatArray:
        config = contestant.config
        read = (config.stream, config.landmarks, config.features, config.fps, config.max_frames)
        key = (*read, contestant.shuffled)
        if self._held is None or self._held[0] != key:  # read once, for all folds
            self._release()
            spans = [self.spans[clip] for clip in self.clips]
            self._held = key, self._loader(contestant, spans, {}, Budget(config.budget))
        loader = self._held[1]
        place = {clip: row for row, clip in enumerate(self.clips)}
        order = [place[span.clip] for span in loader.clips]
        regressor = PooledRegressor(config.model, seed, **config.model_options)
        regressor.fit(
            (c for c in loader.iter_clips() if not test[place[c.clip]]),
            target[[row for row in order if not test[row]]],
        )
        tested = [row for row in order if test[row]]
        prediction = np.full(len(self.clips), np.nan)
        prediction[tested] = regressor.predict(
            c for c in loader.iter_clips() if test[place[c.clip]]
        )
        return prediction[test]

    def _network(
        self, contestant: Contestant, target: FloatArray, test: npt.NDArray[np.bool_], seed: int
    ) -> tuple[FloatArray, dict[str, Any]]:
        self._release()
        config = contestant.config
        rows = np.flatnonzero(~test)
        group = [self.grouping.group[row] for row in rows]
        chooses = inner_split(target[rows], group, self.design.val, seed)
        label = LabelScale.of(target[rows[~chooses]].tolist())
        budget = Budget(config.budget)

        def loader_of(places: npt.NDArray[np.intp]) -> ClipLoader:
            scores = {self.clips[k]: float((target[k] - label.mean) / label.sd) for k in places}
            spans = [self.spans[clip] for clip in scores]
            return self._loader(contestant, spans, scores, budget)

        train_clips, val_clips = loader_of(rows[~chooses]), loader_of(rows[chooses])
        tested = loader_of(np.flatnonzero(test))
        longest = max(loader.longest() for loader in (train_clips, val_clips, tested))
        with one_thread():
            model, options, result = train_network(config, train_clips, val_clips, longest, seed)
            if config.train.refit:
                train_clips.release()
                val_clips.release()
                model = refit_network(config, options, loader_of(rows), result.best_epoch, seed)
            found = predict_scores(model, [tested], label, config)
        clips = [self.clips[k] for k in np.flatnonzero(test)]
        return np.asarray([found[clip] for clip in clips]), {"epoch": result.best_epoch}

    def _loader(
        self, contestant: Contestant, spans: list[Any], scores: dict[str, float], budget: Budget
    ) -> ClipLoader:
        change = shuffle_frames(self.design.seed) if contestant.shuffled else None
        return make_loader(self.source, spans, scores, contestant.config, budget, change)

    def _release(self) -> None:
        if self._held is not None:
            self._held[1].release()
            self._held = None


def _sha256(value: object) -> str:
    return hashlib.sha256(json.dumps(value).encode()).hexdigest()


@contextmanager
def one_thread() -> Iterator[None]:
    """Give torch one thread: more would change the last bits, and folds can run side by side."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


class StudyError(FacepipeError, ValueError):
    """A folder that holds something else, or the folds of another study."""


Task = tuple[Contestant, int, int]


def fold_file(folder: Path, task: Task) -> Path:
    """Where the predictions of one contestant in one fold are kept."""
    contestant, repeat, fold = task
    return folder / "folds" / contestant.slug / f"repeat{repeat}-fold{fold}.json"


def _run_task(study: Study, folder: Path, task: Task) -> None:
    """Predict one fold and keep it; the file appears whole or not at all."""
    prediction, details = study.predict(*task)
    target = fold_file(folder, task)
    target.parent.mkdir(parents=True, exist_ok=True)
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


def _work(folder: Path, task: Task) -> Task:
    assert _worker is not None
    _run_task(_worker, folder, task)
    return task


def run_folds(
    study: Study,
    contestants: Sequence[Contestant],
    folder: Path,
    jobs: int = 1,
    done: Callable[[Task], None] = lambda _: None,
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

    Returns
    -------
    dict of (repeats, n) float64
        Out-of-fold predictions by contestant, in the units of the target.

    Raises
    ------
    StudyError
        What was kept is gone when all is done.
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
        if _kept(study, folder, task) is None:
            todo.append(task)
        else:
            done(task)
    if jobs == 1 or len(todo) < 2:
        for task in todo:
            _run_task(study, folder, task)
            done(task)
    else:
        _in_processes(study, todo, folder, jobs, done)
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
    study: Study, todo: Sequence[Task], folder: Path, jobs: int, done: Callable[[Task], None]
) -> None:
    """Spawn, not fork: torch and the loaders' threads do not survive a fork."""
    with ProcessPoolExecutor(
        min(jobs, len(todo)),
        mp_context=get_context("spawn"),
        initializer=_start_worker,
        initargs=(study.design, study.grouping),
    ) as pool:
        waiting = [pool.submit(_work, folder, task) for task in todo]
        try:
            for future in as_completed(waiting):
                done(future.result())
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
