"""AU: a number for every frame from that frame's features, tested on persons held out.

Source: the task on which MDR was tested (Song and others, ICPR 2020, Table I): intensities of
facial action units, ICC(3,1) and MSE over the frames of persons that were not learnt from. The
regressors are ours: theirs, HG-HMR, is a heat map regression on pixels.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy.linalg import LinAlgWarning
from sklearn.compose import TransformedTargetRegressor
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import Ridge
from sklearn.model_selection import GridSearchCV, GroupKFold
from sklearn.neural_network import MLPRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import store
from stages.fit.agreement import Agreement, agree
from stages.fit.au_inputs import AuConfig, frame_vectors, frames_loader, what_to_read
from stages.fit.dynamics.features import keep_generator
from stages.fit.grouping import deal_persons, persons_without_labels
from stages.fit.models.base import Description, source_of
from stages.fit.provenance import StorePath, provenance_of_frames, versions
from stages.fit.run_files import AU_RESULT, FEATURES, PROVENANCE, write_json
from stages.fit.spans import (
    ClipSpan,
    clip_spans,
)
from stages.fit.track_heads import Head, head_of, save_heads
from stages.fit.whole_folder import check_absent, whole_folder
from store.companion import ABOUT, Companion, open_companion, write_companion
from store.errors import FacepipeError
from store.tables import write_csv
from store.tracks import import_tracks

FloatArray = npt.NDArray[np.float64]
SUMMARY = "Ridge or a small network for each label track (action units), frame by frame."
AGREEMENT, PREDICTIONS, TRACKS = "agreement.csv", "predictions", "tracks"
ALPHAS = (1e0, 1e1, 1e2, 1e3, 1e4, 1e5)
INNER_FOLDS = 3


class TracksError(FacepipeError, ValueError):
    """Label tracks that nothing can be learnt from."""


def describe() -> Description:
    """Return what the model is, as models.describe does for the networks."""
    return Description("au", SUMMARY, source_of(__doc__ or ""))


@dataclass(frozen=True)
class AuResult:
    """What a fit came to: agreement of every track on persons held out.

    ``mean_icc`` and ``mean_mse`` are those of the tracks, as Table I has them.
    """

    run_dir: Path
    tracks: dict[str, Agreement]
    mean_icc: float
    mean_mse: float

    def to_dict(self) -> dict[str, Any]:
        """As JSON types."""
        return {
            "run": str(self.run_dir),
            "model": "au",
            "tracks": {name: found.to_dict() for name, found in self.tracks.items()},
            **{
                name: None if np.isnan(value) else value
                for name, value in (("mean_icc", self.mean_icc), ("mean_mse", self.mean_mse))
            },
        }

    def table(self) -> tuple[list[str], list[list[object]], list[str]]:
        """Columns, rows and sentences, as they are shown."""
        columns = [
            "held-out persons",
            "ICC(3,1)",
            "95 % interval",
            "MSE",
            "95 % interval",
            "frames",
        ]
        rows: list[list[object]] = [
            [
                name,
                f"{a.icc:.3f}",
                f"{a.icc_low:.3f} to {a.icc_high:.3f}",
                f"{a.mse:.3f}",
                f"{a.mse_low:.3f} to {a.mse_high:.3f}",
                a.n,
            ]
            for name, a in self.tracks.items()
        ]
        rows.append(["mean", f"{self.mean_icc:.3f}", "", f"{self.mean_mse:.3f}", "", ""])
        above = [name for name, a in self.tracks.items() if a.icc_low > 0]
        said = f"{len(above)} of {len(self.tracks)} tracks are predicted better than by chance."
        return columns, rows, [said]


@dataclass(frozen=True)
class _Frames:
    """Frames of all labelled clips: (n, C) float32, (n, D) labels, clip of each, row in store."""

    x: npt.NDArray[np.float32]
    y: FloatArray
    clip: npt.NDArray[np.intp]
    row: npt.NDArray[np.int64]


def fit_au(
    store_path: StorePath,
    labels: Path,
    run_dir: Path,
    config: AuConfig,
    echo: Callable[[str], None] = lambda _: None,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> AuResult:
    """Learn label tracks frame by frame and measure them on persons held out.

    Parameters
    ----------
    store_path : path, or sequence of Path
    labels : Path
        Files of label tracks (see store/tracks.py), or what `pipeline store tracks` made.
    run_dir : Path
        Must not exist. Gets au.json, agreement.csv, predictions (an array beside the store, of
        every frame by a regressor that has not seen its person), and the regressors of all labelled
        frames, which `pipeline score` applies to new clips.
    config : AuConfig
    echo, progress : callable
        Get what there is to say, and how many folds are done, of how many.

    Raises
    ------
    StoreError, PersonsError, RunError, MissingFeaturesError, TracksError
    """
    source = store.open(store_path)
    check_absent(run_dir)
    with whole_folder(run_dir) as folder:
        tracks = _tracks(labels, source, folder, config, echo)
        spans = _labelled(source, tracks)
        group, sentence = persons_without_labels(config.group, source, spans, config.persons)
        echo(sentence)
        folds = deal_persons(group, config.folds)
        read = what_to_read(source, spans, config, echo)
        frames = _frames(source, spans, tracks, config, read)
        prediction = _cross_validate(frames, folds, group, config, progress)
        person = np.asarray(group)[frames.clip].tolist()
        found = {
            name: agree(
                prediction[:, k], frames.y[:, k], person, samples=config.bootstrap, seed=config.seed
            )
            for k, name in enumerate(tracks.columns)
        }
        mean = [float(np.nanmean([vars(a)[key] for a in found.values()])) for key in ("icc", "mse")]
        result = AuResult(run_dir, found, *mean)
        about = {
            "group": sentence,
            "versions": versions(),
            "config": config.model_dump(mode="json"),
            "columns": list(tracks.columns),
            "read": read,
        }
        write_json(folder / AU_RESULT, {**result.to_dict(), **about})
        rows = [{"track": name, **vars(a)} for name, a in found.items()]
        write_csv(pd.DataFrame(rows), folder / AGREEMENT)
        pieces = _pieces(frames, prediction, spans)
        write_companion(folder / PREDICTIONS, source, "au", tracks.columns, pieces)
        everything = np.flatnonzero(_thinned(frames.clip, config.frames))
        person_of = np.unique(np.asarray(group), return_inverse=True)[1][frames.clip]
        save_heads(folder, _heads(frames, everything, person_of, config))
        if config.features is not None:
            keep_generator(config.features, folder / FEATURES)
        write_json(folder / PROVENANCE, provenance_of_frames(source, config.stream))
    return result


def _tracks(
    labels: Path, source: Any, folder: Path, config: AuConfig, echo: Callable[[str], None]
) -> Companion:
    """Open the tracks, or import them into the run's folder."""
    if (labels / ABOUT).is_file():
        return open_companion(labels)
    if not labels.exists():
        raise TracksError(
            f"{labels}: expected files of label tracks, got nothing of that name",
            "name with --labels a folder of CSV files such as OpenFace's, with AU01_r, AU02_r, ...",
        )
    made = import_tracks(
        labels, source, folder / TRACKS, columns=config.columns, missing=config.missing
    )
    for note in made.notes:
        echo(note)
    echo(f"{len(made.companion.columns)} tracks of {made.clips} clips, {made.frames} frames")
    return made.companion


def _labelled(source: Any, tracks: Companion) -> list[ClipSpan]:
    """Clips that show a face in a frame that has a label."""
    spans = list(clip_spans(source).values())
    tracks.check(source, 0)
    spans = [span for span in spans if span.start + span.frames <= tracks.rows]
    known = [s for s in spans if np.isfinite(tracks.read(s.start, s.start + s.frames)).any()]
    if len(known) < 2:
        raise TracksError(
            f"{tracks.folder}: labels {len(known)} clips of the store that show a face",
            "at least two, of two persons, are needed",
        )
    return known


def _frames(
    source: Any,
    spans: list[ClipSpan],
    tracks: Companion,
    config: AuConfig,
    read: str,
) -> _Frames:
    """Read the labelled frames with a face of all clips."""
    loader = frames_loader(source, spans, config)
    place = {span.clip: k for k, span in enumerate(spans)}
    x, y, clip_of, row_of = [], [], [], []
    for clip in loader.iter_clips():
        k = place[clip.clip]
        span = spans[k]
        label = tracks.read(span.start, span.start + span.frames).astype(np.float64)
        used = np.flatnonzero(clip.valid & np.isfinite(label).any(axis=1))
        if not len(used):
            continue
        x.append(frame_vectors(clip, read, loader.extra_width, config.relative)[used])
        y.append(label[used])
        clip_of.append(np.full(len(used), k))
        row_of.append(span.start + used)
    return _Frames(*(np.concatenate(part) for part in (x, y, clip_of, row_of)))


def _cross_validate(
    frames: _Frames,
    folds: Sequence[npt.NDArray[np.intp]],
    group: Sequence[str],
    config: AuConfig,
    progress: Callable[[int, int], None],
) -> FloatArray:
    """Predict every frame by regressors that have not seen its person: (n, D)."""
    prediction = np.full(frames.y.shape, np.nan)
    person = np.unique(np.asarray(group), return_inverse=True)[1][frames.clip]
    thin = _thinned(frames.clip, config.frames)
    for done, tested in enumerate(folds):
        progress(done, len(folds))
        test = np.isin(frames.clip, tested)
        for head in _heads(frames, np.flatnonzero(thin & ~test), person, config):
            prediction[np.ix_(test, head.columns)] = head(frames.x[test])
    return prediction


def _heads(
    frames: _Frames, learnt: npt.NDArray[np.intp], person: npt.NDArray[np.intp], config: AuConfig
) -> list[Head]:
    """Regressors of all tracks, from the frames ``learnt``."""
    heads = []
    known = np.isfinite(frames.y[learnt])
    # Tracks that are known in the same frames are learnt together.
    for pattern in np.unique(known, axis=1).T:
        columns = np.flatnonzero((known == pattern[:, None]).all(axis=0))
        rows = learnt[pattern]
        if len(rows) < 2:
            continue
        target = frames.y[np.ix_(rows, columns)]
        model = _regressor(config, person[rows])
        with warnings.catch_warnings():  # the network is to stop where it is told to
            warnings.simplefilter("ignore", ConvergenceWarning)
            warnings.simplefilter("ignore", LinAlgWarning)  # of strengths that are tried, not taken
            model.fit(frames.x[rows], target)
        heads.append(head_of(model, columns, target))
    return heads


def _thinned(clip: npt.NDArray[np.intp], most: int) -> npt.NDArray[np.bool_]:
    """At most so many frames of each clip, evenly spaced: (n,) bool."""
    kept = np.zeros(len(clip), np.bool_)
    for k in np.unique(clip):
        places = np.flatnonzero(clip == k)
        kept[places[np.unique(np.linspace(0, len(places) - 1, most).round().astype(int))]] = True
    return kept


def _regressor(config: AuConfig, person: npt.NDArray[np.intp]) -> Any:
    """Return the regressor, standardised on both sides; ``person`` of each frame to be learnt."""
    if config.regressor == "network":
        inner: Any = MLPRegressor(
            hidden_layer_sizes=(config.hidden,),
            alpha=config.weight_decay,
            max_iter=config.epochs,
            batch_size=min(128, len(person)),
            n_iter_no_change=config.epochs,
            random_state=config.seed,
        )
    else:
        inner = Ridge(ALPHAS[2], solver="cholesky")
        persons = np.unique(person)
        if len(persons) > 1:
            splits = GroupKFold(min(INNER_FOLDS, len(persons))).split(person, groups=person)
            inner = GridSearchCV(
                inner, {"alpha": ALPHAS}, scoring="neg_mean_squared_error", cv=list(splits)
            )
    scaled = TransformedTargetRegressor(inner, transformer=StandardScaler())
    return make_pipeline(StandardScaler(), scaled)


def _pieces(
    frames: _Frames, prediction: FloatArray, spans: Sequence[ClipSpan]
) -> Iterator[tuple[int, FloatArray]]:
    """Predictions clip by clip in the order of rows; NaN where there is none."""
    for k in np.argsort([span.start for span in spans]):
        here = frames.clip == k
        block = np.full((spans[k].frames, prediction.shape[1]), np.nan)
        block[frames.row[here] - spans[k].start] = prediction[here]
        yield spans[k].start, block
