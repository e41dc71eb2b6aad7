"""Clips sent to a dask.distributed cluster: the same results as from local worker processes.

The client, which is this process, is the store's only writer. Nothing but paths travels to the
workers and nothing but rows comes back, so every worker must see the clips and the pack under the
same paths as the client: a shared file system.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import importlib.util
import logging
import os
import socket
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from stages.extract.inputs import Source
from stages.extract.kind import Kind
from stages.extract.workers import (
    Result,
    WorkerSetup,
    engine_here,
    extract_here,
    failed,
    usual_time_limit,
)
from store.errors import FacepipeError
from store.schema import ClipRecord, Status

LOCAL = "local"
CONNECT_S = 6.0  # until an address without a scheduler is given up

_IN_FLIGHT = 2  # clips a worker: one at work, one waiting, so that no worker waits for the writer
_COUNT_EVERY_S = 2.0  # workers come and go
_END_S = 0.5  # that workers have to end by themselves; they hold nothing that is missed
_LAST_WORDS_S = 1.0  # for the news of a hung clip to leave a worker before it ends itself


class ClusterError(FacepipeError, RuntimeError):
    """There is no cluster at that address, or its workers are not of this client's kind."""


class ClusterLostError(ClusterError):
    """The cluster went away in the middle of a run; what was finished is kept."""

    exit_code = 1


def run_clips(
    sources: Iterable[Source],
    setup: WorkerSetup,
    workers: int,
    time_limit_s: float | None,
    *,
    scheduler: str,
    fingerprint: str,
    echo: Callable[[str], None] = lambda line: None,
) -> Iterator[Result]:
    """Extract clips on a Dask cluster; yield results as they come, in any order.

    At most two clips a worker are in flight, and a result is let go of before the next clip is
    sent, so memory stays bounded here and there. A clip whose worker dies is sent again by the
    scheduler (``distributed.scheduler.allowed-failures``); one that is given up by it is tried once
    more at the end, with nothing else in flight, since a clip that only waited on a dying worker is
    blamed like the one that killed it.

    Parameters
    ----------
    sources : iterable of Source
    setup : WorkerSetup
    workers : int
        Number of processes of a cluster of our own; an existing one has those that it has.
    time_limit_s : float, optional
        Seconds after which a clip is given up and the process that holds it ends itself; by its
        size if not given.
    scheduler : str
        Address of a scheduler, such as ``tcp://10.0.0.1:8786``, or ``local``.
    fingerprint : str
        Of the pack; workers that find another one under the pack's path are refused.
    echo : callable
        Told the address of the dashboard and what there is to wait for.

    Raises
    ------
    ClusterError
        Nothing answers at the address, or a worker has another facepipe or another pack.
    ClusterLostError
        The scheduler went away.
    FacepipeError
        What a worker raised on purpose, such as a device that is not there.
    """
    # Only the pack's folder is needed there, and relative paths mean nothing on other machines.
    setup = replace(setup, pack=str(Path(setup.pack).absolute()))
    with _client(scheduler, workers) as client:
        echo(f"dashboard: {client.dashboard_link}{_without_bokeh(scheduler)}")
        job = _Job(setup, Kind.here(fingerprint), time_limit_s)
        yield from _Run(client, job, echo).results(iter(sources))


def count_workers(scheduler: str, workers: int) -> int:
    """Return how many workers a cluster has now; of a cluster of our own, how many it will have.

    Raises
    ------
    ClusterError
        Nothing answers at the address.
    """
    if scheduler == LOCAL:
        return workers
    with _client(scheduler, workers) as client:
        return len(client.nthreads())


@dataclass(frozen=True)
class _Job:
    """What goes along with every clip."""

    setup: WorkerSetup
    kind: Kind
    time_limit_s: float | None


class _Run:
    """Keeps a cluster busy with clips, and not more than busy."""

    def __init__(self, client: Any, job: _Job, echo: Callable[[str], None]) -> None:
        from distributed import as_completed

        self._client = client
        self._job = job
        self._echo = echo
        self._done = as_completed()
        self._flying: dict[str, Source] = {}
        self._counted = -_COUNT_EVERY_S
        self._room = 0

    def results(self, waiting: Iterator[Source]) -> Iterator[Result]:
        """Yield what comes of every clip."""
        suspects: list[tuple[Source, str]] = []
        self._fill(waiting)
        for future in self._done:
            if future.status == "lost":  # with its worker, before we had it: it is made again
                self._done.add(future)
                continue
            source = self._flying.pop(future.key)
            result, fault = self._outcome(future, source)
            del future
            if result is None:
                suspects.append((source, fault))
            self._fill(waiting)
            if result is not None:
                yield from result
                del result
        for source, _ in suspects:
            self._send(source)
            future = next(self._done)
            while future.status == "lost":
                self._done.add(future)
                future = next(self._done)
            del self._flying[future.key]
            result, fault = self._outcome(future, source)
            yield from result if result is not None else [(failed(source, fault), None)]

    def _fill(self, waiting: Iterator[Source]) -> None:
        while len(self._flying) < self._allowed():
            source = next(waiting, None)
            if source is None:
                return
            self._send(source)

    def _send(self, source: Source) -> None:
        there = replace(source, path=source.path.absolute())
        future = self._client.submit(_work, there, self._job, pure=False)
        self._flying[future.key] = source
        self._done.add(future)

    def _allowed(self) -> int:
        """Return how many clips may be in flight now."""
        now = time.monotonic()
        if now - self._counted >= _COUNT_EVERY_S:
            threads = self._client.nthreads()
            if not threads and self._counted < 0:
                self._echo("the cluster has no workers yet; waiting for the first")
            if any(n > 1 for n in threads.values()) and self._counted < 0:
                self._echo(
                    "workers of this cluster have several threads, of which one is used each; "
                    "start them with --nthreads 1 and one worker a core"
                )
            self._counted = now
            # A cluster that grows on demand starts its first worker when there is work.
            self._room = _IN_FLIGHT * max(len(threads), 1)
        return self._room

    def _outcome(self, future: Any, source: Source) -> tuple[list[Result] | None, str]:
        """Return what came of a clip; or, if it may be tried again, None and why."""
        from distributed import KilledWorker

        try:
            result: list[Result] = future.result()
            return result, ""
        except (asyncio.CancelledError, concurrent.futures.CancelledError):
            raise ClusterLostError(
                "the cluster's scheduler went away; what was finished is kept",
                "the same command goes on from there once the cluster is back",
            ) from None
        except Exception as caught:
            error = caught
        finally:
            future.release()
        if isinstance(error, FacepipeError):
            raise error
        if isinstance(error, KilledWorker):
            return None, "the worker process died"
        if isinstance(error, _UnseenError):
            if not source.path.exists():  # gone for us as well: the file's fault
                gone = ClipRecord(source.clip, Status.UNREADABLE, message="file has vanished")
                return [(gone, None)], ""
            return [(failed(source, str(error)), None)], ""
        if isinstance(error, ImportError) or "deserialization of the task graph" in str(error):
            raise ClusterError(
                f"the cluster cannot run facepipe: {_line(error)}",
                "install the same facepipe for its scheduler and its workers as here",
            )
        if isinstance(error, TimeoutError):
            return [(failed(source, str(error)), None)], ""
        if isinstance(error, MemoryError):
            return None, "out of memory"
        return None, _line(error)


class _UnseenError(Exception):
    """A worker does not find a clip's file."""


@contextlib.contextmanager
def _client(scheduler: str, workers: int) -> Iterator[Any]:
    """Connect to a cluster, or start one; leave nothing behind."""
    import dask
    from distributed import Client, LocalCluster

    with contextlib.ExitStack() as stack:
        # Lost connections and dead workers are told by the runs' own messages.
        stack.enter_context(_quiet("distributed"))
        if scheduler == LOCAL:
            # A worker's death is no accident of a network here: tried once more, as without Dask.
            stack.enter_context(dask.config.set({"distributed.scheduler.allowed-failures": 0}))
            cluster = stack.enter_context(
                LocalCluster(
                    n_workers=workers,
                    threads_per_worker=1,
                    processes=True,
                    dashboard_address="127.0.0.1:0",
                    silence_logs=logging.CRITICAL,
                    # Ctrl-C reaches the whole group; this process stops the workers.
                    preload=["import signal; signal.signal(signal.SIGINT, signal.SIG_IGN)"],
                )
            )
            stack.callback(cluster.sync, _end_workers, cluster)
            client = stack.enter_context(Client(cluster))
        else:
            try:
                asyncio.run(asyncio.wait_for(_knock(scheduler), CONNECT_S))
                client = stack.enter_context(Client(scheduler, timeout=CONNECT_S))
            except TimeoutError:
                raise _no_scheduler(scheduler, f"nothing within {CONNECT_S:g} s") from None
            except (OSError, ValueError, TypeError, RuntimeError) as error:
                raise _no_scheduler(scheduler, _line(error)) from None
        yield client


async def _end_workers(cluster: Any) -> None:
    """End the workers of a cluster of our own, whatever they are at.

    Dask's closing would wait four seconds for it, and Ctrl-C with it.
    """
    closing = (nanny.close(timeout=_END_S) for nanny in cluster.workers.values())
    await asyncio.gather(*closing, return_exceptions=True)


def _no_scheduler(address: str, why: str) -> ClusterError:
    return ClusterError(
        f"--scheduler {address}: no Dask scheduler answers there ({why})",
        "start one with 'dask scheduler' and workers with 'dask worker ADDRESS --nthreads 1', or "
        "use --scheduler local",
    )


async def _knock(address: str) -> None:
    """Ask whoever listens at an address who it is.

    A Client would wait much longer than its time limit for a listener that never says a word.
    """
    from distributed.core import rpc

    async with rpc(address, timeout=CONNECT_S) as listener:
        told = await listener.identity()
    if told.get("type") != "Scheduler":
        raise ValueError(f"it is the address of a {told.get('type', 'stranger')}")


def _without_bokeh(scheduler: str) -> str:
    if scheduler == LOCAL and importlib.util.find_spec("bokeh") is None:
        return " (shows nothing without bokeh: pip install bokeh)"
    return ""


@contextlib.contextmanager
def _quiet(name: str) -> Iterator[None]:
    logger = logging.getLogger(name)
    before = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        logger.setLevel(before)


def _line(error: BaseException) -> str:
    lines = str(error).strip().splitlines() or [""]
    return f"{type(error).__name__}: {' '.join(lines[0].split())}".removesuffix(": ")


# -- in a worker ---------------------------------------------------------------------------------

# One thread that opens the nets and runs them all, since ONNX Runtime's treatment of denormals
# belongs to the thread that opened the first session; it also leaves Dask's own thread free to cut
# off a clip that hangs.
_thread = concurrent.futures.ThreadPoolExecutor(1, thread_name_prefix="facepipe")
_checked: set[_Job] = set()


def _work(source: Source, job: _Job) -> list[Result]:
    """Extract one clip, in a worker process of the cluster."""
    _check(job)
    if not source.path.exists():
        raise _UnseenError(
            f"the worker on {socket.gethostname()} does not see {source.path}: clips must lie on "
            "a file system that all workers share"
        )
    _thread.submit(engine_here, job.setup).result()  # no part of the clip's time
    running = threading.Event()

    def extract() -> list[Result]:
        running.set()
        return extract_here([source], job.setup)

    future = _thread.submit(extract)
    limit = job.time_limit_s or usual_time_limit(source.path)
    running.wait()
    try:
        return future.result(limit)
    except TimeoutError:
        if future.done():  # raised by the clip itself
            raise
        # The thread cannot be stopped, the process can; Dask starts another one.
        ending = threading.Timer(_LAST_WORDS_S, os._exit, (1,))
        ending.daemon = True
        ending.start()
        raise TimeoutError("gave no result within its time limit, cut off") from None


def _check(job: _Job) -> None:
    """Refuse, once a process, to work for a client of another kind.

    Raises
    ------
    ClusterError
    """
    if job in _checked:
        return
    from stages.extract import packs

    host = socket.gethostname()
    if not Path(job.setup.pack).is_dir():
        raise ClusterError(
            f"the worker on {host} does not see the pack's folder {job.setup.pack}",
            "put the pack on a file system that all workers share: set FACEPIPE_HOME to a folder "
            "there, or give --pack FOLDER",
        )
    why = job.kind.differs(Kind.here(packs.resolve(job.setup.pack).fingerprint))
    if why:
        raise ClusterError(
            f"the worker on {host} would give other features: {why}",
            "install the same facepipe on client and workers, and let them use the same pack",
        )
    _checked.add(job)
