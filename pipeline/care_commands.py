"""`pipeline store compact`, `forget`, `merge`, `export`, `import`, `tracks`: care and exchange."""

from __future__ import annotations

import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from pipeline import console
from pipeline.options import Json
from store.errors import FacepipeError

OneStore = Annotated[Path, typer.Argument(metavar="STORE", help="A feature store.")]


class ExportFormat(StrEnum):
    """What a store can be exported to."""

    HDF5 = "hdf5"
    PARQUET = "parquet"
    CSV = "csv"
    NPZ = "npz"


class ImportFormat(StrEnum):
    """What a store can be made from."""

    HDF5 = "hdf5"
    NPZ = "npz"
    CSV = "csv"


class NotConfirmedError(FacepipeError, RuntimeError):
    """Nobody said that clips may be erased."""


def add_to(app: typer.Typer) -> None:
    """Register the commands with `pipeline store`."""
    for name, command in (
        ("compact", compact),
        ("forget", forget),
        ("merge", merge),
        ("export", export),
        ("import", import_),
        ("tracks", tracks),
    ):
        app.command(name)(command)


def compact(store: OneStore, json: Json = False) -> None:
    """Take in the journal, close the holes of removed clips, give free space back to the disk.

    Example: pipeline store compact features.store
    """
    from store.care import compact as run

    with console.work_progress("copying") as progress:
        before, after = run(store, progress)
    if json:
        console.emit({"bytes_before": before, "bytes": after})
        return
    console.result(f"{store}: {before / 1e6:.1f} MB before, {after / 1e6:.1f} MB now")


def forget(
    store: OneStore,
    clips: Annotated[list[str], typer.Argument(metavar="CLIP", help="Clip ids.")],
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    json: Json = False,
) -> None:
    """Erase clips: no file of the store holds their ids or rows any more.

    The whole store is written anew, so name all clips at once.
    Example: pipeline store forget features.store a.mp4 b.mp4 --yes
    """
    from store.care import forget as run
    from store.companion import beside

    if not yes:
        _confirm(f"Erase {len(clips)} clips from {store} for good?")
    with console.work_progress("copying") as progress:
        rows = run(store, clips, progress)
    left = [str(folder) for folder in beside(store)]
    if json:
        erased = list(dict.fromkeys(clips))
        console.emit({"clips": erased, "frames": rows, "companions": left})
        return
    console.result(f"{store}: {len(set(clips))} clips ({rows} frames) are erased")
    for folder in left:
        console.warn(
            f"{folder}: was made from this store and may still hold rows of these clips; delete "
            "it, and make it again if it is needed"
        )
    console.note(
        "Copies elsewhere (backups, exports, snapshots, arrays made with --out) are not touched."
    )


def _confirm(question: str) -> None:
    if not sys.stdin.isatty():
        raise NotConfirmedError(
            "erasing needs a yes, and there is no terminal to ask on; nothing was changed",
            "Say --yes if you are sure.",
        )
    if not typer.confirm(question, err=True):
        raise NotConfirmedError("not confirmed; nothing was changed")


def merge(
    out: Annotated[Path, typer.Argument(metavar="OUT", help="The new store.")],
    stores: Annotated[
        list[Path], typer.Argument(metavar="STORE", help="Stores of one pack and recipe.")
    ],
    json: Json = False,
) -> None:
    """Write the clips of several stores into a new one.

    Example: pipeline store merge all.store part1.store part2.store
    """
    from store.merge import merge as run

    with console.work_progress("merging") as progress:
        tracks = run(out, stores, progress=progress)
    if json:
        console.emit({"store": str(out), "tracks": tracks})
        return
    console.result(f"{out}: {tracks} records of {len(stores)} stores")


def export(
    stores: Annotated[
        list[str],  # and not Path, which would mangle URLs
        typer.Argument(metavar="STORE", help="A feature store, or several read as one."),
    ],
    to: Annotated[ExportFormat, typer.Option("--to", help="The format.")],
    out: Annotated[Path, typer.Option("--out", help="New file; for npz and csv, new folder.")],
    json: Json = False,
) -> None:
    """Write a store for other programs: HDF5, Parquet, CSV in OpenFace's columns, or npz.

    Example: pipeline store export features.store --to hdf5 --out features.h5
    """
    import store as package
    from store.exchange import export as run

    given: Any = stores[0] if len(stores) == 1 else stores
    with package.open(given) as opened, console.work_progress("exporting") as progress:
        done = run(opened, to, out, progress)
    if json:
        console.emit({"clips": done.clips, "frames": done.rows, "left_out": done.left_out})
        return
    console.result(f"{out}: {done.clips} clips, {done.rows} frames")
    if done.left_out:
        lacking = "frames or landmarks" if to is ExportFormat.CSV else "frames"
        console.warn(
            f"{done.left_out} clips are left out, or one of their faces: {to} holds none "
            f"without {lacking}"
        )


def import_(
    path: Annotated[Path, typer.Argument(metavar="PATH", help="A file, or a folder of them.")],
    form: Annotated[ImportFormat, typer.Option("--from", help="The format.")],
    store: Annotated[Path, typer.Option("--store", help="The store; made if it is not there.")],
    fps: Annotated[
        float | None, typer.Option("--fps", help="Frames a second of files that do not say.")
    ] = None,
    json: Json = False,
) -> None:
    """Take features that were made elsewhere into a store; stage one is skipped.

    Clips that are in the store are left alone.
    Example: pipeline store import features.h5 --from hdf5 --store features.store
    """
    from store.exchange_formats import import_from

    with console.work_progress("importing") as progress:
        done = import_from(path, form, store, fps=fps, progress=progress)
    if json:
        console.emit({"clips": done.clips, "frames": done.rows, "skipped": done.skipped})
        return
    console.result(f"{store}: {done.clips} clips, {done.rows} frames; {done.skipped} were there")


def tracks(
    path: Annotated[Path, typer.Argument(metavar="PATH", help="A CSV file, or a folder of them.")],
    store: Annotated[Path, typer.Option("--store", help="The store of these clips.")],
    out: Annotated[
        Path | None, typer.Option("--out", help="Folder of the array. [default: STORE.tracks]")
    ] = None,
    columns: Annotated[
        str, typer.Option("--columns", help="Pattern of the columns that are labels.")
    ] = "AU*_r",
    missing: Annotated[
        float | None, typer.Option("--missing", help="A number that means: not known (BP4D: 9).")
    ] = None,
    json: Json = False,
) -> None:
    """Take labels of single frames (OpenFace's AU01_r, ...) into an array beside a store.

    `pipeline fit --model au --labels STORE.tracks` learns them; `--set features=STORE.tracks` gives
    them to a model as a third stream. Example: pipeline store tracks openface/ --store a.store
    """
    import store as package
    from store.tracks import import_tracks

    target = out or Path(store.absolute()).with_suffix(".tracks")
    with package.open(store) as opened, console.work_progress("reading") as progress:
        done = import_tracks(
            path, opened, target, columns=columns, missing=missing, progress=progress
        )
    for line in done.notes:
        console.note(line)
    names = done.companion.columns
    if json:
        told = {"tracks": list(names), "clips": done.clips, "frames": done.frames}
        console.emit({"out": str(target), **told, "notes": done.notes})
        return
    console.result(f"{target}: {', '.join(names)} of {done.clips} clips, {done.frames} frames")
