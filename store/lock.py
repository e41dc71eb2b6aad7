"""One writer per store: the lock, and who holds it.

Zarr loses chunks silently when two processes write one shard, so a second writer is refused. The
lock is the operating system's: it ends with the process that holds it, however that dies.
"""

from __future__ import annotations

import json
import os
import socket
import time
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime

from filelock import FileLock, Timeout

from store import durable
from store.errors import StoreLockedError
from store.layout import Paths
from store.remote import RemotePaths

_ASKED_S = 0.04  # longer than it takes to ask whether the lock is held


@dataclass(frozen=True)
class Holder:
    """The process that writes a store. ``started`` is ISO 8601 in UTC."""

    host: str
    pid: int
    started: str

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host} since {self.started}"

    def alive(self) -> bool:
        """Whether the process may still run; where that cannot be known, True."""
        if self.host != socket.gethostname() or os.name == "nt":
            return True
        try:
            os.kill(self.pid, 0)
        except ProcessLookupError:
            return False
        except PermissionError:
            pass
        return True


def writing(paths: Paths | RemotePaths) -> str:
    """Say who writes a store, "process 7 on HOST since TIME"; empty if nobody does.

    The lock itself is asked where that can be done. In object storage, and on Windows, what the
    last writer said is believed unless its process is gone.
    """
    said = holder(paths)
    locked = _is_locked(paths) if isinstance(paths, Paths) else None
    if locked is None:
        locked = said is not None and said.alive()
    if not locked:
        return ""
    return "another process" if said is None else str(said)


def _is_locked(paths: Paths) -> bool | None:
    """Whether somebody holds the lock; None where that cannot be asked.

    Taken for a moment, and shared: a writer that comes just then tries again.
    """
    try:
        import fcntl
    except ImportError:
        return None
    try:
        fd = os.open(paths.lock, os.O_RDONLY)
    except FileNotFoundError:
        return False
    except OSError:
        return None
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:  # a file system without such locks
        return None
    finally:
        os.close(fd)
    return False


def holder(paths: Paths | RemotePaths) -> Holder | None:
    """Return who said last that it writes the store and did not say that it is done."""
    try:
        said = json.loads(paths.holder.read_text("utf-8"))
        return Holder(str(said["host"]), int(said["pid"]), str(said["started"]))
    except (OSError, ValueError, KeyError, TypeError):
        return None


class WriterLock:
    """Held from ``acquire`` to ``release``, or to the end of the process."""

    def __init__(self, paths: Paths) -> None:
        self._paths = paths
        self._lock = FileLock(paths.lock, is_singleton=False)

    def acquire(self) -> None:
        """Take the lock and write down who took it.

        Raises
        ------
        StoreLockedError
            Names the holder's host, pid and start time.
        """
        try:
            self._lock.acquire(timeout=_ASKED_S, poll_interval=_ASKED_S / 4)
        except Timeout:
            raise self._refusal() from None
        me = Holder(socket.gethostname(), os.getpid(), datetime.now(UTC).isoformat(" ", "seconds"))
        try:
            durable.write_file(self._paths.holder, json.dumps(asdict(me)).encode())
        except BaseException:
            self._lock.release()
            raise

    def release(self) -> None:
        """Give the lock back. Does nothing when it is not held."""
        if self._lock.is_locked:
            with suppress(OSError):
                self._paths.holder.unlink(missing_ok=True)
            self._lock.release()

    def _refusal(self) -> StoreLockedError:
        found = holder(self._paths)
        for _ in range(10):  # the holder may be between taking the lock and signing
            if found is not None and found.alive():
                break
            time.sleep(0.02)
            found = holder(self._paths)
        who = "another process" if found is None else str(found)
        return StoreLockedError(
            f"{self._paths.root}: is being written by {who}",
            "Wait for it to end, or write to another store (--store OTHER.store).",
        )
