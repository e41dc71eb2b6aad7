"""A run folder while its fit is at work: claimed, gone on with, and finished or given up.

A run is a folder with ``config.json``, which is written last. Until then ``checkpoint/`` holds what
the fit is (``identity.json``) and where it stands; it goes when the fit is done.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from safetensors import SafetensorError

from stages.fit.checkpoint import Checkpoint
from stages.fit.guard import TrainingError
from stages.fit.logs import EPOCHS, TENSORBOARD
from stages.fit.run_files import (
    CHECKPOINT,
    CONFIG,
    FEATURES,
    LABELS,
    METRICS,
    PREDICTIONS,
    PROVENANCE,
    SPLIT,
    WEIGHTS,
    RunError,
    RunWriteError,
)
from store.durable import remove_partials, write_file
from store.errors import FacepipeError

IDENTITY, LOCK, SAVED = "identity.json", "lock", ".safetensors"
FILES = (CONFIG, METRICS, PROVENANCE, WEIGHTS, EPOCHS, LABELS, SPLIT, PREDICTIONS)
Identity = dict[str, Any]


class Unfinished:
    """The folder of a fit at work."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def checkpoint(self, phase: str) -> Checkpoint:
        """Return the checkpoint of one of the fit's trainings."""
        return Checkpoint(self.folder / CHECKPOINT / f"{phase}{SAVED}")


def check_new(run_dir: Path, overwrite: bool = False) -> None:
    """Raise RunError if no fit may be begun or gone on with in ``run_dir``; costs nothing to ask.

    An empty folder will do, and one with an unfinished fit; whether that is the same fit is asked
    by ``at_work``.
    """
    if not run_dir.exists() or (run_dir.is_dir() and not any(run_dir.iterdir())):
        return
    finished = (run_dir / CONFIG).is_file()
    if finished and not overwrite:
        raise RunError(f"{run_dir} exists already", "give another --run, or remove that folder")
    if not finished and not _begun(run_dir / CHECKPOINT):
        raise RunError(
            f"{run_dir} exists already, is not a run and is left alone", "give another --run"
        )


def _begun(work: Path) -> bool:
    """Whether a fit made this folder, be it that it was killed before it wrote a thing."""
    return work.is_dir() and ((work / LOCK).is_file() or not any(work.iterdir()))


@contextmanager
def at_work(
    run_dir: Path, identity: Identity, overwrite: bool, echo: Callable[[str], None]
) -> Iterator[Unfinished]:
    """Claim a folder for a fit, or go on with the one that was begun there.

    Interrupted, by the disk or by whoever, the folder keeps the epochs that were done. Nothing of
    the fit is left there if none was, or if training failed, which it would again.

    Parameters
    ----------
    run_dir : Path
    identity : dict
        What the result hangs on, as JSON types: ``settings``, ``labels``, ``store``, and
        ``versions``, which may differ and are then told.
    overwrite : bool
        A run that is there is removed, and so is an unfinished fit of another identity.
    echo : callable
        Gets a line where a fit is gone on with.

    Raises
    ------
    RunError
        The unfinished fit there is another one, or another process is at it.
    RunWriteError
        The disk gave out.
    """
    check_new(run_dir, overwrite)
    work = run_dir / CHECKPOINT
    try:
        work.mkdir(parents=True, exist_ok=True)
        lock = FileLock(work / LOCK).acquire(timeout=0)
    except Timeout:
        raise RunError(
            f"{run_dir}: another process is fitting into this folder", "give another --run"
        ) from None
    except OSError as error:
        raise RunError(f"{run_dir}: cannot be made ({error.strerror})") from None
    with lock:
        try:
            _claim(run_dir, json.loads(json.dumps(identity)), overwrite, echo)
            yield Unfinished(run_dir)
        except BaseException as error:
            if isinstance(error, TrainingError) or not _saved(run_dir):
                _remove(run_dir)
            if not isinstance(error, OSError | SafetensorError) or isinstance(error, FacepipeError):
                raise
            reason = getattr(error, "strerror", None) or str(error).splitlines()[0]
            raise RunWriteError(
                f"{run_dir}: cannot be written ({reason})",
                "make room, then run the same command again: it goes on from the last epoch",
            ) from None
        shutil.rmtree(work)


def _claim(run_dir: Path, identity: Identity, overwrite: bool, echo: Callable[[str], None]) -> None:
    """Write the identity, or compare it with the one that is there."""
    file = run_dir / CHECKPOINT / IDENTITY
    begun = _read(file) if _saved(run_dir) else None
    if overwrite and ((run_dir / CONFIG).exists() or (begun and _difference(begun, identity))):
        begun = None
        _remove(run_dir, keep=LOCK)
    if begun is not None and (different := _difference(begun, identity)):
        raise RunError(
            f"{run_dir} holds an unfinished fit of {different}",
            "give the settings, labels and store that it was begun with, or another --run, or "
            "remove that folder",
        )
    remove_partials(run_dir)
    if begun is None:
        (run_dir / EPOCHS).unlink(missing_ok=True)  # of an epoch that was logged and not saved
        write_file(file, (json.dumps(identity, indent=2) + "\n").encode())
        return
    echo(f"going on with the unfinished fit in {run_dir}")
    changed = [
        f"{name} {found} then, {identity['versions'].get(name)} now"
        for name, found in begun["versions"].items()
        if found != identity["versions"].get(name)
    ]
    if changed:
        echo(f"begun with {'; '.join(changed)}: the last bits may differ")


def _saved(run_dir: Path) -> bool:
    """Whether an epoch was finished there."""
    return any((run_dir / CHECKPOINT).glob(f"*{SAVED}"))


def _difference(begun: Identity, now: Identity) -> str:
    """Say in what the fit that was begun differs from the one asked for; empty if in nothing."""
    there, here = _flat(begun["settings"]), _flat(now["settings"])
    for name in sorted(there.keys() | here.keys()):
        if there.get(name) != here.get(name):
            return f"other settings: {name} is {there.get(name)} there, {here.get(name)} now"
    if begun["labels"] != now["labels"]:
        return "other labels"
    return "another store, or of other clips of it" if begun["store"] != now["store"] else ""


def _flat(settings: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in settings.items():
        nested = isinstance(value, dict)
        flat |= _flat(value, f"{prefix}{key}.") if nested else {f"{prefix}{key}": value}
    return flat


def _read(file: Path) -> Identity:
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise RunError(f"{file}: cannot be read ({error})", "remove that folder") from None
    if not isinstance(found, dict) or {"settings", "labels", "store", "versions"} - found.keys():
        raise RunError(f"{file}: is not what a fit writes there", "remove that folder")
    return found


def _remove(run_dir: Path, keep: str = "") -> None:
    """Delete what a fit writes, and the folder if nothing else is in it."""
    for name in FILES:
        (run_dir / name).unlink(missing_ok=True)
    for name in (TENSORBOARD, FEATURES):
        shutil.rmtree(run_dir / name, ignore_errors=True)
    for path in (run_dir / CHECKPOINT).iterdir():
        if path.name != keep:
            path.unlink()
    if not keep:
        with suppress(OSError):  # what somebody else put there stays
            (run_dir / CHECKPOINT).rmdir()
            run_dir.rmdir()
