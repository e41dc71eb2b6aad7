"""Stopping a writer at a chosen write, rename, deletion or commit, as a kill would."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from store import Writer, durable
from store.index import Index

POINTS = [
    (durable, "write_file"),
    (durable, "rename"),
    (durable, "remove_tree"),
    (durable, "sync_folder"),
    (Index, "_commit"),
]


class Killed(BaseException):
    """The process ended here."""


class Faults:
    """Counts the points that are passed; raises at the one that is armed."""

    def __init__(self, patch: pytest.MonkeyPatch, error: Callable[[], BaseException] = Killed):
        self.names: list[str] = []
        self.at: int | None = None
        self.after = False
        self.error = error
        for owner, name in POINTS:
            patch.setattr(owner, name, self._wrapped(name, getattr(owner, name)))

    def _wrapped(self, name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def wrapper(*args: Any) -> Any:
            point = len(self.names)
            self.names.append(name)
            if point == self.at and not self.after:
                raise self.error()
            result = real(*args)
            if point == self.at and self.after:
                raise self.error()
            return result

        return wrapper

    def arm(self, at: int | None, after: bool = False) -> None:
        """Stop at the at-th point from now, before or after it is done."""
        self.names.clear()
        self.at, self.after = at, after


def kill(writer: Writer) -> None:
    """Let go of everything that the system would take back from a dead process."""
    writer._index.connection.close()
    writer._lock._lock.release()
    writer._closed = True
