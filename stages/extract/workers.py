"""Worker processes: each holds the nets and turns one clip at a time into rows.

Spawned, never forked (threads and sessions do not survive a fork). A worker that dies takes only
its clip along: pebble replaces it, the clip is tried once more and then given up.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, wait
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pebble

from stages.extract.device import Device
from stages.extract.inputs import Source
from stages.extract.recipe import Recipe
from store.errors import FacepipeError
from store.schema import ClipRecord, ClipRows, Status

Result = tuple[ClipRecord, ClipRows | None]

_TRIES = 2


@dataclass(frozen=True)
class WorkerSetup:
    """What a worker needs to build its nets: plain values that travel to a new process."""

    pack: str
    device: Device
    recipe: Recipe


_setup: WorkerSetup
_nets: tuple[WorkerSetup, Any] | None = None


def run_clips(
    sources: Iterable[Source], setup: WorkerSetup, workers: int, time_limit_s: float
) -> Iterator[Result]:
    """Extract clips in worker processes; yield results as they come, in any order.

    Parameters
    ----------
    sources : iterable of Source
    setup : WorkerSetup
    workers : int
        Number of processes. At most two clips a worker are in flight, so memory stays bounded.
    time_limit_s : float
        Seconds after which a clip is cut off and its worker replaced.

    Raises
    ------
    FacepipeError
        What a worker raised on purpose, such as a device that is not there.
    """
    context = multiprocessing.get_context("spawn")
    pool = pebble.ProcessPool(
        max_workers=workers, initializer=_start, initargs=(setup,), context=context
    )
    waiting = iter(sources)
    flying: dict[Any, tuple[Source, int]] = {}

    def send(source: Source, tried: int) -> None:
        flying[pool.schedule(_work, args=(source,), timeout=time_limit_s)] = (source, tried)

    try:
        for source in waiting:
            send(source, 1)
            if len(flying) >= 2 * workers:
                break
        while flying:
            done, _ = wait(flying, return_when=FIRST_COMPLETED)
            for future in done:
                source, tried = flying.pop(future)
                fault = _fault(future, time_limit_s)
                if fault is None:
                    yield future.result()
                elif tried < _TRIES and future.exception().__class__ is not TimeoutError:
                    send(source, tried + 1)
                    continue
                else:
                    yield failed(source, fault), None
                if (after := next(waiting, None)) is not None:
                    send(after, 1)
        pool.close()
    finally:
        pool.stop()
        pool.join()


def _fault(future: Any, time_limit_s: float) -> str | None:
    """Say in a line why a clip failed, None if it did not."""
    error = future.exception()
    if error is None:
        return None
    if isinstance(error, FacepipeError):
        raise error
    if isinstance(error, TimeoutError):
        return f"gave no result within {time_limit_s:g} s, cut off"
    if isinstance(error, pebble.ProcessExpired):
        return f"the worker process died (exit code {error.exitcode})"
    if isinstance(error, MemoryError):
        return "out of memory"
    return f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"


def failed(source: Source, message: str) -> ClipRecord:
    """Return the record of a clip that no worker could finish."""
    try:
        stat = source.path.stat()
    except OSError:
        return ClipRecord(source.clip, Status.FAILED, message=message)
    return ClipRecord(
        source.clip,
        Status.FAILED,
        message=message,
        size_bytes=stat.st_size,
        mtime_ns=stat.st_mtime_ns,
    )


def _start(setup: WorkerSetup) -> None:
    """Prepare a new worker; its nets are built with its first clip, where errors surface."""
    global _setup
    _setup = setup
    signal.signal(
        signal.SIGINT, signal.SIG_IGN
    )  # Ctrl-C reaches the whole group; the parent stops us
    threading.Thread(target=_die_with_parent, daemon=True).start()


def _die_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)  # the parent was killed: nobody will take our results


def _work(source: Source) -> Result:
    return extract_here(source, _setup)


def extract_here(source: Source, setup: WorkerSetup) -> Result:
    """Extract one clip in this process.

    Raises
    ------
    FacepipeError
        The nets cannot be opened.
    """
    from stages.extract.engine import extract_clip

    try:
        return extract_clip(source.clip, Path(source.path), nets_here(setup), setup.recipe)
    except OSError as error:
        record = ClipRecord(source.clip, Status.UNREADABLE, message=error.strerror or str(error))
        return record, None


def nets_here(setup: WorkerSetup) -> Any:
    """Return this process's nets, opened with its first clip and kept for the next ones.

    Raises
    ------
    FacepipeError
        The nets cannot be opened.
    """
    # Imported here: the parent, which only sends and writes, starts a second sooner without them.
    import cv2

    from stages.extract import packs
    from stages.extract.nets import open_nets

    global _nets
    if _nets is None or _nets[0] != setup:  # a process of a cluster outlives a run and its setup
        cv2.setNumThreads(1)  # one worker a core
        _nets = setup, open_nets(packs.resolve(setup.pack), setup.device, setup.recipe)
    return _nets[1]
