"""How much memory a process and its children take at most."""

from __future__ import annotations

import contextlib
import threading

import psutil


class PeakMemory:
    """Highest sum of the resident memory, in bytes, of a process and all its children.

    Sampled ten times a second; pages that processes share count for each of them.
    """

    def __init__(self, root: int) -> None:
        self._root = psutil.Process(root)
        self.bytes = 0

    def __enter__(self) -> PeakMemory:
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._stop.wait(0.1):
            total = 0
            with contextlib.suppress(psutil.NoSuchProcess):
                for process in [self._root, *self._root.children(recursive=True)]:
                    with contextlib.suppress(psutil.NoSuchProcess):
                        total += process.memory_info().rss
            self.bytes = max(self.bytes, total)
