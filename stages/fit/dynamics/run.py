"""`pipeline fit --model mdr`: learn without labels, test on other persons, write features."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

import store
from stages.fit.dynamics.config import MdrConfig
from stages.fit.dynamics.features import clip_loader, keep_generator, write_features
from stages.fit.dynamics.ranking import FloatArray, ScaleResult, scale_results
from stages.fit.dynamics.training import accuracies, learn, mean_accuracy, new_generator
from stages.fit.grouping import deal_persons, persons_without_labels
from stages.fit.provenance import StorePath, provenance_of_frames, versions
from stages.fit.reproducible import reproducible
from stages.fit.run_files import FEATURES, MDR_RESULT, PROVENANCE, write_json
from stages.fit.spans import ClipSpan, clip_spans
from stages.fit.whole_folder import check_absent, whole_folder
from store.companion import check_free
from store.tables import write_csv

Echo = Callable[[str], None]
Progress = Callable[[dict[str, float]], None]


@dataclass(frozen=True)
class MdrResult:
    """What a fit of MDR came to.

    ``scales``: ranking accuracy of each on held-out persons (pixel form: held-out crops).
    ``clips``, ``persons``: how many were tested. ``epochs``: learnt by the generator that made the
    features. ``features``: their folder; None in pixel form.
    """

    run_dir: Path
    scales: list[ScaleResult]
    clips: int
    persons: int
    epochs: int
    features: Path | None
    held_out: str = "On persons that it has not seen the frames"

    def to_dict(self) -> dict[str, Any]:
        """As JSON types."""
        return {
            "run": str(self.run_dir),
            "model": "mdr",
            "clips": self.clips,
            "persons": self.persons,
            "epochs": self.epochs,
            "features": None if self.features is None else str(self.features),
            "scales": [scale.to_dict() for scale in self.scales],
        }

    def table(self) -> tuple[list[str], list[list[object]], list[str]]:
        """Columns, rows and sentences, as they are shown."""
        columns = ["ranking accuracy", "chance", "MDR", "95 % interval", "the still itself"]
        columns += ["gain of MDR", "RankSVM bound"]
        rows: list[list[object]] = [
            [
                f"T = {s.window}",
                "0.500",
                f"{s.mdr.value:.3f}",
                f"{s.mdr.low:.3f} to {s.mdr.high:.3f}",
                f"{s.still.value:.3f}",
                f"{s.gain.value:+.3f} ({s.gain.low:+.3f} to {s.gain.high:+.3f})",
                f"{s.rank_svm.value:.3f}",
            ]
            for s in self.scales
        ]
        return columns, rows, self._sentences()

    def _sentences(self) -> list[str]:
        above = [str(s.window) for s in self.scales if s.mdr.low > 0.5]
        said = [
            f"{self.held_out} rank better than chance at T = {', '.join(above)}."
            if above
            else f"{self.held_out}: no scale is shown to rank better than chance."
        ]
        better = [str(s.window) for s in self.scales if s.gain.low > 0]
        said.append(
            f"What was learnt adds to the still itself at T = {', '.join(better)}."
            if better
            else "What was learnt is not shown to add to the still itself at any scale."
        )
        if self.features is not None:
            said.append(
                f"features: {self.features} (read as a third stream with --set features=...)"
            )
        return said


def default_features(store_path: StorePath, run_dir: Path) -> Path:
    """Beside one store on this machine, as NAME.mdr; else in the run's folder."""
    one = store_path if isinstance(store_path, str | os.PathLike) else None
    if one is None or "://" in os.fspath(one):
        return run_dir.with_name(f"{run_dir.name}.mdr")
    return Path(os.path.abspath(one)).with_suffix(".mdr")


def fit_mdr(
    store_path: StorePath,
    run_dir: Path,
    config: MdrConfig,
    persons: Path | None = None,
    echo: Echo = lambda _: None,
    progress: Progress | None = None,
) -> MdrResult:
    """Learn MDR on the clips of a store, measure it, and write it beside the store.

    Every fold of persons is tested by a generator that learnt from the others, of which one fold
    chose the epoch. The generator of the features learns from all clips, for the mean of these
    epochs: no label enters it, but the frames of persons that a later fold will hold out do.

    Parameters
    ----------
    store_path : path, or sequence of Path
    run_dir : Path
        Must not exist. Gets mdr.json, config.json's settings within it, and ranking.csv.
    config : MdrConfig
        Of form ``store``.
    persons : Path, optional
        CSV file with the columns clip and person.
    echo, progress : callable
        Get what there is to say, and every epoch of every fold.

    Raises
    ------
    StoreError, PersonsError, RunError, MissingFeaturesError, TrainingError
    """
    source = store.open(store_path)
    check_absent(run_dir)
    target = config.out or default_features(store_path, run_dir)
    check_free(target)
    spans = list(clip_spans(source).values())
    group, sentence = persons_without_labels(config.group, source, spans, persons)
    echo(sentence)
    folds = deal_persons(group, config.folds)
    with whole_folder(run_dir) as folder, reproducible(config.seed):
        table, kept = _cross_validate(source, spans, folds, config, progress)
        results = scale_results(config.windows, table, group, config.bootstrap, config.seed)
        epochs = round(float(np.mean(kept)))
        everything = clip_loader(source, spans, config)
        generator = new_generator(everything, config)
        learn(generator, everything, config, epochs, config.seed, None, progress)
        everything.release()
        about = {"epochs": epochs, "versions": versions()}
        made = write_features(generator, source, config, target, about)
        result = MdrResult(run_dir, results, len(spans), len(set(group)), epochs, made.folder)
        write_json(folder / MDR_RESULT, {**result.to_dict(), **about, "group": sentence,
                                     "config": config.model_dump(mode="json")})  # fmt: skip
        keep_generator(os.fspath(made.folder), folder / FEATURES)
        write_json(folder / PROVENANCE, provenance_of_frames(source, config.stream))
        write_ranking(folder / "ranking.csv", spans, group, table, config.windows)
    return result


def _cross_validate(
    source: Any,
    spans: list[ClipSpan],
    folds: list[npt.NDArray[np.intp]],
    config: MdrConfig,
    progress: Progress | None,
) -> tuple[dict[str, FloatArray], list[int]]:
    """Test every clip by a generator that has not seen its person.

    Returns (n, scales) accuracies by ``mdr``, ``still`` and ``rank_svm``, and the epochs kept.
    """
    names = ("mdr", "still", "rank_svm")
    table = {name: np.full((len(spans), len(config.windows)), np.nan) for name in names}
    place = {span.clip: k for k, span in enumerate(spans)}
    kept = []
    for number, tested in enumerate(folds):
        # With two folds nobody is left to choose an epoch: all of them are learnt.
        choosing = folds[(number + 1) % len(folds)].tolist() if len(folds) > 2 else []
        away = {*tested, *choosing}
        train = clip_loader(source, [s for k, s in enumerate(spans) if k not in away], config)
        judge = None
        if len(choosing):
            others = clip_loader(source, [spans[k] for k in choosing], config)
            judge = lambda g, c=others: mean_accuracy(g, c, config)  # noqa: E731
        generator = new_generator(train, config)
        kept.append(learn(generator, train, config, config.epochs, config.seed, judge, progress))
        test = clip_loader(source, [spans[k] for k in tested], config)
        for clip, of in accuracies(generator, test.iter_clips(), config, rivals=True).items():
            for name, values in of.items():
                table[name][place[clip]] = values
    return table, kept


def write_ranking(
    file: Path,
    spans: Sequence[ClipSpan],
    group: Sequence[str],
    table: dict[str, FloatArray],
    windows: Sequence[int],
) -> None:
    """Write every clip's accuracy at every scale."""
    rows = [
        {"clip": span.clip, "group": group[k], "window": window}
        | {name: values[k, column] for name, values in table.items()}
        for k, span in enumerate(spans)
        for column, window in enumerate(windows)
    ]
    write_csv(pd.DataFrame(rows), file, float_format="%.6g")
