"""A store and its labels, divided into folds, and a contestant fitted in one of them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

import store
from stages.fit import models
from stages.fit.contestants import (
    Contestant,
    attribute_columns,
    attribute_ridge,
    attribute_table,
)
from stages.fit.fitting import (
    predict_classes,
    predict_scores,
    refit_network,
    shuffle_frames,
    train_network,
)
from stages.fit.folds import inner_split
from stages.fit.frames import ClipFrames, FrameSink
from stages.fit.grouping import GroupBy, Grouping, find_groups
from stages.fit.guard import TrainingError
from stages.fit.labels import Labels, read_labels, unscaled
from stages.fit.loader import Budget, ClipLoader
from stages.fit.pooled_models import create, words
from stages.fit.reproducible import one_thread
from stages.fit.run_folder import make_loader
from stages.fit.search import find_settings
from stages.fit.spans import clip_spans
from stages.fit.targets import Normalise, Target
from stages.fit.tasks import attributes_of
from stages.fit.trainer import LabelScale

FloatArray = npt.NDArray[np.float64]
BoolArray = npt.NDArray[np.bool_]
Echo = Callable[[str], None]
Take = Callable[[ClipFrames], None]


@dataclass(frozen=True)
class Design:
    """How contestants are measured: everything but the contestants.

    Attributes
    ----------
    store : tuple of Path or str
        One store, or several that are read as one; a URL as str.
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

    store: tuple[str | Path, ...]
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
        self.attributes, constant = attribute_columns(self.table, design.attributes)
        self.notes = [*self.labels.notes, *unscaled(design.normalise, self.labels)]
        if constant:
            one_value = (
                "has one value only and is" if len(constant) == 1 else "have one value each and are"
            )
            self.notes.append(f"attributes: {', '.join(constant)} {one_value} left out")
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
        told = dict(self.source.provenance)
        hashes = self.source.iter_rows(("clip", "rows_sha256"), where="track = 0")
        chosen = set(self.clips)
        rows = sorted(found for found in hashes if found[0] in chosen)
        folds = self.grouping.folds
        layers = {name: layer.provenance for name, layer in self.source.layers.items()}
        return {
            **({"layers": layers} if layers else {}),
            "folds": self.design.folds,
            "repeats": self.design.repeats,
            "group": self.design.group,
            "normalise": self.design.normalise,
            "val": self.design.val,
            "seed": self.design.seed,
            "attributes": self.attributes,
            "labels": self.labels.sha256,
            "pack": told.get("pack", {}),
            "recipe": told.get("recipe", {}),
            "clips": _sha256([self.clips, rows]),
            "fold of each clip": _sha256(folds.tolist()),
        }

    def target(self, repeat: int, fold: int) -> FloatArray:
        """Return what is to be predicted in one fold, by its training clips' scale: (n,)."""
        return self.target_by(self.grouping.folds[repeat] != fold)

    def target_by(self, seen: BoolArray) -> FloatArray:
        """Return what is to be predicted by the scale of the clips ``seen`` (n,): (n,)."""
        subset = np.asarray(self.subset, dtype=str)
        scale = Target(self.design.normalise, self.score[seen], subset[seen].tolist())
        return scale(self.score, self.subset)

    def predict(
        self,
        contestant: Contestant,
        repeat: int,
        fold: int,
        folder: Path | None = None,
        take: Take | None = None,
    ) -> tuple[FloatArray, dict[str, Any]]:
        """Fit on all folds but one and predict that one.

        Nothing of the fold's clips is known to the fit: their labels enter neither the target's
        scale nor the choice of the epoch and of settings. A search is kept below ``folder``.
        ``take`` gets what a network says of the frames of the fold's clips.

        Returns
        -------
        prediction, details
            (m,) for the clips of the fold in the order of the table; what was chosen on the way.
            The training mean, and ``diverged`` with the reason, where training came to no finite
            result: the same would happen every time, and the other folds are worth having.
        """
        test = self.grouping.folds[repeat] == fold
        state = np.random.SeedSequence([self.design.seed, repeat, fold]).generate_state(1)
        seed = int(state[0])
        chosen: dict[str, Any] = {}
        if contestant.search is not None:
            file = folder and folder / "searches" / contestant.slug / f"{repeat}-{fold}.sqlite"
            found = find_settings(self, contestant, ~test, seed, file)
            contestant, chosen = contestant.with_settings(found.settings), found.to_dict()
        try:
            prediction, details = self.fit_predict(contestant, ~test, test, seed, take)
        except TrainingError as error:
            mean = float(self.target(repeat, fold)[~test].mean())
            prediction, details = np.full(int(test.sum()), mean), {"diverged": str(error)}
        return prediction, details | chosen

    def fit_predict(
        self,
        contestant: Contestant,
        seen: BoolArray,
        test: BoolArray,
        seed: int,
        take: Take | None = None,
    ) -> tuple[FloatArray, dict[str, Any]]:
        """Fit on the clips ``seen`` and predict those of ``test``, both (n,); see predict."""
        target = self.target_by(seen)
        if contestant.kind == "constant":
            return np.full(int(test.sum()), target[seen].mean()), {}
        if contestant.kind == "attributes":
            columns = attribute_table(self.table, self.attributes)
            ridge = attribute_ridge(self.table, self.attributes)
            ridge.fit(columns[seen], target[seen])
            return np.asarray(ridge.predict(columns[test]), np.float64), {}
        if contestant.kind == "pooled":
            return self._pooled(contestant, target, seen, test, seed), {}
        return self._network(contestant, target, seen, test, seed, take)

    def _pooled(
        self,
        contestant: Contestant,
        target: FloatArray,
        seen: BoolArray,
        test: BoolArray,
        seed: int,
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
        regressor = create(config.model, seed, **config.model_options)
        train = [row for row in order if seen[row]]
        column = words(regressor, self.table)
        regressor.fit(
            (c for c in loader.iter_clips() if seen[place[c.clip]]),
            target[train],
            column and [column[row] for row in train],
            [self.grouping.group[row] for row in train],
        )
        tested = [row for row in order if test[row]]
        prediction = np.full(len(self.clips), np.nan)
        prediction[tested] = regressor.predict(
            c for c in loader.iter_clips() if test[place[c.clip]]
        )
        return prediction[test]

    def _network(
        self,
        contestant: Contestant,
        target: FloatArray,
        seen: BoolArray,
        test: BoolArray,
        seed: int,
        take: Take | None,
    ) -> tuple[FloatArray, dict[str, Any]]:
        self._release()
        config = contestant.config
        rows = np.flatnonzero(seen)
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
            frames = None if take is None else FrameSink(self.source, self.spans, take)
            found = predict_scores(model, [tested], label, config, frames)
            told = predict_classes(model, tested, config)
        clips = [self.clips[k] for k in np.flatnonzero(test)]
        details: dict[str, Any] = {"epoch": result.best_epoch}
        if told:
            details["classes"] = {task: [by[c] for c in clips] for task, by in told.items()}
        return np.asarray([found[clip] for clip in clips]), details

    def _loader(
        self, contestant: Contestant, spans: list[Any], scores: dict[str, float], budget: Budget
    ) -> ClipLoader:
        words = attributes_of(self.table) if models.has_tasks(contestant.config.model) else None
        change = shuffle_frames(self.design.seed) if contestant.shuffled else None
        return make_loader(self.source, spans, scores, contestant.config, budget, change, words)

    def _release(self) -> None:
        if self._held is not None:
            self._held[1].release()
            self._held = None


def _sha256(value: object) -> str:
    return hashlib.sha256(json.dumps(value).encode()).hexdigest()
