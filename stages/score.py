"""New clips -> scores: the one place that uses both stages."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pandas as pd

import store
from stages.extract.device import Precision
from stages.extract.inputs import find_clips
from stages.extract.layer_run import add_layer, pack_of
from stages.extract.layers import LayerOptions
from stages.extract.run import ExtractOptions, Summary, extract
from stages.fit.frame_run import load_scorer
from stages.fit.frames import FrameTable, csv_writer
from store.errors import FacepipeError
from store.schema import ClipRecord, Status
from store.tables import write_csv

ABOUT_CLIP = ["status", "frames", "valid_frames", "duration_s", "message"]


class ScoreError(FacepipeError, OSError):
    """The table of scores cannot be written."""

    __str__ = Exception.__str__


@dataclass(frozen=True)
class ScoreResult:
    """Where the scores are, the table itself, what it tells of a clip, and the extraction."""

    out: Path
    table: pd.DataFrame
    columns: tuple[str, ...]
    summary: Summary


def score(
    options: ExtractOptions,
    run_dir: Path,
    out: Path,
    keep_store: bool,
    pack: str | None = None,
    per_frame: Path | None = None,
    echo: Callable[[str], None] = lambda line: None,
    started: Callable[[Summary], None] = lambda summary: None,
    finished: Callable[[ClipRecord, Summary], None] = lambda record, summary: None,
) -> ScoreResult:
    """Extract clips with the pack of a run and write one row for every file that was found.

    Parameters
    ----------
    options : ExtractOptions
        Which clips, on what device. Its pack and recipe give way to the run's own.
    run_dir : Path
        A run folder.
    out : Path
        CSV: clip, score (empty where there is none), status, frames, valid_frames, duration_s,
        message. Tasks beside the score have a column each behind it; of a fit to frames (mdr, au)
        its scales or tracks stand in the place of the score. Written whole or not at all; see
        store.tables for text that a spreadsheet would compute.
    keep_store : bool
        Whether ``options.store`` keeps the features, for the next time or for a look at them. If
        not, they go to a temporary store.
    pack : str, optional
        Name or folder of the run's pack; by the name that the run noted if not given.
    per_frame : Path, optional
        A folder that gets one CSV for every clip that has a score, see fit.frames.ClipFrames.
    echo, started, finished : callable
        As for `stages.extract.run.extract`.

    Raises
    ------
    RunError, InputError, PackError, DeviceError, StoreError, ScoreError, FrameWriteError
    """
    run = load_scorer(run_dir)
    made_with = run.provenance["store"]
    if not out.parent.is_dir():
        raise ScoreError(
            f"{out}: the folder {out.parent} does not exist", "make it, or change --out"
        )
    if per_frame is not None:
        run.check_tells_frames()
    write = None if per_frame is None else csv_writer(per_frame)  # before an hour of extraction
    opened_pack = pack_of(made_with["pack"], pack, echo)
    recipe = made_with["recipe"]
    options = replace(
        options,
        pack=str(opened_pack.folder),
        every=recipe.get("every"),
        detector_sizes=tuple(recipe.get("detector_sizes", ())) or None,
        precision=Precision(recipe.get("precision", Precision.F32)),
        # A model of features has no use for the crops that its store may have held.
        crops=recipe.get("crops") if run.reads_crops else None,
        crop_size=recipe.get("crop_size") if run.reads_crops else None,
    )
    layers = {n: LayerOptions.of(told) for n, told in run.provenance.get("layers", {}).items()}
    if any(layer.crops for layer in layers.values()):
        options = replace(options, crops=recipe["crops"], crop_size=recipe["crop_size"])
    with contextlib.ExitStack() as stack:
        if not keep_store:
            folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="facepipe-score-"))
            options = replace(options, store=Path(folder) / "features.store")
        elif options.store.exists():  # before an hour of extraction into the wrong store
            run.check_store(store.open(options.store).provenance)
        summary = extract(options, echo, started, finished)
        if summary.plan.changed:
            raise ScoreError(
                f"{options.store} holds other files under the ids of {len(summary.plan.changed)} "
                f"clips, first {summary.plan.changed[0].clip}: their scores would be of those",
                "give another --store, or none",
            )
        for name, layer in layers.items():
            add_layer(
                options.store,
                options.videos,
                layer,
                name=name,
                pack=options.pack,
                device=options.device,
                workers=options.workers,
                echo=echo,
            )
        opened = store.open(options.store)
        wanted = [source.clip for source in find_clips(options.videos)]
        records = {record.clip: record for record in opened.records() if record.track == 0}
        chosen = set(wanted)

        def take(frames: FrameTable) -> None:
            if write is not None and frames.clip in chosen:
                write(frames)

        predicted = run.predict_from(opened, None if write is None else take)
    told = predicted.set_index("clip")[list(run.columns)].reindex(wanted).reset_index()
    about = pd.DataFrame([_about(records[clip]) for clip in wanted], columns=ABOUT_CLIP)
    table = pd.concat([told, about], axis=1)
    _write(table, out)
    return ScoreResult(out, table, run.columns, summary)


def _about(record: ClipRecord) -> dict[str, object]:
    return {
        "status": str(record.status),
        "frames": record.frames,
        "valid_frames": record.valid_frames,
        "duration_s": None if record.duration_s is None else round(record.duration_s, 3),
        "message": record.message,
    }


def _write(table: pd.DataFrame, out: Path) -> None:
    try:
        write_csv(table, out, float_format="%.6g")
    except OSError as error:
        raise ScoreError(f"{out}: cannot be written ({error.strerror})", "change --out") from None


def scored(result: ScoreResult) -> int:
    """Count the rows that have a score."""
    return int(result.table[list(result.columns)].notna().any(axis=1).sum())


def without_score(result: ScoreResult) -> Iterator[str]:
    """Say in a line each why rows have none."""
    table = result.table
    rows = table[table[list(result.columns)].isna().all(axis=1)]
    for clip, status, message in zip(rows["clip"], rows["status"], rows["message"], strict=True):
        yield f"{clip}: {Status(status)}: {message}"
