"""Stopping a writer at a chosen write, rename, deletion, sync or commit, as a kill would."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

import store
from store import Writer, durable
from store.index import Index

POINTS = [
    (durable, "write_file"),
    (durable, "sync_file"),
    (durable, "replace"),
    (durable, "rename"),
    (durable, "overwrite"),
    (durable, "remove"),
    (durable, "remove_tree"),
    (durable, "sync_folder"),
    (Index, "_commit"),
]
# What can be left half done; the others are done or not.
TORN = ("write_file", "overwrite", "remove_tree")
SYNCS = ("sync_file", "sync_folder")


class Killed(BaseException):
    """The process ended here."""


class Faults:
    """Counts the points that are passed; raises at the one that is armed.

    ``watch`` is called before and after each point, by the thread that passes it.
    """

    def __init__(self, patch: pytest.MonkeyPatch, error: Callable[[], BaseException] = Killed):
        self.names: list[str] = []
        self.last = ""  # the point that was stopped at
        self.at: int | tuple[str, int] | None = None
        self.how = "before"
        self.error = error
        self.watch: Callable[[], None] = lambda: None
        self.inside = threading.local()
        self.counting = threading.Lock()
        for owner, name in POINTS:
            patch.setattr(owner, name, self._wrapped(name, getattr(owner, name)))

    def _wrapped(self, name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def wrapper(*args: Any) -> Any:
            with self.counting:
                here = self.at in (len(self.names), (name, self.names.count(name)))
                self.names.append(name)
            self.watch()
            if here:
                self.last = name
            if here and self.how != "after":
                if self.how == "torn":
                    _TEARING.get(name, lambda *_: None)(*args)
                raise self.error()
            outer = getattr(self.inside, "name", None)
            self.inside.name = name
            try:
                result = real(*args)
            finally:
                self.inside.name = outer
            if here:
                raise self.error()
            self.watch()
            return result

        return wrapper

    def arm(
        self, at: int | tuple[str, int] | None, after: bool = False, torn: bool = False
    ) -> None:
        """Stop at the at-th point from now: before, halfway through or after it.

        ``at`` counts all points, or (name, those of one name): where threads work side by side,
        the points of different names come in any order.
        """
        self.names.clear()
        self.at, self.how = at, "torn" if torn else "after" if after else "before"


def nth(names: list[str], index: int) -> tuple[str, int]:
    """Return one of the points that were passed as `Faults.arm` takes it."""
    return names[index], names[:index].count(names[index])


def _tear_file(path: Path, data: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}.0{durable.PARTIAL}")
    whole = b"".join(map(bytes, data)) if isinstance(data, Iterator) else bytes(data)
    partial.write_bytes(whole[: len(whole) // 2])


def _tear_bytes(path: Path) -> None:
    if path.is_file() and path.stat().st_nlink == 1:
        with path.open("r+b") as file:
            file.write(bytes(path.stat().st_size // 2))


def _tear_tree(folder: Path) -> None:
    for path in sorted(p for p in folder.rglob("*") if p.is_file())[::2]:
        path.unlink()


_TEARING: dict[str, Callable[..., None]] = {
    "write_file": _tear_file,
    "overwrite": _tear_bytes,
    "remove_tree": _tear_tree,
}

_ACTS = {
    "os.rename": "rename", "os.remove": "remove", "os.rmdir": "remove", "os.truncate": "write",
    "os.link": "rename", "os.symlink": "rename", "os.mkdir": "mkdir", "open": "write",
}  # fmt: skip
_watchers: list[Callable[[str, str], None]] = []


def _audit(event: str, args: tuple[Any, ...]) -> None:
    if not _watchers or event not in _ACTS or not isinstance(args[0], str | os.PathLike):
        return
    if event == "open" and not (args[2] or 0) & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
        return
    for watcher in _watchers:
        watcher(_ACTS[event], os.fspath(args[0]))


@contextmanager
def strays(faults: Faults, root: Path) -> Iterator[list[tuple[str, str]]]:
    """List every change of a file below ``root`` that Python makes outside all points."""
    if not getattr(_audit, "added", False):
        sys.addaudithook(_audit)
        _audit.added = True  # type: ignore[attr-defined]
    found: list[tuple[str, str]] = []

    def watcher(act: str, path: str) -> None:
        if path.startswith(str(root)) and not getattr(faults.inside, "name", None):
            found.append((act, os.path.relpath(path, root)))

    _watchers.append(watcher)
    try:
        yield found
    finally:
        _watchers.remove(watcher)


_readers: dict[Path, store.Store] = {}


def read_all(path: Path, arrays: tuple[str, ...]) -> dict[str, dict[str, Any]]:
    """Return arrays of every clip, by one reader that stays open."""
    reader = _readers.setdefault(path, store.open(path))
    return {record.clip: reader.clip(record.clip, arrays=arrays) for record in reader.records()}


def kill(writer: Writer) -> None:
    """Let go of everything that the system would take back from a dead process."""
    writer._index.connection.close()
    writer._lock._lock.release()
    writer._closed = True
