"""Worker processes: each holds the nets of a device and turns clips into rows.

Spawned, never forked (threads and sessions do not survive a fork). A worker that dies takes only
its clip along: pebble replaces it, the clip is tried once more and then given up.
"""

from __future__ import annotations

import contextlib
import itertools
import multiprocessing
import os
import signal
import threading
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pebble

from stages.extract.device import Device
from stages.extract.inputs import Source
from stages.extract.machine import gpus
from stages.extract.recipe import Recipe
from store.errors import FacepipeError
from store.heap import give_back_memory, keep_one_heap
from store.schema import ClipRecord, ClipRows, Status

Result = tuple[ClipRecord, ClipRows | None]

_TRIES = 2
_POOLS = 5  # that break one after another, with no clip finished or given up, until the run ends
_LOOK_S = 1.0  # a pool may break without a word to the clips that were just sent


class WorkersLostError(FacepipeError, RuntimeError):
    """Worker processes die before they get to a clip, again and again."""

    exit_code = 1


@dataclass(frozen=True)
class WorkerSetup:
    """What a worker needs to build its nets: plain values that travel to a new process."""

    pack: str
    device: Device
    recipe: Recipe

    @property
    def clips(self) -> int:
        """Clips that a worker takes at a time: on a GPU enough to fill its batches."""
        return 1 if self.device.on_cpu else 16


_setup: WorkerSetup
_engine: tuple[WorkerSetup, Any] | None = None


def run_clips(
    sources: Iterable[Source], setup: WorkerSetup, workers: int, time_limit_s: float | None
) -> Iterator[Result]:
    """Extract clips in worker processes; yield results as they come, in any order.

    Parameters
    ----------
    sources : iterable of Source
    setup : WorkerSetup
    workers : int
        Number of processes. Each has at most two tasks in flight, so memory stays bounded.
    time_limit_s : float, optional
        Seconds after which a clip is cut off and its worker replaced; by its size if not given.
        Opening the nets is no part of them.

    Raises
    ------
    FacepipeError
        What a worker raised on purpose, such as a device that is not there.
    WorkersLostError
        No worker lives until it gets to a clip.
    """
    pool = _new_pool(setup, workers)
    waiting = iter(sources)
    flying: dict[Any, tuple[list[Source], int]] = {}
    broken = 0

    def send(group: list[Source], tried: int) -> None:
        # The clips of a group are open at the same time. One that hangs must not hold up the others
        # for the sum of their limits; those that were cut off with it are done again, one by one,
        # and a group that only took long as a whole is as well.
        limit = max(time_limit_s or usual_time_limit(source.path) for source in group)
        try:
            future = pool.schedule(_work, args=(group,), timeout=limit)
        except RuntimeError:
            renew()
            send(group, tried)
        else:
            flying[future] = (group, tried)

    def renew() -> None:
        """Replace a pool that broke and send its clips again: none of them is to blame.

        A worker that is killed while none is at work, as at the start, takes pebble's pool along.
        """
        nonlocal pool, broken
        broken += 1
        if broken == _POOLS:
            raise WorkersLostError(
                f"worker processes died {broken} times in a row before they had got to a clip; "
                "what was finished is kept",
                "memory may be short: try --workers 1; and see pipeline doctor",
            )
        lost = list(flying.values())
        flying.clear()
        pool.stop()
        pool.join()
        pool = _new_pool(setup, workers)
        for group, tried in lost:
            send(group, tried)

    def send_next() -> None:
        if group := list(itertools.islice(waiting, setup.clips)):
            send(group, 1)

    try:
        for _ in range(2 * workers):
            send_next()
        while flying:
            done, _ = wait(flying, timeout=_LOOK_S, return_when=FIRST_COMPLETED)
            if not done and not pool.active:
                renew()
            for future in done:
                if future not in flying:  # sent again, to a new pool
                    continue
                group, tried = flying.pop(future)
                if isinstance(future.exception(), BrokenProcessPool):
                    send(group, tried)
                    continue
                broken = 0
                fault = _fault(future)
                if fault is None:
                    yield from future.result()
                elif len(group) > 1:  # one of them did it: each for itself
                    for source in group:
                        send([source], 1)
                    continue
                elif tried < _TRIES and not isinstance(future.exception(), TimeoutError):
                    send(group, tried + 1)
                    continue
                else:
                    yield failed(group[0], fault), None
                send_next()
        pool.close()
    finally:
        pool.stop()
        pool.join()


def _new_pool(setup: WorkerSetup, workers: int) -> Any:
    context = multiprocessing.get_context("spawn")
    names = [] if setup.device.on_cpu else gpus()
    places = context.Array("l", workers) if len(names) > 1 else None
    return pebble.ProcessPool(
        max_workers=workers, initializer=_start, initargs=(setup, names, places), context=context
    )


def usual_time_limit(path: Path) -> float:
    """Return the seconds that a clip may take: 5 minutes, and what its bytes take at 5 kB/s.

    Meant to end decoders that hang, and to be far from what any healthy clip needs.
    """
    try:
        return 300.0 + path.stat().st_size / 5e3
    except OSError:
        return 300.0


def _fault(future: Any) -> str | None:
    """Say in a line why a clip failed, None if it did not."""
    error = future.exception()
    if error is None:
        return None
    if isinstance(error, FacepipeError):
        raise error
    if isinstance(error, TimeoutError):
        return "gave no result within its time limit, cut off"
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


def _start(setup: WorkerSetup, names: Sequence[str], places: Any) -> None:
    """Prepare a new worker and open its nets, which is no part of its first clip's time."""
    global _setup
    _setup = setup
    keep_one_heap()
    # Ctrl-C reaches the whole process group; it is the parent that stops us, and that at once: a
    # handler in Python, such as pebble's, would wait for the net or the decoder that is running.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    threading.Thread(target=_die_with_parent, daemon=True).start()
    if places is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = names[_take_place(places) % len(names)]
    with contextlib.suppress(Exception):  # comes again with the first clip, where it is reported
        engine_here(setup)


def _take_place(places: Any) -> int:
    """Take the first place that no living process holds: that of the worker that this one replaces.

    Counting on would in time put all workers on one GPU.
    """
    with places.get_lock():
        place = next(i for i, holder in enumerate(places) if not (holder and _lives(holder)))
        places[place] = os.getpid()
    return place


def _lives(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def _die_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)  # the parent was killed: nobody will take our results


def _work(sources: list[Source]) -> list[Result]:
    return extract_here(sources, _setup)


def extract_here(sources: list[Source], setup: WorkerSetup) -> list[Result]:
    """Extract clips in this process.

    Raises
    ------
    FacepipeError
        The nets cannot be opened.
    """
    done = [result for _, results in engine_here(setup).run(sources) for result in results]
    give_back_memory()
    return done


def engine_here(setup: WorkerSetup) -> Any:
    """Return this process's engine, its nets opened when first asked for and kept from then on.

    Raises
    ------
    FacepipeError
        The nets cannot be opened.
    """
    # Imported here: the parent, which only sends and writes, starts a second sooner without them.
    import cv2

    from stages.extract import packs
    from stages.extract.engine import Engine
    from stages.extract.nets import open_nets

    global _engine
    if _engine is None or _engine[0] != setup:  # a process of a cluster outlives a run
        cv2.setNumThreads(1)  # one worker a core
        nets = open_nets(
            packs.resolve(setup.pack), setup.device, setup.recipe, flush_denormals=True
        )
        engine = Engine(nets, setup.recipe, setup.clips, threads=setup.clips > 1)
        engine.warm_up()
        _engine = setup, engine
    return _engine[1]
