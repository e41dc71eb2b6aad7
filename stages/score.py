"""New clips -> scores: the one place that uses both stages."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pandas as pd

import store
from stages.extract import packs
from stages.extract.device import Precision
from stages.extract.errors import PackError
from stages.extract.inputs import find_clips
from stages.extract.run import ExtractOptions, Summary, extract, open_pack
from stages.fit.run import load_run
from store.errors import FacepipeError
from store.schema import ClipRecord, Status

COLUMNS = ["clip", "score", "status", "frames", "valid_frames", "duration_s", "message"]


class ScoreError(FacepipeError, OSError):
    """The table of scores cannot be written."""

    __str__ = Exception.__str__


@dataclass(frozen=True)
class ScoreResult:
    """Where the scores are, the table itself, and what the extraction did."""

    out: Path
    table: pd.DataFrame
    summary: Summary


def score(
    options: ExtractOptions,
    run_dir: Path,
    out: Path,
    keep_store: bool,
    pack: str | None = None,
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
        message. Written whole or not at all.
    keep_store : bool
        Whether ``options.store`` keeps the features, for the next time or for a look at them. If
        not, they go to a temporary store.
    pack : str, optional
        Name or folder of the run's pack; by the name that the run noted if not given.
    echo, started, finished : callable
        As for `stages.extract.run.extract`.

    Raises
    ------
    RunError, InputError, PackError, DeviceError, StoreError, ScoreError
    """
    run = load_run(run_dir)
    made_with = run.provenance["store"]
    if not out.parent.is_dir():
        raise ScoreError(
            f"{out}: the folder {out.parent} does not exist", "make it, or change --out"
        )
    opened_pack = _pack_of(made_with["pack"], pack, echo)
    recipe = made_with["recipe"]
    options = replace(
        options,
        pack=str(opened_pack.folder),
        every=recipe.get("every"),
        precision=Precision(recipe.get("precision", Precision.F32)),
        # A model of features has no use for the crops that its store may have held.
        crops=recipe.get("crops") if run.reads_crops else None,
        crop_size=recipe.get("crop_size") if run.reads_crops else None,
    )
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
        opened = store.open(options.store)
        wanted = [source.clip for source in find_clips(options.videos)]
        records = {record.clip: record for record in opened.records() if record.track == 0}
        predicted = run.predict(options.store)
        scores = dict(zip(predicted["clip"], predicted["score"], strict=True))
    table = pd.DataFrame([_row(clip, records[clip], scores) for clip in wanted], columns=COLUMNS)
    _write(table, out)
    return ScoreResult(out, table, summary)


def _pack_of(saved: dict[str, str], place: str | None, echo: Callable[[str], None]) -> packs.Pack:
    """Open the pack that a run's features came from, by its name or where it is said to be."""
    if place is None and saved["name"] not in {info.name for info in packs.known()}:
        raise PackError(
            f"the run was fitted with the pack {saved['name']!r}, which is a folder somewhere",
            "say where with --pack FOLDER",
        )
    pack = open_pack(place or saved["name"], echo)
    if pack.fingerprint != saved["fingerprint"]:
        raise PackError(
            f"pack {saved['name']!r} here ({pack.fingerprint[:12]}) is not the one that the run "
            f"was fitted with ({saved['fingerprint'][:12]})",
            "install the pack of that version, or fit a run with this one",
        )
    return pack


def _row(clip: str, record: ClipRecord, scores: dict[str, float]) -> dict[str, object]:
    return {
        "clip": clip,
        "score": scores.get(clip),
        "status": str(record.status),
        "frames": record.frames,
        "valid_frames": record.valid_frames,
        "duration_s": None if record.duration_s is None else round(record.duration_s, 3),
        "message": record.message,
    }


def _write(table: pd.DataFrame, out: Path) -> None:
    partial = out.with_name(f".{out.name}.{os.getpid()}.partial")
    try:
        table.to_csv(partial, index=False, float_format="%.6g")
        os.replace(partial, out)
    except OSError as error:
        partial.unlink(missing_ok=True)
        raise ScoreError(f"{out}: cannot be written ({error.strerror})", "change --out") from None


def scored(table: pd.DataFrame) -> int:
    """Count the rows that have a score."""
    return int(table["score"].notna().sum())


def without_score(table: pd.DataFrame) -> Iterator[str]:
    """Say in a line each why rows have none."""
    rows = table[table["score"].isna()]
    for clip, status, message in zip(rows["clip"], rows["status"], rows["message"], strict=True):
        yield f"{clip}: {Status(status)}: {message}"
