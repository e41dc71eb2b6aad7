"""`pipeline packs ...` and `pipeline store ...`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from pipeline import care_commands, console
from pipeline.group import Group
from pipeline.options import Json

packs_app = typer.Typer(
    cls=Group,
    no_args_is_help=True,
    help="Model packs: what the clips are looked at with.\n\nExample: pipeline packs install lite",
)
store_app = typer.Typer(
    cls=Group,
    no_args_is_help=True,
    help="Feature stores: look into them, care for them.\n\n"
    "Example: pipeline store info features.store",
)
care_commands.add_to(store_app)

Name = Annotated[str, typer.Argument(help="A pack's name, or its folder.")]
Stores = Annotated[
    list[str],  # and not Path, which would mangle URLs
    typer.Argument(metavar="STORE", help="A feature store, or several read as one; or s3://..."),
]


@packs_app.command("install")
def install(name: Name, json: Json = False) -> None:
    """Fetch a pack and check it; a second call does nothing.

    Example: pipeline packs install lite
    """
    from stages.extract import packs

    with console.work_progress("installing") as progress:
        folder = packs.install(name, console.note, progress)
    _show_path(name, folder, json)


@packs_app.command("list")
def list_packs(json: Json = False) -> None:
    """List the packs known by name, with licence, and whether they are installed.

    Example: pipeline packs list
    """
    from stages.extract import packs

    known = packs.known()
    if json:
        console.emit({p.name: {"installed": p.installed, "licence": p.licence} for p in known})
        return
    rows: list[list[object]] = [[p.name, "yes" if p.installed else "no", p.licence] for p in known]
    console.table("packs", ["pack", "installed", "licence"], rows)


@packs_app.command("path")
def path(name: Name, json: Json = False) -> None:
    """Print the folder of an installed pack; insightface's FaceAnalysis loads it by that path.

    Example: pipeline packs path lite
    """
    from stages.extract import packs

    _show_path(name, packs.path(name), json)


def _show_path(name: str, folder: Path, json: bool) -> None:
    if json:
        console.emit({"pack": name, "path": str(folder)})
        return
    console.result(str(folder))


@packs_app.command("verify")
def verify_pack(name: Name, json: Json = False) -> None:
    """Check every file of a pack against its checksums; leaves with 1 if one is not as it was.

    Example: pipeline packs verify lite
    """
    from stages.extract import packs

    with console.work_progress("checking") as progress:
        problems = packs.verify(name, progress)
    if json:
        console.emit({"pack": name, "ok": not problems, "problems": problems})
    else:
        for problem in problems:
            console.error(problem)
        if not problems:
            console.result(f"{name}: every file is as it should be")
    if problems:
        raise typer.Exit(1)


def _one_or_several(given: list[str]) -> Any:
    return given[0] if len(given) == 1 else given


def _told(given: list[str]) -> str | list[str]:
    return given[0] if len(given) == 1 else given


@store_app.command("info")
def info(store: Stores, json: Json = False) -> None:
    """Say what a store holds and what it was made with.

    Example: pipeline store info features.store
    """
    import store as stores
    from store.care import size
    from store.schema import FORMAT_VERSION, array_specs

    opened = stores.open(_one_or_several(store))
    statuses: dict[str, int] = {}
    valid = tracks = 0
    for record in opened.records():
        tracks += 1
        if record.track == 0:
            statuses[record.status] = statuses.get(record.status, 0) + 1
        valid += record.valid_frames
    arrays = {
        spec.name: {"shape": [opened.n_rows, *spec.tail], "dtype": spec.dtype}
        for spec in array_specs(opened.feature_dtype)
    }
    if opened.crop_size is not None:
        shape = [opened.n_crops, opened.crop_size, opened.crop_size, 3]
        arrays["crop"] = {"shape": shape, "dtype": "uint8"}
    for name, layer in opened.layers.items():
        arrays[name] = {"shape": [layer.rows, layer.width], "dtype": layer.spec.dtype}
    told = {
        "store": _told(store),
        "format": FORMAT_VERSION,
        "clips": dict(sorted(statuses.items())),
        "tracks": tracks,
        "frames": opened.n_rows,
        "valid_frames": valid,
        "bytes": sum(map(size, store)),
        "arrays": arrays,
        "provenance": opened.provenance,
    }
    if json:
        console.emit(told)
        return
    pack, recipe = (opened.provenance.get(key, {}) for key in ("pack", "recipe"))
    console.table("clips", ["status", "clips"], [[k, v] for k, v in sorted(statuses.items())])
    console.table(
        "arrays",
        ["name", "shape", "dtype"],
        [[n, a["shape"], a["dtype"]] for n, a in arrays.items()],
    )
    console.result(
        f"{told['frames']} frames, {valid} with a face; {int(told['bytes']) / 1e6:.1f} MB; "
        f"format {FORMAT_VERSION}"
    )
    console.result(
        f"pack {pack.get('name')} ({str(pack.get('fingerprint'))[:12]}), recipe {recipe}"
    )


@store_app.command("verify")
def verify_store(
    store: Stores,
    repair: Annotated[
        bool,
        typer.Option(
            "--repair", help="Cut uncommitted rows; mark damaged clips for extraction again."
        ),
    ] = False,
    json: Json = False,
) -> None:
    """Check every invariant of a store and the hash of every clip's rows; leaves with 1 on damage.

    Example: pipeline store verify features.store
    """
    import store as stores

    repaired = [line for one in store for line in _repair(one)] if repair else []
    for line in repaired:
        console.warn(line)
    with console.work_progress("reading") as progress:
        report = stores.verify(_one_or_several(store), progress)
    if json:
        console.emit(
            {
                "ok": report.ok,
                "clips": report.clips,
                "rows": report.rows,
                "by_status": {str(k): v for k, v in report.by_status.items()},
                "problems": report.problems,
                "notes": report.notes,
                **({"repaired": repaired} if repair else {}),
            }
        )
    else:
        for line in report.notes:
            console.note(line)
        for line in report.problems:
            console.error(line)
        counts = ", ".join(f"{n} {status}" for status, n in sorted(report.by_status.items()))
        word = "whole" if report.ok else f"DAMAGED, {len(report.problems)} problems"
        console.result(
            f"{', '.join(store)}: {word}; {report.clips} clips ({counts}), {report.rows} frames"
        )
    if not report.ok:
        raise typer.Exit(1)


def _repair(path: str) -> list[str]:
    """Repair one store; return a line for each thing that was done."""
    from store.repair import repair

    done = repair(path)
    lines = [
        f"{path}: clip {clip!r} is marked for extraction again: {problem}"
        for clip, problem in done.clips.items()
    ]
    lines += [
        f"{path}: clip {clip!r} is removed: {problem}" for clip, problem in done.dropped.items()
    ]
    if done.cut_rows:
        lines.append(f"{path}: {done.cut_rows} rows that no clip owns were cut")
    if done.recounted:
        lines.append(f"{path}: the number of rows that no clip owns was wrong and is counted anew")
    return lines


@store_app.command("digest")
def digest(
    store: Stores,
    layer: Annotated[
        str | None, typer.Option(help="Of this layer's rows. [default: of all other arrays]")
    ] = None,
    arrays: Annotated[
        str | None,
        typer.Option(metavar="NAME,...", help="Of these arrays alone, as landmark,timestamp."),
    ] = None,
    json: Json = False,
) -> None:
    """Print a line a clip: its id and the sha256 over its rows of every array, or of some.

    Independent of the order in which clips were written; equal for equal features.
    Example: pipeline store digest features.store
    """
    import store as stores
    from store import layer_writer
    from store.errors import StoreError

    if layer is not None and arrays is not None:
        raise StoreError("--layer and --arrays: expected one of them", "Ask twice.")
    names = None if arrays is None else [name.strip() for name in arrays.split(",")]
    with console.work_progress("reading") as progress:
        found = list(
            stores.digest(_one_or_several(store), progress, arrays=names)
            if layer is None
            else (line for one in store for line in layer_writer.digest(one, layer, progress))
        )
    if json:
        told = {"store": _told(store), "clips": dict(found)}
        console.emit(told if names is None else {**told, "arrays": names})
        return
    for clip, sha256 in found:
        console.result(f"{clip} {sha256}")
